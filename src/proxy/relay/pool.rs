//! What a thread lends to the tunnels that move bytes at this moment: pipes, and one small buffer.

use std::cell::RefCell;
use std::io;

use crate::sys::pipe::Pipe;

/// Size asked for each pipe: large enough for a full socket buffer, small enough that an ordinary
/// user's quota of pipe pages (`/proc/sys/fs/pipe-user-pages-soft`, 64 MiB) holds 256 of them.
const PIPE_BYTES: usize = 256 << 10;
/// Empty pipes kept per thread: only tunnels in the middle of a bulk transfer hold one.
const PIPES_KEPT: usize = 64;
/// Bytes that are read and written through memory at once. A read that fills this is the beginning of
/// bulk; below, two system calls and a copy cost less than a pipe does.
pub(super) const SMALL: usize = 16 << 10;

thread_local! {
    static PIPES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SMALL].into_boxed_slice());
}

/// An empty pipe.
pub(super) fn take_pipe() -> io::Result<Pipe> {
    PIPES.with_borrow_mut(Vec::pop).map_or_else(|| Pipe::new(PIPE_BYTES), Ok)
}

/// Takes an empty pipe back.
pub(super) fn give_back(pipe: Pipe) {
    PIPES.with_borrow_mut(|pipes| {
        if pipes.len() < PIPES_KEPT {
            pipes.push(pipe);
        }
    });
}

/// Lends the buffer to `work`, which must not keep what is in it.
pub(super) fn with_buffer<R>(work: impl FnOnce(&mut [u8]) -> R) -> R {
    BUFFER.with_borrow_mut(|buffer| work(buffer))
}
