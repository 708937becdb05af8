//! Personas beyond their traffic, with the real daemon: armed by a review, changed by proposals, heard by their feedback.
#![allow(clippy::unwrap_used)]

mod arming;
mod attacks;
mod crash;
mod proposals;
mod stage;
#[path = "../support/mod.rs"]
mod support;
