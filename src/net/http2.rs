//! A connection of HTTP/2: its limits, and its end.

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

/// Streams that a client may have open on a connection.
const MAX_STREAMS: u32 = 200;
/// Streams that were reset before they were served, before the connection is closed; h2's own
/// default is 20.
const MAX_STREAMS_TAKEN_BACK: usize = 20;
/// Streams that a client's errors made us reset, before the connection is closed; h2's own default
/// is 1024.
const MAX_STREAMS_BROKEN: usize = 128;

/// Bytes of bodies that a client may send ahead of upstream, and the number of its errors.
struct Allowance {
    /// Windows of one stream and of the connection, in bytes.
    stream_window: u32,
    connection_window: u32,
    /// For the connection's whole life; `None` is without limit.
    broken_streams: Option<usize>,
}

/// The allowance of one client.
const CLIENTS: Allowance = Allowance {
    stream_window: 256 * 1024,
    connection_window: 1024 * 1024,
    broken_streams: Some(MAX_STREAMS_BROKEN),
};
/// The allowance of a trusted proxy, whose connection is shared. Some of its clients send nonsense
/// now and then; and an upload that upstream does not read must not use up the window of others. A
/// stream needs less, as proxies are near.
const PROXYS: Allowance =
    Allowance { stream_window: 64 * 1024, connection_window: 64 * 1024 * MAX_STREAMS, broken_streams: None };

/// Time for a client that left many answers unread to end its streams when its connection is
/// closed.
const ABUSE_GRACE: Duration = Duration::from_secs(2);
/// Time for an unauthenticated client, in all, to take the last bytes of its answers.
const UNAUTHENTICATED_TIME: Duration = Duration::from_secs(30);
/// Time for a client that ends nothing and sends nothing after GOAWAY: the wait is between once and
/// twice as long.
const FAREWELL_GRACE: Duration = Duration::from_secs(1);

/// Serves the connection until it ends.
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
    // Boxed, and freed once the head of the answer is there: a stream whose client takes nothing
    // holds little.
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
    // A client that is refused whatever it asks is disconnected; HTTP/2 has no `Connection: close`.
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
    // A client that never closes its side is not waited for.
    let farewell = async {
        if is_abused {
            activity.refuse_new();
            return sleep(ABUSE_GRACE).await;
        }
        // A request may cross our GOAWAY. A later one is of a client that ignores it.
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

/// Drives a connection, and notes each poll for its wire: in one poll, hyper reads as often as
/// there are streams to begin.
async fn taking_turns<F: Future>(mut connection: Pin<&mut F>, activity: &ConnectionActivity) -> F::Output {
    poll_fn(|cx| {
        activity.note_turn();
        connection.as_mut().poll(cx)
    })
    .await
}

/// The last bytes of answers whose streams have ended for us, which h2 keeps for a client that
/// makes no room.
///
/// Checked after each poll of the connection. An unauthenticated client has little time to take
/// them.
struct Tails {
    /// The time limit for an authenticated client.
    limit: Duration,
    /// Since when there are such bytes, and since when none of them has gone out.
    since: Option<(Instant, Instant)>,
    /// The unsent answers at that time.
    seen: (usize, usize),
    alarm: Alarm,
}

impl Tails {
    fn new(limit: Duration) -> Self {
        Tails { limit, since: None, seen: (0, 0), alarm: Alarm::default() }
    }

    /// Ready when the client has taken none of them for too long.
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
        // Requests in work at once; streams beyond are refused.
        .max_concurrent_streams(MAX_STREAMS)
        // Rapid reset (CVE-2023-44487): streams that were reset before we began them. More close
        // the connection.
        .max_pending_accept_reset_streams(MAX_STREAMS_TAKEN_BACK)
        // MadeYouReset (CVE-2025-8671): streams that a client's errors made us reset. More close
        // the connection.
        .max_local_error_reset_streams(allowance.broken_streams)
        // HPACK bombs and endless CONTINUATION: h2 bounds both by this size. Our guard refuses at
        // `header_bytes`, which is announced, with a body that names it. Beyond four times that, h2
        // refuses without a body.
        .max_header_list_size(u32::try_from(limits.header_bytes.saturating_mul(4)).unwrap_or(u32::MAX))
        // The HPACK table that we keep for a client.
        .header_table_size(4096)
        // The part of a frame that has to be kept. It is also the share of the connection that a
        // stream has at a time.
        .max_frame_size(16 * 1024)
        // Bytes that a client may send ahead of a slow upstream, for a stream and for all.
        .initial_stream_window_size(allowance.stream_window)
        .initial_connection_window_size(allowance.connection_window)
        // Bytes that upstream may send ahead of a slow client, for a stream.
        .max_send_buf_size(128 * 1024);
    // The wire bounds floods of PING, SETTINGS and the like; each stream's task ends it when its
    // client stalls it.
    builder
}
