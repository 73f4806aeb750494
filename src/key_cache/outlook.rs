//! What is ahead of the keys in service: which end next, and which are due for another secret.

use std::time::Duration;

use jiff::Timestamp;

use crate::key_cache::cache::KeyCache;

/// Keys that are told of one by one.
const NEXT: usize = 10;
/// The keys of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outlook {
    pub(crate) keys: usize,
    pub(crate) due_for_rotation: usize,
    /// Those that end next, soonest first. What has ended is over, and not told of.
    pub(crate) next_ends: Vec<(String, Timestamp)>,
}

impl Outlook {
    /// Looks at all keys once. `age`: how old a secret may be.
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
            if key.end_of_age(age).is_some_and(|end| end <= now) {
                outlook.due_for_rotation += 1;
            }
            let Some(end) = expires_at else { return };
            if ends.len() == NEXT && ends.last().is_some_and(|(last, _)| *last <= end) {
                return;
            }
            let place = ends.partition_point(|(earlier, _)| *earlier <= end);
            ends.insert(place, (end, key.id().to_owned()));
            ends.truncate(NEXT);
        });
        outlook.next_ends = ends.into_iter().map(|(end, id)| (id, end)).collect();
        outlook
    }
}
