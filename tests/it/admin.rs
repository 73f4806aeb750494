//! The admin listener: what it shows, who may ask, and what can be changed over it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::harness::{Answer, Door, Gateway, Raw, Running, Upstream, answer_of, in_time, until};

const TOKEN: &str = "the-admin-token";

async fn gateway(upstream: &Upstream) -> Running {
    Gateway::guarding(upstream)
        .key("ci", "permissions: [read], rate_limits: [{requests: 5, per: 1h, burst: 5}]")
        .key("writer", "permissions: [read, write]")
        .key("gone", "permissions: [read], disabled: true")
        .key("old", "permissions: [read], expires_at: 2024-01-01T00:00:00Z")
        .key("boss", "permissions: [admin]")
        .config("failed_attempts: off")
        .start()
        .await
}

async fn data(gateway: &Running, path: &str) -> Value {
    let answer = gateway.admin(&format!("GET {path}"), "").await;
    assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
    answer.json()["data"].clone()
}

/// A request with a JSON body.
async fn change(gateway: &Running, request_line: &str, credential: &str, body: &Value) -> Answer {
    let mut raw = Raw::connect(gateway.admin).await;
    let body = body.to_string();
    let bearer = match credential {
        "" => String::new(),
        word => format!("Authorization: Bearer {word}\r\n"),
    };
    raw.send(format!(
        "{request_line} HTTP/1.1\r\nHost: localhost\r\n{bearer}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))
    .await;
    raw.answer().await
}

/// The samples of a family: labels to value.
fn samples(metrics: &str, name: &str) -> BTreeMap<String, f64> {
    let lines = metrics.lines().filter_map(|line| line.strip_prefix(name));
    let samples = lines.filter(|rest| rest.starts_with(['{', ' ']));
    samples
        .map(|rest| {
            let (labels, value) = rest.rsplit_once(' ').unwrap();
            (labels.to_owned(), value.parse().unwrap())
        })
        .collect()
}

async fn metrics(gateway: &Running) -> String {
    String::from_utf8(gateway.admin("GET /metrics", "").await.body).unwrap()
}

fn id_of(gateway: &Door, key: &str) -> String {
    format!("key_{}", gateway.token(key).split('_').nth(1).unwrap())
}

#[tokio::test]
async fn metrics_usage_and_a_clients_own_tally_agree() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let mut tally: BTreeMap<u16, u64> = BTreeMap::new();
    for round in 0..8 {
        for key in ["ci", "writer", "gone", "old"] {
            let answer = gateway.get("/v1/models", key).await;
            *tally.entry(answer.status).or_default() += 1;
        }
        let keyless = gateway.sends("GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n").await;
        *tally.entry(keyless.status).or_default() += 1;
        *tally.entry(gateway.get("/nowhere", "writer").await.status).or_default() += 1;
        if round == 4 {
            assert_eq!(gateway.reload().await.status, 200);
        }
    }
    let expected = BTreeMap::from([(200, 5 + 8), (401, 3 * 8), (429, 3), (404, 8)]);
    assert_eq!(tally, expected);
    // A request is over for the counts a moment after its client has the answer.
    let all = async || data(&gateway, "/api/v1/status").await["requests"] == 48;
    until("all requests are counted", all).await;
    let text = metrics(&gateway).await;
    let requests = samples(&text, "bearward_requests_total");
    let of = |key: &str, route: &str, status: &str| {
        let labels = format!("{{key_id=\"{key}\",route=\"{route}\",status=\"{status}\"}}");
        requests.get(&labels).copied().unwrap_or_default()
    };
    let id = |key: &str| id_of(&gateway, key);
    assert_eq!(of(&id("ci"), "models", "2xx"), 5.0, "{text}");
    assert_eq!(of(&id("ci"), "models", "4xx"), 3.0);
    assert_eq!(of(&id("writer"), "models", "2xx"), 8.0);
    assert_eq!(of(&id("writer"), "none", "4xx"), 8.0);
    assert_eq!(of(&id("gone"), "none", "4xx"), 8.0);
    assert_eq!(of(&id("old"), "none", "4xx"), 8.0);
    assert_eq!(of("none", "none", "4xx"), 8.0);
    assert_eq!(requests.values().sum::<f64>(), 48.0);
    let refusals = samples(&text, "bearward_refusals_total");
    let reported = data(&gateway, "/api/v1/status").await["refusals"].clone();
    let codes = [
        ("INVALID_API_KEY", 8),
        ("MISSING_API_KEY", 8),
        ("EXPIRED_API_KEY", 8),
        ("RATE_LIMIT_EXCEEDED", 3),
        ("ROUTE_NOT_FOUND", 8),
    ];
    for (code, count) in codes {
        assert_eq!(refusals[&format!("{{code=\"{code}\"}}")], f64::from(count), "{code}");
        assert_eq!(reported[code], count, "{code}");
    }
    assert_eq!(samples(&text, "bearward_limit_refusals_total")["{policy=\"requests-1h\"}"], 3.0);
    let usage = async |key: &str| data(&gateway, &format!("/api/v1/keys/{}", id(key))).await;
    let ci = usage("ci").await;
    assert_eq!(
        (&ci["usage"]["requests"], &ci["usage"]["refusals"]),
        (&json!(5), &json!({"RATE_LIMIT_EXCEEDED": 3}))
    );
    assert_eq!(ci["usage"]["last_address"], "127.0.0.1");
    assert_eq!(
        (&ci["limits"]["rate_limits"][0]["remaining"], &ci["limits"]["rate_limits"][0]["limit"]),
        (&json!(0), &json!(5))
    );
    assert_eq!(usage("old").await["usage"]["refusals"], json!({"EXPIRED_API_KEY": 8}));
    assert_eq!(usage("boss").await["usage"]["requests"], 0);
}

#[tokio::test]
async fn times_of_bearward_and_of_upstream_are_distinguished() {
    let upstream = Upstream::acting(|_request, mut stream| async move {
        tokio::time::sleep(Duration::from_millis(80)).await;
        stream.write_all(answer_of("hi").as_bytes()).await.unwrap();
        Some(stream)
    })
    .await;
    let gateway = gateway(&upstream).await;
    assert_eq!(gateway.get("/v1/models", "writer").await.status, 200);
    until("it is counted", async || metrics(&gateway).await.contains("added_seconds_count 1")).await;
    let text = metrics(&gateway).await;
    let sum = |name: &str, labels: &str| samples(&text, &format!("bearward_{name}_sum"))[labels];
    let upstream = sum("upstream_response_seconds", "{upstream=\"model\"}");
    let whole = sum("request_duration_seconds", "{route=\"models\"}");
    let added = sum("added_seconds", "");
    assert!(upstream >= 0.08 && whole >= upstream, "{upstream} {whole}");
    assert!(added > 0.0 && added < 0.07, "waiting for upstream is not ours: {added}");
    assert!(sum("time_to_first_byte_seconds", "{route=\"models\"}") >= 0.08);
    assert_eq!(samples(&text, "bearward_upstream_connect_seconds_count")["{upstream=\"model\"}"], 1.0);
    // An answer without a body has its head for a first byte.
    let head = format!("HEAD /v1/models HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("writer"));
    let mut raw = gateway.raw().await;
    raw.send(head).await;
    assert_eq!(raw.head().await.status, 200);
    until("it is counted", async || metrics(&gateway).await.contains("added_seconds_count 2")).await;
    let text = metrics(&gateway).await;
    let both = samples(&text, "bearward_time_to_first_byte_seconds_sum")["{route=\"models\"}"];
    assert!(both >= 0.16, "{both}");
}

#[tokio::test]
async fn a_foreign_host_is_refused_and_probes_are_open() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream).key("boss", "permissions: [admin]").start().await;
    let asked = async |path: &str, host: &str| {
        let mut raw = Raw::connect(gateway.admin).await;
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        raw.answer().await
    };
    for host in [
        "evil.example",
        "localhost.evil.example",
        "evil.example:9090",
        "127.0.0.1.evil.example",
        "x@localhost",
    ] {
        for path in ["/metrics", "/api/v1/keys", "/api/v1/status", "/nowhere"] {
            let answer = asked(path, host).await;
            assert!([400, 421].contains(&answer.status), "{host}{path}: {}", answer.status);
        }
        assert_eq!(asked("/livez", host).await.status, 200);
        assert_eq!(asked("/readyz", host).await.status, 200);
    }
    for host in ["localhost", "LOCALHOST:9090", "127.0.0.1:9090", "[::1]:9090", "10.1.2.3"] {
        assert_eq!(asked("/metrics", host).await.status, 200, "{host}");
    }
    let mut raw = Raw::connect(gateway.admin).await;
    raw.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n").await;
    assert!([400, 421].contains(&raw.answer().await.status));
}

#[tokio::test]
async fn every_change_takes_a_credential_on_loopback_too() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let before = std::fs::read_to_string(gateway.path("keys.yaml")).unwrap();
    let id = id_of(&gateway, "ci");
    let changes = [
        "POST /api/v1/keys".to_owned(),
        format!("POST /api/v1/keys/{id}/rotate"),
        format!("POST /api/v1/keys/{id}/revoke"),
        format!("DELETE /api/v1/keys/{id}"),
        "POST /api/v1/reload".to_owned(),
    ];
    for line in &changes {
        let body = json!({"permissions": ["read"]});
        change(&gateway, line, "", &body).await.assert_denied(401, "MISSING_API_KEY");
        change(&gateway, line, "the-wrong-token", &body).await.assert_denied(401, "INVALID_API_KEY");
        change(&gateway, line, gateway.token("writer"), &body)
            .await
            .assert_denied(403, "INSUFFICIENT_PERMISSIONS");
    }
    assert_eq!(std::fs::read_to_string(gateway.path("keys.yaml")).unwrap(), before);
}

#[tokio::test]
async fn a_key_is_made_used_rotated_revoked_and_deleted() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let wanted = json!({"name": "new-service", "permissions": ["read"], "expires_in": "90d", "metadata": {"team": "a"}});
    let made = change(&gateway, "POST /api/v1/keys", TOKEN, &wanted).await;
    assert_eq!(made.status, 201, "{}", String::from_utf8_lossy(&made.body));
    let made = made.json()["data"].clone();
    let (id, secret) = (made["id"].as_str().unwrap(), made["secret"].as_str().unwrap());
    assert!(secret.starts_with("bwk_") && made["is_live"] == true, "{made}");
    let status = async |secret: &str| {
        let request = format!("GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {secret}\r\n\r\n");
        gateway.sends(request).await.status
    };
    assert_eq!(status(secret).await, 200, "it is live when the answer is there");
    let taken = change(&gateway, "POST /api/v1/keys", TOKEN, &wanted).await;
    taken.assert_denied(409, "KEY_CONFLICT");

    let rotate = format!("POST /api/v1/keys/{id}/rotate");
    let rotated =
        change(&gateway, &rotate, gateway.token("boss"), &json!({"grace": "0"})).await.json()["data"].clone();
    let second = rotated["secret"].as_str().unwrap();
    assert_eq!((status(secret).await, status(second).await), (401, 200));
    let shown = data(&gateway, &format!("/api/v1/keys/{id}")).await;
    assert!(!shown.to_string().contains("bwk_") && !shown.to_string().contains("sha256"), "{shown}");
    assert_eq!((&shown["name"], &shown["state"]), (&json!("new-service"), &json!("active")));

    let revoke = format!("POST /api/v1/keys/{id}/revoke");
    assert_eq!(change(&gateway, &revoke, TOKEN, &json!({})).await.json()["data"]["key"]["state"], "disabled");
    assert_eq!(status(second).await, 401);
    change(&gateway, &rotate, TOKEN, &json!({})).await.assert_denied(409, "KEY_CONFLICT");
    let delete = format!("DELETE /api/v1/keys/{id}");
    assert_eq!(gateway.admin(&delete, TOKEN).await.status, 200);
    gateway.admin(&delete, TOKEN).await.assert_denied(404, "KEY_NOT_FOUND");
    gateway.admin(&format!("GET /api/v1/keys/{id}"), "").await.assert_denied(404, "KEY_NOT_FOUND");
}

#[tokio::test]
async fn what_is_no_key_is_refused_with_all_that_is_wrong() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let refused = async |body: Value| {
        let answer = change(&gateway, "POST /api/v1/keys", TOKEN, &body).await;
        answer.assert_denied(400, "BAD_REQUEST");
        answer.json()["error"].to_string()
    };
    let reported = refused(json!({"permissions": ["reed"], "allow_from": ["10.0.0.1/8"]})).await;
    assert!(reported.contains("did you mean `read`") && reported.contains("10.0.0.0/8"), "{reported}");
    for bad in [
        json!({}),
        json!([]),
        json!({"permissions": []}),
        json!({"permissions": ["read"], "id": "key_mine"}),
        json!({"permissions": ["read"], "hash": "sha256:00"}),
        json!({"permissions": ["read"], "max_concurrent": "8"}),
        json!({"permissions": ["read"], "max_concurrent": 8.5}),
        json!({"permissions": ["read"], "name": null}),
        json!({"permissions": ["read"], "metadata": {"a": 1}}),
        json!({"permissions": ["read"], "rate_limits": [{"requests": 0, "per": "1m"}]}),
        json!({"permissions": ["read"], "expires_in": "soon"}),
        json!({"permissions": ["read"], "expires_in": "1d", "expires_at": "2099-01-01T00:00:00Z"}),
        json!({"permissions": ["read"], "name": " padded "}),
    ] {
        refused(bad).await;
    }
    let ages = json!({"permissions": ["read"], "rate_limits": [{"requests": 1, "per": "9999d", "burst": 4_000_000_000_u32}]});
    change(&gateway, "POST /api/v1/keys", TOKEN, &ages).await.assert_denied(409, "KEY_CONFLICT");
    let odd = json!({"permissions": ["read"], "metadata": {"\u{85}\u{feff}": "\u{1}\u{1f600}\u{2028}"}});
    assert!([201, 409].contains(&change(&gateway, "POST /api/v1/keys", TOKEN, &odd).await.status));
    let mut raw = Raw::connect(gateway.admin).await;
    raw.send(format!(
        "POST /api/v1/keys HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 2\r\n\r\n{{}}"
    ))
    .await;
    raw.answer().await.assert_denied(400, "BAD_REQUEST");
}

#[tokio::test]
async fn a_mounted_store_is_not_written_and_the_command_is_returned() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    // As the kubelet has it.
    let text = std::fs::read_to_string(gateway.path("keys.yaml")).unwrap();
    std::fs::create_dir(gateway.path("..1")).unwrap();
    std::fs::write(gateway.path("..1/keys.yaml"), text).unwrap();
    std::os::unix::fs::symlink("..1", gateway.path("..data")).unwrap();
    std::fs::remove_file(gateway.path("keys.yaml")).unwrap();
    std::os::unix::fs::symlink("..data/keys.yaml", gateway.path("keys.yaml")).unwrap();
    let answer = change(&gateway, "POST /api/v1/keys", TOKEN, &json!({"permissions": ["read"]})).await;
    answer.assert_denied(409, "STORE_READ_ONLY");
    let details = answer.json()["error"]["details"].clone();
    assert!(details["advice"].as_str().unwrap().contains("kubectl"), "{details}");
    let rotate = format!("POST /api/v1/keys/{}/rotate", id_of(&gateway, "ci"));
    let rotated = change(&gateway, &rotate, TOKEN, &json!({})).await;
    rotated.assert_denied(409, "STORE_READ_ONLY");
    let command = rotated.json()["error"]["details"]["command"].clone();
    assert!(command.as_str().unwrap().starts_with("bearward keys rotate key_"), "{command}");
    for reported in [&answer, &rotated] {
        let text = String::from_utf8_lossy(&reported.body);
        assert!(
            !text.contains("bwk_") && !text.contains("sha256"),
            "a secret that nobody has would lock out: {text}"
        );
    }
}

#[tokio::test]
async fn a_key_that_is_narrowed_has_no_power_here_unless_it_says_so() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("narrow", "permissions: [admin], routes: [models]")
        .key("named", "permissions: [admin], routes: ['bearward:admin']")
        .key("operator", "permissions: [admin], routes: [admin, metrics]")
        .start()
        .await;
    let wanted = json!({"permissions": ["admin"]});
    let refused = change(&gateway, "POST /api/v1/keys", gateway.token("narrow"), &wanted).await;
    refused.assert_denied(403, "ROUTE_NOT_ALLOWED");
    // The built-in sets have routes of these names, which lead to a model server and not here.
    let refused = change(&gateway, "POST /api/v1/keys", gateway.token("operator"), &wanted).await;
    refused.assert_denied(403, "ROUTE_NOT_ALLOWED");
    assert_eq!(change(&gateway, "POST /api/v1/keys", gateway.token("named"), &wanted).await.status, 201);
}

#[tokio::test]
async fn streams_of_events_leave_room_for_probes() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let open = async || {
        let mut events = Raw::connect(gateway.admin).await;
        events.send("GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let status = events.head().await.status;
        (status, events)
    };
    let mut streams = Vec::new();
    for _ in 0..16 {
        let (status, stream) = open().await;
        assert_eq!(status, 200);
        streams.push(stream);
    }
    for _ in 0..80 {
        assert_eq!(open().await.0, 503);
    }
    assert_eq!(gateway.admin("GET /livez", "").await.status, 200);
    drop(streams);
    until("their places are free again", async || open().await.0 == 200).await;
}

#[tokio::test]
async fn a_page_of_another_site_is_refused() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    for (site, status) in [("cross-site", 400), ("same-site", 400), ("same-origin", 200), ("none", 200)] {
        let mut raw = Raw::connect(gateway.admin).await;
        raw.send(format!("GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: {site}\r\n\r\n"))
            .await;
        assert_eq!(raw.answer().await.status, status, "{site}");
    }
}

#[tokio::test]
async fn what_is_said_of_a_change_is_true_while_the_file_moves() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let path = gateway.path("keys.yaml");
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let touching = std::thread::spawn(move || {
        // As long as the sender lives.
        while stopped.recv_timeout(Duration::from_millis(20))
            == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
        {
            let file = std::fs::File::options().append(true).open(&path).unwrap();
            file.set_modified(std::time::SystemTime::now()).unwrap();
        }
    });
    let revoke = format!("POST /api/v1/keys/{}/revoke", id_of(&gateway, "writer"));
    let reported = change(&gateway, &revoke, TOKEN, &json!({})).await.json()["data"].clone();
    assert_eq!(reported["is_live"] == true, reported["key"]["state"] == "disabled", "{reported}");
    drop(stop);
    touching.join().unwrap();
    let is_refused = async || gateway.get("/v1/models", "writer").await.status == 401;
    until("it is revoked", is_refused).await;
}

#[tokio::test]
async fn a_change_is_logged_even_if_its_caller_is_gone() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .key("boss", "permissions: [admin]")
        .config("failed_attempts: off")
        .start_binary()
        .await;
    let id = id_of(&gateway, "ci");
    let (admin, boss) = (gateway.admin.unwrap(), gateway.bearer("boss"));
    // Another command is at the store: the change waits for it.
    let store = std::fs::File::open(gateway.directory.path()).unwrap();
    store.lock().unwrap();
    let mut raw = Raw::connect(admin).await;
    raw.send(format!("POST /api/v1/keys/{id}/revoke HTTP/1.1\r\nHost: localhost\r\n{boss}\r\n")).await;
    for _ in 0..50 {
        let mut probe = Raw::connect(admin).await;
        probe.send("GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(probe.answer().await.status, 200);
    }
    drop(raw);
    store.unlock().unwrap();
    let is_refused = async || gateway.get("/v1/models", "ci").await.status == 401;
    until("it is revoked", is_refused).await;
    let path = format!("\"path\":\"/api/v1/keys/{id}/revoke\"");
    let is_reported =
        async || gateway.log().iter().any(|line| line.contains("\"key_revoked\"") && line.contains(&path));
    until("the audit has it", is_reported).await;
}

#[tokio::test]
async fn a_token_in_the_wrong_field_is_shown_nowhere() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let token = gateway.token("ci");
    for body in
        [json!({"permissions": token}), json!({"permissions": ["read"], "name": {token: 1}}), json!(token)]
    {
        let answer = change(&gateway, "POST /api/v1/keys", TOKEN, &body).await;
        answer.assert_denied(400, "BAD_REQUEST");
        assert!(!String::from_utf8_lossy(&answer.body).contains(&token[15..]), "{body}");
    }
}

#[tokio::test]
async fn keys_are_listed_in_pages() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = data(&gateway, &format!("/api/v1/keys?limit=2&after={after}")).await;
        let keys = page["keys"].as_array().unwrap();
        assert!(keys.len() <= 2);
        seen.extend(keys.iter().map(|key| key["id"].as_str().unwrap().to_owned()));
        match page["next_after"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    let mut expected: Vec<String> =
        ["ci", "writer", "gone", "old", "boss"].map(|key| id_of(&gateway, key)).to_vec();
    expected.sort();
    assert_eq!(seen, expected);
    for bad in ["limit=0", "limit=1001", "limit=x", "limit=1&limit=2"] {
        gateway.admin(&format!("GET /api/v1/keys?{bad}"), "").await.assert_denied(400, "BAD_REQUEST");
    }
}

#[tokio::test]
async fn refusals_and_the_status_come_as_they_happen() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let mut events = Raw::connect(gateway.admin).await;
    events.send("GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(events.head().await.header("content-type"), Some("text/event-stream"));
    let mut text = String::new();
    let mut read_until = async |words: &[&str]| {
        in_time("the events", async {
            while !words.iter().all(|word| text.contains(word)) {
                text.push_str(&String::from_utf8(events.chunk().await.unwrap()).unwrap());
            }
        })
        .await;
        text.clone()
    };
    read_until(&["event: status\ndata: {"]).await;
    gateway.get("/v1/models", "gone").await.assert_denied(401, "INVALID_API_KEY");
    gateway.get("/%3Cimg%20src=x%3E", "writer").await.assert_denied(404, "ROUTE_NOT_FOUND");
    let reported = read_until(&["event: refusal", "\"reason\":\"disabled\"", "ROUTE_NOT_FOUND"]).await;
    assert!(reported.contains("The key was revoked."), "{reported}");
    let listed = data(&gateway, "/api/v1/refusals").await;
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(
        (&listed[0]["code"], &listed[0]["key_id"]),
        (&json!("INVALID_API_KEY"), &json!(id_of(&gateway, "gone")))
    );
}

#[tokio::test]
async fn a_change_of_readiness_is_one_line_of_the_log() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gateway = Gateway::at(&format!("http://{gone}"))
        .key("ci", "permissions: [read]")
        .admin_fields("ready_with_upstreams: true")
        .start_binary()
        .await;
    let ready = async || {
        let mut raw = Raw::connect(gateway.admin.unwrap()).await;
        raw.send("GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n").await;
        raw.answer().await.status
    };
    let lines = |text: &str| gateway.log().iter().filter(|line| line.contains(text)).count();
    assert_eq!(ready().await, 503);
    until("it is logged", async || lines("not ready: no endpoint") == 1).await;
    assert!(gateway.log().iter().any(|line| line.contains("not ready") && line.contains(&gone.to_string())));
    let _back = std::net::TcpListener::bind(gone).unwrap();
    until("it is ready", async || ready().await == 200).await;
    until("it is logged", async || lines("ready again") == 1).await;
    assert_eq!(lines("not ready: no endpoint"), 1, "not once for each probe");
}

#[tokio::test]
async fn readiness_follows_the_upstreams_where_that_is_wanted() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let guarding = |fields: &str| {
        let gateway = Gateway::at(&format!("http://{gone}")).key("ci", "permissions: [read]");
        gateway.admin_fields(&format!("ready_with_upstreams: {fields}")).start()
    };
    assert_eq!(guarding("false").await.admin("GET /readyz", "").await.status, 200);
    let gateway = guarding("true").await;
    let unready = gateway.admin("GET /readyz", "").await;
    let details = unready.json()["error"]["details"].clone();
    assert!(details["upstream"].is_string(), "{details}");
    assert!(
        !details.to_string().contains(&gone.port().to_string()),
        "a probe needs no credential: {details}"
    );
    unready.assert_denied(503, "UPSTREAM_UNAVAILABLE");
    assert_eq!(gateway.admin("GET /livez", "").await.status, 200);
    assert_eq!(data(&gateway, "/api/v1/status").await["is_ready"], false);
    // Nobody asks an unready server; it finds out by itself that upstream is back.
    let _back = std::net::TcpListener::bind(gone).unwrap();
    until("it is ready", async || gateway.admin("GET /readyz", "").await.status == 200).await;
}

#[tokio::test]
async fn keys_beyond_the_limit_share_a_series() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("a", "permissions: [read]")
        .key("b", "permissions: [read]")
        .key("c", "permissions: [read]")
        .config("metrics: {key_ids: 1}")
        .start()
        .await;
    for key in ["a", "b", "c", "a"] {
        assert_eq!(gateway.get("/v1/models", key).await.status, 200);
    }
    let both = async || {
        let requests = samples(&metrics(&gateway).await, "bearward_requests_total");
        let of = |key: &str| {
            requests.get(&format!("{{key_id=\"{key}\",route=\"models\",status=\"2xx\"}}")).copied()
        };
        (of(&id_of(&gateway, "a")), of("other"))
    };
    until("all are counted", async || both().await == (Some(2.0), Some(2.0))).await;
}
