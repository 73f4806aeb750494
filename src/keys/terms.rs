//! The part of a key that few keys have, or many have alike.

use ipnet::IpNet;
use jiff::Timestamp;

use crate::config::Quota;
use crate::keys::token::KeyHash;

/// The terms on which a key is valid, and its older secrets. A store of a million keys shares equal
/// ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) environment: Option<String>,
    pub(crate) not_before: Option<Timestamp>,
    /// `None` where the configuration's defaults hold; an empty list where no limit holds.
    pub(crate) rate_limits: Option<Vec<Quota>>,
    pub(crate) max_concurrent: Option<u32>,
    /// Empty where the key may be used from everywhere.
    pub(crate) allow_from: Vec<IpNet>,
    pub(crate) routes: Option<Vec<String>>,
    /// Secrets that were rotated out.
    pub(crate) previous: Vec<Secret>,
}

/// A secret that was rotated out, and the end of its grace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Secret {
    pub(crate) hash: KeyHash,
    pub(crate) expires_at: Timestamp,
}
