//! Bytes from one socket to another without passing through user space.

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

/// The most that an unprivileged process may ask for (`fs.pipe-max-size`); at the default of 64 KiB a gigabyte costs
/// up to twice as much.
const PIPE_BYTES: i32 = 1 << 20;
/// Asked for per call; the pipe bounds what moves.
const CHUNK_BYTES: usize = PIPE_BYTES as usize;

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

/// Empty pipes, for whoever moves bytes next.
#[derive(Default)]
pub(super) struct Pipes(Vec<Pipe>);

impl Pipes {
    fn take(&mut self) -> io::Result<Pipe> {
        match self.0.pop() {
            Some(pipe) => Ok(pipe),
            None => {
                let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
                fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES))?;
                Ok(Pipe { read, write })
            }
        }
    }
}

/// One direction of a tunnel.
#[derive(Default)]
pub(super) struct Flow {
    /// Held only while its bytes wait for room at the far side.
    held: Option<(Pipe, usize)>,
    ended: bool,
}

impl Flow {
    pub(super) fn waits_for_room(&self) -> bool {
        self.held.is_some()
    }

    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// Moves what can be moved. True when the source just ended and all its bytes are out.
    pub(super) fn run(&mut self, from: &TcpStream, to: &TcpStream, pipes: &mut Pipes) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
        let (pipe, mut pending) = match self.held.take() {
            Some(held) => held,
            None => (pipes.take()?, 0),
        };
        loop {
            if pending == 0 {
                pending = match splice(from, None, &pipe.write, None, CHUNK_BYTES, flags) {
                    Ok(0) => {
                        self.ended = true;
                        pipes.0.push(pipe);
                        return Ok(true);
                    }
                    Ok(moved) => moved,
                    Err(Errno::EAGAIN) => {
                        pipes.0.push(pipe);
                        return Ok(false);
                    }
                    Err(errno) => return Err(errno.into()),
                };
            }
            match splice(&pipe.read, None, to, None, pending, flags) {
                Ok(moved) => pending -= moved,
                Err(Errno::EAGAIN) => {
                    self.held = Some((pipe, pending));
                    return Ok(false);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
