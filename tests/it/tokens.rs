//! Token limits: what a request reserves, and what it pays in the end.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::harness::{Door, Gateway, Running, Upstream, bearward, eventually, until};

const ROUTES: &str = "routes:
  - {name: chat, paths: ['/v1/**', '/api/**'], permission: read, model_in: body}";
const SSE: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

fn json_answer(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// An answer in chunks of `size` bytes.
fn chunked(body: &str, size: usize) -> String {
    let chunks: String = body
        .as_bytes()
        .chunks(size)
        .map(|chunk| format!("{:x}\r\n{}\r\n", chunk.len(), String::from_utf8_lossy(chunk)))
        .collect();
    format!("{SSE}{chunks}0\r\n\r\n")
}

async fn gateway(upstream: &Upstream, limits: &str) -> Running {
    Gateway::guarding(upstream)
        .key("ci", &format!("permissions: [read], rate_limits: [{limits}]"))
        .config(ROUTES)
        .start()
        .await
}

async fn post(gateway: &Running, path: &str, body: &Value) -> reqwest::Response {
    let request = gateway
        .client(false)
        .post(gateway.url(path))
        .header("authorization", format!("Bearer {}", gateway.token("ci")));
    request.json(body).send().await.unwrap()
}

/// Tokens that would be granted now.
async fn remaining(gateway: &Running) -> i64 {
    let list = gateway.admin("GET /api/v1/keys", "Bearer the-admin-token").await.json();
    let keys = list.pointer("/data/keys").or(list.pointer("/keys")).cloned().unwrap_or_default();
    let key = keys.as_array().unwrap().iter().find(|key| key["name"] == "ci").unwrap().clone();
    key["limits"]["rate_limits"][0]["remaining"].as_i64().unwrap()
}

#[tokio::test]
async fn what_was_reserved_and_not_used_comes_back() {
    let usage = r#"{"usage":{"prompt_tokens":20,"completion_tokens":30,"prompt_tokens_details":{"cached_tokens":5}}}"#;
    let upstream = Upstream::answering(json_answer(usage)).await;
    let gateway = gateway(&upstream, "{tokens: 1000, per: 1d}").await;
    let answer =
        post(&gateway, "/v1/chat/completions", &json!({"model": "m", "max_tokens": 400, "prompt": "x"}))
            .await;
    assert_eq!(answer.status(), 200);
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("ratelimit-policy"), "\"tokens-1d\";q=1000;w=86400;qu=\"tokens\"");
    assert_eq!(header("x-ratelimit-limit-tokens"), "1000");
    let reserved = header("x-ratelimit-remaining-tokens").parse::<i64>().unwrap();
    assert!((595..600).contains(&reserved), "{reserved}: 400 of output, and the text");
    answer.text().await.unwrap();
    assert_eq!(remaining(&gateway).await, 950);
    let lines = async || remaining(&gateway).await;
    let refused = post(&gateway, "/v1/chat/completions", &json!({"model": "m", "max_tokens": 960})).await;
    assert_eq!(refused.status(), 429);
    let body: Value = refused.json().await.unwrap();
    assert_eq!(body["error"]["details"]["policy"], "tokens-1d");
    assert_eq!(lines().await, 950, "a refusal takes nothing");
}

#[tokio::test]
async fn input_that_no_wait_would_let_in_is_refused_at_once() {
    let upstream = Upstream::answering(json_answer("{}")).await;
    let gateway = gateway(&upstream, "{input_tokens: 100, per: 1m}").await;
    let answer =
        post(&gateway, "/v1/chat/completions", &json!({"prompt": "x".repeat(1000), "max_tokens": 1})).await;
    assert_eq!(answer.status(), 400);
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["error"]["code"], "TOKENS_EXCEED_LIMIT");
    assert_eq!(
        body["error"]["details"],
        json!({"policy": "input-tokens-1m", "limit": 100, "estimated": 250})
    );
    let image =
        json!({"content": [{"image_url": {"url": format!("data:image/png;base64,{}", "A".repeat(1000))}}]});
    let answer = post(&gateway, "/v1/chat/completions", &image).await;
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["error"]["details"]["estimated"], 1000, "an image counts `media_tokens`");
}

/// Each answer, the body of its request, and the tokens that were used: input, output, and by what.
#[tokio::test]
async fn the_usage_of_every_server_is_found() {
    let sse = |events: &[&str]| {
        chunked(&events.iter().map(|event| format!("data: {event}\n\n")).collect::<String>(), 4096)
    };
    let ndjson = |lines: &str| {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ncontent-length: {}\r\n\r\n{lines}",
            lines.len()
        )
    };
    let delta = r#"{"choices":[{"delta":{"content":"a"}}]}"#;
    let cases: &[(&str, String, i64)] = &[
        (
            "chat",
            json_answer(
                r#"{"choices":[{"message":{"content":"\"usage\":{\"prompt_tokens\":900}"}}],"usage":{"prompt_tokens":7,"completion_tokens":3}}"#,
            ),
            10,
        ),
        (
            "embeddings",
            json_answer(&format!(
                r#"{{"data":[{{"embedding":[{}1]}}],"usage":{{"prompt_tokens":8,"total_tokens":8}}}}"#,
                "0.25,".repeat(5000)
            )),
            8,
        ),
        (
            "responses",
            json_answer(
                r#"{"usage":{"input_tokens":6,"input_tokens_details":{"cached_tokens":2},"output_tokens":4}}"#,
            ),
            10,
        ),
        (
            "messages",
            json_answer(
                r#"{"usage":{"input_tokens":6,"cache_creation_input_tokens":10,"cache_read_input_tokens":20,"output_tokens":4}}"#,
            ),
            40,
        ),
        (
            "ollama",
            ndjson(
                "{\"response\":\"a\",\"done\":false}\n{\"done\":true,\"prompt_eval_count\":11,\"eval_count\":2}\n",
            ),
            13,
        ),
        (
            "llama.cpp",
            json_answer(r#"{"content":"a","timings":{"cache_n":3,"prompt_n":17,"predicted_n":8}}"#),
            28,
        ),
        (
            "sglang",
            json_answer(
                r#"[{"meta_info":{"prompt_tokens":5,"completion_tokens":6}},{"meta_info":{"prompt_tokens":1,"completion_tokens":2}}]"#,
            ),
            14,
        ),
        ("tgi", json_answer(r#"{"details":{"generated_tokens":9,"prefill":[{"id":1},{"id":2}]}}"#), 11),
        (
            "stream",
            sse(&[
                delta,
                delta,
                r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}"#,
                "[DONE]",
            ]),
            7,
        ),
        (
            "usage in each chunk",
            sse(&[
                r#"{"choices":[{}],"usage":{"prompt_tokens":5,"completion_tokens":1}}"#,
                r#"{"choices":[{}],"usage":{"prompt_tokens":5,"completion_tokens":2}}"#,
            ]),
            7,
        ),
        (
            "anthropic stream",
            sse(&[
                r#"{"type":"message_start","message":{"usage":{"input_tokens":9,"output_tokens":1}}}"#,
                r#"{"type":"content_block_delta","delta":{"text":"x"}}"#,
                r#"{"type":"message_delta","usage":{"output_tokens":4}  }"#,
            ]),
            13,
        ),
        (
            "responses stream",
            sse(&[
                r#"{"type":"response.created","response":{"usage":null}}"#,
                &format!(
                    r#"{{"type":"response.completed","response":{{"output":"{}","usage":{{"input_tokens":3,"output_tokens":5}}}}}}"#,
                    "x".repeat(100_000)
                ),
            ]),
            8,
        ),
        (
            "llama.cpp stream",
            sse(&[
                delta,
                r#"{"choices":[{"finish_reason":"stop"}],"timings":{"cache_n":0,"prompt_n":4,"predicted_n":1}}"#,
            ]),
            5,
        ),
        (
            "tgi stream",
            sse(&[
                r#"{"index":1,"token":{"text":"a"},"details":null}"#,
                r#"{"token":{"text":"b"},"details":{"generated_tokens":2,"input_length":3}}"#,
            ]),
            5,
        ),
    ];
    let probabilities = format!("[{}[-0.5,1,null]]", "[-0.25,42,\"a\"],".repeat(2000));
    let info = format!(
        r#"{{"output_token_logprobs":{probabilities},"prompt_tokens":3,"completion_tokens":4,"e2e":1.5}}"#
    );
    let details = format!(r#"{{"tokens":{probabilities},"generated_tokens":4,"prefill":[{{}},{{}},{{}}]}}"#);
    let long = [
        ("sglang with probabilities", json_answer(&format!(r#"{{"text":"a","meta_info":{info}}}"#)), 7),
        ("sglang stream with probabilities", sse(&[&format!(r#"{{"text":"a","meta_info":{info}}}"#)]), 7),
        ("tgi with probabilities", json_answer(&format!(r#"{{"details":{details},"x":"a"}}"#)), 7),
        (
            "a long list",
            json_answer(&format!(
                "[{}{{}}]",
                r#"{"timings":{"prompt_n":0,"predicted_n":1},"tokens_predicted":1},"#.repeat(9900)
            )),
            9900,
        ),
    ];
    for (name, answer, used) in cases.iter().chain(&long) {
        let upstream = Upstream::answering(answer.clone()).await;
        let gateway = gateway(&upstream, "{tokens: 10k, per: 1d}").await;
        let answer = post(&gateway, "/v1/x", &json!({"model": "m", "max_tokens": 100})).await;
        answer.bytes().await.unwrap();
        assert_eq!(10_000 - remaining(&gateway).await, *used, "{name}");
    }
}

#[tokio::test]
async fn answers_without_usage_are_counted_or_estimated_and_failures_are_free() {
    let sse = |events: &str| chunked(events, 4096);
    let error = |usage: &str| {
        let body = format!("{{\"error\":\"x\"{usage}}}");
        format!(
            "HTTP/1.1 500 No\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let role = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
    let word = ": ping\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\r\n\r\n";
    let end = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    let cases = [
        ("a stream is counted", sse(&format!("{role}{}{end}", word.repeat(5))), 5),
        ("chunks of one byte", chunked(&format!("{role}{}{end}", word.repeat(5)), 1), 5),
        (
            "plain JSON in place of a stream",
            json_answer("{\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":1}}"),
            3,
        ),
        ("a 500 is free", error(""), 0),
        ("a 500 with usage is not", error(",\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":0}"), 4),
        ("an answer that says nothing", json_answer("{\"text\":\"a\"}"), 100),
        // As llama.cpp answers who picks these members.
        ("an input without an output", json_answer("{\"content\":\"a\",\"tokens_evaluated\":5}"), 100),
        ("an answer without a body", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned(), 100),
        (
            "a stream that ends in an error",
            sse(&format!(
                "data: {{\"message\":{{\"usage\":{{\"input_tokens\":0,\"output_tokens\":1}}}}}}\n\n{}event: error\ndata: {{\"error\":{{}}}}\n\n",
                word.repeat(5)
            )),
            5,
        ),
        (
            "a usage without output",
            sse(&format!("{}data: {{\"usage\":{{\"prompt_tokens\":0}}}}\n\n", word.repeat(5))),
            5,
        ),
        (
            "a usage before the words",
            sse(&format!(
                "data: {{\"usage\":{{\"prompt_tokens\":0,\"completion_tokens\":1}}}}\n\n{}",
                "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n".repeat(4)
            )),
            4,
        ),
        (
            "several answers in one stream",
            sse(
                "data: {\"index\":0,\"meta_info\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\ndata: {\"index\":1,\"meta_info\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\n",
            ),
            10,
        ),
    ];
    for (name, answer, used) in cases {
        let upstream = Upstream::answering(answer).await;
        let gateway = gateway(&upstream, "{tokens: 10k, per: 1d}").await;
        let answer = post(&gateway, "/v1/x", &json!({"max_tokens": 100, "stream": true})).await;
        answer.bytes().await.unwrap();
        // The request has no text, so that its input is estimated as nothing.
        assert_eq!(10_000 - remaining(&gateway).await, used, "{name}");
    }
    let nowhere = Gateway::at("http://127.0.0.1:1")
        .key("ci", "permissions: [read], rate_limits: [{tokens: 10k, per: 1d}]")
        .config(ROUTES)
        .start()
        .await;
    assert_eq!(post(&nowhere, "/v1/x", &json!({"max_tokens": 100})).await.status(), 502);
    assert_eq!(remaining(&nowhere).await, 10_000);
}

#[tokio::test]
async fn a_stream_is_asked_for_its_usage_and_the_client_sees_nothing_of_it() {
    let plain = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n: x\n\ndata: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    let asked = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n: x\n\ndata: {\"usage\": null, \"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\ndata: [DONE]\n\n";
    for size in [1, 2, 3, 7, 64, 100_000] {
        let upstream = Upstream::answering(chunked(asked, size)).await;
        let gateway = gateway(&upstream, "{tokens: 10k, per: 1d}").await;
        let body = "{\"model\":\"m\",\"stream\":true,\"max_tokens\":50}";
        let answer = gateway.post("/v1/chat/completions", "ci", body).await;
        assert_eq!(String::from_utf8(answer.body).unwrap(), plain, "in chunks of {size}");
        let sent = String::from_utf8(upstream.only_request().body).unwrap();
        assert_eq!(sent, format!("{{\"stream_options\":{{\"include_usage\":true}},{}", &body[1..]));
        assert_eq!(10_000 - remaining(&gateway).await, 4);
    }
    // Who declines the usage is asked for nothing, and bearward still learns it.
    for (options, sent) in [
        ("null", r#"{"include_usage":true}"#),
        ("{}", r#"{"include_usage":true}"#),
        (r#"{"include_usage":false}"#, r#"{"include_usage":true}"#),
        (r#"{ "include_usage": null }"#, r#"{ "include_usage": true }"#),
        (
            r#"{"include_usage":false,"continuous_usage_stats":true}"#,
            r#"{"include_usage":true,"continuous_usage_stats":true}"#,
        ),
        (r#"{"continuous_usage_stats":false}"#, r#"{"include_usage":true,"continuous_usage_stats":false}"#),
    ] {
        let upstream = Upstream::answering(chunked(asked, 4096)).await;
        let gateway = gateway(&upstream, "{tokens: 10k, per: 1d}").await;
        let body = |options: &str| format!(r#"{{"stream":true,"stream_options":{options},"max_tokens":50}}"#);
        let answer = gateway.post("/v1/chat/completions", "ci", &body(options)).await;
        assert_eq!(String::from_utf8(answer.body).unwrap(), plain, "{options}");
        assert_eq!(String::from_utf8(upstream.only_request().body).unwrap(), body(sent));
        assert_eq!(10_000 - remaining(&gateway).await, 4);
    }
    // Words in the answer, nested members, and events that are too long to keep.
    let word = |more: &str| {
        format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"usage\"}},\"usage\":null}}]{more}}}\n\n")
    };
    let long =
        format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n", "x".repeat(70_000));
    let last = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":\"3\",\"completion_tokens\":1.0}}\n\n";
    for size in [1000, 70_042, 70_043, 70_044, 70_045, 70_046, 1_000_000] {
        let answer = chunked(&format!("{}{long}{last}data: [DONE]\n\n", word(",\"usage\":null")), size);
        let upstream = Upstream::answering(answer).await;
        let gateway = gateway(&upstream, "{tokens: 10k, per: 1d}").await;
        let answer = gateway.post("/v1/chat/completions", "ci", "{\"stream\":true}").await;
        let seen = format!("{}{long}data: [DONE]\n\n", word(""));
        assert!(answer.body == seen.as_bytes(), "in chunks of {size}");
    }
    // Who asks by itself, or does not stream, gets what the upstream sends.
    for body in [
        r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
        r#"{"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":false}}"#,
        r#"{"stream":false}"#,
        r#"{"x":1}"#,
    ] {
        let upstream = Upstream::answering(chunked(asked, 4096)).await;
        let gateway = gateway(&upstream, "{tokens: 10k, per: 1d}").await;
        let answer = gateway.post("/v1/chat/completions", "ci", body).await;
        assert_eq!(String::from_utf8(answer.body).unwrap(), asked, "{body}");
        assert_eq!(upstream.only_request().body, body.as_bytes());
    }
}

/// llama.cpp leaves out of its answer what the client does not ask for: the counts, too.
#[tokio::test]
async fn who_picks_the_members_of_an_answer_is_refused_under_a_token_limit() {
    let upstream = Upstream::answering(json_answer("{}")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read], rate_limits: [{tokens: 1M, per: 1d, burst: 1M}]")
        .key("free", "permissions: [read]")
        .config("routes: llama-cpp")
        .start()
        .await;
    let late = format!("{{\"prompt\":\"{}\",\"response_fields\":[]}}", "x".repeat(200_000));
    for path in ["/completion", "/completions", "/infill"] {
        for body in [
            r#"{"prompt":"a","response_fields":["content"]}"#,
            r#"{"response_fields":null}"#,
            r#"{"Response_Fields":["content"]}"#,
            "\u{feff}{\"response_fields\":[\"content\"]}",
            &late,
        ] {
            let refused = gateway.post(path, "ci", body).await;
            refused.assert_denied(400, "BAD_REQUEST");
            assert_eq!(refused.json()["error"]["details"]["field"], "response_fields");
            assert_eq!(gateway.post(path, "free", body).await.status, 200);
        }
        assert_eq!(gateway.post(path, "ci", r#"{"prompt":"response_fields"}"#).await.status, 200);
    }
}

/// Without its usage, the tokens of a stream are only counted by its events.
#[tokio::test]
async fn whether_a_stream_has_its_usage_is_certain_where_tokens_are_limited() {
    let upstream = Upstream::answering(chunked("data: [DONE]\n\n", 4096)).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read], rate_limits: [{tokens: 1M, per: 1d, burst: 1M}]")
        .key("free", "permissions: [read]")
        .config(ROUTES)
        .start()
        .await;
    let post = async |key: &str, body: &str| gateway.post("/v1/chat/completions", key, body).await;
    for body in [
        r#"{"stream":"true"}"#,
        r#"{"stream":1}"#,
        r#"{"stream":true,"stream":true}"#,
        r#"{"Stream":true}"#,
        r#"{"stream":true,"stream_options":[]}"#,
        r#"{"stream":true,"stream_options":"x"}"#,
        r#"{"stream":true,"Stream_Options":null}"#,
        r#"{"stream":true,"stream_options":{"include_usage":false},"stream_options":null}"#,
        r#"{"stream":true,"stream_options":{"include_usage":true},"stream_options":null}"#,
        r#"{"stream":true,"stream_options":{"include_usage":true,"include_usage":false}}"#,
        r#"{"stream":true,"stream_options":{"include_usage":"false"}}"#,
        r#"{"stream":true,"stream_options":{"include_usage":0}}"#,
        r#"{"stream":true,"stream_options":{"include_usage":[]}}"#,
        r#"{"stream":true,"stream_options":{"Include_Usage":false}}"#,
    ] {
        upstream.forget();
        let refused = post("ci", body).await;
        refused.assert_denied(400, "BAD_REQUEST");
        assert_eq!(refused.json()["error"]["details"]["field"], "stream", "{body}");
        assert!(upstream.requests().is_empty());
        assert_eq!(post("free", body).await.status, 200, "{body}");
        assert_eq!(upstream.only_request().body, body.as_bytes());
    }
    // Servers that are not strict read more than JSON in UTF-8.
    for body in ["\u{feff}{\"stream\":true}", r#"{"x":NaN,"stream":true}"#, r#"{"stream":true} x"#] {
        post("ci", body).await.assert_denied(400, "BAD_REQUEST");
        assert_eq!(post("free", body).await.status, 200);
    }
    // Of a body that is not held back whole, the beginning asks if it has all that matters, and the rest takes
    // nothing back.
    let long = "x".repeat(200_000);
    for (body, sent) in [
        (
            r#""stream":true,"stream_options":null"#,
            r#""stream":true,"stream_options":{"include_usage":true}"#,
        ),
        (
            r#""stream_options":{"a":1},"stream":true"#,
            r#""stream_options":{"include_usage":true,"a":1},"stream":true"#,
        ),
        (r#""stream":true"#, r#""stream":true"#),
        (
            r#""stream_options":{"include_usage":true},"stream":true"#,
            r#""stream_options":{"include_usage":true},"stream":true"#,
        ),
    ] {
        upstream.forget();
        assert_eq!(post("ci", &format!(r#"{{{body},"x":"{long}"}}"#)).await.status, 200);
        let whole = String::from_utf8(upstream.only_request().body).unwrap();
        assert_eq!(whole, format!(r#"{{{sent},"x":"{long}"}}"#));
    }
    for rest in
        [r#""stream_options":null"#, r#""stream":false"#, r#""STREAM":1"#, r#""y":NaN,"stream_options":null"#]
    {
        upstream.forget();
        let refused =
            post("ci", &format!(r#"{{"stream":true,"stream_options":{{}},"x":"{long}",{rest}}}"#)).await;
        refused.assert_denied(400, "BAD_REQUEST");
        assert!(upstream.requests().iter().all(|request| !request.is_complete), "{rest}");
    }
    // Also what the client has asked for itself.
    for rest in [r#""stream_options":null"#, r#""stream_options":{"include_usage":true}"#] {
        let asked = r#""stream":true,"stream_options":{"include_usage":true}"#;
        post("ci", &format!(r#"{{{asked},"x":"{long}",{rest}}}"#)).await.assert_denied(400, "BAD_REQUEST");
    }
    // What is said once may be said late.
    for rest in [r#""stream_options":{"include_usage":true}"#, r#""stream_options":null"#, r#""y":1"#] {
        upstream.forget();
        let body = format!(r#"{{"stream":true,"x":"{long}",{rest}}}"#);
        assert_eq!(post("ci", &body).await.status, 200, "{rest}");
        // Uploads that were aborted may be noted late.
        let whole = upstream.requests().into_iter().find(|request| request.is_complete).unwrap();
        assert!(whole.body == body.as_bytes(), "{rest}");
    }
}

/// Of an event that has not ended, the beginning is held back while the stream is asked for its usage.
#[tokio::test]
async fn bytes_that_were_held_back_come_before_trailers_and_before_a_break() {
    let begun = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"choi";
    let chunk = format!("{:x}\r\n{begun}\r\n", begun.len());
    for (end, is_whole) in
        [("0\r\n\r\n", true), ("0\r\nx-checksum: 7\r\n\r\n", true), ("", false), ("no chunk\r\n", false)]
    {
        let bytes = format!("{SSE}{chunk}{end}");
        let upstream = Upstream::acting(move |_, mut stream| {
            let bytes = bytes.clone();
            async move {
                stream.write_all(bytes.as_bytes()).await.ok()?;
                stream.shutdown().await.ok()?;
                None
            }
        })
        .await;
        let gateway = gateway(&upstream, "{tokens: 10k, per: 1d}").await;
        for is_http2 in [false, true] {
            let request = gateway.client(is_http2).post(gateway.url("/v1/chat/completions"));
            let request = request.header("authorization", format!("Bearer {}", gateway.token("ci")));
            let mut answer = request.body("{\"stream\":true,\"max_tokens\":9}").send().await.unwrap();
            let mut seen = Vec::new();
            let has_ended = loop {
                match answer.chunk().await {
                    Ok(Some(data)) => seen.extend_from_slice(&data),
                    Ok(None) => break true,
                    Err(_) => break false,
                }
            };
            assert_eq!((String::from_utf8(seen).unwrap().as_str(), has_ended), (begun, is_whole), "{end:?}");
        }
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_pays_for_what_was_delivered() {
    let upstream = Upstream::acting(|_, mut stream| async move {
        let event = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
        stream.write_all(SSE.as_bytes()).await.unwrap();
        for _ in 0..7 {
            stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await.ok()?;
        }
        std::future::pending::<()>().await;
        None
    })
    .await;
    let gateway = gateway(&upstream, "{tokens: 10k, per: 1d}").await;
    let mut answer =
        post(&gateway, "/v1/chat/completions", &json!({"stream": true, "max_tokens": 5000})).await;
    let mut seen = Vec::new();
    while seen.windows(2).filter(|pair| pair == b"\n\n").count() < 7 {
        seen.extend_from_slice(&answer.chunk().await.unwrap().unwrap());
    }
    assert!(remaining(&gateway).await <= 5000);
    drop(answer);
    let mut left = 0;
    for _ in 0..200 {
        left = remaining(&gateway).await;
        if left > 5000 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(10_000 - left, 7);
}

#[tokio::test]
async fn a_thousand_calls_at_once_never_pass_the_limit() {
    let upstream =
        Upstream::answering(json_answer("{\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":990}}"))
            .await;
    let gateway = gateway(&upstream, "{tokens: 100k, per: 1h}").await;
    let client = gateway.client(false);
    let calls = (0..1000).map(|_| {
        let request = client.post(gateway.url("/v1/chat/completions"));
        let request = request.header("authorization", format!("Bearer {}", gateway.token("ci")));
        async move {
            let answer = request
                .body("{\"max_tokens\":990,\"prompt\":\"0123456789012345678901234567890123456789\"}")
                .send()
                .await
                .unwrap();
            let status = answer.status().as_u16();
            answer.bytes().await.unwrap();
            status
        }
    });
    let statuses = futures_util::future::join_all(calls).await;
    let granted = statuses.iter().filter(|status| **status == 200).count();
    assert!(statuses.iter().all(|status| matches!(status, 200 | 429)));
    assert!((90..=101).contains(&granted), "{granted} of 1,000 tokens each");
}

#[tokio::test]
async fn output_is_capped_over_all_spellings() {
    let upstream = Upstream::answering(json_answer("{}")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("refuse", "permissions: [read], request: {max_output_tokens: 100}")
        .key("lower", "permissions: [read], request: {max_output_tokens: 100, on_excess: lower}")
        .config(ROUTES)
        .start()
        .await;
    for (body, is_good) in [
        ("{\"max_tokens\":100}", true),
        ("{\"max_completion_tokens\":100,\"max_tokens\":null}", true),
        ("{\"max_tokens\":101}", false),
        ("{\"max_tokens\":50,\"n\":2}", true),
        ("{\"max_tokens\":51,\"n\":2}", false),
        ("{\"max_tokens\":50,\"best_of\":3}", false),
        ("{\"max_tokens\":50,\"prompt\":[\"a\",\"b\",\"c\"]}", false),
        ("{\"max_tokens\":10,\"n_predict\":1000}", false),
        ("{\"max_tokens\":10,\"max_tokens\":1000}", false),
        ("{\"max_tokens\":10,\"MAX_TOKENS\":1000}", false),
        ("{\"max_tokens\":10,\"max_to\u{212a}ens\":1000}", false),
        ("{\"max_tokens\":10,\"options\":{\"num_predict\":1000}}", false),
        ("{\"parameters\":{\"max_new_tokens\":1000}}", false),
        ("{\"max_output_tokens\":1e9}", false),
        ("{\"max_tokens\":\"101\"}", false),
        ("{\"max_tokens\":-1}", false),
        ("{\"max_tokens\":0}", false),
        ("{\"max_tokens\":null}", false),
        ("{\"max_tokens\":[5]}", false),
        ("{\"n_predict\":5}", false),
        ("{\"options\":{\"num_predict\":5}}", false),
        ("{\"sampling_params\":{\"max_tokens\":5}}", false),
        ("{\"max_tokens\":5,\"max_tokens\":null}", false),
        ("{\"max_tokens\":0.5}", false),
        ("{\"max_tokens\\ud800\":5}", false),
        ("{\"max_tokens\":50,\"beam_width\":3}", false),
        ("{\"max_tokens\":4294967295}", false),
        ("{}", false),
        ("no json", false),
    ] {
        let answer = gateway.post("/v1/chat/completions", "refuse", body).await;
        match is_good {
            true => assert_eq!(answer.status, 200, "{body}"),
            false => answer.assert_denied(400, "OUTPUT_LIMIT_EXCEEDED"),
        }
    }
    for (path, body, sent) in [
        ("/v1/chat/completions", "{\"max_tokens\": 1000, \"x\": 1}", "{\"max_tokens\": 100, \"x\": 1}"),
        ("/v1/chat/completions", "{\"max_tokens\":null,\"n\":2}", "{\"max_tokens\":50,\"n\":2}"),
        (
            "/v1/chat/completions",
            "{\"max_tokens\":-1,\"n_predict\":5}",
            "{\"max_tokens\":100,\"n_predict\":5}",
        ),
        ("/v1/chat/completions", "{\"x\":1}", "{\"max_tokens\":100,\"x\":1}"),
        ("/v1/chat/completions", "{ }", "{\"max_tokens\":100 }"),
        ("/v1/responses", "{\"x\":1}", "{\"max_output_tokens\":100,\"x\":1}"),
        ("/api/chat", "{\"x\":1}", "{\"options\":{\"num_predict\":100},\"x\":1}"),
        ("/v1/chat/completions", "{\"max_tokens\":7}", "{\"max_tokens\":7}"),
        ("/v1/chat/completions", "{\"n_predict\":7}", "{\"max_tokens\":100,\"n_predict\":7}"),
        ("/v1/chat/completions", "{\"n_predict\":null}", "{\"max_tokens\":100,\"n_predict\":100}"),
        ("/v1/chat/completions", "{\"options\":null}", "{\"max_tokens\":100,\"options\":null}"),
        ("/api/chat", "{\"x\":1,\"options\":null}", "{\"x\":1,\"options\":{\"num_predict\":100}}"),
    ] {
        upstream.forget();
        assert_eq!(gateway.post(path, "lower", body).await.status, 200, "{body}");
        assert_eq!(String::from_utf8(upstream.only_request().body).unwrap(), sent);
    }
    let digits = format!("{{\"max_tokens\":1{}}}", "0".repeat(300));
    upstream.forget();
    assert_eq!(gateway.post("/v1/chat/completions", "lower", &digits).await.status, 200);
    assert_eq!(upstream.only_request().body, b"{\"max_tokens\":100}");
    for options in ["{\"temperature\":0}", "false"] {
        let body = format!("{{\"options\":{options}}}");
        gateway.post("/api/chat", "lower", &body).await.assert_denied(400, "OUTPUT_LIMIT_EXCEEDED");
    }
    let late =
        format!("{{\"options\":{{\"num_predict\":50}},\"x\":\"{}\",\"options\":null}}", "x".repeat(200_000));
    for key in ["refuse", "lower"] {
        gateway.post("/api/chat", key, &late).await.assert_denied(400, "OUTPUT_LIMIT_EXCEEDED");
    }
    for ending in ["\"n\":50", "\"prompt\":[\"a\",\"b\"]", "\"max_tokens\":null"] {
        let late = format!("{{\"max_tokens\":100,\"x\":\"{}\",{ending}}}", "x".repeat(200_000));
        gateway
            .post("/v1/chat/completions", "refuse", &late)
            .await
            .assert_denied(400, "OUTPUT_LIMIT_EXCEEDED");
    }
    let late = format!("{{\"max_tokens\":5,\"x\":\"{}\",\"n_predict\":5000}}", "x".repeat(200_000));
    gateway.post("/v1/chat/completions", "refuse", &late).await.assert_denied(400, "OUTPUT_LIMIT_EXCEEDED");
}

#[tokio::test]
async fn a_limit_that_only_counts_refuses_nothing_and_says_so() {
    let upstream =
        Upstream::answering(json_answer("{\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read], rate_limits: [{requests: 1, per: 1h, enforce: false}, {tokens: 10, per: 1h, enforce: false}]")
        .config(ROUTES)
        .start_binary()
        .await;
    for _ in 0..3 {
        let answer = gateway.post("/v1/x", "ci", "{\"model\":\"m\",\"max_tokens\":1}").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("ratelimit"), None);
    }
    eventually("three lines", || gateway.access_lines().len() >= 3).await;
    let lines = gateway.access_lines();
    let would: Vec<Option<&str>> = lines.iter().map(|line| line["would_refuse"].as_str()).collect();
    assert_eq!(would, [None, Some("RATE_LIMIT_EXCEEDED"), Some("RATE_LIMIT_EXCEEDED")]);
    for line in &lines {
        let tokens = [&line["model"], &line["input_tokens"], &line["output_tokens"], &line["tokens_by"]];
        assert_eq!(tokens, [&json!("m"), &json!(1), &json!(1), &json!("reported")]);
    }
    let admin = Door::at(gateway.admin.unwrap());
    let metrics = admin.sends("GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    let text = String::from_utf8(metrics.body).unwrap();
    assert!(text.contains("bearward_would_refuse_total{code=\"RATE_LIMIT_EXCEEDED\"} 2"), "{text}");
    assert!(text.contains("kind=\"output\",by=\"reported\"} 3"), "{text}");
}

#[tokio::test]
async fn a_number_that_the_server_ignores_reserves_as_much_as_none() {
    for (body, reserved) in [
        (json!({"n_predict": 1}), 1024),
        (json!({"options": {"num_predict": 1}}), 1024),
        (json!({"max_tokens": 1}), 1),
        (json!({"max_tokens": 1, "n_predict": 1500}), 1500),
    ] {
        let upstream = Upstream::answering(json_answer("{}")).await;
        let gateway = gateway(&upstream, "{output_tokens: 2000, per: 1d}").await;
        let answer = post(&gateway, "/v1/chat/completions", &body).await;
        let left: i64 = answer.headers()["x-ratelimit-remaining-tokens"].to_str().unwrap().parse().unwrap();
        answer.bytes().await.unwrap();
        assert_eq!(2000 - left, reserved, "{body}");
    }
}

/// A body without a length, of which the prelude has only the beginning.
#[tokio::test]
async fn input_that_passes_behind_the_prelude_is_paid_for() {
    let upstream = Upstream::answering(json_answer("{}")).await;
    let gateway = gateway(&upstream, "{input_tokens: 1M, per: 1d}").await;
    let body = format!("{{\"max_tokens\":1,\"x\":\"{}\"}}", "x".repeat(400_000));
    let chunks: String = body
        .as_bytes()
        .chunks(10_000)
        .map(|chunk| format!("{:x}\r\n{}\r\n", chunk.len(), String::from_utf8_lossy(chunk)))
        .collect();
    let head = format!(
        "POST /v1/x HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\ntransfer-encoding: chunked\r\n\r\n",
        gateway.token("ci")
    );
    let answer = gateway.sends(format!("{head}{chunks}0\r\n\r\n")).await;
    assert_eq!(answer.status, 200);
    let used = 1_000_000 - remaining(&gateway).await;
    assert!((99_000..101_000).contains(&used), "{used}");
}

#[tokio::test]
async fn the_status_has_the_tokens_of_the_last_minute() {
    let usage = r#"{"usage":{"prompt_tokens":20,"completion_tokens":30,"prompt_tokens_details":{"cached_tokens":5}}}"#;
    let upstream = Upstream::answering(json_answer(usage)).await;
    let gateway = gateway(&upstream, "{tokens: 10k, per: 1d}").await;
    for model in ["a", "b", "a"] {
        post(&gateway, "/v1/x", &json!({"model": model, "max_tokens": 1})).await.bytes().await.unwrap();
    }
    let status = async || gateway.admin("GET /api/v1/status", "Bearer the-admin-token").await.json();
    until("all requests are counted", async || status().await["data"]["requests"] == 3).await;
    let status = status().await;
    let rows = status["data"]["tokens_last_minute"].as_array().unwrap().clone();
    let of = |row: &Value| {
        (
            row["model"].clone(),
            row["input_tokens"].clone(),
            row["cached_tokens"].clone(),
            row["output_tokens"].clone(),
        )
    };
    let expected = [("a", 40, 10, 60), ("b", 20, 5, 30)];
    let expected = expected
        .map(|(model, input, cached, output)| (json!(model), json!(input), json!(cached), json!(output)));
    assert_eq!(rows.iter().map(of).collect::<Vec<_>>(), expected);
    assert!(rows.iter().all(|row| row["key_id"].as_str().unwrap().starts_with("key_")), "{rows:?}");
    let page = gateway.admin("GET /", "Bearer the-admin-token").await;
    let page = String::from_utf8(page.body).unwrap();
    assert!(page.contains(">ci</a></td><td class=\"mono\">a</td><td class=\"number\">40</td>"), "{page}");
}

/// What `explain` says of a body is what the proxy does with it.
#[tokio::test]
async fn an_explained_reservation_is_the_one_that_is_made() {
    let upstream = Upstream::answering(json_answer("{}")).await;
    let gateway = Gateway::guarding(&upstream)
        .key(
            "ci",
            "permissions: [read], rate_limits: [{tokens: 5000, per: 1d}], request: {max_output_tokens: 600, on_excess: lower}",
        )
        .config(ROUTES)
        .start_binary()
        .await;
    let config = gateway.directory.path().join("bearward.yaml");
    let explained = |body: &str| {
        let config = config.to_str().unwrap();
        let arguments =
            ["explain", "POST", "/v1/chat/completions", "--key", "ci", "--body", "-", "--config", config];
        String::from_utf8(bearward(&arguments, body).stdout).unwrap()
    };
    let mut left = 5000;
    for (body, output) in [
        (
            json!({"model": "m", "messages": [{"content": "x".repeat(400)}], "max_tokens": 50}),
            "50 of output (declared)",
        ),
        (json!({"model": "m", "prompt": "x".repeat(100), "max_tokens": 900}), "600 of output (declared)"),
        (json!({"model": "m", "prompt": "x".repeat(100)}), "600 of output (of a new model)"),
    ] {
        let text = explained(&body.to_string());
        assert!(text.contains(output) && text.contains("  forwarded"), "{text}");
        let reserved: i64 =
            text.split("tokens     ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        let output: i64 = output.split(' ').next().unwrap().parse().unwrap();
        let answer = gateway.post("/v1/chat/completions", "ci", &body.to_string()).await;
        left -= reserved + output;
        assert_eq!(answer.header("x-ratelimit-remaining-tokens").unwrap(), left.to_string(), "{body}");
    }
    let text = explained(&json!({"model": "m", "prompt": "x".repeat(40_000), "max_tokens": 1}).to_string());
    assert!(text.contains("400 TOKENS_EXCEED_LIMIT"), "{text}");
    let text = explained(&json!({"model": "m", "max_tokens": 1, "options": {}, "n": 1000}).to_string());
    assert!(text.contains("400 OUTPUT_LIMIT_EXCEEDED"), "{text}");
}

#[tokio::test]
async fn a_request_that_overdraws_its_limit_is_explained_as_a_debt() {
    let upstream = Upstream::answering(json_answer("{}")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read], rate_limits: [{tokens: 200, per: 1m}]")
        .key("capped", "permissions: [read], rate_limits: [{tokens: 200, per: 1m}], request: {max_output_tokens: 250, on_excess: lower}")
        .config(ROUTES)
        .start_binary()
        .await;
    let config = gateway.directory.path().join("bearward.yaml");
    let explained = |key: &str, body: &Value| {
        let config = config.to_str().unwrap();
        let arguments =
            ["explain", "POST", "/v1/chat/completions", "--key", key, "--body", "-", "--config", config];
        String::from_utf8(bearward(&arguments, &body.to_string()).stdout).unwrap()
    };
    let body = json!({"model": "m", "messages": [{"content": "hi"}]});
    let text = explained("ci", &body);
    for part in [
        "200 at once, but a request that needs more passes when the window is full, and leaves a debt",
        "are more than the 200 of the limit: granted when the window is full; leaves a debt, so later requests wait",
        "--max-output-tokens N",
        "  forwarded",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let text = explained("capped", &body);
    assert!(text.contains("leaves a debt, so") && !text.contains("--max-output-tokens"), "{text}");
    let small = json!({"model": "m", "messages": [{"content": "hi"}], "max_tokens": 10});
    assert!(!explained("ci", &small).contains("of the limit"), "nothing is overdrawn");
    // It is what happens.
    assert_eq!(gateway.post("/v1/chat/completions", "ci", &body.to_string()).await.status, 200);
}

/// A reservation is regained while its request is open, as any other charge. It is not given back then:
/// requests that are held open would add up to any number of windows.
#[tokio::test]
async fn a_reservation_that_was_regained_is_not_given_back() {
    let upstream =
        Upstream::answering(json_answer("{\"usage\":{\"prompt_tokens\":0,\"completion_tokens\":1000}}"))
            .await;
    let (gateway, clock) = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read], rate_limits: [{output_tokens: 1000, per: 1h}]")
        .config(ROUTES)
        .clock("2026-06-01T00:00:00Z");
    let gateway = gateway.start().await;
    let (body, token) =
        (format!("{{\"max_tokens\":1000,\"images\":[\"{}", "x".repeat(70_000)), gateway.token("ci"));
    let mut held = gateway.raw().await;
    let head = "POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 80000\r\nAuthorization: Bearer";
    held.send(format!("{head} {token}\r\n\r\n{body}")).await;
    until("the request has reserved its tokens", async || remaining(&gateway).await == 0).await;
    clock.advance(Duration::from_secs(3600));
    let body = json!({"max_tokens": 1000});
    assert_eq!(post(&gateway, "/v1/x", &body).await.status(), 200);
    let before = upstream.open();
    drop(held);
    eventually("the request has ended", || upstream.open() < before).await;
    assert_eq!(post(&gateway, "/v1/x", &body).await.status(), 429);
    assert_eq!(remaining(&gateway).await, 0, "the request that was held open gives nothing back");
}

#[tokio::test]
async fn limits_of_a_route_and_of_a_key_are_apart_whatever_the_name_of_the_route() {
    let upstream =
        Upstream::answering(json_answer("{\"usage\":{\"prompt_tokens\":0,\"completion_tokens\":600}}")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read], rate_limits: [{output_tokens: 1000, per: 1h}]")
        .config(
            "routes: [{name: output, paths: ['/**'], permission: read, model_in: body, rate_limits: [{tokens: 1000000, per: 1h}]}]",
        )
        .start()
        .await;
    let body = json!({"max_tokens": 600});
    assert_eq!(post(&gateway, "/v1/x", &body).await.status(), 200);
    assert_eq!(post(&gateway, "/v1/x", &body).await.status(), 429);
}

#[tokio::test]
async fn answers_that_are_made_in_the_background_are_refused_under_a_token_limit() {
    let upstream = Upstream::answering(json_answer("{}")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read], rate_limits: [{tokens: 1000, per: 1h}]")
        .key("capped", "permissions: [read], request: {max_output_tokens: 10}")
        .key("lowered", "permissions: [read], request: {max_output_tokens: 10, on_excess: lower}")
        .key("free", "permissions: [read], rate_limits: [{requests: 1000, per: 1h}]")
        .config(ROUTES)
        .start()
        .await;
    let body = "{\"background\":true,\"max_output_tokens\":5}";
    let limited = ["ci", "capped", "lowered"];
    // Servers that are not strict read the others as true.
    for value in
        ["true", "1", "1.0", "\"true\"", "\"on\"", "\"t\"", "[true]", "{}", "null,\"background\":\"yes\""]
    {
        let body = body.replace("true", value);
        for key in limited {
            gateway.post("/v1/responses", key, &body).await.assert_denied(400, "BAD_REQUEST");
        }
        assert_eq!(gateway.post("/v1/responses", "free", &body).await.status, 200);
    }
    let late = |value: &str| {
        let input = "x".repeat(200_000);
        format!("{{\"max_output_tokens\":5,\"input\":[\"{input}\"],\"background\":{value}}}")
    };
    let body = "{\"background\":true,\"max_output_tokens\":5}";
    upstream.forget();
    for key in ["capped", "lowered"] {
        let refused = gateway.post("/v1/responses", key, &late("true")).await;
        refused.assert_denied(400, "BAD_REQUEST");
        assert_eq!(refused.json()["error"]["details"]["field"], "background");
    }
    let counting = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read], rate_limits: [{tokens: 1M, per: 1h, burst: 1M}]")
        .config(ROUTES)
        .start()
        .await;
    for value in ["true", "false,\"y\":NaN"] {
        counting.post("/v1/responses", "ci", &late(value)).await.assert_denied(400, "BAD_REQUEST");
    }
    let odd = "\u{feff}{\"background\":true,\"max_output_tokens\":5}";
    counting.post("/v1/responses", "ci", odd).await.assert_denied(400, "BAD_REQUEST");
    assert!(upstream.requests().iter().all(|request| !request.is_complete));
    // SGLang goes on with such a request when its client has left.
    counting.post("/api/generate", "ci", "{\"background\":true}").await.assert_denied(400, "BAD_REQUEST");
    // Elsewhere, the member is another one: images may have a transparent background.
    let image = "{\"background\":\"transparent\"}";
    assert_eq!(counting.post("/v1/images/generations", "ci", image).await.status, 200);
    for value in ["false", "null"] {
        for key in limited {
            assert_eq!(gateway.post("/v1/responses", key, &body.replace("true", value)).await.status, 200);
        }
        assert_eq!(counting.post("/v1/responses", "ci", &late(value)).await.status, 200);
    }
}

#[tokio::test]
async fn an_answer_comes_in_an_encoding_that_can_be_read() {
    let upstream = Upstream::answering(json_answer("{}")).await;
    let gateway = gateway(&upstream, "{tokens: 10k, per: 1d}").await;
    let request = gateway.client(false).post(gateway.url("/v1/x"));
    let request = request.header("authorization", format!("Bearer {}", gateway.token("ci")));
    request.header("accept-encoding", "gzip, br").body("{\"max_tokens\":5}").send().await.unwrap();
    assert_eq!(upstream.only_request().header("accept-encoding"), Some("gzip"));
}

#[tokio::test]
async fn a_body_that_cannot_be_read_reserves_all_of_its_bytes() {
    let upstream = Upstream::answering(json_answer("{}")).await;
    let gateway = gateway(&upstream, "{input_tokens: 1000, per: 1h}").await;
    let text = "x ".repeat(30_000);
    for body in [format!("\u{feff}{{\"prompt\":\"{text}\"}}"), format!("{{\"x\":NaN,\"prompt\":\"{text}\"}}")]
    {
        gateway.post("/v1/embeddings", "ci", &body).await.assert_denied(400, "TOKENS_EXCEED_LIMIT");
        // It may ask for a stream whose usage is not known.
        gateway.post("/v1/completions", "ci", &body).await.assert_denied(400, "BAD_REQUEST");
    }
    assert!(upstream.requests().is_empty());
}
