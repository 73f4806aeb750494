//! What `check` warns of is allowed: whatever it is, the exit code is 0.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use bearward::Token;
use serde_json::Value;

/// A configuration that is right, and of which nothing is to be warned but what a case brings along.
struct Case {
    /// What of its warnings nothing else says.
    warns: &'static [&'static str],
    /// Fields of each key, but its id and hash.
    keys: Vec<String>,
    /// Lines of the configuration, at its top level.
    config: String,
    /// Fields of `keys`, of the listener and of `admin`.
    more: [String; 3],
    /// The upstream, but its name.
    upstream: String,
    key_file: &'static str,
    mode: u32,
    address: &'static str,
}

fn case(warns: &'static [&'static str]) -> Case {
    let key = "permissions: [read], created_at: 2026-01-01T00:00:00Z, expires_at: 2999-01-01T00:00:00Z";
    Case {
        warns,
        keys: vec![key.to_owned()],
        config: String::new(),
        more: Default::default(),
        upstream: "endpoints: [http://127.0.0.1:1]".to_owned(),
        key_file: "keys.yaml",
        mode: 0o600,
        address: "127.0.0.1:0",
    }
}

impl Case {
    fn key(mut self, fields: &str) -> Self {
        self.keys = vec![fields.to_owned()];
        self
    }

    fn config(mut self, yaml: &str) -> Self {
        self.config = format!("{yaml}\n");
        self
    }

    /// Writes its files, and has them checked; with a certificate that ends then, where one is given.
    fn warnings(&self, directory: &Path) -> Vec<String> {
        let path = |name: &str| directory.join(name);
        let mut text = if self.key_file == "keys.yaml" { String::from("keys:\n") } else { String::new() };
        for fields in &self.keys {
            let token = Token::generate().unwrap();
            match self.key_file {
                "keys.txt" => writeln!(text, "{}", token.reveal()).unwrap(),
                _ => writeln!(
                    text,
                    "  - {{id: {}, hash: \"{}\", {fields}}}",
                    token.key_id(),
                    token.hash().to_stored()
                )
                .unwrap(),
            }
        }
        std::fs::write(path(self.key_file), text).unwrap();
        std::fs::set_permissions(path(self.key_file), PermissionsExt::from_mode(self.mode)).unwrap();
        let [keys, listener, admin] = &self.more;
        let config = format!(
            "listeners: [{{address: {}{listener}}}]\nupstreams: [{{name: m, {}}}]\n\
             keys: {{path: {}{keys}}}\nadmin: {{address: 127.0.0.1:0{admin}}}\n{}",
            self.address,
            self.upstream,
            path(self.key_file).display(),
            self.config
        );
        std::fs::write(path("bearward.yaml"), config).unwrap();
        let check = |arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_bearward"));
            command.args(["check", "--config", path("bearward.yaml").to_str().unwrap()]).args(arguments);
            command.env_remove("BEARWARD_CONFIG").stdin(Stdio::null()).output().unwrap()
        };
        let reported = check(&["--json"]);
        let report: Value = serde_json::from_slice(&reported.stdout).unwrap();
        assert_eq!((reported.status.code(), &report["ok"]), (Some(0), &Value::Bool(true)), "{report}");
        let warnings: Vec<String> =
            report["warnings"].as_array().unwrap().iter().map(|w| w.as_str().unwrap().to_owned()).collect();
        let plain = check(&[]);
        let said = String::from_utf8_lossy(&plain.stderr).into_owned();
        assert_eq!(plain.status.code(), Some(0), "{said}");
        assert!(warnings.iter().all(|warning| said.contains(&format!("warning: {warning}"))), "{said}");
        warnings
    }
}

/// A certificate that ends so many days from now, and its key.
fn certificate(directory: &Path, days: i64) -> String {
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * days);
    let end = end.to_zoned(jiff::tz::TimeZone::UTC).date();
    let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let (month, day) = (u8::try_from(end.month()).unwrap(), u8::try_from(end.day()).unwrap());
    parameters.not_after = rcgen::date_time_ymd(i32::from(end.year()), month, day);
    let key = rcgen::KeyPair::generate().unwrap();
    let made = parameters.self_signed(&key).unwrap();
    let (file, of_key) = (directory.join("c.pem"), directory.join("k.pem"));
    std::fs::write(&file, made.pem()).unwrap();
    std::fs::write(&of_key, key.serialize_pem()).unwrap();
    std::fs::set_permissions(&of_key, PermissionsExt::from_mode(0o600)).unwrap();
    format!(", tls: {{certificate: {}, private_key: {}}}", file.display(), of_key.display())
}

/// A listener at which another proxy asks, and limits that it can't hold.
fn door(fields: &str, warns: &'static [&'static str]) -> Case {
    let plain = "permissions: [read], created_at: 2026-01-01T00:00:00Z, expires_at: 2999-01-01T00:00:00Z";
    Case {
        keys: vec![plain.to_owned(), format!("{plain}, max_concurrent: 1")],
        more: [String::new(), format!(", serves: forward_auth, {fields}"), String::new()],
        upstream: "endpoints: [http://127.0.0.1:1], queue: {slots: 1}, host: model.example".to_owned(),
        ..case(warns).config(
            "max_concurrent: 5\nself_service: true\ncors: {origins: [https://a.example]}\n\
             groups: [{name: g, max_concurrent: 2, models: [a], request: {max_output_tokens: 5}, \
             rate_limits: [{input_tokens: 5, per: 1m}]}]\n\
             routes: [{name: a, paths: [/**], permission: read, model_in: body, rate_limits: [{tokens: 5, per: 1m}]}]",
        )
    }
}

fn cases(directory: &Path) -> Vec<Case> {
    let dated = "permissions: [read], created_at: 2020-01-01T00:00:00Z, expires_at: 2999-01-01T00:00:00Z";
    let ahead = "permissions: [read], created_at: 2900-01-01T00:00:00Z, expires_at: 2999-01-01T00:00:00Z";
    let undated = "permissions: [read], expires_at: 2999-01-01T00:00:00Z";
    let astray = format!("{undated}, routes: [nowhere]");
    let plain = Case {
        more: [", allow_plaintext: true".to_owned(), String::new(), String::new()],
        key_file: "keys.txt",
        ..case(&["holds keys as they are", "never ends"])
    };
    let open_to_all = Case { mode: 0o644, ..case(&["can be read by everybody"]) };
    let of_age = |fields: &str, more: &str, warns| Case {
        more: [format!(", max_age: 90d{more}"), String::new(), String::new()],
        ..case(warns).key(fields)
    };
    let with_tls = |days, warns| Case {
        more: [String::new(), certificate(directory, days), String::new()],
        ..case(warns)
    };
    let mut cases = vec![
        plain,
        open_to_all,
        Case { address: "192.0.2.1:8080", ..case(&["192.0.2.1:8080 has no `tls`: keys travel in clear"]) },
        Case { mode: 0o646, ..case(&["can be changed by everybody on this machine"]) },
        case(&["never matches"]).config(
            "routes: [{name: a, paths: [/**], permission: read}, {name: b, paths: [/b], permission: admin}]",
        ),
        case(&["which then need no key"]).config(
            "routes: [{name: a, paths: [/x/*], public: true}, {name: b, paths: [/x/**], permission: read}]",
        ),
        case(&["/no/such does not exist here, and bearward does not start without it"])
            .config("state: {path: /no/such/state}"),
        case(&["trusted_proxies has 0.0.0.0/0: any client can choose the address"])
            .config("trusted_proxies: [0.0.0.0/0]"),
        case(&["trusted_proxies has 0.0.0.0/0: any client can choose the address"])
            .config("trusted_proxies: [0.0.0.0/1, 128.0.0.0/1]"),
        case(&[
            "the path /a/.* of the route a looks like a regular expression",
            "the path /b/:id of the route a looks",
            "the path /d/(x) of the route a looks",
            "the path /e/[a-z]+ of the route a looks",
        ])
        .config(
            "routes: [{name: a, paths: ['/a/.*', '/b/:id', '/d/(x)', '/e/[a-z]+', '/g/*.{x,y}', '/h/**'], \
             permission: read}]",
        ),
        case(&["trusted_proxies has ::/0: any client can choose the address"])
            .config("trusted_proxies: [10.0.0.0/8, \"::/0\"]"),
        case(&["the `cors` at the top lets no page send a key"])
            .config("cors: {origins: [https://a.example], headers: [content-type]}"),
        case(&["the `cors` of the route b lets no page send a key"]).config(
            "auth: {headers: [x-api-key]}\nroutes: [{name: a, paths: [/a], public: true, cors: {origins: ['*'], headers: [x-a]}}, \
             {name: b, paths: [/b], permission: read, cors: {origins: ['*'], headers: [authorization]}}]",
        ),
        case(&["model_prelude of the route a is 8.0 MiB, more than limits.model_memory (1.0 MiB)"]).config(
            "limits: {model_memory: 1MiB}\n\
             routes: [{name: a, paths: [/a], permission: read, model_in: body, model_prelude: 8MiB}]",
        ),
        case(&["limits.model_prelude is 1.0 MiB"]).config("limits: {model_prelude: 1MiB, model_memory: 64KiB}"),
        case(&["the routes a and b have paths in common and different `model_in`"]).config(
            "routes: [{name: a, paths: [/x, /y], permission: read, model_in: body, models: [m]}, \
             {name: b, paths: [/y], permission: read, model_in: query}]",
        ),
        case(&["keys have max_output_tokens, and the route a has no `model_in`"])
            .key("permissions: [read], created_at: 2026-01-01T00:00:00Z, expires_at: 2999-01-01T00:00:00Z, request: {max_output_tokens: 5}")
            .config("routes: [{name: a, paths: [/a], permission: read}]"),
        case(&["no route has `model_in`"])
            .config("rate_limits: [{tokens: 1k, per: 1m}]\nroutes: [{name: a, paths: [/**], permission: read}]"),
        door("asked_by: nginx", &[
            "can't hold max_concurrent (of all keys without one of their own, the group g, key_",
            "can't hold limits and budgets of tokens (of the route a)",
            "can't hold limits and budgets of input tokens (of the group g)",
            "can't hold max_output_tokens (of the group g)",
            "requests of keys with `models` (the group g)",
            "passes requests by the queue of the upstream m",
            "sets no `host` for the upstream m",
            "can't answer preflights",
            "can't answer GET /.bearward/me",
        ]),
        door("asked_by: caddy, unenforceable: ignore", &["(of the route a): it does not hold for them there"]),
        case(&["the descriptors carry"]).config("limits: {connections: 1000000000}"),
        case(&["is narrowed to the route nowhere"]).key(&astray),
        Case { keys: vec![astray.clone(); 30], ..case(&["more warnings of this kind"]) },
        of_age(dated, "", &["is past keys.max_age"]),
        of_age(dated, ", max_age_action: refuse", &["and it is refused"]),
        of_age(undated, "", &["has no created_at"]),
        of_age(ahead, ", max_age_action: refuse", &["lies ahead", "and it is refused"]),
        case(&["1 key never ends"]).key("permissions: [read]"),
        Case { keys: vec!["permissions: [read]".to_owned(); 5], ..case(&["5 keys never end", ", …"]) },
        with_tls(-3, &["clients refuse it"]),
        with_tls(10, &["days, at"]),
    ];
    let weak = directory.join("weak.token");
    std::fs::write(&weak, "changeme\n").unwrap();
    std::fs::set_permissions(&weak, PermissionsExt::from_mode(0o600)).unwrap();
    let token_file = format!(", token_file: {}", weak.display());
    cases.push(Case {
        more: [String::new(), String::new(), token_file],
        ..case(&["the admin token in", "`openssl rand -hex 32` makes one"])
    });
    let ca = rcgen::generate_simple_self_signed(vec!["other.internal".to_owned()]).unwrap().cert.pem();
    std::fs::write(directory.join("ca.pem"), ca).unwrap();
    let ca = directory.join("ca.pem").display().to_string();
    cases.push(Case {
        upstream: format!("endpoints: [\"https://model.internal\"], tls: {{ca: {ca}}}"),
        ..case(&["`ca` of the upstream m"])
    });
    cases.push(case(&["which asks less"]).config(
        "routes: [{name: a, paths: [/admin/*], permission: admin}, {name: b, paths: [/**], permission: read}]",
    ));
    cases.push(case(&["leads to the same paths"]).config(
        "routes: [{name: a, paths: [/v1/admin/**], permission: admin}, \
         {name: b, paths: [/api/**], strip_prefix: /api, permission: read}]",
    ));
    for narrower in [
        "permission: webhook",
        "permission: read, rate_limits: [{requests: 1, per: 1h}]",
        "permission: read, max_body: 1KiB",
        "permission: read, removes: [x-debug]",
        "permission: read, model_in: body",
        "permission: read, model_in: body, request: {max_output_tokens: 5}",
    ] {
        let wider = if narrower.contains("webhook") { "write" } else { "read" };
        let routes = format!(
            "routes: [{{name: a, paths: [/gen/run], {narrower}}}, {{name: b, paths: [/**], permission: {wider}, max_body: 1MiB}}]"
        );
        cases.push(case(&["which asks less", "or lets more through"]).config(&routes));
    }
    // A file that is mounted by itself, where this machine has one that anybody may read.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let is_text = |path: &&str| {
        Path::new(path).is_file() && std::fs::read_to_string(path).is_ok_and(|text| !text.trim().is_empty())
    };
    if let Some(point) = points.into_iter().find(is_text) {
        let more = [String::new(), String::new(), format!(", token_file: {point}")];
        cases.push(Case { more, ..case(&["is a mount by itself"]) });
    }
    cases
}

/// The texts of all warnings, as they stand in the source: of each the longest part that is always the same.
fn texts() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/app/warnings.rs");
    let source = std::fs::read_to_string(path).unwrap();
    let product = source.split("#[cfg(test)]").next().unwrap();
    let formats = product.split("format!(").skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'));
    formats
        .map(|rest| {
            let text = rest.split('"').next().unwrap();
            // A line that goes on below, and braces that stand for themselves.
            let lines: Vec<&str> = text.split("\\\n").map(str::trim_start).collect();
            let text = lines.concat().replace("{{", "\u{1}").replace("}}", "\u{2}");
            let constant =
                text.split('{').map(|part| part.split_once('}').map_or(part, |(_, behind)| behind));
            let longest = constant.max_by_key(|part| part.len()).unwrap();
            longest.replace('\u{1}', "{").replace('\u{2}', "}")
        })
        .collect()
}

#[test]
fn every_warning_leaves_the_exit_code_0() {
    let mut all = Vec::new();
    let has_mount = {
        let directory = tempfile::tempdir().unwrap();
        let quiet =
            case(&[]).config("cors: {origins: ['*'], headers: [authorization]}").warnings(directory.path());
        assert_eq!(quiet, [""; 0], "nothing to warn of");
        let more = [String::new(), ", proxy_protocol: [192.0.2.0/24]".to_owned(), String::new()];
        let balanced = Case { address: "192.0.2.1:8080", more, ..case(&[]) };
        assert_eq!(balanced.warnings(directory.path()), [""; 0], "behind a balancer");
        let proxied = Case { address: "192.0.2.1:8080", ..case(&[]).config("trusted_proxies: [192.0.2.2]") };
        assert_eq!(proxied.warnings(directory.path()), [""; 0], "TLS ends in front");
        let cases = cases(directory.path());
        cases.iter().any(|case| case.warns == ["is a mount by itself"])
    };
    let count = cases(tempfile::tempdir().unwrap().path()).len();
    for number in 0..count {
        let directory = tempfile::tempdir().unwrap();
        let case = cases(directory.path()).swap_remove(number);
        // The certificate that this case has is the one that was written last.
        if !case.more[1].is_empty() {
            let days = if case.warns == ["clients refuse it"] { -3 } else { 10 };
            certificate(directory.path(), days);
        }
        let warnings = case.warnings(directory.path());
        for expected in case.warns {
            assert!(warnings.iter().any(|warning| warning.contains(expected)), "{expected}: {warnings:?}");
        }
        all.extend(warnings);
    }
    let texts = texts();
    assert!(texts.len() >= 14, "{texts:?}");
    for text in texts {
        let is_tried = all.iter().any(|warning| warning.contains(&text));
        assert!(is_tried || (!has_mount && text.contains("mount by itself")), "no case brings about: {text}");
    }
}
