//! The binary as people use it: what it prints, where, and what it exits with.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tokio::io::AsyncWriteExt;

use crate::harness::{Gateway, Raw, Upstream, answer_of, eventually, in_time};

fn bearward(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bearward"));
    command.args(arguments).env_remove("BEARWARD_CONFIG").stdin(Stdio::null()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn every_fault_of_a_configuration_comes_in_one_run_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bearward.yaml");
    std::fs::write(&path, "listners: []\nlisteners:\n  - address: nowhere\nupstreams:\n  - name: m\n    endpoints: [http://127.0.0.1:1/path]\nkeys: {path: \"${BEARWARD_TEST_UNSET}\"}\nlimits: {uri_bytes: 10 apples}\n").unwrap();
    for command in [["run", "--config"], ["check", "--config"]] {
        let output = bearward(&[command[0], command[1], path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(78));
        let said = stderr(&output);
        let named = format!("{}:", path.display());
        let lines: Vec<_> = said.lines().filter(|line| line.contains(&named)).collect();
        assert_eq!(lines.len(), 5, "{said}");
        let place = |line: usize| format!("{named}{line}:");
        for (said, line) in lines.iter().zip([1, 3, 6, 7, 8]) {
            assert!(said.contains(&place(line)), "{said}");
        }
        assert!(
            said.contains("1 | listners:\nbearward:   | ^\nbearward:   = did you mean `listeners`?"),
            "{said}"
        );
        assert!(lines[3].contains("BEARWARD_TEST_UNSET"), "{said}");
    }
    let output = bearward(&["check", "--json", "--config", path.to_str().unwrap()]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((report["ok"].as_bool(), report["faults"].as_array().unwrap().len()), (Some(false), 5));
}

#[test]
fn without_keys_nothing_starts() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys.yaml");
    let run = || {
        bearward(&[
            "run",
            "--upstream",
            "http://127.0.0.1:1",
            "--keys",
            keys.to_str().unwrap(),
            "--listen",
            "127.0.0.1:0",
        ])
    };
    let missing = run();
    assert_eq!(missing.status.code(), Some(78));
    assert!(stderr(&missing).contains("bearward keys create"), "{}", stderr(&missing));
    for content in ["", "keys:\n", "keys: [{id: key_a}]\n"] {
        std::fs::write(&keys, content).unwrap();
        assert_eq!(run().status.code(), Some(78), "{content:?}");
    }
    assert_eq!(bearward(&["run", "--upstream", "http://127.0.0.1:1"]).status.code(), Some(2));
    assert_eq!(bearward(&["nonsense"]).status.code(), Some(2));
    assert_eq!(bearward(&["run", "--config", "/nowhere/bearward.yaml"]).status.code(), Some(78));
}

#[test]
fn an_admin_token_that_is_none_is_a_fault() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let token = bearward::Token::generate().unwrap();
    let key =
        format!("{{id: {}, hash: \"{}\", permissions: [read]}}", token.key_id(), token.hash().to_stored());
    std::fs::write(path("keys.yaml"), format!("keys: [{key}]\n")).unwrap();
    let config = format!(
        "listeners: [{{address: 127.0.0.1:0}}]\nupstreams: [{{name: m, endpoints: [http://127.0.0.1:1]}}]\nkeys: {{path: {}}}\nadmin: {{token_file: {}}}\n",
        path("keys.yaml").display(),
        path("token").display()
    );
    std::fs::write(path("bearward.yaml"), config).unwrap();
    let check = || bearward(&["check", "--config", path("bearward.yaml").to_str().unwrap()]);
    assert_eq!(check().status.code(), Some(78));
    std::fs::write(path("token"), " \n").unwrap();
    assert!(stderr(&check()).contains("the admin token is empty"));
    std::fs::write(path("token"), "something\n").unwrap();
    assert_eq!(check().status.code(), Some(0));
}

#[test]
fn versions_and_hashes() {
    let version = stdout(&bearward(&["version"]));
    assert_eq!(version.trim(), format!("bearward {}", env!("CARGO_PKG_VERSION")));
    let mut child = Command::new(env!("CARGO_BIN_EXE_bearward"))
        .args(["keys", "hash"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"abc\n").unwrap();
    let hash = stdout(&child.wait_with_output().unwrap());
    assert_eq!(hash.trim(), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

#[tokio::test]
async fn a_key_is_made_and_opens_the_door() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys.yaml");
    let keys = keys.to_str().unwrap();
    let create = |arguments: &[&str]| {
        let mut all = vec!["keys", "create", "--keys", keys];
        all.extend(arguments);
        bearward(&all)
    };
    let first = create(&[
        "--name",
        "ci",
        "--permissions",
        "read,write",
        "--expires-in",
        "90d",
        "--rate",
        "600/1m",
        "--environment",
        "production",
        "--max-concurrent",
        "4",
    ]);
    assert_eq!(first.status.code(), Some(0), "{}", stderr(&first));
    let token = stdout(&first).trim().to_owned();
    assert_eq!(stdout(&first).lines().count(), 1, "the secret, alone");
    assert!(!stderr(&first).contains(&token));
    let file = std::fs::read_to_string(keys).unwrap();
    assert!(!file.contains(&token[15..]), "the file holds a hash alone");
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(keys).unwrap().permissions()) & 0o777,
        0o600
    );

    // A second one leaves what people wrote as it is.
    std::fs::write(keys, format!("# ours\n{file}")).unwrap();
    let second = create(&["--permissions", "admin"]);
    assert_eq!(second.status.code(), Some(0), "{}", stderr(&second));
    let grown = std::fs::read_to_string(keys).unwrap();
    assert!(grown.starts_with(&format!("# ours\n{file}")), "{grown}");
    // A name that is taken, and a wrong rate, change nothing.
    assert_eq!(create(&["--name", "ci", "--permissions", "read"]).status.code(), Some(1));
    assert_eq!(create(&["--permissions", "read", "--rate", "many"]).status.code(), Some(2));
    assert_eq!(create(&["--permissions", "read_only"]).status.code(), Some(2));
    assert_eq!(std::fs::read_to_string(keys).unwrap(), grown);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing temporary is left");

    // And a binary that is run without a configuration lets the key in.
    let upstream = Upstream::answering(answer_of("hi")).await;
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap()
    };
    let mut child = Command::new(env!("CARGO_BIN_EXE_bearward"))
        .args([
            "run",
            "--upstream",
            &format!("http://{}", upstream.address),
            "--keys",
            keys,
            "--listen",
            &port.to_string(),
        ])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    in_time("the server listens", async {
        while tokio::net::TcpStream::connect(port).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    let mut raw = Raw::connect(port).await;
    raw.send(format!("GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n")).await;
    let answer = raw.answer().await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!((answer.status, answer.header("ratelimit-policy")), (200, Some("\"requests-1m\";q=600;w=60")));
}

#[test]
fn twenty_keys_at_once_are_twenty_keys() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys.yaml");
    let children: Vec<_> = (0..20)
        .map(|_| {
            Command::new(env!("CARGO_BIN_EXE_bearward"))
                .args(["keys", "create", "--permissions", "read", "--keys", keys.to_str().unwrap()])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(std::fs::read_to_string(&keys).unwrap().matches("- id: key_").count(), 20);
}

#[tokio::test]
async fn sigterm_finishes_what_is_in_flight_and_takes_nothing_new() {
    let upstream = Upstream::acting(|request, mut stream| async move {
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
            .await
            .ok()?;
        // The rest comes only when the test has sent the signal.
        let go = request.header("x-go").unwrap().to_owned();
        while !Path::new(&go).exists() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        stream.write_all(b"4\r\nbye!\r\n0\r\n\r\n").await.ok()?;
        Some(stream)
    })
    .await;
    let mut gateway = Gateway::guarding(&upstream).key("ci", "permissions: [read]").start_binary().await;
    let admin = gateway.admin.unwrap();
    let probe = async |path: &str| {
        let mut raw = Raw::connect(admin).await;
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        raw.answer().await
    };
    assert_eq!(probe("/livez").await.status, 200);
    assert_eq!(probe("/readyz").await.status, 200);
    probe("/nowhere").await.assert_denied(404, "ROUTE_NOT_FOUND");
    let go = gateway.directory.path().join("go");
    let request = format!(
        "GET /v1/models HTTP/1.1\r\nHost: a\r\n{}x-go: {}\r\n\r\n",
        gateway.bearer("ci"),
        go.display()
    );
    let mut streaming = gateway.raw().await;
    streaming.send(&request).await;
    streaming.head().await;
    streaming.chunk().await.unwrap();
    let mut idle = gateway.raw().await;
    idle.send(format!("GET /nowhere HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"))).await;
    assert_eq!(idle.answer().await.status, 404);
    gateway.signal("TERM");
    eventually("it says that it stops", || gateway.log().iter().any(|line| line.contains("stopping"))).await;
    probe("/readyz").await.assert_denied(503, "SHUTTING_DOWN");
    assert_eq!(probe("/livez").await.status, 200);
    in_time("the listener is gone", async {
        while tokio::net::TcpStream::connect(gateway.address).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    // A connection that is in use outlasts one that is not, and ends with its answer.
    idle.assert_closed().await;
    std::fs::write(&go, "").unwrap();
    assert_eq!(streaming.chunk().await.unwrap(), b"bye!");
    assert!(streaming.chunk().await.is_none());
    let ended = std::time::Instant::now();
    streaming.assert_closed().await;
    assert!(ended.elapsed() < std::time::Duration::from_millis(250), "{:?}", ended.elapsed());
    assert_eq!(gateway.exit_code(), Some(0), "{:?}", gateway.log());
}

#[tokio::test]
async fn what_outlasts_the_drain_timeout_is_cut() {
    let upstream = Upstream::acting(|_, mut stream| async move {
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
            .await
            .ok()?;
        std::future::pending::<()>().await;
        None
    })
    .await;
    let mut gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .config("limits: {drain_timeout: 200ms}")
        .start_binary()
        .await;
    let mut streaming = gateway.raw().await;
    streaming.send(format!("GET /v1/models HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"))).await;
    streaming.head().await;
    gateway.signal("TERM");
    assert_eq!(gateway.exit_code(), Some(1));
}

#[tokio::test]
async fn a_requested_reload_reports_its_outcome() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream).key("ci", "permissions: [read]").start_binary().await;
    let path = |name: &str| gateway.directory.path().join(name).to_str().unwrap().to_owned();
    let admin = gateway.admin.unwrap().to_string();
    let reload_with = |token: &str, more: &[&str]| {
        let token = path(token);
        let mut arguments = vec!["reload", "--admin", &admin, "--token-file", &token];
        arguments.extend(more);
        bearward(&arguments)
    };
    let reload = |more: &[&str]| reload_with("admin.token", more);
    let unchanged = reload(&[]);
    assert_eq!(unchanged.status.code(), Some(0), "{}", stderr(&unchanged));
    assert_eq!(
        stderr(&unchanged),
        "config: unchanged\nkeys: unchanged\ncertificates: unchanged\nidentities: unchanged\n"
    );
    std::fs::write(path("keys.yaml"), "keys: [{id: key_a}]\n").unwrap();
    let refused = reload(&[]);
    assert_eq!(refused.status.code(), Some(1));
    let said = stderr(&refused);
    assert!(said.contains("keys: refused\n"), "{said}");
    assert!(said.contains("keys.yaml:1:8: a key needs the field `hash`"), "{said}");
    let reported: serde_json::Value = serde_json::from_str(&stdout(&reload(&["--json"]))).unwrap();
    assert_eq!(reported["error"]["code"], "RELOAD_REFUSED");
    std::fs::write(path("other.token"), "wrong").unwrap();
    let denied = reload_with("other.token", &[]);
    assert_eq!(denied.status.code(), Some(1));
    assert!(stderr(&denied).contains("The provided API key is invalid"), "{}", stderr(&denied));
    // Without a token there is nothing to ask with, and it says so.
    let least = path("least.yaml");
    std::fs::write(&least, "listeners: [{address: 127.0.0.1:1}]\nupstreams: [{name: m, endpoints: [http://127.0.0.1:2]}]\nkeys: {path: k.yaml}\n").unwrap();
    let nameless = bearward(&["reload", "--config", &least]);
    assert!(stderr(&nameless).contains("admin.token_file"), "{}", stderr(&nameless));
}

#[tokio::test]
async fn clients_that_do_not_ask_hold_up_no_stop() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    for tls in [false, true] {
        let gateway = Gateway::guarding(&upstream).key("ci", "permissions: [read]");
        let gateway = if tls { gateway.tls() } else { gateway };
        let mut gateway = gateway.start_binary().await;
        // Silent from the start, silent in the midst of a head, and silent behind an answer.
        let _silent = Raw::connect(gateway.address).await;
        let mut half = gateway.raw().await;
        half.send("GET /v1/mod").await;
        let mut idle = gateway.raw().await;
        idle.send(format!("GET /v1/models HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"))).await;
        assert_eq!(idle.answer().await.status, 200);
        let started = std::time::Instant::now();
        gateway.signal("TERM");
        idle.assert_closed().await;
        assert_eq!(gateway.exit_code(), Some(0), "{:?}", gateway.log());
        assert!(started.elapsed() < std::time::Duration::from_secs(6), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn an_h2_client_gets_goaway_and_loses_nothing() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let mut gateway = Gateway::guarding(&upstream).key("ci", "permissions: [read]").start_binary().await;
    let stream = tokio::net::TcpStream::connect(gateway.address).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let uri = format!("http://{}/v1/models", gateway.address);
    let authorization = format!("Bearer {}", gateway.token("ci"));
    let mut answered = std::collections::VecDeque::new();
    let mut begun = 0;
    let mut served = 0;
    let mut arrives = async |answer| {
        let answer: Result<http::Response<h2::RecvStream>, h2::Error> = in_time("an answer", answer).await;
        match answer {
            Ok(answer) => {
                assert_eq!(answer.status(), 200);
                served += 1;
            }
            // The client had begun it, and had not sent it when GOAWAY came: the server says that it did nothing.
            Err(error) => assert!(error.is_go_away() && error.is_remote(), "{error:?}"),
        }
    };
    // Requests without a pause, until the server says that it is over.
    while let Ok(ready) = sender.clone().ready().await {
        sender = ready;
        let request = http::Request::get(&uri).header("authorization", &authorization).body(()).unwrap();
        let Ok((answer, _)) = sender.send_request(request, true) else { break };
        answered.push_back(answer);
        begun += 1;
        if begun == 200 {
            gateway.signal("TERM");
        }
        // Fewer at once than the server allows: what the client itself still holds back was never asked.
        if answered.len() > 100 {
            arrives(answered.pop_front().unwrap()).await;
        }
    }
    for answer in answered {
        arrives(answer).await;
    }
    in_time("the connection ends", connection).await.unwrap().unwrap();
    assert_eq!(upstream.requests().len(), served, "whatever was begun was answered");
    assert!(served >= 100, "all but those that were under way at the signal: {served}");
    assert_eq!(gateway.exit_code(), Some(0), "{:?}", gateway.log());
}
