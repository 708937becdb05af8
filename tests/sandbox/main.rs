//! The sandbox, driven through its public face: real namespaces, real processes, and for each control the proof
//! that it holds and that the same attempt succeeds once the control is taken out of the plan.
//!
//! Every test runs as the user that runs the suite; as root it runs a second time as an ordinary user, by executing
//! this binary again. Where the kernel refuses namespaces the test prints why it skips.

mod cgroup;
mod escape;
mod ground;
mod inside;
mod intruder;
mod latency;
mod launch;
mod life;
mod log;
mod notify;
mod ordinary;
mod owner;
mod support;
