//! The token counts that a server reports in an answer, in the form of each API.
//!
//! | API | members |
//! |---|---|
//! | OpenAI chat, completions, embeddings | `usage.{prompt,completion}_tokens`, `prompt_tokens_details.cached_tokens` |
//! | OpenAI responses | `usage.{input,output}_tokens`, `input_tokens_details.cached_tokens` |
//! | Anthropic messages | `usage.{input,output}_tokens`, `cache_creation_input_tokens`, `cache_read_input_tokens` |
//! | Ollama | `prompt_eval_count`, `eval_count` |
//! | llama.cpp | `timings.{prompt_n,cache_n,predicted_n}`, `tokens_evaluated`, `tokens_predicted` |
//! | SGLang | `meta_info.{prompt,completion,cached}_tokens` |
//! | TGI | `details.{input_length,prefill,generated_tokens}` |

use serde_json::{Map, Value};

use crate::json::{Finder, Member, Sought};

/// The members that have counts.
macro_rules! members {
    ($($more:literal),*) => {
        &[
            "usage", "timings", "prompt_eval_count", "eval_count", "tokens_evaluated", "tokens_predicted",
            "meta_info", "details", $($more),*
        ]
    };
}

/// What to look for in a whole answer.
pub(super) const IN_DOCUMENT: Sought = Sought { members: members!(), wrappers: &[] };

/// What to look for in an event of a stream: the counts, which may be wrapped, and the choices.
pub(super) const IN_EVENT: Sought =
    Sought { members: members!("choices", "index"), wrappers: &["response", "message"] };

/// Token counts, as far as they were reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// All tokens of the input, from a cache or not.
    pub(crate) input: Option<u64>,
    /// Tokens of the input that came from a cache.
    pub(crate) cached: Option<u64>,
    pub(crate) output: Option<u64>,
}

impl Counts {
    /// Whether no count was reported.
    pub(crate) fn is_empty(self) -> bool {
        self == Counts::default()
    }

    /// Replaces the counts that `later` has. Counts of a stream are sums since its beginning.
    pub(crate) fn update(&mut self, later: Counts) {
        self.input = later.input.or(self.input);
        self.cached = later.cached.or(self.cached);
        self.output = later.output.or(self.output);
    }

    /// Reads the counts from the members that were found in a document, which is a whole answer or
    /// one event of a stream.
    pub(crate) fn of(finder: &Finder) -> Counts {
        let found = finder.found();
        if finder.is_list() {
            // SGLang answers a list of prompts with a list.
            let each = found.iter().map(|member| Counts::of_members(&map(std::slice::from_ref(member))));
            return each.fold(Counts::default(), Counts::plus);
        }
        Counts::of_members(&map(found))
    }

    fn of_members(members: &Map<String, Value>) -> Counts {
        let object = |name: &str| members.get(name).and_then(Value::as_object);
        let mut counts = Counts::default();
        if let Some(timings) = object("timings") {
            counts.update(of_timings(timings));
        }
        counts.update(Counts {
            input: count(members, "prompt_eval_count").or_else(|| count(members, "tokens_evaluated")),
            cached: None,
            output: count(members, "eval_count").or_else(|| count(members, "tokens_predicted")),
        });
        if let Some(info) = object("meta_info") {
            counts.update(of_meta_info(info));
        }
        if let Some(details) = object("details") {
            counts.update(of_details(details));
        }
        // Events of OpenAI's responses and of Anthropic's messages wrap the answer.
        for wrapper in ["response", "message"] {
            if let Some(usage) = object(wrapper).and_then(|inner| inner.get("usage")?.as_object()) {
                counts.update(of_usage(usage));
            }
        }
        if let Some(usage) = object("usage") {
            counts.update(of_usage(usage));
        }
        counts
    }

    pub(super) fn plus(self, other: Counts) -> Counts {
        let sum = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (None, None) => None,
            (a, b) => Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0))),
        };
        Counts {
            input: sum(self.input, other.input),
            cached: sum(self.cached, other.cached),
            output: sum(self.output, other.output),
        }
    }
}

/// Returns the members as an object, as they were in the document.
fn map(found: &[Member]) -> Map<String, Value> {
    let mut members = Map::new();
    for Member { wrapper, name, value } in found {
        let of = match wrapper {
            None => &mut members,
            Some(wrapper) => {
                let inner = members.entry(*wrapper).or_insert_with(|| Value::Object(Map::new()));
                let Some(inner) = inner.as_object_mut() else { continue };
                inner
            }
        };
        of.insert((*name).to_owned(), value.clone());
    }
    members
}

fn count(members: &Map<String, Value>, name: &str) -> Option<u64> {
    members.get(name)?.as_u64()
}

fn of_usage(usage: &Map<String, Value>) -> Counts {
    let detail = |object: &str| count(usage.get(object)?.as_object()?, "cached_tokens");
    let (created, read) =
        (count(usage, "cache_creation_input_tokens"), count(usage, "cache_read_input_tokens"));
    // Anthropic's `input_tokens` leave out what was written to a cache or read from it.
    let of_anthropic = count(usage, "input_tokens")
        .map(|fresh| fresh.saturating_add(created.unwrap_or(0)).saturating_add(read.unwrap_or(0)));
    Counts {
        input: count(usage, "prompt_tokens").or(of_anthropic),
        cached: detail("prompt_tokens_details").or_else(|| detail("input_tokens_details")).or(read),
        output: count(usage, "completion_tokens").or_else(|| count(usage, "output_tokens")),
    }
}

/// Reads llama.cpp's timings, whose `prompt_n` leaves out the cached tokens.
fn of_timings(timings: &Map<String, Value>) -> Counts {
    let cached = count(timings, "cache_n");
    let input = count(timings, "prompt_n").map(|fresh| fresh.saturating_add(cached.unwrap_or(0)));
    Counts { input, cached, output: count(timings, "predicted_n") }
}

fn of_meta_info(info: &Map<String, Value>) -> Counts {
    Counts {
        input: count(info, "prompt_tokens"),
        cached: count(info, "cached_tokens"),
        output: count(info, "completion_tokens"),
    }
}

fn of_details(details: &Map<String, Value>) -> Counts {
    let prefill = details.get("prefill").and_then(Value::as_array).filter(|tokens| !tokens.is_empty());
    Counts {
        input: count(details, "input_length").or_else(|| Some(prefill?.len() as u64)),
        cached: None,
        output: count(details, "generated_tokens"),
    }
}
