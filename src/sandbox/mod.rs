//! The walls and limits around a runtime.

pub mod cgroup;
pub mod preset;
pub mod pressure;
