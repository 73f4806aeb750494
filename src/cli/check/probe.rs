//! `bearward check --probe`: reports upstreams that parse the body of a request as another request.

use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::cli::failure::Failure;
use crate::hooks::Hooks;
use crate::upstream::probe::{Verdict, probe};
use crate::upstream::{Endpoint, Upstream};

/// The outcome of the probe of one endpoint with one method.
pub(super) struct Finding {
    upstream: Arc<str>,
    endpoint: String,
    method: &'static str,
    verdict: Verdict,
    is_mended: bool,
}

/// Probes all endpoints of all upstreams at the same time.
pub(super) fn findings(upstreams: &[Arc<Upstream>]) -> Result<Vec<Finding>, Failure> {
    let mut found = Vec::new();
    let mut endpoints: Vec<(&Arc<Upstream>, Arc<Endpoint>)> = Vec::new();
    for upstream in upstreams {
        for set in &upstream.sets {
            if let Some(named) = set.named() {
                set.apply_look_up(Hooks::default().resolve(named.host()));
                found.extend(named.fault().map(|fault| Finding {
                    upstream: upstream.name.clone(),
                    endpoint: set.address.to_string(),
                    method: "any",
                    verdict: Verdict::Unknown(format!("the name can't be looked up: {fault}")),
                    is_mended: false,
                }));
            }
            endpoints.extend(set.endpoints().into_iter().map(|endpoint| (upstream, endpoint)));
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let probes = endpoints.iter().map(|(upstream, endpoint)| probe(endpoint, upstream));
    let verdicts = runtime.block_on(join_all(probes));
    for ((upstream, endpoint), verdicts) in endpoints.iter().zip(verdicts) {
        found.extend(verdicts.into_iter().map(|(method, verdict)| Finding {
            upstream: upstream.name.clone(),
            endpoint: endpoint.to_string(),
            method,
            verdict,
            // After a request with a body and a method other than POST, bearward never reuses the
            // connection to upstream.
            is_mended: method != "POST" || !upstream.connections.reuse_after_body,
        }));
    }
    Ok(found)
}

impl Finding {
    pub(super) fn json(&self) -> Value {
        let outcome = match &self.verdict {
            Verdict::Read => "read",
            Verdict::Unread => "unread",
            Verdict::UnreadDespiteClose => "unread_despite_close",
            Verdict::Unknown(_) => "unknown",
        };
        json!({
            "upstream": &*self.upstream,
            "endpoint": self.endpoint,
            "method": self.method,
            "outcome": outcome,
            "is_mended": self.is_mended && self.verdict == Verdict::Unread,
            "warning": self.warning(),
        })
    }

    /// Returns a warning for the operator, if the outcome needs one.
    pub(super) fn warning(&self) -> Option<String> {
        let Finding { upstream, endpoint, method, .. } = self;
        let endpoint_name = format!("the upstream {upstream}, {endpoint}");
        match &self.verdict {
            Verdict::Read => None,
            Verdict::Unread if self.is_mended => None,
            Verdict::Unread => Some(format!(
                "{endpoint_name}, leaves the body of a {method} unread and takes it for the next request: a caller can send \
                 requests in it that nothing was decided on; set `reuse_after_body: false` at this upstream"
            )),
            Verdict::UnreadDespiteClose => Some(format!(
                "{endpoint_name}, leaves the body of a {method} unread and takes it for the next request, even where \
                 `Connection: close` says that there is none; no setting mends this: let no route pass {method} to it, \
                 or put a server before it that reads bodies"
            )),
            Verdict::Unknown(why) => Some(format!("{endpoint_name}, could not be probed ({method}): {why}")),
        }
    }

    /// Returns a line of text that describes the outcome. Findings with a warning don't need this
    /// line.
    pub(super) fn line(&self) -> String {
        let Finding { upstream, endpoint, method, .. } = self;
        match &self.verdict {
            Verdict::Unread => format!(
                "the upstream {upstream}, {endpoint}: leaves the body of a {method} unread; no connection is reused after one"
            ),
            _ => format!("the upstream {upstream}, {endpoint}: no body of a {method} is taken for a request"),
        }
    }
}
