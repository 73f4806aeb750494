//! Computes SHA-256 (FIPS 180-4) and HMAC-SHA-256 (RFC 2104), with the library that TLS uses.

use aws_lc_rs::digest::{self, Context, SHA256};
use aws_lc_rs::hmac;

/// Returns the SHA-256 digest of `bytes`.
pub(crate) fn sha256(bytes: impl AsRef<[u8]>) -> [u8; 32] {
    sized(digest::digest(&SHA256, bytes.as_ref()))
}

/// A SHA-256 digest of bytes that come in parts.
pub(crate) struct Sha256(Context);

impl Sha256 {
    pub(crate) fn new() -> Self {
        Sha256(Context::new(&SHA256))
    }

    pub(crate) fn update(&mut self, part: impl AsRef<[u8]>) {
        self.0.update(part.as_ref());
    }

    pub(crate) fn finish(self) -> [u8; 32] {
        sized(self.0.finish())
    }
}

/// A secret key for HMACs.
pub(crate) struct HmacKey(hmac::Key);

impl HmacKey {
    pub(crate) fn new(secret: &[u8]) -> Self {
        HmacKey(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// Returns the HMAC of the concatenated parts.
    pub(crate) fn sign(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.0);
        parts.iter().for_each(|part| context.update(part));
        sized(context.sign())
    }
}

impl std::fmt::Debug for HmacKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HmacKey(…)")
    }
}

fn sized(digest: impl AsRef<[u8]>) -> [u8; 32] {
    let mut sized = [0; 32];
    for (to, from) in sized.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    sized
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_sha_256() {
        let start = [0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea];
        assert_eq!(sha256(b"abc")[..8], start);
        let mut parts = Sha256::new();
        parts.update("a");
        parts.update(b"bc");
        assert_eq!(parts.finish(), sha256(b"abc"));
    }

    #[test]
    fn it_is_hmac_sha_256() {
        // The test vector of RFC 4231, section 4.3.
        let signed = HmacKey::new(b"Jefe").sign(&[b"what do ya want ", b"for nothing?"]);
        assert_eq!(signed[..8], [0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e]);
    }
}
