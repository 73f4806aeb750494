//! Finds out what kind of model server listens at a URL, by what it answers to anybody.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use http::Method;
use serde_json::Value;

use crate::config::presets::Preset;
use crate::net::server_client::{Seen, ServerClient};

/// The most characters of a server's own name that are shown.
const LONGEST_NAME: usize = 60;

/// What a server tells of itself.
#[derive(Debug)]
pub(super) struct ModelServer {
    /// The preset of its kind; `None` if it tells nothing.
    pub(super) preset: Option<Preset>,
    /// What it calls itself: its `Server` header.
    pub(super) name: Option<String>,
}

/// Asks a server what it is.
///
/// # Errors
///
/// It can't be reached.
pub(super) async fn identify(client: &ServerClient) -> anyhow::Result<ModelServer> {
    let root = client.ask(&Method::GET, "/", None).await?;
    let name = root.server.as_deref().map(shown);
    let known = by_root(&root);
    let preset = match known {
        Some(preset) => Some(preset),
        None => by_its_paths(client).await,
    };
    Ok(ModelServer { preset, name })
}

fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect()
}

fn by_root(root: &Seen) -> Option<Preset> {
    let server = root.server.as_deref().unwrap_or_default();
    if server.starts_with("llama.cpp") {
        return Some(Preset::LlamaCpp);
    }
    root.body.starts_with(b"Ollama is running").then_some(Preset::Ollama)
}

/// The documents by which servers are known: the path, a pointer into its JSON (RFC 6901), the beginning of the
/// text there (empty: whatever it is), and the server.
const DOCUMENTS: [(&str, &str, &str, Preset); 6] = [
    ("/v2", "/name", "triton", Preset::Triton),
    ("/get_model_info", "/model_path", "", Preset::SgLang),
    ("/v1/models", "/data/0/owned_by", "vllm", Preset::Vllm),
    ("/v1/models", "/data/0/owned_by", "sglang", Preset::SgLang),
    ("/v1/models", "/data/0/owned_by", "llamacpp", Preset::LlamaCpp),
    ("/info", "/model_id", "", Preset::Tgi),
];

async fn by_its_paths(client: &ServerClient) -> Option<Preset> {
    let paths: BTreeSet<&str> = DOCUMENTS.iter().map(|(path, ..)| *path).collect();
    let asked = paths.into_iter().map(|path| async move {
        let seen = client.ask(&Method::GET, path, None).await.ok().filter(|seen| seen.status == 200)?;
        Some((path, serde_json::from_slice::<Value>(&seen.body).ok()?))
    });
    let documents: BTreeMap<&str, Value> = join_all(asked).await.into_iter().flatten().collect();
    let is_known = |(path, pointer, beginning, _): &&(&str, &str, &str, Preset)| {
        let text = documents.get(path).and_then(|document| document.pointer(pointer)?.as_str());
        text.is_some_and(|text| text.starts_with(beginning))
    };
    DOCUMENTS.iter().find(is_known).map(|(.., preset)| *preset)
}
