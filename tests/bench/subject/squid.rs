//! Squid as Debian ships it, with what the gateway has on too, as far as it has it.

use std::fmt::Write;
use std::io::{BufRead, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::{Launch, ORIGIN_HOST, OTHER_RULES, PERSONA, TLS_HOST, TOKEN};

/// Where Debian's `squid` and `squid-openssl` put it.
const BINARY: &str = "/usr/sbin/squid";
/// Squid refuses to stay root; this user comes with Debian's base system and owns its folder then.
const USER: &str = "proxy";

pub(super) fn launch(dir: &Path) -> anyhow::Result<Launch> {
    anyhow::ensure!(Path::new(BINARY).exists(), "not installed ({BINARY} is not there; `apt-get install squid`)");
    let port = super::free_port()?;
    std::fs::write(dir.join("hosts"), format!("127.0.0.1 {ORIGIN_HOST} {TLS_HOST}\n"))?;
    let mut names = format!("{ORIGIN_HOST}\n{TLS_HOST}\n");
    for index in 0..OTHER_RULES {
        writeln!(names, "service-{index}.example.com")?;
    }
    std::fs::write(dir.join("allow.txt"), names)?;
    let mut passwords = std::env::current_exe()?;
    let as_root = nix::unistd::geteuid().is_root();
    if as_root {
        let copy = dir.join("passwords");
        std::fs::copy(&passwords, &copy)?;
        passwords = copy;
        let user = nix::unistd::User::from_name(USER)?.with_context(|| format!("there is no user `{USER}`"))?;
        nix::unistd::chown(dir, Some(user.uid), Some(user.gid))?;
    }
    let file = dir.join("squid.conf");
    std::fs::write(&file, settings(dir, port, &passwords, as_root))?;

    let mut command = Command::new(BINARY);
    // The service's name keeps its shared memory apart from that of another squid on this machine.
    command.current_dir(dir).args(["-N", "-d", "1", "-n", &format!("bench{port}"), "-f"]).arg(file);
    Ok(Launch { command, port: Some(port), credentials: Some(super::basic_credentials()) })
}

fn settings(dir: &Path, port: u16, passwords: &Path, as_root: bool) -> String {
    let path = |name: &str| -> PathBuf { dir.join(name) };
    let user = if as_root { format!("cache_effective_user {USER}\n") } else { String::new() };
    format!(
        "http_port 127.0.0.1:{port}\n{user}\
         pid_filename {pid}\naccess_log stdio:{access} squid\ncache_log {cache}\ncoredump_dir {dir}\n\
         cache deny all\ncache_mem 8 MB\nhosts_file {hosts}\nvisible_hostname bench\nmax_filedescriptors 16384\n\
         shutdown_lifetime 0 seconds\npinger_enable off\n\
         auth_param basic program {passwords} --check-passwords\nauth_param basic children 1 startup=1\n\
         auth_param basic credentialsttl 8 hours\n\
         acl known proxy_auth REQUIRED\nacl listed dstdomain \"{allow}\"\n\
         http_access deny !listed\nhttp_access allow known\nhttp_access deny all\n",
        pid = path("squid.pid").display(),
        access = path("access.log").display(),
        cache = path("cache.log").display(),
        dir = dir.display(),
        hosts = path("hosts").display(),
        passwords = passwords.display(),
        allow = path("allow.txt").display(),
    )
}

/// Answers squid's questions `user password` on standard input; squid remembers the answer.
pub(crate) fn check_passwords() -> anyhow::Result<()> {
    let right = format!("{PERSONA} {TOKEN}");
    let mut answers = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line.context("squid's question")?;
        writeln!(answers, "{}", if line == right { "OK" } else { "ERR" })?;
        answers.flush()?;
    }
    Ok(())
}
