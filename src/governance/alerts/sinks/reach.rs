//! The way to a sink: the address that the operator wrote, and no other.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;

use super::SinkFault;
use crate::domain::Host;
use crate::proxy::Resolver;

/// Addresses of a name that are tried.
const TRIED: usize = 4;
/// Time for each.
const CONNECT: Duration = Duration::from_secs(3);
/// Where distributions keep the roots that they trust: Debian, Fedora, SUSE, Alpine.
const ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Bytes of a file of roots.
const MAX_ROOTS: u64 = 4 << 20;

/// Where `host` is.
pub(super) async fn addresses(resolver: &Resolver, host: &Host, port: u16) -> Result<Vec<SocketAddr>, SinkFault> {
    match host {
        Host::Addr(address) => Ok(vec![SocketAddr::new(*address, port)]),
        Host::Name(name) => {
            let answer = resolver.resolve(name).await.map_err(|fault| SinkFault::later(name.as_str(), fault))?;
            Ok(answer.addresses.iter().take(TRIED).map(|address| SocketAddr::new(*address, port)).collect())
        }
    }
}

/// A name without addresses.
pub(super) fn nowhere() -> SinkFault {
    SinkFault::Later("the name has no address".to_owned())
}

/// A connection to `host`.
pub(in crate::governance) async fn connect(
    resolver: &Resolver,
    host: &Host,
    port: u16,
) -> Result<TcpStream, SinkFault> {
    let mut last = nowhere();
    for address in addresses(resolver, host, port).await? {
        match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(fault)) => last = SinkFault::later(&address.to_string(), fault),
            Err(_) => last = SinkFault::later(&address.to_string(), "no answer to the connection"),
        }
    }
    Err(last)
}

/// TLS that trusts the roots in `file`, or those of the system.
///
/// # Errors
/// Why there are none, in words for an operator.
pub(in crate::governance) fn trust(file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let path =
        match file {
            Some(file) => file.to_owned(),
            None => ROOTS.iter().map(PathBuf::from).find(|path| path.exists()).ok_or(
                "this system has no file of trusted roots: install `ca-certificates`, or name one as `ca_file`",
            )?,
        };
    let shown = path.display();
    let size = std::fs::metadata(&path).map_err(|fault| format!("`{shown}` cannot be read: {fault}"))?.len();
    if size > MAX_ROOTS {
        return Err(format!("`{shown}` is larger than {MAX_ROOTS} bytes"));
    }
    let pem = std::fs::read(&path).map_err(|fault| format!("`{shown}` cannot be read: {fault}"))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates.map_err(|_| format!("`{shown}` is not valid PEM"))?);
    if roots.is_empty() {
        return Err(format!("`{shown}` has no root that can be used"));
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|fault| format!("TLS cannot be set up: {fault}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
