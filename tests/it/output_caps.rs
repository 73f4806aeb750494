//! Caps on output: the spellings that each server reads at each path.

use crate::harness::{Gateway, Upstream, answer_of};

/// The numbers that a server does not read limit nothing, so that a capped request is refused.
#[tokio::test]
async fn a_number_counts_only_where_the_server_reads_it() {
    let upstream = Upstream::answering(answer_of("{}")).await;
    let cases: &[(&str, &[(&str, &str, bool)])] = &[
        (
            "ollama",
            &[
                ("/api/generate", r#"{"options":{"num_predict":1}}"#, true),
                ("/api/generate", r#"{"parameters":{"num_predict":1}}"#, false),
                ("/api/chat", r#"{"sampling_params":{"num_predict":1}}"#, false),
                ("/api/chat", r#"{"options":{"num_predict":1},"options":{}}"#, false),
                ("/api/chat", r#"{"options":{"num_predict":1},"options":null}"#, false),
                ("/api/chat", r#"{"options":null,"options":{"num_predict":1}}"#, false),
                ("/api/chat", r#"{"options":{"num_predict":1},"options":false}"#, false),
                ("/api/chat", r#"{"options":{"num_predict":1},"Options":null}"#, false),
                ("/api/chat", r#"{"options":{"num_predict":1},"opt\u0069ons":null}"#, false),
                ("/v1/chat/completions", r#"{"max_tokens":1,"options":null}"#, true),
                ("/v1/chat/completions", r#"{"max_tokens":1}"#, true),
                ("/v1/chat/completions", r#"{"max_completion_tokens":1}"#, false),
                ("/api/generate", r#"{"options":{"NUM_PREDICT":1}}"#, false),
                ("/api/generate", r#"{"Options":{"num_predict":1}}"#, false),
            ],
        ),
        (
            "triton",
            &[
                ("/v2/models/m/generate", r#"{"text_input":"a","max_tokens":1}"#, true),
                (
                    "/v2/models/m/generate",
                    r#"{"text_input":"a","max_tokens":1,"sampling_parameters":"{\"max_tokens\":99}"}"#,
                    false,
                ),
                // TensorRT-LLM reads this number, and ignores the other one.
                (
                    "/v2/models/m/generate",
                    r#"{"text_input":"a","max_tokens":1,"request_output_len":8000}"#,
                    false,
                ),
                (
                    "/v2/models/m/generate",
                    r#"{"text_input":"a","max_tokens":10,"num_return_sequences":2}"#,
                    false,
                ),
                ("/v2/models/m/infer", "{}", false),
            ],
        ),
        (
            "openai",
            &[
                ("/v1/files", "{}", true),
                ("/v1/batches", "{}", false),
                ("/v1/threads/runs", r#"{"max_completion_tokens":1}"#, false),
                ("/v1/threads/t/runs", r#"{"max_completion_tokens":1}"#, false),
            ],
        ),
        (
            "vllm",
            &[
                (
                    "/v1/chat/completions",
                    r#"{"messages":[{"content":"a"},{"content":"b"}],"max_completion_tokens":10}"#,
                    true,
                ),
                (
                    "/v1/chat/completions/batch",
                    r#"{"messages":[[{"content":"a"}],[{"content":"b"}]],"max_tokens":10}"#,
                    false,
                ),
                ("/v1/completions", r#"{"prompt":["a"],"max_tokens":10}"#, true),
                ("/v1/completions", r#"{"prompt_embeds":["a","b"],"max_tokens":10}"#, false),
                ("/v1/completions", r#"{"prompt":"a","prompt_embeds":"b","max_tokens":10}"#, false),
                ("/v1/completions", r#"{"prompt":"a","prompt_embeds":["b"],"max_tokens":10}"#, false),
                ("/v1/completions", r#"{"prompt":"","prompt_embeds":"b","max_tokens":10}"#, true),
                ("/v1/completions", r#"{"prompt":"a","max_tokens":10}"#, true),
                ("/inference/v1/generate", r#"{"sampling_params":{"max_tokens":1}}"#, true),
                (
                    "/inference/v1/generate",
                    r#"{"sampling_params":{"max_tokens":1},"sampling_params":null}"#,
                    false,
                ),
                ("/invocations", r#"{"messages":[],"max_tokens":1}"#, true),
                ("/invocations", r#"{"messages":[],"n_predict":1}"#, false),
                ("/v1/chat/completions", r#"{"MAX_TOKENS":1}"#, false),
                ("/v1/chat/completions", "{\"max_tokens\\u0000x\":1}", false),
            ],
        ),
        (
            "tgi",
            &[
                ("/generate", r#"{"inputs":"a","parameters":{"max_new_tokens":1}}"#, true),
                ("/", r#"{"inputs":"a","parameters":{"max_new_tokens":1}}"#, true),
                ("/generate", r#"{"inputs":"a","options":{"max_new_tokens":1}}"#, false),
                ("/vertex", r#"{"max_tokens":1,"instances":[{"inputs":"a"}]}"#, false),
                ("/v1/chat/completions", r#"{"max_completion_tokens":1}"#, false),
            ],
        ),
        (
            "sglang",
            &[
                ("/generate", r#"{"text":"a","sampling_params":{"max_new_tokens":1}}"#, true),
                ("/generate", r#"{"text":["a","b"],"sampling_params":{"max_new_tokens":10}}"#, false),
                ("/generate", r#"{"sampling_params":{"max_new_tokens":1},"sampling_params":{}}"#, false),
                (
                    "/generate",
                    r#"{"options":{"max_new_tokens":1},"sampling_params":[{"max_new_tokens":99}]}"#,
                    false,
                ),
                (
                    "/generate",
                    r#"{"input_embeds":[[[1]],[[2]]],"sampling_params":{"max_new_tokens":10}}"#,
                    false,
                ),
                (
                    "/vertex_generate",
                    r#"{"sampling_params":{"max_new_tokens":1},"instances":[{"text":"a"}]}"#,
                    false,
                ),
            ],
        ),
        (
            "llama-cpp",
            &[
                ("/completion", r#"{"prompt":"a","n_predict":10}"#, true),
                (
                    "/completion",
                    r#"{"prompt":[{"prompt_string":"a"},{"prompt_string":"b"}],"n_predict":10}"#,
                    false,
                ),
            ],
        ),
    ];
    for (set, requests) in cases {
        let gateway = Gateway::guarding(&upstream)
            .key("capped", "permissions: [read, write], request: {max_output_tokens: 10}")
            .config(&format!("routes: {set}"))
            .start()
            .await;
        for (path, body, is_good) in *requests {
            let answer = gateway.post(path, "capped", body).await;
            match is_good {
                true => assert_eq!(answer.status, 200, "{set} {path} {body}"),
                false => answer.assert_denied(400, "OUTPUT_LIMIT_EXCEEDED"),
            }
        }
    }
}

#[tokio::test]
async fn other_spellings_of_a_path_are_capped_in_the_same_way() {
    let upstream = Upstream::answering(answer_of("{}")).await;
    let url = format!("http://{}", upstream.address);
    let gateway = Gateway::at("http://127.0.0.1:1")
        .key("capped", "permissions: [read], request: {max_output_tokens: 10}")
        .more_upstreams(&format!("  - {{name: u, endpoints: ['{url}'], paths: {{ignore_case: true, ignore_trailing_slash: true}}}}"))
        .config("routes: [{name: chat, paths: [/v1/chat/completions], permission: read, model_in: body, upstream: u}]")
        .start()
        .await;
    for path in ["/v1/chat/completions", "/V1/Chat/Completions", "/v1/chat/completions/"] {
        assert_eq!(gateway.post(path, "capped", r#"{"max_tokens":1}"#).await.status, 200, "{path}");
        let other = gateway.post(path, "capped", r#"{"max_output_tokens":1}"#).await;
        other.assert_denied(400, "OUTPUT_LIMIT_EXCEEDED");
    }
}

#[tokio::test]
async fn a_capped_key_generates_nothing_where_nothing_is_known_of_the_output() {
    let upstream = Upstream::answering(answer_of("{}")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("capped", "permissions: [read], request: {max_output_tokens: 10, on_excess: lower}")
        .key("free", "permissions: [read]")
        .config("routes: [{name: free, paths: [/files], permission: read, models_free: true}, {name: own, paths: ['/**'], permission: read}]")
        .start()
        .await;
    let body = r#"{"max_tokens":1}"#;
    gateway.post("/v1/chat/completions", "capped", body).await.assert_denied(400, "OUTPUT_LIMIT_EXCEEDED");
    assert_eq!(gateway.post("/v1/chat/completions", "free", body).await.status, 200);
    assert_eq!(gateway.post("/files", "capped", body).await.status, 200);
    assert_eq!(gateway.get("/v1/models", "capped").await.status, 200);
}

#[tokio::test]
async fn no_method_and_no_tunnel_evades_a_cap() {
    let upstream = Upstream::answering(answer_of("{}")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("capped", "permissions: [read], request: {max_output_tokens: 10}")
        .config("routes: [{name: list, paths: [/list], permission: read, model_in: list}, {name: chat, paths: ['/**'], permission: read, model_in: body, upgrades: [websocket]}]")
        .start()
        .await;
    gateway.post("/list", "capped", r#"{"max_tokens":99}"#).await.assert_denied(400, "OUTPUT_LIMIT_EXCEEDED");
    let bearer = gateway.bearer("capped");
    for (method, body, status) in [
        ("PATCH", r#"{"max_tokens":99}"#, 400),
        ("PATCH", r#"{"max_tokens":9}"#, 200),
        ("DELETE", r#"{"max_tokens":99}"#, 200),
    ] {
        let length = body.len();
        let request = format!(
            "{method} /chat/completions HTTP/1.1\r\nHost: a\r\n{bearer}Content-Length: {length}\r\n\r\n{body}"
        );
        assert_eq!(gateway.sends(request).await.status, status, "{method} {body}");
    }
    let upgrade =
        format!("GET /ws HTTP/1.1\r\nHost: a\r\n{bearer}Connection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    gateway.sends(upgrade).await.assert_denied(400, "OUTPUT_LIMIT_EXCEEDED");
}
