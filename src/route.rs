//! Which route a request takes: host, method and canonical path decide, and nothing else does.
//!
//! The first route that matches wins. What matches none is denied; the caller learns so only after its key
//! was accepted.

mod index;
pub(crate) mod presets;

use std::sync::Arc;

use http::Method;

use crate::config::{self, Access, Ambiguity, Config, Routes, Timeouts};
use crate::limit::{Limiter, Window};
use crate::path_pattern::{self, PathPattern};
use crate::upstream::Upstream;
use index::PathIndex;

/// A route, compiled.
#[derive(Debug)]
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
    paths: Vec<PathPattern>,
    /// The paths, as they are written.
    globs: Vec<String>,
    methods: Option<Vec<Method>>,
    hosts: Option<Vec<String>>,
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
}

impl RouteTable {
    /// Compiles the routes of a configuration. `upstreams` are those of the same configuration, in order.
    pub(crate) fn new(
        config: &Config,
        upstreams: &[Arc<Upstream>],
        limiter: &Limiter,
    ) -> anyhow::Result<Self> {
        let preset;
        let described = match &config.routes {
            Routes::Custom(routes) => routes,
            Routes::Preset(name) => {
                preset = presets::routes(*name);
                &preset
            }
        };
        let mut routes = Vec::with_capacity(described.len());
        for route in described {
            routes.push(Arc::new(compile(route, upstreams, limiter)?));
        }
        let all_name_hosts = routes.iter().all(|route| route.hosts.is_some());
        let index = PathIndex::of(&routes);
        Ok(RouteTable { routes, index, all_name_hosts })
    }

    /// Finds the route of a request; `host` is in lower case and has no port, `path` is canonical.
    pub(crate) fn find(&self, host: &str, method: &Method, path: &str) -> Lookup {
        let takes = |route: &Arc<Route>| route.matches(host, method, path);
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

    /// Routes that others before them stand in the way of.
    pub(crate) fn shadows(&self) -> impl Iterator<Item = Shadow<'_>> {
        self.routes.iter().enumerate().filter_map(|(index, route)| {
            let before = || self.routes.iter().take(index);
            if let Some(by) = before().find(|earlier| earlier.covers(route)) {
                return Some(Shadow::Whole { route: &route.name, by: &by.name });
            }
            let is_open = |earlier: &&Arc<Route>| earlier.access == Access::Public && earlier.meets(route);
            let by = before().find(is_open).filter(|_| route.access != Access::Public)?;
            Some(Shadow::PublicPart { route: &route.name, by: &by.name })
        })
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

/// A route that another one, before it, keeps requests from. By names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shadow<'a> {
    /// All of them.
    Whole { route: &'a str, by: &'a str },
    /// Some of them, which then need no key.
    PublicPart { route: &'a str, by: &'a str },
}

impl Route {
    /// Whether all requests that the other one, a later one, matches are this one's. Said only where it is sure.
    fn covers(&self, other: &Route) -> bool {
        let covers_methods = match (&self.methods, &other.methods) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(_), Some(theirs)) => theirs.iter().all(|method| self.matches_method(method)),
        };
        let covers_hosts = match (&self.hosts, &other.hosts) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(ours), Some(theirs)) => {
                theirs.iter().all(|host| ours.iter().any(|own| covers_host(own, host)))
            }
        };
        let is_covered = |glob: &String| self.globs.iter().any(|own| path_pattern::covers(own, glob));
        covers_methods && covers_hosts && other.globs.iter().all(is_covered)
    }

    /// Whether some request could be of both.
    fn meets(&self, other: &Route) -> bool {
        let share_methods = match (&self.methods, &other.methods) {
            (Some(ours), Some(theirs)) => {
                theirs.iter().any(|method| self.matches_method(method))
                    || ours.iter().any(|method| other.matches_method(method))
            }
            _ => true,
        };
        let share_hosts = match (&self.hosts, &other.hosts) {
            (Some(ours), Some(theirs)) => ours
                .iter()
                .any(|own| theirs.iter().any(|host| covers_host(own, host) || covers_host(host, own))),
            _ => true,
        };
        let meet = |glob: &String| self.globs.iter().any(|own| path_pattern::meet(own, glob));
        share_methods && share_hosts && other.globs.iter().any(meet)
    }

    /// Which parts of a request the route matches: host, method, path.
    pub(crate) fn compared(&self, host: &str, method: &Method, path: &str) -> [bool; 3] {
        let matches_path = self.paths.iter().any(|pattern| pattern.matches(path));
        [self.matches_host(host), self.matches_method(method), matches_path]
    }

    fn matches(&self, host: &str, method: &Method, path: &str) -> bool {
        self.matches_host(host)
            && self.matches_method(method)
            && self.paths.iter().any(|pattern| pattern.matches(path))
    }

    fn matches_host(&self, host: &str) -> bool {
        let Some(hosts) = &self.hosts else { return true };
        hosts.iter().any(|known| match known.strip_prefix('*') {
            // `*.example.com` covers one label or more, and not the domain itself.
            Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            None => host == known,
        })
    }

    /// HEAD goes where GET goes (RFC 9110, section 9.3.2).
    fn matches_method(&self, method: &Method) -> bool {
        let Some(methods) = &self.methods else { return true };
        methods.contains(method) || (*method == Method::HEAD && methods.contains(&Method::GET))
    }

    /// Whether the route's upstream takes what servers read in different ways.
    pub(crate) fn accepts(&self, ambiguity: Ambiguity) -> bool {
        self.upstream.accept_in_path.contains(&ambiguity)
    }

    /// The path that upstream gets.
    pub(crate) fn upstream_path<'p>(&self, path: &'p str) -> &'p str {
        let Some(prefix) = &self.strip_prefix else { return path };
        match path.strip_prefix(prefix.as_str()) {
            Some("") => "/",
            Some(rest) if rest.starts_with('/') => rest,
            _ => path,
        }
    }
}

/// Whether one host pattern covers another: `*.a.b` covers `x.a.b` and `*.x.a.b`, and not `a.b`.
fn covers_host(wide: &str, narrow: &str) -> bool {
    wide == narrow
        || wide.strip_prefix('*').is_some_and(|suffix| {
            let narrow = narrow.strip_prefix('*').unwrap_or(narrow);
            narrow.len() > suffix.len() && narrow.ends_with(suffix)
        })
}

fn compile(route: &config::Route, upstreams: &[Arc<Upstream>], limiter: &Limiter) -> anyhow::Result<Route> {
    let upstream = match &route.upstream {
        Some(name) => upstreams.iter().find(|upstream| *upstream.name == **name),
        None => upstreams.first(),
    };
    let Some(upstream) = upstream else { anyhow::bail!("the route {} has no upstream", route.name) };
    let paths = route.paths.iter().map(|glob| PathPattern::new(glob)).collect::<Result<_, _>>()?;
    Ok(Route {
        name: route.name.as_str().into(),
        access: route.access,
        upstream: upstream.clone(),
        windows: route.rate_limits.iter().map(|quota| limiter.window(Some(&route.name), *quota)).collect(),
        strip_prefix: route.strip_prefix.clone(),
        max_body: route.max_body,
        timeouts: upstream.timeouts.overridden(route.timeouts),
        upgrades: route.upgrades.clone(),
        paths,
        globs: route.paths.clone(),
        methods: route.methods.clone(),
        hosts: route.hosts.clone(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::clock::Clock;
    use crate::permission::Permission;
    use crate::upstream::Endpoints;

    pub(super) fn table(routes: &str) -> RouteTable {
        let source = format!(
            "listeners: [{{address: 127.0.0.1:1}}]\nupstreams: [{{name: m, endpoints: [http://127.0.0.1:2]}}]\nkeys: {{path: k.yaml}}\nroutes: {routes}\n"
        );
        let config = Config::parse(Path::new("c.yaml"), &source, &|_| None).unwrap();
        let endpoints = Endpoints::default();
        let upstreams: Vec<_> = config
            .upstreams
            .iter()
            .map(|upstream| Arc::new(Upstream::new(upstream, &endpoints).unwrap()))
            .collect();
        RouteTable::new(&config, &upstreams, &Limiter::new(Clock::system(), usize::MAX)).unwrap()
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
