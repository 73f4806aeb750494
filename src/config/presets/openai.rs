//! The preset for the OpenAI API, as model servers implement it.

use http::Method;

use super::row::{ADMIN, ALL, CHANGES, GET, GET_AND_POST, POST, PUBLIC, READ, Row, WEBHOOK, WRITE};

/// Paths of resources. A key with `read` may list and read resources, and a key with `write` may
/// create and change resources.
const RESOURCES: &[&str] = &[
    "/v1/assistants",
    "/v1/assistants/**",
    "/v1/batches",
    "/v1/batches/**",
    "/v1/chat/completions",
    "/v1/chat/completions/**",
    "/v1/containers",
    "/v1/containers/**",
    "/v1/conversations",
    "/v1/conversations/**",
    "/v1/evals",
    "/v1/evals/**",
    "/v1/files",
    "/v1/files/**",
    "/v1/fine_tuning/**",
    "/v1/responses/**",
    "/v1/threads",
    "/v1/threads/**",
    "/v1/uploads",
    "/v1/uploads/**",
    "/v1/vector_stores",
    "/v1/vector_stores/**",
    "/v1/videos",
    "/v1/videos/**",
];

/// Paths whose POST starts a job that generates content.
const JOBS: &[&str] = &[
    "/v1/batches",
    "/v1/evals/*/runs",
    "/v1/threads/runs",
    "/v1/threads/*/runs",
    "/v1/threads/*/runs/*/submit_tool_outputs",
];

/// The rows of this preset. Paths that generate content need `read`, which is the permission to
/// read data and generate content.
pub(super) const ROWS: &[Row] = &[
    ("health", GET, &["/health"], PUBLIC),
    ("webhooks", ALL, &["/v1/webhooks", "/v1/webhooks/**"], WEBHOOK),
    (
        "admin",
        ALL,
        &[
            "/v1/admin",
            "/v1/admin/**",
            "/v1/organization",
            "/v1/organization/**",
            "/v1/organizations",
            "/v1/organizations/**",
            "/v1/projects",
            "/v1/projects/**",
        ],
        ADMIN,
    ),
    ("chat", POST, &["/v1/chat/completions", "/v1/chat/completions/batch"], READ),
    ("completions", POST, &["/v1/completions", "/v1/generate"], READ),
    // GET is listed because a WebSocket begins with a GET request.
    ("responses", GET_AND_POST, &["/v1/responses", "/v1/responses/compact"], READ),
    ("responses", GET_AND_POST, &["/v1/responses/input_tokens"], READ),
    ("messages", POST, &["/v1/messages"], READ),
    ("messages", POST, &["/v1/messages/count_tokens"], READ),
    ("embeddings", POST, &["/v1/embeddings"], READ),
    ("rerank", POST, &["/v1/rerank", "/v2/rerank", "/rerank"], READ),
    ("score", POST, &["/v1/score", "/score"], READ),
    ("audio", POST, &["/v1/audio/speech"], READ),
    ("audio", POST, &["/v1/audio/transcriptions", "/v1/audio/translations"], READ),
    ("images", POST, &["/v1/images/generations"], READ),
    ("images", POST, &["/v1/images/edits", "/v1/images/variations"], READ),
    ("moderations", POST, &["/v1/moderations"], READ),
    (
        "tokenize",
        POST,
        &[
            "/tokenize",
            "/detokenize",
            "/v1/tokenize",
            "/v1/detokenize",
            "/v1/chat/completions/input_tokens",
            "/v1/chat/completions/render",
        ],
        READ,
    ),
    ("realtime", GET, &["/v1/realtime"], READ),
    ("models", GET, &["/v1/models", "/v1/models/**"], READ),
    ("models-change", &[Method::DELETE], &["/v1/models/**"], WRITE),
    ("search", POST, &["/v1/vector_stores/*/search"], READ),
    ("resources", GET, RESOURCES, READ),
    ("resources-change", POST, JOBS, WRITE),
    ("resources-change", CHANGES, RESOURCES, WRITE),
];
