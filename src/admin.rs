//! The admin listener: probes, metrics, and the JSON API that `openapi.json` describes.
//!
//! Probes need no credential, and report only whether the process lives or is ready. Other reads
//! need a credential, except on loopback and on unix sockets. A change always needs a credential:
//! the token of `admin.token_file`, or a key with the permission `admin`.

mod access;
mod answer;
mod changes;
mod events;
mod identities;
mod keys;
mod new_key;
mod outlook;
mod page;
mod path;
mod query;
mod reachable;
mod scrape;
pub(crate) mod state;
mod status;
mod usage;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::AbortHandle;

use crate::activity::ConnectionActivity;
use crate::address::host_part;
use crate::config::Limits;
use crate::config::fault::Faults;
use crate::denial::Denial;
use crate::net::body::IncomingBody;
use crate::net::conn;
use crate::net::listen::{Bound, Stream};
use crate::net::local::Local;
use crate::net::phase::WireTimeouts;
use crate::net::presence::Peered;
use crate::net::server;
use crate::net::wire::Wire;
use crate::observe::audit::{Subject, refused_at_admin};
use crate::observe::{self, X_REQUEST_ID, metrics};
use crate::reload::{Outcome, Report};
use access::{Actor, Visitor};
use answer::{AdminBody, data, typed, whole};
use changes::Change;
use path::{AdminPath, Probe};
use state::Admin;

/// Maximum number of open connections to the admin listener. Probes need few connections, and the
/// data path needs the other file descriptors.
const MAX_CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Pause after a failed accept: most likely, no file descriptor is free.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Serves the admin listener until the process ends, also during a drain: `/livez` succeeds to the
/// end, and `/readyz` shows when traffic should go elsewhere.
pub(crate) async fn serve(bound: Bound, admin: Admin) {
    let local = bound.local().clone();
    let admin = Arc::new(admin);
    let watched = admin.clone();
    tokio::spawn(async move {
        let observers = &watched.gateway.observers;
        let keys = &observers.key_histories;
        watched.history.keep(|| observers.sums(), || observers.token_sums(), keys).await;
    });
    if let Err(error) = accept_all(bound, admin).await {
        tracing::error!(listener = %local, %error, "the admin listener ended");
    }
}

async fn accept_all(bound: Bound, admin: Arc<Admin>) -> std::io::Result<()> {
    let mut visits = Visits::default();
    // A unix socket counts as local, like loopback: the permissions of its file decide who can
    // connect.
    let is_local = match bound.local() {
        Local::Tcp(address) => address.ip().is_loopback(),
        Local::Unix(_) => true,
    };
    let listener = bound.into_listener()?;
    loop {
        let taken = listener.accept().await.and_then(|(stream, peer)| {
            let visitor = Visitor { admin: admin.clone(), is_local, peer };
            let activity = Arc::new(ConnectionActivity::default());
            let visit = match stream {
                Stream::Tcp(stream) => {
                    tokio::spawn(connection(TcpStream::from_std(stream)?, visitor, activity.clone()))
                }
                Stream::Unix(stream) => {
                    tokio::spawn(connection(UnixStream::from_std(stream)?, visitor, activity.clone()))
                }
            };
            visits.add(Visit { task: visit.abort_handle(), activity, host: peer.map(host_part) });
            Ok(())
        });
        // An error of one accept does not end the listener.
        if taken.is_err() {
            tokio::time::sleep(ACCEPT_BACKOFF).await;
        }
    }
}

/// The open connections to the admin listener, oldest first.
#[derive(Default)]
struct Visits(VecDeque<Visit>);

/// An open connection.
struct Visit {
    task: AbortHandle,
    activity: Arc<ConnectionActivity>,
    /// The client's host; `None` on a unix socket.
    host: Option<IpAddr>,
}

impl Visits {
    /// Adds a connection. If there are more than [`MAX_CONNECTIONS`] then, one connection of the
    /// host with the most connections is closed: the oldest connection without a request, or else
    /// the oldest. A host that floods the listener loses its own connections, and a new probe never
    /// waits until an open connection ends.
    fn add(&mut self, visit: Visit) {
        self.0.retain(|visit| !visit.task.is_finished());
        self.0.push_back(visit);
        if self.0.len() <= MAX_CONNECTIONS {
            return;
        }
        let mut counts: HashMap<Option<IpAddr>, usize> = HashMap::new();
        self.0.iter().for_each(|visit| *counts.entry(visit.host).or_default() += 1);
        let most = counts.values().copied().max();
        let is_of_most = |visit: &Visit| counts.get(&visit.host).copied() == most;
        let idle = self.0.iter().position(|visit| is_of_most(visit) && visit.activity.has_no_request());
        let ends = idle.or_else(|| self.0.iter().position(is_of_most));
        if let Some(visit) = ends.and_then(|index| self.0.remove(index)) {
            visit.task.abort();
        }
    }
}

async fn connection<S>(stream: S, visitor: Visitor, activity: Arc<ConnectionActivity>)
where
    S: AsyncRead + AsyncWrite + Peered + Unpin + Send + 'static,
{
    let timeouts = WireTimeouts { header: HEADER_TIMEOUT, idle: IDLE_TIMEOUT, client_stall: IDLE_TIMEOUT };
    let refuse =
        conn::refusals(visitor.admin.observer.clone(), visitor.peer, Arc::default(), Limits::default());
    let wire = Wire::new(stream, Bytes::new(), activity.clone(), timeouts).refusing(refuse);
    let visitor = Arc::new(visitor);
    let serving = server::serve(wire, move |request: Request<IncomingBody>| {
        let (visitor, activity) = (visitor.clone(), activity.clone());
        async move {
            let in_service = activity.begin(!request.body().is_end_stream());
            let response = visitor.answer(request).await;
            // The body keeps `in_service`, so that the request counts as in service until its
            // answer ends.
            response.map(|body| body.map_frame(move |frame| (frame, &in_service).0))
        }
    });
    serving.await;
}

impl Visitor {
    async fn answer(&self, request: Request<IncomingBody>) -> Response<AdminBody> {
        let request_id = observe::request_id(request.headers());
        let (parts, body) = request.into_parts();
        let mut actor = None;
        let answer = self.decide(&parts, body, &request_id, &mut actor).await;
        if let Err(denial) = &answer {
            let is_known = matches!(actor, Some(Actor::Token | Actor::Key(_)));
            let subject = Subject {
                request_id: request_id.to_str().unwrap_or_default(),
                client: self.peer.map(|peer| peer.to_canonical()),
                method: &parts.method,
                path: parts.uri.path(),
                key_id: None,
                key_name: None,
                claimed_key_id: None,
                credential_id: None,
                route: Some("admin"),
                model: None,
                door: None,
            };
            refused_at_admin(self.admin.gateway.observers.logs(), denial, is_known, subject);
        }
        let is_page =
            matches!(AdminPath::find(parts.uri.path()), Some(AdminPath::Page | AdminPath::KeyPage(_)));
        let mut response = answer.unwrap_or_else(|denial| denial.into_http().map(whole));
        if is_page && response.status() == StatusCode::UNAUTHORIZED {
            // This header makes a browser ask its user for the credential.
            response.headers_mut().append(WWW_AUTHENTICATE, page::BASIC);
        }
        response.headers_mut().insert(X_REQUEST_ID, request_id);
        // The following headers keep pages of other sites from using the answer.
        response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let policy = HeaderName::from_static("cross-origin-resource-policy");
        response.headers_mut().insert(policy, HeaderValue::from_static("same-origin"));
        response.headers_mut().insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        response
    }

    async fn decide(
        &self,
        parts: &Parts,
        body: IncomingBody,
        request_id: &HeaderValue,
        known: &mut Option<Actor>,
    ) -> Result<Response<AdminBody>, Denial> {
        let found = AdminPath::find(parts.uri.path());
        let is_look = matches!(parts.method, Method::GET | Method::HEAD);
        if let Some(AdminPath::Probe(probe)) = found
            && is_look
        {
            return self.probe(probe).await;
        }
        self.check_site(parts)?;
        let actor = match is_look && self.is_local {
            true => Actor::Local,
            false if is_look => {
                self.authorize_look(&parts.headers, found == Some(AdminPath::Metrics)).await?
            }
            false => self.authorize(&parts.headers, false).await?,
        };
        *known = Some(actor.clone());
        let path = found.ok_or_else(|| Denial::route_not_found(parts.method.as_str(), parts.uri.path()))?;
        if !path.takes(&parts.method) {
            return Err(Denial::other_methods(path.methods()));
        }
        let change = |key| Change {
            admin: self.admin.clone(),
            actor,
            key,
            peer: self.peer.map(|peer| peer.to_canonical()),
            method: parts.method.clone(),
            path: parts.uri.path().to_owned(),
            request_id: request_id.clone(),
        };
        match path {
            AdminPath::Probe(_) => Err(Denial::other_methods(path.methods())),
            AdminPath::Page => self.page(None, parts).await,
            AdminPath::KeyPage(id) => self.page(Some(id), parts).await,
            AdminPath::Metrics => {
                let text = self.aside(|admin| Ok(scrape::encoded(admin))).await?;
                Ok(typed(text, metrics::CONTENT_TYPE))
            }
            AdminPath::OpenApi => Ok(typed(openapi(), "application/json")),
            AdminPath::Status => self.aside(|admin| Ok(data(&status::status(admin)))).await,
            AdminPath::Refusals => Ok(data(&status::refusals(&self.admin))),
            AdminPath::RefusalKinds => Ok(data(&status::refusal_kinds(&self.admin))),
            AdminPath::Usage => self.usage(parts.uri.query()).await,
            AdminPath::Events => events::stream(self.admin.clone()),
            AdminPath::Reload => {
                let report = self.admin.reload.reload().await.ok_or_else(Denial::shutting_down)?;
                reload_outcome(&report)
            }
            AdminPath::Keys if is_look => self.keys(parts.uri.query()).await,
            AdminPath::Key(id) if is_look => self.aside(move |admin| keys::show(admin, &id)).await,
            AdminPath::Trend(id) => self.aside(move |admin| keys::show_trend(admin, &id)).await,
            AdminPath::Keys => change(String::new()).create(body, &parts.headers).await,
            AdminPath::Key(id) => change(id).delete().await,
            AdminPath::Rotate(id) => change(id).rotate(body, &parts.headers).await,
            AdminPath::Revoke(id) => change(id).revoke().await,
        }
    }

    async fn probe(&self, probe: Probe) -> Result<Response<AdminBody>, Denial> {
        match probe {
            Probe::Live => Ok(typed("{\"status\":\"ok\"}\n".to_owned(), "application/json")),
            Probe::Ready if self.admin.gateway.is_draining.load(Ordering::Relaxed) => {
                Err(Denial::shutting_down())
            }
            Probe::Ready if let Some(waiting) = status::waiting(&self.admin) => {
                Err(Denial::certificate_missing(&waiting))
            }
            Probe::Ready => {
                status::check_ready(&self.admin).await?;
                let readiness = status::readiness(&self.admin.gateway.reloads);
                Ok(typed(format!("{readiness}\n"), "application/json"))
            }
        }
    }

    /// Returns the page of a key, or the status page.
    async fn page(&self, key_id: Option<String>, parts: &Parts) -> Result<Response<AdminBody>, Denial> {
        let is_zipped = page::takes_gzip(&parts.headers);
        if let Some(id) = key_id {
            return self.aside(move |admin| page::show_key(admin, &id, is_zipped)).await;
        }
        let keys = keys::Page::asked(parts.uri.query())?;
        self.aside(move |admin| page::show(admin, keys, is_zipped)).await
    }

    async fn keys(&self, query: Option<&str>) -> Result<Response<AdminBody>, Denial> {
        let page = keys::Page::asked(query)?;
        self.aside(move |admin| Ok(data(&page.of(admin)))).await
    }

    async fn usage(&self, query: Option<&str>) -> Result<Response<AdminBody>, Denial> {
        let asked = usage::Asked::of(query)?;
        if let Some(sharing) = &self.admin.gateway.sharing {
            return asked.report_of_replicas(&sharing.settings()).await;
        }
        self.aside(move |admin| asked.report(admin)).await
    }

    /// Runs a slow function on a thread where it blocks no other request.
    async fn aside<T: Send + 'static>(
        &self,
        view: impl FnOnce(&Admin) -> Result<T, Denial> + Send + 'static,
    ) -> Result<T, Denial> {
        let admin = self.admin.clone();
        let looked = tokio::task::spawn_blocking(move || view(&admin)).await;
        looked.unwrap_or_else(|_panic| Err(Denial::internal()))
    }
}

/// Returns the answer to a request for a reload: 200 if no part was refused.
fn reload_outcome(report: &Report) -> Result<Response<AdminBody>, Denial> {
    let parts: serde_json::Map<String, Value> =
        report.parts.iter().map(|(part, outcome)| (part.name().to_owned(), json!(outcome.name()))).collect();
    let refused = report.parts.iter().filter_map(|(_, outcome)| match outcome {
        Outcome::Refused(faults) => Some(faults),
        _ => None,
    });
    let faults: Vec<Value> = refused.flat_map(Faults::as_json).collect();
    let mut outcome = serde_json::Map::new();
    outcome.insert("generation".to_owned(), json!(report.generation));
    outcome.extend(parts);
    outcome.insert("needs_restart".to_owned(), json!(report.needs_restart));
    if !faults.is_empty() {
        outcome.insert("faults".to_owned(), Value::Array(faults));
        return Err(Denial::reload_refused(Value::Object(outcome)));
    }
    Ok(data(&Value::Object(outcome)))
}

/// Returns the document that describes the admin API (OpenAPI 3.1).
fn openapi() -> String {
    include_str!("admin/openapi.json").replace("\"0.0.0\"", concat!("\"", env!("CARGO_PKG_VERSION"), "\""))
}
