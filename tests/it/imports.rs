//! What another program narrows a key by is carried over, or the key is left out.

use crate::harness::bearward;

/// Imports a list, and says what was said, and the store after it.
fn import(format: &str, list: &str) -> (String, String) {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("keys.yaml");
    std::fs::write(&store, "keys: []\n").unwrap();
    let to = store.to_str().unwrap();
    let output = bearward(&["keys", "import", "-", "--partial", "--format", format, "--keys", to], list);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (said, std::fs::read_to_string(&store).unwrap())
}

fn agentgateway(rule: &str) -> String {
    format!(
        "binds:\n- listeners:\n  - routes:\n    - policies:\n        apiKey: {{keys: [{{key: sk-SECRET-aaaaaaaaaaaa, metadata: {{role: admin}}}}]}}\n        authorization:\n          rules:\n          - {rule}\n"
    )
}

fn kong(more: &str) -> String {
    format!(
        "_format_version: '3.0'\nconsumers:\n- {{username: ann, id: c-1, custom_id: x1, keyauth_credentials: [{{key: sk-SECRET-aaaaaaaaaaaa}}]}}\n{more}\n"
    )
}

fn litellm(more: &str) -> String {
    format!("- {{key: sk-SECRET-aaaaaaaaaaaa, {more}}}\n")
}

fn nginx(entry: &str) -> String {
    format!("map $http_authorization $who {{\n  {entry}\n}}\n")
}

#[test]
fn a_key_that_its_list_narrows_or_refuses_is_left_out_with_the_reason() {
    let metadata = "narrowed by `metadata`";
    let twice = "twice";
    let refusal = "looks like a refusal";
    let cases: Vec<(&str, String, &str)> = vec![
        ("agentgateway", agentgateway("'apiKey[\"role\"] == \"admin\"'"), "an expression"),
        ("agentgateway", agentgateway("'apiKey .role == \"admin\"'"), "an expression"),
        ("agentgateway", agentgateway("'apiKey[ \"role\" ] == \"admin\"'"), "an expression"),
        ("agentgateway", agentgateway("'has(apiKey) && true'"), "an expression"),
        ("agentgateway", agentgateway("'apiKey.role == \"admin\"'"), "an expression"),
        ("kong", kong("consumer_groups: [{name: gold, consumers: [ann]}]"), "`consumer_groups`"),
        ("kong", kong("consumer_groups: [{name: gold, consumers: [{username: ann}]}]"), "`consumer_groups`"),
        ("kong", kong("consumer_groups: [{name: gold, consumers: [{id: c-1}]}]"), "`consumer_groups`"),
        (
            "kong",
            kong("consumer_group_consumers: [{consumer: ann, consumer_group: gold}]"),
            "`consumer_groups`",
        ),
        ("kong", kong("consumer_group_consumers: [{consumer: {id: c-1}}]"), "`consumer_groups`"),
        ("kong", kong("consumers: []"), twice),
        ("litellm", litellm("metadata: '{\"model_rpm_limit\": {\"a\": 1}}'"), metadata),
        ("litellm", litellm("metadata: '\"{\\\"model_rpm_limit\\\": 1}\"'"), metadata),
        ("litellm", litellm("metadata: '{\"guardrails\": [x]'"), metadata),
        ("litellm", litellm("metadata: [{model_rpm_limit: 1}]"), metadata),
        ("litellm", litellm("metadata: {tpm_limit: null, tpm_limit: 1}"), twice),
        ("litellm", litellm("blocked: false, blocked: true"), twice),
        ("litellm", litellm("rpm_limit: 600, rpm_limit: 1"), twice),
        ("litellm", "keys: []\nkeys: [{key: sk-SECRET-aaaaaaaaaaaa}]\n".to_owned(), twice),
        ("nginx", nginx("\"Bearer sk-SECRET-aaaaaaaaaaaa\" revoked;"), refusal),
        ("nginx", nginx("\"Bearer sk-SECRET-aaaaaaaaaaaa\" Blocked;"), refusal),
        ("nginx", nginx("\"Bearer sk-SECRET-aaaaaaaaaaaa\" disabled;"), refusal),
        ("nginx", nginx("\"Bearer sk-SECRET-aaaaaaaaaaaa\" ann-revoked-2026;"), refusal),
        ("nginx", nginx("\"Bearer sk-SECRET-aaaaaaaaaaaa\" 403;"), refusal),
        ("nginx", nginx("\"Bearer sk-SECRET-aaaaaaaaaaaa\" 401;"), refusal),
        ("nginx", nginx("\"Bearer sk-SECRET-aaaaaaaaaaaa\" -;"), refusal),
        ("nginx", nginx("\"Bearer sk-SECRET-aaaaaaaaaaaa\" deny;"), "nginx refuses it"),
        ("nginx", nginx("\"Bearer sk-SECRET-aaaaaaaaaaaa\" 0;"), "nginx refuses it"),
        ("nginx", nginx("\"Bearer sk-SECRET-aaaaaaaaaaaa\" no;"), "nginx refuses it"),
        ("nginx", nginx("\"Bearer sk-SECRET-aaaaaaaaaaaa\" off;"), "nginx refuses it"),
        ("nginx", nginx("\"Bearer\\tsk-SECRET-aaaaaaaaaaaa\" ann;"), "another character"),
        ("nginx", nginx("\"Bearer\tsk-SECRET-aaaaaaaaaaaa\" ann;"), "not a token"),
        (
            "nginx",
            "map \"$http_x_api_key:$uri\" $u { \"sk-SECRET-aaaaaaaaaaaa:/admin\" ann; }\n".to_owned(),
            "over more than the key",
        ),
        (
            "nginx",
            "map $http_authorization$request_method $u { \"Bearer sk-SECRET-aaaaGET\" ann; }\n".to_owned(),
            "over more than the key",
        ),
    ];
    let mut wrong = Vec::new();
    for (format, list, why) in &cases {
        let (said, store) = import(format, list);
        if !said.contains(why) || store != "keys: []\n" || said.contains("SECRET") {
            wrong.push(format!("{list}\n  wanted: {why}\n  said: {said}\n  store: {store}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn and_one_that_is_not_comes_in() {
    let cases = [
        ("agentgateway", agentgateway("'request.method == \"GET\"'")),
        ("kong", kong("consumer_groups: [{name: gold, consumers: [bob]}]")),
        ("kong", kong("consumer_group_consumers: [{consumer: bob, consumer_group: gold}]")),
        ("litellm", litellm("metadata: '{}'")),
        ("litellm", litellm("metadata: '{\"team\": \"a\"}'")),
        ("litellm", litellm("metadata: ''")),
        ("nginx", nginx("\"Bearer sk-SECRET-aaaaaaaaaaaa\" ann;")),
        ("nginx", "map \"${http_x_api_key}\" $u { sk-SECRET-aaaaaaaaaaaa team-4; }\n".to_owned()),
    ];
    for (format, list) in cases {
        let (said, store) = import(format, &list);
        assert_eq!(store.matches("hash:").count(), 1, "{list}\n{said}\n{store}");
    }
}
