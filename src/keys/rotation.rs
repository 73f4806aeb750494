//! Rotation: a new secret for a key, and the grace of its old one.

use std::time::Duration;

use jiff::Timestamp;

use crate::keys::record::KeyRecord;
use crate::keys::terms::Secret;
use crate::keys::token::Token;

/// A secret that is older than this is due for rotation, unless the configuration says otherwise.
pub(crate) const ROTATION_AGE: Duration = Duration::from_secs(90 * 86_400);

/// How a key is rotated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rotation {
    pub(crate) now: Timestamp,
    /// The end of the old secret's grace; `None` ends it at once, and all older ones.
    pub(crate) grace_end: Option<Timestamp>,
    /// A new end of the key itself; `None` keeps the end that it has.
    pub(crate) expires_at: Option<Timestamp>,
    /// The age from which the configuration refuses a secret; `None` where it refuses none.
    pub(crate) refused_age: Option<Duration>,
}

/// The reason why a key is not rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotRotated {
    Disabled,
    Expired,
}

impl Rotation {
    /// The key with the secret of `token`.
    ///
    /// # Errors
    ///
    /// The key is refused whatever its secret is.
    pub(crate) fn of(&self, before: &KeyRecord, token: &Token) -> Result<KeyRecord, NotRotated> {
        let Rotation { now, grace_end, refused_age, .. } = *self;
        let expires_at = self.expires_at.or(before.expires_at);
        if before.disabled {
            return Err(NotRotated::Disabled);
        }
        if expires_at.is_some_and(|end| end <= now) {
            return Err(NotRotated::Expired);
        }
        // A new end of the key does not prolong the old secret.
        let old_end = grace_end.map(|end| before.expires_at.map_or(end, |expiry| end.min(expiry)));
        // An old secret does not outlive the age at which it would be refused.
        let end_of_age =
            before.created_at.zip(refused_age).and_then(|(made, age)| made.checked_add(age).ok());
        let old_end = old_end.map(|end| end_of_age.map_or(end, |age| end.min(age))).filter(|end| *end > now);
        let mut after = KeyRecord { hash: token.hash(), created_at: Some(now), expires_at, ..before.clone() };
        if grace_end.is_none() {
            after.terms.previous.clear();
        }
        after.terms.previous.extend(old_end.map(|expires_at| Secret { hash: before.hash, expires_at }));
        Ok(after)
    }
}
