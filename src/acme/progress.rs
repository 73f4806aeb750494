//! What is known of the orders for a certificate, in a file of the storage: the order that is open, and the
//! attempts that have failed. A process that is started again goes on from there. Fields that it does not know are
//! left out, since replicas of two versions may share the file.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// What is known of the orders for a certificate.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Progress {
    /// The order that is open.
    pub(super) order: Option<OpenOrder>,
    /// Number of attempts in a row that have failed.
    pub(super) failures: u32,
    /// No attempt is made before this time.
    pub(super) retry_at: Option<Timestamp>,
    /// Whether the authority has asked for that pause.
    pub(super) is_asked_to_wait: bool,
    /// Why the last attempt failed, and what to do.
    pub(super) fault: Option<KeptFault>,
    /// When the certificate in the storage was got.
    pub(super) got_at: Option<Timestamp>,
    /// Number of certificates in a row that were renewed in haste.
    pub(super) hasty: u32,
    /// Whether the authority takes no note of which certificate an order replaces (RFC 9773, section 5).
    pub(super) omits_replaces: bool,
    /// When this was written.
    pub(super) noted_at: Option<Timestamp>,
}

/// An order that is open at the authority.
#[derive(Clone, Deserialize, Serialize)]
pub(super) struct OpenOrder {
    pub(super) url: String,
    /// The private key of the certificate that was ordered, PEM.
    pub(super) key: Zeroizing<String>,
    /// Number of attempts that went on with the order.
    #[serde(default)]
    pub(super) attempts: u32,
}

impl std::fmt::Debug for OpenOrder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenOrder").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Why an attempt failed.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct KeptFault {
    pub(super) message: String,
    pub(super) advice: String,
    pub(super) at: Timestamp,
}
