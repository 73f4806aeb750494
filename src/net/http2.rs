//! Serves one HTTP/2 connection within limits, and ends it in order.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::presence::Peered;
use super::service;
use super::streams::{OUR_ANSWER_TIME, StreamExecutor};
use super::waits::{REFUSAL_TIME, watch_idle};
use super::wire::Wire;
use crate::activity::ConnectionActivity;
use crate::alarm::Alarm;
use crate::config::Limits;
use crate::proxy::{Peer, StreamRefused};

/// The most streams that a client may have open at once on a connection.
const MAX_STREAMS: u32 = 200;
/// The most streams that the client may have reset before we began to serve them; one more such
/// stream closes the connection. h2's own default is 20.
const MAX_STREAMS_TAKEN_BACK: usize = 20;
/// The most streams that we may have reset because of a client's errors; one more closes the
/// connection. h2's own default is 1024.
const MAX_STREAMS_BROKEN: usize = 128;

/// Limits of a connection: the bytes of bodies that upstream has not read yet, and the number of
/// the client's errors.
struct Allowance {
    /// The receive windows of one stream and of the whole connection, in bytes.
    stream_window: u32,
    connection_window: u32,
    /// The most streams that may be reset because of the client's errors, in the whole life of the
    /// connection; `None` means no limit.
    broken_streams: Option<usize>,
}

/// The limits of a connection from a client.
const CLIENTS: Allowance = Allowance {
    stream_window: 256 * 1024,
    connection_window: 1024 * 1024,
    broken_streams: Some(MAX_STREAMS_BROKEN),
};
/// The limits of a connection from a trusted proxy, which many clients share. Errors are not
/// counted, because some of these clients send nonsense now and then. The window of the connection
/// has room for all streams, so an upload that upstream does not read does not block other clients.
/// The window of a stream is small, because round trips to a proxy are short.
const PROXYS: Allowance =
    Allowance { stream_window: 64 * 1024, connection_window: 64 * 1024 * MAX_STREAMS, broken_streams: None };

/// Time that a client has to end its streams, while its connection is being closed because the
/// client left answers unread.
const ABUSE_GRACE: Duration = Duration::from_secs(2);
/// Total time that an unauthenticated client has to read the last bytes of its answers.
const UNAUTHENTICATED_TIME: Duration = Duration::from_secs(30);
/// Time after GOAWAY in which requests are still accepted. After that, the connection is closed
/// when it has been idle for this time, or for up to twice this time, because idleness is checked
/// at intervals.
const FAREWELL_GRACE: Duration = Duration::from_secs(1);

/// Serves an HTTP/2 connection until it ends.
pub(super) async fn serve<S>(
    wire: Wire<S>,
    peer: Peer,
    limits: Limits,
    mut shutdown: watch::Receiver<bool>,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Peered + Unpin + Send + 'static,
{
    let is_over_limit = peer.over_limit.is_some();
    let allowance = if peer.is_trusted { PROXYS } else { CLIENTS };
    let peer = Arc::new(peer);
    let activity = peer.activity.clone();
    // The future is boxed, and freed once the answer's head is complete. A stream whose client
    // reads nothing therefore uses little memory.
    let service = service_fn(move |request| {
        let peer = peer.clone();
        Box::pin(async move {
            match peer.activity.refuses_new() {
                true => Err(StreamRefused.into()),
                false => service::serve(peer, request).await,
            }
        })
    });
    let streams = StreamExecutor { limit: limits.client_stall_timeout, activity: activity.clone() };
    let connection = builder(streams, &limits, &allowance).serve_connection(TokioIo::new(wire), service);
    let mut connection = Box::pin(connection);
    let idle = watch_idle(&activity, limits.idle_timeout, ConnectionActivity::has_nothing_to_send);
    // A client past the limit of its address gets only refusals, so its connection is closed after
    // a while: HTTP/2 has no `Connection: close`.
    let expelled = async {
        match is_over_limit {
            true => sleep(REFUSAL_TIME).await,
            false => std::future::pending().await,
        }
    };
    let mut tails = Tails::new(limits.client_stall_timeout);
    let is_abused = tokio::select! {
        biased;
        ended = taking_turns(connection.as_mut(), &activity) => return ended.map_err(io::Error::other),
        () = expelled => return Ok(()),
        () = poll_fn(|cx| activity.unauthenticated_use.poll_out_of_patience(cx)) => true,
        () = poll_fn(|cx| tails.poll_stalled(cx, &activity)) => true,
        _stopped = shutdown.wait_for(|stop| *stop) => false,
        () = idle => false,
    };
    connection.as_mut().graceful_shutdown();
    // Bounds the wait for a client that never closes its side.
    let farewell = async {
        if is_abused {
            activity.refuse_new();
            return sleep(ABUSE_GRACE).await;
        }
        // Requests during `FAREWELL_GRACE` are accepted, because the client may have sent them
        // before our GOAWAY arrived. A client that sends a request later ignores the GOAWAY, and
        // the request is refused.
        sleep(FAREWELL_GRACE).await;
        activity.refuse_new();
        watch_idle(&activity, FAREWELL_GRACE, ConnectionActivity::has_nothing_to_send).await;
    };
    tokio::select! {
        biased;
        ended = taking_turns(connection.as_mut(), &activity) => ended.map_err(io::Error::other),
        () = farewell => Ok(()),
        () = poll_fn(|cx| tails.poll_stalled(cx, &activity)) => Ok(()),
    }
}

/// Polls a connection, and notes each poll in `activity`. The wire limits the bytes that are read
/// in one poll, because hyper would read on as long as there are streams to begin.
async fn taking_turns<F: Future>(mut connection: Pin<&mut F>, activity: &ConnectionActivity) -> F::Output {
    poll_fn(|cx| {
        activity.note_turn();
        connection.as_mut().poll(cx)
    })
    .await
}

/// Watches for a client that does not read the last bytes of its answers. h2 keeps these bytes
/// after the streams have ended for us.
///
/// The client is checked after each poll of the connection. An unauthenticated client has less time
/// to read the last bytes of its answers.
struct Tails {
    /// How long an authenticated client may read nothing of the last bytes of its answers.
    limit: Duration,
    /// The time when unsent last bytes were first seen, and the time when some of them were last
    /// sent; `None` while no last bytes are unsent.
    since: Option<(Instant, Instant)>,
    /// The value of [`ConnectionActivity::unsent`] at the last check.
    seen: (usize, usize),
    alarm: Alarm,
}

impl Tails {
    fn new(limit: Duration) -> Self {
        Tails { limit, since: None, seen: (0, 0), alarm: Alarm::default() }
    }

    /// Returns ready when the client has read nothing of the last bytes of its answers for too
    /// long.
    fn poll_stalled(&mut self, cx: &mut Context<'_>, activity: &ConnectionActivity) -> Poll<()> {
        let unsent = activity.unsent();
        if unsent.0 == 0 || !activity.has_no_request() {
            self.since = None;
            return Poll::Pending;
        }
        let now = Instant::now();
        let (first, last) = self.since.unwrap_or((now, now));
        let last = if unsent == self.seen { last } else { now };
        (self.since, self.seen) = (Some((first, last)), unsent);
        let by = match activity.unauthenticated_use.is_known() {
            true => last + self.limit,
            false => (last + OUR_ANSWER_TIME).min(first + UNAUTHENTICATED_TIME),
        };
        self.alarm.poll(cx, by)
    }
}

fn builder(
    streams: StreamExecutor,
    limits: &Limits,
    allowance: &Allowance,
) -> http2::Builder<StreamExecutor> {
    let mut builder = http2::Builder::new(streams);
    builder
        // The limit of requests in service at once; further streams are refused.
        .max_concurrent_streams(MAX_STREAMS)
        // Rapid reset (CVE-2023-44487): streams that the client reset before we began to serve
        // them. Too many such streams close the connection.
        .max_pending_accept_reset_streams(MAX_STREAMS_TAKEN_BACK)
        // MadeYouReset (CVE-2025-8671): streams that we reset because of a client's errors. Too
        // many such streams close the connection.
        .max_local_error_reset_streams(allowance.broken_streams)
        // h2 bounds HPACK bombs and endless CONTINUATION frames by this size. Our guard refuses
        // header lists past `header_bytes`, the limit that is announced, with an answer that names
        // the limit. Past four times `header_bytes`, h2 refuses without a body.
        .max_header_list_size(u32::try_from(limits.header_bytes.saturating_mul(4)).unwrap_or(u32::MAX))
        // The size of the HPACK table that we keep for a client, in bytes.
        .header_table_size(4096)
        // The largest frame, which is buffered whole, in bytes. It is also the most that a stream
        // sends at a time before other streams have their turn.
        .max_frame_size(16 * 1024)
        // Bytes that a client may send ahead of a slow upstream, per stream and per connection.
        .initial_stream_window_size(allowance.stream_window)
        .initial_connection_window_size(allowance.connection_window)
        // Bytes that upstream may send ahead of a slow client, per stream.
        .max_send_buf_size(128 * 1024);
    // Limits that are enforced elsewhere: the wire bounds floods of PING, SETTINGS and similar
    // frames, and each stream's task ends the stream if its client stalls.
    builder
}
