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
//! | `process` | what others may read of this process; what the kernel says of any |
//! | `schedule` | niceness and scheduling policy of a thread |
//! | `usage` | CPU time and memory |
//! | `message` | whole messages between processes of one host, with descriptors or with their sender |
//! | `watch` | descriptors that an asynchronous owner waits for |
//! | `clone` | new processes in new namespaces |
//! | `mount` | mounts by descriptor |
//! | `capability` | capabilities given up and read back |
//! | `files` | names of files that change places |
//! | `filter` | a seccomp filter |
//! | `descriptor` | what a process holds when it becomes another program |
//! | `probe` | calls that a sandbox must refuse, for its self-test |
//! | `signals` | what signals do to this process |
//! | `route` | the loopback interface of a fresh network namespace |
//!
//! It refuses to know about policy, personas or HTTP; it never logs and never retries.
#![allow(unsafe_code)]

pub mod capability;
pub mod clone;
pub mod descriptor;
pub mod files;
pub mod filter;
pub mod inherit;
pub mod limits;
pub mod message;
pub mod mount;
pub mod pipe;
pub mod probe;
pub mod process;
pub mod route;
pub mod schedule;
pub mod signals;
pub mod socket;
mod splice;
pub mod usage;
pub mod watch;

pub use splice::splice;
