//! Control groups on the kernel that runs the tests: each limit is shown to hold, and what it holds back
//! is shown to happen without it.
//!
//! Every test makes its own leaf in a folder of its own, and takes both away whatever happens. A part of
//! the host that is not there is a skip with its reason in the output.

mod fixture;
mod lives;
mod nobody;
mod resources;
