//! Names of models: in paths and queries, and the other names under which a server knows a model.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::named::{Named, is_plain};
use super::patterns::ModelPatterns;

/// How an upstream reads the names of models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ModelNaming {
    /// The name is what it is.
    #[default]
    Exact,
    /// Ollama: `registry.ollama.ai/library/NAME:latest` is NAME.
    Ollama,
    /// SGLang: `BASE:ADAPTER`, where the base is not checked.
    Adapters,
}

impl ModelNaming {
    /// Whether `patterns` allow the model of this name.
    pub(crate) fn is_allowed(self, patterns: &ModelPatterns, name: &str) -> bool {
        let names = self.names(name);
        let names = names.iter().map(|name| &**name);
        match self {
            // Ollama removes some white space.
            ModelNaming::Ollama if name.contains(char::is_whitespace) => false,
            // Ollama runs a model with such a name on other computers than the one without it.
            ModelNaming::Ollama if is_in_cloud(name) => patterns.allow_as(std::iter::once(name), names),
            _ => patterns.allow_as(names.clone(), names),
        }
    }

    /// Returns the names of the model that a request names: the name itself, then all other names
    /// under which the upstream might find the same model.
    pub(crate) fn names(self, name: &str) -> SmallVec<[Cow<'_, str>; 2]> {
        let mut names = SmallVec::new();
        names.push(Cow::Borrowed(name));
        match self {
            ModelNaming::Exact => {}
            ModelNaming::Ollama => {
                let folded = name.to_ascii_lowercase();
                let mut short = folded.as_str();
                short = short.split_once("://").map_or(short, |(_, name)| name);
                for prefix in ["registry.ollama.ai/", "library/"] {
                    short = short.strip_prefix(prefix).unwrap_or(short);
                }
                for suffix in [":local", ":cloud", "-cloud", ":latest"] {
                    short = short.strip_suffix(suffix).unwrap_or(short);
                }
                if short != name {
                    names.push(Cow::Owned(short.to_owned()));
                }
                names.push(Cow::Owned(format!("{short}:latest")));
            }
            ModelNaming::Adapters => {
                if let Some((_, adapter)) = name.split_once(':') {
                    names.push(Cow::Borrowed(adapter.trim()));
                }
            }
        }
        names
    }
}

/// Whether Ollama's cloud serves the model of this name, and not the server itself.
fn is_in_cloud(name: &str) -> bool {
    let (name, tag) = name.rsplit_once(':').unwrap_or((name, ""));
    [name, tag].iter().any(|part| {
        let part = part.to_ascii_lowercase();
        part == "cloud" || part.ends_with("-cloud")
    })
}

/// Returns the model that a part of a path names.
pub(crate) fn in_path(part: &str) -> Named {
    match decoded(part, false).filter(|name| is_plain(name)) {
        Some(name) => Named::Model(name),
        None => Named::Ambiguous,
    }
}

/// Returns the model that the parameter `model` of a query names.
pub(crate) fn in_query(query: Option<&str>) -> Named {
    let mut named = Named::Absent;
    // Some servers also part parameters at semicolons.
    for parameter in query.unwrap_or_default().split(['&', ';']) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let Some(name) = decoded(name, true) else { continue };
        let folded = name.split(['\0', '[']).next().unwrap_or_default().trim();
        if !folded.eq_ignore_ascii_case("model") {
            continue;
        }
        named = match (named, decoded(value, true).filter(|value| is_plain(value))) {
            (Named::Absent, Some(value)) if name == "model" => Named::Model(value),
            _ => Named::Ambiguous,
        };
    }
    named
}

/// Decodes percent-encoded text. Returns `None` if it is malformed, or no UTF-8.
fn decoded(text: &str, plus_is_space: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        match byte {
            b'%' => {
                let (digits, behind) = rest.split_at_checked(2)?;
                let digits = std::str::from_utf8(digits).ok()?;
                if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                    return None;
                }
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = behind;
            }
            b'+' if plus_is_space => bytes.push(b' '),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}
