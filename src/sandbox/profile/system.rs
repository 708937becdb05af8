//! The part of a new root that is the same for every command: the host's programs, a small `/etc`, `/dev`,
//! `/proc` and private memory.

use std::fs;
use std::path::{Path, PathBuf};

use crate::sandbox::plan::{Absent, Access, DNS_INSIDE, Mount, Owner, User};

use super::Profile;

/// The command's home inside.
pub(super) const HOME: &str = "/home/runtime";
/// The command's user name inside.
pub(super) const USER: &str = "runtime";

/// Folders of programs and libraries. On most hosts all but the first are links into it.
const PROGRAMS: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// What of the host's `/etc` programs need and anybody may know. Keys below `/etc/ssl/private` and
/// `/etc/pki/tls/private` are not among it.
const SETTINGS: [&str; 14] = [
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/fonts",
    "/etc/ld.so.cache",
    "/etc/mime.types",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/terminfo",
    "/etc/timezone",
];

/// Device nodes that give nothing but bytes.
const DEVICES: [&str; 6] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

/// The mounts that every command of a profile has, in order. They come first, and can be made ahead.
pub(super) fn ground(profile: &Profile) -> Vec<Mount> {
    let mut mounts = Vec::new();
    mounts.extend(PROGRAMS.iter().filter_map(|path| as_on_host(Path::new(path))));
    mounts.extend(SETTINGS.iter().map(|path| bind(Path::new(path), Access::ReadOnly)));
    mounts.extend(["/etc/localtime", "/etc/os-release"].iter().filter_map(|path| into_usr(Path::new(path))));
    mounts.extend(profile.read_only.iter().map(|path| bind(path, Access::ReadOnly)));
    mounts.extend(DEVICES.iter().map(|path| bind(Path::new(path), Access::Device)));
    mounts.extend(profile.devices.iter().map(|path| bind(path, Access::Device)));
    mounts.push(Mount::Terminals);
    for (target, to) in [
        ("/dev/ptmx", "pts/ptmx"),
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/var/tmp", "/tmp"),
        ("/var/run", "/run"),
    ] {
        mounts.push(Mount::Link { target: target.into(), to: to.into() });
    }
    mounts.push(memory("/dev/shm", profile.shared_memory, 0o1777, false));
    mounts.push(memory("/tmp", profile.tmp, 0o1777, profile.exec));
    mounts.push(Mount::Folder { target: "/run".into() });
    let resolver = DNS_INSIDE.ip();
    // One try of two seconds: the resolver is on this host and answers at once or not at all.
    mounts.push(file("/etc/resolv.conf", format!("nameserver {resolver}\noptions timeout:2 attempts:1\n")));
    mounts.push(file("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n".to_owned()));
    mounts
}

/// The mounts of one command, in order: the ground, then what is its own.
pub(super) fn mounts(profile: &Profile, user: User, host_name: &str, extra_devices: &[PathBuf]) -> Vec<Mount> {
    let mut mounts = ground(profile);
    // First of the rest: an init that stands ready has it mounted.
    mounts.push(Mount::Proc { view: profile.proc });
    mounts.extend(settings(user, host_name));
    mounts.extend(extra_devices.iter().map(|path| bind(path, Access::Device)));
    let (target, bytes, exec) = (HOME.into(), profile.home, profile.exec);
    mounts.push(Mount::Memory { target, bytes, mode: 0o700, exec, owned: true });
    mounts
}

/// What Landlock allows of the ground.
pub(super) fn ground_rights(profile: &Profile) -> Vec<(PathBuf, Access)> {
    let own = |paths: &[&str], access| paths.iter().map(|path| (PathBuf::from(path), access)).collect::<Vec<_>>();
    let folders: Vec<&str> = PROGRAMS.iter().copied().filter(|path| !Path::new(path).is_symlink()).collect();
    let mut rights = own(&folders, Access::ReadOnly);
    rights.extend(own(&["/etc", "/run"], Access::ReadOnly));
    rights.extend(own(&["/tmp", "/dev/shm"], Access::ReadWrite));
    rights.extend(own(&DEVICES, Access::Device));
    rights.extend(own(&["/dev/pts"], Access::Device));
    rights.extend(profile.read_only.iter().map(|path| (path.clone(), Access::ReadOnly)));
    rights.extend(profile.devices.iter().map(|path| (path.clone(), Access::Device)));
    rights
}

/// What Landlock allows of all, those of the ground first.
pub(super) fn rights(profile: &Profile, extra_devices: &[PathBuf]) -> Vec<(PathBuf, Access)> {
    let mut rights = ground_rights(profile);
    rights.push(("/proc".into(), Access::ReadOnly));
    rights.push((HOME.into(), Access::ReadWrite));
    rights.extend(extra_devices.iter().map(|path| (path.clone(), Access::Device)));
    rights
}

/// The same link or folder as on the host.
fn as_on_host(path: &Path) -> Option<Mount> {
    match fs::read_link(path) {
        Ok(to) => Some(Mount::Link { target: path.to_owned(), to }),
        Err(_) => path.is_dir().then(|| bind(path, Access::ReadOnly)),
    }
}

fn bind(path: &Path, access: Access) -> Mount {
    Mount::Bind { source: path.to_owned(), target: path.to_owned(), access, absent: Absent::Skip, owner: Owner::Host }
}

/// Nobody's.
fn memory(target: &str, bytes: u64, mode: u32, exec: bool) -> Mount {
    Mount::Memory { target: target.into(), bytes, mode, exec, owned: false }
}

/// The files of `/etc` that are written for one command.
fn settings(user: User, host_name: &str) -> Vec<Mount> {
    let (uid, gid) = user.inside();
    vec![
        file(
            "/etc/passwd",
            format!(
                "root:x:0:0:root:/:/usr/sbin/nologin\n{USER}:x:{uid}:{gid}:{USER}:{HOME}:/bin/sh\n\
                 nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
            ),
        ),
        file("/etc/group", format!("root:x:0:\ntty:x:5:\n{USER}:x:{gid}:\nnogroup:x:65534:\n")),
        file("/etc/hosts", format!("127.0.0.1 localhost {host_name}\n::1 localhost ip6-localhost\n")),
        file("/etc/hostname", format!("{host_name}\n")),
    ]
}

fn file(target: &str, contents: String) -> Mount {
    Mount::File { target: target.into(), contents }
}

/// A link of `/etc` that leads into `/usr`, as it is; a file, bound.
fn into_usr(path: &Path) -> Option<Mount> {
    match fs::read_link(path) {
        Ok(to) => Some(Mount::Link { target: path.to_owned(), to }),
        Err(_) => path.is_file().then(|| bind(path, Access::ReadOnly)),
    }
}
