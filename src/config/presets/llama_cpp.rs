//! The preset for llama.cpp's `llama-server`, with its page for browsers.
//!
//! The page's files are public, as in llama-server itself with `--api-key`: a browser can't send a
//! key when it opens a page, and the page asks the user for a key. The header `X-Conversation-Id`
//! is removed from requests: with this header, llama-server continues to generate when the client
//! has left, and `max_concurrent` would limit nothing. The path `/predict` is left out, because its
//! handler calls any other handler that the request's body names.

use super::row::{ADMIN, CHANGES, DELETE, GET, GET_AND_POST, POST, PUBLIC, READ, Row, WRITE};

pub(super) const ROWS: &[Row] = &[
    ("health", GET, &["/health", "/v1/health"], PUBLIC),
    (
        "ui",
        GET,
        &[
            "/",
            "/index.html",
            "/_app/**",
            "/sw.js",
            "/workbox-*.js",
            "/manifest.webmanifest",
            "/version.json",
            "/build.json",
            "/favicon*",
            "/pwa-*.png",
            "/maskable-icon-*.png",
            "/apple-touch-icon-*.png",
            "/apple-splash-*.png",
            "/recommended-mcp/*",
        ],
        PUBLIC,
    ),
    ("metrics", GET, &["/metrics"], ADMIN),
    ("slots", GET, &["/slots"], ADMIN),
    ("slots-change", POST, &["/slots/*"], ADMIN),
    ("props-change", POST, &["/props"], ADMIN),
    ("lora-change", POST, &["/lora-adapters"], ADMIN),
    ("models-change", CHANGES, &["/models", "/models/load", "/models/unload"], ADMIN),
    ("tools", GET_AND_POST, &["/tools"], ADMIN),
    ("cors-proxy", GET_AND_POST, &["/cors-proxy"], ADMIN),
    ("chat", POST, &["/v1/chat/completions", "/chat/completions", "/v1/chat/completions/control"], READ),
    ("completions", POST, &["/v1/completions", "/completions", "/completion", "/infill"], READ),
    ("responses", POST, &["/v1/responses", "/responses"], READ),
    ("messages", POST, &["/v1/messages"], READ),
    ("messages", POST, &["/v1/messages/count_tokens"], READ),
    ("embeddings", POST, &["/v1/embeddings", "/embeddings", "/embedding"], READ),
    ("rerank", POST, &["/v1/rerank", "/v1/reranking", "/rerank", "/reranking"], READ),
    ("audio", POST, &["/v1/audio/transcriptions", "/audio/transcriptions"], READ),
    (
        "tokenize",
        POST,
        &[
            "/tokenize",
            "/detokenize",
            "/apply-template",
            "/v1/chat/completions/input_tokens",
            "/chat/completions/input_tokens",
            "/v1/responses/input_tokens",
            "/responses/input_tokens",
        ],
        READ,
    ),
    ("models", GET, &["/v1/models", "/models"], READ),
    ("models", GET, &["/models/sse"], READ),
    ("props", GET, &["/props"], READ),
    ("lora", GET, &["/lora-adapters"], READ),
    ("streams", GET, &["/v1/stream"], READ),
    ("streams-lookup", POST, &["/v1/streams/lookup"], READ),
    ("streams-stop", DELETE, &["/v1/stream"], WRITE),
];
