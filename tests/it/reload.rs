//! Files that change while the server runs: what is good is applied, what is not changes nothing and is reported.

use std::time::Duration;

use bearward::{App, Clock, Config, Hooks, Local};
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Gateway, Raw, Running, Upstream, answer_of, eventually, in_time, until};

async fn gateway(upstream: &Upstream) -> Running {
    Gateway::guarding(upstream)
        .key("ci", "permissions: [read]")
        .key("boss", "permissions: [admin]")
        // Tests ask again and again until a key is refused, or let in.
        .config("failed_attempts: off")
        .start()
        .await
}

/// Asks again until the answer has this status.
async fn until_status(gateway: &Running, key: &str, status: u16) {
    let asked = async || gateway.get("/v1/models", key).await.status == status;
    until(&format!("{status} for {key}"), asked).await;
}

fn without(gateway: &Running, key: &str) -> String {
    without_key(&std::fs::read_to_string(gateway.path("keys.yaml")).unwrap(), key)
}

fn without_key(text: &str, key: &str) -> String {
    let lines = text.lines().filter(|line| !line.contains(&format!("name: {key},")));
    lines.map(|line| format!("{line}\n")).collect()
}

#[tokio::test]
async fn a_revoked_key_is_refused_and_the_others_stay() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    assert_eq!(gateway.get("/v1/models", "ci").await.status, 200);
    gateway.rename_in("keys.yaml", &without(&gateway, "ci"));
    until_status(&gateway, "ci", 401).await;
    gateway.get("/v1/models", "ci").await.assert_denied(401, "INVALID_API_KEY");
    assert_eq!(gateway.get("/v1/models", "boss").await.status, 200);
}

#[tokio::test]
async fn a_bad_key_file_changes_nothing_and_is_reported_with_its_place() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let good = std::fs::read_to_string(gateway.path("keys.yaml")).unwrap();
    let metrics = async || gateway.admin("GET /metrics", "").await;
    assert!(String::from_utf8(metrics().await.body).unwrap().contains("reload_success{part=\"keys\"} 1"));
    for bad in ["", "keys:\n", "<html>\n", "keys: [", &good.replace("permissions", "permisions")] {
        std::fs::write(gateway.path("keys.yaml"), bad).unwrap();
        let reported = gateway.reload().await;
        reported.assert_denied(422, "RELOAD_REFUSED");
        let details = &reported.json()["error"]["details"];
        assert_eq!(
            (&details["keys"], &details["config"]),
            (&"refused".into(), &"unchanged".into()),
            "{details}"
        );
        let fault = &details["faults"][0];
        assert!(fault["file"].as_str().unwrap().ends_with("keys.yaml"), "{fault}");
        assert!(bad.is_empty() || fault["line"].as_u64().unwrap() > 0, "{fault}");
        assert!(!details.to_string().contains("sha256:"), "no message quotes a key file");
        assert_eq!(gateway.get("/v1/models", "ci").await.status, 200, "{bad}");
    }
    let text = String::from_utf8(metrics().await.body).unwrap();
    assert!(text.contains("reload_success{part=\"keys\"} 0"), "{text}");
    std::fs::remove_file(gateway.path("keys.yaml")).unwrap();
    gateway.reload().await.assert_denied(422, "RELOAD_REFUSED");
    assert_eq!(gateway.get("/v1/models", "ci").await.status, 200, "gone is no better");
    std::fs::write(gateway.path("keys.yaml"), &good).unwrap();
    let reported = gateway.reload().await;
    assert_eq!((reported.status, reported.json()["success"].as_bool()), (200, Some(true)));
    assert!(
        String::from_utf8(metrics().await.body).unwrap().contains("reload_success{part=\"keys\"} 1"),
        "it is reported that all is healthy again"
    );
}

#[tokio::test]
async fn a_file_that_is_being_written_is_not_taken_even_if_somebody_asks() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let whole = std::fs::read_to_string(gateway.path("keys.yaml")).unwrap();
    // All but the second key, and then a comment that grows and grows.
    let cut = without(&gateway, "boss");
    let path = gateway.path("keys.yaml");
    let writing = std::thread::spawn({
        let path = path.clone();
        move || {
            let until = std::time::Instant::now() + Duration::from_millis(2600);
            let mut text = cut;
            while std::time::Instant::now() < until {
                text.push_str("# more\n");
                std::fs::write(&path, &text).unwrap();
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    });
    let reported = gateway.reload().await;
    reported.assert_denied(422, "RELOAD_REFUSED");
    let fault = reported.json()["error"]["details"]["faults"][0].clone();
    assert!(fault["message"].as_str().unwrap().contains("is being written"), "{fault}");
    assert_eq!(gateway.get("/v1/models", "boss").await.status, 200);
    writing.join().unwrap();
    // Once it stands still, it is what it says.
    until_status(&gateway, "boss", 401).await;
    std::fs::write(&path, whole).unwrap();
    assert_eq!(gateway.reload().await.json()["data"]["keys"], "applied");
    assert_eq!(gateway.get("/v1/models", "boss").await.status, 200);
}

#[tokio::test]
async fn certificates_that_change_with_the_configuration_are_all_taken() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let issue = |name: &str| {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(path(&format!("{name}.crt")), made.cert.pem()).unwrap();
        std::fs::write(path(&format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
        made.cert.pem()
    };
    let token = bearward::Token::generate().unwrap();
    let hash = token.hash().to_stored();
    let key = format!("keys: [{{id: {}, hash: \"{hash}\", permissions: [admin]}}]\n", token.key_id());
    std::fs::write(path("keys.yaml"), key).unwrap();
    let write = |first: &str| {
        let tls = |name: &str| {
            format!(
                "{{certificate: {}, private_key: {}}}",
                path(&format!("{name}.crt")).display(),
                path(&format!("{name}.key")).display()
            )
        };
        let listeners = format!(
            "listeners: [{{address: 127.0.0.1:0, tls: {}}}, {{address: localhost:0, tls: {}}}]\n",
            tls(first),
            tls("second")
        );
        let rest = format!(
            "upstreams: [{{name: m, endpoints: [http://{}]}}]\nkeys: {{path: {}}}\nadmin: {{address: 127.0.0.1:0}}\n",
            upstream.address,
            path("keys.yaml").display()
        );
        std::fs::write(path("new.yaml"), listeners + &rest).unwrap();
        std::fs::rename(path("new.yaml"), path("bearward.yaml")).unwrap();
    };
    issue("first");
    issue("second");
    issue("other");
    write("first");
    let config = Config::load(&path("bearward.yaml")).unwrap_or_else(|faults| panic!("{faults}"));
    let app = App::bind(&config, Clock::system(), Hooks::default()).unwrap();
    let [Local::Tcp(_), Local::Tcp(second)] = app.addresses()[..] else { panic!() };
    let Some(Local::Tcp(admin)) = app.admin_address() else { panic!() };
    tokio::spawn(app.run(std::future::pending()));
    // The second listener's certificate changes, and the first one's place: one reload takes both.
    let renewed = issue("second");
    write("other");
    let mut raw = Raw::connect(admin).await;
    raw.send(format!(
        "POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n",
        token.reveal()
    ))
    .await;
    assert_eq!(raw.answer().await.json()["data"]["config"], "applied");
    // Trusted is the new certificate alone.
    let mut raw = Raw::connect_tls(second, &renewed, "http/1.1").await;
    raw.send(format!(
        "GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\r\n",
        token.reveal()
    ))
    .await;
    assert_eq!(raw.answer().await.status, 200);
}

#[tokio::test]
async fn what_is_no_file_is_not_even_opened() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let good = std::fs::read_to_string(gateway.path("keys.yaml")).unwrap();
    let replace = |make: &dyn Fn(&std::path::Path)| {
        make(&gateway.path("odd"));
        std::fs::rename(gateway.path("odd"), gateway.path("keys.yaml")).unwrap();
    };
    let pipe = |path: &std::path::Path| {
        assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    };
    let endless = |path: &std::path::Path| std::os::unix::fs::symlink("/dev/zero", path).unwrap();
    let huge = |path: &std::path::Path| {
        std::fs::File::create(path).unwrap().set_len(20 * 1024 * 1024 * 1024).unwrap()
    };
    for odd in [&pipe as &dyn Fn(&std::path::Path), &endless, &huge] {
        replace(odd);
        in_time("an answer", gateway.reload()).await.assert_denied(422, "RELOAD_REFUSED");
        assert_eq!(gateway.get("/v1/models", "ci").await.status, 200);
        // And what comes after it is taken.
        gateway.rename_in("keys.yaml", &without_key(&good, "ci"));
        until_status(&gateway, "ci", 401).await;
        gateway.rename_in("keys.yaml", &good);
        until_status(&gateway, "ci", 200).await;
    }
}

#[tokio::test]
async fn nor_is_a_pipe_that_a_new_configuration_names() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let pipe = gateway.path("pipe.yaml");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let good = std::fs::read_to_string(gateway.path("bearward.yaml")).unwrap();
    let keys = std::fs::read_to_string(gateway.path("keys.yaml")).unwrap();
    gateway.rename_in("bearward.yaml", &good.replace("keys.yaml", "pipe.yaml"));
    let reported = in_time("an answer", gateway.reload()).await;
    reported.assert_denied(422, "RELOAD_REFUSED");
    assert!(String::from_utf8_lossy(&reported.body).contains("not a regular file"), "{reported:?}");
    gateway.rename_in("bearward.yaml", &good);
    gateway.rename_in("keys.yaml", &without_key(&keys, "ci"));
    until_status(&gateway, "ci", 401).await;
}

#[tokio::test]
async fn reloads_that_are_asked_for_at_once_are_answered_at_once() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let started = std::time::Instant::now();
    let answers = futures_util::future::join_all((0..40).map(|_| gateway.reload())).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    // One after the other, they would take four seconds.
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test]
async fn limits_survive_a_reload() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read], rate_limits: [{requests: 2, per: 1h, burst: 2}]")
        .start()
        .await;
    gateway.get("/v1/models", "ci").await;
    // The key itself is changed, and stays who it is.
    let text = std::fs::read_to_string(gateway.path("keys.yaml")).unwrap();
    gateway.rename_in("keys.yaml", &text.replace("permissions: [read]", "permissions: [read, write]"));
    assert_eq!(gateway.reload().await.json()["data"]["keys"], "applied");
    let config = std::fs::read_to_string(gateway.path("bearward.yaml")).unwrap();
    gateway.rename_in("bearward.yaml", &(config + "limits: {uri_bytes: 4KiB}\n"));
    assert_eq!(gateway.reload().await.json()["data"]["config"], "applied");
    assert_eq!(
        gateway.get("/v1/models", "ci").await.header("ratelimit").unwrap(),
        "\"requests-1h\";r=0;t=3600"
    );
    gateway.get("/v1/models", "ci").await.assert_denied(429, "RATE_LIMIT_EXCEEDED");
}

#[tokio::test]
async fn a_configuration_is_reloaded_and_says_what_takes_a_restart() {
    let (one, two) =
        (Upstream::answering(answer_of("one")).await, Upstream::answering(answer_of("two")).await);
    let gateway = gateway(&one).await;
    assert_eq!(gateway.get("/v1/models", "ci").await.body, b"one");
    let config = std::fs::read_to_string(gateway.path("bearward.yaml")).unwrap();
    let changed = config
        .replace(&one.address.to_string(), &two.address.to_string())
        .replace("workers: 2", "workers: 3")
        .replace("address: 127.0.0.1:0}\nupstreams", "address: 127.0.0.1:1}\nupstreams");
    gateway.rename_in("bearward.yaml", &(changed + "log: {level: debug}\n"));
    // Nobody asks for it: the watch finds it.
    until("the other upstream answers", async || gateway.get("/v1/models", "ci").await.body == b"two").await;
    let reported = gateway.reload().await.json();
    assert_eq!(reported["data"]["config"], "unchanged");
    assert_eq!(reported["data"]["needs_restart"], serde_json::json!(["listeners", "workers", "log"]));
    gateway.rename_in("bearward.yaml", &(config.clone() + "limits: {uri_bytes: many}\n"));
    let reported = gateway.reload().await;
    reported.assert_denied(422, "RELOAD_REFUSED");
    assert_eq!(gateway.get("/v1/models", "ci").await.body, b"two");
    // Keys at a new place are read with the configuration that names it: bad ones refuse both.
    std::fs::write(gateway.path("other.yaml"), "keys: [").unwrap();
    gateway.rename_in("bearward.yaml", &config.replace("keys.yaml", "other.yaml"));
    gateway.reload().await.assert_denied(422, "RELOAD_REFUSED");
    assert_eq!(gateway.get("/v1/models", "ci").await.body, b"two");
    std::fs::write(gateway.path("other.yaml"), without(&gateway, "ci")).unwrap();
    assert_eq!(gateway.reload().await.json()["data"]["config"], "applied");
    gateway.get("/v1/models", "ci").await.assert_denied(401, "INVALID_API_KEY");
    assert_eq!(gateway.get("/v1/models", "boss").await.body, b"one");
    // And from now on they are watched there.
    std::fs::copy(gateway.path("keys.yaml"), gateway.path("new")).unwrap();
    std::fs::rename(gateway.path("new"), gateway.path("other.yaml")).unwrap();
    until_status(&gateway, "ci", 200).await;
}

#[tokio::test]
async fn upstreams_credential_is_reloaded_with_its_file() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "old").unwrap();
    let gateway = Gateway::guarding(&upstream)
        .upstream(&format!("credential: {{file: {}}}", secret.display()))
        .key("ci", "permissions: [read]")
        .start()
        .await;
    std::fs::write(&secret, "new").unwrap();
    assert_eq!(gateway.reload().await.json()["data"]["config"], "applied");
    gateway.get("/v1/models", "ci").await;
    assert_eq!(upstream.only_request().headers("authorization"), ["Bearer new"]);
}

#[tokio::test]
async fn a_change_takes_a_credential_and_reading_on_loopback_does_not() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let reload = async |credential: &str| gateway.admin("POST /api/v1/reload", credential).await;
    reload("").await.assert_denied(401, "MISSING_API_KEY");
    reload("the-admin-toke").await.assert_denied(401, "INVALID_API_KEY");
    reload(gateway.token("ci")).await.assert_denied(403, "INSUFFICIENT_PERMISSIONS");
    assert_eq!(reload(gateway.token("boss")).await.status, 200);
    assert_eq!(reload("the-admin-token").await.status, 200);
    std::fs::write(gateway.path("admin.token"), "\n").unwrap();
    reload("the-admin-token").await.assert_denied(401, "INVALID_API_KEY");
    for path in ["/metrics", "/livez", "/readyz", "/healthz"] {
        assert_eq!(gateway.admin(&format!("GET {path}"), "").await.status, 200, "{path}");
    }
    gateway.admin("GET /api/v1/reload", "").await.assert_denied(405, "METHOD_NOT_ALLOWED");
    gateway.admin("POST /nowhere", gateway.token("boss")).await.assert_denied(404, "ROUTE_NOT_FOUND");
}

#[tokio::test]
async fn off_loopback_everything_but_the_probes_takes_a_credential() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .key("boss", "permissions: [admin]")
        .admin_on("0.0.0.0:0")
        .start()
        .await;
    for path in ["/livez", "/readyz", "/healthz"] {
        assert_eq!(gateway.admin(&format!("GET {path}"), "").await.status, 200, "{path}");
    }
    for path in ["/metrics", "/", "/nowhere"] {
        gateway.admin(&format!("GET {path}"), "").await.assert_denied(401, "MISSING_API_KEY");
    }
    let metrics = async |credential: &str| gateway.admin("GET /metrics", credential).await;
    metrics(gateway.token("ci")).await.assert_denied(403, "INSUFFICIENT_PERMISSIONS");
    assert_eq!(metrics(gateway.token("boss")).await.status, 200);
    assert_eq!(metrics("the-admin-token").await.status, 200);
}

/// An upstream that begins to answer and then waits; at `/v1/models/head` it does not even begin.
async fn endless() -> Upstream {
    Upstream::acting(|request, mut stream| async move {
        if request.target() != "/v1/models/head" {
            let begun = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
            stream.write_all(begun).await.ok()?;
        }
        let _left = stream.read(&mut [0; 1]).await;
        None
    })
    .await
}

#[tokio::test]
async fn open_answers_end_with_their_key_where_that_is_wanted() {
    let upstream = endless().await;
    let gateway = Gateway::guarding(&upstream)
        .keys("cut_open_streams: true")
        .key("ci", "permissions: [read]")
        .key("boss", "permissions: [admin]")
        .start()
        .await;
    let get =
        |path: &str, key: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer(key));
    let open = async |key: &str| {
        let mut raw = gateway.raw().await;
        raw.send(get("/v1/models", key)).await;
        raw.head().await;
        raw.chunk().await.unwrap();
        raw
    };
    let (mut of_ci, mut of_boss) = (open("ci").await, open("boss").await);
    let mut waiting = gateway.raw().await;
    waiting.send(get("/v1/models/head", "ci")).await;
    let client = gateway.client(true);
    let h2 = client.get(gateway.url("/v1/models")).bearer_auth(gateway.token("ci")).send().await.unwrap();
    let mut h2 = h2.bytes_stream();
    h2.next().await.unwrap().unwrap();
    // A reload that leaves them alone is nothing to them.
    let text = std::fs::read_to_string(gateway.path("keys.yaml")).unwrap();
    gateway.rename_in("keys.yaml", &text.replace("permissions: [admin]", "permissions: [admin, read]"));
    assert_eq!(gateway.reload().await.json()["data"]["keys"], "applied");
    assert_eq!(upstream.open(), 4);
    gateway.rename_in("keys.yaml", &without(&gateway, "ci"));
    assert_eq!(gateway.reload().await.json()["data"]["keys"], "applied");
    assert!(in_time("cut", of_ci.chunk()).await.is_none());
    of_ci.assert_closed().await;
    waiting.answer().await.assert_denied(401, "INVALID_API_KEY");
    assert!(in_time("cut", h2.next()).await.unwrap().is_err(), "never a clean end");
    eventually("upstream is left by all but one", || upstream.open() == 1).await;
    assert!(tokio::time::timeout(Duration::from_millis(50), of_boss.chunk()).await.is_err(), "it goes on");
}

#[tokio::test]
async fn an_answer_that_nobody_reads_ends_with_its_key_too() {
    let flood = Upstream::acting(|_, mut stream| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n").await.ok()?;
        while stream.write_all(&[0; 65536]).await.is_ok() {}
        None
    })
    .await;
    let gateway = Gateway::guarding(&flood)
        .keys("cut_open_streams: true")
        .key("ci", "permissions: [read]")
        .key("boss", "permissions: [admin]")
        .start()
        .await;
    let mut raw = gateway.raw().await;
    raw.send(format!("GET /v1/models HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"))).await;
    raw.head().await;
    let h2 = gateway.client(true).get(gateway.url("/v1/models")).bearer_auth(gateway.token("ci"));
    let _unread = h2.send().await.unwrap();
    eventually("both are at upstream", || flood.open() == 2).await;
    gateway.rename_in("keys.yaml", &without(&gateway, "ci"));
    gateway.reload().await;
    eventually("upstream is left", || flood.open() == 0).await;
}

#[tokio::test]
async fn open_answers_outlive_their_key_where_that_is_not_wanted() {
    let upstream = endless().await;
    let gateway = gateway(&upstream).await;
    let mut raw = gateway.raw().await;
    raw.send(format!("GET /v1/models HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"))).await;
    raw.head().await;
    raw.chunk().await.unwrap();
    gateway.rename_in("keys.yaml", &without(&gateway, "ci"));
    gateway.reload().await;
    gateway.get("/v1/models", "ci").await.assert_denied(401, "INVALID_API_KEY");
    assert!(tokio::time::timeout(Duration::from_millis(50), raw.chunk()).await.is_err(), "it goes on");
}

#[tokio::test]
async fn sighup_reloads_and_the_log_says_what_was_wrong() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .config("log: {access: false}")
        .start_binary()
        .await;
    let keys = gateway.directory.path().join("keys.yaml");
    std::fs::write(&keys, "keys: [{id: key_a, hush: x}]\n").unwrap();
    gateway.signal("HUP");
    let reported = || {
        let events = gateway
            .log()
            .into_iter()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(&line).ok());
        events.filter(|event| event["part"] == "keys").collect::<Vec<_>>()
    };
    eventually("the refusal is logged", || reported().len() == 3).await;
    let answers = || {
        let events = gateway
            .log()
            .into_iter()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(&line).ok());
        let asked = events.filter(|event| event["by"] == "SIGHUP");
        asked.map(|event| event["message"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    eventually("the outcome is logged", || answers().len() == 1).await;
    assert!(
        answers()[0].starts_with("refused keys: ") && answers()[0].ends_with("and 2 more faults"),
        "{:?}",
        answers()
    );
    gateway.signal("HUP");
    eventually("each SIGHUP has an answer", || answers().len() == 2).await;
    assert_eq!(answers()[0], answers()[1], "the fault stands");
    std::fs::write(&keys, "keys: []\n").unwrap();
    gateway.signal("HUP");
    eventually("each SIGHUP has an answer", || answers().len() == 3).await;
    gateway.signal("HUP");
    eventually("each SIGHUP has an answer", || answers().len() == 4).await;
    assert_eq!(answers()[3], "reloaded: nothing changed");
    std::fs::write(&keys, "keys: [{id: key_a, hush: x}]\n").unwrap();
    gateway.signal("HUP");
    eventually("each SIGHUP has an answer", || answers().len() == 5).await;
    let unknown = reported().into_iter().find(|event| event["fault"] == "unknown field in a key").unwrap();
    assert_eq!((unknown["line"].as_u64(), unknown["column"].as_u64()), (Some(1), Some(20)), "{unknown}");
    assert!(unknown["hint"].as_str().unwrap().contains("hash"));
    assert_eq!(gateway.get("/v1/models", "ci").await.status, 401, "it has no entry any more");
    let mut raw = Raw::connect(gateway.admin.unwrap()).await;
    raw.send("GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(raw.answer().await.status, 200, "readiness stays");
}
