//! A refused request, as the admin listener shows it.

use std::net::IpAddr;

use jiff::Timestamp;

/// A refusal, or a failure that a caller got as an answer.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    /// The number of the refusal. The refusals of all workers are numbered in one sequence.
    pub(crate) sequence: u64,
    pub(crate) at: Timestamp,
    pub(crate) code: &'static str,
    /// The real reason of the refusal, which the answer may have withheld from the caller.
    pub(crate) reason: String,
    pub(crate) request_id: String,
    pub(crate) client: Option<IpAddr>,
    pub(crate) method: String,
    pub(crate) path: String,
    /// Whether `key_id` is the id of an existing key or holder.
    pub(crate) is_of_key: bool,
    /// The id of the key or holder, or of a credential that matches none.
    pub(crate) key_id: Option<String>,
    /// The key id in a bearward token that matches no key.
    pub(crate) claimed_key_id: Option<String>,
    pub(crate) route: Option<String>,
    pub(crate) model: Option<String>,
}
