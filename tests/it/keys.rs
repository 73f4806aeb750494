//! Keys: when they are valid, from where, for what; and what a reader of the log learns.

use std::time::Duration;

use bearward::{Credential, KeyHash, KeyRing};

use crate::harness::{Gateway, Upstream, answer_of, eventually, mutants};

#[tokio::test]
async fn validity_by_time_follows_the_wall_clock_forth_and_back() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let (gateway, hands) = Gateway::guarding(&upstream)
        .key(
            "ci",
            "permissions: [read], not_before: 2026-11-23T01:00:00Z, expires_at: 2026-11-23T02:00:00+00:00",
        )
        .clock("2026-11-23T00:59:59Z");
    let gateway = gateway.start().await;
    let status = async || gateway.get("/v1/models", "ci").await;
    status().await.assert_denied(401, "INVALID_API_KEY");
    hands.advance(Duration::from_secs(1));
    assert_eq!(status().await.status, 200);
    hands.set_wall("2026-11-23T01:59:59Z".parse().unwrap());
    assert_eq!(status().await.status, 200);
    hands.set_wall("2026-11-23T02:00:00Z".parse().unwrap());
    let expired = status().await;
    expired.assert_denied(401, "EXPIRED_API_KEY");
    assert_eq!(expired.json()["error"]["details"]["expired_at"], "2026-11-23T02:00:00Z");
    hands.set_wall("2026-11-23T01:30:00Z".parse().unwrap());
    assert_eq!(status().await.status, 200);
}

#[tokio::test]
async fn an_invalid_key_never_says_why() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("disabled", "permissions: [read], disabled: true, environment: production")
        .key("early", "permissions: [read], not_before: 2999-01-01T00:00:00Z, environment: production")
        .key("elsewhere", "permissions: [read], allow_from: [192.0.2.0/24], environment: production")
        .key("staging", "permissions: [read], environment: staging")
        .key("unlabelled", "permissions: [read]")
        .key(
            "both",
            "permissions: [read], disabled: true, expires_at: 2020-01-01T00:00:00Z, environment: production",
        )
        .key("good", "permissions: [read], allow_from: [127.0.0.0/8, ::1], environment: production");
    let gateway = gateway.keys("environment: production").start_binary().await;
    let names = ["disabled", "early", "elsewhere", "staging", "unlabelled", "both"];
    for name in names {
        let answer = gateway.get("/v1/models", name).await;
        answer.assert_denied(401, "INVALID_API_KEY");
        let id = format!("key_{}", &gateway.token(name)[4..14]);
        assert_eq!(answer.json()["error"]["details"], serde_json::json!({"key_id": id}));
    }
    assert_eq!(gateway.get("/v1/models", "good").await.status, 200);
    // The log says why, by the same id.
    eventually("all lines are written", || gateway.access_lines().len() == names.len() + 1).await;
    let causes: Vec<_> =
        gateway.access_lines().iter().map(|line| line["cause"].as_str().unwrap_or("").to_owned()).collect();
    assert_eq!(
        causes,
        [
            "disabled",
            "not_yet_valid",
            "address_not_allowed",
            "other_environment",
            "other_environment",
            "disabled",
            ""
        ]
    );
}

#[tokio::test]
async fn a_rotated_out_secret_lives_until_its_end() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let old = bearward::Token::generate().unwrap();
    let fields = format!(
        "permissions: [read], previous: [{{hash: \"{}\", expires_at: 2026-12-01T00:00:00Z}}]",
        old.hash().to_stored()
    );
    let (gateway, hands) = Gateway::guarding(&upstream).key("ci", &fields).clock("2026-11-30T23:59:59Z");
    let gateway = gateway.start().await;
    let with_old =
        format!("GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\r\n", old.reveal());
    assert_eq!(gateway.sends(&with_old).await.status, 200);
    let ids: Vec<_> = upstream
        .requests()
        .iter()
        .map(|request| request.header("x-bearward-key-id").unwrap().to_owned())
        .collect();
    assert_eq!(ids, [format!("key_{}", &gateway.token("ci")[4..14])], "one identity");
    hands.advance(Duration::from_secs(1));
    gateway.sends(&with_old).await.assert_denied(401, "EXPIRED_API_KEY");
    assert_eq!(gateway.get("/v1/models", "ci").await.status, 200);
}

#[tokio::test]
async fn a_key_from_elsewhere_works_by_its_hash() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let foreign = "sk-proj-0123456789";
    let hash = KeyHash::of(foreign.as_bytes()).to_stored();
    let gateway = Gateway::guarding(&upstream)
        .key(
            "ci",
            &format!(
                "permissions: [read], previous: [{{hash: \"{hash}\", expires_at: 2999-01-01T00:00:00Z}}]"
            ),
        )
        .config("auth: {headers: [authorization, x-api-key]}")
        .start()
        .await;
    for header in [format!("Authorization: Bearer {foreign}"), format!("X-Api-Key: {foreign}")] {
        assert_eq!(
            gateway.sends(format!("GET /v1/models HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n")).await.status,
            200
        );
    }
    let two =
        format!("GET /v1/models HTTP/1.1\r\nHost: a\r\n{}X-Api-Key: {foreign}\r\n\r\n", gateway.bearer("ci"));
    gateway.sends(two).await.assert_denied(400, "BAD_REQUEST");
    for request in upstream.requests() {
        assert!(!request.head.contains(foreign), "the credential is stripped: {}", request.head);
    }
}

#[tokio::test]
async fn an_address_is_the_clients_even_behind_a_trusted_proxy() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("office", "permissions: [read], allow_from: [203.0.113.0/24]")
        .key("proxy", "permissions: [read], allow_from: [127.0.0.0/8]")
        .key("anywhere", "permissions: [read]")
        .config("trusted_proxies: [127.0.0.0/8]")
        .start()
        .await;
    let with = async |key: &str, forwarded: &str| {
        let bearer = gateway.bearer(key);
        gateway.sends(format!("GET /v1/models HTTP/1.1\r\nHost: a\r\n{bearer}{forwarded}\r\n")).await.status
    };
    let from = async |forwarded: &str| with("office", forwarded).await;
    assert_eq!(from("X-Forwarded-For: 203.0.113.7\r\n").await, 200);
    assert_eq!(from("X-Forwarded-For: 203.0.113.7, 198.51.100.1\r\n").await, 401);
    assert_eq!(from("X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-For: 203.0.113.7\r\n").await, 200);
    assert_eq!(from("").await, 401);
    let seen = upstream.requests();
    assert_eq!(seen[1].header("x-forwarded-for"), Some("198.51.100.1, 203.0.113.7, 127.0.0.1"));

    // Somebody whom the proxy names in words that we do not know is not the proxy itself.
    assert_eq!(with("proxy", "").await, 200);
    for unreadable in ["unix:", "unknown", "203.0.113.7, _hidden"] {
        let forwarded = format!("X-Forwarded-For: {unreadable}\r\n");
        assert_eq!(with("proxy", &forwarded).await, 401, "{unreadable}");
        assert_eq!(with("anywhere", &forwarded).await, 200, "{unreadable}");
    }
}

#[tokio::test]
async fn no_secret_and_no_hash_is_in_the_log() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .config("log: {level: trace}")
        .start_binary()
        .await;
    let token = gateway.token("ci").to_owned();
    gateway.get("/v1/models?key=SECRETQUERY", "ci").await;
    gateway
        .sends(format!("GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x{token}\r\n\r\n"))
        .await;
    gateway.sends(format!("GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nAuthorization: Bearer {token}\r\n\r\n")).await;
    gateway.sends(format!("rubbish {token}\r\n\r\n")).await;
    eventually("all lines are written", || gateway.access_lines().len() == 4).await;
    let log = gateway.log().join("\n");
    let hash = KeyHash::of(token.as_bytes()).to_stored();
    for secret in [&token[15..47], &hash[7..], "SECRETQUERY"] {
        assert!(!log.contains(secret), "{log}");
    }
    let first = &gateway.access_lines()[0];
    assert_eq!(
        (first["status"].as_u64(), first["path"].as_str(), first["route"].as_str()),
        (Some(200), Some("/v1/models"), Some("models"))
    );
    assert_eq!(first["outcome"], "complete");
}

#[test]
fn no_mutant_of_a_token_opens_anything() {
    let tokens = mutants::tokens(40);
    let line = |(index, token): (usize, &String)| {
        let hash = KeyHash::of(token.as_bytes()).to_stored();
        format!("{{\"id\":\"key_{index}\",\"hash\":\"{hash}\",\"permissions\":[\"read\"]}}\n")
    };
    let file = tempfile::Builder::new().suffix(".jsonl").tempfile().unwrap();
    std::fs::write(file.path(), tokens.iter().enumerate().map(line).collect::<String>()).unwrap();
    let ring = KeyRing::load(file.path()).unwrap();
    for (index, token) in tokens.iter().enumerate() {
        assert_eq!(ring.find(&Credential::new(token.as_bytes())), Some(format!("key_{index}")));
    }
    let mut tried = 0;
    mutants::each_mutant(&tokens, |mutant| {
        assert_eq!(ring.find(&Credential::new(mutant)), None, "{}", mutant.escape_ascii());
        tried += 1;
        true
    });
    assert!(tried > 30_000, "{tried}");
}
