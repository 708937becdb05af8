//! TLS towards clients: the listener's certificate, and who the client's own certificate says it is.
//!
//! ```text
//! files ─ load ─ check ─→ acceptor in use          handshake ─→ SAN URIs of the client's verified leaf
//!            └─ fault: the acceptor in use stays            └─→ none: other identities still count
//! ```
//!
//! TLS 1.2 and 1.3 with the aws-lc-rs provider, named here and never taken from a process-wide default;
//! ALPN `http/1.1` only, because this proxy speaks nothing else to its clients.
//!
//! It refuses to serve with a key that is not the certificate's, to go on without client authentication
//! because its roots are broken, and to take anything from a certificate that was not verified.

mod load;
mod peer;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{Accept, TlsAcceptor};

use crate::config::TlsListenerConfig;
use crate::domain::{Clock, SystemClock, Timestamp};

use load::Loaded;

pub use peer::peer_uris;

/// Why TLS cannot be served with the configured files.
#[derive(Debug, thiserror::Error)]
pub enum TlsFault {
    /// A file is missing, or its permissions are in the way.
    #[error("{} cannot be read", file.display())]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is larger than 1 MiB.
    #[error("{} is too large for certificates or a key", file.display())]
    TooLarge {
        /// Which file.
        file: PathBuf,
    },
    /// A PEM section is broken.
    #[error("{} is not valid PEM", file.display())]
    BadPem {
        /// Which file.
        file: PathBuf,
        /// Where it breaks.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// A file without a certificate.
    #[error("{} holds no certificate", file.display())]
    NoCertificate {
        /// Which file.
        file: PathBuf,
    },
    /// A file without a private key.
    #[error("{} holds no private key", file.display())]
    NoKey {
        /// Which file.
        file: PathBuf,
    },
    /// A private key with a passphrase: nobody is there to type it.
    #[error("the private key in {} is encrypted, which is not supported", file.display())]
    EncryptedKey {
        /// Which file.
        file: PathBuf,
    },
    /// A private key that is not understood.
    #[error("the private key in {} cannot be used", file.display())]
    BadKey {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        source: rustls::Error,
    },
    /// A certificate that is not understood.
    #[error("a certificate in {} is malformed", file.display())]
    BadCertificate {
        /// Which file.
        file: PathBuf,
    },
    /// The key belongs to another certificate.
    #[error("the private key in {} does not belong to the first certificate in {}", key.display(), certificate.display())]
    KeyMismatch {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// A root that cannot be used to verify clients.
    #[error("a client root in {} cannot be used", file.display())]
    BadRoot {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        source: rustls::Error,
    },
    /// The provider refuses the combination.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// What an operator should mend soon; TLS is served all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsWarning {
    /// Clients that verify will refuse it.
    #[error("a certificate in {} expired at {at}", file.display())]
    Expired {
        /// Which file.
        file: PathBuf,
        /// Since when.
        at: Timestamp,
    },
    /// Clients that verify will refuse it until then.
    #[error("a certificate in {} is not valid before {at}", file.display())]
    NotYetValid {
        /// Which file.
        file: PathBuf,
        /// From when.
        at: Timestamp,
    },
    /// The private key can be read by every user, or written by another than its owner.
    #[error("the private key in {} is open to others (mode {mode:03o})", file.display())]
    OpenKey {
        /// Which file.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// The TLS acceptor of one listener, whose certificate can be replaced while it serves.
#[derive(Debug)]
pub struct ReloadableAcceptor {
    config: TlsListenerConfig,
    clock: Arc<dyn Clock>,
    in_use: ArcSwap<ServerConfig>,
    warnings: Mutex<Vec<TlsWarning>>,
}

impl ReloadableAcceptor {
    /// Reads and checks the files that `config` names.
    ///
    /// # Errors
    /// [`TlsFault`] names the file and what is wrong with it.
    pub fn new(config: &TlsListenerConfig) -> Result<Self, TlsFault> {
        Self::with_clock(config, Arc::new(SystemClock))
    }

    fn with_clock(config: &TlsListenerConfig, clock: Arc<dyn Clock>) -> Result<Self, TlsFault> {
        let Loaded { server, warnings } = load::load(config, clock.now())?;
        Ok(Self { config: config.clone(), clock, in_use: ArcSwap::from(server), warnings: Mutex::new(warnings) })
    }

    /// Reads the files again. New handshakes use them from now on; connections that are open keep what
    /// they have, and sessions of before are not resumed.
    ///
    /// # Errors
    /// [`TlsFault`]; then everything stays as it was.
    pub fn reload(&self) -> Result<(), TlsFault> {
        let Loaded { server, warnings } = load::load(&self.config, self.clock.now())?;
        self.in_use.store(server);
        *self.warnings.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = warnings;
        Ok(())
    }

    /// What to mend in the files in use, as of when they were read.
    pub fn warnings(&self) -> Vec<TlsWarning> {
        self.warnings.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// The handshake with the client behind `stream`, with the files in use now. It takes as long as the
    /// client lets it: put a time limit around it.
    ///
    /// The future's error is the handshake's: the client refused the certificate, showed one that does not
    /// verify, or spoke no TLS.
    pub fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> Accept<S> {
        TlsAcceptor::from(self.in_use.load_full()).accept(stream)
    }
}
