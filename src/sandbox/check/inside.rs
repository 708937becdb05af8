//! The attempts themselves, made inside. Each is harmless where it succeeds, because somewhere it will: on a host
//! whose sandbox does not hold, and in the tests that take its walls away.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::exit;
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::kill;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::unistd::Pid;
use socket2::{Domain, Protocol, Socket, Type};

use super::attempt::{Attempt, Attempted, Outcome};
use super::trap::{Bait, SECRET};
use crate::sys::capability::Capabilities;
use crate::sys::descriptor::inheritable;
use crate::sys::mount::{Restrictions, new_filesystem};
use crate::sys::probe;
use crate::sys::route::Routing;

/// How long a connection may take: a way that is open answers at once.
const BRIEF: Duration = Duration::from_millis(500);

/// Tries everything, says what came of it, and ends.
pub(in crate::sandbox) fn run_inside(mut arguments: impl Iterator<Item = OsString>) -> ! {
    let bait = arguments.next().and_then(|text| serde_json::from_slice::<Bait>(text.as_encoded_bytes()).ok());
    let Some(bait) = bait else {
        eprintln!("the self-test is not for the command line");
        exit(2);
    };
    for attempt in Attempt::ALL {
        let line = serde_json::to_string(&Attempted { attempt: *attempt, outcome: make(*attempt, &bait) });
        let line = line.expect("an attempt is plain data");
        if writeln!(io::stdout(), "{line}").is_err() {
            exit(2);
        }
    }
    exit(0)
}

fn make(attempt: Attempt, bait: &Bait) -> Outcome {
    match attempt {
        Attempt::DirectTcp => any_of(&bait.tcp, |to| TcpStream::connect_timeout(&to, BRIEF).map(drop)),
        Attempt::DirectUdp => any_of(&bait.udp, datagram),
        Attempt::FastOpen => any_of(&bait.tcp, fast_open),
        Attempt::MultipathTcp => any_of(&bait.tcp, multipath),
        Attempt::RawSocket => opened(Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))),
        Attempt::PacketSocket => opened(Socket::new(Domain::PACKET, Type::RAW, None)),
        Attempt::Vsock => opened(Socket::new(Domain::VSOCK, Type::STREAM, None)),
        Attempt::NetlinkWrite => judged(Routing::open().and_then(|mut routing| routing.bring_loopback_up())),
        Attempt::IoUring => judged(probe::io_uring()),
        Attempt::HostFileRead => judged(fs::read(bait.folder.join(SECRET))),
        Attempt::HostFileWrite => judged(File::create(bait.folder.join("written"))),
        Attempt::HostProcess => host_process(bait.process),
        Attempt::AbstractSocket => abstract_socket(&bait.name),
        Attempt::LeakedDescriptor => leaked_descriptor(bait.descriptor),
        Attempt::Capability => capability(),
        Attempt::InitEnvironment => init_environment(),
        Attempt::UserNamespace => judged(unshare(CloneFlags::CLONE_NEWUSER)),
        // Made and never put anywhere, so that even a success changes nothing.
        Attempt::Mount => judged(new_filesystem(c"tmpfs", &[], Restrictions::default())),
        Attempt::Keyring => judged(probe::session_keyring()),
        Attempt::UserFaults => judged(probe::user_faults()),
        Attempt::TerminalInput => terminal_input(),
        Attempt::Trace => judged(probe::trace_me()),
    }
}

/// Success is an escape; a missing facility is no lock.
fn judged<T, E: Into<io::Error>>(tried: Result<T, E>) -> Outcome {
    match tried.map_err(Into::into) {
        Ok(_) => Outcome::Escaped("it succeeded".to_owned()),
        Err(fault) if fault.raw_os_error() == Some(libc::ENOSYS) => {
            Outcome::NotTried("the kernel has it not".to_owned())
        }
        Err(fault) => Outcome::Held(fault.to_string()),
    }
}

fn opened(tried: io::Result<Socket>) -> Outcome {
    judged(tried)
}

/// Held if every address is refused.
fn any_of(addresses: &[SocketAddr], try_one: impl Fn(SocketAddr) -> io::Result<()>) -> Outcome {
    let mut last = Outcome::NotTried("the host has no address".to_owned());
    for address in addresses {
        match judged(try_one(*address)) {
            Outcome::Escaped(_) => return Outcome::Escaped(format!("{address} was reached")),
            other => last = other,
        }
    }
    last
}

/// Sending alone is not reaching: an ICMP error comes back from a port that nobody holds.
fn datagram(to: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(to)?;
    socket.send(b"bait")?;
    socket.set_read_timeout(Some(BRIEF / 5))?;
    match socket.recv(&mut [0; 1]) {
        Err(fault) if fault.kind() == io::ErrorKind::ConnectionRefused => Err(fault),
        _ => Ok(()),
    }
}

fn fast_open(to: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_write_timeout(Some(BRIEF))?;
    socket.send_to_with_flags(b"bait", &to.into(), libc::MSG_FASTOPEN)?;
    Ok(())
}

fn multipath(to: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP))?;
    socket.connect_timeout(&to.into(), BRIEF)
}

fn host_process(process: i32) -> Outcome {
    let own = std::process::id().cast_signed();
    match kill(Pid::from_raw(process), None) {
        Err(Errno::ESRCH) => {}
        // The same number inside: this very process.
        _ if process == own || process < 4 => {}
        Ok(()) => return Outcome::Escaped(format!("process {process} can be signalled")),
        Err(_) => return Outcome::Escaped(format!("process {process} is seen")),
    }
    match fs::read(format!("/proc/{process}/cmdline")) {
        Ok(_) if process != own && process >= 4 => Outcome::Escaped(format!("/proc/{process} can be read")),
        _ => Outcome::Held("there is no such process".to_owned()),
    }
}

fn abstract_socket(name: &str) -> Outcome {
    let Ok(address) = UnixAddr::new_abstract(name.as_bytes()) else {
        return Outcome::NotTried("the name is too long".to_owned());
    };
    let tried = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .and_then(|own| connect(own.as_raw_fd(), &address));
    judged(tried)
}

/// More than the three streams is a leak, whatever its number became.
fn leaked_descriptor(left_open: i32) -> Outcome {
    match inheritable(3, left_open.saturating_add(64)) {
        Ok(open) if open.is_empty() => Outcome::Held("none but the three streams".to_owned()),
        Ok(open) => Outcome::Escaped(format!("open: {open:?}")),
        Err(fault) => Outcome::NotTried(fault.to_string()),
    }
}

fn capability() -> Outcome {
    match Capabilities::of_this_thread() {
        Ok(sets) if sets.are_none() => Outcome::Held("every set is empty".to_owned()),
        Ok(sets) => Outcome::Escaped(format!("{sets:x?}")),
        Err(fault) => Outcome::NotTried(fault.to_string()),
    }
}

fn init_environment() -> Outcome {
    match fs::read("/proc/1/environ") {
        Ok(text) if !text.is_empty() => Outcome::Escaped(format!("{} bytes of it", text.len())),
        Ok(_) => Outcome::Held("it is empty".to_owned()),
        Err(fault) => Outcome::Held(fault.to_string()),
    }
}

/// Without a terminal the kernel itself says `ENOTTY`; a filter answers before it.
fn terminal_input() -> Outcome {
    match probe::type_into(&io::stdin()) {
        Ok(()) => Outcome::Escaped("a line break was typed".to_owned()),
        Err(fault) if fault.raw_os_error() == Some(libc::ENOTTY) => {
            Outcome::Escaped("the call came through to the kernel".to_owned())
        }
        Err(fault) => Outcome::Held(fault.to_string()),
    }
}
