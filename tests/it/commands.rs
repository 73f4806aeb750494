//! Commands that explain: what a request would meet, what a code means, how a running process is.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::harness::{Binary, Gateway, Upstream, answer_of, in_time, until};

fn bearward(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bearward"));
    command.args(arguments).env_remove("BEARWARD_CONFIG").stdin(Stdio::null()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn config_of(gateway: &Binary) -> String {
    gateway.directory.path().join("bearward.yaml").to_str().unwrap().to_owned()
}

const ROUTES: &str = "routes:
  - {name: chat, paths: [/v1/chat/*], methods: [POST], permission: read, rate_limits: [{requests: 60, per: 1m}], strip_prefix: /v1}
  - {name: files, paths: ['/v1/files/**'], permission: write}
  - {name: health, paths: [/health], public: true}";

/// The upstream lives as long as it is held.
async fn gateway() -> (Upstream, Binary) {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key(
            "ci",
            "permissions: [read], rate_limits: [{requests: 600, per: 1m, burst: 60}], routes: [chat, files]",
        )
        .key("gone", "permissions: [read], disabled: true")
        .key("near", "permissions: [read], allow_from: [10.0.0.0/8]")
        .config(ROUTES)
        .start_binary()
        .await;
    (upstream, gateway)
}

#[tokio::test]
async fn what_is_explained_is_what_happens() {
    let (_upstream, gateway) = gateway().await;
    let config = config_of(&gateway);
    let cases = [
        ("POST", "/v1/chat/completions", Some("ci"), None),
        ("GET", "/v1/chat/completions", Some("ci"), Some("ROUTE_NOT_FOUND")),
        ("GET", "/v1/files/a", Some("ci"), Some("INSUFFICIENT_PERMISSIONS")),
        ("GET", "/v1/files/a", None, Some("MISSING_API_KEY")),
        ("GET", "/health", None, None),
        ("POST", "/v1/chat/completions", Some("gone"), Some("INVALID_API_KEY")),
        ("GET", "/v1/files/a%2fb", Some("ci"), Some("BAD_REQUEST")),
        ("TRACE", "/health", None, Some("METHOD_NOT_ALLOWED")),
    ];
    for (method, path, key, code) in cases {
        let mut arguments = vec!["explain", method, path, "--json", "--config", &config];
        arguments.extend(key.into_iter().flat_map(|key| ["--key", key]));
        let explained: Value = serde_json::from_slice(&bearward(&arguments).stdout).unwrap();
        assert_eq!(explained["refusal"]["code"].as_str(), code, "{method} {path}: {explained}");
        let bearer = key.map(|key| gateway.bearer(key)).unwrap_or_default();
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{bearer}Content-Length: 0\r\n\r\n");
        let answer = gateway.sends(request).await;
        assert_eq!(code.is_none(), answer.status == 200, "{method} {path}: {}", answer.status);
        if let Some(code) = code {
            assert_eq!(answer.json()["error"]["code"], code, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn an_explanation_reports_each_step() {
    let (_upstream, gateway) = gateway().await;
    let config = config_of(&gateway);
    let reported =
        stdout(&bearward(&["explain", "POST", "/v1/chat/completions", "--key", "ci", "--config", &config]));
    for step in [
        "route      chat, the first that matches",
        "read is needed",
        "requests-1m (the key's): 600 in 60 s, 60 at once",
        "chat-requests-1m (the route's): 60 in 60 s",
        "as /chat/completions",
        "  forwarded",
    ] {
        assert!(reported.contains(step), "{step}: {reported}");
    }
    let near = stdout(&bearward(&["explain", "GET", "/v1/chat/x", "--key", "ci", "--config", &config]));
    assert!(near.contains("chat matches the path, for other methods (POST)"), "{near}");
    let near = stdout(&bearward(&["explain", "POST", "/v1/chats/x", "--key", "ci", "--config", &config]));
    assert!(near.contains("none matches the path; the nearest: chat (POST /v1/chat/*)"), "{near}");
    assert!(!near.contains("bearward explain"), "it is this command: {near}");
    let far = stdout(&bearward(&["explain", "POST", "/somewhere/else", "--key", "ci", "--config", &config]));
    assert!(far.contains("none matches the path\n"), "{far}");
    let from = |address: &str| {
        let arguments =
            ["explain", "POST", "/v1/chat/x", "--key", "near", "--from", address, "--config", &config];
        stdout(&bearward(&arguments))
    };
    assert!(from("10.1.2.3").contains("forwarded") && from("192.0.2.1").contains("allow_from"));
    let code = stdout(&bearward(&["explain", "rate_limit_exceeded"]));
    assert!(code.starts_with("RATE_LIMIT_EXCEEDED: HTTP 429") && code.contains("Retry-After"), "{code}");
    assert_eq!(bearward(&["explain", "NO_SUCH_CODE"]).status.code(), Some(2));
}

#[tokio::test]
async fn a_probe_and_the_use_of_keys_are_asked_for_from_outside() {
    let (_upstream, mut gateway) = gateway().await;
    let admin = gateway.admin.unwrap().to_string();
    let config = config_of(&gateway);
    for more in [&["--admin", &admin][..], &["--admin", &admin, "--ready"]] {
        let mut arguments = vec!["healthcheck"];
        arguments.extend(more);
        assert_eq!(bearward(&arguments).status.code(), Some(0));
    }
    // A fault of the file, in whatever field, does not make a healthy server unhealthy.
    let text = std::fs::read_to_string(&config).unwrap();
    let named = text.replace("127.0.0.1:0\", token_file", &format!("{admin}\", token_file"));
    assert_ne!(named, text);
    let with = |field: &str| named.replace(&format!("{admin}\", "), &format!("{admin}\", {field}, "));
    let faulty = [
        format!("{named}\nbogus: 1\n"),
        with("hosts: [\"*.example.com\"]"),
        with("ready_with_upstreams: maybe"),
        with("bogus: 1"),
    ];
    for faulty in faulty {
        assert_ne!(faulty, named);
        std::fs::write(&config, &faulty).unwrap();
        assert_eq!(bearward(&["check", "--config", &config]).status.code(), Some(78), "{faulty}");
        assert_eq!(bearward(&["healthcheck", "--config", &config]).status.code(), Some(0), "{faulty}");
    }
    std::fs::write(&config, &text).unwrap();
    assert_eq!(gateway.post("/v1/chat/x", "ci", "{}").await.status, 200);
    gateway.get("/v1/files/a", "ci").await.assert_denied(403, "INSUFFICIENT_PERMISSIONS");
    let listed = || stdout(&bearward(&["keys", "list", "--admin", &admin, "--match", "ci"]));
    let is_reported = async || listed().lines().any(|line| line.contains("ci") && line.contains("127.0.0.1"));
    until("the use is shown", is_reported).await;
    let line = listed().lines().find(|line| line.contains(" ci ")).unwrap().to_owned();
    let columns: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(columns[2..5], ["active", "1", "1"], "{line}");
    assert!(line.contains("59 of requests-1m"), "{line}");
    gateway.child.kill().unwrap();
    gateway.child.wait().unwrap();
    assert_eq!(bearward(&["healthcheck", "--admin", &admin]).status.code(), Some(1));
    assert_eq!(bearward(&["healthcheck", "--config", &format!("{config}.none")]).status.code(), Some(1));
}

#[test]
fn shells_and_manual_know_every_command() {
    let commands =
        ["run", "demo", "check", "explain", "keys", "reload", "schema", "healthcheck", "completions", "man"];
    for shell in ["bash", "zsh", "fish"] {
        let text = stdout(&bearward(&["completions", shell]));
        assert!(commands.iter().all(|command| text.contains(command)), "{shell}");
    }
    let manual = stdout(&bearward(&["man"]));
    assert!(commands.iter().all(|command| manual.contains(command)), "{manual}");
}

#[test]
fn what_will_hurt_is_warned_of() {
    use std::os::unix::fs::PermissionsExt;

    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let created = Command::new(env!("CARGO_BIN_EXE_bearward"))
        .args(["keys", "create", "--permissions", "read", "--name", "ci", "--keys"])
        .arg(path("keys.yaml"))
        .output()
        .unwrap();
    assert!(created.status.success());
    std::fs::set_permissions(path("keys.yaml"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    parameters.not_after = rcgen::date_time_ymd(2026, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    std::fs::write(path("tls.crt"), parameters.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(path("tls.key"), key.serialize_pem()).unwrap();
    std::fs::set_permissions(path("tls.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let text = format!(
        "listeners: [{{address: 127.0.0.1:0, tls: {{certificate: {0}/tls.crt, private_key: {0}/tls.key}}}}]
upstreams: [{{name: m, endpoints: [http://127.0.0.1:1]}}]
keys: {{path: {0}/keys.yaml}}
limits: {{connections: 100000000}}
routes:
  - {{name: open, paths: ['/v1/**'], public: true}}
  - {{name: chat, paths: [/v1/chat/*], permission: read}}
  - {{name: late, paths: [/v1/late], public: true}}
",
        directory.path().display()
    );
    std::fs::write(path("bearward.yaml"), text).unwrap();
    let output = bearward(&["check", "--config", path("bearward.yaml").to_str().unwrap()]);
    let reported = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "warnings are no faults: {reported}");
    assert!(reported.contains("without a key: open (/v1/**)\n"), "{reported}");
    let output = bearward(&["check", "--json", "--config", path("bearward.yaml").to_str().unwrap()]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let open = serde_json::json!([{"route": "open", "methods": null, "paths": ["/v1/**"]}]);
    assert_eq!(report["without_key"], open);
    for warning in [
        "keys.yaml can be read by everybody on this machine",
        "tls.crt has ended",
        "the route chat never matches: open",
        "the route late never matches: open",
        "raise `nofile`",
        "1 key never ends (key_",
    ] {
        assert!(reported.contains(warning), "{warning}: {reported}");
    }
    assert!(!reported.contains("tls.key"), "{reported}");
}

#[test]
fn root_is_told_of_files_that_the_services_group_cant_read() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let keys = path("keys.yaml");
    assert!(
        bearward(&["keys", "create", "--permissions", "read", "--keys", keys.to_str().unwrap()])
            .status
            .success()
    );
    let text = format!(
        "listeners: [{{address: 127.0.0.1:0}}]\nupstreams: [{{name: m, endpoints: [http://127.0.0.1:1]}}]\nkeys: {{path: {}}}\nroutes: openai\n",
        keys.display()
    );
    std::fs::write(path("config.yaml"), text).unwrap();
    std::os::unix::fs::chown(directory.path(), None, Some(1)).unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o750)).unwrap();
    let check = || {
        let output = bearward(&["check", "--config", path("config.yaml").to_str().unwrap()]);
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let told = check();
    assert!(told.contains("keys.yaml: the group ") && told.contains("chmod g+r"), "{told}");
    std::os::unix::fs::chown(&keys, None, Some(1)).unwrap();
    std::fs::set_permissions(&keys, std::fs::Permissions::from_mode(0o640)).unwrap();
    let told = check();
    assert!(!told.contains("the group"), "{told}");
}

#[test]
fn the_built_in_routes_and_the_example_warn_of_nothing_that_they_are_to_blame_for() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.yaml");
    let directory = tempfile::tempdir().unwrap();
    let created = Command::new(env!("CARGO_BIN_EXE_bearward"))
        .args(["keys", "create", "--permissions", "read", "--expires-in", "90d", "--keys", "keys.yaml"])
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert!(created.status.success());
    for routes in ["openai", "vllm", "llama-cpp", "ollama", "triton", "any"] {
        let text = std::fs::read_to_string(&example).unwrap();
        let text = text.replace("routes: openai", &format!("routes: {routes}"));
        std::fs::write(directory.path().join("bearward.yaml"), text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_bearward"))
            .args(["check", "--json", "--config", "bearward.yaml"])
            .current_dir(directory.path())
            .output()
            .unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let warnings = report["warnings"].as_array().unwrap();
        let of_routes: Vec<_> =
            warnings.iter().filter(|warning| warning.to_string().contains("route")).collect();
        assert!(report["ok"] == true && of_routes.is_empty(), "{routes}: {report}");
    }
}

/// Answers each request by its line at once, and takes an unread body for the next request, as some servers do; `slow`
/// ones take their time for each.
async fn careless(methods_it_reads: &'static [&'static str], pause: Duration) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut buffer, mut bytes) = (Vec::new(), [0; 4096]);
                loop {
                    while let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                        let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
                        buffer.drain(..end + 4);
                        let method = head.split(' ').next().unwrap_or_default().to_uppercase();
                        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                        if methods_it_reads.contains(&&*method) {
                            let length = length.map_or(0, |length| length.parse::<usize>().unwrap());
                            while buffer.len() < length {
                                let read = stream.read(&mut bytes).await.ok().filter(|read| *read > 0)?;
                                buffer.extend_from_slice(&bytes[..read]);
                            }
                            buffer.drain(..length);
                        }
                        tokio::time::sleep(pause).await;
                        stream.write_all(answer_of("hi").as_bytes()).await.ok()?;
                        if head.contains("connection: close") {
                            return Some(());
                        }
                    }
                    let read = stream.read(&mut bytes).await.ok().filter(|read| *read > 0)?;
                    buffer.extend_from_slice(&bytes[..read]);
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_server_that_takes_bodies_for_requests_is_found_by_the_probe() {
    const ALL: &[&str] = &["GET", "POST", "DELETE"];
    let quick = Duration::ZERO;
    let good = careless(ALL, quick).await;
    let of_get = careless(&["POST", "DELETE"], quick).await;
    let of_post = careless(&["GET", "DELETE"], quick).await;
    let slow = careless(&[], Duration::from_millis(900)).await;
    let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let token = bearward::Token::generate().unwrap();
    let keys = format!(
        "keys:\n  - {{id: {}, hash: \"{}\", permissions: [read]}}\n",
        token.key_id(),
        token.hash().to_stored()
    );
    std::fs::write(path("keys.yaml"), keys).unwrap();
    let config = format!(
        "listeners: [{{address: 127.0.0.1:0}}]\nkeys: {{path: keys.yaml}}\nupstreams:\n\
         \x20 - {{name: good, endpoints: [\"http://{good}\"]}}\n\
         \x20 - {{name: of-get, endpoints: [\"http://{of_get}\"]}}\n\
         \x20 - {{name: of-post, endpoints: [\"http://{of_post}\"]}}\n\
         \x20 - {{name: mended, endpoints: [\"http://{of_post}\"], reuse_after_body: false}}\n\
         \x20 - {{name: slow, endpoints: [\"http://{slow}\"]}}\n\
         \x20 - {{name: nowhere, endpoints: [\"http://{nowhere}\"]}}\n"
    );
    std::fs::write(path("bearward.yaml"), config).unwrap();
    let directory = directory.path().to_owned();
    let output = tokio::task::spawn_blocking(move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bearward"));
        command.args(["check", "--probe", "--json", "--config", "bearward.yaml"]).current_dir(directory);
        command.output().unwrap()
    });
    let output = in_time("the probe", output).await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut found = BTreeSet::new();
    for probe in report["probes"].as_array().unwrap() {
        let text = |name: &str| probe[name].as_str().unwrap_or_default().to_owned();
        found.insert(format!("{} {} {}", text("upstream"), text("method"), text("outcome")));
        let is_reported = text("warning").contains("reuse_after_body: false");
        let is_open = text("outcome") == "unread" && text("method") == "POST" && text("upstream") != "mended";
        assert_eq!(is_reported, is_open, "{probe}");
    }
    for upstream in ["good", "of-get", "of-post", "mended", "slow", "nowhere"] {
        for method in ALL {
            let outcome = match (upstream, *method) {
                ("nowhere", _) => "unknown",
                ("of-get", "GET") | ("of-post" | "mended", "POST") | ("slow", _) => "unread",
                _ => "read",
            };
            assert!(
                found.contains(&format!("{upstream} {method} {outcome}")),
                "{upstream} {method}: {found:?}"
            );
        }
    }
    let warnings = report["warnings"].as_array().unwrap();
    assert!(warnings.iter().any(|warning| warning.as_str().unwrap().contains("of-post")), "{warnings:?}");
}

/// A certificate that no server can be connected to with is reported before the first request is a 502.
#[test]
fn check_warns_of_an_upstreams_certificate_that_cant_work() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let hash = bearward::Token::generate().unwrap().hash().to_stored();
    let keys = format!("keys:\n  - {{id: key_a, hash: \"{hash}\", permissions: [read]}}\n");
    std::fs::write(path("keys.yaml"), keys).unwrap();
    let (keys, ca) = (path("keys.yaml"), path("ca.pem"));
    let config = format!(
        "listeners: [{{address: 127.0.0.1:0}}]\nkeys: {{path: {}}}\n\
         upstreams: [{{name: m, endpoints: [\"https://model.internal\"], tls: {{ca: {}}}}}]\n",
        keys.display(),
        ca.display()
    );
    std::fs::write(path("bearward.yaml"), config).unwrap();
    for (names, has_ended, warning) in [
        (vec!["model.internal"], false, None),
        (vec!["other.internal"], false, Some("without the name")),
        (vec![], false, Some("without the name")),
        (vec!["model.internal"], true, Some("has ended")),
    ] {
        let names = names.into_iter().map(str::to_owned).collect::<Vec<_>>();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.is_ca = rcgen::IsCa::ExplicitNoCa;
        if has_ended {
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }
        let made = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        std::fs::write(path("ca.pem"), made.pem()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bearward"));
        command.args(["check", "--json", "--config", "bearward.yaml"]).current_dir(directory.path());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let reported: Vec<_> =
            report["warnings"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let of_certificate: Vec<_> = reported.iter().filter(|reported| reported.contains("ca.pem")).collect();
        match warning {
            None => assert!(of_certificate.is_empty(), "{reported:?}"),
            Some(warning) => {
                assert!(of_certificate.iter().any(|reported| reported.contains(warning)), "{reported:?}")
            }
        }
    }
}

#[tokio::test]
async fn explain_knows_presets_in_lists_and_paths_with_several_readings() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .upstream("accept_in_path: [encoded-slash]")
        .key("ci", "permissions: [read]")
        .config("routes: [{name: guarded, paths: [/other/admin/**], permission: admin}, {preset: openai}, {name: rest, paths: [/other/**], permission: read}]")
        .start_binary()
        .await;
    let config = config_of(&gateway);
    for (path, code) in [
        ("/v1/models/", None),
        ("/other/a%2Fb", None),
        ("/other/admin%2Fx", Some("INSUFFICIENT_PERMISSIONS")),
        ("/nothing/a%2Fb", Some("BAD_REQUEST")),
    ] {
        let reported = bearward(&["explain", "GET", path, "--json", "--config", &config, "--key", "ci"]);
        let report: Value = serde_json::from_str(&stdout(&reported)).unwrap();
        assert_eq!(report["refusal"]["code"].as_str(), code, "{path}: {report}");
        let answer = gateway.get(path, "ci").await;
        assert_eq!(answer.status == 200, code.is_none(), "{path}: it is what happens");
    }
}

#[tokio::test]
async fn explain_asks_for_a_key_where_another_reading_of_the_path_takes_one() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .upstream("accept_in_path: [encoded-slash]")
        .key("ci", "permissions: [read], rate_limits: [{requests: 500, per: 1h}]")
        .key("boss", "permissions: [admin], rate_limits: [{requests: 500, per: 1h}]")
        .config("routes: [{name: pub, paths: ['/open*'], public: true}, {name: adm, paths: [/open/**], permission: admin}, {name: own, paths: [/own], hosts: [localhost], public: true}]")
        .start_binary()
        .await;
    let config = config_of(&gateway);
    let limited = "requests-1h (the key's)";
    for (path, key, code, limits) in [
        ("/open%2Fadmin", "", Some("MISSING_API_KEY"), "none without a key"),
        ("/open%2Fadmin", "ci", Some("INSUFFICIENT_PERMISSIONS"), ""),
        ("/open%2Fadmin", "boss", None, limited),
        ("/open", "", None, "none without a key"),
        ("/open", "boss", None, "none without a key"),
        ("/open/admin", "", Some("MISSING_API_KEY"), "none without a key"),
        ("/open/admin", "boss", None, limited),
        ("/nothing", "", Some("MISSING_API_KEY"), ""),
    ] {
        let mut arguments = vec!["explain", "GET", path, "--json", "--config", &config];
        let bearer = match key {
            "" => String::new(),
            key => {
                arguments.extend(["--key", key]);
                gateway.bearer(key)
            }
        };
        let report: Value = serde_json::from_str(&stdout(&bearward(&arguments))).unwrap();
        assert_eq!(report["refusal"]["code"].as_str(), code, "{path} {key}: {report}");
        let answer = gateway.sends(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{bearer}\r\n")).await;
        assert_eq!(answer.status == 200, code.is_none(), "{path} {key}: it is what happens");
        if let Some(code) = code {
            assert_eq!(answer.json()["error"]["code"], code, "{path} {key}");
        }
        let steps = report["steps"].as_array().unwrap();
        let reported =
            steps.iter().find(|step| step["step"] == "limits").map(|step| step["text"].to_string());
        assert!(reported.unwrap_or_default().contains(limits), "{path} {key}: {report}");
        if code.is_none() {
            assert_eq!(answer.header("ratelimit").is_some(), limits == limited, "{path} {key}: {limits}");
        }
    }
}
