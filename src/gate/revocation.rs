//! Ends requests in service: when their key ends, or when the time of a request without a key is
//! over.
//!
//! With `keys.cut_open_streams`, an answer, an upload or a tunnel ends as soon as its key may not use its
//! route any more. The request is judged again, by the facts of its admission (address, environment,
//! age, route), whenever the keys change, and when the key, the grace of its secret, or its
//! permitted age ends. The models and the caps of the key and its group hold for later requests.

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
use super::ended::Ended;
use super::identity_judge::IdentityJudge;
use super::proof::Proof;
use crate::clock::Clock;
use crate::config::{Access, MaxAge};
use crate::key_cache::KeyCache;
use crate::keys::{ApiKey, Circumstances, KeyHash};
use crate::route::Route;

/// Longest wait before a request is judged again. A timer runs by the monotonic clock, but a key
/// ends by the wall clock. If the wall clock is set forward, the end of the key is noticed within
/// this time.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A future that is ready when the key of a request in service may not use its route any more.
pub(crate) struct Revocation(Pin<Box<dyn Future<Output = Ended> + Send>>);

impl Revocation {
    pub(super) fn new(judgement: Judgement) -> Self {
        Revocation(Box::pin(judgement.overturned()))
    }

    /// Makes the waiter for a request without a key. It is ready after `total`.
    pub(super) fn after(total: Duration) -> Self {
        Revocation(Box::pin(async move {
            tokio::time::sleep(total).await;
            Ended::OutOfTime(total)
        }))
    }

    /// Polls for the end of the request. Must not be called again after it has returned ready.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Revocation")
    }
}

/// The facts by which a request was admitted.
pub(crate) struct Judgement {
    pub(super) keys: Arc<KeyCache>,
    pub(super) clock: Clock,
    pub(super) proof: Proof,
    pub(super) identities: IdentityJudge,
    pub(super) address: Option<IpAddr>,
    pub(super) environment: Option<String>,
    pub(super) max_age: Option<MaxAge>,
    /// The routes of all readings of the request's path.
    pub(super) routes: SmallVec<[Arc<Route>; 1]>,
}

impl fmt::Debug for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Judgement")
    }
}

impl Judgement {
    /// Checks whether the request would be admitted now, as far as its key decides that.
    ///
    /// # Errors
    ///
    /// Why the request has to end.
    pub(crate) fn stands(&self) -> Result<(), Ended> {
        self.next_end(self.clock.wall()).map(|_end| ())
    }

    /// Waits until the key may not use the routes of the request any more, and returns the reason.
    async fn overturned(self) -> Ended {
        // Changes of keys do not concern tokens and certificates, and the other way round.
        let mut changes = match self.proof {
            Proof::Key { .. } => self.keys.changes(),
            Proof::Token(_) | Proof::Certificate(_) => self.identities.identities.changes(),
        };
        loop {
            // Marks the current state as seen before judging it, so that every later change wakes
            // this loop.
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
            // `changed` fails only if its sender was dropped, and this judgement keeps its owner, so
            // this never happens.
            if changed.is_err() {
                return Ended::Revoked;
            }
        }
    }

    /// Returns when the key, the grace of its secret or its permitted age ends, or the token or certificate,
    /// whichever is first; `None` if none of them ends. Returns an error if the request has to end now.
    fn next_end(&self, now: Timestamp) -> Result<Option<Timestamp>, Ended> {
        let (live, end) = match &self.proof {
            Proof::Key { hash, .. } => return self.next_end_of_key(hash, now),
            Proof::Token(presented) => self.identities.of_token(presented, now)?,
            Proof::Certificate(certificate) => self.identities.of_certificate(certificate, now)?,
        };
        self.check_routes(&live.key)?;
        Ok(Some(end))
    }

    fn next_end_of_key(&self, hash: &KeyHash, now: Timestamp) -> Result<Option<Timestamp>, Ended> {
        let found = self.keys.find(hash).ok_or(Ended::Revoked)?;
        let key = &found.key.key;
        let circumstances = Circumstances {
            now,
            environment: self.environment.as_deref(),
            address: self.address,
            max_age: self.max_age,
        };
        key.validity(found.rotated_out, &circumstances)
            .map_err(|invalidity| invalidity.end().map_or(Ended::Revoked, Ended::Expired))?;
        self.check_routes(key)?;
        Ok(key.next_end(found.rotated_out, self.max_age))
    }

    /// Checks that the key may use all routes of the request.
    fn check_routes(&self, key: &ApiKey) -> Result<(), Ended> {
        for route in &self.routes {
            if let Access::Needs(permission) = route.access {
                may_use(key, permission, &route.name).map_err(|_denial| Ended::Revoked)?;
            }
        }
        Ok(())
    }
}
