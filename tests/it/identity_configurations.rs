//! Identities in configurations: what must not load, each with a position and a hint, and what must.

use std::path::Path;

use bearward::{Config, Faults};

const LEAST: &str = "listeners: [{address: 127.0.0.1:8080}]
upstreams: [{name: model, endpoints: [http://127.0.0.1:8000]}]
keys: {path: keys.yaml}
groups: [{name: evals, max_concurrent: 4}]
routes: [{name: all, paths: ['/**'], permission: read}]
";

fn read(source: &str) -> Result<(), Faults> {
    let environment = |name: &str| (name == "EMPTY").then(String::new);
    Config::parse(Path::new("c.yaml"), source, &environment).map(|_| ())
}

/// An issuer with these fields beside `issuer` and `identities`.
fn issuer(fields: &str) -> String {
    format!(
        "{LEAST}auth: {{jwt: [{{issuer: 'https://a.example', identities: [{{when: {{sub: a}}, permissions: [read]}}], {fields}}}]}}\n"
    )
}

/// An identity with these fields beside `permissions`.
fn identity(fields: &str) -> String {
    format!(
        "{LEAST}auth: {{jwt: [{{issuer: 'https://a.example', audience: m, identities: [{{permissions: [read], {fields}}}]}}]}}\n"
    )
}

fn certificate(fields: &str) -> String {
    let tls = "{address: 127.0.0.1:8080, tls: {certificate: a, private_key: b, client_ca: c}}";
    let least = LEAST.replace("{address: 127.0.0.1:8080}", tls);
    format!("{least}auth: {{certificates: [{{permissions: [read], {fields}}}]}}\n")
}

#[test]
fn what_would_let_in_others_than_meant_does_not_load() {
    let one = "issuer: 'https://a.example', audience: m, identities: [{when: {sub: a}, permissions: [read]}]";
    let cases: Vec<(String, &str)> = vec![
        (format!("{LEAST}auth: {{jwt: []}}\n"), "no value"),
        (format!("{LEAST}auth: {{jwt: }}\n"), "no value"),
        (format!("{LEAST}auth: {{certificates: []}}\n"), "no value"),
        (format!("{LEAST}auth: {{deny: }}\n"), "no value"),
        (format!("{LEAST}auth: {{deny: d.yaml}}\n"), "there is no `jwt`"),
        (format!("{LEAST}auth: {{jwt: [{{{one}}}, {{{one}}}]}}\n"), "given twice"),
        // The audience, the algorithms, and the place of the keys.
        (issuer("name: sub"), "needs the field `audience`"),
        (issuer("audience: ''"), "must not be empty"),
        (issuer("audience: []"), "at least one"),
        (issuer("audience: m, algorithms: []"), "at least one"),
        (issuer("audience: m, algorithms: [none]"), "not known here"),
        (issuer("audience: m, algorithms: [HS256]"), "not known here"),
        (issuer("audience: m, algorithms: [es256]"), "not known here"),
        (issuer("audience: m, jwks: 'http://a.example/keys'"), "without TLS"),
        (issuer("audience: m, jwks: 'http://127.0.0.1.a.example/keys'"), "without TLS"),
        (issuer("audience: m, jwks: 'http://127.0.0.1@a.example/keys'"), "without TLS"),
        (issuer("audience: m, jwks: 'https://a.example:99999/keys'"), "without TLS"),
        (issuer("audience: m, jwks: 'file:///etc/passwd'"), "without TLS"),
        (issuer("audience: m, jwks: {}"), "needs the field `file`"),
        (issuer("audience: m, jwks: "), "no value"),
        (issuer("audience: m").replace("https://a.example", "a cluster"), "no URL"),
        (issuer("audience: m").replace("https://a.example", "http://a.example"), "no URL"),
        (issuer("audience: m, jwks: {file: k}, ca: c"), "no effect"),
        (issuer("audience: m, jwks: {file: k}, token_file: c"), "no effect"),
        (issuer("audience: m, timeout: 31s"), "would wait"),
        (issuer("audience: m, refresh: 2h"), "would end before"),
        (issuer("audience: m, max_stale: 10s"), "would end before"),
        (issuer("audience: m, max_stale: "), "no value"),
        (issuer("audience: m, name: '/a/~2'"), "no path of names"),
        (issuer("audience: m, name: /"), "no path of names"),
        (
            issuer("audience: m")
                .replace("identities: [{when: {sub: a}, permissions: [read]}]", "identities: []"),
            "at least one",
        ),
        // Conditions.
        (identity("group: evals"), "needs the field `when`"),
        (identity("when: "), "needs the field `when`"),
        (identity("when: {}"), "everybody would be this identity"),
        (identity("when: []"), "a map of claims"),
        (identity("when: a"), "a map of claims"),
        (identity("when: {sub: }"), "without a pattern"),
        (identity("when: {sub: ~}"), "without a pattern"),
        (identity("when: {sub: ''}"), "must not be empty"),
        (identity("when: {sub: []}"), "nobody matches"),
        (identity("when: {sub: [~]}"), "without a pattern"),
        (identity("when: {sub: {a: b}}"), "single value"),
        (identity("when: {sub: a, sub: b}"), "given twice"),
        (identity("when: {'': a}"), "needs the name of a claim"),
        (identity("when: {sub: ' a'}"), "white space"),
        (identity("when: {sub: '!a'}"), "takes nothing out"),
        (identity("when: {sub: ['*', '!a']}"), "takes nothing out"),
        (identity("when: {sub: '${EMPTY:-}*'}"), "means everybody"),
        (identity("when: {sub: '${UNSET:?say}*'}"), "not set"),
        (identity("when: {'/a//b': x}"), "no path of names"),
        // What the holder may do.
        (identity("when: {sub: a}, permissions: []").replace("permissions: [read], ", ""), "at least one"),
        (identity("when: {sub: a}, group: other"), "no group `other`"),
        (identity("when: {sub: a}, routes: [other]"), "no route `other`"),
        (identity("when: {sub: a}, routes: []"), "no value"),
        (identity("when: {sub: a}, models: []"), "no value"),
        (identity("when: {sub: a}, rate_limits: "), "no value"),
        (identity("when: {sub: a}, rate_limits: []"), "no value"),
        (identity("when: {sub: a}, max_concurrent: "), "no value"),
        (identity("when: {sub: a}, budgets: [{tokens: 1M, every: day}]"), "nothing keeps"),
        (identity("when: {sub: a}") + "shared: {redis: 'redis://r'}\n", "each replica would name"),
        // Certificates.
        (certificate("when: {cn: a}"), "no names of the kind `cn`"),
        (certificate("when: {}"), "everybody would be this identity"),
        (certificate("when: {uri: a}").replace(", client_ca: c", ""), "no listener of clients asks"),
        (
            LEAST.replace("8080}", "8080, tls: {certificate: a, private_key: b, client_crl: c}}"),
            "no effect without `client_ca`",
        ),
    ];
    let mut wrong = Vec::new();
    for (source, message) in &cases {
        match read(source) {
            Ok(()) => wrong.push(format!("it loads: {source}")),
            Err(faults) => {
                let is_reported =
                    |fault: &bearward::Fault| fault.message.contains(message) && fault.at.line > 0;
                if !faults.0.iter().any(is_reported) {
                    wrong.push(format!("{source}  expected: {message}\n  reported: {faults}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_meant_loads() {
    let secret = "keys: {path: keys.yaml, id_secret: {env: EMPTY}}";
    for source in [
        issuer("audience: m"),
        issuer("audience: [m, n], jwks: {file: k.json}, algorithms: [RS256, PS512, ES384, EdDSA]"),
        issuer("audience: m, jwks: 'http://[::1]:8080/keys', timeout: 30s, max_stale: 5m"),
        issuer("audience: m, jwks: 'http://localhost/keys'").replace("https://a.example", "a cluster"),
        issuer("audience: m, name: /kubernetes.io/pod/name, ca: c, token_file: t"),
        identity("when: {sub: '*'}"),
        identity("when: {sub: [a, 'b*'], email_verified: true, level: 3, '/a~1b/0': x}, group: evals"),
        identity(
            "when: {sub: a}, rate_limits: none, routes: [all, 'bearward:metrics'], priority: batch, weight: 2",
        ),
        identity("when: {sub: a}, budgets: [{tokens: 1M, every: day}]") + "state: {path: s}\n",
        certificate("when: {uri: 'spiffe://a/*', dns: b, email: c, subject: 'CN=*'}"),
    ] {
        assert!(read(&source).is_ok(), "{source}{}", read(&source).unwrap_err());
    }
    let short = identity("when: {sub: a}").replace("keys: {path: keys.yaml}", secret);
    assert!(read(&short).is_err(), "a secret for ids has to be one");
}
