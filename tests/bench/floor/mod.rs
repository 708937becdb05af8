//! The relay floor: the least that a forward proxy on Linux can cost.
//!
//! One thread, one edge-triggered epoll, `splice(2)` through pooled pipes. No identity, no policy, no names, no timers,
//! no log. What a real gateway costs above this is the price of being a gateway; what it costs below this is a fault
//! of the measurement.
//!
//! ```text
//! accept → Head ─ CONNECT 127.0.0.1:p ─→ Dialing ─→ Tunnel (splice both ways until both ends have ended)
//!            ↑  └ GET http://127.0.0.1:p/ → Dialing ─→ Answer ─┐
//!            └──────────── upstream kept ──────────────────────┘
//!            └ any other host: 403, connection kept
//! ```
//!
//! It is not a product: a head must arrive in one read, a plain answer must fit the client's socket buffer, and
//! anything else ends the connection.

mod head;
mod splice;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use socket2::{Domain, Protocol, Socket, Type};

use head::Ask;
use splice::{Flow, Pipes};

/// Events taken per wait: more than the load's concurrency, so one wait takes all.
const EVENTS: usize = 256;
/// The one read buffer of the process: a head or a small answer with room to spare.
const BUFFER_BYTES: usize = 64 << 10;
const LISTENER: u64 = u64::MAX;

/// Serves on a free loopback port, which it prints, until its parent dies.
pub(crate) fn serve() -> anyhow::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    println!("{}", listener.local_addr()?);

    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut floor =
        Floor { epoll, conns: Vec::new(), free: Vec::new(), pipes: Pipes::default(), buffer: vec![0; BUFFER_BYTES] };
    let mut events = [EpollEvent::empty(); EVENTS];
    loop {
        let ready = floor.epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..ready] {
            match event.data() {
                LISTENER => floor.accept(&listener)?,
                token => floor.step(token, event.events()),
            }
        }
    }
}

struct Floor {
    epoll: Epoll,
    conns: Vec<Option<Conn>>,
    free: Vec<u32>,
    pipes: Pipes,
    buffer: Vec<u8>,
}

struct Conn {
    client: TcpStream,
    upstream: Option<Upstream>,
    stage: Stage,
    up: Flow,
    down: Flow,
    /// Whether epoll reports room towards the client.
    watches_room: bool,
}

struct Upstream {
    stream: TcpStream,
    port: u16,
}

enum Stage {
    /// Waits for a request head.
    Head,
    /// Waits for the upstream; then sends it `first`, or for a tunnel answers the client.
    /// `early`: the client said something meanwhile, which epoll will not report again.
    Dialing {
        first: Option<Box<[u8]>>,
        early: bool,
    },
    Tunnel,
    /// Copies an answer; `left` body bytes, unknown until its head came.
    Answer {
        left: Option<usize>,
    },
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Client,
    Upstream,
}

/// What becomes of the connection.
enum Next {
    Keep,
    Close,
}

fn token(index: usize, side: Side) -> u64 {
    (index as u64) << 1 | u64::from(side == Side::Upstream)
}

fn interest(index: usize, side: Side) -> EpollEvent {
    let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
    let flags = match side {
        // Room to write is asked for once it was missed, which saves an event per connection.
        Side::Client => flags,
        Side::Upstream => flags | EpollFlags::EPOLLOUT,
    };
    EpollEvent::new(flags, token(index, side))
}

impl Floor {
    /// Takes one connection; the level-triggered listener reports the next.
    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        let client = match listener.accept() {
            Ok((client, _)) => client,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        client.set_nonblocking(true)?;
        let index = self.free.pop().map_or(self.conns.len(), |index| index as usize);
        self.epoll.add(&client, interest(index, Side::Client))?;
        let conn = Conn {
            client,
            upstream: None,
            stage: Stage::Head,
            up: Flow::default(),
            down: Flow::default(),
            watches_room: false,
        };
        match self.conns.get_mut(index) {
            Some(slot) => *slot = Some(conn),
            None => self.conns.push(Some(conn)),
        }
        Ok(())
    }

    /// One event of one connection. An error on either socket ends the connection: there is nobody to tell.
    fn step(&mut self, token: u64, flags: EpollFlags) {
        let index = (token >> 1) as usize;
        let side = if token & 1 == 0 { Side::Client } else { Side::Upstream };
        let Some(mut conn) = self.conns[index].take() else { return };
        match self.advance(&mut conn, index, side, flags) {
            Ok(Next::Keep) => self.conns[index] = Some(conn),
            Ok(Next::Close) | Err(_) => self.free.push(index as u32),
        }
    }

    fn advance(&mut self, conn: &mut Conn, index: usize, side: Side, flags: EpollFlags) -> io::Result<Next> {
        match (&mut conn.stage, side) {
            (Stage::Tunnel, _) => self.relay(conn, index, side, flags),
            (Stage::Head, Side::Client) if flags.contains(EpollFlags::EPOLLIN) => self.head(conn, index),
            // The kept upstream went away between requests.
            (Stage::Head, Side::Upstream) if flags.contains(EpollFlags::EPOLLRDHUP) => Ok(Next::Close),
            (Stage::Dialing { early, .. }, Side::Client) => {
                *early = true;
                Ok(Next::Keep)
            }
            (Stage::Dialing { .. }, Side::Upstream) => self.dialled(conn, index, flags),
            (Stage::Answer { .. }, Side::Upstream) if flags.contains(EpollFlags::EPOLLIN) => self.answer(conn),
            _ => Ok(Next::Keep),
        }
    }

    fn head(&mut self, conn: &mut Conn, index: usize) -> io::Result<Next> {
        let length = match conn.client.read(&mut self.buffer) {
            Ok(0) => return Ok(Next::Close),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Next::Keep),
            Err(error) => return Err(error),
        };
        match head::parse(&self.buffer[..length]) {
            Some(Ask::Connect { port }) => self.dial(conn, index, port, None),
            Some(Ask::Forward { port, request }) => match &mut conn.upstream {
                Some(upstream) if upstream.port == port => {
                    upstream.stream.write_all(&request)?;
                    conn.stage = Stage::Answer { left: None };
                    Ok(Next::Keep)
                }
                _ => self.dial(conn, index, port, Some(request.into_boxed_slice())),
            },
            Some(Ask::Elsewhere) => {
                conn.client.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")?;
                Ok(Next::Keep)
            }
            None => Ok(Next::Close),
        }
    }

    fn dial(&mut self, conn: &mut Conn, index: usize, port: u16, first: Option<Box<[u8]>>) -> io::Result<Next> {
        let socket = Socket::new_raw(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
        match socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()) {
            Err(error) if error.raw_os_error() != Some(nix::errno::Errno::EINPROGRESS as i32) => return Err(error),
            _ => {}
        }
        self.epoll.add(&socket, interest(index, Side::Upstream))?;
        conn.upstream = Some(Upstream { stream: socket.into(), port });
        conn.stage = Stage::Dialing { first, early: false };
        Ok(Next::Keep)
    }

    fn dialled(&mut self, conn: &mut Conn, index: usize, flags: EpollFlags) -> io::Result<Next> {
        if flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) {
            return Ok(Next::Close);
        }
        let (Stage::Dialing { first, early }, Some(upstream)) = (&mut conn.stage, &mut conn.upstream) else {
            return Ok(Next::Close);
        };
        if let Some(request) = first.take() {
            upstream.stream.write_all(&request)?;
            conn.stage = Stage::Answer { left: None };
            return Ok(Next::Keep);
        }
        let early = *early;
        conn.client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        conn.stage = Stage::Tunnel;
        let mut next = Next::Keep;
        if early {
            next = self.relay(conn, index, Side::Client, EpollFlags::EPOLLIN)?;
        }
        if flags.contains(EpollFlags::EPOLLIN) {
            next = self.relay(conn, index, Side::Upstream, flags)?;
        }
        Ok(next)
    }

    fn relay(&mut self, conn: &mut Conn, index: usize, side: Side, flags: EpollFlags) -> io::Result<Next> {
        let Some(upstream) = &conn.upstream else { return Ok(Next::Close) };
        let (client, upstream) = (&conn.client, &upstream.stream);
        let readable = flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP);
        let up = (side == Side::Client && readable) || (side == Side::Upstream && conn.up.waits_for_room());
        let down = (side == Side::Upstream && readable) || (side == Side::Client && conn.down.waits_for_room());
        if up && conn.up.run(client, upstream, &mut self.pipes)? {
            upstream.shutdown(Shutdown::Write)?;
        }
        if down && conn.down.run(upstream, client, &mut self.pipes)? {
            client.shutdown(Shutdown::Write)?;
        }
        if conn.down.waits_for_room() && !conn.watches_room {
            let event = interest(index, Side::Client);
            let mut event = EpollEvent::new(event.events() | EpollFlags::EPOLLOUT, event.data());
            self.epoll.modify(client, &mut event)?;
            conn.watches_room = true;
        }
        Ok(if conn.up.ended() && conn.down.ended() { Next::Close } else { Next::Keep })
    }

    fn answer(&mut self, conn: &mut Conn) -> io::Result<Next> {
        let (Stage::Answer { left }, Some(upstream)) = (&mut conn.stage, &mut conn.upstream) else {
            return Ok(Next::Close);
        };
        let length = match upstream.stream.read(&mut self.buffer) {
            Ok(0) => return Ok(Next::Close),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Next::Keep),
            Err(error) => return Err(error),
        };
        let bytes = &self.buffer[..length];
        let still = match *left {
            Some(left) => left.checked_sub(length),
            None => head::answer_bytes(bytes).and_then(|whole| whole.checked_sub(length)),
        };
        conn.client.write_all(bytes)?;
        match still {
            Some(0) => conn.stage = Stage::Head,
            Some(more) => *left = Some(more),
            None => return Ok(Next::Close),
        }
        Ok(Next::Keep)
    }
}
