//! From the configured files to a checked server configuration.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::TlsListenerConfig;
use crate::domain::Timestamp;

use super::{TlsFault, TlsWarning};

/// Bytes of one file. 1 MiB: the roots of all public authorities together are a quarter of it.
const MAX_BYTES: u64 = 1 << 20;
/// The only protocol inside TLS (RFC 7301 identifier).
const ALPN: &[u8] = b"http/1.1";

/// A configuration that can serve, and what should be mended all the same.
pub(super) struct Loaded {
    pub(super) server: Arc<ServerConfig>,
    pub(super) warnings: Vec<TlsWarning>,
}

pub(super) fn load(config: &TlsListenerConfig, now: Timestamp) -> Result<Loaded, TlsFault> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chain = certificates(&config.certificate)?;
    let mut warnings = Vec::new();
    for certificate in &chain {
        warnings.extend(validity(certificate, &config.certificate, now)?);
    }
    warnings.extend(open_key(&config.key)?);
    let certified = certified_key(config, chain, &provider)?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(TlsFault::Setup)?;
    let builder = match &config.client_ca {
        Some(file) => builder.with_client_cert_verifier(client_verifier(file, provider)?),
        None => builder.with_no_client_auth(),
    };
    let mut server = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    server.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Loaded { server: Arc::new(server), warnings })
}

fn certified_key(
    config: &TlsListenerConfig,
    chain: Vec<CertificateDer<'static>>,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsFault> {
    let key = private_key(&config.key)?;
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|source| TlsFault::BadKey { file: config.key.clone(), source })?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(TlsFault::KeyMismatch { certificate: config.certificate.clone(), key: config.key.clone() })
        }
        Err(_) => Err(TlsFault::BadCertificate { file: config.certificate.clone() }),
    }
}

/// A client may come without a certificate: then it must prove who it is otherwise. One that shows a
/// certificate must show one that chains to the roots.
fn client_verifier(file: &Path, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, TlsFault> {
    let mut roots = RootCertStore::empty();
    for root in certificates(file)? {
        roots.add(root).map_err(|source| TlsFault::BadRoot { file: file.to_owned(), source })?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .allow_unauthenticated()
        .build()
        .map_err(|fault| TlsFault::Setup(rustls::Error::General(fault.to_string())))
}

/// At least one certificate, in the order of the file.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFault> {
    let found: Result<Vec<_>, PemError> = CertificateDer::pem_slice_iter(&read(file)?).collect();
    match found {
        Ok(found) if found.is_empty() => Err(TlsFault::NoCertificate { file: file.to_owned() }),
        Ok(found) => Ok(found),
        Err(source) => Err(TlsFault::BadPem { file: file.to_owned(), source }),
    }
}

/// The first private key of the file: PKCS#8, PKCS#1 or SEC1.
fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsFault> {
    let pem = read(file)?;
    match PrivateKeyDer::from_pem_slice(&pem) {
        Ok(key) => Ok(key),
        Err(PemError::NoItemsFound) if memchr::memmem::find(&pem, b"ENCRYPTED PRIVATE KEY").is_some() => {
            Err(TlsFault::EncryptedKey { file: file.to_owned() })
        }
        Err(PemError::NoItemsFound) => Err(TlsFault::NoKey { file: file.to_owned() }),
        Err(source) => Err(TlsFault::BadPem { file: file.to_owned(), source }),
    }
}

fn validity(certificate: &CertificateDer<'_>, file: &Path, now: Timestamp) -> Result<Option<TlsWarning>, TlsFault> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|_| TlsFault::BadCertificate { file: file.to_owned() })?;
    let moment = |secs: i64| Timestamp::from_unix_micros(secs.saturating_mul(1_000_000));
    let (from, until) =
        (moment(parsed.validity().not_before.timestamp()), moment(parsed.validity().not_after.timestamp()));
    let file = || file.to_owned();
    Ok(if now < from {
        Some(TlsWarning::NotYetValid { file: file(), at: from })
    } else if now > until {
        Some(TlsWarning::Expired { file: file(), at: until })
    } else {
        None
    })
}

fn open_key(file: &Path) -> Result<Option<TlsWarning>, TlsFault> {
    let meta = std::fs::metadata(file).map_err(|source| unreadable(file, source))?;
    let mode = meta.permissions().mode() & 0o777;
    // The group may read: that is how a daemon without root is given its key.
    Ok((mode & 0o027 != 0).then(|| TlsWarning::OpenKey { file: file.to_owned(), mode }))
}

fn read(file: &Path) -> Result<Vec<u8>, TlsFault> {
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|opened| opened.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|source| unreadable(file, source))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(TlsFault::TooLarge { file: file.to_owned() });
    }
    Ok(bytes)
}

fn unreadable(file: &Path, source: std::io::Error) -> TlsFault {
    TlsFault::Unreadable { file: file.to_owned(), source }
}
