use ipnet::IpNet;

use super::imported::{ImportedKey, Terms};
use super::*;
use crate::keys::KeyHash;

fn read_as(text: &str) -> ImportedKeys {
    let mut sources =
        read(guess("list", text), text, Options::default()).unwrap_or_else(|reason| panic!("{reason}"));
    sources.leave_out_ambiguous();
    sources
}

/// Returns the names and hashes of the keys that a list yields, and the number of entries that are
/// left out or passed over.
fn found(text: &str) -> (Vec<(Option<String>, String)>, usize) {
    let sources = read_as(text);
    let key = |source: &ImportedKey| (source.name.clone(), source.hash().to_stored());
    (sources.keys.iter().map(key).collect(), sources.left_out.len() + sources.passed_over.len())
}

fn key(name: &str, token: &str) -> (Option<String>, String) {
    let name = Some(name).filter(|name| !name.is_empty()).map(str::to_owned);
    (name, KeyHash::of(token.as_bytes()).to_stored())
}

#[test]
fn every_form_is_recognized_and_read() {
    let one_two = vec![key("", "sk-one"), key("", "sk-two")];
    assert_eq!(found("# ours\nsk-one\n\nsk-two\n"), (one_two, 0));
    let env = "# ours\nexport VLLM_API_KEY=\"sk-one\"\nLLAMA_API_KEYS=sk-a,sk-b\nDATABASE_URL=postgres://x\n";
    let of_env =
        vec![key("vllm-api-key", "sk-one"), key("llama-api-keys", "sk-a"), key("llama-api-keys", "sk-b")];
    assert_eq!(found(env), (of_env, 1));
    let nginx = "map $http_authorization $who {\n  default \"\"; # nobody\n  \"Bearer sk-one\" team-a;\n  'bearer sk-two' 1;\n  ~^x 1;\n  \"Bearer sk-x\" 0;\n}\nserver { listen 80; }\n";
    assert_eq!(found(nginx), (vec![key("team-a", "sk-one"), key("", "sk-two")], 2));
    assert_eq!(
        found("sk-one team-a;\nsk-two team-b;\n"),
        (vec![key("team-a", "sk-one"), key("team-b", "sk-two")], 0)
    );
    let json = format!(
        "[{{\"key\": \"sk-one\", \"key_alias\": \"a\", \"rpm_limit\": 60}}, {{\"token\": \"{}\"}}]",
        &KeyHash::of(b"sk-two").to_stored()[7..]
    );
    assert_eq!(found(&json), (vec![key("a", "sk-one"), key("", "sk-two")], 0));
    assert_eq!(found("SECRETBASE32XX====\n"), (vec![key("", "SECRETBASE32XX====")], 0));
    assert_eq!(found("map $http_x_api_key $a {\n sk-one off;\n sk-two $x;\n}\n"), (vec![], 2));
    let others = "map $request_method $x { POST 1; }\nmap $http_x_api_key $who { sk-one 1; }\n";
    assert_eq!(found(others), (vec![key("", "sk-one")], 0));
    assert_eq!(found("proxy_pass http://x;\nsk-one a;\n"), (vec![key("a", "sk-one")], 1));
    let yaml = "general_settings:\n  master_key: sk-one\nkeys:\n  - sk-two\n";
    assert_eq!(found(yaml), (vec![key("master-key", "sk-one"), key("", "sk-two")], 0));
}

/// Each text has one valid key, `sk-good`, and one entry that contains the word SECRET. The import
/// reports that entry with the expected position and reason, and does not quote the word SECRET.
#[test]
fn keys_that_fit_are_imported_and_others_are_reported_with_their_position() {
    let cases = [
        ("sk-good\na SECRET line\n", "line 2: this is not a token"),
        ("sk-good\n${SECRET}\n", "line 2: a variable in `${…}`"),
        ("sk-good\nann:$apr1$SECRET$x\n", "line 2: the hash of a password"),
        ("A_API_KEY=sk-good\nB_API_KEY=SECRET$HOME\n", "line 2, B_API_KEY: a `$` in it"),
        ("A_API_KEY=sk-good\nB_API_KEY='<your-SECRET>'\n", "line 2, B_API_KEY: a placeholder"),
        (
            "map $http_authorization $w {\n\"Bearer sk-good\" 1;\n\"Bearer ${SECRET_KEY}\" 1;\n}",
            "line 3: a variable",
        ),
        ("map $http_authorization $w {\n\"Bearer sk-good\" 1;\n~*SECRET 1;\n}", "line 3: a pattern"),
        (
            "map $http_authorization $w {\n\"Bearer sk-good\" 1;\ninclude SECRET.map;\n}",
            "line 3: an included file",
        ),
        (
            "map $http_authorization $w {\n\"Bearer sk-good\" 1;\n\"Bearer SECRET\" $SECRET;\n}",
            "line 3: its value is a variable",
        ),
        ("- {key: sk-good}\n- {key: SECRET, expires: soon}\n", "entry 2 (line 2): `expires` is not a time"),
        ("- {key: sk-good}\n- {key: SECRET, expires: 1790000000}\n", "entry 2 (line 2): `expires` is not"),
        ("- {key: sk-good}\n- {key: SECRET, models: [gpt-4]}\n", "entry 2 (line 2): narrowed by `models`"),
        ("- {key: sk-good}\n- {key: SECRET, models: gpt-4}\n", "narrowed by `models`"),
        ("- {key: sk-good}\n- {key: SECRET, max_budget: 0}\n", "narrowed by `max_budget`"),
        ("- {key: sk-good}\n- {key: SECRET, team_id: t}\n", "narrowed by `team_id`"),
        ("- {key: sk-good}\n- {key: SECRET, allowed_routes: [x]}\n", "narrowed by `allowed_routes`"),
        ("- {key: sk-good}\n- {key: SECRET, what_comes_next: 1}\n", "narrowed by `what_comes_next`"),
        ("- {key: sk-good}\n- {key: SECRET, SECRET: 1}\n", "an unknown field"),
        (
            "- {key: sk-good}\n- {key: SECRET, metadata: {model_rpm_limit: {a: 1}}}\n",
            "narrowed by `metadata`",
        ),
        ("- {key: sk-good}\n- {key: SECRET, rpm_limit: many}\n", "`rpm_limit` is not a number"),
        ("- {key: sk-good}\n- {key: SECRET, rpm_limit: 0}\n", "`rpm_limit` is not a number"),
        ("- {key: sk-good}\n- {key: SECRET, blocked: 'yes'}\n", "`blocked` is neither"),
        ("- {key: sk-good}\n- {name: SECRET}\n", "neither `key` nor `token`"),
        ("- {key: sk-good}\n- {key: SECRET}\n- {key: SECRET, rpm_limit: 5}\n", "appears twice"),
        (
            "general_settings:\n  master_key: os.environ/SECRET\nkeys: [{key: sk-good}]\n",
            "a reference to a secret",
        ),
        (
            "keys: [sk-good, 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef]\nname: SECRET\n",
            "64 hex digits may be a key",
        ),
    ];
    for (text, reason) in cases {
        let sources = read_as(text);
        let hashes: Vec<String> = sources.keys.iter().map(|source| source.hash().to_stored()).collect();
        assert_eq!(hashes, [KeyHash::of(b"sk-good").to_stored()], "{text}");
        assert_eq!(sources.left_out.len(), 1, "{text}: {:?}", sources.left_out);
        assert!(sources.left_out[0].contains(reason), "{text}: {:?}", sources.left_out);
        let reported = [sources.left_out, sources.passed_over].concat().join(" ").replace("SECRET_KEY", "");
        assert!(!reported.contains("SECRET"), "{reported}");
    }
}

#[test]
fn text_that_is_no_list_is_refused() {
    for text in ["\"Bearer SECRET\" \"a;\n", "- [SECRET\n", "- {key: *SECRET}\n"] {
        let message = read(guess("list", text), text, Options::default()).unwrap_err();
        assert!(!message.contains("SECRET") && message.contains("line "), "{message}");
    }
}

#[test]
fn terms_with_a_counterpart_are_carried_over() {
    let text = "- {key: sk-one, rpm_limit: 60, max_parallel_requests: 3, expires: 2027-01-01T00:00:00Z, blocked: true, user_id: u, spend: 1.5, metadata: {team: x}, models: []}\n";
    let terms = &read_as(text).keys[0].terms;
    assert_eq!(terms.rate_limits, [limits::quota(60, 60).unwrap()]);
    assert_eq!((terms.max_concurrent, terms.disabled), (Some(3), true));
    assert_eq!(terms.expires_at, "2027-01-01T00:00:00Z".parse().ok());
}

const KONG: &str = "_format_version: '3.0'
services:
- name: model
  url: http://model:8000
  routes: [{name: all, paths: [/]}]
  plugins: [{name: key-auth}, {name: rate-limiting, config: {minute: 5}}, {name: rate-limiting, consumer: late, config: {hour: 7}}]
consumers:
- username: ann
  keyauth_credentials: [{key: sk-ann}, {key: '{vault://env/SECRET}'}]
  plugins:
  - {name: rate-limiting, config: {minute: 60, policy: local}}
  - {name: ip-restriction, config: {allow: [10.0.0.0/8, 192.0.2.7]}}
  - {name: file-log, config: {path: /dev/stdout}}
- username: late
  keyauth_credentials: [{key: sk-late}]
- username: bob
  keyauth_credentials: [{key: SECRET-b}]
  plugins: [{name: request-termination, config: {status_code: 403}}]
- username: month
  keyauth_credentials: [{key: SECRET-m}]
  plugins: [{name: rate-limiting, config: {month: 1000}}]
- username: by
  keyauth_credentials: [{key: SECRET-h}]
  plugins: [{name: rate-limiting, config: {minute: 5, limit_by: header, header_name: x}}]
- username: denied
  keyauth_credentials: [{key: SECRET-d}]
  plugins: [{name: ip-restriction, config: {deny: [10.0.0.0/8]}}]
- username: off
  keyauth_credentials: [{key: sk-off}]
  plugins: [{name: request-termination, enabled: false}]
- username: short
  keyauth_credentials: [{key: SECRET-t, ttl: 60}]
- username: grouped
  keyauth_credentials: [{key: SECRET-g}]
  groups: [{name: gold}]
- username: basic
  basicauth_credentials: [{username: x, password: SECRET}]
keyauth_credentials:
- {consumer: ann, key: sk-ann-2}
- {consumer: nobody, key: SECRET-n}
";

#[test]
fn kong_consumers_keep_what_narrows_them() {
    let sources = read_as(KONG);
    assert_eq!(guess("kong.yml", KONG), Format::Kong);
    let of = |token: &str| {
        let hash = KeyHash::of(token.as_bytes());
        &sources.keys.iter().find(|source| source.hash() == hash).unwrap_or_else(|| panic!("{token}")).terms
    };
    assert_eq!(sources.keys.len(), 4, "{:?}", sources.keys);
    for token in ["sk-ann", "sk-ann-2"] {
        assert_eq!(of(token).rate_limits, [limits::quota(60, 60).unwrap()]);
        let networks: Vec<String> = of(token).allow_from.iter().flatten().map(ToString::to_string).collect();
        assert_eq!(networks, ["10.0.0.0/8", "192.0.2.7/32"]);
    }
    // The plugin of a service that names a consumer applies to that service alone. The import
    // applies it to all requests of the key.
    assert_eq!(of("sk-late").rate_limits, [limits::quota(7, 3600).unwrap()]);
    assert_eq!(*of("sk-off"), Terms::default());
    let reported = sources.left_out.join("\n");
    for reason in [
        "another kind of file",
        "`request-termination`",
        "`rate-limiting`",
        "`ip-restriction`",
        "`ttl`",
        "`groups`",
        "its consumer is not in the file",
    ] {
        assert!(reported.contains(reason), "{reason}: {reported}");
    }
    assert_eq!(sources.left_out.len(), 8, "{reported}");
    assert!(!reported.contains("SECRET") && sources.passed_over.len() == 1, "{reported}");
    let with_acl =
        KONG.replace("[{name: key-auth},", "[{name: key-auth}, {name: acl, config: {allow: [a]}},");
    assert!(read_as(&with_acl).keys.is_empty(), "an acl has no counterpart");
}

const APISIX: &str = "consumers:
- username: ann
  plugins:
    key-auth: {key: sk-ann}
    limit-count: {count: 200, time_window: 60, rejected_code: 429, key: consumer_name}
    limit-conn: {conn: 4, burst: 2, default_conn_delay: 0.1}
    ip-restriction: {whitelist: [10.0.0.0/8]}
- username: reference
  plugins: {key-auth: {key: $ENV://SECRET}}
- username: vault
  plugins: {key-auth: {key: '$secret://vault/1/SECRET'}}
- username: grouped
  group_id: SECRET
  plugins: {key-auth: {key: SECRET-g}}
- username: shared
  plugins: {key-auth: {key: SECRET-s}, limit-count: {count: 5, time_window: 60, group: all}}
- username: blacklisted
  plugins: {key-auth: {key: SECRET-b}, ip-restriction: {blacklist: [10.0.0.0/8]}}
- username: off
  plugins: {key-auth: {key: sk-off, _meta: {disable: true}}}
- username: several
  credentials: [{id: one, plugins: {key-auth: {key: sk-several}}}]
- username: nobody
  plugins: {basic-auth: {username: x, password: SECRET}}
#END
";

#[test]
fn apisix_consumers_keep_what_narrows_them() {
    assert_eq!(guess("apisix.yaml", APISIX), Format::Apisix);
    let sources = read_as(APISIX);
    let names: Vec<&str> = sources.keys.iter().filter_map(|source| source.name.as_deref()).collect();
    assert_eq!(names, ["ann", "off", "several"]);
    let ann = &sources.keys[0].terms;
    assert_eq!(
        (ann.rate_limits.as_slice(), ann.max_concurrent),
        (&[limits::quota(200, 60).unwrap()][..], Some(4))
    );
    assert!(ann.allow_from.is_some() && sources.keys[1].terms.disabled);
    let reported = sources.left_out.join("\n");
    for reason in ["a reference to a secret", "`group_id`", "`limit-count`", "`ip-restriction`"] {
        assert!(reported.contains(reason), "{reason}: {reported}");
    }
    assert_eq!((sources.left_out.len(), sources.passed_over.len()), (5, 1), "{reported}");
    assert!(!reported.contains("SECRET"), "{reported}");
    let api = r#"{"total": 1, "list": [{"key": "/apisix/consumers/ann", "value": {"username": "ann", "plugins": {"key-auth": {"key": "sk-ann"}}}}]}"#;
    assert_eq!(found(api), (vec![key("ann", "sk-ann")], 0));
    let restricted =
        APISIX.replace("#END", "routes:\n- uri: /x\n  plugins: {consumer-restriction: {whitelist: [ann]}}");
    assert!(read_as(&restricted).keys.is_empty());
}

const AGENTGATEWAY: &str = "binds:
- port: 3000
  listeners:
  - routes:
    - policies:
        apiKey:
          mode: strict
          keys:
          - {key: sk-ann, metadata: {user: ann}}
          - {keyHash: 'sha256:HASH', metadata: {user: bob}}
          - {keyHash: '$2b$12$SECRET'}
          - {key: '${SECRET}'}
          - {key: SECRET, expires: tomorrow}
      backends: [{host: model:8000}]
";

#[test]
fn agentgateway_keys_are_taken_where_they_are_valid_for_all_routes() {
    let text = AGENTGATEWAY.replace("HASH", &KeyHash::of(b"sk-bob").to_stored()[7..]);
    assert_eq!(guess("config.yaml", &text), Format::Agentgateway);
    assert_eq!(found(&text), (vec![key("ann", "sk-ann"), key("bob", "sk-bob")], 3));
    let reported = read_as(&text).left_out.join("\n");
    assert!(
        reported.contains("salted hash") && reported.contains("`expires`") && !reported.contains("SECRET"),
        "{reported}"
    );
    // With a second route, the keys are valid for only one of the two routes.
    let several = format!("{text}    - backends: [{{host: other:8000}}]\n");
    assert!(read_as(&several).keys.is_empty());
    let named = Options { names_routes: true, ..Options::default() };
    assert_eq!(read(Format::Agentgateway, &several, named).unwrap().keys.len(), 2);
    let decided = text.replace(
        "      backends",
        "        authorization: {rules: ['apiKey.user == \"ann\"']}\n      backends",
    );
    assert!(read_as(&decided).keys.is_empty());
}

#[test]
fn an_htpasswd_file_is_recognized_by_one_of_its_lines() {
    let sources = read_as("ann:$apr1$gxq1$Oz4M\nbob:rqXexS6ZhobKA\n");
    assert!(sources.keys.is_empty() && sources.left_out.len() == 2, "{sources:?}");
}

#[test]
fn the_tighter_of_two_limits_counts() {
    let mut quotas = vec![limits::quota(600, 60).unwrap()];
    limits::add(&mut quotas, limits::quota(60, 60).unwrap());
    limits::add(&mut quotas, limits::quota(5, 1).unwrap());
    assert_eq!(quotas, [limits::quota(60, 60).unwrap(), limits::quota(5, 1).unwrap()]);
    let networks = |all: &[&str]| all.iter().map(|one| one.parse().unwrap()).collect::<Vec<IpNet>>();
    let both = limits::in_both(
        &networks(&["10.0.0.0/8", "192.0.2.1/32"]),
        &networks(&["10.1.0.0/16", "192.0.0.0/8"]),
    );
    assert_eq!(both, networks(&["10.1.0.0/16", "192.0.2.1/32"]));
    assert!(limits::in_both(&networks(&["10.0.0.0/8"]), &networks(&["192.0.2.0/24"])).is_empty());
}
