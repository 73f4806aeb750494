//! A destination of log lines. Lines are put into one buffer under a short lock, and written in
//! batches by the destination's own thread, so that a slow disk or terminal never delays a request.
//!
//! The buffer is bounded. Lines beyond the bound, and lines that can't be written, are dropped, and
//! their number is logged as an event. The bound for access lines is the lowest, so that there is
//! room for the event that reports the losses.

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::super::shown::escape_hidden;
use super::sink::Sink;
use crate::thread_supervisor::{Duty, Ended, Threads};

/// Queued bytes beyond which access lines are dropped. The bound for audit lines is 1.5 times as
/// high, and the bound for events twice as high.
const MAX_WAITING: usize = 8 * 1024 * 1024;
/// Capacity in bytes up to which an empty buffer is used again; a larger buffer is freed.
const KEPT: usize = 1024 * 1024;
/// How long the end of the process waits until queued lines are written.
const FAREWELL: Duration = Duration::from_secs(2);
/// Shortest time between two reports of lost lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// How long an access line waits, so that later lines are written together with it.
const BATCH_INTERVAL: Duration = Duration::from_millis(50);

thread_local! {
    /// The buffer in which this thread builds its access lines.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The handle with which lines are queued for one destination.
#[derive(Debug)]
pub(crate) struct LogWriter {
    shared: Arc<Shared>,
    is_json: bool,
}

#[derive(Debug)]
struct Shared {
    /// Name of the destination, in events about it.
    name: String,
    waiting: Mutex<Waiting>,
    changed: Condvar,
    /// Number of lines that were lost since the start.
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    /// Whether a queued line is to be written at once, without waiting for a batch.
    is_urgent: bool,
    /// Whether the file is to be opened again by its name before the next write.
    reopens: bool,
    is_closing: bool,
    /// Whether the thread has ended and writes no more lines.
    is_closed: bool,
}

/// Guard of the destination's thread. Dropping it ends the thread after all queued lines are
/// written, so it is kept until the process ends.
#[derive(Debug)]
pub(super) struct LogGuard {
    shared: Arc<Shared>,
}

impl LogWriter {
    /// Starts a thread that writes to `sink`. Returns the writer, and the guard whose drop waits
    /// until all queued lines are written.
    pub(super) fn new(
        name: &str,
        sink: Sink,
        is_json: bool,
        threads: &Threads,
    ) -> io::Result<(Arc<Self>, LogGuard)> {
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            waiting: Mutex::default(),
            changed: Condvar::new(),
            lost: AtomicU64::new(0),
        });
        let of_thread = shared.clone();
        threads.spawn(Duty::Log, "log", move || {
            let _closed_whichever_way_it_ends = Closing(&of_thread);
            write_batches(&of_thread, sink);
            Ended::Asked
        })?;
        let guard = LogGuard { shared: shared.clone() };
        Ok((Arc::new(LogWriter { shared, is_json }), guard))
    }

    /// Queues an access line. `write` appends the line without its line end; its second argument
    /// says whether the line is JSON.
    pub(crate) fn access(&self, write: impl FnOnce(&mut Vec<u8>, bool)) {
        // The line is built before the lock is taken, in a buffer that this thread reuses for every
        // line.
        let mut line = SCRATCH.take();
        line.clear();
        write(&mut line, self.is_json);
        escape_hidden(&mut line, self.is_json);
        line.push(b'\n');
        self.queue(&line, MAX_WAITING, false);
        SCRATCH.set(line);
    }

    /// Queues an audit line, whose bound on queued bytes is higher than that of access lines.
    pub(crate) fn audit<T: Serialize>(&self, line: &T, pretty: impl FnOnce(&T) -> String) {
        let mut text = if self.is_json {
            let text = serde_json::to_vec(line);
            debug_assert!(text.is_ok(), "{text:?}");
            text.unwrap_or_default()
        } else {
            pretty(line).into_bytes()
        };
        escape_hidden(&mut text, self.is_json);
        text.push(b'\n');
        self.queue(&text, MAX_WAITING + MAX_WAITING / 2, false);
    }

    pub(super) fn event(&self, line: &mut Vec<u8>) {
        escape_hidden(line, self.is_json);
        self.queue(line, 2 * MAX_WAITING, true);
    }

    /// Queues a line. If the queue would then have more than `room` bytes, the line is dropped and
    /// counted.
    fn queue(&self, line: &[u8], room: usize, is_urgent: bool) {
        let mut waiting = self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_closed || waiting.lines.len() + line.len() > room {
            drop(waiting);
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let is_first = waiting.lines.is_empty();
        waiting.lines.extend_from_slice(line);
        waiting.is_urgent |= is_urgent;
        drop(waiting);
        // Only the first line of a batch wakes the thread; later lines are written with it.
        if is_first || is_urgent {
            self.shared.changed.notify_one();
        }
    }

    /// Makes the thread open the file again by its name before the next line is written.
    pub(super) fn reopen(&self) {
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).reopens = true;
        self.shared.changed.notify_one();
    }

    /// Returns how many lines were lost since the start.
    pub(super) fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

/// The next task of the thread: the lines to write, whether to reopen the file, and whether to end.
struct Batch {
    lines: Vec<u8>,
    reopens: bool,
    is_closing: bool,
}

impl Shared {
    /// Waits for a line, and then up to [`BATCH_INTERVAL`] for more lines. `spare`: the empty
    /// buffer for lines that are queued later.
    fn next(&self, spare: Vec<u8>) -> Batch {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // The thread sleeps until there is a line, or until it is asked to reopen the file or to
        // end.
        let is_idle =
            |waiting: &mut Waiting| waiting.lines.is_empty() && !waiting.is_closing && !waiting.reopens;
        let waiting = self.changed.wait_while(waiting, is_idle).unwrap_or_else(PoisonError::into_inner);
        let may_wait = |waiting: &mut Waiting| !waiting.is_urgent && !waiting.is_closing && !waiting.reopens;
        let (mut waiting, _timed_out) = self
            .changed
            .wait_timeout_while(waiting, BATCH_INTERVAL, may_wait)
            .unwrap_or_else(PoisonError::into_inner);
        waiting.is_urgent = false;
        let reopens = std::mem::take(&mut waiting.reopens);
        Batch { lines: std::mem::replace(&mut waiting.lines, spare), reopens, is_closing: waiting.is_closing }
    }

    /// Closes the destination: drops and counts all queued lines, and every line that is queued
    /// later.
    fn close(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.is_closed = true;
        let left = memchr::memchr_iter(b'\n', &std::mem::take(&mut waiting.lines)).count();
        drop(waiting);
        self.lost.fetch_add(left as u64, Ordering::Relaxed);
        self.changed.notify_all();
    }
}

fn write_batches(shared: &Shared, mut sink: Sink) {
    let mut spare = Vec::new();
    let mut losses = Losses::default();
    loop {
        let Batch { mut lines, reopens, is_closing } = shared.next(std::mem::take(&mut spare));
        if reopens && let Err(error) = sink.reopen() {
            tracing::error!(log = shared.name, %error, "a log can't be opened again; lines go on to the open file");
        }
        let written = sink.write(&lines);
        if let Err((lost, _)) = &written {
            shared.lost.fetch_add(*lost, Ordering::Relaxed);
        }
        losses.report(shared, written.err().map(|(_, error)| error));
        if is_closing && lines.is_empty() {
            return;
        }
        if lines.capacity() <= KEPT {
            lines.clear();
            spare = lines;
        }
    }
}

/// Guard that closes the destination when its thread ends, even by a panic.
struct Closing<'s>(&'s Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Reports lost lines, at most once in each [`REPORT_INTERVAL`], because the report is itself a
/// line that may be lost if events are written to the same destination.
#[derive(Default)]
struct Losses {
    reported: u64,
    next: Option<Instant>,
}

impl Losses {
    fn report(&mut self, shared: &Shared, error: Option<io::Error>) {
        let lost = shared.lost.load(Ordering::Relaxed);
        let now = Instant::now();
        if lost == self.reported || self.next.is_some_and(|next| now < next) {
            return;
        }
        let error = error.map(|error| error.to_string());
        let why = error.as_deref().unwrap_or("its reader is too slow");
        tracing::warn!(log = shared.name, dropped = lost - self.reported, why, "log lines were dropped");
        (self.reported, self.next) = (lost, Some(now + REPORT_INTERVAL));
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let mut waiting = self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.is_closing = true;
        self.shared.changed.notify_all();
        // The wait is limited, because a destination that accepts nothing must not keep the process
        // from ending.
        let is_open = |waiting: &mut Waiting| !waiting.is_closed;
        let _in_time_or_not = self.shared.changed.wait_timeout_while(waiting, FAREWELL, is_open);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A destination for tests, whose writes wait until the test releases a lock.
    struct Blocked(Arc<Mutex<()>>);

    impl Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            drop(self.0.lock());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_takes_nothing_costs_lines_and_not_memory() {
        let gate = Arc::new(Mutex::new(()));
        let held = gate.lock().unwrap();
        let (writer, guard) =
            LogWriter::new("test", Sink::of(Blocked(gate.clone())), false, &Threads::default()).unwrap();
        let line = "x".repeat(1024 * 1024);
        for _ in 0..64 {
            writer.access(|out, _| out.extend_from_slice(line.as_bytes()));
            writer.event(&mut line.clone().into_bytes());
        }
        {
            let waiting = writer.shared.waiting.lock().unwrap();
            assert!(waiting.lines.len() <= 2 * MAX_WAITING, "{}", waiting.lines.len());
            assert!(writer.lost() > 60, "{}", writer.lost());
        }
        drop(held);
        drop(guard);
    }

    #[test]
    fn all_lines_are_written_before_the_guard_is_gone() {
        let sink = Kept::default();
        let (writer, guard) =
            LogWriter::new("test", Sink::of(sink.clone()), true, &Threads::default()).unwrap();
        for number in 0..1000 {
            writer.access(|out, _| out.extend_from_slice(number.to_string().as_bytes()));
        }
        drop(guard);
        assert_eq!(sink.0.lock().unwrap().split(|byte| *byte == b'\n').count(), 1001);
    }

    /// A destination for tests that fails as a full disk does.
    struct Full;

    impl Write for Full {
        fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A destination for tests that panics, which ends the writer's thread.
    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
            panic!("a test asked for this")
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_thread_that_has_ended_is_seen_and_the_lines_behind_it_are_counted() {
        let threads = Threads::default();
        let (writer, guard) = LogWriter::new("test", Sink::of(Broken), true, &threads).unwrap();
        writer.access(|out, _| out.extend_from_slice(b"the last one"));
        while threads.ended().all(|(_, count)| count == 0) {
            std::thread::yield_now();
        }
        for _ in 0..10 {
            writer.access(|out, _| out.extend_from_slice(b"nobody writes it"));
        }
        assert_eq!(writer.lost(), 10);
        assert!(writer.shared.waiting.lock().unwrap().lines.is_empty());
        drop(guard);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let (writer, guard) = LogWriter::new("test", Sink::of(Full), true, &Threads::default()).unwrap();
        for number in 0..1000 {
            writer.access(|out, _| out.extend_from_slice(number.to_string().as_bytes()));
        }
        drop(guard);
        assert_eq!(writer.lost(), 1000);
    }
}
