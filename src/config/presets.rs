//! The built-in route sets. Each lists what it lets through; what it does not list is 404.
//!
//! Those of a model server list what operates it (models that are loaded and thrown away, weights, profiles, what others
//! are asking just now) as `admin`, and as public nothing that tells anything. A path is all that a route sees: where a body
//! loads a model, whoever may generate may load it.

mod llama_cpp;
mod ollama;
mod openai;
mod triton;
mod vllm;

use http::{HeaderName, Method};

use super::{Access, Ambiguity, Route, RouteTimeouts};
use crate::path_pattern::PathPattern;
use crate::path_pattern::reading::PathReading;
use crate::permission::Permission;

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
    /// All, by their names.
    pub(crate) const ALL: [(&str, Preset); 6] = [
        ("openai", Preset::OpenAi),
        ("vllm", Preset::Vllm),
        ("llama-cpp", Preset::LlamaCpp),
        ("ollama", Preset::Ollama),
        ("triton", Preset::Triton),
        ("any", Preset::Any),
    ];
}

/// One row of a preset: name, methods (none: all), paths, access.
type Row = (&'static str, &'static [Method], &'static [&'static str], Access);

const READ: Access = Access::Needs(Permission::Read);
const WRITE: Access = Access::Needs(Permission::Write);
const ADMIN: Access = Access::Needs(Permission::Admin);
const WEBHOOK: Access = Access::Needs(Permission::Webhook);
const PUBLIC: Access = Access::Public;

const ALL: &[Method] = &[];
const GET: &[Method] = &[Method::GET];
const POST: &[Method] = &[Method::POST];
const HEAD: &[Method] = &[Method::HEAD];
const DELETE: &[Method] = &[Method::DELETE];
const GET_AND_POST: &[Method] = &[Method::GET, Method::POST];
const CHANGES: &[Method] = &[Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// Any HTTP service: looking is `read`, the rest is `write`.
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

/// Routes of presets on which a client may go over to WebSocket.
const WEBSOCKET: &[&str] = &["read", "realtime", "responses"];

/// What a preset's server takes from a request that would void a limit, by the routes' preset. llama-server keeps generating
/// for a conversation whose client has left (docs/decisions/030).
fn removes(preset: Preset) -> Vec<HeaderName> {
    match preset {
        Preset::LlamaCpp => vec![HeaderName::from_static("x-conversation-id")],
        _ => Vec::new(),
    }
}

/// Names of models have slashes, which the OpenAI clients send encoded; vLLM decodes them before it looks for a route.
fn accepted_in_path(preset: Preset, name: &str) -> Vec<Ambiguity> {
    match (preset, name) {
        (Preset::Vllm, "models" | "lora-unload") => vec![Ambiguity::EncodedSlash],
        _ => Vec::new(),
    }
}

fn route(preset: Preset, (name, methods, paths, access): &Row) -> Route {
    let upgrades = if WEBSOCKET.contains(name) { vec!["websocket".to_owned()] } else { Vec::new() };
    Route {
        name: (*name).to_owned(),
        // A test reads them all.
        paths: paths.iter().filter_map(|path| PathPattern::parse(path).ok()).flatten().collect(),
        methods: (!methods.is_empty()).then(|| methods.to_vec()),
        hosts: None,
        access: *access,
        upstream: None,
        rate_limits: Vec::new(),
        strip_prefix: None,
        max_body: None,
        timeouts: RouteTimeouts::default(),
        upgrades,
        body_on_get: false,
        removes: removes(preset),
        accept_in_path: accepted_in_path(preset, name),
        // Servers lead from the one to the other, or serve both: either is decided as the path without the slash.
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
