//! Sends spans to a collector in batches, from a separate thread: OTLP over HTTP, as JSON
//! (OpenTelemetry Protocol 1.x).
//!
//! No request waits for the collector. The queue of spans is bounded. Spans for which the queue is
//! full, and batches that the collector does not accept, are dropped and counted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use super::{Span, TraceContext};
use crate::config::Traces;
use crate::observe::hex::{hex, span_hex, text};
use crate::thread_supervisor::{Duty, Ended, Threads};

/// Maximum number of queued spans.
const MAX_WAITING: usize = 8192;
const MAX_BATCH: usize = 512;
const BATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Limit for the collector's answer to a batch. Without an answer in this time, the batch counts as
/// lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the end of the process waits until queued spans are sent.
const FAREWELL: Duration = Duration::from_secs(2);
/// Shortest time between two reports of lost spans.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// The handle with which requests queue spans.
#[derive(Debug)]
pub(crate) struct Tracer {
    sender: mpsc::SyncSender<Message>,
    sample: f64,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Message {
    Span(Box<Span>),
    /// Wakes the thread, so that it sees that the process ends.
    End,
}

/// Guard of the exporting thread. Dropping it ends the thread after all queued spans are sent, so
/// it is kept until the process ends.
#[derive(Debug)]
pub(crate) struct TracerGuard {
    sender: mpsc::SyncSender<Message>,
    is_closing: Arc<AtomicBool>,
    /// A channel on which nothing is sent: it disconnects when the thread ends.
    over: mpsc::Receiver<()>,
}

impl Tracer {
    /// Begins a request's trace, which the caller's trace may replace later.
    pub(crate) fn begin(&self) -> TraceContext {
        TraceContext::begin(self.sample)
    }

    /// Queues the span of a request, if its trace is recorded.
    pub(crate) fn queue(&self, context: TraceContext, span: impl FnOnce() -> Span) {
        if context.is_sampled && self.sender.try_send(Message::Span(Box::new(span()))).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns how many spans were lost since the start.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for TracerGuard {
    fn drop(&mut self) {
        self.is_closing.store(true, Ordering::Release);
        // If the queue is full, this message, which wakes the thread, is not sent. The thread is
        // busy then, and sees `is_closing` before it waits again.
        let _wakes_it_up = self.sender.try_send(Message::End);
        // The wait is limited: a collector that accepts nothing must not keep the process from
        // ending.
        let _in_time_or_not = self.over.recv_timeout(FAREWELL);
    }
}

/// Starts the exporting thread. `post` sends a request to `HOST:PORT`, and returns the status of
/// the answer.
///
/// # Errors
///
/// The thread, or its runtime, could not be started.
pub(crate) fn start<P: Post>(
    config: &Traces,
    threads: &Threads,
    post: P,
) -> io::Result<(Arc<Tracer>, TracerGuard)> {
    let (sender, spans) = mpsc::sync_channel(MAX_WAITING);
    let lost = Arc::new(AtomicU64::new(0));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let is_closing = Arc::new(AtomicBool::new(false));
    let exporter = Exporter {
        config: config.clone(),
        post,
        is_closing: is_closing.clone(),
        lost: lost.clone(),
        reported: 0,
        next_report: None,
    };
    let (alive, over) = mpsc::channel();
    let closing = is_closing.clone();
    threads.spawn(Duty::Traces, "traces", move || {
        exporter.run(&spans, &runtime);
        drop(alive);
        if closing.load(Ordering::Acquire) { Ended::Asked } else { Ended::Early }
    })?;
    let guard = TracerGuard { sender: sender.clone(), is_closing, over };
    Ok((Arc::new(Tracer { sender, sample: config.sample, lost }), guard))
}

/// Sends a request to `HOST:PORT`, and returns the status of the answer.
pub(crate) trait Post:
    AsyncFn(&str, Request<Full<Bytes>>) -> anyhow::Result<StatusCode> + Send + 'static
{
}

impl<P> Post for P where P: AsyncFn(&str, Request<Full<Bytes>>) -> anyhow::Result<StatusCode> + Send + 'static {}

struct Exporter<P> {
    config: Traces,
    post: P,
    is_closing: Arc<AtomicBool>,
    lost: Arc<AtomicU64>,
    /// Number of lost spans that were already reported. `next_report`: the earliest time for the
    /// next report.
    reported: u64,
    next_report: Option<Instant>,
}

impl<P: Post> Exporter<P> {
    fn run(mut self, spans: &mpsc::Receiver<Message>, runtime: &tokio::runtime::Runtime) {
        while let Some(first) = self.next(spans) {
            let mut batch = vec![first];
            let until = Instant::now() + BATCH_INTERVAL;
            while batch.len() < MAX_BATCH {
                match spans.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    Ok(Message::Span(span)) => batch.push(span),
                    Ok(Message::End) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                        break;
                    }
                }
            }
            let body = Bytes::from(request(&batch, &self.config.service_name).to_string());
            let sent = runtime.block_on(async { tokio::time::timeout(PATIENCE, self.send(body)).await });
            if let Err(error) = sent.unwrap_or_else(|_elapsed| Err(anyhow::anyhow!("no answer in time"))) {
                self.lost.fetch_add(batch.len() as u64, Ordering::Relaxed);
                self.report(&error.to_string());
            }
        }
    }

    /// Returns the first span of the next batch. While the process runs, this waits for a span;
    /// once the process ends, it returns `None` if the queue is empty.
    fn next(&self, spans: &mpsc::Receiver<Message>) -> Option<Box<Span>> {
        loop {
            let next = match self.is_closing.load(Ordering::Acquire) {
                true => spans.try_recv().ok()?,
                false => spans.recv().ok()?,
            };
            if let Message::Span(span) = next {
                return Some(span);
            }
        }
    }

    async fn send(&self, body: Bytes) -> anyhow::Result<()> {
        let authority = &self.config.authority;
        let request = Request::builder()
            .method(Method::POST)
            .uri("/v1/traces")
            .header(HOST, authority)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        let status = (self.post)(authority, request).await?;
        anyhow::ensure!(status.is_success(), "the collector says {status}");
        Ok(())
    }

    fn report(&mut self, why: &str) {
        let (lost, now) = (self.lost.load(Ordering::Relaxed), Instant::now());
        if self.next_report.is_some_and(|next| now < next) {
            return;
        }
        tracing::warn!(
            collector = self.config.authority,
            dropped = lost - self.reported,
            why,
            "spans were dropped"
        );
        (self.reported, self.next_report) = (lost, Some(now + REPORT_INTERVAL));
    }
}

/// Builds an `ExportTraceServiceRequest` (opentelemetry-proto) in its JSON form, where ids are hex.
fn request(spans: &[Box<Span>], service_name: &str) -> Value {
    json!({"resourceSpans": [{
        "resource": {"attributes": [
            word("service.name", service_name),
            word("service.version", env!("CARGO_PKG_VERSION")),
        ]},
        "scopeSpans": [{
            "scope": {"name": "bearward", "version": env!("CARGO_PKG_VERSION")},
            "spans": spans.iter().map(|one| span(one)).collect::<Vec<_>>(),
        }],
    }]})
}

fn span(span: &Span) -> Value {
    let TraceContext { trace, parent, span: id, .. } = span.context;
    let nanos =
        |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos().to_string();
    let began = span.ended.checked_sub(span.took).unwrap_or(SystemTime::UNIX_EPOCH);
    let Span { method, path, .. } = span;
    let mut attributes = vec![
        word("http.request.method", method),
        word("url.path", path),
        word("network.protocol.name", "http"),
        word("network.protocol.version", span.protocol.trim_start_matches("HTTP/")),
        word("bearward.request_id", &span.request_id),
    ];
    if span.status > 0 {
        attributes.push(
            json!({"key": "http.response.status_code", "value": {"intValue": span.status.to_string()}}),
        );
    }
    let client = span.client.map(|client| client.to_string());
    let optional = [
        ("client.address", client.as_deref()),
        ("bearward.route", span.route.as_deref()),
        ("bearward.upstream", span.upstream.as_deref()),
        ("bearward.key_id", span.key_id.as_deref()),
        ("gen_ai.request.model", span.model.as_deref()),
        ("bearward.tokens_by", span.tokens.map(|tokens| tokens.by.name())),
        ("error.type", span.error),
    ];
    attributes.extend(optional.into_iter().filter_map(|(name, value)| Some(word(name, value?))));
    // Semantic conventions for generative AI, "Spans".
    let counts = span.tokens.map(|tokens| {
        [("gen_ai.usage.input_tokens", tokens.input), ("gen_ai.usage.output_tokens", tokens.output)]
    });
    attributes.extend(
        counts
            .into_iter()
            .flatten()
            .map(|(name, count)| json!({"key": name, "value": {"intValue": count.to_string()}})),
    );
    // In the span of a server, a status 4xx is not an error, because the client caused it (semantic
    // conventions for HTTP spans, "Status").
    let is_error = span.status >= 500 || span.status == 0;
    let route = span.route.as_deref().map(|route| format!(" {route}")).unwrap_or_default();
    json!({
        "traceId": text(&hex(trace)),
        "spanId": span_hex(id),
        "parentSpanId": parent.map(span_hex).unwrap_or_default(),
        "name": format!("{method}{route}"),
        "kind": 2,
        "startTimeUnixNano": nanos(began),
        "endTimeUnixNano": nanos(span.ended),
        "attributes": attributes,
        "status": if is_error { json!({"code": 2}) } else { json!({}) },
    })
}

fn word(name: &str, value: &str) -> Value {
    json!({"key": name, "value": {"stringValue": value}})
}
