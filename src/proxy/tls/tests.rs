//! Real handshakes with files of the test's own authorities.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::domain::ManualClock;

/// One authority with its certificate.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(vec![]).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).expect("certificate");
        Self { der: certificate.der().clone(), pem: certificate.pem(), issuer: Issuer::new(params, key) }
    }

    fn server(&self, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(vec!["proxy.example".to_owned()]).expect("params");
        change(&mut params);
        (params.signed_by(&key, &self.issuer).expect("certificate").pem(), key.serialize_pem())
    }

    fn client(
        &self,
        uri: &str,
        purpose: ExtendedKeyUsagePurpose,
    ) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(vec![]).expect("params");
        params.subject_alt_names.push(SanType::URI(uri.try_into().expect("ascii")));
        params.extended_key_usages = vec![purpose];
        let certificate = params.signed_by(&key, &self.issuer).expect("certificate");
        (vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
    }
}

/// A listener's files, and the authorities behind them.
struct Ground {
    dir: TempDir,
    servers: Authority,
    clients: Authority,
    config: TlsListenerConfig,
}

impl Ground {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let config = TlsListenerConfig {
            bind: ([127, 0, 0, 1], 0).into(),
            certificate: dir.path().join("cert.pem"),
            key: dir.path().join("key.pem"),
            client_ca: Some(dir.path().join("clients.pem")),
        };
        let ground = Self { dir, servers: Authority::new(), clients: Authority::new(), config };
        ground.put(&ground.servers.server(|_| {}));
        std::fs::write(ground.dir.path().join("clients.pem"), &ground.clients.pem).expect("write");
        ground
    }

    fn put(&self, (certificate, key): &(String, String)) {
        std::fs::write(&self.config.certificate, certificate).expect("write");
        write_key(&self.config.key, key);
    }

    fn acceptor(&self) -> ReloadableAcceptor {
        ReloadableAcceptor::new(&self.config).expect("valid files")
    }

    fn fault(&self) -> TlsFault {
        ReloadableAcceptor::new(&self.config).expect_err("broken files")
    }

    fn client(&self, identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.servers.der.clone()).expect("root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        match identity {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).expect("identity"),
            None => builder.with_no_client_auth(),
        }
    }
}

fn write_key(path: &Path, pem: &str) {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file =
        std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path).expect("open");
    file.write_all(pem.as_bytes()).expect("write");
}

/// What the server learned from a handshake, after one byte went through in each direction.
#[derive(Debug)]
struct Seen {
    uris: Vec<String>,
    alpn: Option<Vec<u8>>,
    version: Option<ProtocolVersion>,
    leaf: CertificateDer<'static>,
}

async fn handshake(acceptor: &ReloadableAcceptor, client: ClientConfig) -> Result<Seen, std::io::Error> {
    let (near, far) = tokio::io::duplex(64 << 10);
    let accept = acceptor.accept(far);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let client = async move {
        let name = ServerName::try_from("proxy.example").expect("name");
        let mut stream = connector.connect(name, near).await?;
        stream.write_all(b"?").await?;
        stream.read_u8().await?;
        let leaf = stream.get_ref().1.peer_certificates().expect("verified")[0].clone();
        Ok::<_, std::io::Error>(leaf.into_owned())
    };
    let server = async move {
        let mut stream = accept.await?;
        stream.read_u8().await?;
        stream.write_all(b"!").await?;
        stream.flush().await?;
        let session = stream.get_ref().1;
        Ok::<_, std::io::Error>((
            peer_uris(session),
            session.alpn_protocol().map(<[u8]>::to_vec),
            session.protocol_version(),
        ))
    };
    let (server, leaf) = tokio::join!(server, client);
    let (uris, alpn, version) = server?;
    Ok(Seen { uris, alpn, version, leaf: leaf? })
}

#[tokio::test]
async fn a_verified_client_certificate_gives_its_uris() {
    let ground = Ground::new();
    let identity = ground.clients.client("arw://persona/alice", ExtendedKeyUsagePurpose::ClientAuth);
    let seen = handshake(&ground.acceptor(), ground.client(Some(identity))).await.expect("handshake");
    assert_eq!(seen.uris, ["arw://persona/alice"]);
    assert_eq!(seen.version, Some(ProtocolVersion::TLSv1_3));
}

#[tokio::test]
async fn a_client_without_certificate_comes_in_and_is_nobody() {
    let ground = Ground::new();
    let seen = handshake(&ground.acceptor(), ground.client(None)).await.expect("handshake");
    assert!(seen.uris.is_empty());
}

#[tokio::test]
async fn a_client_certificate_that_does_not_verify_ends_the_handshake() {
    let ground = Ground::new();
    let acceptor = ground.acceptor();
    let stranger = Authority::new().client("arw://persona/alice", ExtendedKeyUsagePurpose::ClientAuth);
    assert!(handshake(&acceptor, ground.client(Some(stranger))).await.is_err());
    let of_server_authority = ground.servers.client("arw://persona/alice", ExtendedKeyUsagePurpose::ClientAuth);
    assert!(handshake(&acceptor, ground.client(Some(of_server_authority))).await.is_err());
    let of_a_server = ground.clients.client("arw://persona/alice", ExtendedKeyUsagePurpose::ServerAuth);
    assert!(handshake(&acceptor, ground.client(Some(of_a_server))).await.is_err());
}

#[tokio::test]
async fn without_client_roots_a_certificate_is_not_even_asked_for() {
    let mut ground = Ground::new();
    ground.config.client_ca = None;
    let identity = ground.clients.client("arw://persona/alice", ExtendedKeyUsagePurpose::ClientAuth);
    let seen = handshake(&ground.acceptor(), ground.client(Some(identity))).await.expect("handshake");
    assert!(seen.uris.is_empty());
}

#[tokio::test]
async fn only_http_1_1_is_spoken_inside() {
    let ground = Ground::new();
    let acceptor = ground.acceptor();
    let mut client = ground.client(None);
    client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    assert_eq!(handshake(&acceptor, client).await.expect("handshake").alpn.as_deref(), Some(&b"http/1.1"[..]));
    let mut client = ground.client(None);
    client.alpn_protocols = vec![b"h2".to_vec()];
    assert!(handshake(&acceptor, client).await.is_err());
}

#[tokio::test]
async fn tls_1_2_is_served_too() {
    let ground = Ground::new();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(ground.servers.der.clone()).expect("root");
    let identity = ground.clients.client("arw://persona/old", ExtendedKeyUsagePurpose::ClientAuth);
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("version")
        .with_root_certificates(roots)
        .with_client_auth_cert(identity.0, identity.1)
        .expect("identity");
    let seen = handshake(&ground.acceptor(), client).await.expect("handshake");
    assert_eq!((seen.version, seen.uris), (Some(ProtocolVersion::TLSv1_2), vec!["arw://persona/old".to_owned()]));
}

#[tokio::test]
async fn a_reload_serves_the_new_certificate_and_a_broken_one_keeps_the_old() {
    let ground = Ground::new();
    let acceptor = ground.acceptor();
    let first = handshake(&acceptor, ground.client(None)).await.expect("handshake").leaf;

    ground.put(&ground.servers.server(|_| {}));
    acceptor.reload().expect("valid files");
    let second = handshake(&acceptor, ground.client(None)).await.expect("handshake").leaf;
    assert_ne!(first, second);

    std::fs::write(&ground.config.certificate, "").expect("write");
    let fault = acceptor.reload().expect_err("empty");
    assert!(fault.to_string().contains("cert.pem"), "{fault}");
    std::fs::remove_file(ground.dir.path().join("clients.pem")).expect("remove");
    assert!(acceptor.reload().is_err());
    assert_eq!(handshake(&acceptor, ground.client(None)).await.expect("handshake").leaf, second);
}

#[tokio::test]
async fn a_reload_with_other_client_roots_ends_the_sessions_of_before() {
    let ground = Ground::new();
    let acceptor = ground.acceptor();
    let identity = ground.clients.client("arw://persona/alice", ExtendedKeyUsagePurpose::ClientAuth);
    let client = ground.client(Some(identity));
    assert_eq!(handshake(&acceptor, client.clone()).await.expect("handshake").uris.len(), 1);
    assert_eq!(handshake(&acceptor, client.clone()).await.expect("resumed").uris.len(), 1);
    std::fs::write(ground.dir.path().join("clients.pem"), Authority::new().pem).expect("write");
    acceptor.reload().expect("valid files");
    assert!(handshake(&acceptor, client).await.is_err(), "a ticket of before must not carry the identity on");
}

#[test]
fn faults_name_the_file_and_what_is_wrong() {
    let ground = Ground::new();
    let (certificate, key) = ground.servers.server(|_| {});
    let (_, other_key) = ground.servers.server(|_| {});
    let write = |certificate: &str, key: &str| {
        std::fs::write(&ground.config.certificate, certificate).expect("write");
        std::fs::write(&ground.config.key, key).expect("write");
        ground.fault()
    };
    assert!(matches!(write(&certificate, &other_key), TlsFault::KeyMismatch { .. }));
    assert!(matches!(write("", &key), TlsFault::NoCertificate { .. }));
    assert!(matches!(write(&key, &key), TlsFault::NoCertificate { .. }));
    assert!(matches!(write(&certificate, ""), TlsFault::NoKey { .. }));
    assert!(matches!(write(&certificate, &certificate), TlsFault::NoKey { .. }));
    assert!(matches!(write(&certificate[..certificate.len() / 2], &key), TlsFault::BadPem { .. }));
    let hollow = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(write(hollow, &key), TlsFault::BadCertificate { .. }));
    let hollow = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    assert!(matches!(write(&certificate, hollow), TlsFault::BadKey { .. }));
    let locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    assert!(matches!(write(&certificate, locked), TlsFault::EncryptedKey { .. }));
    assert!(matches!(write(&"x".repeat((1 << 20) + 1), &key), TlsFault::TooLarge { .. }));

    let fault = write(&certificate, &other_key).to_string();
    assert!(fault.contains("cert.pem") && fault.contains("key.pem"), "{fault}");
    std::fs::write(ground.dir.path().join("clients.pem"), "").expect("write");
    ground.put(&(certificate, key));
    let fault = ground.fault();
    assert!(matches!(fault, TlsFault::NoCertificate { .. }) && fault.to_string().contains("clients.pem"), "{fault}");
    std::fs::remove_file(&ground.config.key).expect("remove");
    assert!(matches!(ground.fault(), TlsFault::Unreadable { .. }));
}

#[test]
fn validity_and_an_open_key_are_warnings() {
    let ground = Ground::new();
    let day = time::Duration::days(1);
    let noon = time::OffsetDateTime::from_unix_timestamp(1_800_000_000).expect("time");
    ground.put(&ground.servers.server(|params| {
        params.not_before = noon - day;
        params.not_after = noon + day;
    }));
    let at = |moment: time::OffsetDateTime| {
        let clock = ManualClock::new(Timestamp::from_unix_micros(moment.unix_timestamp() * 1_000_000));
        ReloadableAcceptor::with_clock(&ground.config, Arc::new(clock)).expect("served all the same").warnings()
    };
    assert_eq!(at(noon), []);
    assert!(matches!(at(noon + day * 2)[..], [TlsWarning::Expired { .. }]));
    assert!(matches!(at(noon - day * 2)[..], [TlsWarning::NotYetValid { .. }]));

    let mode = |bits| {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(bits);
        std::fs::set_permissions(&ground.config.key, permissions).expect("chmod");
    };
    mode(0o644);
    assert!(matches!(at(noon)[..], [TlsWarning::OpenKey { mode: 0o644, .. }]));
    mode(0o640);
    assert_eq!(at(noon), []);
}
