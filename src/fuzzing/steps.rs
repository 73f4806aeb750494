//! The steps of one request, as separate functions for benches.

use std::sync::Arc;

use futures_util::FutureExt;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request};

use super::connection::{KEY, gateway};
use crate::forward::headers::{self, Origin, address_value};
use crate::gate::{self, Admitted, Decided, Head, Identity, Permit};
use crate::guard::Target;
use crate::guard::client::Client;
use crate::limit::Cost;
use crate::model::Named;
use crate::proxy::Gateway;

/// A request with a valid key and the headers of a common client, and the gateway that decides
/// about the request.
pub struct Steps {
    gateway: Arc<Gateway>,
    parts: Parts,
    client: Client,
    address: Option<HeaderValue>,
    request_id: HeaderValue,
}

impl Steps {
    /// Prepares the request.
    pub fn new() -> Self {
        let request = Request::get("/v1/models?limit=20")
            .header("host", "a.example")
            .header("authorization", format!("Bearer {KEY}"))
            .header("user-agent", "OpenAI/Python 3.54.0")
            .header("accept", "application/json")
            .header("accept-encoding", "gzip, deflate")
            .header("connection", "keep-alive")
            .header("x-stainless-lang", "python")
            .body(())
            .unwrap();
        let address = Some([192, 0, 2, 7].into());
        Steps {
            gateway: gateway(),
            parts: request.into_parts().0,
            client: Client::of_peer(address),
            address: address.and_then(address_value),
            request_id: HeaderValue::from_static("our-id"),
        }
    }

    /// Decides about the request, but does not forward it: checks the target, authentication,
    /// authorization and limits.
    pub fn decide(&self) {
        self.permit();
    }

    fn permit(&self) -> (Target, Permit) {
        let snapshot = self.gateway.snapshot.load();
        let context = self.gateway.context(&snapshot, self.gateway.clock.wall());
        let (parts, client) = (&self.parts, &self.client);
        let head = Head { parts, client, is_plain: true, identity: Identity::Presented(None) };
        let Decided { facts, outcome: Ok(verdict) } = gate::decide_here(&head, context) else {
            panic!("refused")
        };
        let grant = verdict.grant(&Named::Absent, "GET", "/").unwrap();
        let admitted = grant.admit(Cost::REQUEST, None, context).now_or_never();
        let Admitted { permit, .. } = admitted.expect("no limit waits").unwrap();
        let target = facts.target.unwrap();
        (target, permit)
    }

    /// Returns a function that rewrites the caller's headers into the headers for upstream.
    pub fn rewriter(&self) -> impl Fn() -> HeaderMap + '_ {
        let (target, permit) = self.permit();
        let snapshot = self.gateway.snapshot.load_full();
        move || {
            let origin = Origin {
                peer: self.address.as_ref(),
                client: self.client,
                is_tls: false,
                request_id: &self.request_id,
                trace: None,
                secret_headers: &snapshot.secret_headers,
            };
            headers::request_headers(self.parts.headers.clone(), &target, &permit, &origin).into_map()
        }
    }
}

impl Default for Steps {
    fn default() -> Self {
        Steps::new()
    }
}
