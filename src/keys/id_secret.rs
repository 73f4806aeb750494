//! The secret of an installation, with which ids are made for credentials that contain no id.
//!
//! A bearward token contains its id. The id of any other credential is an HMAC of the credential,
//! so that nobody can find the credential from its id by trying a list of likely words.
//! `key_store::id_secret` finds the secret of a store.
//! Invariant: the secret appears in no message, no log and no `Debug` output.

use zeroize::Zeroizing;

use crate::digest::HmacKey;
use crate::keys::token::{Credential, derived_id, short_id};

/// The first part of the input of each HMAC of a credential. It keeps these HMACs distinct from
/// other HMACs with the same secret.
const DOMAIN: &[u8] = b"bearward key id\0";
/// As [`DOMAIN`], for holders of tokens and certificates.
const DOMAIN_OF_HOLDERS: &[u8] = b"bearward holder id\0";

/// The secret with which key ids are made, and whether it outlives the process.
#[derive(Debug)]
pub(crate) struct IdSecret {
    key: HmacKey,
    is_kept: bool,
}

impl IdSecret {
    /// Makes an `IdSecret` from a secret that is configured or stored in a file.
    pub(crate) fn kept(secret: &[u8]) -> Self {
        IdSecret { key: HmacKey::new(secret), is_kept: true }
    }

    /// Makes a random secret, which is lost when the process ends.
    pub(crate) fn random() -> Self {
        let mut bytes = Zeroizing::new([0u8; 32]);
        // If the system has no randomness, the secret is all zeroes. It only makes ids, and no key
        // is found by such an id.
        let _ids_alone = getrandom::fill(bytes.as_mut());
        IdSecret { key: HmacKey::new(bytes.as_ref()), is_kept: false }
    }

    /// Whether the secret outlives the process.
    pub(crate) fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Returns the id of a credential: the id inside a bearward token, or an id that is made from
    /// the credential with this secret.
    pub(crate) fn key_id(&self, credential: &Credential) -> String {
        credential.token_id().unwrap_or_else(|| derived_id(self.key.sign(&[DOMAIN, credential.as_bytes()])))
    }

    /// Returns the id of the holder of a token or certificate: the prefix, and ten characters that are made
    /// with this secret from what identifies the holder.
    pub(crate) fn holder_id(&self, prefix: &str, identified_by: &[&str]) -> String {
        // With their lengths, no two lists of texts are the same bytes.
        let lengths: Vec<[u8; 8]> =
            identified_by.iter().map(|text| (text.len() as u64).to_be_bytes()).collect();
        let texts = lengths.iter().zip(identified_by);
        let mut parts = vec![DOMAIN_OF_HOLDERS, prefix.as_bytes()];
        parts.extend(texts.flat_map(|(length, text)| [length.as_slice(), text.as_bytes()]));
        format!("{prefix}{}", short_id(self.key.sign(&parts)))
    }
}
