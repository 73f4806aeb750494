//! `health`: the health check of an upstream's endpoints.

use std::time::Duration;

use http::uri::PathAndQuery;

use crate::config::decode::Decoder;
use crate::config::form::{Form, duration_of_at_least, number, text};
use crate::config::section::section;
use crate::config::tree::Node;

section! {
    /// A GET request that bearward sends to each endpoint regularly, with the upstream's Host and
    /// credential. An endpoint that fails the check gets no requests. Not for gRPC.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) struct HealthCheck in "a health check" {
        /// The path of the GET request. An endpoint that answers with 2xx or 3xx passes the check.
        path: PathAndQuery = text(path).required();
        /// The interval between two checks.
        interval: Duration = interval().or(Duration::from_secs(5));
        /// The time limit of a check, from connecting to the head of the answer.
        timeout: Duration = interval().or(Duration::from_secs(2));
        /// The number of consecutive failures after which an endpoint is unhealthy.
        failures: u32 = number(1).or(2);
        /// The number of consecutive successes after which an endpoint is healthy again.
        successes: u32 = number(1).or(1);
    }
}

/// The shortest interval between two health checks, or between two lookups of a host name.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// Returns the `Form` of an interval between health checks, of an interval between lookups of host
/// names, or of the timeout of a health check.
pub(super) fn interval() -> Form<Duration> {
    duration_of_at_least(SHORTEST_INTERVAL, "too short an interval")
}

fn path(d: &mut Decoder<'_>, node: &Node) -> Option<PathAndQuery> {
    let path: PathAndQuery = d.parsed(node, "a path", "as in /health")?;
    if !path.as_str().starts_with('/') || !path.as_str().is_ascii() {
        return d.hinted(node.at, "a path begins with `/`, and is ASCII", "as in /health");
    }
    if path.path().starts_with("/grpc.") {
        let message = "a health check is a GET, which gRPC does not have";
        let hint = "leave `health` out for gRPC: requests find out whether an endpoint accepts connections";
        return d.hinted(node.at, message, hint);
    }
    Some(path)
}
