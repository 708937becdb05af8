//! `arw-cli` as an operator runs it: the real binary, against the real daemon and without it.

mod daemon;
mod offline;
mod online;
