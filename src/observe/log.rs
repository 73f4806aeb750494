//! The log: lines are put into one buffer under a short lock and written in batches by a thread of its own,
//! so that a slow disk or terminal never holds up a request.
//!
//! The buffer is bounded. Past the bound lines are dropped and counted, and the count is told; access lines go
//! first, so that there is room for the event that says why.

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, filter::LevelFilter};

use super::Logs;
use crate::config::{Log, LogFormat};

/// Access lines past this many bytes that wait to be written are dropped, lines of the audit past half as many again, and
/// lines of events past twice as many.
const MAX_WAITING: usize = 8 * 1024 * 1024;
/// A buffer of lines that grew past this many bytes is given back.
const KEPT: usize = 1024 * 1024;
/// What is left when the process ends gets this long.
const FAREWELL: Duration = Duration::from_secs(2);
/// Access lines wait this long for others to share a write with.
const BATCH_INTERVAL: Duration = Duration::from_millis(50);

thread_local! {
    /// Where this thread builds its lines.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Where all lines go.
#[derive(Debug)]
pub(crate) struct LogWriter {
    shared: Arc<Shared>,
    is_json: bool,
}

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    dropped: u64,
    /// Something that should not wait for the batch.
    is_urgent: bool,
    is_closing: bool,
    /// The thread has written the last of it.
    is_closed: bool,
}

/// Ends the log's thread, once all that waits is written. Keep it until the process ends.
#[derive(Debug)]
pub struct LogGuard {
    shared: Arc<Shared>,
}

impl LogWriter {
    /// A writer to `sink`, and the guard that flushes it.
    pub(crate) fn new(sink: impl Write + Send + 'static, is_json: bool) -> io::Result<(Arc<Self>, LogGuard)> {
        let shared = Arc::new(Shared { waiting: Mutex::default(), changed: Condvar::new() });
        let of_thread = shared.clone();
        std::thread::Builder::new().name("log".to_owned()).spawn(move || write_batches(&of_thread, sink))?;
        let guard = LogGuard { shared: shared.clone() };
        Ok((Arc::new(LogWriter { shared, is_json }), guard))
    }

    /// Queues an access line; `write` writes it without its end, and is told whether as JSON.
    pub(super) fn access(&self, write: impl FnOnce(&mut Vec<u8>, bool)) {
        // Built outside the lock, where the thread's last one was.
        let mut line = SCRATCH.take();
        line.clear();
        write(&mut line, self.is_json);
        line.push(b'\n');
        self.queue(&line, MAX_WAITING);
        SCRATCH.set(line);
    }

    /// Queues a line of the audit, for which there is room when there is none for access lines.
    pub(super) fn audit<T: Serialize>(&self, line: &T, pretty: impl FnOnce(&T) -> String) {
        let mut text = if self.is_json {
            serde_json::to_vec(line).unwrap_or_default()
        } else {
            pretty(line).into_bytes()
        };
        text.push(b'\n');
        self.queue(&text, MAX_WAITING + MAX_WAITING / 2);
    }

    fn queue(&self, line: &[u8], room: usize) {
        let mut waiting = self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.lines.len() + line.len() > room {
            waiting.dropped += 1;
            return;
        }
        let is_first = waiting.lines.is_empty();
        waiting.lines.extend_from_slice(line);
        drop(waiting);
        // The first line of a batch wakes the thread; the others ride along.
        if is_first {
            self.shared.changed.notify_one();
        }
    }

    fn event(&self, line: &[u8]) {
        let mut waiting = self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.lines.len() + line.len() > 2 * MAX_WAITING {
            waiting.dropped += 1;
            return;
        }
        waiting.lines.extend_from_slice(line);
        waiting.is_urgent = true;
        self.shared.changed.notify_one();
    }
}

fn write_batches(shared: &Shared, mut sink: impl Write) {
    // What was written last: its room serves the next batch.
    let mut written = Vec::new();
    loop {
        let (mut lines, dropped, is_closing) = {
            let waiting = shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            // Without a line there is nothing to wake up for.
            let is_idle = |waiting: &mut Waiting| waiting.lines.is_empty() && !waiting.is_closing;
            let waiting = shared.changed.wait_while(waiting, is_idle).unwrap_or_else(PoisonError::into_inner);
            let may_wait = |waiting: &mut Waiting| !waiting.is_urgent && !waiting.is_closing;
            let (mut waiting, _timed_out) = shared
                .changed
                .wait_timeout_while(waiting, BATCH_INTERVAL, may_wait)
                .unwrap_or_else(PoisonError::into_inner);
            waiting.is_urgent = false;
            let dropped = std::mem::take(&mut waiting.dropped);
            (std::mem::replace(&mut waiting.lines, std::mem::take(&mut written)), dropped, waiting.is_closing)
        };
        // Nowhere is left to complain to if this fails.
        if !lines.is_empty() {
            let _lost = sink.write_all(&lines).and_then(|()| sink.flush());
        }
        if is_closing && lines.is_empty() {
            shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_closed = true;
            shared.changed.notify_all();
            return;
        }
        if lines.capacity() <= KEPT {
            lines.clear();
            written = lines;
        }
        if dropped > 0 {
            tracing::warn!(dropped, "log lines were dropped: their reader is too slow");
        }
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let mut waiting = self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.is_closing = true;
        self.shared.changed.notify_all();
        // A reader that takes nothing must not keep the process from ending.
        let is_open = |waiting: &mut Waiting| !waiting.is_closed;
        let _in_time_or_not = self.shared.changed.wait_timeout_while(waiting, FAREWELL, is_open);
    }
}

/// Collects one event's bytes and queues them whole.
#[derive(Debug)]
pub(crate) struct EventWriter {
    writer: Arc<LogWriter>,
    line: Vec<u8>,
}

impl Write for EventWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for EventWriter {
    fn drop(&mut self) {
        self.writer.event(&self.line);
    }
}

#[derive(Debug)]
struct Events(Arc<LogWriter>);

impl MakeWriter<'_> for Events {
    type Writer = EventWriter;

    fn make_writer(&self) -> EventWriter {
        EventWriter { writer: self.0.clone(), line: Vec::with_capacity(256) }
    }
}

/// Starts the process's log on standard error.
///
/// # Errors
///
/// The log's thread could not be started.
pub(crate) fn start(config: Log) -> io::Result<(Logs, LogGuard)> {
    let is_json = match config.format {
        LogFormat::Json => true,
        LogFormat::Pretty => false,
        LogFormat::Auto => !io::stderr().is_terminal(),
    };
    let (writer, guard) = LogWriter::new(io::stderr(), is_json)?;
    // Libraries below us (h2, rustls) speak at length; their warnings are enough.
    let level = LevelFilter::from_level(config.level);
    let ours = tracing_subscriber::filter::filter_fn(move |metadata| {
        metadata.target().starts_with("bearward") || *metadata.level() <= tracing::Level::WARN
    });
    let events = Events(writer.clone());
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(events);
    let layer = if is_json {
        layer.json().flatten_event(true).with_current_span(false).boxed()
    } else {
        layer.boxed()
    };
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(ours).with_filter(level));
    // A second start in one process (tests) keeps the first one's log.
    let _already_started = tracing::subscriber::set_global_default(subscriber);
    let audit = config.audit.then(|| writer.clone());
    Ok((Logs { access: config.access.then_some(writer), audit }, guard))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Takes nothing until it is let.
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
        let (writer, guard) = LogWriter::new(Blocked(gate.clone()), false).unwrap();
        let line = "x".repeat(1024 * 1024);
        for _ in 0..64 {
            writer.access(|out, _| out.extend_from_slice(line.as_bytes()));
            writer.event(line.as_bytes());
        }
        {
            let waiting = writer.shared.waiting.lock().unwrap();
            assert!(waiting.lines.len() <= 2 * MAX_WAITING, "{}", waiting.lines.len());
            assert!(waiting.dropped > 60, "{}", waiting.dropped);
        }
        drop(held);
        drop(guard);
    }

    #[test]
    fn all_lines_are_written_before_the_guard_is_gone() {
        let sink = Sink::default();
        let (writer, guard) = LogWriter::new(sink.clone(), true).unwrap();
        for number in 0..1000 {
            writer.access(|out, _| out.extend_from_slice(number.to_string().as_bytes()));
        }
        drop(guard);
        assert_eq!(sink.0.lock().unwrap().split(|byte| *byte == b'\n').count(), 1001);
    }
}
