//! Who a caller is taken for: the forms of a credential, the ids that name it, and how long it counts.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use bearward::Token;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::mutants::signed;
use crate::harness::{Answer, Binary, Door, Gateway, Raw, Running, Upstream, answer_of, eventually, in_time};

const AUDIT: &str = "log: {format: json, audit: true}";

/// The lines of the audit, as JSON.
fn audit(gateway: &Binary) -> Vec<Value> {
    let lines = gateway.log();
    let parsed = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    parsed.filter(|line| line["message"] == "audit").collect()
}

async fn asks(gateway: &Door, fields: &str) -> Answer {
    gateway.sends(format!("GET /v1/models HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n\r\n")).await
}

fn key_id(answer: &Answer) -> String {
    answer.json()["error"]["details"]["key_id"].as_str().unwrap().to_owned()
}

/// A token whose checksum is right, with the id of another one.
fn forged(of: &str) -> String {
    let other = Token::generate().unwrap();
    let body = [&of.as_bytes()[..15], &other.reveal().as_bytes()[15..47]].concat();
    String::from_utf8(signed(&body)).unwrap()
}

#[tokio::test]
async fn two_installations_name_one_unknown_credential_by_different_ids() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let start = || Gateway::guarding(&upstream).key("ci", "permissions: [read]").start();
    let (one, other) = (start().await, start().await);
    let id = key_id(&asks(&one, "Authorization: Bearer password").await);
    assert_eq!(id, key_id(&asks(&one, "Authorization: Bearer password").await));
    assert_ne!(id, key_id(&asks(&other, "Authorization: Bearer password").await));
    let is_base62 = id.strip_prefix("key_").is_some_and(|id| id.bytes().all(|b| b.is_ascii_alphanumeric()));
    assert!(is_base62 && id.len() == 14, "{id}");
}

fn bearward(arguments: &[&str], input: &str) -> Output {
    use std::io::Write;
    let mut command = Command::new(env!("CARGO_BIN_EXE_bearward"));
    command.args(arguments).env_remove("BEARWARD_CONFIG");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// A gateway in front of nothing, with these fields of `keys`, as a configuration in `directory`.
fn configured(directory: &Path, store: &str, fields: &str) -> String {
    let path = directory.join("bearward.yaml");
    let store = directory.join(store);
    let text = format!(
        "listeners: [{{address: 127.0.0.1:0}}]\nupstreams: [{{name: m, endpoints: [http://127.0.0.1:1]}}]\nkeys: {{path: \"{}\"{fields}}}\nadmin: off\n",
        store.display()
    );
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn commands_and_the_server_give_a_plain_key_the_same_id() {
    for fields in ["", ", id_secret: {file: SECRET}"] {
        let directory = tempfile::tempdir().unwrap();
        let secret = directory.path().join("id.secret");
        std::fs::write(&secret, "0123456789abcdef0123456789abcdef\n").unwrap();
        let fields = format!(", allow_plaintext: true{}", fields.replace("SECRET", secret.to_str().unwrap()));
        std::fs::write(directory.path().join("keys.txt"), "sk-the-only-key-there-is\n").unwrap();
        let config = configured(directory.path(), "keys.txt", &fields);
        let listed = bearward(&["keys", "list", "--json", "--config", &config], "");
        let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
        let id = listed[0]["id"].as_str().unwrap().to_owned();
        let verified =
            bearward(&["keys", "verify", "--json", "--config", &config], "sk-the-only-key-there-is");
        let verified: Value = serde_json::from_slice(&verified.stdout).unwrap();
        assert_eq!(verified["key_id"], id.as_str());
        // The server says it of the same credential once the key is gone from its list.
        std::fs::write(directory.path().join("keys.txt"), "sk-another-key-there-is\n").unwrap();
        let server = Served::start(&config);
        let found =
            key_id(&asks(&server.door().await, "Authorization: Bearer sk-the-only-key-there-is").await);
        assert_eq!(found, id, "{fields}");
        let verified =
            bearward(&["keys", "verify", "--json", "--config", &config], "sk-the-only-key-there-is");
        let verified: Value = serde_json::from_slice(&verified.stdout).unwrap();
        assert_eq!(verified["key_id"], id.as_str(), "of an unknown credential, too");
        let is_kept = directory.path().join(".bearward-id-secret").exists();
        assert_eq!(is_kept, !fields.contains("id_secret"), "a configured one leaves no other behind");
    }
}

/// A server of its own, by its configuration.
struct Served {
    child: std::process::Child,
    address: std::net::SocketAddr,
}

impl Served {
    fn start(config: &str) -> Self {
        use std::io::BufRead;
        let mut command = Command::new(env!("CARGO_BIN_EXE_bearward"));
        command.args(["run", "--config", config]).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let event: Value = serde_json::from_str(&line).ok()?;
            event["address"].as_str()?.parse().ok()
        });
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Served { child, address: address.expect("it does not listen") }
    }

    async fn door(&self) -> Door {
        Door::at(self.address)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }
}

#[test]
fn a_secret_of_ids_that_is_none_is_a_fault_of_the_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let created = bearward(
        &[
            "keys",
            "create",
            "--permissions",
            "read",
            "--keys",
            directory.path().join("k.yaml").to_str().unwrap(),
        ],
        "",
    );
    assert!(created.status.success());
    let file = |name: &str, content: &str| {
        std::fs::write(directory.path().join(name), content).unwrap();
        format!("{{file: \"{}\"}}", directory.path().join(name).display())
    };
    let cases = [
        (file("empty", "\n"), "is empty"),
        (file("short", "0123456789abcdef\n"), "less than 32"),
        ("{file: /nowhere/at/all}".to_owned(), "can't be read"),
        ("{env: NO_SUCH_VARIABLE}".to_owned(), "is not set"),
        ("{}".to_owned(), "one of `env` and `file`"),
        ("{env: HOME, file: /dev/null}".to_owned(), ""),
        ("secret".to_owned(), "map of fields"),
    ];
    for (section, message) in cases {
        let config = configured(directory.path(), "k.yaml", &format!(", id_secret: {section}"));
        let output = bearward(&["check", "--config", &config], "");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{section}: {said}");
        assert!(said.contains(message) && said.contains("bearward.yaml:3:"), "{section}: {said}");
        assert!(!said.contains("0123456789"), "{said}");
    }
    let config = configured(directory.path(), "k.yaml", "");
    assert!(bearward(&["check", "--config", &config], "").status.success());
    assert!(!directory.path().join(".bearward-id-secret").exists(), "check writes nothing");
    std::os::unix::fs::symlink("/etc/hostname", directory.path().join(".bearward-id-secret")).unwrap();
    let output = bearward(&["check", "--config", &config], "");
    assert_eq!(output.status.code(), Some(78), "a link is not followed");
}

#[tokio::test]
async fn a_forged_id_is_never_logged_as_the_id_of_the_key() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway =
        Gateway::guarding(&upstream).key("ci", "permissions: [read]").config(AUDIT).start_binary().await;
    let forged = forged(gateway.token("ci"));
    let id = format!("key_{}", &forged[4..14]);
    let answer = asks(&gateway, &format!("Authorization: Bearer {forged}")).await;
    answer.assert_denied(401, "INVALID_API_KEY");
    assert_eq!(key_id(&answer), id, "the id inside it is the caller's own word");
    let unknown = key_id(&asks(&gateway, "Authorization: Bearer sk-unknown").await);
    gateway.get("/v1/models", "ci").await;
    eventually("all lines are logged", || audit(&gateway).len() >= 2 && gateway.access_lines().len() == 3)
        .await;
    let lines = audit(&gateway);
    assert_eq!(lines[0]["claimed_key_id"], id.as_str(), "{lines:?}");
    assert!(lines[0].get("key_id").is_none(), "{lines:?}");
    assert_eq!((&lines[1]["key_id"], lines[1].get("claimed_key_id")), (&Value::from(unknown), None));
    let access = gateway.access_lines();
    let named: Vec<_> = access.iter().map(|line| line.get("key_id").is_some()).collect();
    assert_eq!(named, [false, true, true], "{access:?}");
    assert_eq!(access[0]["claimed_key_id"], id.as_str());
}

#[tokio::test]
async fn a_refused_foreign_key_is_named_by_its_credential_id_and_logged_with_the_keys_own() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let hash = bearward::KeyHash::of(b"sk-foreign").to_stored();
    let gateway = Gateway::guarding(&upstream).key("ci", "permissions: [read]").config(AUDIT);
    let gateway = gateway.start_binary().await;
    let keys = gateway.directory.path().join("keys.yaml");
    let more = format!("  - {{id: key_imported, hash: \"{hash}\", permissions: [read], disabled: true}}\n");
    let text = std::fs::read_to_string(&keys).unwrap() + &more;
    std::fs::write(&keys, text).unwrap();
    gateway.signal("HUP");
    eventually("the key is known", || gateway.log().iter().any(|line| line.contains("keys reloaded"))).await;
    let id = key_id(&asks(&gateway, "Authorization: Bearer sk-foreign").await);
    assert_ne!(id, "key_imported", "the answer does not reveal that a key has this secret");
    eventually("it is logged", || !audit(&gateway).is_empty()).await;
    let line = &audit(&gateway)[0];
    assert_eq!((&line["key_id"], &line["credential_id"]), (&"key_imported".into(), &id.into()), "{line}");
}

#[tokio::test]
async fn a_limited_address_gets_no_look_up_for_what_is_no_token() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let (gateway, hands) = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .config("failed_attempts: {per_address: 3, per: 1m}\ntrusted_proxies: [127.0.0.0/8]")
        .clock("2026-11-23T00:00:00Z");
    let gateway = gateway.start().await;
    let hash = bearward::KeyHash::of(b"sk-weak").to_stored();
    let text = std::fs::read_to_string(gateway.path("keys.yaml")).unwrap();
    gateway.rename_in(
        "keys.yaml",
        &format!("{text}  - {{id: key_weak, hash: \"{hash}\", permissions: [read]}}\n"),
    );
    gateway.reload().await;
    let from =
        |address: &str, token: &str| format!("X-Forwarded-For: {address}\r\nAuthorization: Bearer {token}");
    assert_eq!(asks(&gateway, &from("192.0.2.1", "sk-weak")).await.status, 200);
    for guess in 0..3 {
        let answer = asks(&gateway, &from("192.0.2.1", &format!("sk-{guess}"))).await;
        answer.assert_denied(401, "INVALID_API_KEY");
    }
    // The right guess is answered as the wrong ones are.
    for guess in ["sk-wrong", "sk-weak"] {
        let answer = asks(&gateway, &from("192.0.2.1", guess)).await;
        answer.assert_denied(429, "TOO_MANY_FAILED_ATTEMPTS");
        assert_eq!(answer.header("retry-after"), Some("60"));
    }
    assert_eq!(
        asks(&gateway, &from("192.0.2.1", gateway.token("ci"))).await.status,
        200,
        "a good token is let in"
    );
    assert_eq!(
        asks(&gateway, &from("192.0.2.2", "sk-weak")).await.status,
        200,
        "and so is every other address"
    );
    hands.advance(Duration::from_secs(60));
    assert_eq!(asks(&gateway, &from("192.0.2.1", "sk-weak")).await.status, 200);
}

#[tokio::test]
async fn guesses_beside_a_good_key_are_slowed_down_and_logged() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .config(&format!(
            "{AUDIT}\nfailed_attempts: {{per_address: 3, per: 1h}}\ntrusted_proxies: [127.0.0.0/8]\nauth: {{headers: [authorization, x-api-key, x-litellm-api-key], conflict: any}}"
        ))
        .start_binary()
        .await;
    let hash = |word: &str| bearward::KeyHash::of(word.as_bytes()).to_stored();
    let keys = gateway.directory.path().join("keys.yaml");
    let mut text = std::fs::read_to_string(&keys).unwrap();
    for word in ["sk-weak", "sk-mine"] {
        text.push_str(&format!(
            "  - {{id: key_{}, hash: \"{}\", permissions: [read]}}\n",
            &word[3..],
            hash(word)
        ));
    }
    std::fs::write(&keys, text).unwrap();
    gateway.signal("HUP");
    let ci = gateway.token("ci");
    let from = |address: &str, key: &str, beside: &str| {
        format!("X-Forwarded-For: {address}\r\nAuthorization: Bearer {key}\r\nX-Api-Key: {beside}")
    };
    // Each time from another address: until then, it is a bad key.
    let mut asked = 0;
    crate::harness::until("the new keys count", async || {
        asked += 1;
        let address = format!("10.0.{}.{}", asked / 250, asked % 250);
        asks(&gateway, &from(&address, "sk-mine", "sk-mine")).await.status == 200
    })
    .await;
    // A credential that a client always sends beside its key is logged once, and is no guess after that.
    for _ in 0..9 {
        assert_eq!(asks(&gateway, &from("192.0.2.1", ci, "sk-of-another-service")).await.status, 200);
    }
    // Two more are wrong guesses, and then the address is past its number: right ones look like them.
    for (beside, expected) in
        [("sk-0", 200), ("sk-weak", 400), ("sk-1", 200), ("sk-weak", 200), ("sk-2", 200)]
    {
        let answer = asks(&gateway, &from("192.0.2.1", ci, beside)).await;
        assert_eq!(answer.status, expected, "{beside}");
    }
    for guess in ["sk-weak", "sk-mine", "sk-3"] {
        let fields = format!("X-Forwarded-For: 192.0.2.1\r\nX-Api-Key: {guess}");
        asks(&gateway, &fields).await.assert_denied(429, "TOO_MANY_FAILED_ATTEMPTS");
        asks(&gateway, &from("192.0.2.1", "sk-mine", guess))
            .await
            .assert_denied(429, "TOO_MANY_FAILED_ATTEMPTS");
    }
    assert_eq!(asks(&gateway, &from("192.0.2.2", ci, "sk-weak")).await.status, 400, "two keys");
    // Forged tokens, which nobody guesses, cost the address nothing.
    for _ in 0..5 {
        let token = Token::generate().unwrap();
        assert_eq!(asks(&gateway, &from("192.0.2.3", ci, token.reveal())).await.status, 200);
    }
    assert_eq!(asks(&gateway, &from("192.0.2.3", ci, "sk-weak")).await.status, 400);
    let lines = || {
        let lines = audit(&gateway);
        lines.into_iter().filter(|line| line["event"] == "unknown_credential_beside_key").collect::<Vec<_>>()
    };
    eventually("three lines", || lines().len() == 3).await;
    for line in lines() {
        assert_eq!(
            (&line["key_id"], &line["client"]),
            (&ci[..14].replacen("bwk_", "key_", 1).into(), &"192.0.2.1".into()),
            "{line}"
        );
        assert!(line["credential_id"].as_str().is_some_and(|id| id.starts_with("key_")), "{line}");
        assert!(!line.to_string().contains("sk-"), "{line}");
    }
}

async fn with_auth(upstream: &Upstream, auth: &str) -> Running {
    Gateway::guarding(upstream)
        .key("ci", "permissions: [read]")
        .key("other", "permissions: [read]")
        .config(&format!(
            "auth: {auth}\nroutes: [{{name: a, paths: [/**], permission: read, upgrades: [websocket]}}]"
        ))
        .start()
        .await
}

fn basic(password: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(format!("user:{password}"))
}

#[tokio::test]
async fn a_key_is_found_in_all_the_forms_that_are_configured() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let lax = "{headers: [authorization, x-api-key, x-litellm-api-key], conflict: any, basic: true, websocket_protocol: true}";
    let strict = "{headers: [authorization, x-api-key, x-litellm-api-key]}";
    // The fields, and the statuses under the one and the other.
    let cases = [
        ("Authorization: Bearer CI", 200, 200),
        ("X-Litellm-Api-Key: Bearer CI", 200, 200),
        ("X-Litellm-Api-Key: CI", 200, 200),
        ("X-Api-Key: bEARER CI", 200, 200),
        ("Authorization: Bearer\tCI", 401, 401),
        ("X-Api-Key: Bearer\tCI", 401, 401),
        ("Authorization: Bearer other\r\nX-Api-Key: CI", 200, 400),
        ("Authorization: Bearer CI\r\nX-Api-Key: other", 200, 400),
        ("Authorization: Bearer CI\r\nX-Api-Key: CI", 200, 200),
        ("Authorization: Bearer CI\r\nX-Api-Key: OTHER", 400, 400),
        ("Authorization: Bearer CI\r\nAuthorization: Bearer other", 400, 400),
        ("Authorization: Bearer one\r\nX-Api-Key: two", 401, 400),
        ("Authorization: Basic BASIC", 200, 401),
        ("Authorization: Basic BASIC\r\nX-Api-Key: other", 200, 401),
        ("Authorization: Basic eDp5", 401, 401),
        ("Sec-WebSocket-Protocol: openai-insecure-api-key.CI", 200, 401),
        ("Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.CI", 200, 401),
        ("Sec-WebSocket-Protocol: openai-insecure-api-key.CI, openai-insecure-api-key.OTHER", 400, 401),
        ("Sec-WebSocket-Protocol: openai-insecure-api-key.OTHER\r\nX-Api-Key: CI", 400, 200),
        ("Api-Key: CI", 401, 401),
        ("Proxy-Authorization: Bearer CI", 401, 401),
    ];
    let (lax, strict) = (with_auth(&upstream, lax).await, with_auth(&upstream, strict).await);
    for (fields, in_lax, in_strict) in cases {
        for (gateway, status) in [(&lax, in_lax), (&strict, in_strict)] {
            upstream.forget();
            let (ci, other) = (gateway.token("ci"), gateway.token("other"));
            let sent = fields.replace("CI", ci).replace("OTHER", other).replace("BASIC", &basic(ci));
            let answer = asks(gateway, &sent).await;
            assert_eq!(answer.status, status, "{fields}: {}", String::from_utf8_lossy(&answer.body));
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(!text.contains(ci) && !text.contains(other), "nothing of it is echoed: {fields}");
            for request in upstream.requests() {
                let said = request.head;
                let holds = |secret: &str| said.contains(secret);
                assert!(
                    !holds(ci) && !holds(other) && !holds("other") && !holds(&basic(ci)),
                    "{fields}: {said}"
                );
            }
        }
    }
}

#[tokio::test]
async fn no_header_that_keys_are_sent_in_reaches_the_upstream() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .config(
            "routes: [{name: open, paths: [/open], public: true}, {name: a, paths: [/**], permission: read}]",
        )
        .start()
        .await;
    let names = [
        "x-api-key",
        "api-key",
        "x-litellm-api-key",
        "x-goog-api-key",
        "x_litellm_api_key",
        "api_key",
        "proxy-authorization",
    ];
    for name in names {
        for (path, bearer) in [("/x", gateway.bearer("ci")), ("/open", String::new())] {
            upstream.forget();
            let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{bearer}{name}: sk-secret\r\n\r\n");
            assert_eq!(gateway.sends(request).await.status, 200, "{name}");
            assert!(!upstream.only_request().head.contains("sk-secret"), "{name}: {path}");
        }
        // Nor behind a body.
        upstream.forget();
        let head = format!("POST /x HTTP/1.1\r\nHost: a\r\n{}", gateway.bearer("ci"));
        let framing =
            format!("Transfer-Encoding: chunked\r\nTrailer: {name}\r\n\r\n0\r\n{name}: sk-secret\r\n\r\n");
        assert_eq!(gateway.sends(head + &framing).await.status, 200, "{name}");
        assert!(!upstream.only_request().trailers.contains("sk-secret"), "{name}");
    }
    // A browser's key is taken out whether it is asked for or not.
    upstream.forget();
    let protocols = "Sec-WebSocket-Protocol: a, openai-insecure-api-key.sk-secret,b\r\nSec-WebSocket-Protocol: OPENAI-INSECURE-API-KEY.sk-secret";
    let request = format!("GET /open HTTP/1.1\r\nHost: a\r\n{protocols}\r\n\r\n");
    assert_eq!(gateway.sends(request).await.status, 200);
    assert_eq!(upstream.only_request().headers("sec-websocket-protocol"), ["a, b"]);
    upstream.forget();
    let request =
        "GET /open HTTP/1.1\r\nHost: a\r\nSec_WebSocket_Protocol: openai-insecure-api-key.sk-secret\r\n\r\n";
    assert_eq!(gateway.sends(request).await.status, 200);
    assert!(!upstream.only_request().head.contains("sk-secret"));
}

#[tokio::test]
async fn a_browser_opens_a_websocket_with_its_key_among_the_protocols() {
    let upstream = Upstream::acting(|request, mut stream| async move {
        let chosen = request.header("sec-websocket-protocol").and_then(|all| all.split(',').next());
        let chosen = chosen.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n")).unwrap_or_default();
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{chosen}\r\n"
        );
        stream.write_all(head.as_bytes()).await.ok()?;
        let mut bytes = [0; 64];
        let length = stream.read(&mut bytes).await.ok()?;
        stream.write_all(&bytes[..length]).await.ok()?;
        None
    })
    .await;
    let gateway = with_auth(&upstream, "{websocket_protocol: true}").await;
    for (others, chosen) in [("realtime, ", Some("realtime")), ("", None)] {
        upstream.forget();
        let mut raw = gateway.raw().await;
        let token = gateway.token("ci");
        raw.send(format!(
            "GET /v1/realtime HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: {others}openai-insecure-api-key.{token}\r\n\r\n"
        ))
        .await;
        let head = raw.head().await;
        assert_eq!((head.status, head.header("sec-websocket-protocol")), (101, chosen));
        assert!(!upstream.only_request().head.contains(token));
        raw.send("ping\r\n").await;
        assert_eq!(raw.line().await.unwrap(), "ping");
    }
}

/// An upstream whose answers begin and never end; what asks for an upgrade gets it.
async fn endless() -> Upstream {
    Upstream::acting(|request, mut stream| async move {
        let head = match request.header("upgrade") {
            Some(_) => {
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
            }
            None => "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n",
        };
        stream.write_all(head.as_bytes()).await.ok()?;
        let mut bytes = [0; 64];
        while stream.read(&mut bytes).await.ok()? > 0 {}
        None
    })
    .await
}

/// An answer and a tunnel that are open by one key.
async fn opened(gateway: &Running, bearer: &str) -> (Raw, Raw) {
    let head = |more: &str| format!("GET /v1/x HTTP/1.1\r\nHost: a\r\n{bearer}{more}\r\n");
    let mut answer = gateway.raw().await;
    answer.send(head("")).await;
    assert_eq!(answer.head().await.status, 200);
    answer.chunk().await.unwrap();
    let mut tunnel = gateway.raw().await;
    tunnel.send(head("Connection: Upgrade\r\nUpgrade: websocket\r\n")).await;
    assert_eq!(tunnel.head().await.status, 101);
    (answer, tunnel)
}

const CUT: &str = "cut_open_streams: true, environment: production, max_age: 90d, max_age_action: refuse";
const ROUTE: &str = "routes: [{name: chat, paths: [/**], permission: read, upgrades: [websocket]}]";
const FIELDS: &str = "permissions: [read], environment: production, created_at: 2026-11-23T00:00:00Z";

#[tokio::test]
async fn what_is_open_ends_when_a_change_lets_it_in_no_longer() {
    let upstream = endless().await;
    let gateway = Gateway::guarding(&upstream)
        .keys(CUT)
        .key("ci", FIELDS)
        .key("stays", FIELDS)
        .config(ROUTE)
        .clock("2026-11-23T00:00:01Z")
        .0
        .start()
        .await;
    let original = std::fs::read_to_string(gateway.path("keys.yaml")).unwrap();
    let (mut kept, _tunnel) = opened(&gateway, &gateway.bearer("stays")).await;
    let narrowings = [
        "allow_from: [192.0.2.0/24]",
        "routes: [other]",
        "disabled: true",
        "not_before: 2027-01-01T00:00:00Z",
        "expires_at: 2026-01-01T00:00:00Z",
    ];
    let replaced = [
        ("permissions: [read]", "permissions: [webhook]"),
        ("environment: production", "environment: staging"),
        ("created_at: 2026-11-23T00:00:00Z", "created_at: 2026-01-01T00:00:00Z"),
        ("created_at: 2026-11-23T00:00:00Z", "max_concurrent: 9"),
    ];
    let ci = original.lines().find(|line| line.contains("name: ci,")).unwrap();
    let narrowed = narrowings.map(|narrowing| ci.replace("name: ci,", &format!("name: ci, {narrowing},")));
    let narrowed = narrowed.into_iter().chain(replaced.map(|(from, to)| ci.replace(from, to)));
    for narrowed in narrowed.chain([String::new()]) {
        assert_ne!(narrowed, ci);
        let (mut answer, mut tunnel) = opened(&gateway, &gateway.bearer("ci")).await;
        gateway.rename_in("keys.yaml", &original.replace(ci, &narrowed));
        assert!(in_time("the answer ends", answer.chunk()).await.is_none(), "{narrowed}");
        in_time("the tunnel ends", tunnel.assert_ended()).await;
        gateway.rename_in("keys.yaml", &original);
        assert_eq!(gateway.reload().await.status, 200);
    }
    // A change that still lets it in ends nothing.
    let (mut answer, _tunnel) = opened(&gateway, &gateway.bearer("ci")).await;
    let wider =
        ci.replace("name: ci,", "name: ci, allow_from: [127.0.0.0/8], routes: [chat], max_concurrent: 5,");
    gateway.rename_in("keys.yaml", &original.replace(ci, &wider));
    assert_eq!(gateway.reload().await.json()["data"]["keys"], "applied");
    for raw in [&mut answer, &mut kept] {
        let more = tokio::time::timeout(Duration::from_millis(100), raw.chunk()).await;
        assert!(more.is_err(), "it goes on");
    }
}

/// What servers may take a path for has let the request in, too.
#[tokio::test]
async fn what_is_open_ends_when_another_reading_of_its_path_is_allowed_no_longer() {
    let upstream = endless().await;
    let gateway = Gateway::guarding(&upstream)
        .keys("cut_open_streams: true")
        .key("ci", "permissions: [admin]")
        .config(
            "routes: [{name: admin, paths: [/adm/**], permission: admin}, \
             {name: all, paths: [/**], permission: read}]",
        )
        .upstream("accept_in_path: [encoded-slash]")
        .start()
        .await;
    let open = async || {
        let mut raw = gateway.raw().await;
        raw.send(format!("GET /adm%2Fstream HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"))).await;
        (raw.head().await.status, raw)
    };
    let (status, mut raw) = open().await;
    assert_eq!(status, 200);
    raw.chunk().await.unwrap();
    let keys = std::fs::read_to_string(gateway.path("keys.yaml")).unwrap();
    gateway.rename_in("keys.yaml", &keys.replace("permissions: [admin]", "permissions: [read]"));
    assert!(in_time("the answer ends", raw.chunk()).await.is_none());
    assert_eq!(open().await.0, 403);
}

#[tokio::test]
async fn what_is_open_ends_at_the_very_time_its_key_does() {
    let upstream = endless().await;
    let old = Token::generate().unwrap();
    let soon = |seconds: i64| {
        let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
        jiff::Timestamp::from_second(end.as_second()).unwrap()
    };
    let end = soon(3);
    let previous = format!(
        "permissions: [read], previous: [{{hash: \"{}\", expires_at: {end}}}]",
        old.hash().to_stored()
    );
    let gateway = Gateway::guarding(&upstream)
        .keys("cut_open_streams: true, max_age: 1d, max_age_action: refuse")
        .key("ends", &format!("permissions: [read], created_at: {}, expires_at: {end}", soon(0)))
        .key("rotated", &format!("{previous}, created_at: {}", soon(0)))
        .key("aged", &format!("permissions: [read], created_at: {}", soon(3 - 86_400)))
        .key("stays", &format!("permissions: [read], created_at: {}", soon(0)))
        .config(ROUTE)
        .start()
        .await;
    let (mut stays, _tunnel) = opened(&gateway, &gateway.bearer("stays")).await;
    let (mut new_secret, _its_tunnel) = opened(&gateway, &gateway.bearer("rotated")).await;
    let mut ending = Vec::new();
    for bearer in [
        gateway.bearer("ends"),
        format!("Authorization: Bearer {}\r\n", old.reveal()),
        gateway.bearer("aged"),
    ] {
        ending.push(opened(&gateway, &bearer).await);
    }
    // An answer that has not begun is refused with the reason.
    for (mut answer, mut tunnel) in ending {
        assert!(in_time("the answer ends", answer.chunk()).await.is_none());
        tunnel.assert_ended().await;
        let late = jiff::Timestamp::now().duration_since(end);
        assert!(late.as_secs_f64() >= 0.0, "no earlier than its key: {late}");
        assert!(late.as_secs_f64() < 1.5, "{late}");
    }
    for raw in [&mut stays, &mut new_secret] {
        assert!(tokio::time::timeout(Duration::from_millis(50), raw.chunk()).await.is_err(), "it goes on");
    }
}

#[tokio::test]
async fn a_request_whose_key_ends_before_the_answer_gets_that_reason() {
    let upstream = Upstream::acting(|_, stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
        None
    })
    .await;
    let (gateway, hands) = Gateway::guarding(&upstream)
        .keys("cut_open_streams: true")
        .key("ci", "permissions: [read], expires_at: 2026-11-23T01:00:00Z")
        .clock("2026-11-23T00:00:00Z");
    let gateway = gateway.start().await;
    let mut raw = gateway.raw().await;
    raw.send(format!("GET /v1/models HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"))).await;
    eventually("it is at upstream", || upstream.requests().len() == 1).await;
    // The wall clock is set forward: no timer knows of it.
    hands.set_wall("2026-11-23T02:00:00Z".parse().unwrap());
    raw.answer().await.assert_denied(401, "EXPIRED_API_KEY");
}

#[tokio::test]
async fn a_strangers_traceparent_makes_no_span() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    // There is no collector: the header to upstream shows whether a request is sampled.
    let routes =
        "routes: [{name: open, paths: [/open], public: true}, {name: a, paths: [/**], permission: read}]";
    let traces = "traces: {endpoint: 'http://127.0.0.1:1', sample: 0}";
    let start = async |more: &str| {
        Gateway::guarding(&upstream)
            .key("ci", "permissions: [read]")
            .config(&format!("{routes}\n{traces}\n{more}"))
            .start_binary()
            .await
    };
    let (gateway, behind_proxy) = (start("").await, start("trusted_proxies: [127.0.0.0/8]").await);
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let ask = async |gateway: &Binary, path: &str, bearer: &str| {
        upstream.forget();
        let given = format!("traceparent: 00-{trace}-b7ad6b7169203331-01\r\ntracestate: a=b\r\n");
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{bearer}{given}\r\n");
        assert_eq!(gateway.sends(request).await.status, 200);
        let seen = upstream.only_request();
        let sent = seen.header("traceparent").unwrap().to_owned();
        (sent.contains(trace), sent.ends_with("-01"), seen.header("tracestate").is_some())
    };
    assert_eq!(ask(&gateway, "/open", "").await, (false, false, false), "a stranger's");
    let bad = "Authorization: Bearer sk-nobody\r\n";
    assert_eq!(ask(&gateway, "/open", bad).await, (false, false, false), "a bad key's");
    assert_eq!(ask(&gateway, "/x", &gateway.bearer("ci")).await, (true, true, true), "a good key's");
    assert_eq!(ask(&behind_proxy, "/open", "").await, (true, true, true), "a trusted proxy's");
}

#[test]
fn ids_of_imported_keys_are_random() {
    let directory = tempfile::tempdir().unwrap();
    let ids = |store: &str| {
        let store = directory.path().join(store);
        let store = store.to_str().unwrap();
        let imported = bearward(&["keys", "import", "-", "--keys", store], "sk-one-of-them-here\n");
        assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
        let listed = bearward(&["keys", "list", "--json", "--keys", store], "");
        let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
        listed[0]["id"].as_str().unwrap().to_owned()
    };
    let ids: HashSet<String> = ["a.yaml", "b.yaml", "c.jsonl"].map(ids).into_iter().collect();
    assert_eq!(ids.len(), 3, "{ids:?}");
}

/// Imports a list, and says with which code, what was said, and the keys that are in the store then.
fn import(list: &str, arguments: &[&str]) -> (Option<i32>, String, Vec<Value>) {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("keys.yaml");
    let store = store.to_str().unwrap();
    let output = bearward(&[&["keys", "import", "-", "--keys", store], arguments].concat(), list);
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    let listed = bearward(&["keys", "list", "--json", "--keys", store], "");
    let keys = serde_json::from_slice::<Value>(&listed.stdout).ok();
    (output.status.code(), messages, keys.and_then(|keys| keys.as_array().cloned()).unwrap_or_default())
}

#[test]
fn an_import_takes_keys_that_fit_and_reports_all_others() {
    let litellm = "[{\"key\": \"sk-one-of-our-keys\", \"key_alias\": \"one\", \"rpm_limit\": 60},\n {\"key\": \"sk-two-SECRET-keys\", \"key_alias\": \"two\", \"models\": [\"gpt-4\"]},\n {\"key\": \"sk-three-of-our-keys\", \"key_alias\": \"three\", \"blocked\": true}]";
    let nginx = "map $http_authorization $who {\n  \"Bearer sk-one-of-our-keys\" one;\n  \"Bearer ${SECRET}\" 1;\n}\n";
    let kong = "_format_version: '3.0'\nconsumers:\n- {username: one, keyauth_credentials: [{key: sk-one-of-our-keys}]}\n- {username: two, keyauth_credentials: [{key: sk-two-SECRET-keys}], acls: [{group: a}]}\n- {username: three, keyauth_credentials: [{key: sk-SECRET, ttl: 5}]}\n";
    let apisix = "consumers:\n- {username: one, plugins: {key-auth: {key: sk-one-of-our-keys}}}\n- {username: two, plugins: {key-auth: {key: sk-two-SECRET}, limit-req: {rate: 0.5, burst: 1, key: consumer_name}}}\n";
    let agentgateway = "binds:\n- listeners:\n  - routes:\n    - policies: {apiKey: {keys: [{key: sk-one-of-our-keys, metadata: {user: one}}, {key: '<SECRET>'}]}}\n";
    let cases = [
        ("litellm", litellm, 2, "entry 2 (line 2): narrowed by `models`"),
        ("nginx", nginx, 1, "line 3: a variable in `${…}`"),
        ("lines", "sk-one-of-our-keys\nSECRET word\n", 1, "line 2: this is not a token"),
        ("kong", kong, 2, "line 5: narrowed by `ttl`"),
        ("apisix", apisix, 1, "line 3: narrowed by `limit-req`"),
        ("agentgateway", agentgateway, 1, "line 4: a placeholder"),
    ];
    for (format, list, count, message) in cases {
        for arguments in [&[][..], &["--format", format]] {
            let (code, said, keys) = import(list, arguments);
            assert_eq!((code, keys.len()), (Some(1), count), "{format}: {said}");
            assert!(said.contains(message), "{format}: {said}");
            assert!(!said.contains("SECRET"), "{said}");
        }
        let (code, said, keys) = import(list, &["--partial"]);
        assert_eq!((code, keys.len()), (Some(0), count), "{format}: {said}");
    }
    let (_, _, keys) = import(litellm, &["--rate", "30/1m", "--partial"]);
    let named = |name: &str| keys.iter().find(|key| key["name"] == name).unwrap();
    assert_eq!(named("one")["rate_limits"][0]["requests"], 30, "the tighter one holds");
    assert_eq!(named("three")["disabled"], true);
    let (code, said, keys) = import("- {key: sk-SECRET, max_budget: 5}\n", &[]);
    assert!((code, keys.len()) == (Some(1), 0) && said.contains("nothing was imported"), "{said}");
    let (code, _, keys) = import("sk-one-of-our-keys\nsk-two-of-our-keys\n", &[]);
    assert_eq!((code, keys.len()), (Some(0), 2));
}

#[test]
fn check_warns_of_an_admin_token_that_may_be_guessed() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("keys.yaml");
    bearward(&["keys", "create", "--permissions", "read", "--keys", store.to_str().unwrap()], "");
    let token = directory.path().join("admin.token");
    let config = configured(directory.path(), "keys.yaml", "");
    let text = std::fs::read_to_string(&config).unwrap();
    let admin = format!("admin: {{token_file: \"{}\"}}", token.display());
    std::fs::write(&config, text.replace("admin: off", &admin)).unwrap();
    let made = Token::generate().unwrap();
    let cases = [
        ("hunter2", true),
        ("admin-admin-admin-admin-admin", true),
        ("01234567890123456789012345678901", true),
        (made.reveal(), false),
        ("9f86d081884c7d659a2feaa0c55ad015", false),
    ];
    for (content, is_weak) in cases {
        std::fs::write(&token, format!("{content}\n")).unwrap();
        let output = bearward(&["check", "--config", &config], "");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "a warning is no fault: {said}");
        assert_eq!(said.contains("the admin token in"), is_weak, "{content}: {said}");
        assert!(!said.contains(content), "{said}");
    }
}

#[tokio::test]
async fn what_a_browser_sends_by_itself_changes_nothing_over_the_admin_listener() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("boss", "permissions: [admin]")
        .config("auth: {basic: true, websocket_protocol: true, conflict: any}")
        .start()
        .await;
    let boss = gateway.token("boss").to_owned();
    let change = async |credential: &str| {
        let mut raw = Raw::connect(gateway.admin).await;
        let head = "POST /api/v1/reload HTTP/1.1\r\nHost: localhost";
        raw.send(format!("{head}\r\n{credential}\r\nContent-Length: 0\r\n\r\n")).await;
        raw.answer().await.status
    };
    assert_eq!(change(&format!("Authorization: Basic {}", basic(&boss))).await, 401);
    assert_eq!(change(&format!("Sec-WebSocket-Protocol: openai-insecure-api-key.{boss}")).await, 401);
    assert_eq!(change(&format!("Authorization: Bearer {boss}")).await, 200);
}

#[tokio::test]
async fn a_limited_address_does_not_find_the_admin_token_either() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let (gateway, hands) = Gateway::guarding(&upstream)
        .key("boss", "permissions: [admin]")
        .config("failed_attempts: {per_address: 3, per: 1m}")
        .clock("2026-11-23T00:00:00Z");
    let gateway = gateway.start().await;
    let change = async |credential: &str| gateway.admin("POST /api/v1/reload", credential).await;
    for guess in 0..3 {
        change(&format!("guess-{guess}")).await.assert_denied(401, "INVALID_API_KEY");
    }
    change("guess").await.assert_denied(429, "TOO_MANY_FAILED_ATTEMPTS");
    change("the-admin-token").await.assert_denied(429, "TOO_MANY_FAILED_ATTEMPTS");
    assert_eq!(change(gateway.token("boss")).await.status, 200, "a key of ours is let in");
    hands.advance(Duration::from_secs(60));
    assert_eq!(change("the-admin-token").await.status, 200);
}

#[tokio::test]
async fn a_secret_of_ids_that_changes_counts_at_once_and_a_faulty_one_never() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("id.secret");
    let put = |content: &str| {
        std::fs::write(directory.path().join("new"), content).unwrap();
        std::fs::rename(directory.path().join("new"), &secret).unwrap();
    };
    put("0123456789abcdef0123456789abcdef\n");
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .keys(&format!("id_secret: {{file: \"{}\"}}", secret.display()))
        .start()
        .await;
    let id = async || key_id(&asks(&gateway, "Authorization: Bearer sk-unknown").await);
    let first = id().await;
    put("fedcba9876543210fedcba9876543210\n");
    assert_eq!(gateway.reload().await.json()["data"]["config"], "applied");
    let second = id().await;
    assert_ne!(first, second);
    put("short\n");
    assert_ne!(gateway.reload().await.status, 200);
    assert_eq!(id().await, second, "what was good stays");
    assert_eq!(gateway.get("/v1/models", "ci").await.status, 200);
}
