//! `traces`: spans of requests for a collector.

use crate::config::decode::Decoder;
use crate::config::form::{share, text, word};
use crate::config::section::section;
use crate::config::tree::Node;

section! {
    /// Spans of requests for an OpenTelemetry collector.
    #[derive(Clone, Debug, PartialEq)]
    pub(crate) struct Traces in "traces" {
        /// The address of a collector that accepts OTLP over HTTP, as in http://127.0.0.1:4318.
        authority as "endpoint": String = text(collector).required();
        /// The share of requests that are recorded, among those that arrive without a trace.
        sample: f64 = share().or(0.01);
        /// The name of this service in the spans that the collector gets.
        service_name: String = word().or("bearward".to_owned());
    }
}

/// Decodes `http://HOST:PORT` to the host and port.
fn collector(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let text = d.word(node)?;
    let authority = text.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
    let has_port =
        |authority: &&str| authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    match authority.filter(has_port) {
        Some(authority) if !authority.contains(['/', '@']) => Some(authority.to_owned()),
        _ => d.hinted(
            node.at,
            format!("`{text}` is no collector"),
            "http:// with host and port, as in http://127.0.0.1:4318; /v1/traces is added",
        ),
    }
}
