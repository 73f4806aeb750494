//! All routes of a snapshot, in order. The first route that matches a request wins.

use std::sync::Arc;

use http::Method;
use smallvec::SmallVec;

use super::ambiguous::{ENCODED_SEMICOLON, readings};
use super::compiled::{AskedPath, Route, compile};
use super::index::PathIndex;
use crate::config::{Ambiguity, Config};
use crate::cors::{CorsAnswer, CorsPolicy};
use crate::limit::Limiter;
use crate::model::Named;
use crate::upstream::Upstream;

/// Result of searching the route of a request.
#[derive(Debug)]
pub(crate) enum Lookup {
    Found(Arc<Route>),
    /// No route matches the request.
    None,
    /// All routes name hosts, and no route names the host of the request.
    OtherHost,
}

/// All routes of a snapshot, in their order.
#[derive(Debug)]
pub(crate) struct RouteTable {
    pub(super) routes: Vec<Arc<Route>>,
    pub(super) index: Option<PathIndex>,
    /// Whether every route names hosts. A request for an unknown host is then misdirected (421).
    all_name_hosts: bool,
    /// The kinds of ambiguous parts of paths that at least one route accepts.
    accepted_somewhere: Vec<Ambiguity>,
    /// The web pages that may read the answers of routes without a `cors` of their own, and the
    /// refusals of requests without a route.
    cors: Option<Arc<CorsPolicy>>,
    /// If a route has a `cors` of its own: the CORS of the refusals of requests for which no `cors`
    /// holds. They have the same `Vary` as the refusals of that route, which would otherwise show
    /// the route to clients without a key.
    beside_cors: Option<Arc<CorsAnswer>>,
}

impl RouteTable {
    /// Compiles the routes of a configuration. `upstreams` are the upstreams of the same
    /// configuration, in order.
    pub(crate) fn new(
        config: &Config,
        upstreams: &[Arc<Upstream>],
        limiter: &Limiter,
    ) -> anyhow::Result<Self> {
        let mut routes = Vec::with_capacity(config.routes.len());
        let without_own = config.routes.iter().filter(|route| route.cors.is_none());
        let methods = without_own.map(|route| route.requests.methods.as_deref());
        let cors = config.cors.as_ref().map(|cors| Arc::new(CorsPolicy::new(cors, methods)));
        for route in &config.routes {
            routes.push(Arc::new(compile(route, upstreams, limiter, cors.as_ref())?));
        }
        let has_cors_by_route = config.routes.iter().any(|route| route.cors.is_some());
        let beside_cors = has_cors_by_route.then(|| Arc::new(CorsAnswer::unlisted()));
        let all_name_hosts = routes.iter().all(|route| route.hosts.is_some());
        let index = PathIndex::of(&routes);
        let of_some = |(_, known): &(_, Ambiguity)| routes.iter().any(|route| route.accepts(*known));
        let accepted_somewhere = Ambiguity::ALL.into_iter().filter(of_some).map(|(_, known)| known).collect();
        Ok(RouteTable { routes, index, all_name_hosts, accepted_somewhere, cors, beside_cors })
    }

    /// Compiles the routes of a configuration for tests that use neither upstreams nor limits.
    #[cfg(any(test, feature = "fuzzing"))]
    #[allow(clippy::unwrap_used, reason = "a test fails by a panic")]
    pub(crate) fn of(config: &Config) -> Self {
        let (endpoints, queues) =
            (crate::upstream::Endpoints::default(), crate::upstream::queue::Queues::default());
        let upstream = |upstream| Arc::new(Upstream::new(upstream, &endpoints, &queues).unwrap());
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
                let position = index.first(path, |position| self.routes.get(position).is_some_and(takes));
                position.and_then(|position| self.routes.get(position))
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

    /// Returns the routes that a request's model selects from: the routes that match the rest of
    /// the request, in their order, up to the first one that matches any model.
    pub(crate) fn find_by_model(&self, host: &str, method: &Method, path: &str) -> SmallVec<[Arc<Route>; 2]> {
        let asked = AskedPath::new(path);
        let mut found = SmallVec::new();
        for route in self.routes.iter().filter(|route| route.matches(host, method, &asked)) {
            found.push(route.clone());
            if route.model.models.is_none() {
                break;
            }
        }
        found
    }

    /// Returns the upstreams that the routes with `models` lead to, except `own`, each once.
    pub(crate) fn upstreams_by_model(&self, own: &Arc<Upstream>) -> Vec<Arc<Upstream>> {
        let mut found: Vec<Arc<Upstream>> = Vec::new();
        for route in self.routes.iter().filter(|route| route.model.models.is_some()) {
            let is_known = |known: &Arc<Upstream>| known.name == route.upstream.name;
            if !is_known(own) && !found.iter().any(is_known) {
                found.push(route.upstream.clone());
            }
        }
        found
    }

    /// Whether requests for a model are led to the upstream `name`. Models that no route with
    /// `models` matches are led to `own`.
    pub(crate) fn leads_to(&self, model: &str, name: &str, own: &str) -> bool {
        let named = Named::Model(model.to_owned());
        let mut by_model = self.routes.iter().filter(|route| route.model.models.is_some());
        let leads = by_model.find(|route| route.matches_model(&named));
        leads.map_or(own, |route| &route.upstream.name) == name
    }

    /// Whether some route accepts this kind of ambiguous part in paths.
    pub(crate) fn accepts_somewhere(&self, ambiguity: Ambiguity) -> bool {
        self.accepted_somewhere.contains(&ambiguity)
    }

    /// Returns the routes that match the other readings of a path with `ambiguities`. A client that
    /// sends this path must be allowed to use these routes, too.
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

    /// Whether the path has an encoded `;`, and some route accepts a raw `;`. Most servers read the
    /// two forms alike.
    pub(crate) fn reads_semicolons(&self, path: &str) -> bool {
        self.accepts_somewhere(Ambiguity::Semicolon) && path.contains(ENCODED_SEMICOLON)
    }

    /// Whether a route that names hosts matches this method and path, so that the request's host
    /// matters.
    pub(crate) fn go_by_host(&self, method: &Method, path: &str) -> bool {
        let asked = AskedPath::new(path);
        let names_hosts = |route: &&Arc<Route>| route.hosts.is_some();
        self.routes
            .iter()
            .filter(names_hosts)
            .any(|route| route.matches_method(method) && route.matches_path(&asked))
    }

    /// Whether the configuration has a `cors`, at the top or at a route.
    pub(crate) fn has_cors(&self) -> bool {
        self.cors.is_some() || self.has_cors_by_route()
    }

    /// Whether a route has a `cors` of its own.
    pub(crate) fn has_cors_by_route(&self) -> bool {
        self.beside_cors.is_some()
    }

    /// Returns the CORS of the refusal of a request for which no `cors` holds.
    pub(crate) fn beside_cors(&self) -> Option<&Arc<CorsAnswer>> {
        self.beside_cors.as_ref()
    }

    /// Returns the CORS policy at the top of the configuration.
    pub(crate) fn cors(&self) -> Option<&Arc<CorsPolicy>> {
        self.cors.as_ref()
    }

    /// Returns the CORS policy of a request: the policy of its route. If no route matches the
    /// request, returns the policy of the first route that matches its host and path, so that the
    /// refusal of a wrong method can be read; or else the policy at the top.
    pub(crate) fn cors_policy<'a>(
        &'a self,
        found: &'a Lookup,
        host: &str,
        path: &str,
    ) -> Option<&'a CorsPolicy> {
        if let Lookup::Found(route) = found {
            return route.cors.as_deref();
        }
        let asked = AskedPath::new(path);
        let matches = |route: &&Arc<Route>| route.matches_host(host) && route.matches_path(&asked);
        let near = self.has_cors_by_route().then(|| self.routes.iter().find(matches)).flatten();
        near.map_or(self.cors.as_deref(), |route| route.cors.as_deref())
    }

    /// Returns all routes, in their order.
    pub(crate) fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.iter()
    }

    /// Returns the names of all routes, for checking the `routes` of keys.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.routes.iter().map(|route| &*route.name)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::super::Shadow;
    use super::*;
    use crate::config::Access;
    use crate::permission::Permission;

    pub(in crate::route) fn table(routes: &str) -> RouteTable {
        let source = format!(
            "listeners: [{{address: 127.0.0.1:1}}]\nupstreams: [{{name: m, endpoints: [http://127.0.0.1:2]}}]\nkeys: {{path: k.yaml}}\nroutes: {routes}\n"
        );
        RouteTable::of(&Config::parse(Path::new("c.yaml"), &source, &|_| None).unwrap())
    }

    #[test]
    fn routes_that_lose_requests_to_others_are_reported() {
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
    fn the_openai_preset_needs_the_right_permission_for_each_request() {
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
    fn operating_a_model_server_takes_admin() {
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
