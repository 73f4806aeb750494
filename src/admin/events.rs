//! Streams the status and the refusals as server-sent events (WHATWG HTML, section 9.2).
//!
//! An event is created only when the client reads its stream, so no events are queued for a slow
//! client.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::answer::AdminBody;
use super::state::Admin;
use super::status;
use crate::denial::Denial;

/// Interval at which new refusals are polled, short enough for the status page to show a refusal
/// within a second.
const TICK: Duration = Duration::from_millis(250);
/// Number of poll intervals between two status events.
const STATUS_TICKS: u32 = 4;
/// Maximum number of open event streams. A stream occupies a connection for as long as the client
/// likes, and probes need connections, too.
const MAX_STREAMS: usize = 16;

struct Watching {
    admin: Arc<Admin>,
    tick: Interval,
    /// Number of poll intervals until the next status event.
    until_status: u32,
    /// For each worker, the number of its refusals that were already sent.
    sent: Vec<u64>,
    _permit: EventStreamPermit,
}

impl Watching {
    async fn events(mut self) -> (Bytes, Self) {
        self.tick.tick().await;
        let mut text = String::new();
        for refused in self.admin.gateway.observers.new_refusals(&mut self.sent) {
            let (id, refusal) = (refused.sequence, status::refusal(&refused));
            text.push_str(&format!("event: refusal\nid: {id}\ndata: {refusal}\n\n"));
        }
        if self.until_status == 0 {
            self.until_status = STATUS_TICKS;
            let admin = self.admin.clone();
            // Computing the status takes long with a million keys. A blocking thread computes it,
            // so that other requests do not wait.
            if let Ok(status) = tokio::task::spawn_blocking(move || status::status(&admin)).await {
                text.push_str(&format!("event: status\ndata: {status}\n\n"));
            }
        } else if text.is_empty() {
            // An empty comment is sent if there is no event, because only a write shows that the
            // client has disconnected.
            text.push_str(":\n\n");
        }
        self.until_status -= 1;
        (Bytes::from(text), self)
    }
}

/// The permit for one open event stream. Dropping the permit lets another stream open.
struct EventStreamPermit(Arc<Admin>);

impl EventStreamPermit {
    fn of(admin: &Arc<Admin>) -> Option<Self> {
        let below = |open: usize| (open < MAX_STREAMS).then_some(open + 1);
        admin.streams.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).ok()?;
        Some(EventStreamPermit(admin.clone()))
    }
}

impl Drop for EventStreamPermit {
    fn drop(&mut self) {
        let before = self.0.streams.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0);
    }
}

/// Returns an event stream. The stream sends the last refusals and the status at once, and then
/// each new refusal, and the status at intervals.
pub(super) fn stream(admin: Arc<Admin>) -> Result<Response<AdminBody>, Denial> {
    let permit = EventStreamPermit::of(&admin).ok_or_else(|| Denial::too_many_streams(MAX_STREAMS))?;
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watching = Watching { admin, tick, until_status: 0, sent: Vec::new(), _permit: permit };
    let frames = stream::unfold(watching, |watching| async move {
        let (text, watching) = watching.events().await;
        Some((Ok::<_, Infallible>(Frame::data(text)), watching))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
