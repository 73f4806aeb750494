//! The end of a key while requests of it are in service, and of the time that a request without a key has.
//!
//! Where `keys.cut_open_streams` is set, an answer, an upload or a tunnel ends with what let it in. It is judged again by
//! what it was judged by at first (address, environment, age, route), at each change of the keys, and at the very time at
//! which the key, its secret's grace or its age ends.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use jiff::Timestamp;
use smallvec::SmallVec;

use super::authorization::may_use;
use crate::clock::Clock;
use crate::config::{Access, MaxAge};
use crate::key_cache::KeyCache;
use crate::keys::{Circumstances, KeyHash};
use crate::route::Route;

/// A timer runs by the monotonic clock, and a key ends by the wall clock: where that one is set forward, the end is noticed
/// within this.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Why a request that was let in is let in no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Its key is gone or turned off, or narrowed so that this request would be refused.
    Revoked,
    /// Its key, its secret's grace or its secret's age ended then.
    Expired(Timestamp),
    /// It has no key, and has had its time (`limits.public.total`).
    OutOfTime(Duration),
}

/// Ready once a request that was let in is let in no longer.
pub(crate) struct Revocation(Pin<Box<dyn Future<Output = Ended> + Send>>);

impl Revocation {
    pub(super) fn new(judgement: Judgement) -> Self {
        Revocation(Box::pin(judgement.overturned()))
    }

    /// Of a request without a key, which has this long in all.
    pub(super) fn after(total: Duration) -> Self {
        Revocation(Box::pin(async move {
            tokio::time::sleep(total).await;
            Ended::OutOfTime(total)
        }))
    }

    /// Polls it; ready once, and then not to be polled again.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Revocation")
    }
}

/// What a request was let in by.
pub(super) struct Judgement {
    pub(super) keys: Arc<KeyCache>,
    pub(super) clock: Clock,
    /// The digest of the secret that was presented.
    pub(super) hash: KeyHash,
    pub(super) address: Option<IpAddr>,
    pub(super) environment: Option<String>,
    pub(super) max_age: Option<MaxAge>,
    /// All that servers may take its path for.
    pub(super) routes: SmallVec<[Arc<Route>; 1]>,
}

impl Judgement {
    /// Waits until the request would be refused.
    async fn overturned(self) -> Ended {
        let mut changes = self.keys.changes();
        loop {
            // What changes from here on is seen; what changed before is in what is judged.
            changes.borrow_and_update();
            let now = self.clock.wall();
            let end = match self.next_end(now) {
                Ok(end) => end,
                Err(ended) => return ended,
            };
            let changed = match end {
                None => changes.changed().await,
                Some(end) => {
                    let left = Duration::try_from(end.duration_since(now)).unwrap_or_default();
                    tokio::select! {
                        changed = changes.changed() => changed,
                        () = tokio::time::sleep(left.min(LONGEST_WAIT)) => Ok(()),
                    }
                }
            };
            // The sender lives in `keys`.
            if changed.is_err() {
                return Ended::Revoked;
            }
        }
    }

    /// The end that is ahead of the request, if any is, or why it has ended.
    fn next_end(&self, now: Timestamp) -> Result<Option<Timestamp>, Ended> {
        let found = self.keys.find(&self.hash).ok_or(Ended::Revoked)?;
        let key = &found.key.key;
        let circumstances = Circumstances {
            now,
            environment: self.environment.as_deref(),
            address: self.address,
            max_age: self.max_age,
        };
        key.validity(found.rotated_out, &circumstances)
            .map_err(|invalidity| invalidity.end().map_or(Ended::Revoked, Ended::Expired))?;
        for route in &self.routes {
            if let Access::Needs(permission) = route.access {
                may_use(key, permission, &route.name).map_err(|_denial| Ended::Revoked)?;
            }
        }
        Ok(key.next_end(found.rotated_out, self.max_age))
    }
}
