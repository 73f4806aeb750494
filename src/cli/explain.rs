//! `bearward explain`: shows how bearward would decide about a request, or what an error code
//! means. The decision is made by the same functions that the proxy calls.

use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use http::header::HOST;
use http::request::Parts;
use http::{Method, Request};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::config_path::config_path;
use super::failure::Failure;
use super::terminal::print;
use crate::app::Prepared;
use crate::clock::Clock;
use crate::config::{Access, Config, ModelIn};
use crate::denial::catalogue::{self, Entry};
use crate::denial::{Code, Denial};
use crate::gate::{self, Context, Decided, Grant, Head, Identity, Principal, Readings};
use crate::guard::Target;
use crate::guard::client::Client;
use crate::key_cache::LiveKey;
use crate::keys::KeyHash;
use crate::limit::Window;
use crate::model::{Named, in_query};
use crate::proxy::seen_body::{HeldCap, SeenBody, caps_of, estimate, kind_of_body, learned_name};
use crate::route::{Lookup, Route};
use crate::tokens::Learned;

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
    /// The configuration [default: $BEARWARD_CONFIG, ./bearward.yaml, /etc/bearward/config.yaml]
    #[arg(long, short, value_name = "FILE", requires = "path")]
    config: Option<PathBuf>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// The steps of a decision: the name of each step, and the result of the step as text.
#[derive(Default)]
struct Steps(Vec<(&'static str, String)>);

impl Steps {
    fn add(&mut self, name: &'static str, text: impl Into<String>) {
        self.0.push((name, text.into()));
    }
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
        let (parts, ()) = request
            .map_err(|error| Failure::Usage(format!("{path} with {}: {error}", self.host)))?
            .into_parts();
        let file = config_path(self.config.clone())?;
        let prepared = Config::load(&file)
            .and_then(|config| Prepared::of(&config, &Clock::system()))
            .map_err(|faults| Failure::InConfig(faults, file))?;
        let key = self.key.as_deref().map(|key| find_key(&prepared, key)).transpose()?;
        let body = self.body.as_deref().map(read_body).transpose()?;
        let (steps, outcome) = self.decide(&prepared, &parts, key.as_ref(), body.as_deref());
        self.print(&method, path, &steps, outcome)
    }

    /// Decides about the request as the proxy does, and describes each step in words.
    fn decide(
        &self,
        prepared: &Prepared,
        parts: &Parts,
        key: Option<&NamedKey>,
        body: Option<&[u8]>,
    ) -> (Steps, Result<(), Denial>) {
        let (snapshot, keys, limiter) = (&prepared.snapshot, &prepared.keys, &prepared.limiter);
        let context = Context { snapshot, keys, limiter, now: Timestamp::now() };
        let assumed = key.and_then(|(_, live)| live.key.allowed_address()).filter(|_| self.from.is_none());
        let client = Client::of_peer(self.from.or(assumed));
        let identity = Identity::Assumed(key.map(|(hash, live)| (*hash, live)));
        let decided = gate::decide_here(&Head { parts, client: &client, is_plain: false, identity }, context);
        let explained = Explained { prepared, parts, key: key.map(|(_, live)| &**live), assumed };
        let mut steps = explained.steps(&decided);
        let path = decided.facts.target.as_ref().map(|target| target.path()).unwrap_or_default();
        let outcome = decided.outcome.and_then(|verdict| {
            let route = verdict.route();
            let kind = kind_of_body(route, &parts.method).filter(|_| body.is_some());
            let seen = kind.map(|kind| SeenBody::of_whole(kind, &parts.headers, body.unwrap_or_default()));
            let (model, needs_model) = (self.named(route, seen.as_ref(), parts, path), verdict.needs_model());
            let grant = verdict.grant(&model, parts.method.as_str(), path)?;
            explain_model(&model, needs_model, grant.route(), &mut steps);
            let length = body.map_or(0, <[u8]>::len) as u64;
            explain_tokens(&grant, seen.as_ref(), &model, length, parts, path, context, &mut steps)
        });
        (steps, outcome)
    }

    /// Returns the model that the request names.
    fn named(&self, route: &Route, seen: Option<&SeenBody>, parts: &Parts, path: &str) -> Named {
        match route.model.place {
            ModelIn::Path => route.model_in_path(path),
            ModelIn::Query => in_query(parts.uri.query()),
            ModelIn::List => route.model_in_list(path),
            ModelIn::Body | ModelIn::Form => match seen {
                Some(seen) => seen.named().clone(),
                None => self.model.clone().map_or(Named::Absent, Named::Model),
            },
            ModelIn::None => Named::Absent,
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
            catalogue::advice(denial.code().name(), &reason)
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
            let report = json!({"forwarded": denial.is_none(), "steps": steps, "refusal": refusal});
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
    /// The client address that `explain` chose because `--from` was not given: an address from
    /// which the key may be used.
    assumed: Option<IpAddr>,
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
        let is_missing = facts.authentication.is_some() && self.key.is_none();
        let route = match (&facts.route, &readings.lookup) {
            (Some(route), _) => Some(route.clone()),
            // At this step, the proxy refuses a request without a key. `explain` shows the
            // request's route nevertheless.
            (None, _) if is_missing => readings.route(target, method, &snapshot.limits).ok(),
            (None, _) => None,
        };
        let Some(route) = route else {
            let is_unknown = matches!(&readings.lookup, Lookup::None) && facts.principal.is_some();
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
        let key = self.key.filter(|_| facts.principal.is_some());
        steps.add("limits", limits(self.prepared, key, &route));
        match is_missing {
            true => steps.add("key", "none was named; --key ID or --key NAME says whose request it is"),
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

/// Adds a step for the queue of the route's upstream, if it has one.
fn explain_queue(route: &Route, principal: Option<&Principal>, steps: &mut Steps) {
    let Some(queue) = &route.upstream.queue else { return };
    let class = principal.map(Principal::priority).unwrap_or_default().name();
    let weight = principal.map_or(1, Principal::weight);
    let (_, slots) = queue.slots(&route.upstream.sets);
    let (waiting, wait) = (queue.settings.max_waiting, queue.settings.max_wait);
    steps.add(
        "queue",
        format!("as {class}, with weight {weight}; {slots} slots, and {waiting} may wait, each for {wait:?}"),
    );
}

/// Adds steps for the model of a granted request, and for what the request does with tokens.
fn explain_model(model: &Named, needs_model: bool, route: &Route, steps: &mut Steps) {
    match model {
        Named::Model(name) if needs_model => steps.add("model", format!("{name}, which the key may use")),
        Named::Model(name) => steps.add("model", format!("{name}; any model may be used")),
        Named::Absent if needs_model => steps.add("model", "the answer lists the models of the key alone"),
        Named::Absent if route.model.place == ModelIn::None => {}
        Named::Absent | Named::Ambiguous => {
            steps.add(
                "model",
                format!("any; the request names it ({}), see --model", route.model.place.name()),
            );
        }
    }
}

/// Adds steps for the output that a request may ask for, and for the tokens that it reserves.
/// `length`: the length of the body, in bytes.
///
/// # Errors
///
/// 400 if the body asks for more output than it may, or if its input alone exceeds a limit.
#[expect(clippy::too_many_arguments, reason = "all that an estimate depends on")]
fn explain_tokens(
    grant: &Grant,
    seen: Option<&SeenBody>,
    model: &Named,
    length: u64,
    parts: &Parts,
    path: &str,
    context: Context<'_>,
    steps: &mut Steps,
) -> Result<(), Denial> {
    let (route, method) = (grant.route(), &parts.method);
    let caps = caps_of(grant.principal(), route, method);
    for cap in caps.clone() {
        let what = format!("at most {} tokens, else {}", cap.max_output_tokens, cap.on_excess.name());
        steps.add("output", what);
    }
    if !route.uses_tokens(method) {
        return Ok(());
    }
    let Some(seen) = seen else {
        steps.add("tokens", "those of its input and output are reserved, see --body");
        return Ok(());
    };
    let spellings = route.model.server.spellings(path);
    let HeldCap { output, edits } = seen.hold(caps, spellings)?;
    if !edits.is_empty() {
        steps.add("lowered", format!("the body is changed to ask for {} tokens", output.unwrap_or(0)));
    }
    let (limits, learned) = (&context.snapshot.limits, Learned::default());
    let name = learned_name(route, model);
    let (estimate, size) =
        estimate(Some(seen), Some(length), route, spellings, &learned, &name, limits, output);
    let declares = if seen.declared().declares_output(spellings) { "declared" } else { "of a new model" };
    let files = if size.media > 0 { format!(" and {} files", size.media) } else { String::new() };
    let (input, output) = (estimate.input, estimate.output);
    let what = format!(
        "{input} of input (estimated from {} bytes{files}) and {output} of output ({declares}) are reserved",
        size.text_bytes
    );
    steps.add("tokens", what);
    grant.check_unused(estimate.cost(), context)
}

/// Adds a step for the permission that the route needs, and a step for each other route that would
/// match if a server read the path in another way.
fn explain_permissions(route: &Arc<Route>, readings: &[Arc<Route>], steps: &mut Steps) {
    match route.access {
        Access::Public => steps.add("permission", "none is needed: the route is public"),
        Access::Needs(permission) => steps.add("permission", format!("{} is needed", permission.name())),
    }
    for reading in readings.iter().filter(|reading| reading.name != route.name) {
        let needs = match reading.access {
            Access::Public => "which is public".to_owned(),
            Access::Needs(permission) => format!("for which {} is needed", permission.name()),
        };
        steps.add("read as", format!("{}, too, by some servers, {needs}", reading.name));
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

/// Names the routes that nearly match, for a request that no route matches.
fn near(prepared: &Prepared, host: &str, method: &Method, path: &str) -> String {
    let routes = prepared.snapshot.routes.routes();
    let compared = routes.map(|route| (route, route.compared(host, method, path)));
    let near: Vec<String> = compared
        .filter_map(|(route, compared)| match compared {
            [true, false, true] => Some(format!("{} matches the path, for other methods", route.name)),
            [false, true, true] => Some(format!("{} matches the path, for other hosts", route.name)),
            _ => None,
        })
        .collect();
    if near.is_empty() { "none matches the path".to_owned() } else { near.join("; ") }
}

fn limits(prepared: &Prepared, key: Option<&LiveKey>, route: &Route) -> String {
    let snapshot = &prepared.snapshot;
    let Some(live) = key else {
        return "none without a key".to_owned();
    };
    let own = live.limits(&prepared.limiter).windows.as_deref();
    let source = if own.is_some() { "the key's" } else { "the default" };
    let quota = |window: &Arc<Window>, source: &str| {
        let quota = window.quota();
        let (amount, per, burst) = (quota.amount, quota.per.as_secs(), quota.burst);
        let only_counts = if quota.is_enforced { "" } else { ", only counted" };
        format!("{} ({source}): {amount} in {per} s, {burst} at once{only_counts}", window.name())
    };
    let of_key = own.unwrap_or(&snapshot.default_windows).iter().map(|window| quota(window, source));
    let group = live.key.group().and_then(|name| snapshot.groups.get(name));
    let of_group =
        group.into_iter().flat_map(|group| &group.windows).map(|window| quota(window, "the group's"));
    let group_concurrent = group.and_then(|group| group.max_concurrent);
    let group_concurrent = group_concurrent.map(|limit| format!("{limit} in flight in the group"));
    let of_route = route.windows.iter().map(|window| quota(window, "the route's"));
    let concurrent = live.key.max_concurrent().or(snapshot.default_max_concurrent);
    let concurrent = concurrent.map(|limit| format!("{limit} in flight"));
    let all: Vec<String> =
        of_key.chain(of_route).chain(of_group).chain(concurrent).chain(group_concurrent).collect();
    if all.is_empty() { "none".to_owned() } else { all.join("; ") }
}
