//! The steps of one request by themselves, for whoever times them.

use std::sync::Arc;

use futures_util::FutureExt;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request};

use super::connection::{KEY, gateway};
use crate::forward::headers::{self, Origin, address_value};
use crate::gate::{self, Admitted, Head, Identity, Permit};
use crate::guard::Target;
use crate::guard::client::Client;
use crate::limit::Cost;
use crate::proxy::Gateway;

/// A request with a good key, as a common client sends it, and what decides about it.
pub struct Steps {
    gateway: Arc<Gateway>,
    parts: Parts,
    client: Client,
    address: Option<HeaderValue>,
    request_id: HeaderValue,
}

impl Steps {
    /// The request, ready.
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

    /// All that is decided before a request is forwarded: what it means, who asks, whether that may be, and limits.
    pub fn decide(&self) {
        self.permit();
    }

    fn permit(&self) -> (Target, Permit) {
        let snapshot = self.gateway.snapshot.load();
        let context = self.gateway.context(&snapshot, self.gateway.clock.wall());
        let (parts, client) = (&self.parts, &self.client);
        let head = Head { parts, client, is_plain: true, identity: Identity::Credential };
        let Ok(grant) = gate::decide(&head, context).outcome else { panic!("refused") };
        let admitted = grant.admit(Cost::REQUEST, None, context).now_or_never();
        let Admitted { permit, target, .. } = admitted.expect("no limit waits").unwrap();
        (target, permit)
    }

    /// What turns a caller's headers into those that upstream gets, by itself.
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
            let mut rewritten = self.parts.headers.clone();
            headers::prepare_request(&mut rewritten, &target, &permit, &origin);
            rewritten
        }
    }
}

impl Default for Steps {
    fn default() -> Self {
        Steps::new()
    }
}
