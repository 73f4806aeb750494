//! What shows that a request is its principal's: the secret of a key, a token, or a client certificate.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use crate::identity::ClientCertificate;
use crate::keys::{Credential, KeyHash};

/// What shows that a request is its principal's.
#[derive(Clone, Debug)]
pub(crate) enum Proof {
    /// A secret of a key, by its digest.
    Key {
        hash: KeyHash,
        /// Whether the secret was rotated out and is still in its grace.
        is_rotated_out: bool,
    },
    Token(Arc<PresentedToken>),
    Certificate(Arc<ClientCertificate>),
}

/// A token that a request has presented, and its digest.
pub(crate) struct PresentedToken {
    pub(super) token: Credential,
    pub(super) hash: KeyHash,
    pub(super) expires_at: Timestamp,
}

impl fmt::Debug for PresentedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresentedToken")
    }
}
