//! Presets: the built-in sets of routes. A path that a set does not list is answered with 404.
//!
//! In the sets for model servers, paths that operate the server need the permission `admin`, for
//! example paths that load models or weights, record profiles, or show the requests of other
//! clients. Only paths that reveal nothing are public. A route sees the method and the path of a
//! request, but not its body. If the body can make the server load a model, every key that may
//! generate may also load a model.

mod llama_cpp;
mod ollama;
mod openai;
mod row;
mod triton;
mod vllm;

use http::{HeaderName, Method};

use crate::config::ambiguity::Ambiguity;
use crate::config::route::{Forwarding, MatchedRequests, Route};
use crate::path_pattern::PathPattern;
use crate::path_pattern::reading::PathReading;
use row::{ALL, READ, Row, WRITE};

/// A built-in set of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preset {
    OpenAi,
    Vllm,
    LlamaCpp,
    Ollama,
    Triton,
    Any,
}

impl Preset {
    /// All presets, each with its name.
    pub(crate) const ALL: [(&str, Preset); 6] = [
        ("openai", Preset::OpenAi),
        ("vllm", Preset::Vllm),
        ("llama-cpp", Preset::LlamaCpp),
        ("ollama", Preset::Ollama),
        ("triton", Preset::Triton),
        ("any", Preset::Any),
    ];

    pub(crate) fn name(self) -> &'static str {
        let entry = Preset::ALL.iter().find(|(_, preset)| *preset == self);
        debug_assert!(entry.is_some(), "each preset has a name");
        entry.map(|(name, _)| *name).unwrap_or_default()
    }
}

/// Routes for any HTTP service: safe methods need `read`, all others `write`.
const ANY: &[Row] = &[
    ("read", &[Method::GET, Method::HEAD, Method::OPTIONS], &["/**"], READ),
    ("write", ALL, &["/**"], WRITE),
];

pub(crate) fn routes(preset: Preset) -> Vec<Route> {
    let rows = match preset {
        Preset::OpenAi => openai::ROWS,
        Preset::Vllm => vllm::ROWS,
        Preset::LlamaCpp => llama_cpp::ROWS,
        Preset::Ollama => ollama::ROWS,
        Preset::Triton => triton::ROWS,
        Preset::Any => ANY,
    };
    rows.iter().map(|row| route(preset, row)).collect()
}

/// Names of the presets' routes on which a client may upgrade to WebSocket.
const WEBSOCKET: &[&str] = &["read", "realtime", "responses"];

/// Returns the request headers that a preset removes, because they would void a limit. With
/// `x-conversation-id`, llama-server continues to generate when the client has left
/// (docs/decisions/030).
fn removes(preset: Preset) -> Vec<HeaderName> {
    match preset {
        Preset::LlamaCpp => vec![HeaderName::from_static("x-conversation-id")],
        _ => Vec::new(),
    }
}

/// Returns the ambiguous parts that a preset's route accepts in paths. The OpenAI clients encode
/// the slashes in names of models; vLLM decodes the slashes before it routes a request.
fn accepted_in_path(preset: Preset, name: &str) -> Vec<Ambiguity> {
    match (preset, name) {
        (Preset::Vllm, "models" | "lora-unload") => vec![Ambiguity::EncodedSlash],
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
        let rows = [openai::ROWS, vllm::ROWS, llama_cpp::ROWS, ollama::ROWS, triton::ROWS, ANY].concat();
        for path in rows.iter().flat_map(|(_, _, paths, _)| *paths) {
            assert!(PathPattern::parse(path).is_ok_and(|patterns| !patterns.is_empty()), "{path}");
        }
    }
}
