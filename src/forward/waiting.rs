//! A request's wait for its turn at upstream, and what ends a wait early.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use crate::denial::Denial;
use crate::gate::{Ended, Judgement, Permit, Revocation};
use crate::observe::Times;
use crate::upstream::Upstream;
use crate::upstream::queue::NotServed;
use crate::upstream::turn::Turn;
use crate::upstream::upload::UploadProgress;

/// Waits for the turn of a request, until its key or its time ends. `judgement`: judges the request again when it
/// has its turn.
pub(super) async fn wait_for_turn(
    turn: &mut Turn,
    permit: &Permit,
    mut revocation: Option<&mut Revocation>,
    judgement: Option<Box<Judgement>>,
    progress: &UploadProgress,
) -> Result<(), Denial> {
    let served = {
        let mut waiting = pin!(turn.wait());
        poll_fn(|cx| match revocation.as_mut().map(|revocation| revocation.poll(cx)) {
            Some(Poll::Ready(ended)) => Poll::Ready(Err(ended)),
            _ => waiting.as_mut().poll(cx).map(Ok),
        })
        .await
    };
    let upstream = &permit.route().upstream;
    // Its key may have ended or changed while the request waited.
    let served = served.and_then(|served| match judgement.map(|judgement| judgement.stands()) {
        Some(Err(ended)) if served.is_ok() => Err(ended),
        _ => Ok(served),
    });
    match served {
        Ok(served) => served.map_err(|why| not_served(why, upstream)),
        Err(Ended::OutOfTime(_)) => {
            let denial = Denial::queue_timeout(&upstream.name, turn.would_wait(Instant::now()));
            Err(denial.caused_by("a request without a key has used up its time"))
        }
        Err(ended) => Err(revoked(permit, ended, progress)),
    }
}

/// Notes how long a request has waited for its turn. A request whose endpoint could not be reached may have
/// waited more than once. `turn`: `None` if the upstream has no queue.
pub(super) fn note_wait(times: &mut Times, turn: Option<&Turn>) {
    if let Some(turn) = turn {
        times.queued = Some((turn.class(), turn.waited()));
    }
}

/// Returns the denial of a request that did not get its turn. Nothing of it was sent.
pub(super) fn not_served(why: NotServed, upstream: &Upstream) -> Denial {
    let name = &upstream.name;
    match why {
        NotServed::Full(wait) => Denial::queue_full(name, wait),
        NotServed::TimedOut(wait) => Denial::queue_timeout(name, wait),
        NotServed::Nowhere if !upstream.has_addresses() => {
            Denial::upstream_unreachable(name).caused_by(upstream.no_address_reason())
        }
        NotServed::Nowhere => Denial::upstream_failing_checks(name)
            .caused_by("the health checks of all endpoints fail while the request waits"),
        NotServed::ShuttingDown => Denial::shutting_down(),
    }
}

/// Returns the denial of a request whose right to be served ended before upstream answered.
pub(super) fn revoked(permit: &Permit, ended: Ended, progress: &UploadProgress) -> Denial {
    match ended {
        Ended::Expired(end) => Denial::expired_key(end).caused_by("expired while upstream was working"),
        Ended::Revoked => {
            let key_id = permit.principal().map(|principal| principal.key().key.id());
            debug_assert!(key_id.is_some(), "only a key is revoked");
            Denial::invalid_key(key_id.unwrap_or_default()).caused_by("revoked while upstream was working")
        }
        Ended::OutOfTime(total) if progress.is_blocked_on_client() => Denial::body_stalled(total),
        Ended::OutOfTime(_) => {
            let denial = Denial::upstream_timeout(&permit.route().upstream.name);
            denial.not_to_be_retried().caused_by("a request without a key has used up its time")
        }
    }
}
