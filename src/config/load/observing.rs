//! What a configuration says of logs, metrics and traces.

use crate::config::decode::Decoder;
use crate::config::tree::Node;
use crate::config::{Log, LogFormat, LogTarget, Metrics, Traces};

pub(super) fn log(d: &mut Decoder<'_>, node: &Node) -> Option<Log> {
    let mut fields = d.fields(node, "log")?;
    let formats = [("auto", LogFormat::Auto), ("json", LogFormat::Json), ("pretty", LogFormat::Pretty)];
    let levels = [
        ("error", tracing::Level::ERROR),
        ("warn", tracing::Level::WARN),
        ("info", tracing::Level::INFO),
        ("debug", tracing::Level::DEBUG),
        ("trace", tracing::Level::TRACE),
    ];
    let default = Log::default();
    let f = &mut fields;
    let log = Log {
        format: d.optional(f, "format", |d, node| d.one_of(node, &formats)).unwrap_or(default.format),
        level: d.optional(f, "level", |d, node| d.one_of(node, &levels)).unwrap_or(default.level),
        access: d.optional(f, "access", Decoder::boolean).unwrap_or(default.access),
        access_to: d.optional(f, "access_to", log_target).unwrap_or(default.access_to),
        access_sample: d.optional(f, "access_sample", share).unwrap_or(default.access_sample),
        audit: d.optional(f, "audit", Decoder::boolean).unwrap_or(default.audit),
        audit_to: d.optional(f, "audit_to", log_target).unwrap_or(default.audit_to),
    };
    d.done(fields);
    Some(log)
}

fn log_target(d: &mut Decoder<'_>, node: &Node) -> Option<LogTarget> {
    match d.word(node)?.as_str() {
        "stderr" => Some(LogTarget::Stderr),
        "stdout" => Some(LogTarget::Stdout),
        path if path.starts_with('/') || path.starts_with('.') => {
            d.written_files.push((path.into(), node.at));
            Some(LogTarget::File(path.into()))
        }
        other => {
            d.fault(node.at, format!("`{other}` is no place for a log")).hint =
                Some("stderr, stdout, or a file's path, as in /var/log/bearward/access.log".to_owned());
            None
        }
    }
}

/// From 0 to 1.
fn share(d: &mut Decoder<'_>, node: &Node) -> Option<f64> {
    let share: f64 = d.parsed(node, "a number", "from 0 to 1, as in 0.1")?;
    if !(0.0..=1.0).contains(&share) {
        d.fault(node.at, "not a share of a whole").hint = Some("from 0 to 1, as in 0.1".to_owned());
        return None;
    }
    Some(share)
}

pub(super) fn metrics(d: &mut Decoder<'_>, node: &Node) -> Option<Metrics> {
    let mut fields = d.fields(node, "metrics")?;
    let default = Metrics::default();
    let key_ids = d.optional(&mut fields, "key_ids", |d, node| d.number(node, 0));
    d.done(fields);
    Some(Metrics { key_ids: key_ids.unwrap_or(default.key_ids) })
}

/// A share of the requests that come without a trace, small enough for any collector.
const DEFAULT_TRACE_SAMPLE: f64 = 0.01;

pub(super) fn traces(d: &mut Decoder<'_>, node: &Node) -> Option<Traces> {
    let mut fields = d.fields(node, "traces")?;
    let authority = d.required(&mut fields, "endpoint", collector);
    let sample = d.optional(&mut fields, "sample", share);
    let service_name = d.optional(&mut fields, "service_name", Decoder::word);
    d.done(fields);
    Some(Traces {
        authority: authority?,
        sample: sample.unwrap_or(DEFAULT_TRACE_SAMPLE),
        service_name: service_name.unwrap_or_else(|| "bearward".to_owned()),
    })
}

/// `http://HOST:PORT`.
fn collector(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let text = d.word(node)?;
    let authority = text.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
    let has_port =
        |authority: &&str| authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    match authority.filter(has_port) {
        Some(authority) if !authority.contains(['/', '@']) => Some(authority.to_owned()),
        _ => {
            d.fault(node.at, format!("`{text}` is no collector")).hint = Some(
                "http:// with host and port, as in http://127.0.0.1:4318; /v1/traces is added".to_owned(),
            );
            None
        }
    }
}
