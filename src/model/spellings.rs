//! The names under which servers read the number of output tokens that a request asks for.
//!
//! Sources: the request types of vLLM 0.33, SGLang 0.5.23, TGI 3.3.6, llama.cpp, Ollama 0.33 and
//! Triton 2.73, and openai-openapi 2.3. Invariant: a name is listed only if the server reads it at
//! that path. A number under another name limits nothing.

use std::borrow::Cow;

/// The server to which a route leads, as far as its built-in set says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Server {
    /// A route of the operator's own. Its paths are read as those of OpenAI's API and its relatives.
    #[default]
    Unknown,
    OpenAi,
    Vllm,
    LlamaCpp,
    Ollama,
    SgLang,
    Tgi,
    Triton,
}

/// The names that a server reads at one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spellings {
    /// The object that has the number; `None` for the body's object itself.
    pub(super) wrapper: Option<&'static str>,
    /// The names of the number.
    pub(super) fields: &'static [&'static str],
    /// Whether it is certain that the server reads the names.
    is_certain: bool,
}

impl Spellings {
    /// Returns the member that asks for `tokens` output tokens; `None` if it is not certain that the
    /// server reads it.
    pub(crate) fn member(self, tokens: u64) -> Option<String> {
        let field = self.fields.first().filter(|_| self.is_certain)?;
        Some(match self.wrapper {
            Some(wrapper) => format!("\"{wrapper}\":{{\"{field}\":{tokens}}}"),
            None => format!("\"{field}\":{tokens}"),
        })
    }
}

impl Server {
    /// Returns the names that the server reads at this path. Servers that ignore case, or a slash at
    /// the end, read the path in the same way as without.
    pub(crate) fn spellings(self, path: &str) -> Spellings {
        use Server::*;
        let path = folded_path(path);
        let ends = |ends: &[&str]| ends.iter().any(|end| path.ends_with(end));
        let (wrapper, fields): (Option<&str>, &[&str]) = match self {
            _ if ends(&["/vertex", "/vertex_generate"]) => (None, &[]),
            Tgi if ends(&["/invocations"]) => (None, &[]),
            Vllm if ends(&["/invocations"]) => (None, &["max_tokens"]),
            SgLang if ends(&["/invocations"]) => (None, &["max_tokens", "max_completion_tokens"]),
            _ if ends(&["/api/chat", "/api/generate"]) => (Some("options"), &["num_predict"]),
            Vllm if ends(&["/inference/v1/generate"]) => (Some("sampling_params"), &["max_tokens"]),
            SgLang if ends(&["/generate"]) => (Some("sampling_params"), &["max_new_tokens"]),
            Tgi if ends(&["/generate", "/generate_stream"]) || path.is_empty() => {
                (Some("parameters"), &["max_new_tokens"])
            }
            Ollama | Tgi if ends(&["/chat/completions"]) => (None, &["max_tokens"]),
            _ if ends(&["/chat/completions", "/chat/completions/batch"]) => {
                (None, &["max_tokens", "max_completion_tokens"])
            }
            _ if ends(&["/responses", "/responses/compact"]) => (None, &["max_output_tokens"]),
            LlamaCpp | Unknown if ends(&["/completion", "/infill"]) => {
                (None, &["n_predict", "max_tokens", "max_completion_tokens"])
            }
            _ if ends(&["/complete"]) => (None, &["max_tokens_to_sample"]),
            _ if ends(&["/completions", "/messages", "/v2/chat"]) => (None, &["max_tokens"]),
            _ => return Spellings { wrapper: None, fields: &["max_tokens"], is_certain: false },
        };
        Spellings { wrapper, fields, is_certain: true }
    }
}

/// Returns a path without slashes at its end, in lower case.
pub(crate) fn folded_path(path: &str) -> Cow<'_, str> {
    let path = path.trim_end_matches('/');
    match path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(path.to_ascii_lowercase()),
        false => Cow::Borrowed(path),
    }
}
