//! Destinations of log lines. Events are written to standard error. Access lines and audit lines
//! are written to standard error, too, or each to a destination of its own.

mod sink;
mod writer;

use std::io::{self, IsTerminal, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, filter::LevelFilter};

use super::line_quotas::{Kind, LeftOut, LineQuotas, LineSource};
use super::shown::timestamp;
use super::trace::export::Tracer;
use crate::config::{Log, LogFormat, LogTarget};
use crate::thread_supervisor::Threads;
use sink::Sink;
use writer::LogGuard;
pub(crate) use writer::LogWriter;

/// Interval at which the numbers of left-out lines are checked.
const LEFT_OUT_LOOK: Duration = Duration::from_secs(1);

/// The destinations of lines about requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Logs {
    /// The access log: a line for each request.
    pub(crate) access: Option<Arc<LogWriter>>,
    /// The audit log: a line for each refusal and each suspicious request.
    pub(crate) audit: Option<Arc<LogWriter>>,
    /// The share of successful requests that have an access line, from 0 to 1.
    pub(super) access_sample: f64,
    /// The threads of the process, including the threads of the logs.
    pub(crate) threads: Threads,
    /// Quotas of log lines about requests without a valid key.
    pub(crate) line_quotas: Arc<LineQuotas>,
    /// The exporter of spans.
    pub(super) traces: Option<Arc<Tracer>>,
    /// All destinations, with their names.
    all: Vec<(LogTarget, Arc<LogWriter>)>,
}

impl Logs {
    /// Adds an exporter of spans.
    pub(crate) fn traced_by(self, tracer: Arc<Tracer>) -> Self {
        Logs { traces: Some(tracer), ..self }
    }

    /// Returns how many spans were dropped since the start; `None` without an exporter.
    pub(crate) fn lost_spans(&self) -> Option<u64> {
        self.traces.as_ref().map(|tracer| tracer.lost())
    }

    /// Opens all log files again by their names.
    pub(crate) fn reopen(&self) {
        self.all.iter().for_each(|(_, writer)| writer.reopen());
    }

    /// Reports, until the process ends, how many lines were left out of each log. The report is a
    /// line of the same log.
    pub(crate) async fn keep_reporting_left_out(&self) {
        let mut tick = tokio::time::interval(LEFT_OUT_LOOK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.report_left_out(self.line_quotas.ended(Some(Instant::now())));
        }
    }

    /// Reports the lines that were left out since the last report, before the process ends.
    pub(crate) fn report_left_out_at_the_end(&self) {
        self.report_left_out(self.line_quotas.ended(None));
    }

    fn report_left_out(&self, all: Vec<LeftOut>) {
        for left_out in all {
            let writer = match left_out.kind {
                Kind::Access => &self.access,
                Kind::Audit => &self.audit,
            };
            if let Some(writer) = writer {
                writer.audit(&LeftOutLine::of(&left_out), LeftOutLine::pretty);
            }
        }
    }

    /// Returns how many lines about requests without a valid key were left out since the start, by
    /// log.
    pub(crate) fn left_out(&self) -> [(&'static str, u64); 2] {
        Kind::ALL.map(|kind| (kind.name(), self.line_quotas.left_out(kind)))
    }

    /// Returns how many lines were dropped since the start, by destination.
    pub(crate) fn lost(&self) -> impl Iterator<Item = (String, u64)> {
        self.all.iter().map(|(target, writer)| (target.to_string(), writer.lost()))
    }
}

/// A log line that reports how many lines were left out.
#[derive(Debug, Serialize)]
struct LeftOutLine {
    timestamp: String,
    level: &'static str,
    message: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'static str>,
    /// The source of the requests: an address, a /64 of IPv6, a key's id, `unix sockets` or `other
    /// addresses`.
    of: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<IpAddr>,
    lines: u64,
    seconds: u64,
}

impl LeftOutLine {
    fn of(left_out: &LeftOut) -> Self {
        let LeftOut { kind, lines, seconds, .. } = *left_out;
        // Programs that read audit lines select them by the field `message`.
        let (message, event) = match kind {
            Kind::Access => ("left_out", None),
            Kind::Audit => ("audit", Some("left_out")),
        };
        let client = match left_out.of {
            Some(LineSource::Address(address)) => Some(address),
            _ => None,
        };
        let timestamp = timestamp();
        LeftOutLine { timestamp, level: "WARN", message, event, of: left_out.whose(), client, lines, seconds }
    }

    fn pretty(&self) -> String {
        let LeftOutLine { timestamp, level, of, lines, seconds, .. } = self;
        format!(
            "{timestamp} {level:>5} {lines} more refusals or requests without a key of {of} in {seconds} s"
        )
    }
}

/// Guard of the logs' threads. Dropping it ends the threads after all queued lines are written, so
/// it is kept until the process ends.
#[derive(Debug)]
pub struct LogGuards {
    _guards: Vec<LogGuard>,
}

/// Collects the bytes of one event, and queues them as one line when dropped.
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
        self.writer.event(&mut self.line);
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

/// The destinations of logs that are already open.
struct Opened<'a> {
    config: &'a Log,
    threads: Threads,
    all: Vec<(LogTarget, Arc<LogWriter>)>,
    guards: Vec<LogGuard>,
}

impl Opened<'_> {
    /// Returns the writer to a destination, opened at the first call. Logs with the same
    /// destination share one writer.
    fn writer(&mut self, target: &LogTarget) -> Result<Arc<LogWriter>, (LogTarget, io::Error)> {
        if let Some((_, writer)) = self.all.iter().find(|(known, _)| known == target) {
            return Ok(writer.clone());
        }
        let sink = match target {
            LogTarget::Stderr => Ok(Sink::of(io::stderr())),
            LogTarget::Stdout => Ok(Sink::of(io::stdout())),
            LogTarget::File(path) => Sink::file(path),
        };
        let is_json = self.is_json(target);
        let opened = sink.and_then(|sink| LogWriter::new(&target.to_string(), sink, is_json, &self.threads));
        let (writer, guard) = opened.map_err(|error| (target.clone(), error))?;
        self.guards.push(guard);
        self.all.push((target.clone(), writer.clone()));
        Ok(writer)
    }

    fn is_json(&self, target: &LogTarget) -> bool {
        match (self.config.format, target) {
            (LogFormat::Json, _) | (LogFormat::Auto, LogTarget::File(_)) => true,
            (LogFormat::Pretty, _) => false,
            (LogFormat::Auto, LogTarget::Stderr) => !io::stderr().is_terminal(),
            (LogFormat::Auto, LogTarget::Stdout) => !io::stdout().is_terminal(),
        }
    }
}

/// Starts the process's logs.
///
/// # Errors
///
/// A destination, and the reason why it can't be opened or its thread can't be started.
pub(crate) fn start(config: &Log) -> Result<(Logs, LogGuards), (LogTarget, io::Error)> {
    let mut opened = Opened { config, threads: Threads::default(), all: Vec::new(), guards: Vec::new() };
    let events = opened.writer(&LogTarget::Stderr)?;
    let access = config.access.then(|| opened.writer(&config.access_to)).transpose()?;
    let audit = config.audit.then(|| opened.writer(&config.audit_to)).transpose()?;
    let is_json = opened.is_json(&LogTarget::Stderr);
    // Of the events of libraries (h2, rustls), only warnings and errors are logged, because the
    // other events are many.
    let level = LevelFilter::from_level(config.level);
    let ours = tracing_subscriber::filter::filter_fn(move |metadata| {
        metadata.target().starts_with("bearward") || *metadata.level() <= tracing::Level::WARN
    });
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Events(events));
    let layer = if is_json {
        layer.json().flatten_event(true).with_current_span(false).boxed()
    } else {
        layer.boxed()
    };
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(ours).with_filter(level));
    // If tests start the logs twice in one process, the first subscriber stays.
    let _already_started = tracing::subscriber::set_global_default(subscriber);
    let logs = Logs {
        access,
        audit,
        access_sample: config.access_sample,
        threads: opened.threads,
        all: opened.all,
        ..Logs::default()
    };
    Ok((logs, LogGuards { _guards: opened.guards }))
}
