//! The fields of a key that few keys have, or that many keys share.

use ipnet::IpNet;
use jiff::Timestamp;

use crate::config::{BudgetQuota, OutputCap, Priority, Quota};
use crate::keys::token::KeyHash;
use crate::model::ModelPatterns;

/// The terms on which a key is valid, and its rotated-out secrets. Keys with equal terms share one
/// `Terms`, because a store may have a million keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) environment: Option<String>,
    pub(crate) not_before: Option<Timestamp>,
    /// The group of the key, whose limits hold for it, too.
    pub(crate) group: Option<String>,
    /// The key's own rate limits. `None`: the configuration's defaults apply. An empty list: the
    /// key has no rate limit.
    pub(crate) rate_limits: Option<Vec<Quota>>,
    /// What the key may use in a day, a week or a month.
    pub(crate) budgets: Option<Vec<BudgetQuota>>,
    pub(crate) max_concurrent: Option<u32>,
    /// The networks that the key may be used from; empty if it may be used from everywhere.
    pub(crate) allow_from: Vec<IpNet>,
    pub(crate) routes: Option<Vec<String>>,
    /// The models that the key may use; `None` if it may use all.
    pub(crate) models: Option<ModelPatterns>,
    /// How much output a request of the key may ask for.
    pub(crate) request: Option<OutputCap>,
    /// The class of the key's requests in a queue.
    pub(crate) priority: Option<Priority>,
    /// The share of the key within its class.
    pub(crate) weight: Option<u32>,
    /// The secrets that were rotated out.
    pub(crate) previous: Vec<Secret>,
}

/// A secret that was rotated out, and the end of its grace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Secret {
    pub(crate) hash: KeyHash,
    pub(crate) expires_at: Timestamp,
}
