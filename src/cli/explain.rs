//! `bearward explain`: how a request would be decided, by the very functions that decide it; or what a code means.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use http::header::HOST;
use http::request::Parts;
use http::{Method, Request};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Failure, config_path, print};
use crate::app::Prepared;
use crate::clock::Clock;
use crate::config::{Access, Config};
use crate::denial::catalogue::{self, Entry};
use crate::denial::{Code, Denial};
use crate::key_cache::LiveKey;
use crate::keys::{ApiKey, Circumstances};
use crate::limit::Window;
use crate::proxy::readings::Readings;
use crate::route::{Lookup, Route};
use crate::{gate, guard};

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// A method, as in GET, with a path behind it; or an error code, as in INVALID_API_KEY
    #[arg(value_name = "METHOD|CODE")]
    what: String,
    /// The path, with its query if that matters
    path: Option<String>,
    /// The key that asks: its id, or its name
    #[arg(long, value_name = "ID", requires = "path")]
    key: Option<String>,
    /// The host that is asked
    #[arg(long, default_value = "localhost", requires = "path")]
    host: String,
    /// The address that the client has
    #[arg(long, value_name = "ADDRESS", requires = "path")]
    from: Option<IpAddr>,
    /// The configuration [default: $BEARWARD_CONFIG, ./bearward.yaml, /etc/bearward/config.yaml]
    #[arg(long, short, value_name = "FILE", requires = "path")]
    config: Option<PathBuf>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// A decision with all that led to it.
#[derive(Default)]
struct Told(Vec<(&'static str, String)>);

impl Told {
    fn step(&mut self, name: &'static str, text: impl Into<String>) {
        self.0.push((name, text.into()));
    }
}

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
        let mut told = Told::default();
        let outcome = self.decide(&prepared, &parts, key.as_deref(), &mut told);
        self.print(&method, path, told, outcome)
    }

    /// The steps of `proxy`, in their order, as far as they can be gone without a request.
    fn decide(
        &self,
        prepared: &Prepared,
        parts: &Parts,
        key: Option<&LiveKey>,
        told: &mut Told,
    ) -> Result<(), Denial> {
        let snapshot = &prepared.snapshot;
        let target = guard::check(parts, &snapshot.limits, false)?;
        told.step("path", target.path());
        let readings = Readings::of(&snapshot.routes, &target, &parts.method)?;
        // Nobody's key is looked at where no reading of the path asks for one.
        let is_asked = !readings.are_public();
        let key = key.filter(|_| is_asked);
        if let Some(key) = key {
            self.judge_key(prepared, &key.key, told)?;
        }
        if key.is_some() || !is_asked {
            readings.refuse_ambiguities(&target.ambiguities)?;
        }
        let Readings { lookup, others } = readings;
        let route = match lookup {
            Lookup::Found(route) => route,
            Lookup::None | Lookup::OtherHost if key.is_none() => {
                return Err(Denial::missing_key("Authorization"));
            }
            Lookup::OtherHost => return Err(Denial::misdirected(target.host())),
            Lookup::None => {
                told.step("route", near(prepared, target.host(), &parts.method, target.path()));
                return Err(Denial::route_not_found(parts.method.as_str(), target.path()));
            }
        };
        told.step("route", format!("{}, the first that matches", route.name));
        permit(key, &route, &others, told)?;
        let route = match others.is_empty() {
            true => route,
            false => Arc::new(route.bounded_by(&others, &snapshot.limits)),
        };
        told.step("limits", limits(prepared, key, &route));
        if is_asked && key.is_none() {
            told.step("key", "none was named; --key ID or --key NAME says whose request it is");
            return Err(Denial::missing_key("Authorization"));
        }
        let body = route.body_bytes(&snapshot.limits);
        match route.takes_body(&parts.method) {
            true => told.step("body", format!("{} at most", bytesize::ByteSize(body))),
            false => {
                told.step("body", "none: GET and HEAD have none, unless the route says `body_on_get: true`")
            }
        }
        let endpoints: Vec<String> = route.upstream.sets.iter().map(|set| set.address.to_string()).collect();
        let (name, sent) = (&route.upstream.name, route.upstream_path(target.path()));
        told.step("upstream", format!("{name} ({}), as {sent}", endpoints.join(", ")));
        Ok(())
    }

    fn judge_key(&self, prepared: &Prepared, key: &ApiKey, told: &mut Told) -> Result<(), Denial> {
        let snapshot = &prepared.snapshot;
        let address = self.from.or_else(|| key.allowed_address());
        let circumstances = Circumstances {
            now: Timestamp::now(),
            environment: snapshot.environment.as_deref(),
            address,
            max_age: snapshot.max_age,
        };
        let name = key.name().map(|name| format!(" ({name})")).unwrap_or_default();
        match key.validity(None, &circumstances) {
            Ok(()) => {
                let permissions = key.permissions.names().join(", ");
                told.step("key", format!("{}{name}, with {permissions}", key.id()));
                if let Some(address) = address.filter(|_| self.from.is_none()) {
                    told.step(
                        "address",
                        format!("taken to be {address}, which the key allows; --from says another"),
                    );
                }
                Ok(())
            }
            Err(invalidity) => {
                told.step("key", format!("{}{name}: {}", key.id(), invalidity.name()));
                let denial = match invalidity.end() {
                    Some(end) => Denial::expired_key(end),
                    None => Denial::invalid_key(key.id()),
                };
                Err(denial.caused_by(invalidity.name()))
            }
        }
    }

    fn print(
        &self,
        method: &Method,
        path: &str,
        told: Told,
        outcome: Result<(), Denial>,
    ) -> Result<(), Failure> {
        let denial = outcome.err();
        let advice = denial.as_ref().map(|denial| {
            let reason = denial.cause().map(ToString::to_string).unwrap_or_default();
            catalogue::advice(denial.code().name(), &reason)
        });
        if self.json {
            let steps: Vec<Value> =
                told.0.iter().map(|(step, text)| json!({"step": step, "text": text})).collect();
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
        for (step, told) in &told.0 {
            text.push_str(&format!("  {step:<11}{told}\n"));
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

/// Whether the key may use the route, and all that servers may read the path as.
fn permit(
    key: Option<&LiveKey>,
    route: &Arc<Route>,
    others: &[Arc<Route>],
    told: &mut Told,
) -> Result<(), Denial> {
    let others = others.iter().filter(|other| !Arc::ptr_eq(other, route));
    match route.access {
        Access::Public => told.step("permission", "none is needed: the route is public"),
        Access::Needs(permission) => told.step("permission", format!("{} is needed", permission.name())),
    }
    for (place, reading) in std::iter::once(route).chain(others).enumerate() {
        if place > 0 {
            let needs = match reading.access {
                Access::Public => "which is public".to_owned(),
                Access::Needs(permission) => format!("for which {} is needed", permission.name()),
            };
            told.step("read as", format!("{}, too, by some servers, {needs}", reading.name));
        }
        if let (Access::Needs(permission), Some(live)) = (reading.access, key) {
            gate::may_use(&live.key, permission, &reading.name)?;
        }
    }
    Ok(())
}

fn find_key(prepared: &Prepared, wanted: &str) -> Result<Arc<LiveKey>, Failure> {
    let mut found: Option<Arc<LiveKey>> = None;
    prepared.keys.for_each(|live| {
        let is_id = live.key.id() == wanted;
        // An id goes before a name.
        if is_id || (found.is_none() && live.key.name() == Some(wanted)) {
            found = Some(live.clone());
        }
    });
    found.ok_or_else(|| {
        Failure::Failed(format!("no key has the id or name {wanted}; `bearward keys list` shows them"))
    })
}

/// What came nearest, where no route matches.
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
        let (requests, per, burst) = (quota.requests, quota.per.as_secs(), quota.burst);
        format!("{} ({source}): {requests} in {per} s, {burst} at once", window.name())
    };
    let of_key = own.unwrap_or(&snapshot.default_windows).iter().map(|window| quota(window, source));
    let of_route = route.windows.iter().map(|window| quota(window, "the route's"));
    let concurrent = live.key.max_concurrent().or(snapshot.default_max_concurrent);
    let concurrent = concurrent.map(|limit| format!("{limit} in flight"));
    let all: Vec<String> = of_key.chain(of_route).chain(concurrent).collect();
    if all.is_empty() { "none".to_owned() } else { all.join("; ") }
}
