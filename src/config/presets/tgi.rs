//! The preset for Text Generation Inference (3.3): the router of Hugging Face's server.
//!
//! TGI has no path that changes the server. `GET /` is a probe, and `POST /` generates. The paths
//! of KServe and of Vertex AI's environment variables are left out: TGI ignores the model in them.

use super::row::{ADMIN, GET, POST, PUBLIC, READ, Row};

pub(super) const ROWS: &[Row] = &[
    ("health", GET, &["/", "/health", "/ping"], PUBLIC),
    ("metrics", GET, &["/metrics"], ADMIN),
    ("chat", POST, &["/v1/chat/completions"], READ),
    ("completions", POST, &["/v1/completions"], READ),
    ("generate", POST, &["/", "/generate", "/generate_stream"], READ),
    ("invocations", POST, &["/invocations", "/vertex"], READ),
    ("tokenize", POST, &["/tokenize", "/chat_tokenize"], READ),
    ("models", GET, &["/v1/models"], READ),
    ("server", GET, &["/info"], READ),
    ("docs", GET, &["/docs", "/docs/**", "/api-doc/openapi.json"], READ),
];
