//! The admin listener: probes, metrics and reloads.
//!
//! Probes are open to all and say nothing but their state. Reading is free on loopback and takes a credential off it;
//! a change takes one everywhere: the token of `admin.token_file`, or a key with `admin`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::AbortHandle;
use zeroize::Zeroizing;

use crate::config::Limits;
use crate::config::fault::Faults;
use crate::denial::Denial;
use crate::exchange::Exchanges;
use crate::gate;
use crate::guard::client::Client;
use crate::keys::Permission;
use crate::net::conn;
use crate::net::listen::{Bound, Local, Stream};
use crate::net::phase::WireTimeouts;
use crate::net::presence::Peered;
use crate::net::wire::Wire;
use crate::observe::audit::refused_at_admin;
use crate::observe::{self, X_REQUEST_ID, metrics};
use crate::proxy::Gateway;
use crate::reload::{Handle, Outcome, Report};

/// Connections at once: probes need few, and nobody else should take descriptors from the data path.
const MAX_CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Behind an error of accept, descriptors that ran out most likely.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// What the admin listener needs to answer.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) reload: Handle,
    pub(crate) token_file: Option<PathBuf>,
}

/// Serves until the process ends: `/livez` answers to the last, `/readyz` says when traffic should go elsewhere.
pub(crate) async fn serve(bound: Bound, admin: Admin) {
    let local = bound.local().clone();
    if let Err(error) = accept_all(bound, Arc::new(admin)).await {
        tracing::error!(listener = %local, %error, "the admin listener ended");
    }
}

async fn accept_all(bound: Bound, admin: Arc<Admin>) -> std::io::Result<()> {
    let mut visits = Visits::default();
    // A unix socket is as near as loopback; its file's permissions say who may reach it.
    let is_local = match bound.local() {
        Local::Tcp(address) => address.ip().is_loopback(),
        Local::Unix(_) => true,
    };
    let listener = bound.into_listener()?;
    loop {
        let taken = listener.accept().await.and_then(|(stream, peer)| {
            let visitor = Visitor { admin: admin.clone(), is_local, peer };
            let exchanges = Arc::new(Exchanges::default());
            let visit = match stream {
                Stream::Tcp(stream) => {
                    tokio::spawn(connection(TcpStream::from_std(stream)?, visitor, exchanges.clone()))
                }
                Stream::Unix(stream) => {
                    tokio::spawn(connection(UnixStream::from_std(stream)?, visitor, exchanges.clone()))
                }
            };
            visits.add(visit.abort_handle(), exchanges);
            Ok(())
        });
        // No connection that fails ends the listener.
        if taken.is_err() {
            tokio::time::sleep(ACCEPT_BACKOFF).await;
        }
    }
}

/// The connections that are open, oldest first.
#[derive(Default)]
struct Visits(VecDeque<(AbortHandle, Arc<Exchanges>)>);

impl Visits {
    /// Takes one more. Past the most, the oldest that asks nothing goes, so that nobody who holds connections open keeps a
    /// probe waiting; where all ask something, the new one goes.
    fn add(&mut self, visit: AbortHandle, exchanges: Arc<Exchanges>) {
        self.0.retain(|(visit, _)| !visit.is_finished());
        self.0.push_back((visit, exchanges));
        if self.0.len() > MAX_CONNECTIONS {
            let idle = self.0.iter().position(|(_, exchanges)| exchanges.are_none());
            let last = self.0.len() - 1;
            if let Some((visit, _)) = self.0.remove(idle.unwrap_or(last)) {
                visit.abort();
            }
        }
    }
}

async fn connection<S>(stream: S, visitor: Visitor, exchanges: Arc<Exchanges>)
where
    S: AsyncRead + AsyncWrite + Peered + Unpin + Send + 'static,
{
    let timeouts = WireTimeouts { header: HEADER_TIMEOUT, idle: IDLE_TIMEOUT };
    let logs = visitor.admin.gateway.logs.clone();
    let refuse = conn::refusals(logs, visitor.peer, Limits::default());
    let wire = Wire::new(stream, Bytes::new(), exchanges.clone(), timeouts).refusing(refuse);
    let visitor = Arc::new(visitor);
    let service = service_fn(move |request: Request<Incoming>| {
        let (visitor, exchanges) = (visitor.clone(), exchanges.clone());
        async move {
            let in_service = exchanges.begin(!request.body().is_end_stream());
            let response = visitor.answer(&request).await;
            // The exchange lasts as long as its answer.
            Ok::<_, Infallible>(response.map(|body| body.map_frame(move |frame| (frame, &in_service).0)))
        }
    });
    let _ended = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(wire), service)
        .await;
}

/// Whoever is at the other end of a connection.
struct Visitor {
    admin: Arc<Admin>,
    is_local: bool,
    peer: Option<IpAddr>,
}

impl Visitor {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let request_id = observe::request_id(request.headers());
        let answer = self.decide(request).await;
        if let Err(denial) = &answer {
            let (peer, method) = (self.peer.map(|peer| peer.to_canonical()), request.method());
            let audit = self.admin.gateway.logs.audit.as_ref();
            refused_at_admin(audit, denial, peer, method, request.uri().path(), &request_id);
        }
        let mut response = answer.unwrap_or_else(Denial::into_http).map(Full::new);
        response.headers_mut().insert(X_REQUEST_ID, request_id);
        response
    }

    async fn decide(&self, request: &Request<Incoming>) -> Result<Response<Bytes>, Denial> {
        let Admin { gateway, reload, .. } = &*self.admin;
        let path = request.uri().path();
        let is_look = matches!(*request.method(), Method::GET | Method::HEAD);
        match path {
            "/livez" | "/healthz" if is_look => return Ok(state("ok")),
            "/readyz" if is_look && gateway.is_draining.load(Ordering::Relaxed) => {
                return Err(Denial::shutting_down());
            }
            "/readyz" if is_look => return Ok(state("ready")),
            _ => {}
        }
        if !is_look || !self.is_local {
            self.authorize(request.headers())?;
        }
        match path {
            "/metrics" if is_look => Ok(typed(Bytes::from(gateway.metrics.encoded()), metrics::CONTENT_TYPE)),
            "/api/v1/reload" if request.method() == Method::POST => {
                let report = reload.reload().await.ok_or_else(Denial::shutting_down)?;
                told(&report)
            }
            _ => Err(Denial::route_not_found(request.method().as_str(), path)),
        }
    }

    /// Whether a request carries the admin token, or a key with `admin`.
    fn authorize(&self, headers: &HeaderMap) -> Result<(), Denial> {
        if self.has_token(headers) {
            return Ok(());
        }
        let Gateway { snapshot, keys, limiter, clock, .. } = &*self.admin.gateway;
        let client = Client { address: self.peer.map(|peer| peer.to_canonical()), via_trusted: false };
        let principal =
            gate::authenticate(headers, &client, &snapshot.load(), keys, limiter, clock.wall()).outcome?;
        let key = &principal.key().key;
        match key.has(Permission::Admin) {
            true => Ok(()),
            false => {
                Err(Denial::insufficient_permissions(Permission::Admin.name(), &key.permissions.names()))
            }
        }
    }

    fn has_token(&self, headers: &HeaderMap) -> bool {
        let Some(path) = &self.admin.token_file else { return false };
        // Read at each request, which is rare: a token that was changed counts at once.
        let token = match std::fs::read_to_string(path) {
            Ok(token) => Zeroizing::new(token),
            Err(error) => {
                tracing::error!(file = %path.display(), %error, "the admin token can't be read");
                return false;
            }
        };
        let token = token.trim();
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (given.next(), given.next()) else { return false };
        let Some((scheme, given)) = value.to_str().ok().and_then(|value| value.split_once(' ')) else {
            return false;
        };
        let is_same = given.trim().as_bytes().ct_eq(token.as_bytes());
        !token.is_empty() && scheme.eq_ignore_ascii_case("bearer") && is_same.into()
    }
}

/// What a reload did: 200 where nothing was refused.
fn told(report: &Report) -> Result<Response<Bytes>, Denial> {
    let parts: serde_json::Map<String, Value> =
        report.parts.iter().map(|(part, outcome)| (part.name().to_owned(), json!(outcome.name()))).collect();
    let refused = report.parts.iter().filter_map(|(_, outcome)| match outcome {
        Outcome::Refused(faults) => Some(faults),
        _ => None,
    });
    let faults: Vec<Value> = refused.flat_map(Faults::as_json).collect();
    let mut told = serde_json::Map::new();
    told.insert("generation".to_owned(), json!(report.generation));
    told.extend(parts);
    told.insert("needs_restart".to_owned(), json!(report.needs_restart));
    if !faults.is_empty() {
        told.insert("faults".to_owned(), Value::Array(faults));
        return Err(Denial::reload_refused(Value::Object(told)));
    }
    Ok(typed(Bytes::from(format!("{}\n", json!({"success": true, "data": told}))), "application/json"))
}

fn state(word: &'static str) -> Response<Bytes> {
    typed(Bytes::from(format!("{{\"status\":\"{word}\"}}\n")), "application/json")
}

fn typed(body: Bytes, content_type: &'static str) -> Response<Bytes> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
