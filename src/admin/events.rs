//! The status and the refusals as server-sent events (WHATWG HTML, section 9.2).
//!
//! Events are created when the client reads them: a slow client costs no more than its permit.

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

/// Poll interval for refusals, short enough for a page to show a refusal within a second.
const TICK: Duration = Duration::from_millis(250);
/// The number of intervals between two events with the status.
const STATUS_TICKS: u32 = 4;
/// Maximum number of open streams. A stream occupies its connection for as long as the client
/// likes, and probes need connections, too.
const MAX_STREAMS: usize = 16;

struct Watching {
    admin: Arc<Admin>,
    tick: Interval,
    /// The number of intervals until the status is sent next.
    until_status: u32,
    /// The number of refusals that were sent, of each worker.
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
            // The status is computed on another thread: with a million keys it takes long, and
            // other requests must not wait for it.
            if let Ok(status) = tokio::task::spawn_blocking(move || status::status(&admin)).await {
                text.push_str(&format!("event: status\ndata: {status}\n\n"));
            }
        } else if text.is_empty() {
            // An empty comment is sent, so that the loss of a client is noticed.
            text.push_str(":\n\n");
        }
        self.until_status -= 1;
        (Bytes::from(text), self)
    }
}

/// The permit for one open stream; dropping it lets another stream open.
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

/// Returns a stream that sends the last refusals and the status at once, and later ones as they
/// come.
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
