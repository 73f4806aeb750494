//! Groups of keys: their limits together, their models and caps, and keys that name no group.

use serde_json::json;

use crate::harness::{Gateway, Running, Upstream, answer_of, bearward, until};

const GROUPS: &str = "groups:
  - name: team
    rate_limits: [{requests: 60, per: 1h, burst: 6}]
    max_concurrent: 4
    models: ['llama*']
    request: {max_output_tokens: 100}
  - {name: other}";

async fn gateway(upstream: &Upstream) -> Running {
    Gateway::guarding(upstream)
        .key("first", "permissions: [read], group: team, rate_limits: [{requests: 60, per: 1h, burst: 4}]")
        .key("second", "permissions: [read], group: team")
        .key("third", "permissions: [read], group: other")
        .key("alone", "permissions: [read]")
        .key("boss", "permissions: [admin]")
        .config(GROUPS)
        .config("failed_attempts: off")
        .start()
        .await
}

#[tokio::test]
async fn keys_of_a_group_have_its_limits_together_beside_their_own() {
    let upstream = Upstream::answering(answer_of("{}")).await;
    let gateway = gateway(&upstream).await;
    let body = r#"{"model": "llama-3", "max_tokens": 5}"#;
    let post = async |key: &str| gateway.post("/v1/chat/completions", key, body).await;
    for _ in 0..4 {
        assert_eq!(post("first").await.status, 200);
    }
    let refused = post("first").await;
    refused.assert_denied(429, "RATE_LIMIT_EXCEEDED");
    assert_eq!(refused.json()["error"]["details"]["policy"], "requests-1h");
    assert_eq!(post("second").await.status, 200);
    let last = post("second").await;
    assert_eq!(last.status, 200);
    assert_eq!(last.header("ratelimit-policy"), Some("\"group-team-requests-1h\";q=60;w=3600"));
    assert!(last.header("ratelimit").unwrap().starts_with("\"group-team-requests-1h\";r=0;t="));
    let refused = post("second").await;
    refused.assert_denied(429, "RATE_LIMIT_EXCEEDED");
    assert_eq!(refused.json()["error"]["details"]["policy"], "group-team-requests-1h");
    for key in ["third", "alone"] {
        assert_eq!(post(key).await.status, 200);
    }
    let shown = gateway.admin("GET /api/v1/keys", "boss").await.json();
    let keys = shown["data"]["keys"].as_array().unwrap().clone();
    let second = keys.iter().find(|key| key["name"] == "second").unwrap();
    assert_eq!(second["group"], "team");
    assert_eq!(second["limits"]["rate_limits"][0]["policy"], "group-team-requests-1h");
}

#[tokio::test]
async fn a_group_restricts_models_and_output_of_its_keys() {
    let upstream = Upstream::answering(answer_of("{}")).await;
    let gateway = gateway(&upstream).await;
    let post = async |key: &str, body: &str| gateway.post("/v1/chat/completions", key, body).await;
    post("second", r#"{"model": "gpt", "max_tokens": 5}"#).await.assert_denied(403, "MODEL_NOT_ALLOWED");
    post("second", r#"{"model": "llama", "max_tokens": 500}"#)
        .await
        .assert_denied(400, "OUTPUT_LIMIT_EXCEEDED");
    assert_eq!(post("third", r#"{"model": "gpt", "max_tokens": 500}"#).await.status, 200);
    let models =
        Upstream::answering(answer_of(r#"{"object":"list","data":[{"id":"llama"},{"id":"gpt"}]}"#)).await;
    let gateway = self::gateway(&models).await;
    assert_eq!(gateway.get("/v1/models", "second").await.json()["data"], json!([{"id": "llama"}]));
    assert_eq!(gateway.get("/v1/models", "third").await.json()["data"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_key_of_an_unknown_group_is_a_fault_and_is_never_let_in() {
    let upstream = Upstream::answering(answer_of("{}")).await;
    let gateway = gateway(&upstream).await;
    let status = async |key: &str| gateway.get("/v1/models", key).await.status;
    let (keys, config) = ["keys.yaml", "bearward.yaml"]
        .map(|name| std::fs::read_to_string(gateway.path(name)).unwrap())
        .into();
    let message = "the key names a group that the configuration does not have";

    // A key that moves to an unknown group keeps its last good form; a new one is not let in.
    gateway.rename_in("keys.yaml", &keys.replace("group: other", "group: unknown"));
    let refused = gateway.reload().await;
    refused.assert_denied(422, "RELOAD_REFUSED");
    assert!(refused.json().to_string().contains(message), "{}", refused.json());
    assert_eq!(status("third").await, 200);

    // A configuration with the group makes the entry good.
    let with_group =
        config.replace("- {name: other}", "- {name: other}\n  - {name: unknown, models: [none]}");
    gateway.rename_in("bearward.yaml", &with_group);
    until("the new group counts", async || {
        gateway.post("/v1/chat/completions", "third", r#"{"model": "x"}"#).await.status == 403
    })
    .await;

    // A configuration without the group of a key in service is refused.
    gateway.rename_in("bearward.yaml", &config);
    let refused = gateway.reload().await;
    refused.assert_denied(422, "RELOAD_REFUSED");
    let details = &refused.json()["error"]["details"];
    assert_eq!(details["config"], "refused", "{details}");
    assert!(details["faults"].to_string().contains(message), "{details}");
    gateway
        .post("/v1/chat/completions", "third", r#"{"model": "x"}"#)
        .await
        .assert_denied(403, "MODEL_NOT_ALLOWED");

    // Both files together are good.
    gateway.rename_in("keys.yaml", &keys);
    gateway.rename_in("bearward.yaml", &config);
    until("both count", async || {
        gateway.post("/v1/chat/completions", "third", r#"{"model": "x"}"#).await.status == 200
    })
    .await;
}

#[tokio::test]
async fn the_api_and_the_commands_make_no_key_that_the_next_reload_would_refuse() {
    let upstream = Upstream::answering(answer_of("{}")).await;
    let gateway = gateway(&upstream).await;
    let create = async |fields: &str| {
        let body = format!(r#"{{"permissions": ["read"], {fields}}}"#);
        let head = format!(
            "POST /api/v1/keys HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nauthorization: Bearer the-admin-token\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut raw = crate::harness::Raw::connect(gateway.admin).await;
        raw.send(head).await;
        raw.answer().await
    };
    assert_eq!(create(r#""group": "team""#).await.status, 201);
    for wrong in [
        r#""group": "unknown""#,
        r#""budgets": [{"tokens": 5, "every": "day"}]"#,
        r#""budgets": [{"tokens": 5, "every": "day"}, {"tokens": 6, "every": "day"}]"#,
        r#""budgets": [{"tokens": 5, "every": "day", "zone": "Mars/Olympus"}]"#,
        // A whole number has many forms in JSON.
        r#""budgets": [{"tokens": 5.0, "every": "day"}]"#,
        r#""budgets": [{"tokens": 5e9, "every": "day"}]"#,
    ] {
        create(wrong).await.assert_denied(409, "KEY_CONFLICT");
    }
    for wrong in [
        r#""budgets": [{"tokens": 5.5, "every": "day"}]"#,
        r#""budgets": [{"tokens": 1e20, "every": "day"}]"#,
        r#""priority": "urgent""#,
        r#""priority": null"#,
        r#""weight": 0"#,
        r#""weight": 1.5"#,
    ] {
        create(wrong).await.assert_denied(400, "BAD_REQUEST");
    }
    assert_eq!(create(r#""priority": "batch", "weight": 2.0"#).await.status, 201);
    assert_eq!(gateway.reload().await.status, 200);
    let config = gateway.path("bearward.yaml").display().to_string();
    for (more, is_made) in
        [("--group=team", true), ("--group=unknown", false), ("--budget=tokens=5M/month", false)]
    {
        let made = bearward(&["keys", "create", "--config", &config, "--permissions", "read", more], "");
        assert_eq!(made.status.success(), is_made, "{}", String::from_utf8_lossy(&made.stderr));
    }
}
