//! The settings while they are being merged.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::config::{Fault, ServerConfig, TlsListenerConfig};

/// The name under which faults of variables are reported, in place of a file.
pub(in crate::config) const ENVIRONMENT: &str = "environment";

/// Where a key was last set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum Source {
    /// A line of the file.
    Line(usize),
    /// A variable, by name.
    Variable(&'static str),
    /// An option of the command line.
    Flag(&'static str),
}

/// Settings being merged. Paths are as written until [`Draft::finish`]: relative ones, the defaults
/// among them, lie below the state folder (those of TLS below the configuration folder).
#[derive(Debug)]
pub(in crate::config) struct Draft {
    pub(in crate::config) config: ServerConfig,
    pub(in crate::config) tls: TlsDraft,
    /// Where each key that is not at its default was set.
    pub(in crate::config) set: BTreeMap<&'static str, Source>,
    /// Keys whose value could not be read: nothing is concluded from them.
    pub(in crate::config) unreadable: BTreeSet<&'static str>,
    /// The file, for faults.
    pub(in crate::config) file: Option<PathBuf>,
}

/// `[proxy.tls]` before it is known to be whole.
#[derive(Debug, Default)]
pub(in crate::config) struct TlsDraft {
    pub(in crate::config) bind: Option<SocketAddr>,
    pub(in crate::config) certificate: Option<PathBuf>,
    pub(in crate::config) key: Option<PathBuf>,
    pub(in crate::config) client_ca: Option<PathBuf>,
}

impl Draft {
    /// The defaults, with the two folders still unknown (empty).
    pub(in crate::config) fn new() -> Self {
        Self {
            config: ServerConfig::defaults(PathBuf::new(), PathBuf::new()),
            tls: TlsDraft::default(),
            set: BTreeMap::new(),
            unreadable: BTreeSet::new(),
            file: None,
        }
    }

    /// Whether every one of `keys` was read well, so that it may be judged.
    pub(in crate::config) fn readable(&self, keys: &[&'static str]) -> bool {
        keys.iter().all(|key| !self.unreadable.contains(key))
    }

    /// A fault of `key`, reported where it was set.
    pub(in crate::config) fn fault(&self, key: &'static str, message: impl Into<String>) -> Fault {
        match self.set.get(key) {
            Some(Source::Variable(name)) => Fault::new(Path::new(ENVIRONMENT), None, *name, message),
            Some(Source::Flag(flag)) => Fault::new(Path::new("command line"), None, *flag, message),
            Some(Source::Line(line)) => Fault::new(self.file_name(), Some(*line), key, message),
            None => Fault::new(self.file_name(), None, key, message),
        }
    }

    fn file_name(&self) -> &Path {
        self.file.as_deref().unwrap_or(Path::new("defaults"))
    }

    /// Puts every path in its place. Both folders are known by now.
    pub(in crate::config) fn finish(mut self) -> ServerConfig {
        let (state, config) = (self.config.state_dir.clone(), self.config.config_dir.clone());
        self.config.runtimes.manifest = config.join(&self.config.runtimes.manifest);
        self.config.control.policy.iter_mut().for_each(|path| *path = config.join(&*path));
        let below_state = |path: &mut PathBuf| *path = state.join(&*path);
        below_state(&mut self.config.ledger.dir);
        below_state(&mut self.config.control.unix_socket);
        self.config.proxy.unix_socket.iter_mut().for_each(below_state);
        self.config.log.dir.iter_mut().for_each(below_state);
        if let TlsDraft { bind: Some(bind), certificate: Some(certificate), key: Some(key), client_ca } = self.tls {
            self.config.proxy.tls = Some(TlsListenerConfig {
                bind,
                certificate: config.join(certificate),
                key: config.join(key),
                client_ca: client_ca.map(|path| config.join(path)),
            });
        }
        self.config
    }
}
