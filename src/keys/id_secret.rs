//! The secret of an installation, which makes the ids of credentials that carry none.
//!
//! A bearward token has its id inside. Any other credential is named by an HMAC of it, so that a
//! list of likely words does not lead from an id back to a credential. `key_store::id_secret` finds
//! the secret of a store.
//! Invariant: the secret is in no message, no log and no `Debug`.

use zeroize::Zeroizing;

use crate::digest::HmacKey;
use crate::keys::token::{Credential, derived_id};

/// Separates these HMACs from any others that the same secret may make.
const DOMAIN: &[u8] = b"bearward key id\0";

/// A secret, and whether it outlives the process.
#[derive(Debug)]
pub(crate) struct IdSecret {
    key: HmacKey,
    is_kept: bool,
}

impl IdSecret {
    /// A secret that is configured or kept in a file.
    pub(crate) fn kept(secret: &[u8]) -> Self {
        IdSecret { key: HmacKey::new(secret), is_kept: true }
    }

    /// A random secret, which ends with the process.
    pub(crate) fn random() -> Self {
        let mut bytes = Zeroizing::new([0u8; 32]);
        // Without randomness the secret is all zeroes. It makes ids alone, by which no key is
        // found.
        let _ids_alone = getrandom::fill(bytes.as_mut());
        IdSecret { key: HmacKey::new(bytes.as_ref()), is_kept: false }
    }

    /// Whether it outlives the process.
    pub(crate) fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// The id that names a credential: the one inside a bearward token, else one made with this
    /// secret.
    pub(crate) fn key_id(&self, credential: &Credential) -> String {
        credential.token_id().unwrap_or_else(|| derived_id(self.key.sign(&[DOMAIN, credential.as_bytes()])))
    }
}
