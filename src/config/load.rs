//! Decodes a configuration file: one function a section, defaults from `config`.

mod keys;
mod observing;
mod routes;
mod upstreams;

use std::path::Path;
use std::time::Duration;

use super::decode::{Decoder, Environment, Fields};
use super::fault::{Fault, Faults, NamedFiles};
use super::tree::{self, Kind, Node, Quoting};
use super::{
    Address, Admin, AttemptQuota, CertificatePair, Config, Limits, Listener, Position, Preset, PublicLimits,
    Quota, Tls, TlsVersion, TrustedProxies, presets,
};
use keys::{auth, keys};
use observing::{log, metrics, traces};
use routes::{exact_host, routes};
use upstreams::upstreams;

pub(crate) fn parse(path: &Path, source: &str, environment: Environment<'_>) -> Result<Config, Faults> {
    let Some(root) = tree::parse(path, source, Quoting::Allowed)? else {
        let fault = Fault::of_file(path, "the configuration is empty");
        return Err(fault.hint("it needs listeners, upstreams and keys").into());
    };
    let mut decoder = Decoder::new(path, Quoting::Allowed, Some(environment));
    match config(&mut decoder, &root) {
        Some(config) if decoder.faults.is_empty() => {
            let (store, places) = (config.keys.path.clone(), decoder.named_files);
            let named_files = NamedFiles { config: path.to_owned(), store, places };
            Ok(Config { named_files, ..config })
        }
        _ => Err(Faults::sorted(decoder.told_faults())),
    }
}

/// The `admin` section alone.
pub(crate) fn admin_of(path: &Path, source: &str, environment: Environment<'_>) -> Option<Option<Admin>> {
    let root = tree::parse(path, source, Quoting::Allowed).ok()??;
    let mut decoder = Decoder::new(path, Quoting::Allowed, Some(environment));
    let mut fields = decoder.fields(&root, "the configuration")?;
    match decoder.optional(&mut fields, "admin", |d, node| admin(d, node, &mut Vec::new())) {
        Some(admin) => Some(admin),
        // Left out, or wrong itself.
        None => decoder.faults.is_empty().then(|| Some(Admin::default())),
    }
}

fn config(d: &mut Decoder<'_>, root: &Node) -> Option<Config> {
    let mut fields = d.fields(root, "the configuration")?;
    let f = &mut fields;
    let mut taken = Vec::new();
    let listeners =
        d.required(f, "listeners", |d, node| non_empty(d, node, |d, node| listener(d, node, &mut taken)));
    let admin = d.optional(f, "admin", |d, node| admin(d, node, &mut taken));
    let admin = admin
        .unwrap_or_else(|| Some(Admin { address: default_admin_address(d, &mut taken), ..Admin::default() }));
    let keys = d.required(f, "keys", keys);
    let auth = d.optional(f, "auth", auth);
    let rate_limits = d.optional(f, "rate_limits", quotas);
    let max_concurrent = d.optional(f, "max_concurrent", |d, node| d.number(node, 1));
    let failed_attempts = d.optional(f, "failed_attempts", failed_attempts);
    let upstreams = d.required(f, "upstreams", |d, node| upstreams(d, node, &taken));
    let routes = d.optional(f, "routes", |d, node| routes(d, node, upstreams.as_deref()));
    let limits = d.optional(f, "limits", limits);
    let trusted_proxies = d.optional(f, "trusted_proxies", trusted_proxies);
    let log = d.optional(f, "log", log);
    let metrics = d.optional(f, "metrics", metrics);
    let traces = d.optional(f, "traces", traces);
    let workers = d.optional(f, "workers", workers);
    d.done(fields);
    d.refuse_overwritten();
    Some(Config {
        source: None,
        listeners: listeners?,
        admin,
        keys: keys?,
        auth: auth.unwrap_or_default(),
        rate_limits: rate_limits.unwrap_or_default(),
        max_concurrent,
        failed_attempts: failed_attempts.unwrap_or_else(|| Some(AttemptQuota::default())),
        upstreams: upstreams?,
        routes: routes.unwrap_or_else(|| presets::routes(Preset::OpenAi)),
        limits: limits.unwrap_or_default(),
        trusted_proxies: trusted_proxies.unwrap_or_default(),
        log: log.unwrap_or_default(),
        metrics: metrics.unwrap_or_default(),
        traces,
        workers,
        named_files: NamedFiles::default(),
    })
}

/// The admin listener's address where none is written, whether its section is left out or says other things alone.
fn default_admin_address(d: &mut Decoder<'_>, taken: &mut Taken) -> Address {
    let default = Admin::default().address;
    if let Some((address, at)) = taken.iter().find(|(taken, _)| taken.overlaps(&default)) {
        let message = format!("`{address}` is where the admin listener is, unless `admin` says otherwise");
        d.fault(*at, message).hint = Some("another port, `admin: {address: …}` or `admin: off`".to_owned());
    }
    taken.push((default.clone(), Position::default()));
    default
}

/// Threads beyond this are a slip: each holds stacks, timers and connections of its own.
const MOST_WORKERS: usize = 1024;

fn workers(d: &mut Decoder<'_>, node: &Node) -> Option<usize> {
    let workers = d.number(node, 1)?;
    if workers > MOST_WORKERS {
        d.fault(node.at, "too many").hint =
            Some(format!("at most {MOST_WORKERS}; one for each core is best"));
        return None;
    }
    Some(workers)
}

fn non_empty<T>(
    d: &mut Decoder<'_>,
    node: &Node,
    decode: impl FnMut(&mut Decoder<'_>, &Node) -> Option<T>,
) -> Option<Vec<T>> {
    let items = d.list(node, decode)?;
    if items.is_empty() {
        d.fault(node.at, "at least one is needed here");
        return None;
    }
    Some(items)
}

fn address(d: &mut Decoder<'_>, node: &Node) -> Option<Address> {
    let text = d.word(node)?;
    if let Some(path) = text.strip_prefix("unix:") {
        if !path.starts_with('/') {
            d.fault(node.at, "a unix socket needs an absolute path").hint =
                Some("as in unix:/run/bearward.sock".to_owned());
            return None;
        }
        return Some(Address::Unix(path.into()));
    }
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
    if port.and_then(|port| port.parse::<u16>().ok()).is_none() {
        d.fault(node.at, format!("`{text}` is not an address")).hint =
            Some("as in 127.0.0.1:8080, [::1]:8080 or unix:/run/bearward.sock".to_owned());
        return None;
    }
    Some(Address::Tcp(text))
}

/// Addresses that are listened on, and where the file says so.
type Taken = Vec<(Address, Position)>;

/// An address that nothing else listens on.
fn own_address(d: &mut Decoder<'_>, node: &Node, taken: &mut Taken) -> Option<Address> {
    let address = address(d, node)?;
    if let Some((other, at)) = taken.iter().find(|(other, _)| other.overlaps(&address)) {
        let message = format!("`{address}` is listened on already, by `{other}` in line {}", at.line);
        d.fault(node.at, message).hint = Some("one listener for each address and port".to_owned());
        return None;
    }
    taken.push((address.clone(), node.at));
    Some(address)
}

fn listener(d: &mut Decoder<'_>, node: &Node, taken: &mut Taken) -> Option<Listener> {
    let mut fields = d.fields(node, "a listener")?;
    let address = d.required(&mut fields, "address", |d, node| own_address(d, node, taken));
    let tls = d.optional(&mut fields, "tls", |d, node| Some(tls(d, node)));
    d.done(fields);
    let tls = match tls {
        // A faulty section must not turn into a plain listener.
        Some(section) => Some(section?),
        None => None,
    };
    Some(Listener { address: address?, tls })
}

fn tls(d: &mut Decoder<'_>, node: &Node) -> Option<Tls> {
    let mut fields = d.fields(node, "a listener's tls")?;
    let f = &mut fields;
    let certificate = d.optional(f, "certificate", Decoder::path);
    let private_key = d.optional(f, "private_key", Decoder::path);
    let several = d.optional(f, "certificates", |d, node| non_empty(d, node, certificate_pair));
    let client_ca = d.optional(f, "client_ca", Decoder::path);
    let versions = [("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
    let min_version = d.optional(f, "min_version", |d, node| d.one_of(node, &versions));
    d.done(fields);
    let certificates = match (certificate, private_key, several) {
        (Some(certificate), Some(private_key), None) => vec![CertificatePair { certificate, private_key }],
        (None, None, Some(several)) => several,
        _ => {
            d.fault(node.at, "tls needs `certificate` and `private_key`, or `certificates` alone").hint =
                Some("as in {certificate: tls.crt, private_key: tls.key}".to_owned());
            return None;
        }
    };
    Some(Tls { certificates, client_ca, min_version: min_version.unwrap_or(TlsVersion::V1_2) })
}

fn certificate_pair(d: &mut Decoder<'_>, node: &Node) -> Option<CertificatePair> {
    let mut fields = d.fields(node, "a certificate")?;
    let certificate = d.required(&mut fields, "certificate", Decoder::path);
    let private_key = d.required(&mut fields, "private_key", Decoder::path);
    d.done(fields);
    Some(CertificatePair { certificate: certificate?, private_key: private_key? })
}

/// `off`, in either form that YAML has for it.
fn is_off(node: &Node) -> bool {
    matches!(&node.kind, Kind::Scalar { text, .. } if text == "off" || text == "false")
}

/// `admin: off`, or `admin: {address: …}` where the address may be `off`.
fn admin(d: &mut Decoder<'_>, node: &Node, taken: &mut Taken) -> Option<Option<Admin>> {
    let off_or_address = |d: &mut Decoder<'_>, node: &Node| match is_off(node) {
        true => Some(None),
        false => own_address(d, node, taken).map(Some),
    };
    if is_off(node) {
        return Some(None);
    }
    let mut fields = d.fields(node, "admin")?;
    let address = d.optional(&mut fields, "address", off_or_address);
    let token_file = d.optional(&mut fields, "token_file", Decoder::path);
    let hosts = d.optional(&mut fields, "hosts", |d, node| d.list(node, exact_host)).unwrap_or_default();
    let ready_with_upstreams = d.optional(&mut fields, "ready_with_upstreams", Decoder::boolean);
    d.done(fields);
    let default = Admin::default();
    let address = address.unwrap_or_else(|| Some(default_admin_address(d, taken)));
    let ready_with_upstreams = ready_with_upstreams.unwrap_or(default.ready_with_upstreams);
    Some(address.map(|address| Admin { address, token_file, hosts, ready_with_upstreams }))
}

/// `{requests: 600, per: 1m, burst: 60}`.
fn quota(d: &mut Decoder<'_>, node: &Node) -> Option<Quota> {
    let mut fields = d.fields(node, "a rate limit")?;
    let requests: Option<u32> = d.required(&mut fields, "requests", |d, node| d.number(node, 1));
    let per = d.required(&mut fields, "per", |d, node| {
        let per = d.duration(node)?;
        if per.subsec_nanos() != 0 {
            d.fault(node.at, "a window is measured in whole seconds").hint = Some("at least 1s".to_owned());
            return None;
        }
        Some(per)
    });
    let burst = d.optional(&mut fields, "burst", |d, node| d.number(node, 1));
    d.done(fields);
    let requests = requests?;
    Some(Quota { requests, per: per?, burst: burst.unwrap_or(Quota::default_burst(requests)) })
}

/// Quotas of one owner; two over the same window would make each other's headers false.
pub(crate) fn quotas(d: &mut Decoder<'_>, node: &Node) -> Option<Vec<Quota>> {
    let quotas = d.list(node, quota)?;
    let repeated = quotas
        .iter()
        .enumerate()
        .any(|(index, quota)| quotas.iter().take(index).any(|earlier| earlier.per == quota.per));
    if repeated {
        d.fault(node.at, "two rate limits over the same window").hint =
            Some("keep the tighter one".to_owned());
        return None;
    }
    if !quotas.iter().all(Quota::is_countable) {
        d.fault(node.at, "a burst that takes more than a century to be full again").hint =
            Some("a smaller burst, or more requests in a shorter time".to_owned());
        return None;
    }
    Some(quotas)
}

/// Within less, a limit of failed attempts limits nobody.
const SHORTEST_ATTEMPTS: Duration = Duration::from_secs(1);

/// `failed_attempts: off`, or `{per_address: 20, per: 1m}`.
fn failed_attempts(d: &mut Decoder<'_>, node: &Node) -> Option<Option<AttemptQuota>> {
    if is_off(node) {
        return Some(None);
    }
    let mut fields = d.fields(node, "failed_attempts")?;
    let default = AttemptQuota::default();
    let per_address = d.optional(&mut fields, "per_address", |d, node| d.number(node, 1));
    let per = d.optional(&mut fields, "per", |d, node| {
        let per = d.duration(node)?;
        if per < SHORTEST_ATTEMPTS {
            // Whoever guesses would be let in again before the next request.
            d.fault(node.at, "a time in which nobody is held up").hint = Some("at least 1s".to_owned());
            return None;
        }
        Some(per)
    });
    d.done(fields);
    let quota = AttemptQuota {
        per_address: per_address.unwrap_or(default.per_address),
        per: per.unwrap_or(default.per),
    };
    Some(Some(quota))
}

/// What becomes of a request with `_` in a header's name: whether it is refused.
const UNDERSCORES: [(&str, bool); 2] = [("pass", false), ("refuse", true)];

fn limits(d: &mut Decoder<'_>, node: &Node) -> Option<Limits> {
    let mut fields = d.fields(node, "limits")?;
    let default = Limits::default();
    let f = &mut fields;
    let duration = |d: &mut Decoder<'_>, f: &mut Fields<'_>, name, default: Duration| {
        d.optional(f, name, Decoder::duration).unwrap_or(default)
    };
    let limits = Limits {
        header_bytes: d.optional(f, "header_bytes", Decoder::size).unwrap_or(default.header_bytes),
        header_count: d.optional(f, "header_count", |d, n| d.number(n, 1)).unwrap_or(default.header_count),
        refuses_underscores: d
            .optional(f, "underscores_in_headers", |d, n| d.one_of(n, &UNDERSCORES))
            .unwrap_or(default.refuses_underscores),
        uri_bytes: d.optional(f, "uri_bytes", Decoder::size).unwrap_or(default.uri_bytes),
        body_bytes: d.optional(f, "body_bytes", Decoder::size).unwrap_or(default.body_bytes),
        connections: d.optional(f, "connections", |d, n| d.number(n, 1)).unwrap_or(default.connections),
        connections_per_address: d.optional(f, "connections_per_address", |d, n| d.number(n, 1)),
        in_flight: d.optional(f, "in_flight", |d, n| d.number(n, 1)).unwrap_or(default.in_flight),
        header_timeout: duration(d, f, "header_timeout", default.header_timeout),
        body_idle_timeout: duration(d, f, "body_idle_timeout", default.body_idle_timeout),
        idle_timeout: duration(d, f, "idle_timeout", default.idle_timeout),
        client_stall_timeout: duration(d, f, "client_stall_timeout", default.client_stall_timeout),
        handshake_timeout: duration(d, f, "handshake_timeout", default.handshake_timeout),
        drain_timeout: duration(d, f, "drain_timeout", default.drain_timeout),
        public: d.optional(f, "public", public_limits).unwrap_or_default(),
    };
    d.done(fields);
    for (name, size) in [("header_bytes", limits.header_bytes), ("uri_bytes", limits.uri_bytes)] {
        if size > 1024 * 1024 {
            d.fault(node.at, format!("{name} is more than 1MiB"));
        }
    }
    Some(limits)
}

fn public_limits(d: &mut Decoder<'_>, node: &Node) -> Option<PublicLimits> {
    let mut fields = d.fields(node, "limits.public")?;
    let default = PublicLimits::default();
    let total = d.optional(&mut fields, "total", Decoder::duration).unwrap_or(default.total);
    let body_bytes = d.optional(&mut fields, "body_bytes", Decoder::size).unwrap_or(default.body_bytes);
    let header_bytes = d.optional(&mut fields, "header_bytes", Decoder::size).unwrap_or(default.header_bytes);
    d.done(fields);
    Some(PublicLimits { total, body_bytes, header_bytes })
}

fn trusted_proxies(d: &mut Decoder<'_>, node: &Node) -> Option<TrustedProxies> {
    let mut trusted = TrustedProxies::default();
    d.list(node, |d, node| {
        if matches!(&node.kind, Kind::Scalar { text, .. } if text == "unix") {
            trusted.unix = true;
        } else {
            trusted.networks.push(d.network(node)?);
        }
        Some(())
    })?;
    Some(trusted)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn no_fault_tells_what_a_variable_stands_for() {
        let environment = |name: &str| (name == "SECRET").then(|| "hunter2-and-more".to_owned());
        for place in ["127.0.0.1:8080", "http://127.0.0.1:8000"] {
            let source = LEAST.replace(place, "\"${SECRET}\"");
            let faults = Config::parse(Path::new("bearward.yaml"), &source, &environment).unwrap_err();
            let told = faults.to_string();
            assert!(told.contains("${SECRET}") && !told.contains("hunter2"), "{told}");
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
    fn a_credential_of_nothing_is_refused() {
        let with = |credential: &str| LEAST.replace("8000]", &format!("8000]\n    credential: {credential}"));
        assert!(only_fault(&with("{env: NONE}")).contains("NONE is not set"));
        let empty = tempfile::NamedTempFile::new().unwrap();
        assert!(only_fault(&with(&format!("{{file: {}}}", empty.path().display()))).contains("empty"));
        assert!(only_fault(&with("{file: /dev/null}")).contains("not a regular file"));
        assert!(only_fault(&with("{header: x-key}")).contains("one of `env` and `file`"));
        let config = read(&with("{env: PORT}")).unwrap();
        assert_eq!(config.upstreams[0].credential.as_ref().unwrap().value, "Bearer 8080");
        assert!(!format!("{config:?}").contains("Bearer"), "its Debug keeps it");
    }

    #[test]
    fn what_comes_later_is_refused_as_unknown() {
        assert!(only_fault(&format!("{LEAST}cors: {{}}\n")).contains("unknown field `cors`"));
    }

    #[test]
    fn off_turns_the_admin_listener_off() {
        for form in ["admin: off\n", "admin: {address: off}\n"] {
            assert_eq!(read(&format!("{LEAST}{form}")).unwrap().admin, None);
        }
    }
}
