//! A whole configuration, and the functions that read it from a file.

use std::path::Path;

use crate::bom;
use crate::config::acme::{Acme, Challenge};
use crate::config::address::Address;
use crate::config::admin::{self, Admin};
use crate::config::auth::Auth;
use crate::config::budget::StateDirectory;
use crate::config::cors::{Cors, cors};
use crate::config::decode::{Decoder, Environment};
use crate::config::fault::{Fault, Faults, Position};
use crate::config::field::not_in_files;
use crate::config::files::{NamedFiles, ReadFile};
use crate::config::form::{Form, boolean, non_empty, number, off_or};
use crate::config::group::{Group, groups};
use crate::config::identity_needs::{Needed, refuse_what_identities_lack};
use crate::config::keys::{Keys, keys};
use crate::config::limits::Limits;
use crate::config::listener::{Listener, Tls, listener};
use crate::config::log::{Log, Metrics};
use crate::config::quota::{AttemptQuota, Quota, rate_limits};
use crate::config::route::Route;
use crate::config::routes::{default_routes, routes};
use crate::config::section::{self, nested, section};
use crate::config::shared::Shared;
use crate::config::traces::Traces;
use crate::config::tree::{self, Node, Quoting};
use crate::config::trusted_proxies::{TrustedProxies, trusted_proxies};
use crate::config::upstream::{Upstream, upstreams};
use crate::regular_file;

section! {
    /// A whole configuration.
    ///
    /// Sections are decoded in the order in which this struct lists them, because endpoints are
    /// checked against the listeners, and routes against the upstreams.
    #[derive(Clone, Debug)]
    pub struct Config in "the configuration" {
        /// The file that the configuration was read from; `None` if it was parsed from text.
        source: Option<ReadFile> = not_in_files();
        /// The addresses that clients connect to.
        listeners: Vec<Listener> = non_empty(listener()).required();
        admin: Option<Admin> = admin::field();
        keys: Keys = keys().required();
        auth: Auth = nested().or_default();
        /// Rate limits of each key that has none of its own.
        rate_limits: Vec<Quota> = rate_limits().or_default();
        /// The number of requests in flight at once, for each key that has no limit of its own.
        max_concurrent: Option<u32> = number(1).optional();
        /// Groups of keys that have limits together.
        groups: Vec<Group> = groups().or_default();
        /// The number of credentials without a matching key that one address may present in a
        /// window of time. `off` removes this limit.
        failed_attempts: Option<AttemptQuota> = off_or(nested()).or(Some(AttemptQuota::default()));
        /// The servers behind bearward.
        upstreams: Vec<Upstream> = upstreams().required();
        /// A preset, or a list in which the first route that matches wins. An item `{preset: NAME}`
        /// inserts a preset.
        routes: Vec<Route> = routes().or(default_routes());
        /// The web pages of other origins whose scripts may read the answers. A route's own `cors`
        /// replaces this one. Left out: no page of another origin.
        cors: Option<Cors> = cors().optional();
        limits: Limits = nested().or_default();
        /// Left out: nothing is kept, and there are no budgets.
        state: Option<StateDirectory> = nested().optional();
        /// Left out: each process has its limits for itself.
        shared: Option<Shared> = nested().optional();
        /// Whether the holder of a key sees what it may do and what is left of its limits, at
        /// `GET /.bearward/me`.
        self_service: bool = boolean().or(false);
        /// Proxies whose X-Forwarded-* headers are trusted: networks, addresses, or `unix` for the
        /// clients of unix listeners.
        trusted_proxies: TrustedProxies = trusted_proxies().or_default();
        log: Log = nested().or_default();
        metrics: Metrics = nested().or_default();
        traces: Option<Traces> = nested().optional();
        /// The number of threads that serve requests. Left out: as many as the cgroup allows.
        workers: Option<usize> = workers().optional();
        /// The files that the configuration names.
        named_files: NamedFiles = not_in_files();
    }
}

/// The highest number of workers. A higher number is most likely a typing error, because each
/// worker has stacks, timers and connections of its own.
const MOST_WORKERS: usize = 1024;

fn workers() -> Form<usize> {
    number(1).checked(|d, node, workers| match workers > MOST_WORKERS {
        true => d.hinted(node.at, "too many", format!("at most {MOST_WORKERS}; one for each core is best")),
        false => Some(workers),
    })
}

impl Config {
    /// Whether a group or an identity has budgets.
    pub(crate) fn has_budgets(&self) -> bool {
        self.groups.iter().any(|group| !group.budgets.is_empty())
            || self.auth.identities().any(|identity| identity.budgets.is_some())
    }

    /// Whether what was used of budgets survives a restart.
    pub(crate) fn keeps_budgets(&self) -> bool {
        self.state.is_some() || self.shared.is_some()
    }

    /// Reads a configuration file, and replaces `${VAR}` by variables of the process's environment.
    ///
    /// # Errors
    ///
    /// Returns all faults of the file. After a syntax error, only this error is returned, because
    /// decoding needs a whole tree.
    pub fn load(path: &Path) -> Result<Config, Faults> {
        Config::of(path, std::fs::read_to_string(path))
    }

    /// Reads the configuration for a reload, from a regular file only: a reload must not wait for a
    /// pipe. [`Config::load`], for commands, also reads pipes.
    pub(crate) fn load_again(path: &Path) -> Result<Config, Faults> {
        Config::of(path, regular_file::read_text(path).map(|text| text.to_string()))
    }

    fn of(path: &Path, source: std::io::Result<String>) -> Result<Config, Faults> {
        let source = source.map_err(|error| Fault::unreadable(path, "the configuration", &error))?;
        let config = Config::parse(path, &source, &|name| std::env::var(name).ok())?;
        Ok(Config { source: Some(ReadFile::new(path, &source)), ..config })
    }

    /// Reads only the address of the admin listener from a file, so that faults in all other fields
    /// do not matter. Returns `None` if the address can't be read, and `Some(None)` if the admin
    /// listener is off.
    pub(crate) fn admin_address_of(path: &Path) -> Option<Option<Address>> {
        let source = std::fs::read_to_string(path).ok()?;
        let root = tree::parse(path, bom::without(&source), Quoting::Allowed).ok()??;
        let environment = |name: &str| std::env::var(name).ok();
        let mut decoder = Decoder::new(path, Quoting::Allowed, Some(&environment));
        admin::address_in(&mut decoder, &root)
    }

    /// Parses a configuration from text. Faults show `path` as the path of the file.
    ///
    /// # Errors
    ///
    /// Returns the same faults as [`Config::load`].
    pub fn parse(
        path: &Path,
        source: &str,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Config, Faults> {
        parse(path, bom::without(source), environment)
    }
}

fn parse(path: &Path, source: &str, environment: Environment<'_>) -> Result<Config, Faults> {
    let Some(root) = tree::parse(path, source, Quoting::Allowed)? else {
        let fault = Fault::of_file(path, "the configuration is empty");
        return Err(fault.hint("it needs listeners, upstreams and keys").into());
    };
    let mut decoder = Decoder::new(path, Quoting::Allowed, Some(environment));
    let config = section::decode::<Config>(&mut decoder, &root);
    if let Some(config) = &config {
        refuse_budgets_that_are_lost(&mut decoder, &root, config);
        refuse_open_doors(&mut decoder, &root, config);
        refuse_what_needs_another_listener(&mut decoder, &root, config);
        refuse_domains_of_two_certificates(&mut decoder, &root, config);
        let needed = Needed {
            auth: &config.auth,
            listeners: &config.listeners,
            keys: &config.keys,
            groups: &config.groups,
            routes: &config.routes,
            keeps_budgets: config.keeps_budgets(),
            is_shared: config.shared.is_some(),
        };
        refuse_what_identities_lack(&mut decoder, &root, &needed);
    }
    decoder.refuse_overwritten();
    match config {
        Some(mut config) if decoder.faults.is_empty() => {
            config.keys.path.reached_by(config.keys.redis.as_ref(), config.shared.as_ref());
            let (store, files) = (config.keys.path.path().to_owned(), decoder.context.named_files);
            let named_files = NamedFiles { config: path.to_owned(), store, files };
            Ok(Config { named_files, ..config })
        }
        config => {
            debug_assert!(
                config.is_some() || !decoder.faults.is_empty(),
                "None means that a fault was reported"
            );
            Err(Faults::sorted(decoder.into_faults()))
        }
    }
}

/// Refuses budgets that a restart would forget.
fn refuse_budgets_that_are_lost(d: &mut Decoder<'_>, root: &Node, config: &Config) {
    let has_budgets = config.groups.iter().any(|group| !group.budgets.is_empty());
    if has_budgets && !config.keeps_budgets() {
        d.fault(root.position_of("groups"), "budgets, and nothing keeps what was used of them").hint =
            Some("`state: {path: DIRECTORY}`, or `shared` for several replicas".to_owned());
    }
}

/// Refuses listeners at which anybody who reaches them could ask about keys.
fn refuse_open_doors(d: &mut Decoder<'_>, root: &Node, config: &Config) {
    let names_askers = config.trusted_proxies.names_askers();
    let open = config
        .listeners
        .iter()
        .position(|listener| listener.door.is_some() && !listener.address.is_local() && !names_askers);
    let Some(open) = open else { return };
    d.fault(listener_at(root, open), "anybody who reaches this listener could ask about keys").hint = Some(
        "an address on loopback, a unix socket, or `trusted_proxies` with the network of the proxy"
            .to_owned(),
    );
}

/// Refuses a domain in two different certificates: the authority asks about a domain, and gets one answer.
fn refuse_domains_of_two_certificates(d: &mut Decoder<'_>, root: &Node, config: &Config) {
    let mut known: Vec<&Acme> = Vec::new();
    for (number, listener) in config.listeners.iter().enumerate() {
        let Some(acme) = listener.tls.as_ref().and_then(Tls::acme) else { continue };
        let has_same = |other: &&&Acme| other.domains.iter().any(|domain| acme.domains.contains(domain));
        if known.iter().find(has_same).is_some_and(|other| *other != acme) {
            d.fault(listener_at(root, number), "another listener has `acme` for one of these domains").hint =
                Some("the same `acme` at both, or each domain at one of them".to_owned());
        }
        known.push(acme);
    }
}

/// Returns the position of a listener.
fn listener_at(root: &Node, number: usize) -> Position {
    let listener = root.field("listeners").and_then(|listeners| listeners.item(number));
    listener.map_or(root.at, |node| node.at)
}

/// Refuses a challenge that no listener could answer, and redirects to where nothing listens.
fn refuse_what_needs_another_listener(d: &mut Decoder<'_>, root: &Node, config: &Config) {
    let at = |number| listener_at(root, number);
    let serves_plainly = |listener: &Listener| listener.tls.is_none() && listener.door.is_none();
    let is_asked_by_http = |tls: &Tls| tls.acme().is_some_and(|acme| acme.challenge == Challenge::Http01);
    let http01 =
        config.listeners.iter().position(|listener| listener.tls.as_ref().is_some_and(is_asked_by_http));
    if let Some(number) = http01
        && !config.listeners.iter().any(serves_plainly)
    {
        d.fault(at(number), "the authority asks for http-01 on port 80, and no listener is without `tls`")
            .hint = Some(
            "a second listener, as in {address: \"0.0.0.0:80\", redirect_to_https: true}; or tls-alpn-01"
                .to_owned(),
        );
    }
    let ends_tls = config.listeners.iter().any(|listener| listener.tls.is_some() && listener.door.is_none());
    let is_behind_proxy = config.trusted_proxies.unix || !config.trusted_proxies.networks.is_empty();
    let redirects = config.listeners.iter().position(|listener| listener.redirect_to_https);
    if let Some(number) = redirects
        && !ends_tls
        && !is_behind_proxy
    {
        d.fault(at(number), "`redirect_to_https`, and no listener has `tls`").hint =
            Some("a listener with `tls`, or `trusted_proxies` if a proxy ends TLS".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::address::Address;
    use crate::config::presets::{self, Preset};

    const LEAST: &str = "listeners:\n  - address: 127.0.0.1:8080\nupstreams:\n  - name: model\n    endpoints: [http://127.0.0.1:8000]\nkeys:\n  path: keys.yaml\n";

    fn read(source: &str) -> Result<Config, Faults> {
        parse(Path::new("bearward.yaml"), source, &|name| (name == "PORT").then(|| "8080".to_owned()))
    }

    fn only_fault(source: &str) -> String {
        let faults = read(source).unwrap_err().0;
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults[0].to_string()
    }

    #[test]
    fn the_least_that_works_gets_the_documented_defaults() {
        let config = read(LEAST).unwrap();
        assert_eq!(config.admin.unwrap().address, Address::Tcp("127.0.0.1:9090".to_owned()));
        assert_eq!(config.limits.body_bytes, 32 * 1024 * 1024);
        assert_eq!(config.upstreams[0].pool.idle, Duration::from_secs(4));
        assert_eq!(config.routes.len(), presets::routes(Preset::OpenAi).len());
    }

    #[test]
    fn all_faults_come_in_one_run_in_the_order_of_the_file() {
        let source = "listeners:\n  - adress: 127.0.0.1:8080\nupstreams:\n  - name: model\n    endpoints: [ftp://x]\nkeys: {path: k.yaml}\nlimits: {idle_timeout: 5}\nmystery: 1\n";
        let faults = read(source).unwrap_err().0;
        let lines: Vec<_> = faults.iter().map(|fault| fault.at.line).collect();
        assert_eq!(lines, [2, 2, 5, 7, 8]);
        assert!(
            faults.iter().any(|fault| fault.hint.as_deref() == Some("did you mean `address`?")),
            "{faults:?}"
        );
    }

    #[test]
    fn variables_work_in_quotes_and_out_of_them() {
        for scalar in ["127.0.0.1:${PORT}", "\"127.0.0.1:${PORT}\"", "'127.0.0.1:${NONE:-8080}'"] {
            let config = read(&LEAST.replace("127.0.0.1:8080", scalar)).unwrap();
            assert_eq!(config.listeners[0].address, Address::Tcp("127.0.0.1:8080".to_owned()));
        }
        let fault = only_fault(&LEAST.replace("keys.yaml", "${NOPE:?say where}"));
        assert_eq!(fault, "bearward.yaml:7:9: the environment variable NOPE is not set: say where");
    }

    #[test]
    fn no_fault_shows_the_value_of_a_variable() {
        let environment = |name: &str| (name == "SECRET").then(|| "hunter2-and-more".to_owned());
        for written in ["127.0.0.1:8080", "http://127.0.0.1:8000"] {
            let source = LEAST.replace(written, "\"${SECRET}\"");
            let faults = Config::parse(Path::new("bearward.yaml"), &source, &environment).unwrap_err();
            let shown = faults.to_string();
            assert!(shown.contains("${SECRET}") && !shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn a_faulty_tls_section_never_becomes_a_plain_listener() {
        let source = LEAST.replace("127.0.0.1:8080\n", "127.0.0.1:8080\n    tls: {certificate: a.pem}\n");
        assert!(only_fault(&source).contains("private_key"));
    }

    #[test]
    fn a_faulty_method_list_never_becomes_all_methods() {
        let source =
            format!("{LEAST}routes:\n  - {{name: a, paths: [/a], methods: [get], permission: read}}\n");
        assert!(only_fault(&source).contains("GET is meant"));
    }

    #[test]
    fn a_route_must_say_who_may_use_it() {
        let source = format!("{LEAST}routes:\n  - {{name: a, paths: [/a]}}\n");
        assert!(only_fault(&source).contains("public: true"));
    }

    #[test]
    fn a_missing_or_empty_credential_is_refused() {
        let with = |credential: &str| LEAST.replace("8000]", &format!("8000]\n    credential: {credential}"));
        assert!(only_fault(&with("{env: NONE}")).contains("NONE is not set"));
        let empty = tempfile::NamedTempFile::new().unwrap();
        assert!(only_fault(&with(&format!("{{file: {}}}", empty.path().display()))).contains("empty"));
        assert!(only_fault(&with("{file: /dev/null}")).contains("not a regular file"));
        assert!(only_fault(&with("{header: x-key}")).contains("one of `env` and `file`"));
        let config = read(&with("{env: PORT}")).unwrap();
        assert_eq!(config.upstreams[0].credential.as_ref().unwrap().value, "Bearer 8080");
        assert!(!format!("{config:?}").contains("Bearer"), "its Debug hides it");
    }

    #[test]
    fn an_unknown_section_is_refused() {
        assert!(only_fault(&format!("{LEAST}mystery: {{}}\n")).contains("unknown field `mystery`"));
    }

    #[test]
    fn off_turns_the_admin_listener_off() {
        for form in ["admin: off\n", "admin: {address: off}\n"] {
            assert_eq!(read(&format!("{LEAST}{form}")).unwrap().admin, None);
        }
    }
}
