//! Where the requests of each built-in route name their model, and which of them use tokens.

use super::preset::Preset;
use crate::config::model::{ModelIn, RouteModel, Usage, UsesTokens};
use crate::model::{ModelNaming, Server};

/// Returns the model rules of a preset's route with these paths.
pub(super) fn of_route(preset: Preset, name: &str, paths: &[&str]) -> RouteModel {
    let has = |ends: &[&str]| paths.iter().any(|path| ends.iter().any(|end| path.ends_with(end)));
    let place = match (preset, name) {
        (Preset::Any, _) => ModelIn::None,
        // The model is in a message of the WebSocket, not in the query.
        (Preset::Vllm | Preset::SgLang, "realtime") => ModelIn::None,
        (_, "realtime") => ModelIn::Query,
        // The body's model is not the one that vLLM uses here.
        // TGI and SGLang read it from the instances in the body.
        (Preset::Vllm | Preset::Tgi | Preset::SgLang, "invocations") => ModelIn::None,
        (Preset::LlamaCpp, "props" | "lora") => ModelIn::Query,
        (Preset::Triton, "infer" | "generate" | "models") if !has(&["Infer"]) => ModelIn::Path,
        (Preset::Triton, _) => ModelIn::None,
        (_, "models") if has(&["/sse", "-recommendations"]) => ModelIn::None,
        (_, "models") => ModelIn::List,
        (_, "audio" | "images") if !has(&["/speech", "/generations"]) => ModelIn::Form,
        (
            _,
            "chat" | "completions" | "responses" | "messages" | "embeddings" | "rerank" | "score"
            | "classify" | "decisions" | "audio" | "images" | "moderations" | "tokenize" | "render"
            | "generate" | "encode" | "ollama" | "ollama-show" | "models-show" | "invocations",
        ) => ModelIn::Body,
        _ => ModelIn::None,
    };
    let uses_tokens = match name {
        "tokenize" | "render" | "moderations" | "ollama-show" | "models-show" | "infer" => UsesTokens::No,
        _ if has(&["/count_tokens", "/input_tokens"]) => UsesTokens::No,
        "invocations" => UsesTokens::Always,
        _ => UsesTokens::Posts,
    };
    let usage = match preset {
        Preset::LlamaCpp | Preset::Ollama => Usage::Leave,
        Preset::SgLang | Preset::Tgi => Usage::AskWithNulls,
        Preset::OpenAi | Preset::Vllm | Preset::Triton | Preset::Any => Usage::Ask,
    };
    let naming = match preset {
        Preset::Ollama => ModelNaming::Ollama,
        Preset::SgLang => ModelNaming::Adapters,
        _ => ModelNaming::Exact,
    };
    let has_no_output = matches!(
        name,
        "embeddings" | "rerank" | "score" | "classify" | "decisions" | "encode" | "images" | "moderations"
    ) || has(&["/speech", "/embed"]);
    // Tensors of Triton's own protocol, and OpenAI's jobs.
    let are_jobs = paths.iter().all(|path| path.ends_with("/batches") || path.contains("/runs"));
    let hides_output = are_jobs || (preset == Preset::Triton && name == "infer");
    let server = server(preset);
    RouteModel {
        place,
        uses_tokens,
        has_no_output,
        hides_output,
        server,
        naming,
        usage,
        ..RouteModel::default()
    }
}

/// Returns the server of a preset.
fn server(preset: Preset) -> Server {
    match preset {
        Preset::OpenAi => Server::OpenAi,
        Preset::Vllm => Server::Vllm,
        Preset::LlamaCpp => Server::LlamaCpp,
        Preset::Ollama => Server::Ollama,
        Preset::Triton => Server::Triton,
        Preset::SgLang => Server::SgLang,
        Preset::Tgi => Server::Tgi,
        Preset::Any => Server::Unknown,
    }
}
