//! `bearward explain`: shows how bearward would decide about a request, or what an error code
//! means. The decision is made by the same functions that the proxy calls.

mod door;
mod nearest;
mod steps;

use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use http::header::{AUTHORIZATION, HOST, HeaderValue};
use http::request::Parts;
use http::{Method, Request};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::config_path::config_path;
use super::failure::Failure;
use super::issuers;
use super::terminal::{print, say};
use crate::app::Prepared;
use crate::clock::Clock;
use crate::config::{Asker, Config, Door, ModelIn};
use crate::denial::catalogue::{self, Entry};
use crate::denial::{Code, Denial};
use crate::gate::{self, Context, Decided, Head, Identity, Principal, Readings};
use crate::guard::Target;
use crate::guard::client::Client;
use crate::identity::ShownSource;
use crate::key_cache::LiveKey;
use crate::keys::KeyHash;
use crate::model::Named;
use crate::observe::shown;
use crate::proxy::seen_body::{SeenBody, kind_of_body, named_model};
use crate::route::{Lookup, Route};
use nearest::near;
use steps::{Steps, explain_model, explain_permissions, explain_queue, explain_tokens, limits};

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// An HTTP method such as GET, followed by a path; or an error code such as INVALID_API_KEY
    #[arg(value_name = "METHOD|CODE")]
    what: String,
    /// The path of the request, with or without a query
    path: Option<String>,
    /// The id or the name of the key that the request uses
    #[arg(long, value_name = "ID", requires = "path")]
    key: Option<String>,
    /// Read a token (JWT) from standard input, and show whether it identifies its holder
    #[arg(long, requires = "path", conflicts_with = "key")]
    jwt: bool,
    /// The host that the request names
    #[arg(long, default_value = "localhost", requires = "path")]
    host: String,
    /// The IP address that the request comes from
    #[arg(long, value_name = "ADDRESS", requires = "path")]
    from: Option<IpAddr>,
    /// The model that the request names in its body or form
    #[arg(long, value_name = "MODEL", requires = "path")]
    model: Option<String>,
    /// A file with the JSON body of the request, or - for standard input: shows its model, its
    /// output, and the tokens that it reserves
    #[arg(long, value_name = "FILE", requires = "path", conflicts_with = "model")]
    body: Option<PathBuf>,
    /// The proxy that forwards the request, and asks bearward: nginx, caddy, traefik, envoy, or
    /// ext_authz (Envoy over gRPC). Shows what bearward answers it
    #[arg(long = "as", value_name = "PROXY", requires = "path", value_parser = door::parse)]
    asked_by: Option<Asker>,
    /// The configuration [default: $BEARWARD_CONFIG, ./bearward.yaml, /etc/bearward/config.yaml]
    #[arg(long, short, value_name = "FILE", requires = "path")]
    config: Option<PathBuf>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// The key of the explained request, with the hash of the key's current secret.
type NamedKey = (KeyHash, Arc<LiveKey>);

impl Explain {
    pub(super) fn execute(self) -> Result<(), Failure> {
        match &self.path {
            None => self.code(),
            Some(path) => self.request(path),
        }
    }

    fn code(&self) -> Result<(), Failure> {
        let Some(code) = catalogue::find(&self.what) else {
            let names: Vec<&str> = Code::ALL.iter().map(|code| code.name()).collect();
            return Err(Failure::Usage(format!(
                "{} is no error code, and a method needs a path behind it; the codes are: {}",
                self.what,
                names.join(", ")
            )));
        };
        let Entry { meaning, caller, operator } = catalogue::entry(code);
        let (name, status, grpc) = (code.name(), code.status(), code.grpc());
        if self.json {
            let entry = json!({
                "code": name, "status": status.as_u16(), "grpc_status": grpc,
                "meaning": meaning, "caller": caller, "operator": operator,
            });
            return print(&format!("{entry}\n"));
        }
        print(&format!(
            "{name}: HTTP {status}, gRPC {grpc}\n\n{meaning}\n\nCaller:   {caller}\nOperator: {operator}\n"
        ))
    }

    fn request(&self, path: &str) -> Result<(), Failure> {
        let method: Method =
            self.what.parse().map_err(|_| Failure::Usage(format!("{} is no method", self.what)))?;
        let request = Request::builder().method(&method).uri(path).header(HOST, &self.host).body(());
        let (mut parts, ()) = request
            .map_err(|error| Failure::Usage(format!("{path} with {}: {error}", self.host)))?
            .into_parts();
        let file = config_path(self.config.clone())?;
        let (config, prepared) = Config::load(&file)
            .and_then(|config| Prepared::of(&config, &Clock::system()).map(|prepared| (config, prepared)))
            .map_err(|faults| Failure::InConfig(faults, file))?;
        if self.jwt {
            present(&mut parts, &prepared)?;
        }
        let door = self.asked_by.map(|asker| door::of(asker, &config));
        let key = self.key.as_deref().map(|key| find_key(&prepared, key)).transpose()?;
        let body = self.body.as_deref().map(read_body).transpose()?;
        let (steps, outcome) = self.decide(&prepared, &parts, key.as_ref(), body.as_deref(), door);
        self.print(&method, path, &steps, outcome)
    }

    /// Decides about the request as the proxy does, and describes each step in words.
    fn decide(
        &self,
        prepared: &Prepared,
        parts: &Parts,
        key: Option<&NamedKey>,
        body: Option<&[u8]>,
        door: Option<Door>,
    ) -> (Steps, Result<(), Denial>) {
        let Prepared { snapshot, keys, limiter, identities, .. } = prepared;
        let context =
            Context { snapshot, keys, identities, limiter, now: Timestamp::now(), has_waited: false };
        let assumed = key.and_then(|(_, live)| live.key.allowed_address()).filter(|_| self.from.is_none());
        let client = Client::of_peer(self.from.or(assumed));
        let identity = match self.jwt {
            true => Identity::Presented(None),
            false => Identity::Assumed(key.map(|(hash, live)| (*hash, live))),
        };
        let decided = gate::decide_here(&Head { parts, client: &client, is_plain: false, identity }, context);
        let key = key.map(|(_, live)| &**live);
        let has_token = self.jwt;
        let explained = Explained { prepared, parts, key, has_token, assumed, is_forwarded: door.is_none() };
        let mut steps = explained.steps(&decided);
        if let Some(door) = door {
            let outcome = door::explain(door, parts, client, decided, body, context, &mut steps);
            return (steps, outcome);
        }
        let path = decided.facts.target.as_ref().map(|target| target.path()).unwrap_or_default();
        let outcome = decided.outcome.and_then(|verdict| {
            let route = verdict.route();
            let kind = kind_of_body(route, &parts.method).filter(|_| body.is_some());
            let seen = kind.map(|kind| SeenBody::of_whole(kind, &parts.headers, body.unwrap_or_default()));
            let needs_model = verdict.needs_model();
            let model = self.named(route, seen.as_ref(), needs_model, parts, path);
            let grant = verdict.grant(&model, parts.method.as_str(), path)?;
            explain_model(&model, needs_model, grant.route(), &mut steps);
            let length = body.map_or(0, <[u8]>::len) as u64;
            explain_tokens(&grant, seen.as_ref(), &model, length, parts, path, context, &mut steps)
        });
        (steps, outcome)
    }

    /// Returns the model that the request names.
    fn named(
        &self,
        route: &Route,
        seen: Option<&SeenBody>,
        needs_model: bool,
        parts: &Parts,
        path: &str,
    ) -> Named {
        let is_in_body = matches!(route.model.place, ModelIn::Body | ModelIn::Form);
        match (&self.model, seen) {
            (Some(model), None) if is_in_body => Named::Model(model.clone()),
            _ => named_model(route, path, parts.uri.query(), seen, needs_model),
        }
    }

    fn print(
        &self,
        method: &Method,
        path: &str,
        steps: &Steps,
        outcome: Result<(), Denial>,
    ) -> Result<(), Failure> {
        let denial = outcome.err();
        let advice = denial.as_ref().map(|denial| {
            let reason = denial.cause().map(ToString::to_string).unwrap_or_default();
            match denial.code() {
                // The catalogue's advice is this command, and the step `route` names the nearest routes.
                Code::RouteNotFound => "Add a route, or choose another preset.",
                code => catalogue::advice(code.name(), &reason),
            }
        });
        if self.json {
            let steps: Vec<Value> =
                steps.0.iter().map(|(step, text)| json!({"step": step, "text": text})).collect();
            let refusal = denial.as_ref().map(|denial| {
                json!({
                    "status": denial.code().status().as_u16(), "code": denial.code().name(),
                    "message": denial.message(), "advice": advice,
                })
            });
            let report = json!({
                "forwarded": denial.is_none(), "asked_by": self.asked_by.map(Asker::name), "steps": steps,
                "refusal": refusal,
            });
            return print(&format!("{report}\n"));
        }
        let mut text = format!("{method} {path}\n");
        for (step, found) in &steps.0 {
            text.push_str(&format!("  {step:<11}{found}\n"));
        }
        match (&denial, advice) {
            (Some(denial), Some(advice)) => {
                let (status, code) = (denial.code().status().as_u16(), denial.code().name());
                text.push_str(&format!(
                    "  refused    {status} {code}: {}\n             {advice}\n",
                    denial.message()
                ));
            }
            _ => text.push_str("  forwarded\n"),
        }
        print(&text)
    }
}

/// The input of a decision, with which `explain` describes the decision's steps.
struct Explained<'a> {
    prepared: &'a Prepared,
    parts: &'a Parts,
    key: Option<&'a LiveKey>,
    /// Whether the request has a token, and not a key.
    has_token: bool,
    /// The client address that `explain` chose because `--from` was not given: an address from
    /// which the key may be used.
    assumed: Option<IpAddr>,
    /// Whether bearward forwards the request, and not another proxy.
    is_forwarded: bool,
}

impl Explained<'_> {
    fn steps(&self, decided: &Decided) -> Steps {
        let mut steps = Steps::default();
        let Some(target) = &decided.facts.target else { return steps };
        steps.add("path", target.path());
        let Decided { facts, outcome } = decided;
        let Some(readings) = &facts.readings else { return steps };
        self.explain_cors(readings, target, &mut steps);
        self.explain_key(decided, &mut steps);
        let (snapshot, method) = (&self.prepared.snapshot, &self.parts.method);
        let is_missing = facts.authentication.is_some() && self.key.is_none() && !self.has_token;
        let route = match (&facts.route, &readings.lookup) {
            (Some(route), _) => Some(route.clone()),
            // At this step, the proxy refuses a request without a key. `explain` shows the
            // request's route nevertheless.
            (None, _) if is_missing => readings.route(target, method, &snapshot.limits).ok(),
            (None, _) => None,
        };
        let Some(route) = route else {
            let is_unknown = matches!(&readings.lookup, Lookup::None);
            if is_unknown && target.ambiguities.is_empty() {
                steps.add("route", near(self.prepared, target.host(), method, target.path()));
            }
            return steps;
        };
        steps.add("route", format!("{}, the first that matches", route.name));
        explain_permissions(&route, &readings.others, &mut steps);
        if outcome.is_err() && !is_missing {
            return steps;
        }
        let key = facts.principal.as_ref().map(Principal::key);
        steps.add("limits", limits(self.prepared, key, &route));
        match is_missing {
            true => steps.add("key", "none was named; --key ID or --key NAME says whose request it is"),
            false if !self.is_forwarded => {}
            false => {
                self.explain_forwarding(&route, target.path(), &mut steps);
                explain_queue(&route, facts.principal.as_ref(), &mut steps);
            }
        }
        steps
    }

    /// Adds a step for the web pages whose scripts may read the answer, if `cors` is configured.
    fn explain_cors(&self, readings: &Readings, target: &Target, steps: &mut Steps) {
        let routes = &self.prepared.snapshot.routes;
        if !routes.has_cors() {
            return;
        }
        let Some(policy) = routes.cors_policy(&readings.lookup, target.host(), target.path()) else {
            return steps.add(
                "cors",
                "none holds here: the upstream's own headers decide which pages may read the answer",
            );
        };
        let (pages, allowed) = (policy.pages(), policy.allowed());
        steps.add("cors", format!("pages of {pages} may read the answer"));
        if self.parts.method == Method::OPTIONS {
            steps.add(
                "preflight",
                format!("of such a page: answered with 204, without a key; allows {allowed}"),
            );
        }
    }

    fn explain_key(&self, decided: &Decided, steps: &mut Steps) {
        if self.has_token {
            return explain_token(decided, steps);
        }
        let Some(key) = self.key.filter(|_| decided.facts.authentication.is_some()) else { return };
        let (id, key) = (key.key.id(), &key.key);
        let name = key.name().map(|name| format!(" ({name})")).unwrap_or_default();
        if decided.facts.principal.is_none() {
            let denial = decided.outcome.as_ref().err();
            let reason = denial.and_then(Denial::cause).map(ToString::to_string).unwrap_or_default();
            return steps.add("key", format!("{id}{name}: {reason}"));
        }
        steps.add("key", format!("{id}{name}, with {}", key.permissions.names().join(", ")));
        if let Some(address) = self.assumed {
            steps.add("address", format!("taken to be {address}, which the key allows; --from says another"));
        }
    }

    fn explain_forwarding(&self, route: &Route, path: &str, steps: &mut Steps) {
        let body = route.body_bytes(&self.prepared.snapshot.limits);
        match route.takes_body(&self.parts.method) {
            true => steps.add("body", format!("{} at most", bytesize::ByteSize(body))),
            false => {
                steps.add("body", "none: GET and HEAD have none, unless the route says `body_on_get: true`");
            }
        }
        let endpoints: Vec<String> = route.upstream.sets.iter().map(|set| set.address.to_string()).collect();
        let (name, sent) = (&route.upstream.name, route.upstream_path(path));
        steps.add("upstream", format!("{name} ({}), as {sent}", endpoints.join(", ")));
    }
}

/// Puts a token from standard input into a request, and asks the issuers for their keys.
fn present(parts: &mut Parts, prepared: &Prepared) -> Result<(), Failure> {
    if !prepared.snapshot.identities.accept_tokens() {
        return Err(Failure::Failed(
            "the configuration has no `auth.jwt`, so no token identifies anybody".to_owned(),
        ));
    }
    let token = read_body(Path::new("-"))?;
    let value = [b"Bearer ", token.trim_ascii()].concat();
    let value = HeaderValue::from_bytes(&value)
        .map_err(|_| Failure::Failed("standard input has no token: it has line breaks".to_owned()))?;
    let places = &prepared.snapshot.auth.headers;
    let place = places.iter().find(|name| **name == AUTHORIZATION).or(places.first());
    parts.headers.insert(place.cloned().unwrap_or(AUTHORIZATION), value);
    for ShownSource { issuer, fault, .. } in issuers::asked(prepared)? {
        if let Some((fault, _)) = fault {
            say(&format!(
                "bearward: warning: the keys of the issuer {issuer} can't be had: {}",
                shown::visible(&fault)
            ));
        }
    }
    Ok(())
}

/// Adds a step for the token of a request.
fn explain_token(decided: &Decided, steps: &mut Steps) {
    let Decided { facts, outcome } = decided;
    if let Some(principal) = &facts.principal {
        let key = &principal.key().key;
        let name = key.name().map(|name| format!(" ({})", shown::visible(name))).unwrap_or_default();
        let group = key.group().map(|group| format!(", in the group {group}")).unwrap_or_default();
        return steps
            .add("token", format!("{}{name}, with {}{group}", key.id(), key.permissions.names().join(", ")));
    }
    if let Some(reason) = outcome.as_ref().err().and_then(Denial::cause) {
        steps.add("token", reason.to_string());
    }
}

/// Reads the body of a request from a file; `-` stands for standard input.
fn read_body(path: &Path) -> Result<Vec<u8>, Failure> {
    let read = match path == Path::new("-") {
        true => {
            let mut body = Vec::new();
            std::io::stdin().lock().read_to_end(&mut body).map(|_| body)
        }
        false => std::fs::read(path),
    };
    read.map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))
}

fn find_key(prepared: &Prepared, wanted: &str) -> Result<NamedKey, Failure> {
    let mut found: Option<NamedKey> = None;
    prepared.keys.for_each_current(|hash, live| {
        let is_id = live.key.id() == wanted;
        // If one key has the id `wanted` and another key has the name `wanted`, the key with the id
        // is used.
        if is_id || (found.is_none() && live.key.name() == Some(wanted)) {
            found = Some((*hash, live.clone()));
        }
    });
    found.ok_or_else(|| {
        Failure::Failed(format!("no key has the id or name {wanted}; `bearward keys list` shows them"))
    })
}
