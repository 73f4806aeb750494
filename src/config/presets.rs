//! Presets: the built-in sets of routes. A path that a set does not list is answered with 404.
//!
//! In the sets for model servers, paths that operate the server need the permission `admin`, for
//! example paths that load models or weights, record profiles, or show the requests of other
//! clients. Only paths that reveal nothing are public. A route sees the method and the path of a
//! request, but not its body. If the body can make the server load a model, every key that may
//! generate may also load a model.

mod llama_cpp;
mod models;
mod ollama;
mod openai;
mod preset;
mod row;
mod sglang;
mod tgi;
mod triton;
mod vllm;

use http::{HeaderName, Method};

use crate::config::ambiguity::Ambiguity;
use crate::config::route::{Access, Forwarding, MatchedRequests, Route};
use crate::path_pattern::PathPattern;
use crate::path_pattern::reading::PathReading;
pub(crate) use preset::Preset;
use row::{ALL, READ, Row, WRITE};

/// Routes for any HTTP service: safe methods need `read`, all others `write`.
const ANY: &[Row] = &[
    ("read", &[Method::GET, Method::HEAD, Method::OPTIONS], &["/**"], READ),
    ("write", ALL, &["/**"], WRITE),
];

pub(crate) fn routes(preset: Preset) -> Vec<Route> {
    rows(preset).iter().map(|row| route(preset, row)).collect()
}

/// A path of a model server that a preset lists by itself, not by a pattern.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KnownPath {
    pub(crate) path: &'static str,
    /// The methods that have an effect at this path; empty if all may have one.
    pub(crate) methods: &'static [Method],
    pub(crate) access: Access,
}

/// Returns the paths that a preset lists by themselves.
pub(crate) fn known_paths(preset: Preset) -> impl Iterator<Item = KnownPath> {
    let of_row = |(_name, methods, paths, access): &'static Row| {
        let plain = paths.iter().filter(|path| !path.contains(['*', '{']));
        plain.map(|path| KnownPath { path, methods, access: *access })
    };
    rows(preset).iter().flat_map(of_row)
}

fn rows(preset: Preset) -> &'static [Row] {
    match preset {
        Preset::OpenAi => openai::ROWS,
        Preset::Vllm => vllm::ROWS,
        Preset::LlamaCpp => llama_cpp::ROWS,
        Preset::Ollama => ollama::ROWS,
        Preset::Triton => triton::ROWS,
        Preset::SgLang => sglang::ROWS,
        Preset::Tgi => tgi::ROWS,
        Preset::Any => ANY,
    }
}

/// Names of the presets' routes on which a client may upgrade to WebSocket.
const WEBSOCKET: &[&str] = &["read", "realtime", "responses"];

/// Returns the request headers that a preset removes, because they would void a limit.
///
/// With `x-conversation-id`, llama-server continues to generate when the client has left
/// (docs/decisions/030). The SageMaker headers pick vLLM's adapter. SGLang's headers replace parts
/// of the request, or compress its body in a way that no other server knows.
fn removes(preset: Preset) -> Vec<HeaderName> {
    let names: &[&'static str] = match preset {
        Preset::LlamaCpp => &["x-conversation-id"],
        Preset::Vllm => &["x-amzn-sagemaker-adapter-identifier", "x-amzn-sagemaker-adapter-alias"],
        Preset::SgLang => &[
            "x-body-compressed",
            "x-data-parallel-rank",
            "x-smg-routing-key",
            "x-override-rid",
            "x-override-bootstrap-host",
            "x-override-bootstrap-port",
            "x-override-bootstrap-room",
            "x-override-conversation-id",
            "x-override-routed-dp-rank",
            "x-override-disagg-prefill-dp-rank",
            "x-override-priority",
        ],
        _ => &[],
    };
    names.iter().map(|name| HeaderName::from_static(name)).collect()
}

/// Returns the ambiguous parts that a preset's route accepts in paths. The OpenAI clients encode
/// the slashes in names of models; vLLM decodes the slashes before it routes a request.
fn accepted_in_path(preset: Preset, name: &str) -> Vec<Ambiguity> {
    match (preset, name) {
        (Preset::Vllm, "models" | "lora-unload") | (Preset::SgLang, "models") => {
            vec![Ambiguity::EncodedSlash]
        }
        _ => Vec::new(),
    }
}

fn pattern(path: &str) -> Vec<PathPattern> {
    let parsed = PathPattern::parse(path);
    debug_assert!(parsed.is_ok(), "{path} is a pattern");
    parsed.unwrap_or_default()
}

fn route(preset: Preset, (name, methods, paths, access): &Row) -> Route {
    let upgrades = if WEBSOCKET.contains(name) { vec!["websocket".to_owned()] } else { Vec::new() };
    Route {
        name: (*name).to_owned(),
        requests: MatchedRequests {
            paths: paths.iter().flat_map(|path| pattern(path)).collect(),
            methods: (!methods.is_empty()).then(|| methods.to_vec()),
            hosts: None,
        },
        access: *access,
        upstream: None,
        rate_limits: Vec::new(),
        cors: None,
        forwarding: Forwarding { upgrades, removes: removes(preset), ..Forwarding::default() },
        model: models::of_route(preset, name, paths),
        accept_in_path: accepted_in_path(preset, name),
        // Servers treat `/path/` like `/path`, or redirect from one path to the other. Routes
        // therefore treat both paths as `/path`.
        reading: PathReading { ignore_case: false, ignore_trailing_slash: true },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_of_a_preset_is_a_pattern() {
        let rows = [
            openai::ROWS,
            vllm::ROWS,
            llama_cpp::ROWS,
            ollama::ROWS,
            triton::ROWS,
            sglang::ROWS,
            tgi::ROWS,
            ANY,
        ]
        .concat();
        for path in rows.iter().flat_map(|(_, _, paths, _)| *paths) {
            assert!(PathPattern::parse(path).is_ok_and(|patterns| !patterns.is_empty()), "{path}");
        }
    }
}
