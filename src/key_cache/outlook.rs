//! Reports the keys that expire next, and how many keys are due for rotation.

use std::time::Duration;

use jiff::Timestamp;

use crate::key_cache::cache::KeyCache;
use crate::keys::Permission;

/// Maximum number of keys that `next_ends` lists.
const NEXT: usize = 10;
/// The number of keys and of keys due for rotation at one time, and the keys that expire next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outlook {
    pub(crate) keys: usize,
    pub(crate) due_for_rotation: usize,
    /// Whether a key that is turned on has the permission `admin`.
    pub(crate) has_admin: bool,
    /// The ids and expiry times of the keys that expire next, soonest first. Expired keys are not
    /// listed.
    pub(crate) next_ends: Vec<(String, Timestamp)>,
}

impl Outlook {
    /// Computes the outlook in one pass over all keys. `age` is the age from which a secret is due
    /// for rotation.
    pub(crate) fn of(keys: &KeyCache, now: Timestamp, age: Duration) -> Self {
        let mut outlook = Outlook::default();
        let mut ends: Vec<(Timestamp, String)> = Vec::with_capacity(NEXT + 1);
        keys.for_each(|live| {
            let key = &live.key;
            outlook.keys += 1;
            if key.disabled {
                return;
            }
            let expires_at = key.expires_at();
            if expires_at.is_some_and(|end| end <= now) {
                return;
            }
            outlook.has_admin |= key.has(Permission::Admin);
            if key.end_of_age(age).is_some_and(|end| end <= now) {
                outlook.due_for_rotation += 1;
            }
            let Some(end) = expires_at else { return };
            if ends.len() == NEXT && ends.last().is_some_and(|(last, _)| *last <= end) {
                return;
            }
            let index = ends.partition_point(|(earlier, _)| *earlier <= end);
            ends.insert(index, (end, key.id().to_owned()));
            ends.truncate(NEXT);
        });
        outlook.next_ends = ends.into_iter().map(|(end, id)| (id, end)).collect();
        outlook
    }
}
