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

use http::Method;

use crate::config::{Access, Preset, Route, RouteTimeouts};
use crate::permission::Permission;

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
    rows.iter().map(route).collect()
}

/// Routes of presets on which a client may go over to WebSocket.
const WEBSOCKET: &[&str] = &["read", "realtime"];

fn route((name, methods, paths, access): &Row) -> Route {
    let upgrades = if WEBSOCKET.contains(name) { vec!["websocket".to_owned()] } else { Vec::new() };
    Route {
        name: (*name).to_owned(),
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        methods: (!methods.is_empty()).then(|| methods.to_vec()),
        hosts: None,
        access: *access,
        upstream: None,
        rate_limits: Vec::new(),
        strip_prefix: None,
        max_body: None,
        timeouts: RouteTimeouts::default(),
        upgrades,
    }
}
