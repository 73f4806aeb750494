//! The logs: what a stranger can make them hold, and what nobody can make them show.

use std::path::PathBuf;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::frames::{END_HEADERS, END_STREAM, Frames, HEADERS, WINDOW_UPDATE, block, frame};
use crate::harness::{Answer, Binary, Gateway, Raw, Upstream, answer_of, eventually, in_time};

/// A gateway as a process, whose access log and audit are files.
struct Logged {
    gateway: Binary,
    _directory: tempfile::TempDir,
    access: PathBuf,
    audit: PathBuf,
}

impl Logged {
    async fn start(gateway: Gateway, format: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (access, audit) = (directory.path().join("access.log"), directory.path().join("audit.log"));
        let config = format!(
            "log: {{format: {format}, access_to: {}, audit_to: {}}}",
            access.display(),
            audit.display()
        );
        let gateway = gateway.config(&config).start_binary().await;
        Logged { gateway, _directory: directory, access, audit }
    }

    /// Stops the process, and returns the two logs.
    fn ended(mut self) -> (String, String) {
        self.gateway.signal("TERM");
        assert_eq!(self.gateway.exit_code(), Some(0));
        (std::fs::read_to_string(self.access).unwrap(), std::fs::read_to_string(self.audit).unwrap())
    }
}

fn json(log: &str) -> Vec<Value> {
    log.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// Lines about requests, and how many more there were by those that count.
fn counted(log: &str) -> (usize, u64) {
    let lines = json(log);
    let (left_out, reported): (Vec<&Value>, Vec<&Value>) =
        lines.iter().partition(|line| line["message"] == "left_out" || line["event"] == "left_out");
    (reported.len(), left_out.iter().map(|line| line["lines"].as_u64().unwrap()).sum())
}

/// At most so many bytes of log for a byte that was sent.
const MOST: usize = 10;

fn assert_bounded(sent: usize, requests: usize, (access, audit): &(String, String)) {
    let logged = access.len() + audit.len();
    assert!(logged <= MOST * sent, "{logged} bytes of log for {sent} bytes sent");
    for log in [access, audit] {
        let (reported, more) = counted(log);
        assert_eq!(reported + usize::try_from(more).unwrap(), requests, "none is forgotten");
        assert!(reported > 0 && more > 0, "{reported} and {more}");
    }
}

#[tokio::test]
async fn clients_without_tls_at_a_listener_with_tls_are_told_of_once() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream).key("ci", "permissions: [read]").tls().start_binary().await;
    for _ in 0..3 {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        stream.write_all(b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _closed = in_time("the end", stream.read_to_end(&mut answer)).await;
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    }
    let told =
        || gateway.log().iter().filter(|line| line.contains("does its URL begin with https://?")).count();
    eventually("the warning", || told() == 1).await;
    assert_eq!(gateway.get("/v1/models", "ci").await.status, 200);
    assert_eq!(told(), 1, "{:?}", gateway.log());
}

#[tokio::test]
async fn refused_requests_with_long_paths_make_little_log() {
    const REQUESTS: usize = 1500;
    let upstream = Upstream::answering(answer_of("hi")).await;
    let logged = Logged::start(Gateway::guarding(&upstream).key("ci", "permissions: [read]"), "json").await;
    let path = format!("/{}", "x".repeat(4000));
    let mut sent = 0;
    for _ in 0..5 {
        let one = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        let stream = TcpStream::connect(logged.gateway.address).await.unwrap();
        let (read, mut write) = stream.into_split();
        let all = one.repeat(REQUESTS / 5);
        sent += all.len();
        let writing = tokio::spawn(async move {
            write.write_all(all.as_bytes()).await.unwrap();
            write
        });
        let mut answers = Raw::over_half(read);
        for _ in 0..REQUESTS / 5 {
            answers.answer().await.assert_denied(401, "MISSING_API_KEY");
        }
        drop(writing.await.unwrap());
    }
    let logs = logged.ended();
    assert_bounded(sent, REQUESTS, &logs);
    let first = &json(&logs.0)[0];
    let shown = first["path"].as_str().unwrap();
    assert!(shown.ends_with("…[4001 bytes]") && shown.len() < 300, "{shown}");
}

/// A request costs the client some ten bytes there: its path is an entry of the table (RFC 7541, section 6.1).
#[tokio::test]
async fn nor_do_those_whose_path_http2_sends_once() {
    const CONNECTIONS: usize = 5;
    const STREAMS: u32 = 600;
    let upstream = Upstream::answering(answer_of("hi")).await;
    let logged = Logged::start(Gateway::guarding(&upstream).key("ci", "permissions: [read]"), "json").await;
    let path = format!("/{}", "x".repeat(3900));
    let mut sent = 0;
    for _ in 0..CONNECTIONS {
        let mut frames = Frames::over(logged.gateway.raw().await, &[]).await;
        // GET and http are in the static table; the path and the authority go into the dynamic one.
        let rest = block(&[(":path", &path), (":authority", "a")]);
        let mut indexed = vec![0x82, 0x86];
        // `block` writes fields that are not indexed: the first octet of each says so, and 0x40 says the other.
        let second = block(&[(":path", &path)]).len();
        indexed.extend(rest.iter().enumerate().map(|(at, byte)| match at == 0 || at == second {
            true => 0x40,
            false => *byte,
        }));
        let window = frame(WINDOW_UPDATE, 0, 0, &(1u32 << 24).to_be_bytes());
        let first = [window, frame(HEADERS, END_STREAM | END_HEADERS, 1, &indexed)].concat();
        sent += first.len() + 33;
        frames.send(first).await;
        frames.end_of(1).await.unwrap();
        for batch in (1..STREAMS).collect::<Vec<u32>>().chunks(100) {
            // The last entry is 62, the one before it 63.
            let next = |number: &u32| {
                frame(HEADERS, END_STREAM | END_HEADERS, 2 * number + 1, &[0x82, 0x86, 0xbf, 0xbe])
            };
            let bytes: Vec<u8> = batch.iter().flat_map(next).collect();
            sent += bytes.len();
            frames.send(bytes).await;
            let mut ended = 0;
            while ended < batch.len() {
                let next = frames.next().await.expect("the connection goes on");
                ended += usize::from(next.stream > 0 && next.flags & END_STREAM != 0);
            }
        }
    }
    assert_bounded(sent, CONNECTIONS * usize::try_from(STREAMS).unwrap(), &logged.ended());
}

#[tokio::test]
async fn nor_do_many_addresses_and_what_was_left_out_is_counted_in_metrics() {
    const ADDRESSES: usize = 3000;
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .config("trusted_proxies: [127.0.0.0/8]");
    let logged = Logged::start(gateway, "json").await;
    let requests: String = (0..ADDRESSES)
        .map(|host| {
            format!(
                "GET /x HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.{}.{}\r\n\r\n",
                host / 250,
                host % 250
            )
        })
        .collect();
    let sent = requests.len();
    let stream = TcpStream::connect(logged.gateway.address).await.unwrap();
    let (read, mut write) = stream.into_split();
    let writing = tokio::spawn(async move {
        write.write_all(requests.as_bytes()).await.unwrap();
        write
    });
    let mut answers = Raw::over_half(read);
    for _ in 0..ADDRESSES {
        assert_eq!(answers.answer().await.status, 401);
    }
    drop(writing.await.unwrap());
    let mut admin = Raw::connect(logged.gateway.admin.unwrap()).await;
    admin.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let metrics = String::from_utf8(admin.answer().await.body).unwrap();
    drop(admin);
    let left_out = |log: &str| -> u64 {
        let name = format!("bearward_log_lines_left_out_total{{log=\"{log}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
    };
    assert!(left_out("access") >= 2000 && left_out("audit") >= 2000, "{metrics}");
    let logs = logged.ended();
    assert_bounded(sent, ADDRESSES, &logs);
    assert!(logs.0.contains("\"of\":\"other addresses\""), "{}", logs.0.len());
}

#[tokio::test]
async fn public_requests_are_counted_with_refusals_and_a_good_keys_lines_are_all_there() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .key("off", "permissions: [read], disabled: true")
        .config("routes: [{name: open, paths: [/open], public: true}, {name: all, paths: [/**], permission: write}]");
    let logged = Logged::start(gateway, "json").await;
    let gateway = &logged.gateway;
    let asks = async |path: &str, head: &str, times: usize| -> Vec<Answer> {
        let mut raw = gateway.raw().await;
        let mut answers = Vec::new();
        for _ in 0..times {
            raw.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{head}\r\n")).await;
            answers.push(raw.answer().await);
        }
        answers
    };
    assert!(asks("/open", "", 50).await.iter().all(|answer| answer.status == 200));
    // It has a secret of a key, and opens nothing: no good key's, but counted apart from its address.
    assert!(asks("/off", &gateway.bearer("off"), 50).await.iter().all(|answer| answer.status == 401));
    assert!(asks("/mine", &gateway.bearer("ci"), 60).await.iter().all(|answer| answer.status == 403));
    let mut admin = Raw::connect(gateway.admin.unwrap()).await;
    for (number, credential) in
        ["the-admin-token", "wrong"].iter().flat_map(|credential| (0..30).map(move |n| (n, credential)))
    {
        admin
            .send(format!(
                "POST /api/v1/nothing/{number} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {credential}\r\nContent-Length: 0\r\n\r\n"
            ))
            .await;
        assert!(matches!(admin.answer().await.status, 401 | 404 | 429));
    }
    drop(admin);
    let (access, audit) = logged.ended();
    let of = |log: &str, path: &str| {
        json(log).iter().filter(|line| line["path"].as_str().is_some_and(|of| of.starts_with(path))).count()
    };
    assert_eq!((of(&access, "/mine"), of(&audit, "/mine")), (60, 60));
    assert_eq!((of(&access, "/open"), of(&access, "/off"), of(&audit, "/off")), (20, 20, 20));
    // Whoever has the admin token is known; whoever guesses it is counted with the address's other refusals.
    assert_eq!(of(&audit, "/api/v1/nothing"), 30);
    assert_eq!((counted(&access).1, counted(&audit).1), (60, 60));
}

#[tokio::test]
async fn what_hides_or_reorders_text_is_escaped_in_both_forms() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let hidden = [
        '\u{85}', '\u{9b}', '\u{61c}', '\u{200b}', '\u{200e}', '\u{200f}', '\u{2028}', '\u{2029}',
        '\u{202a}', '\u{202e}', '\u{2066}', '\u{2069}', '\u{feff}',
    ];
    for format in ["json", "pretty"] {
        let gateway = Gateway::guarding(&upstream).key("ci", "permissions: [read]");
        let logged = Logged::start(gateway, format).await;
        for (number, hidden) in hidden.into_iter().enumerate() {
            // Refused before its path has a canonical form, since it has no Host, and where paths have none.
            let mut raw = logged.gateway.raw().await;
            raw.send(format!("GET /a{hidden}b HTTP/1.1\r\n\r\n")).await;
            assert_eq!(raw.answer().await.status, 400);
            if number >= 5 {
                // As many as one address has lines for.
                continue;
            }
            let mut admin = Raw::connect(logged.gateway.admin.unwrap()).await;
            let bearer = "Authorization: Bearer the-admin-token";
            admin.send(format!("GET /a{hidden}b HTTP/1.1\r\nHost: localhost\r\n{bearer}\r\n\r\n")).await;
            assert_eq!(admin.answer().await.status, 404);
        }
        let (access, audit) = logged.ended();
        assert!(access.lines().count() >= hidden.len() && audit.lines().count() >= hidden.len());
        assert!(access.contains("/a\\u") && audit.contains("/a\\u"), "the paths are there: {audit}");
        for hidden in hidden {
            assert!(!access.contains(hidden) && !audit.contains(hidden), "{format}: {hidden:?}");
        }
    }
}

#[tokio::test]
async fn whatever_a_stranger_chooses_is_short_in_lines_and_in_the_admin_api() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let logged = Logged::start(Gateway::guarding(&upstream).key("ci", "permissions: [read]"), "json").await;
    let long = "X".repeat(6000);
    let requests = [
        format!("{long} /a HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!("GET http://{long}/ HTTP/1.1\r\nHost: {long}\r\n\r\n"),
        format!("GET /b HTTP/1.1\r\nHost: {long}\r\nUser-Agent: {long}\r\nX-Request-Id: {long}\r\n\r\n"),
        format!("GET /c HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {long}\r\n\r\n"),
        format!("GET /d HTTP/1.1\r\nHost: a\r\nAuthorization: {long} {long}\r\n\r\n"),
        format!("GET /e HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {long}\r\n\r\n"),
        format!("GET /f HTTP/1.1\r\nHost: a\r\n{long}: x\r\nX-Forwarded-For: {long}\r\n\r\n"),
    ];
    for request in &requests {
        let mut raw = logged.gateway.raw().await;
        raw.send(request).await;
        assert!(raw.answer().await.status >= 400);
    }
    let address = logged.gateway.admin.unwrap();
    let asks = async |request: String| {
        let mut admin = Raw::connect(address).await;
        admin.send(request).await;
        admin.answer().await
    };
    asks(format!("POST /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
    asks(format!("GET /{long} HTTP/1.1\r\nHost: {}\r\n\r\n", &long[..2000])).await;
    let reported = asks("GET /api/v1/refusals HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned()).await.json();
    let reported = reported["data"].as_array().unwrap().clone();
    assert!(reported.len() >= requests.len(), "{}", reported.len());
    assert!(reported.iter().all(|refusal| refusal.to_string().len() < 2000), "{reported:?}");
    let (access, audit) = logged.ended();
    assert!(access.lines().count() >= requests.len() && audit.lines().count() >= requests.len() + 2);
    for line in access.lines().chain(audit.lines()) {
        assert!(line.len() < 1400, "{} bytes: {line}", line.len());
    }
}

/// What is left out is counted while the process runs, too, and the next window is its own.
#[tokio::test]
async fn the_count_comes_when_the_window_ends() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let logged = Logged::start(Gateway::guarding(&upstream).key("ci", "permissions: [read]"), "json").await;
    let flood = async || {
        let mut raw = logged.gateway.raw().await;
        for _ in 0..40 {
            raw.send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await;
            raw.answer().await.assert_denied(401, "MISSING_API_KEY");
        }
    };
    flood().await;
    let log = || std::fs::read_to_string(&logged.access).unwrap();
    in_time("a count", eventually("the count", || log().contains("\"message\":\"left_out\""))).await;
    let counts = json(&log());
    let count = counts.last().unwrap();
    assert_eq!(
        (count["of"].as_str(), count["client"].as_str(), count["lines"].as_u64()),
        (Some("127.0.0.1"), Some("127.0.0.1"), Some(20))
    );
    assert!((10..=12).contains(&count["seconds"].as_u64().unwrap()), "{count}");
    flood().await;
    eventually("lines again", || counted(&log()).0 == 40).await;
}
