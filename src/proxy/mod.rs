//! The forward proxy.

pub mod resolver;
pub mod tls;
