//! The forward proxy.

pub mod resolver;
