//! Socket activation (sd_listen_fds(3)): which of the handed sockets is whose.

use std::net::{SocketAddr, TcpListener};

use anyhow::Context as _;

use crate::config::ServerConfig;
use crate::control::Prepared;
use crate::proxy::Inherited;
use crate::sys::inherit::{InheritedListener, adopt_listener};

/// Name of the control API's sockets (`FileDescriptorName=` in systemd.socket(5)); all others are the proxy's.
const CONTROL: &str = "control";

/// Everything that was handed over.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    pub(super) proxy: Inherited,
    pub(super) control: Prepared,
}

/// Takes the sockets that the service manager passed to this process, if any.
pub(super) fn take() -> anyhow::Result<Sockets> {
    let mut sockets = Sockets::default();
    let handed = sd_notify::listen_fds_with_names().context("reading the handed sockets")?;
    for (fd, name) in handed {
        let listener = adopt_listener(fd).with_context(|| format!("handed socket `{name}`"))?;
        sockets.place(&name, listener);
    }
    Ok(sockets)
}

impl Sockets {
    fn place(&mut self, name: &str, listener: InheritedListener) {
        match (name == CONTROL, listener) {
            (true, InheritedListener::Tcp(listener)) => self.control.tcp = Some(listener),
            (true, InheritedListener::Unix(listener)) => self.control.unix = Some(listener),
            (false, InheritedListener::Tcp(listener)) => self.proxy.tcp.push(listener),
            (false, InheritedListener::Unix(listener)) => self.proxy.unix.push(listener),
        }
    }

    /// Addresses of the settings in whose place something else was handed over: an operator who changes them would wait
    /// for an effect in vain.
    pub(super) fn instead_of(&self, config: &ServerConfig) -> Vec<String> {
        let mut ignored = Vec::new();
        if !self.proxy.tcp.is_empty() || !self.proxy.unix.is_empty() {
            let handed: Vec<SocketAddr> = self.proxy.tcp.iter().filter_map(|one| one.local_addr().ok()).collect();
            let unused = config.proxy.bind.iter().filter(|addr| !handed.contains(addr));
            ignored.extend(unused.map(|addr| format!("proxy.bind {addr}")));
        }
        if let Some(handed) = self.control.tcp.as_ref().and_then(|one| one.local_addr().ok())
            && handed != config.control.bind
        {
            ignored.push(format!("control.bind {}", config.control.bind));
        }
        ignored
    }

    /// Where the control API will listen if it was handed over.
    pub(super) fn control_tcp(&self) -> Option<&TcpListener> {
        self.control.tcp.as_ref()
    }
}
