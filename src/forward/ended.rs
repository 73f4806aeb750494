//! What the end of a key is to a request that it had let in: a refusal before the answer has begun, a broken answer behind that.

use super::body::DownloadFailed;
use crate::denial::Denial;
use crate::gate::{Ended, Permit};

/// The key ended before upstream answered.
pub(super) fn over(permit: &Permit, ended: Ended) -> Denial {
    match ended {
        Ended::Expired(end) => Denial::expired_key(end).caused_by("expired while upstream was asked"),
        Ended::Revoked => {
            let key_id = permit.principal().map(|principal| principal.key().key.id());
            Denial::invalid_key(key_id.unwrap_or_default()).caused_by("revoked while upstream was asked")
        }
    }
}

impl From<Ended> for DownloadFailed {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Revoked => DownloadFailed::KeyRevoked,
            Ended::Expired(_) => DownloadFailed::KeyExpired,
        }
    }
}
