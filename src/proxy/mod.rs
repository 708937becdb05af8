//! proxy.

pub mod first_flight;
