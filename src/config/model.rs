//! `model_in`, `models` and `request`: where a route's requests name their model, which models are
//! allowed, and how much output a request may ask for.

use crate::config::decode::Decoder;
use crate::config::field::not_in_files;
use crate::config::form::{Form, boolean, non_empty, one_of, size, word};
use crate::config::quota::{count, parse_count};
use crate::config::section::{nested, section};
use crate::config::tree::Node;
use crate::model::{ModelNaming, ModelPatterns, Server};

/// The place in a request where its model is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ModelIn {
    /// The member `model` of a JSON body.
    Body,
    /// The field `model` of a form.
    Form,
    /// The segment of the path for which `{model}` stands.
    Path,
    /// The parameter `model` of the query.
    Query,
    /// The answer lists models, and is filtered.
    List,
    /// The request names no model.
    None,
}

const PLACES: [(&str, ModelIn); 6] = [
    ("body", ModelIn::Body),
    ("form", ModelIn::Form),
    ("path", ModelIn::Path),
    ("query", ModelIn::Query),
    ("list", ModelIn::List),
    ("none", ModelIn::None),
];

impl ModelIn {
    /// Returns the place's name in files.
    pub(crate) fn name(self) -> &'static str {
        PLACES.iter().find(|(_, place)| *place == self).map_or("none", |(name, _)| *name)
    }
}

section! {
    /// The models of a route, and where its requests name them.
    #[derive(Clone, Debug)]
    pub(crate) struct RouteModel: Default in "a route" {
        /// The place in a request where its model is read. body: the member `model` of a JSON body.
        /// form: the field `model` of a form. path: the segment for which `{model}` stands in the
        /// route's paths. query: the parameter `model`. list: the answer lists models, and is
        /// filtered. none: the request names no model.
        place as "model_in": ModelIn = one_of(&PLACES).or(ModelIn::None);
        /// Patterns of the models that the route matches, as in llama-3*; a pattern with `!` takes
        /// models out again. Left out: all models.
        models: Option<ModelPatterns> = models().optional();
        /// Whether keys that are restricted to models may use the route, although its requests name
        /// no model.
        models_free: bool = boolean().or(false);
        /// The part of a request's body in which the model and the output limits must be. Left out:
        /// the size in `limits`.
        model_prelude: Option<u64> = size().optional();
        /// How much output a request on the route may ask for.
        request: Option<OutputCap> = nested().optional();
        /// Whether requests on the route use tokens.
        uses_tokens: UsesTokens = not_in_files();
        /// Whether requests on the route use tokens of the input alone, as embeddings do.
        has_no_output: bool = not_in_files();
        /// Whether requests on the route generate output in a form in which no cap can hold it.
        hides_output: bool = not_in_files();
        /// The server to which the route leads.
        server: Server = not_in_files();
        /// How the route's server reads the names of models.
        naming: ModelNaming = not_in_files();
        /// Whether the server is asked for the usage of streams, if its upstream does not say.
        usage: Usage = not_in_files();
    }
}

/// Whether requests on a route use tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum UsesTokens {
    /// Requests that may generate output use tokens, if the route says where their model is.
    #[default]
    Posts,
    /// Requests that may generate output use tokens, although the route does not say where their model
    /// is.
    Always,
    No,
}

/// Whether an upstream is asked for the usage of streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Usage {
    /// The upstream is asked. What comes by asking is removed from the answer.
    #[default]
    Ask,
    /// The upstream is asked. It sends `"usage": null` in any case.
    AskWithNulls,
    /// Requests are forwarded as they are.
    Leave,
}

/// The words of `usage`.
pub(super) const USAGE: [(&str, Usage); 2] = [("ask", Usage::Ask), ("leave", Usage::Leave)];

section! {
    /// How much output a request may ask for, in any spelling of its API.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub(crate) struct OutputCap in "request" {
        /// The largest number of output tokens that a request may ask for.
        max_output_tokens: u32 = count().required();
        /// What happens to a request that asks for more, or for no number: it is refused with 400,
        /// or its number is lowered.
        on_excess: OnExcess = one_of(&ON_EXCESS).or(OnExcess::Refuse);
    }
}

/// What happens to a request that asks for too much output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum OnExcess {
    Refuse,
    Lower,
}

impl OnExcess {
    /// Returns the word for this in files.
    pub(crate) fn name(self) -> &'static str {
        ON_EXCESS.iter().find(|(_, known)| *known == self).map_or("refuse", |(name, _)| *name)
    }
}

const ON_EXCESS: [(&str, OnExcess); 2] = [("refuse", OnExcess::Refuse), ("lower", OnExcess::Lower)];

/// Returns the `Form` of a list of patterns for models.
pub(super) fn models() -> Form<ModelPatterns> {
    non_empty(word()).then(|d, node, written| match ModelPatterns::new(written) {
        Ok(patterns) => Some(patterns),
        Err((_, fault)) => d.hinted(node.at, fault.to_string(), "as in [\"llama-3*\", \"!*-70b\"]"),
    })
}

/// Decodes the `models` of a key.
pub(crate) fn model_patterns(d: &mut Decoder<'_>, node: &Node) -> Option<ModelPatterns> {
    models().decode(d, node)
}

/// Decodes the `request` of a key.
pub(crate) fn output_cap(d: &mut Decoder<'_>, node: &Node) -> Option<OutputCap> {
    nested::<OutputCap>().decode(d, node)
}

/// Parses an output cap on the command line: `4096`, or `4096/lower`.
pub(crate) fn parse_output_cap(text: &str) -> Option<OutputCap> {
    let (number, word) = text.split_once('/').unwrap_or((text, "refuse"));
    let on_excess = ON_EXCESS.iter().find(|(known, _)| *known == word).map(|(_, on_excess)| *on_excess)?;
    Some(OutputCap { max_output_tokens: parse_count(number)?, on_excess })
}
