//! What the operating system gives us, one small file per resource.
//!
//! This is the only module that may hold `unsafe`: one call per block, each with its `// SAFETY:`.
//! Where `std`, `nix` or `socket2` already have a safe call, the wrapper uses that and adds only what
//! their types leave open: close-on-exec, non-blocking, IPv6-only.
//!
//! | file | resource |
//! |---|---|
//! | `pipe` | a pipe with a chosen capacity, the buffer of a spliced relay |
//! | `splice` | bytes from descriptor to descriptor inside the kernel |
//! | `socket` | listeners, connects, socket options, peers, the host's own addresses |
//! | `limits` | how many descriptors the process may hold |
//! | `process` | what others may read of this process |
//! | `schedule` | niceness and scheduling policy of a thread |
//! | `usage` | CPU time and memory |
//!
//! It refuses to know about policy, personas or HTTP; it never logs and never retries.
#![allow(unsafe_code)]

pub mod inherit;
pub mod limits;
pub mod pipe;
pub mod process;
pub mod schedule;
pub mod socket;
mod splice;
pub mod usage;

pub use splice::splice;
