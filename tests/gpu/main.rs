//! The GPUs of a host through the real loader: a *fake* management library (`fake_nvml.c`) is compiled
//! and loaded as the real one would be, and its script says what it answers. The pure parts are held by
//! properties beside it.

mod absent;
mod access;
mod assign;
mod budget;
mod driver;
mod events;
mod fake;
mod metrics;
mod real;
mod release;
