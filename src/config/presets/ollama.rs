//! The preset for Ollama.
//!
//! Creating models needs `admin`: a request to create one can overwrite a model that others use,
//! fetch models from elsewhere, and make Ollama send prompts to another host.

use super::row::{ADMIN, DELETE, GET, HEAD, POST, PUBLIC, READ, Row};

pub(super) const ROWS: &[Row] = &[
    ("health", GET, &["/"], PUBLIC),
    ("version", GET, &["/api/version", "/api/status"], READ),
    ("chat", POST, &["/api/chat", "/v1/chat/completions"], READ),
    ("completions", POST, &["/api/generate", "/v1/completions"], READ),
    ("responses", POST, &["/v1/responses"], READ),
    ("messages", POST, &["/v1/messages"], READ),
    ("embeddings", POST, &["/api/embed", "/api/embeddings", "/v1/embeddings"], READ),
    ("audio", POST, &["/v1/audio/transcriptions"], READ),
    ("models", GET, &["/api/tags", "/api/ps", "/v1/models", "/v1/models/**"], READ),
    ("models", GET, &["/api/experimental/model-recommendations"], READ),
    ("models-show", POST, &["/api/show"], READ),
    ("web", POST, &["/api/experimental/web_search", "/api/experimental/web_fetch"], ADMIN),
    ("models-create", POST, &["/api/create", "/api/copy", "/api/blobs/*"], ADMIN),
    ("blobs", HEAD, &["/api/blobs/*"], ADMIN),
    ("models-pull", POST, &["/api/pull", "/api/push"], ADMIN),
    ("models-delete", DELETE, &["/api/delete"], ADMIN),
    ("account", POST, &["/api/me", "/api/signout"], ADMIN),
    ("account-delete", DELETE, &["/api/user/keys/*"], ADMIN),
];
