//! Rotation: a key gets a new secret, and its old secret stays valid for a grace period.

use std::time::Duration;

use jiff::{Span, Timestamp};

use crate::keys::record::KeyRecord;
use crate::keys::terms::Secret;
use crate::keys::token::Token;

/// The age from which a secret is due for rotation, if the configuration sets no other age.
pub(crate) const ROTATION_AGE: Duration = Duration::from_secs(90 * 86_400);

/// Whether a grace says that the old secret ends at once: `0`, or no time of any unit.
pub(crate) fn is_no_grace(grace: &str) -> bool {
    grace == "0" || grace.parse::<Span>().is_ok_and(|span| span.is_zero())
}

/// The settings of one rotation of a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rotation {
    pub(crate) now: Timestamp,
    /// The end of the old secret's grace. With `None`, the old secret and all older secrets of the
    /// key end at once.
    pub(crate) grace_end: Option<Timestamp>,
    /// The new expiry of the key itself; `None` leaves its expiry unchanged.
    pub(crate) expires_at: Option<Timestamp>,
    /// The age from which the configuration refuses a secret; `None` if the configuration refuses
    /// no secret because of its age.
    pub(crate) refused_age: Option<Duration>,
}

/// The reason why a key can't be rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotRotated {
    Disabled,
    Expired,
}

impl Rotation {
    /// Returns the key `before` with the secret of `token` as its current secret.
    ///
    /// # Errors
    ///
    /// The key is disabled or expired, so a new secret would be refused as well.
    pub(crate) fn of(&self, before: &KeyRecord, token: &Token) -> Result<KeyRecord, NotRotated> {
        let Rotation { now, grace_end, refused_age, .. } = *self;
        let expires_at = self.expires_at.or(before.expires_at);
        if before.disabled {
            return Err(NotRotated::Disabled);
        }
        if expires_at.is_some_and(|end| end <= now) {
            return Err(NotRotated::Expired);
        }
        // The old secret ends at the latest at the key's old expiry, even if the key gets a later
        // expiry.
        let old_end = grace_end.map(|end| before.expires_at.map_or(end, |expiry| end.min(expiry)));
        // The old secret ends at the latest when it reaches the age from which it is refused.
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
