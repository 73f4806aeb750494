//! The model guard: which models a key may use, wherever a request names its model.

use serde_json::json;

use crate::harness::{Gateway, Running, Upstream, answer_of, eventually, until};

const ROUTES: &str = "routes:
  - {name: chat, paths: [/v1/chat/completions], permission: read, model_in: body}
  - {name: audio, paths: [/v1/audio/transcriptions], permission: read, model_in: form}
  - {name: infer, paths: ['/v2/models/{model}/infer'], permission: read, model_in: path}
  - {name: realtime, paths: [/v1/realtime], permission: read, model_in: query}
  - {name: models, paths: [/v1/models, '/v1/models/**'], permission: read, model_in: list}
  - {name: free, paths: [/v1/free], permission: read, models_free: true}
  - {name: other, paths: [/v1/other], permission: read}";

async fn gateway() -> (Upstream, Running) {
    let upstream = Upstream::answering(answer_of("{}")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("few", "permissions: [read], models: ['llama-3*', '!*-70b']")
        .key("but", "permissions: [read], models: ['!secret*']")
        .key("all", "permissions: [read]")
        .config(ROUTES)
        .start()
        .await;
    (upstream, gateway)
}

async fn post(gateway: &Running, key: &str, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
    let answer = gateway
        .client(false)
        .post(gateway.url(path))
        .header("authorization", format!("Bearer {}", gateway.token(key)))
        .header("content-type", kind)
        .body(body.to_vec())
        .send()
        .await
        .unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

fn code(answer: &(u16, String)) -> (u16, String) {
    let body: serde_json::Value = serde_json::from_str(&answer.1).unwrap();
    (answer.0, body["error"]["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_key_uses_its_models_alone_wherever_a_request_names_them() {
    let (upstream, gateway) = gateway().await;
    let chat = async |key: &str, body: &str| {
        code(&post(&gateway, key, "/v1/chat/completions", "application/json", body.as_bytes()).await)
    };
    let not_allowed = (403, "MODEL_NOT_ALLOWED".to_owned());
    let allowed = (200, String::new());
    assert_eq!(chat("few", r#"{"model": "llama-3-8b"}"#).await, allowed);
    assert_eq!(chat("few", r#"{"model": "llama-3-70b"}"#).await, not_allowed);
    assert_eq!(chat("few", r#"{"model": "LLAMA-3-8b"}"#).await, not_allowed);
    assert_eq!(chat("few", r#"{"model": null, "x": 1}"#).await, (400, "BAD_REQUEST".to_owned()));
    assert_eq!(chat("few", "{}").await, not_allowed);
    assert_eq!(chat("but", r#"{"model": "anything"}"#).await, allowed);
    assert_eq!(chat("but", r#"{"model": "SECRET-1"}"#).await, not_allowed, "`!` ignores case");
    assert_eq!(chat("but", "{}").await, not_allowed);
    for body in [r#"{"model": "x"}"#, "{}", "no json", r#"{"model": 1}"#] {
        assert_eq!(chat("all", body).await, allowed, "{body}");
    }
    let answer =
        post(&gateway, "few", "/v1/chat/completions", "application/json", br#"{"model": "b"}"#).await;
    let body: serde_json::Value = serde_json::from_str(&answer.1).unwrap();
    assert_eq!(body["error"]["details"], json!({"model": "b", "allowed": ["llama-3*", "!*-70b"]}));
    assert_eq!(body["error"]["message"], "The API key may not use this model");

    for (path, status) in [
        ("/v2/models/llama-3/infer", 200),
        ("/v2/models/llama%2D3/infer", 200),
        ("/v2/models/gpt/infer", 403),
        ("/v1/free", 200),
        ("/v1/other", 403),
        ("/v1/realtime?model=llama-3", 200),
        ("/v1/realtime?model=gpt", 403),
        ("/v1/realtime?model=llama-3&model=gpt", 400),
        ("/v1/realtime?model=llama-3&Model=gpt", 400),
        ("/v1/realtime", 403),
        ("/v1/models/llama-3", 200),
        ("/v1/models/meta/gpt", 403),
    ] {
        assert_eq!(gateway.get(path, "few").await.status, status, "{path}");
        assert_eq!(gateway.get(path, "all").await.status, 200, "{path}");
    }
    assert!(upstream.requests().iter().all(|request| request.header("authorization").is_none()));
}

/// Bodies that servers read in different ways, or that name no model that a key may use.
#[tokio::test]
async fn nothing_is_let_in_that_a_lenient_server_would_read_otherwise() {
    let (upstream, gateway) = gateway().await;
    let text = |body: &str| body.as_bytes().to_vec();
    let utf16 = |body: &str| body.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let good = r#"{"model":"llama-3"}"#;
    let deep = format!("{{\"x\":{}{},\"model\":\"llama-3\"}}", "[".repeat(200), "]".repeat(200));
    let bodies = [
        text(r#"{"model":"llama-3","model":"gpt"}"#),
        text(r#"{"model":"gpt","model":"llama-3"}"#),
        text(r#"{"model":"llama-3","model":"llama-3"}"#),
        text(r#"{"model":"llama-3","\u006dodel":"gpt"}"#),
        text(r#"{"model":"llama-3","Model":"gpt"}"#),
        text(r#"{"model":"llama-3","MODEL":"gpt"}"#),
        text(r#"{"MODEL":"llama-3"}"#),
        text("{\"model\":\"llama-3\",\"model\\u0000\":\"gpt\"}"),
        text(r#"{"model":"llama-3"}{"model":"gpt"}"#),
        text(r#"{"model":"llama-3"} x"#),
        text(r#"{"model":"llama-3"},"#),
        text(r#"{"model":"llama-3",}"#),
        text(r#"{"model":"llama-3""#),
        text(r#"{'model':'llama-3'}"#),
        text(r#"{model:"llama-3"}"#),
        text("/* {\"model\":\"llama-3\"} */ {\"model\":\"gpt\"}"),
        text("// x\n{\"model\":\"llama-3\"}"),
        text("{\"model\":\"llama-3\",\"t\":NaN}"),
        text("{\"model\":\"llama-3\",\"t\":Infinity}"),
        text("{\"model\":\"llama-3\",\"t\":01}"),
        text("{\"model\":\"llama-3\",\"t\":+1}"),
        text("{\"model\":\"llama-3\",\"t\":1.}"),
        text("{\"model\":\"llama-3\",\"t\":0x1}"),
        text("{\"model\":\"llama-3\",\"t\":tru}"),
        text("{\"model\":\"llama-3\" \"t\":1}"),
        text("{\"model\":\"llama-3\",\"t\":\"a\nb\"}"),
        text("{\"model\":\"llama-3\",\"t\":\"\\x41\"}"),
        text("{\"model\":\"llama-3\u{0}\"}"),
        text(r#"{"model":"llama-3\u0000gpt"}"#),
        text(r#"{"model":"llama-3 "}"#),
        text(r#"{"model":" llama-3"}"#),
        text("{\"model\":\"llama-3\\n\"}"),
        text(r#"{"model":"llama-3\ud800"}"#),
        text(r#"{"model":["llama-3"]}"#),
        text(r#"{"model":{"name":"llama-3"}}"#),
        text(r#"{"model":3}"#),
        text(r#"{"model":true}"#),
        text(r#"{"model":""}"#),
        text(r#"[{"model":"llama-3"}]"#),
        text(r#""model""#),
        text("null"),
        text(""),
        text(r#"{"x":{"model":"llama-3"}}"#),
        text(r#"{"model":"llama-3","lora_path":"other"}"#),
        text(r#"{"model":"llama-3","parameters":{"adapter_id":"other"}}"#),
        text(r#"{"model":"llama-3","fallbacks":[{"model":"gpt"}]}"#),
        text(r#"{"model":"llama-3","tools":[{"type":"advisor","model":"gpt"}]}"#),
        text(r#"{"model":"llama-3","models":["gpt"]}"#),
        text(r#"{"model":"llama-3","instances":[{"model":"gpt"}]}"#),
        text(r#"{"model\ud800":"llama-3"}"#),
        [&[0xef, 0xbb, 0xbf], good.as_bytes()].concat(),
        utf16(good),
        [&[0xff, 0xfe][..], &utf16(good)].concat(),
        [good.as_bytes(), &[0xff]].concat(),
        [b"{\"model\":\"llama-3\",\"t\":\"", &[0xc3, 0x28][..], b"\"}"].concat(),
        [b"{\"model\":\"llama-3\",\"t\":\"", &[0xc0, 0xae][..], b"\"}"].concat(),
        [b"{\"model\":\"llama-3\",\"t\":\"", &[0xed, 0xa0, 0x80][..], b"\"}"].concat(),
        text(&deep),
        text(&format!("{{\"model\":\"llama-3{}\"}}", "x".repeat(300))),
        [format!("{{\"t\":\"{}\",", "x".repeat(10 << 20)).as_bytes(), b"\"model\":\"llama-3\"}"].concat(),
    ];
    assert!(bodies.len() >= 56);
    for body in &bodies {
        let answer = post(&gateway, "few", "/v1/chat/completions", "application/json", body).await;
        assert!(
            matches!(answer.0, 400 | 403),
            "{} {}",
            String::from_utf8_lossy(&body[..body.len().min(80)]),
            answer.1
        );
    }
    for (name, value) in [
        ("content-encoding", "gzip"),
        ("content-type", "application/json; charset=utf-16"),
        ("content-type", "application/json; charset=latin1"),
    ] {
        let answer = gateway.client(false).post(gateway.url("/v1/chat/completions"));
        let answer = answer
            .header("authorization", format!("Bearer {}", gateway.token("few")))
            .header(name, value)
            .body(good);
        assert_eq!(answer.send().await.unwrap().status(), 400, "{name}: {value}");
    }
    let in_query =
        post(&gateway, "few", "/v1/chat/completions?model=gpt", "application/json", good.as_bytes()).await;
    assert_eq!(in_query.0, 400);
    assert_eq!(upstream.requests().len(), 0);
    let with_space =
        post(&gateway, "few", "/v1/chat/completions", "application/json", b" {\"model\" : \"llama-3\"} \r\n");
    assert_eq!(with_space.await.0, 200);
}

#[tokio::test]
async fn a_body_that_names_another_model_behind_its_prelude_is_never_forwarded_whole() {
    let (upstream, gateway) = gateway().await;
    let long = "x".repeat(300_000);
    for ending in [",\"model\":\"gpt\"}", ",\"Model\":\"gpt\"}", "} x", "", "}{\"model\":\"gpt\"}"] {
        let body = format!("{{\"model\":\"llama-3\",\"t\":\"{long}\"{ending}");
        upstream.forget();
        let answer = post(&gateway, "few", "/v1/chat/completions", "application/json", body.as_bytes()).await;
        assert_eq!(code(&answer), (400, "BAD_REQUEST".to_owned()), "{ending}");
        for request in upstream.requests() {
            assert!(!request.is_complete, "{ending}: the whole body arrived");
        }
    }
    let body = format!("{{\"model\":\"llama-3\",\"t\":\"{long}\"}}");
    upstream.forget();
    let answer = post(&gateway, "few", "/v1/chat/completions", "application/json", body.as_bytes()).await;
    assert_eq!(answer.0, 200);
    let whole: Vec<_> = upstream.requests().into_iter().filter(|request| request.is_complete).collect();
    assert_eq!(whole.len(), 1);
    assert_eq!(whole[0].body, body.as_bytes(), "not a byte is changed");
}

#[tokio::test]
async fn a_form_names_its_model_in_exactly_one_field() {
    let (upstream, gateway) = gateway().await;
    let part =
        |head: &str, body: &str| format!("--B\r\nContent-Disposition: form-data; {head}\r\n\r\n{body}\r\n");
    let (model, file) =
        (part("name=\"model\"", "llama-3"), part("name=\"file\"; filename=\"a.wav\"", "RIFF"));
    let send = async |body: String, kind: &str| {
        post(&gateway, "few", "/v1/audio/transcriptions", kind, body.as_bytes()).await.0
    };
    let kind = "multipart/form-data; boundary=B";
    assert_eq!(send(format!("{model}{file}--B--\r\n"), kind).await, 200);
    assert_eq!(send(format!("{file}{model}--B--"), kind).await, 200);
    let spaced = part("name=\"file\"; filename=\" a (1).wav \"", "RIFF");
    assert_eq!(send(format!("{spaced}{model}--B--"), kind).await, 200);
    let other = part("name=\"model\"", "gpt");
    for (body, kind) in [
        (format!("{other}{file}--B--\r\n"), kind),
        (format!("{model}{other}--B--\r\n"), kind),
        (format!("{model}{model}--B--\r\n"), kind),
        (format!("{model}{}--B--\r\n", part("name=\"Model\"", "gpt")), kind),
        (format!("{model}{}--B--\r\n", part("name=model", "gpt")), kind),
        (format!("{}{file}--B--\r\n", part("name=\"model\"; filename=\"x\"", "llama-3")), kind),
        (format!("{}--B--\r\n", part("name=\"x\"; name=\"model\"", "llama-3")), kind),
        (format!("{}--B--\r\n", part("name*=utf-8''model; name=\"x\"", "llama-3")), kind),
        (format!("{}{model}--B--\r\n", part("name=\"x\"; name*0=\"mod\"; name*1=\"el\"", "gpt")), kind),
        (format!("{}{model}--B--\r\n", part("name=<model>", "gpt")), kind),
        // Servers disagree on white space around `=`, and on quotes behind it.
        (format!("{model}{}--B--\r\n", part("name= \"model\"", "gpt")), kind),
        (format!("{model}{}--B--\r\n", part("name=\t\"model\"", "gpt")), kind),
        (format!("{model}{}--B--\r\n", part("name = \"model\"", "gpt")), kind),
        (format!("{model}{}--B--\r\n", part("NAME= \"model\"", "gpt")), kind),
        (format!("{model}{}--B--\r\n", part("name=\"x\"; name =\"model\"", "gpt")), kind),
        (format!("{model}{}--B--\r\n", part("name=x\"model\"", "gpt")), kind),
        (format!("{model}{}--B--\r\n", part("filename= \"a\"; name=\"x\"", "gpt")), kind),
        (format!("{model}--B--\r\n"), "multipart/form-data; boundary= B"),
        (format!("{model}--B--\r\n"), "multipart/form-data; boundary= \"B\""),
        (format!("{model}--B--\r\n"), "multipart/form-data; boundary =B"),
        (format!("{model}--B--\r\n"), "multipart/form-data; boundary=B ; x=y"),
        (format!("{model}--B--\r\n"), "multipart/form-data; boundary=B; boundary*0=C"),
        (format!("{model}--B--\r\n"), "multipart/form-data; boundary*=utf-8''B"),
        (format!("{model}--B--\r\n"), "multipart/form-data; boundary=B; charset*0=utf-7"),
        (format!("{model}--B--\r\nmore"), kind),
        (format!("preamble\r\n{model}--B--\r\n"), kind),
        (model.clone(), kind),
        (model.replace("\r\n", "\n") + "--B--\n", kind),
        (format!("{model}{file}--B--\r\n"), "multipart/form-data; boundary=C"),
        (format!("{model}{file}--B--\r\n"), "multipart/form-data; boundary=B; boundary=C"),
        (format!("{model}{file}--B--\r\n"), "multipart/mixed; boundary=B"),
        ("model=llama-3".to_owned(), "application/x-www-form-urlencoded"),
        (r#"{"model":"llama-3"}"#.to_owned(), "application/json"),
        (format!("{file}--B--\r\n"), kind),
        (
            format!(
                "{}{model}--B--\r\n",
                part("name=\"x\"", "a\n--B\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\ngpt")
            ),
            kind,
        ),
        (format!("{}{model}--B--\r\n", part("name=\"x\"", "a\r--B\r\n")), kind),
        (format!("{}{model}--B--\r\n", part("name=\"x\"", "--B\r\n")), kind),
        (format!("{}{model}--B--\r\n", part("name=\"x\"", "").repeat(1001)), kind),
    ] {
        let status = send(body.clone(), kind).await;
        assert!(matches!(status, 400 | 403), "{status} {kind}: {body}");
    }
    assert_eq!(upstream.requests().len(), 3);
}

#[tokio::test]
async fn a_model_selects_the_route() {
    let small =
        Upstream::answering(answer_of(r#"{"object":"list","data":[{"id":"small"},{"id":"big"}]}"#)).await;
    let big = Upstream::answering(answer_of("{}")).await;
    let gateway = Gateway::guarding(&small)
        .key("few", "permissions: [read], models: [big]")
        .key("all", "permissions: [read]")
        .config(
            "routes:
  - {name: big, paths: [/v1/chat/completions], permission: read, model_in: body, models: ['big*'], upstream: big}
  - {name: small, paths: [/v1/chat/completions], permission: read, model_in: body, models: [small]}
  - {name: models, paths: [/v1/models], permission: read, model_in: list}"
        )
        .more_upstreams(&format!("  - {{name: big, endpoints: [\"http://{}\"]}}", big.address))
        .start()
        .await;
    let chat = async |key: &str, body: &str| {
        let answer = post(&gateway, key, "/v1/chat/completions", "application/json", body.as_bytes()).await;
        (answer.0, small.requests().len(), big.requests().len())
    };
    assert_eq!(chat("all", r#"{"model":"big-2"}"#).await, (200, 0, 1));
    assert_eq!(chat("all", r#"{"model":"small"}"#).await, (200, 1, 1));
    assert_eq!(chat("all", r#"{"model":"none"}"#).await, (404, 1, 1));
    assert_eq!(chat("all", "{}").await, (404, 1, 1));
    assert_eq!(chat("all", r#"{"model":"small","model":"big"}"#).await, (400, 1, 1));
    assert_eq!(chat("few", r#"{"model":"small"}"#).await, (403, 1, 1));
    assert_eq!(chat("few", r#"{"model":"big"}"#).await, (200, 1, 2));
}

/// Two servers with a model each: both lists are one, and each model is listed by its own server.
#[tokio::test]
async fn lists_of_several_upstreams_are_joined() {
    let list = |ids: &[&str]| {
        let ids: Vec<String> = ids.iter().map(|id| format!("{{\"id\":\"{id}\"}}")).collect();
        answer_of(&format!("{{\"object\":\"list\",\"data\":[{}]}}", ids.join(",")))
    };
    let small = Upstream::answering(list(&["small", "big-1"])).await;
    let big = Upstream::answering(list(&["big-1", "big-2", "small"])).await;
    let start = async |big: &str| {
        Gateway::guarding(&small)
            .key("few", "permissions: [read], models: [big-2], max_concurrent: 1")
            .key("all", "permissions: [read]")
            .config(
                "routes:
  - {name: big, paths: [/v1/chat/completions], permission: read, model_in: body, models: ['big*'], upstream: big}
  - {name: small, paths: [/v1/chat/completions], permission: read, model_in: body}
  - {name: models, paths: [/v1/models], permission: read, model_in: list}",
            )
            .more_upstreams(&format!("  - {{name: big, endpoints: [\"{big}\"], retries: 0}}"))
            .start()
            .await
    };
    let gateway = start(&format!("http://{}", big.address)).await;
    let listed = async |gateway: &Running, key: &str| {
        let answer = gateway.get("/v1/models", key).await;
        let partial = answer.header("x-bearward-partial").map(str::to_owned);
        (answer.status, String::from_utf8(answer.body).unwrap(), partial)
    };
    let all = "{\"object\":\"list\",\"data\":[{\"id\":\"small\"},{\"id\":\"big-1\"},{\"id\":\"big-2\"}]}";
    assert_eq!(listed(&gateway, "all").await, (200, all.to_owned(), None));
    let few = "{\"object\":\"list\",\"data\":[{\"id\":\"big-2\"}]}";
    for _ in 0..3 {
        assert_eq!(
            listed(&gateway, "few").await,
            (200, few.to_owned(), None),
            "a part takes no place of the key"
        );
    }
    assert!(big.requests().iter().all(|request| request.header("authorization").is_none()));
    let without = start("http://127.0.0.1:1").await;
    let only = "{\"object\":\"list\",\"data\":[{\"id\":\"small\"}]}";
    assert_eq!(listed(&without, "all").await, (200, only.to_owned(), Some("big".to_owned())));
}

#[tokio::test]
async fn a_joined_list_without_room_for_its_parts_costs_nothing() {
    let upstream = Upstream::answering(answer_of("{\"object\":\"list\",\"data\":[]}")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("few", "permissions: [read], rate_limits: [{requests: 60, per: 1h, burst: 2}]")
        .config(
            "limits: {in_flight: 1}
routes:
  - {name: big, paths: [/v1/chat/completions], permission: read, model_in: body, models: ['big*'], upstream: big}
  - {name: models, paths: [/v1/models], permission: read, model_in: list}
  - {name: all, paths: ['/**'], permission: read}",
        )
        .more_upstreams(&format!("  - {{name: big, endpoints: [\"http://{}\"]}}", upstream.address))
        .start()
        .await;
    for _ in 0..4 {
        gateway.get("/v1/models", "few").await.assert_denied(503, "OVERLOADED");
    }
    let others = [200, 200, 429].map(|status| (status, gateway.get("/x", "few")));
    for (status, answer) in others {
        assert_eq!(answer.await.status, status);
    }
}

#[tokio::test]
async fn a_request_whose_body_is_waited_for_is_in_flight() {
    let upstream = Upstream::answering(answer_of("{}")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("few", "permissions: [read], models: ['llama-3*'], max_concurrent: 1")
        .config(ROUTES)
        .start()
        .await;
    let body = r#"{"model": "llama-3-8b"}"#;
    let head = |length: usize| {
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\ncontent-length: {length}\r\n\r\n",
            gateway.token("few")
        )
    };
    let mut slow = gateway.raw().await;
    slow.send(format!("{}{}", head(body.len()), &body[..10])).await;
    let in_flight = async || {
        let status = gateway.admin("GET /api/v1/keys", "Bearer the-admin-token").await.json();
        status.to_string().contains(r#""in_flight":1"#)
    };
    until("the first request is in flight", in_flight).await;
    let refused = gateway.sends(format!("{}{body}", head(body.len()))).await;
    refused.assert_denied(429, "CONCURRENCY_LIMIT_EXCEEDED");
    slow.send(&body[10..]).await;
    assert_eq!(slow.answer().await.status, 200);
    assert_eq!(gateway.sends(format!("{}{body}", head(body.len()))).await.status, 200);
    // A request that is refused for its model gives its place back.
    let other = r#"{"model": "gpt"}"#;
    for _ in 0..3 {
        gateway.sends(format!("{}{other}", head(other.len()))).await.assert_denied(403, "MODEL_NOT_ALLOWED");
    }
}

/// Routes of one path, of which one reads the model in the body, and the other in the query.
#[tokio::test]
async fn a_request_that_could_name_two_models_is_refused() {
    let upstream = Upstream::answering(answer_of("{}")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("all", "permissions: [read]")
        .key("few", "permissions: [read], models: ['a']")
        .config(
            "routes:
  - {name: a, paths: [/v1/x], permission: read, model_in: body, models: [a]}
  - {name: b, paths: [/v1/x], permission: read, model_in: query}
  - {name: c, paths: ['/v1/y;*'], permission: read, models_free: true}
  - {name: d, paths: [/v1/y], permission: read, model_in: body}",
        )
        .upstream("accept_in_path: [semicolon]")
        .start()
        .await;
    for key in ["all", "few"] {
        let answer = post(&gateway, key, "/v1/x?model=b", "application/json", br#"{"model": "a"}"#).await;
        assert_eq!(code(&answer), (400, "BAD_REQUEST".to_owned()));
    }
    // Some servers read this path without its parameters.
    let answer = post(&gateway, "few", "/v1/y;free", "application/json", br#"{"model": "b"}"#).await;
    assert_eq!(code(&answer), (400, "BAD_REQUEST".to_owned()));
    assert_eq!(upstream.requests().len(), 0);
    assert_eq!(post(&gateway, "all", "/v1/y;free", "application/json", b"{}").await.0, 200);
}

/// A model that is refused is in the log, in the audit log and among the refusals of the status.
#[tokio::test]
async fn a_refused_model_is_shown() {
    let upstream = Upstream::answering(answer_of("{}")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("few", "permissions: [read], models: ['llama-3*']")
        .config(ROUTES)
        .start_binary()
        .await;
    let answer = gateway.post("/v1/chat/completions", "few", "{\"model\": \"gp\\u202et\"}").await;
    answer.assert_denied(403, "MODEL_NOT_ALLOWED");
    let lines = |message: &str| -> Vec<serde_json::Value> {
        let all = gateway.log();
        let parsed = all.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        parsed.filter(|line| line["message"] == message && line["code"] == "MODEL_NOT_ALLOWED").collect()
    };
    eventually("a line of each log", || lines("request").len() + lines("audit").len() == 2).await;
    for message in ["request", "audit"] {
        assert_eq!(lines(message)[0]["model"], "gp\u{202e}t", "{message}");
    }
}

/// Some servers take a body for a query if its type is that of a form. `curl -d` sends this type with
/// any body.
#[tokio::test]
async fn a_body_of_json_that_is_a_query_as_well_names_no_other_model() {
    let (_upstream, gateway) = gateway().await;
    let send = async |body: &str, kind: &str| {
        post(&gateway, "few", "/v1/chat/completions", kind, body.as_bytes()).await.0
    };
    let query = "application/x-www-form-urlencoded";
    assert_eq!(send(r#"{"model":"llama-3","messages":[]}"#, query).await, 200);
    for name in ["model", "mod%65l", "model[]"] {
        let body = format!(r#"{{"model":"llama-3","user":"&{name}=secret&x="}}"#);
        assert_eq!(send(&body, query).await, 400, "{name}");
        assert_eq!(send(&body, "application/json").await, 200, "{name}");
    }
}

#[tokio::test]
async fn a_model_in_ollamas_cloud_is_allowed_by_its_own_name_alone() {
    let upstream = Upstream::answering(answer_of("{}")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("here", "permissions: [read], models: ['gpt-oss:120b', 'llama3']")
        .key("cloud", "permissions: [read], models: ['gpt-oss:120b-cloud']")
        .key("but", "permissions: [read], models: ['!gpt-oss:120b']")
        .config("routes: ollama")
        .start()
        .await;
    for (key, model, status) in [
        ("here", "gpt-oss:120b", 200),
        ("here", "llama3:latest", 200),
        ("here", "gpt-oss:120b-cloud", 403),
        ("here", "gpt-oss:120b:cloud", 403),
        ("here", "GPT-OSS:120B-CLOUD", 403),
        ("here", "llama3:cloud", 403),
        ("but", "gpt-oss: 120b", 403),
        ("but", "x://registry.ollama.ai/library/gpt-oss:120b", 403),
        ("but", "gpt-oss:20b", 200),
        ("here", "registry.ollama.ai/library/llama3-cloud:latest", 403),
        ("cloud", "gpt-oss:120b-cloud", 200),
        ("cloud", "gpt-oss:120b", 403),
        ("but", "gpt-oss:120b-cloud", 403),
    ] {
        let body = format!(r#"{{"model":"{model}"}}"#);
        assert_eq!(gateway.post("/api/chat", key, &body).await.status, status, "{key} {model}");
    }
}

#[tokio::test]
async fn a_token_that_is_sent_as_a_model_is_masked_wherever_models_are_shown() {
    let upstream = Upstream::answering(answer_of("{}")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .config(&format!("{ROUTES}\nlog: {{format: json}}"))
        .start_binary()
        .await;
    let token = gateway.token("ci").to_owned();
    let body = json!({"model": token}).to_string();
    for path in ["/v1/chat/completions", "/v1/nowhere"] {
        gateway.post(path, "ci", &body).await;
    }
    gateway.get(&format!("/v1/realtime?model={token}"), "ci").await;
    eventually("all lines are there", || gateway.access_lines().len() == 3).await;
    let secret = token.split('_').nth(2).unwrap();
    let shown = gateway.access_lines().iter().filter(|line| line["model"].is_string()).count();
    assert!(shown >= 2 && !gateway.log().concat().contains(secret), "{:?}", gateway.log());
    let admin = gateway.admin.unwrap();
    for path in ["/metrics", "/api/v1/status"] {
        let asked = gateway.client(false).get(format!("http://{admin}{path}")).send().await.unwrap();
        let answer = asked.text().await.unwrap();
        assert!(!answer.is_empty() && !answer.contains(secret), "{path}: {answer}");
    }
}
