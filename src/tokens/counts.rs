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

use crate::json::{Finder, Member, Sought};

/// The members that have counts.
macro_rules! members {
    ($($more:literal),*) => {
        &[
            "usage", "timings", "prompt_eval_count", "eval_count", "tokens_evaluated", "tokens_predicted",
            // In SGLang's `meta_info` and TGI's `details`, which are too long to be kept.
            "prompt_tokens", "completion_tokens", "cached_tokens", "input_length", "generated_tokens",
            "prefill", $($more),*
        ]
    };
}

/// What to look for in a whole answer.
pub(super) const IN_DOCUMENT: Sought = Sought { members: members!(), wrappers: &[META_INFO, DETAILS] };

/// What to look for in an event of a stream: the counts, which may be wrapped, and the choices.
pub(super) const IN_EVENT: Sought =
    Sought { members: members!("choices", "index"), wrappers: &["response", "message", META_INFO, DETAILS] };

/// SGLang's object with counts.
pub(super) const META_INFO: &str = "meta_info";

/// TGI's object with counts.
const DETAILS: &str = "details";

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
        Counts::of_objects(finder.found())
    }

    /// Adds up the counts of several objects. SGLang and llama.cpp answer a list of prompts with a
    /// list.
    pub(super) fn of_objects(found: &[Member]) -> Counts {
        let each = found.chunk_by(|one, next| one.item == next.item).map(Counts::of_members);
        each.reduce(Counts::plus).unwrap_or_default()
    }

    fn of_members(found: &[Member]) -> Counts {
        if found.is_empty() {
            return Counts::default();
        }
        let find = |wrapper: Option<&str>, name: &str| {
            found.iter().rev().find(|member| member.wrapper == wrapper && member.name == name)
        };
        let object = |name: &str| find(None, name).and_then(Member::object);
        let count = |name: &str| find(None, name).and_then(Member::number);
        let mut counts = object("timings").map(of_timings).unwrap_or_default();
        counts.update(Counts {
            // llama.cpp leaves out the one or the other if the client wishes so. Alone, it is no count.
            input: count("prompt_eval_count")
                .or_else(|| count("tokens_evaluated").filter(|_| count("tokens_predicted").is_some())),
            cached: None,
            output: count("eval_count").or_else(|| count("tokens_predicted")),
        });
        let of = |wrapper: &str, name: &str| find(Some(wrapper), name).and_then(Member::number);
        counts.update(Counts {
            input: of(META_INFO, "prompt_tokens"),
            cached: of(META_INFO, "cached_tokens"),
            output: of(META_INFO, "completion_tokens"),
        });
        counts.update(Counts {
            input: of(DETAILS, "input_length")
                .or_else(|| find(Some(DETAILS), "prefill").and_then(number_of_items)),
            cached: None,
            output: of(DETAILS, "generated_tokens"),
        });
        // Events of OpenAI's responses and of Anthropic's messages wrap the answer.
        for wrapper in [Some("response"), Some("message"), None] {
            let usage = find(wrapper, "usage").and_then(Member::object);
            counts.update(usage.map(of_usage).unwrap_or_default());
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

/// The members of a server's object with counts.
struct Numbers(Finder);

impl Numbers {
    /// Finds the members of an object. `sought`: their names, and those of objects in it.
    fn of(object: &[u8], sought: Sought) -> Self {
        let mut finder = Finder::new(sought);
        finder.push(object);
        Numbers(finder)
    }

    fn find(&self, wrapper: Option<&str>, name: &str) -> Option<&Member> {
        self.0.found().iter().rev().find(|member| member.wrapper == wrapper && member.name == name)
    }

    fn count(&self, name: &str) -> Option<u64> {
        self.find(None, name)?.number()
    }
}

fn of_usage(usage: &[u8]) -> Counts {
    const SOUGHT: Sought = Sought {
        members: &[
            "prompt_tokens",
            "completion_tokens",
            "input_tokens",
            "output_tokens",
            "cached_tokens",
            "cache_creation_input_tokens",
            "cache_read_input_tokens",
        ],
        wrappers: &["prompt_tokens_details", "input_tokens_details"],
    };
    let usage = Numbers::of(usage, SOUGHT);
    let detail = |object: &str| usage.find(Some(object), "cached_tokens").and_then(Member::number);
    let (created, read) =
        (usage.count("cache_creation_input_tokens"), usage.count("cache_read_input_tokens"));
    // Anthropic's `input_tokens` leave out what was written to a cache or read from it.
    let of_anthropic = usage
        .count("input_tokens")
        .map(|fresh| fresh.saturating_add(created.unwrap_or(0)).saturating_add(read.unwrap_or(0)));
    Counts {
        input: usage.count("prompt_tokens").or(of_anthropic),
        cached: detail("prompt_tokens_details").or_else(|| detail("input_tokens_details")).or(read),
        output: usage.count("completion_tokens").or_else(|| usage.count("output_tokens")),
    }
}

/// Reads llama.cpp's timings, whose `prompt_n` leaves out the cached tokens.
fn of_timings(timings: &[u8]) -> Counts {
    const SOUGHT: Sought = Sought { members: &["cache_n", "prompt_n", "predicted_n"], wrappers: &[] };
    let timings = Numbers::of(timings, SOUGHT);
    let cached = timings.count("cache_n");
    let input = timings.count("prompt_n").map(|fresh| fresh.saturating_add(cached.unwrap_or(0)));
    Counts { input, cached, output: timings.count("predicted_n") }
}

/// Returns the number of items of a list of objects, if it has any.
fn number_of_items(list: &Member) -> Option<u64> {
    let items: Vec<serde::de::IgnoredAny> = serde_json::from_slice(&list.written).ok()?;
    (!items.is_empty()).then_some(items.len() as u64)
}
