//! A keyed digest.

use sha2::{Digest, Sha256};

/// Bytes of a SHA-256 block, which HMAC pads its key to.
const BLOCK: usize = 64;

/// HMAC (RFC 2104) with SHA-256 over `parts`, one after the other.
pub fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut padded = [0; BLOCK];
    match key.len() {
        0..=BLOCK => padded[..key.len()].copy_from_slice(key),
        _ => padded[..32].copy_from_slice(&Sha256::digest(key)),
    }
    let keyed = |mask: u8, parts: &[&[u8]]| -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(padded.map(|byte| byte ^ mask));
        parts.iter().for_each(|part| hasher.update(part));
        hasher.finalize().into()
    };
    keyed(0x5c, &[&keyed(0x36, parts)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(digest: [u8; 32]) -> String {
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// RFC 4231 test cases 1, 2, 4, 6 and 7.
    #[test]
    fn it_agrees_with_rfc_4231() {
        let counting: Vec<u8> = (1..=25).collect();
        let long =
            b"This is a test using a larger than block-size key and a larger than block-size data. The key needs \
                     to be hashed before being used by the HMAC algorithm.";
        let cases: [(&[u8], &[u8], &str); 5] = [
            (&[0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
            (
                b"Jefe",
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (&counting, &[0xcd; 50], "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
            (
                &[0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
            (&[0xaa; 131], long, "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2"),
        ];
        for (key, message, expected) in cases {
            assert_eq!(hex(hmac_sha256(key, &[message])), expected);
            let (head, tail) = message.split_at(message.len() / 2);
            assert_eq!(hex(hmac_sha256(key, &[head, b"", tail])), expected, "in parts");
        }
    }
}
