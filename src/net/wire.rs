//! The thin layer between hyper and a socket.
//!
//! hyper's HTTP/1 server answers unparsable requests with an empty 400, 414 or 431 of its own, and
//! has no hook to change that. It writes such a refusal only while no request is in service, so
//! this layer needs no parser: bytes that hyper writes at such a time are a refusal, and our JSON
//! replaces them. The layer also has the timers for incomplete heads, idle connections and clients
//! that do not read. It gives a client that is still sending time to read its refusal before the
//! connection is closed.

mod parts;
mod turns;
mod write;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::frames::{Credit, FrameMeter, OpenAnswers, with_header_list};
use super::phase::{HeadSeen, Phase, WireTimeouts};
use super::presence::Peered;
use crate::activity::ConnectionActivity;
use crate::activity::cut::CutReason;
use crate::alarm::Alarm;
use parts::{Ending, Frames, Heads, Presence, ReadTurn};

/// Makes the answer that replaces one of hyper's own refusals. The arguments are the status that
/// hyper chose and the size of the received part of the head.
pub(crate) type Refuse = Box<dyn Fn(u16, HeadSeen) -> Bytes + Send>;

/// Interval of checks whether a client has left, while hyper reads nothing from this client.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// If more bytes than this are unread after a whole request, the kernel's receive buffer may be
/// full, so that the end of the connection can't arrive.
const MOST_BEHIND: u64 = 64 * 1024;
/// Idle time after which a connection rests: hyper's connection object, with its parser and its
/// buffers, is dropped until more bytes arrive.
const REST_AFTER: Duration = Duration::from_secs(1);
/// Time after which the connection of an unauthenticated client that reads nothing is ended.
pub(super) const UNAUTHENTICATED_STALL: Duration = Duration::from_secs(5);

/// The stream that hyper reads and writes, on top of a connection's socket.
pub(crate) struct Wire<S: Peered> {
    stream: S,
    activity: Arc<ConnectionActivity>,
    timeouts: WireTimeouts,
    /// Bytes that were read before hyper's connection object was made: to distinguish HTTP/1 from
    /// HTTP/2, or during a rest. hyper gets these bytes first.
    ahead: Bytes,
    /// Bytes that are written before anything else: our refusal, or our HTTP/2 settings.
    queued: Bytes,
    /// Makes the answers that replace hyper's refusals. `None` under HTTP/2, where h2 refuses
    /// requests with frames.
    refuse: Option<Refuse>,
    /// Under HTTP/2, the counts of frames.
    frames: Option<Box<Frames>>,
    /// Under HTTP/2, the limit of header lists to announce, in bytes; `None` once it was announced.
    header_list: Option<u32>,
    /// Under HTTP/2, the bytes read in the current poll of the connection's task.
    turn: ReadTurn,
    heads: Heads,
    presence: Presence,
    ending: Ending,
    /// The last byte that was searched for a bare LF (a line feed without CR before it).
    last_byte: u8,
    /// The one timer that all waits share.
    alarm: Alarm,
    /// When the current write stopped making progress; `None` if no write is blocked.
    write_blocked: Option<Instant>,
}

impl<S: AsyncRead + AsyncWrite + Peered + Unpin> Wire<S> {
    /// Makes a wire for a new connection, from which `ahead` was read already.
    pub(crate) fn new(
        stream: S,
        ahead: Bytes,
        activity: Arc<ConnectionActivity>,
        timeouts: WireTimeouts,
    ) -> Self {
        let seen = HeadSeen::default().and(&ahead);
        let first_bytes_by = ahead.is_empty().then(|| Instant::now() + timeouts.header);
        Wire {
            stream,
            activity,
            timeouts,
            ahead,
            queued: Bytes::new(),
            refuse: None,
            frames: None,
            header_list: None,
            turn: ReadTurn::default(),
            heads: Heads {
                // The time limit of the first head begins when the connection begins, because a
                // client connects in order to send a request.
                phase: Phase::Head { since: Instant::now(), seen },
                next: None,
                first_bytes_by,
                seen: 0,
                has_rest: false,
            },
            presence: Presence::default(),
            ending: Ending::default(),
            last_byte: 0,
            alarm: Alarm::default(),
            write_blocked: None,
        }
    }

    /// Waits for more bytes during a rest, without hyper's connection object. `unparsed` are bytes
    /// that hyper has read and not parsed: empty lines, or the beginning of a head that came with
    /// the previous request. Returns whether more bytes came. If no bytes came, the stream has
    /// ended, or the wait for a head or for the rest of a head took too long.
    ///
    /// # Errors
    ///
    /// Fails with errors of the system or of TLS.
    pub(crate) async fn rest(&mut self, unparsed: Bytes) -> io::Result<bool> {
        self.activity.note_rest(false);
        if let Phase::Idle { since } = self.heads.phase
            && !HeadSeen::is_blank(&unparsed)
        {
            self.heads.phase = Phase::Head { since, seen: HeadSeen::default().and(&unparsed) };
        }
        let unread = std::mem::take(&mut self.ahead);
        let more = match unread.is_empty() {
            true => poll_fn(|cx| self.poll_more(cx)).await?,
            false => unread,
        };
        let has_more = !more.is_empty();
        self.ahead = if unparsed.is_empty() { more } else { [unparsed, more].concat().into() };
        Ok(has_more)
    }

    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        // The buffer is on the stack and exists only during a read, so a connection at rest uses no
        // memory for a buffer.
        let mut room = [0; 4096];
        let mut more = ReadBuf::new(&mut room);
        ready!(Pin::new(self).poll_read(cx, &mut more))?;
        Poll::Ready(Ok(Bytes::copy_from_slice(more.filled())))
    }

    /// Replaces hyper's refusals by the answers that `refuse` makes.
    pub(crate) fn refusing(mut self, refuse: Refuse) -> Self {
        self.refuse = Some(refuse);
        let ahead = self.ahead.clone();
        self.look_for_bare_lf(&ahead);
        self
    }

    /// Counts the frames of HTTP/2, and announces `header_list` as the limit of header lists
    /// instead of hyper's limit.
    pub(crate) fn metered(mut self, header_list: u32) -> Self {
        self.frames = Some(Box::new(Frames { received: FrameMeter::new(), answers: OpenAnswers::new() }));
        self.header_list = Some(header_list);
        self
    }

    /// Notes whether requests were served since the last call. If so, the wait for the next head
    /// begins now.
    fn note_served_requests(&mut self) {
        let begun = self.activity.begun();
        if begun != self.heads.seen {
            self.heads.seen = begun;
            self.heads.has_rest = false;
            self.activity.note_rest(false);
            let since = Instant::now();
            self.heads.phase = match self.heads.next.take().filter(|(of, _)| *of == begun) {
                Some((_, seen)) => Phase::Head { since, seen },
                None => Phase::Idle { since },
            };
        }
    }

    fn look_for_bare_lf(&mut self, bytes: &[u8]) {
        if self.activity.has_bare_lf() {
            return;
        }
        let before = |at: usize| at.checked_sub(1).map_or(Some(&self.last_byte), |at| bytes.get(at));
        if memchr::memchr_iter(b'\n', bytes).any(|at| before(at) != Some(&b'\r')) {
            self.activity.note_bare_lf();
        }
        self.last_byte = bytes.last().copied().unwrap_or(self.last_byte);
    }

    fn received(&mut self, bytes: &[u8]) {
        self.heads.first_bytes_by = None;
        self.ending.is_overdue = false;
        if self.refuse.is_none() {
            return;
        }
        if !HeadSeen::is_blank(bytes) {
            self.activity.note_rest(false);
        }
        self.look_for_bare_lf(bytes);
        if !self.activity.has_no_request() {
            if !self.activity.may_be_sending() && !HeadSeen::is_blank(bytes) {
                let begun = self.activity.begun();
                let before = self.heads.next.filter(|(of, _)| *of == begun).unwrap_or_default().1;
                self.heads.next = Some((begun, before.and(bytes)));
            }
            return;
        }
        self.note_served_requests();
        self.heads.phase = self.heads.phase.and(bytes);
    }

    /// Returns the deadline of hyper's current wait for bytes. Under HTTP/1, this is `None` while a
    /// request is in service, because requests have their own timers. Under HTTP/2, it is `None` if
    /// the first bytes have arrived and no frame is incomplete, because `http2` has the timers of
    /// idle connections.
    fn read_deadline(&mut self) -> Option<Instant> {
        if let Some(frames) = &self.frames {
            let owed_since = frames.received.incomplete_since().map(Instant::from_std);
            let head_by = owed_since.map(|since| since + self.timeouts.header);
            return head_by.into_iter().chain(self.heads.first_bytes_by).min();
        }
        if !self.activity.has_no_request() {
            return None;
        }
        self.note_served_requests();
        Some(self.heads.phase.end(self.timeouts))
    }

    /// Returns ready when the wait for bytes must end. This method is called only when there are no
    /// bytes to read.
    fn poll_waited(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.read_deadline() else { return Poll::Pending };
        if let Phase::Idle { since } = self.heads.phase
            && !self.heads.has_rest
            && !self.ending.is_closing
            && since + REST_AFTER < deadline
        {
            ready!(self.alarm.poll(cx, since + REST_AFTER));
            self.heads.has_rest = true;
            self.activity.note_rest(true);
        }
        self.alarm.poll(cx, deadline)
    }

    /// Counts received HTTP/2 frames. Fails if the client floods us with frames that carry nothing.
    fn meter(&mut self, bytes: &[u8]) -> Poll<io::Result<()>> {
        let Some(frames) = &mut self.frames else { return Poll::Ready(Ok(())) };
        let (answered, sent) = self.activity.handed_out();
        let credit = Credit { requests: self.activity.begun(), frames: answered, bytes: sent };
        let Frames { received, answers } = &mut **frames;
        let resets = received.resets();
        let goes_on = received.takes(bytes, answers, credit, std::time::Instant::now());
        if received.resets() > resets && !self.activity.unauthenticated_use.is_known() {
            // h2 counts only streams that were reset before we began them. An unauthenticated
            // client's bytes are read in small pieces, so few streams are reset that early, and all
            // resets are counted here.
            (resets..received.resets()).for_each(|_| self.activity.unauthenticated_use.note_abuse());
        }
        self.activity.note_unsent(answers.count(), false);
        match goes_on {
            true => Poll::Ready(Ok(())),
            false => Poll::Ready(Err(io::Error::other("a flood of HTTP/2 frames that carry nothing"))),
        }
    }

    /// Notes the HTTP/2 frames in bytes that were written.
    fn wrote(&mut self, bytes: &[u8]) {
        if let Some(frames) = &mut self.frames {
            let has_data = frames.answers.wrote(bytes);
            self.activity.note_unsent(frames.answers.count(), has_data);
        }
    }

    /// Fails if the client has left while hyper does not read. hyper does not read while upstream
    /// reads nothing of the body, or while the next request waits, so hyper would notice much later
    /// that the client has left.
    fn poll_presence(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_not_ours = self.refuse.is_none() || self.activity.is_tunnel();
        if is_not_ours || self.presence.is_watched || self.activity.has_no_request() {
            self.presence.probe_at = None;
            self.presence.behind_since = None;
            return Poll::Ready(Ok(()));
        }
        let now = Instant::now();
        let due = *self.presence.probe_at.get_or_insert(now + PROBE_INTERVAL);
        if now >= due {
            if self.stream.peer_has_left() || self.hides_its_end(now) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            self.presence.probe_at = Some(now + PROBE_INTERVAL);
        }
        let due = self.presence.probe_at.unwrap_or(due);
        if self.alarm.poll(cx, due).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    /// Whether more than [`MOST_BEHIND`] bytes have been unread after a whole request for the idle
    /// time, so that an end of the connection could not have arrived.
    fn hides_its_end(&mut self, now: Instant) -> bool {
        if self.activity.may_be_sending() || self.stream.unread() <= MOST_BEHIND {
            self.presence.behind_since = None;
            return false;
        }
        now >= *self.presence.behind_since.get_or_insert(now) + self.timeouts.idle
    }

    /// Whether the bytes that hyper writes now are a refusal by hyper itself.
    fn is_refusal(&mut self) -> bool {
        self.refuse.is_some() && self.activity.is_quiet()
    }

    /// Drops hyper's refusal and queues ours.
    fn replace(&mut self, hypers: &[u8]) {
        let Some(refuse) = &self.refuse else { return };
        let status = hypers
            .get(9..12)
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| digits.parse().ok());
        debug_assert!(status.is_some(), "hyper writes what is no refusal: {hypers:?}");
        self.queued = refuse(status.unwrap_or(400), self.heads.phase.head());
        self.ending.has_refused = true;
        self.closes();
    }

    /// Notes that the connection is ending. The connection must not rest any more: after a rest,
    /// hyper would parse the bytes that follow a refused request as a new request.
    fn closes(&mut self) {
        self.ending.is_closing = true;
        self.activity.note_rest(false);
    }

    /// Queues hyper's SETTINGS frame, with our limit of header lists instead of hyper's. Returns
    /// whether `hypers` was a SETTINGS frame.
    ///
    /// hyper accepts larger header lists than are announced. A list between the two limits is
    /// refused with an answer of ours.
    fn announce(&mut self, hypers: &[u8]) -> bool {
        let Some(header_list) = self.header_list.take() else { return false };
        let settings = with_header_list(hypers, header_list);
        self.queued = settings.unwrap_or_default();
        let is_announced = !self.queued.is_empty();
        if is_announced {
            self.wrote(hypers);
        }
        is_announced
    }

    /// Sends the queued bytes. If no bytes are queued, `write_blocked` is not reset, because the
    /// write has made no progress.
    fn send_queued(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.queued.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let queued = self.poll_queued(cx);
        self.watch_write(cx, queued)
    }

    fn poll_queued(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.queued.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.queued))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.queued.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Fails if a write has been blocked for too long: for `client_stall` while an answer is being
    /// sent, and for the idle time while no answer is being sent (such as for our HTTP/2 settings).
    /// For an unauthenticated client, both times are at most [`UNAUTHENTICATED_STALL`].
    fn watch_write<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.write_blocked = None;
            return polled;
        }
        let since = *self.write_blocked.get_or_insert_with(Instant::now);
        let limit = match (self.activity.is_quiet(), self.activity.unauthenticated_use.is_known()) {
            (true, true) => self.timeouts.idle,
            (true, false) => self.timeouts.idle.min(UNAUTHENTICATED_STALL),
            (false, true) => self.timeouts.client_stall,
            (false, false) => self.timeouts.client_stall.min(UNAUTHENTICATED_STALL),
        };
        ready!(self.alarm.poll(cx, since + limit));
        self.activity.ends_for(CutReason::ClientStalled);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + AsyncWrite + Peered + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let is_in_pieces = this.frames.is_some() && !this.activity.unauthenticated_use.is_known();
        if this.frames.is_some() && !this.has_turn(is_in_pieces) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if !this.ahead.is_empty() {
            let most = if is_in_pieces { this.piece() } else { buf.remaining() };
            let piece = this.ahead.split_to(this.ahead.len().min(most).min(buf.remaining()));
            buf.put_slice(&piece);
            if this.ahead.is_empty() {
                // An empty slice of the buffer would keep the whole buffer allocated.
                this.ahead = Bytes::new();
            }
            this.turn.bytes += piece.len();
            return this.meter(&piece);
        }
        let before = buf.filled().len();
        let read = match is_in_pieces {
            true => this.poll_piece(cx, buf),
            false => Pin::new(&mut this.stream).poll_read(cx, buf),
        };
        this.presence.is_watched = read.is_pending();
        match read {
            Poll::Ready(Ok(())) => {
                let bytes = buf.filled().get(before..).unwrap_or_default();
                this.turn.bytes += bytes.len();
                this.received(bytes);
                this.meter(bytes)
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                ready!(this.poll_waited(cx));
                // Reports the end of the stream to hyper, which closes an idle connection cleanly,
                // and treats an incomplete head as an error.
                this.ending.has_ended = true;
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl<S: Peered> Drop for Wire<S> {
    fn drop(&mut self) {
        if self.activity.is_broken_off() {
            self.stream.reset();
        }
    }
}

#[cfg(test)]
mod tests;
