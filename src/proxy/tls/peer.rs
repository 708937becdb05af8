//! Who a client's certificate says it is.

use rustls::ServerConnection;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// URIs taken from one certificate. 8: an identity needs one.
const MAX_URIS: usize = 8;
/// Bytes of one URI. 2048: the bound that SPIFFE sets for its identifiers.
const MAX_URI_BYTES: usize = 2_048;

/// The URIs among the subject alternative names of the client's leaf certificate (RFC 5280 section
/// 4.2.1.6), in their order.
///
/// Empty when the client showed no certificate. One that did not chain to the roots never gets here: its
/// handshake failed. Left out are URIs with anything but printable ASCII, and those over 2048 bytes; a
/// certificate with more than eight, or that does not parse, identifies nobody.
pub fn peer_uris(connection: &ServerConnection) -> Vec<String> {
    connection
        .peer_certificates()
        .filter(|_| !connection.is_handshaking())
        .and_then(|chain| chain.first())
        .map(|leaf| uris_of(leaf))
        .unwrap_or_default()
}

fn uris_of(der: &[u8]) -> Vec<String> {
    let Ok((rest, leaf)) = X509Certificate::from_der(der) else { return Vec::new() };
    let Ok(Some(names)) = leaf.subject_alternative_name() else { return Vec::new() };
    let uris: Vec<&str> = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    if !rest.is_empty() || uris.len() > MAX_URIS {
        return Vec::new();
    }
    uris.into_iter().filter(|uri| is_plain(uri)).map(str::to_owned).collect()
}

fn is_plain(uri: &str) -> bool {
    !uri.is_empty() && uri.len() <= MAX_URI_BYTES && uri.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn with_uris(uris: &[&str]) -> Vec<String> {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(vec!["client.example".to_owned()]).expect("params");
        params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().expect("ascii"))));
        uris_of(params.self_signed(&key).expect("certificate").der())
    }

    #[test]
    fn uris_are_taken_and_other_names_are_not() {
        assert_eq!(with_uris(&["arw://persona/alice", "spiffe://x/y"]), ["arw://persona/alice", "spiffe://x/y"]);
        assert!(with_uris(&[]).is_empty());
    }

    #[test]
    fn uris_that_could_be_read_in_two_ways_are_left_out() {
        let long = format!("arw://{}", "a".repeat(MAX_URI_BYTES));
        let odd = ["arw://persona/alice\0.evil", "arw://persona/a b", "", "arw://x\r\ny", long.as_str()];
        assert!(with_uris(&odd).is_empty());
        assert_eq!(with_uris(&["arw://a\n", "arw://b"]), ["arw://b"]);
    }

    #[test]
    fn a_certificate_with_too_many_uris_or_of_nonsense_identifies_nobody() {
        assert_eq!(with_uris(&["arw://a"; MAX_URIS]).len(), MAX_URIS);
        assert!(with_uris(&["arw://a"; MAX_URIS + 1]).is_empty());
        assert!(uris_of(b"").is_empty());
        assert!(uris_of(&[0x30; 40]).is_empty());
    }
}
