//! Which route a request takes: host, method and canonical path decide, and nothing else does.
//!
//! The first route that matches wins. What matches none is denied; the caller learns so only after its key
//! was accepted.

mod ambiguous;
mod index;
mod shadow;

use std::cell::OnceCell;
use std::sync::Arc;

use http::{HeaderName, Method};

use crate::config::{self, Access, Ambiguity, Config, Limits, Timeouts};
use crate::folding::folded;
use crate::host_pattern::HostPattern;
use crate::limit::{Limiter, Window};
use crate::path_pattern::PathPattern;
use crate::path_pattern::reading::{PathReading, fold};
use crate::upstream::Upstream;
use ambiguous::{ENCODED_SEMICOLON, readings};
use index::PathIndex;
pub(crate) use shadow::Shadow;

/// A route, compiled.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) name: Arc<str>,
    pub(crate) access: Access,
    pub(crate) upstream: Arc<Upstream>,
    /// Windows of the route's own limits; each key has its own state in them.
    pub(crate) windows: Vec<Arc<Window>>,
    pub(crate) strip_prefix: Option<String>,
    pub(crate) max_body: Option<u64>,
    /// The upstream's, with the route's own in their place.
    pub(crate) timeouts: Timeouts,
    /// Protocols that a request may be upgraded to, in lower case.
    pub(crate) upgrades: Vec<String>,
    /// Whether GET and HEAD may have a body.
    body_on_get: bool,
    /// Request headers that do not pass, folded.
    pub(crate) removes: Arc<[HeaderName]>,
    accept_in_path: Vec<Ambiguity>,
    /// How its server reads paths.
    reading: PathReading,
    /// The paths that it matches, prepared for that reading.
    paths: Vec<PathPattern>,
    /// The paths, as they are written.
    written: Vec<PathPattern>,
    methods: Option<Vec<Method>>,
    hosts: Option<Vec<HostPattern>>,
}

/// What a look-up found.
#[derive(Debug)]
pub(crate) enum Lookup {
    Found(Arc<Route>),
    /// No route matches.
    None,
    /// All routes name their hosts, and none names this one.
    OtherHost,
}

/// All routes of a snapshot, in order.
#[derive(Debug)]
pub(crate) struct RouteTable {
    routes: Vec<Arc<Route>>,
    index: Option<PathIndex>,
    /// Whether every route names hosts, so that an unknown host is misdirected.
    all_name_hosts: bool,
    /// What some route takes in its paths.
    accepted_somewhere: Vec<Ambiguity>,
}

/// The path that a route is looked for. It is folded once, however many routes ignore case.
#[derive(Debug)]
struct AskedPath<'p> {
    canonical: &'p str,
    folded: OnceCell<String>,
}

impl<'p> AskedPath<'p> {
    fn new(canonical: &'p str) -> Self {
        AskedPath { canonical, folded: OnceCell::new() }
    }

    fn folded(&self) -> &str {
        self.folded.get_or_init(|| fold(self.canonical))
    }
}

impl RouteTable {
    /// Compiles the routes of a configuration. `upstreams` are those of the same configuration, in order.
    pub(crate) fn new(
        config: &Config,
        upstreams: &[Arc<Upstream>],
        limiter: &Limiter,
    ) -> anyhow::Result<Self> {
        let mut routes = Vec::with_capacity(config.routes.len());
        for route in &config.routes {
            routes.push(Arc::new(compile(route, upstreams, limiter)?));
        }
        let all_name_hosts = routes.iter().all(|route| route.hosts.is_some());
        let index = PathIndex::of(&routes);
        let of_some = |(_, known): &(_, Ambiguity)| routes.iter().any(|route| route.accepts(*known));
        let accepted_somewhere = Ambiguity::ALL.into_iter().filter(of_some).map(|(_, known)| known).collect();
        Ok(RouteTable { routes, index, all_name_hosts, accepted_somewhere })
    }

    /// The routes of a configuration by themselves, for tests: with upstreams and limits that nothing else uses.
    #[cfg(any(test, feature = "fuzzing"))]
    #[allow(clippy::unwrap_used, reason = "a test is told by a panic")]
    pub(crate) fn of(config: &Config) -> Self {
        let endpoints = crate::upstream::Endpoints::default();
        let upstream = |upstream| Arc::new(Upstream::new(upstream, &endpoints).unwrap());
        let upstreams: Vec<_> = config.upstreams.iter().map(upstream).collect();
        RouteTable::new(config, &upstreams, &Limiter::new(crate::clock::Clock::system(), usize::MAX)).unwrap()
    }

    /// Finds the route of a request; `host` is in lower case and has no port, `path` is canonical.
    pub(crate) fn find(&self, host: &str, method: &Method, path: &str) -> Lookup {
        let asked = AskedPath::new(path);
        let takes = |route: &Arc<Route>| route.matches(host, method, &asked);
        let found = match &self.index {
            None => self.routes.iter().find(|route| takes(route)),
            Some(index) => {
                let place = index.first(path, |place| self.routes.get(place).is_some_and(takes));
                place.and_then(|place| self.routes.get(place))
            }
        };
        if let Some(route) = found {
            return Lookup::Found(route.clone());
        }
        if self.all_name_hosts && !self.routes.iter().any(|route| route.matches_host(host)) {
            return Lookup::OtherHost;
        }
        Lookup::None
    }

    /// Whether some route takes this in its paths.
    pub(crate) fn accepts_somewhere(&self, ambiguity: Ambiguity) -> bool {
        self.accepted_somewhere.contains(&ambiguity)
    }

    /// Routes of what a path with `ambiguities` may be read as, beside the one of the path as it stands: whoever may use
    /// this one must be allowed to use those, too.
    pub(crate) fn other_readings(
        &self,
        host: &str,
        method: &Method,
        path: &str,
        ambiguities: &[Ambiguity],
    ) -> Vec<Arc<Route>> {
        let mut others: Vec<Arc<Route>> = Vec::new();
        for reading in readings(path, ambiguities, self.reads_semicolons(path)) {
            if let Lookup::Found(route) = self.find(host, method, &reading) {
                others.push(route);
            }
        }
        others
    }

    /// Whether a `;` stands encoded in the path, and some server takes one. Patterns have it then, and most servers read both alike.
    pub(crate) fn reads_semicolons(&self, path: &str) -> bool {
        self.accepts_somewhere(Ambiguity::Semicolon) && path.contains(ENCODED_SEMICOLON)
    }

    /// Whether the host of a request with this method and path has a say.
    pub(crate) fn go_by_host(&self, method: &Method, path: &str) -> bool {
        let asked = AskedPath::new(path);
        let names_hosts = |route: &&Arc<Route>| route.hosts.is_some();
        self.routes
            .iter()
            .filter(names_hosts)
            .any(|route| route.matches_method(method) && route.matches_path(&asked))
    }

    /// All routes, in order.
    pub(crate) fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.iter()
    }

    /// The names of all routes, for checks of what keys are narrowed to.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.routes.iter().map(|route| &*route.name)
    }
}

impl Route {
    /// Which parts of a request the route matches: host, method, path.
    pub(crate) fn compared(&self, host: &str, method: &Method, path: &str) -> [bool; 3] {
        [self.matches_host(host), self.matches_method(method), self.matches_path(&AskedPath::new(path))]
    }

    fn matches(&self, host: &str, method: &Method, path: &AskedPath<'_>) -> bool {
        self.matches_host(host) && self.matches_method(method) && self.matches_path(path)
    }

    fn matches_path(&self, path: &AskedPath<'_>) -> bool {
        let path = if self.reading.ignore_case { path.folded() } else { path.canonical };
        self.paths.iter().any(|pattern| pattern.matches(path))
    }

    fn matches_host(&self, host: &str) -> bool {
        let Some(hosts) = &self.hosts else { return true };
        hosts.iter().any(|known| known.matches(host))
    }

    /// HEAD goes where GET goes (RFC 9110, section 9.3.2).
    fn matches_method(&self, method: &Method) -> bool {
        let Some(methods) = &self.methods else { return true };
        methods.contains(method) || (*method == Method::HEAD && methods.contains(&Method::GET))
    }

    /// Whether a request with this method may have a body: GET and HEAD give none a meaning (RFC 9110, section 9.3.1).
    pub(crate) fn takes_body(&self, method: &Method) -> bool {
        self.body_on_get || !matches!(*method, Method::GET | Method::HEAD)
    }

    /// The length of a request's body, at most.
    pub(crate) fn body_bytes(&self, limits: &Limits) -> u64 {
        let otherwise = match self.access {
            Access::Public => limits.public.body_bytes.min(limits.body_bytes),
            Access::Needs(_) => limits.body_bytes,
        };
        self.max_body.unwrap_or(otherwise)
    }

    /// This route with what bounds a request on `others` as well: those that servers may read its path as. Of each field the
    /// strictest holds.
    pub(crate) fn bounded_by(&self, others: &[Arc<Route>], limits: &Limits) -> Self {
        let mut bounded = self.clone();
        let (mut bytes, mut removes) = (self.body_bytes(limits), self.removes.to_vec());
        for other in others {
            bytes = bytes.min(other.body_bytes(limits));
            removes.extend(other.removes.iter().filter(|name| !self.removes.contains(name)).cloned());
            bounded.body_on_get &= other.body_on_get;
            bounded.upgrades.retain(|protocol| other.upgrades.contains(protocol));
            for window in &other.windows {
                // A window is charged once, by however many names a request has it.
                if !bounded.windows.iter().any(|known| Arc::ptr_eq(known, window)) {
                    bounded.windows.push(window.clone());
                }
            }
        }
        bounded.max_body = Some(bytes);
        bounded.removes = removes.into();
        bounded
    }

    /// Whether the route's upstream takes what servers read in different ways.
    pub(crate) fn accepts(&self, ambiguity: Ambiguity) -> bool {
        self.accept_in_path.contains(&ambiguity)
    }

    /// The path that upstream gets.
    pub(crate) fn upstream_path<'p>(&self, path: &'p str) -> &'p str {
        let Some(prefix) = &self.strip_prefix else { return path };
        let is_prefix = |beginning: &str| match self.reading.ignore_case {
            true => fold(beginning) == fold(prefix),
            false => beginning == prefix,
        };
        match path
            .split_at_checked(prefix.len())
            .filter(|(beginning, _)| is_prefix(beginning))
            .map(|(_, rest)| rest)
        {
            Some("") => "/",
            Some(rest) if rest.starts_with('/') => rest,
            _ => path,
        }
    }
}

fn compile(route: &config::Route, upstreams: &[Arc<Upstream>], limiter: &Limiter) -> anyhow::Result<Route> {
    let upstream = match &route.upstream {
        Some(name) => upstreams.iter().find(|upstream| *upstream.name == **name),
        None => upstreams.first(),
    };
    let Some(upstream) = upstream else { anyhow::bail!("the route {} has no upstream", route.name) };
    let reading = route.reading.and(upstream.reading.unwrap_or(PathReading::EXACT));
    let mut accept_in_path = upstream.accept_in_path.clone();
    accept_in_path.extend(&route.accept_in_path);
    Ok(Route {
        name: route.name.as_str().into(),
        access: route.access,
        upstream: upstream.clone(),
        windows: route.rate_limits.iter().map(|quota| limiter.window(Some(&route.name), *quota)).collect(),
        strip_prefix: route.strip_prefix.clone(),
        max_body: route.max_body,
        timeouts: upstream.timeouts.overridden(route.timeouts),
        upgrades: route.upgrades.clone(),
        body_on_get: route.body_on_get,
        removes: route.removes.iter().map(folded).collect(),
        accept_in_path,
        reading,
        paths: route.paths.iter().flat_map(|pattern| reading.prepare(pattern)).collect(),
        written: route.paths.clone(),
        methods: route.methods.clone(),
        hosts: route.hosts.clone(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::permission::Permission;

    pub(super) fn table(routes: &str) -> RouteTable {
        let source = format!(
            "listeners: [{{address: 127.0.0.1:1}}]\nupstreams: [{{name: m, endpoints: [http://127.0.0.1:2]}}]\nkeys: {{path: k.yaml}}\nroutes: {routes}\n"
        );
        RouteTable::of(&Config::parse(Path::new("c.yaml"), &source, &|_| None).unwrap())
    }

    #[test]
    fn routes_that_others_stand_before_are_told() {
        let routes = "
  - {name: open, paths: [/v1/models/**], public: true}
  - {name: chat, paths: [/v1/chat/*], permission: read}
  - {name: one, paths: [/v1/chat/completions], permission: write, methods: [POST]}
  - {name: all, paths: ['/v1/**'], permission: read}
  - {name: other, paths: [/v2/*], permission: read, methods: [GET]}
  - {name: more, paths: [/v2/*], permission: read}";
        let first = table(routes);
        let shadows: Vec<_> = first.shadows().collect();
        assert_eq!(
            shadows,
            [Shadow::Whole { route: "one", by: "chat" }, Shadow::PublicPart { route: "all", by: "open" },]
        );
    }

    fn access(table: &RouteTable, method: Method, path: &str) -> Option<Access> {
        match table.find("localhost", &method, path) {
            Lookup::Found(route) => Some(route.access),
            _ => None,
        }
    }

    #[test]
    fn the_openai_preset_knows_who_may_do_what() {
        let table = table("openai");
        let needs = |permission| Some(Access::Needs(permission));
        let (read, write) = (needs(Permission::Read), needs(Permission::Write));
        let (admin, webhook) = (needs(Permission::Admin), needs(Permission::Webhook));
        let cases = [
            (Method::POST, "/v1/chat/completions", read),
            (Method::POST, "/v1/generate", read),
            (Method::POST, "/v1/embeddings", read),
            (Method::POST, "/v1/audio/speech", read),
            (Method::POST, "/tokenize", read),
            (Method::GET, "/v1/models", read),
            (Method::HEAD, "/v1/models", read),
            (Method::GET, "/v1/models/meta-llama/Llama-3", read),
            (Method::DELETE, "/v1/models/x", write),
            (Method::GET, "/v1/files", read),
            (Method::POST, "/v1/files", write),
            (Method::GET, "/v1/files/f/content", read),
            (Method::POST, "/v1/vector_stores/v/search", read),
            (Method::POST, "/v1/vector_stores/v/files", write),
            (Method::POST, "/v1/fine_tuning/jobs", write),
            (Method::POST, "/v1/responses/r/cancel", write),
            (Method::GET, "/v1/webhooks", webhook),
            (Method::POST, "/v1/webhooks/w/deliveries", webhook),
            (Method::GET, "/v1/admin/keys", admin),
            (Method::GET, "/v1/organization/users", admin),
            (Method::GET, "/health", Some(Access::Public)),
            (Method::POST, "/health", None),
            (Method::POST, "/invocations", None),
            (Method::POST, "/v1/models", None),
            (Method::GET, "/metrics", None),
            (Method::GET, "/", None),
        ];
        for (method, path, expected) in cases {
            assert_eq!(access(&table, method.clone(), path), expected, "{method} {path}");
        }
    }

    #[test]
    fn what_operates_a_model_server_takes_admin() {
        let needs = |permission| Some(Access::Needs(permission));
        let (read, write, admin) =
            (needs(Permission::Read), needs(Permission::Write), needs(Permission::Admin));
        let grpc = |method: &str| format!("/inference.GRPCInferenceService/{method}");
        let cases = [
            ("vllm", Method::POST, "/v1/chat/completions".to_owned(), read),
            ("vllm", Method::POST, "/sleep".to_owned(), admin),
            ("vllm", Method::POST, "/collective_rpc".to_owned(), admin),
            ("vllm", Method::POST, "/v1/load_lora_adapter".to_owned(), admin),
            ("vllm", Method::DELETE, "/adapters/team/one".to_owned(), admin),
            ("vllm", Method::POST, "/v1/responses/r/cancel".to_owned(), write),
            ("vllm", Method::GET, "/metrics".to_owned(), admin),
            ("vllm", Method::GET, "/health".to_owned(), Some(Access::Public)),
            ("vllm", Method::GET, "/metrics/x".to_owned(), None),
            ("llama-cpp", Method::POST, "/completion".to_owned(), read),
            ("llama-cpp", Method::GET, "/_app/immutable/entry/app.js".to_owned(), Some(Access::Public)),
            ("llama-cpp", Method::GET, "/favicon-dark.svg".to_owned(), Some(Access::Public)),
            ("llama-cpp", Method::GET, "/models".to_owned(), read),
            ("llama-cpp", Method::POST, "/models".to_owned(), admin),
            ("llama-cpp", Method::DELETE, "/models".to_owned(), admin),
            ("llama-cpp", Method::POST, "/slots/0".to_owned(), admin),
            ("llama-cpp", Method::POST, "/props".to_owned(), admin),
            ("llama-cpp", Method::POST, "/tools".to_owned(), admin),
            ("llama-cpp", Method::POST, "/predict".to_owned(), None),
            ("ollama", Method::HEAD, "/".to_owned(), Some(Access::Public)),
            ("ollama", Method::POST, "/api/chat".to_owned(), read),
            ("ollama", Method::POST, "/api/pull".to_owned(), admin),
            ("ollama", Method::POST, "/api/create".to_owned(), admin),
            ("ollama", Method::HEAD, "/api/blobs/sha256:0".to_owned(), admin),
            ("ollama", Method::DELETE, "/api/delete".to_owned(), admin),
            ("ollama", Method::GET, "/api/tags".to_owned(), read),
            ("triton", Method::POST, grpc("ModelInfer"), read),
            ("triton", Method::POST, grpc("ServerLive"), Some(Access::Public)),
            ("triton", Method::POST, grpc("RepositoryModelLoad"), admin),
            ("triton", Method::POST, grpc("Unheard"), None),
            ("triton", Method::POST, "/v2/models/m/infer".to_owned(), read),
            ("triton", Method::GET, "/v2/models/stats".to_owned(), admin),
            ("triton", Method::GET, "/v2/models/m".to_owned(), read),
            ("triton", Method::POST, "/v2/repository/models/m/load".to_owned(), admin),
            ("triton", Method::POST, "/v2/systemsharedmemory/region/r/register".to_owned(), admin),
        ];
        for (preset, method, path, expected) in cases {
            assert_eq!(access(&table(preset), method.clone(), &path), expected, "{preset}: {method} {path}");
        }
    }

    #[test]
    fn any_takes_all_paths_by_method() {
        let table = table("any");
        assert_eq!(access(&table, Method::GET, "/x/y"), Some(Access::Needs(Permission::Read)));
        assert_eq!(access(&table, Method::POST, "/"), Some(Access::Needs(Permission::Write)));
    }

    #[test]
    fn a_star_stays_within_a_segment() {
        let table = table(
            "[{name: a, paths: [/a/*], permission: read}, {name: b, paths: [/b/**], permission: read}]",
        );
        assert!(access(&table, Method::GET, "/a/x").is_some());
        assert!(access(&table, Method::GET, "/a/x/y").is_none());
        assert!(access(&table, Method::GET, "/b/x/y").is_some());
        assert!(access(&table, Method::GET, "/B/x").is_none(), "paths are case-sensitive");
    }

    #[test]
    fn hosts_and_the_misdirected() {
        let table = table("[{name: a, paths: [/**], hosts: [a.example, '*.b.example'], permission: read}]");
        let find = |host: &str| table.find(host, &Method::GET, "/x");
        assert!(matches!(find("a.example"), Lookup::Found(_)));
        assert!(matches!(find("x.b.example"), Lookup::Found(_)));
        for other in ["b.example", "xa.example", "evilb.example"] {
            assert!(matches!(find(other), Lookup::OtherHost), "{other}");
        }
    }

    #[test]
    fn a_prefix_is_stripped_at_a_segments_end_alone() {
        let table = table("[{name: a, paths: [/m/**, /mm, /m], permission: read, strip_prefix: /m}]");
        let Lookup::Found(route) = table.find("h", &Method::GET, "/m/x") else { panic!() };
        assert_eq!(route.upstream_path("/m/x"), "/x");
        assert_eq!(route.upstream_path("/m"), "/");
        assert_eq!(route.upstream_path("/mm"), "/mm");
    }
}
