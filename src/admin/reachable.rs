//! Checks whether upstreams accept connections, caches the result, and logs its changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::Mutex;

use crate::snapshot::Snapshot;
use crate::upstream::Upstream;
use crate::upstream::connect::try_connection;

/// An endpoint is unreachable if it accepts no connection within this time.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Shortest time between two checks of the upstreams. Readiness probes cause these checks and need
/// no credential, so anybody may send any number of probes.
const LOOK_AGE: Duration = Duration::from_secs(1);

/// An upstream whose endpoints can't be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Unreachable {
    upstream: String,
    /// Its endpoints, each with the reason.
    reasons: Vec<String>,
}

/// What is logged.
#[derive(Debug, PartialEq, Eq)]
enum Change<'a> {
    NotReady(&'a Unreachable),
    ReadyAgain,
}

impl<'a> Change<'a> {
    /// Returns the change from one look, if there was one, to the next.
    fn between(before: Option<&Unreachable>, now: Option<&'a Unreachable>) -> Option<Self> {
        match (before, now) {
            (None, Some(unreachable)) => Some(Change::NotReady(unreachable)),
            (Some(_), None) => Some(Change::ReadyAgain),
            (None, None) | (Some(_), Some(_)) => None,
        }
    }

    fn log(&self) {
        match self {
            Change::NotReady(Unreachable { upstream, reasons }) => {
                let why = reasons.join("; ");
                tracing::warn!(upstream, why, "not ready: no endpoint of an upstream can be connected to");
            }
            Change::ReadyAgain => {
                tracing::info!("ready again: an endpoint of each upstream can be connected to");
            }
        }
    }
}

/// The result of a look at the upstreams, with the time when it ended.
type Look = Option<(Instant, Option<Unreachable>)>;

/// The result of the last look at the upstreams.
#[derive(Debug, Default)]
pub(crate) struct Reachable(Arc<Mutex<Look>>);

impl Reachable {
    /// Returns the name of the first upstream that has no reachable endpoint. Looks at the upstreams, or returns the
    /// last result if that result is recent. Logs each change.
    pub(super) async fn check(&self, snapshot: &Arc<Snapshot>) -> Option<String> {
        let snapshot = snapshot.clone();
        let look =
            async move { join_all(snapshot.upstreams.iter().map(|upstream| unreachable(upstream))).await };
        let unreachable = self.looked(async { look.await.into_iter().flatten().next() }).await;
        unreachable.map(|unreachable| unreachable.upstream)
    }

    /// Returns the result of `look`, or the last result if that result is recent.
    async fn looked(
        &self,
        look: impl Future<Output = Option<Unreachable>> + Send + 'static,
    ) -> Option<Unreachable> {
        let mut last = self.0.clone().lock_owned().await;
        if let Some((at, unreachable)) = &*last
            && at.elapsed() < LOOK_AGE
        {
            return unreachable.clone();
        }
        // A task of its own ends the look and notes its time, even if the client that asked has left.
        let looking = tokio::spawn(async move {
            let unreachable = look.await;
            let before = last.as_ref().and_then(|(_, before)| before.as_ref());
            Change::between(before, unreachable.as_ref()).inspect(Change::log);
            *last = Some((Instant::now(), unreachable.clone()));
            unreachable
        });
        // After a panic, nothing is known: then the server is not ready.
        looking
            .await
            .unwrap_or_else(|_| Some(Unreachable { upstream: "unknown".to_owned(), reasons: Vec::new() }))
    }

    /// Whether the last check of the upstreams found each of them reachable; `true` before the first check has
    /// ended, and during any check.
    pub(super) fn last(&self) -> bool {
        self.0.try_lock().map_or(true, |last| !matches!(&*last, Some((_, Some(_)))))
    }
}

/// Returns an upstream with the reasons why its endpoints can't be connected to; `None` if one of them can.
async fn unreachable(upstream: &Upstream) -> Option<Unreachable> {
    let endpoints = upstream.endpoints();
    let tried = endpoints.iter().map(|endpoint| async move {
        let reason = match endpoint.health.is_failing_checks() {
            true => "it fails its health checks".to_owned(),
            false => try_connection(endpoint, CONNECT_LIMIT).await.err()?.to_string(),
        };
        Some(format!("{endpoint}: {reason}"))
    });
    let reasons: Option<Vec<String>> = join_all(tried).await.into_iter().collect();
    let reasons = reasons.map(|reasons| match reasons.is_empty() {
        true => vec!["its name has no address".to_owned()],
        false => reasons,
    });
    Some(Unreachable { upstream: upstream.name.to_string(), reasons: reasons? })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_client_that_leaves_does_not_begin_a_look_anew() {
        let (reachable, looks) = (Reachable::default(), Arc::new(AtomicUsize::new(0)));
        let look = || {
            let looks = looks.clone();
            async move {
                looks.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                None
            }
        };
        assert_eq!(reachable.looked(look()).now_or_never(), None, "the client leaves before the end");
        assert_eq!(reachable.looked(look()).await, None);
        assert_eq!(looks.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_change_is_told_once_and_not_at_each_look() {
        let down = |upstream: &str| Unreachable { upstream: upstream.to_owned(), reasons: Vec::new() };
        let (one, other) = (down("a"), down("b"));
        assert_eq!(Change::between(None, Some(&one)), Some(Change::NotReady(&one)));
        assert_eq!(Change::between(Some(&one), Some(&one)), None);
        assert_eq!(Change::between(Some(&one), Some(&other)), None);
        assert_eq!(Change::between(Some(&one), None), Some(Change::ReadyAgain));
        assert_eq!(Change::between(None, None), None);
    }
}
