//! Whether the tokens of an answer will be known, where limits depend on them.

use crate::config::Usage;
use crate::denial::Denial;
use crate::model::{BodyScan, Server, folded_path};
use crate::route::Route;
use crate::tokens::Asking;
use crate::upstream::request_body::UploadFailure;

/// What a request's body must not say, so that the tokens of its answer can be limited.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Countable {
    /// Whether limits or budgets count the output.
    is_counted: bool,
    /// Whether the server may make the answer in the background, and the output is counted or capped.
    may_be_in_background: bool,
    /// Whether the upstream is asked for the usage of a stream on the path.
    may_ask: bool,
    /// Whether the server may let the client pick the members of the answer on the path.
    may_pick: bool,
}

/// Why the tokens of an answer may not be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Uncountable {
    InBackground,
    UnclearStream,
    /// The client picks the members of the answer.
    PickedAnswer,
}

impl Countable {
    /// `is_capped`: whether the request has a cap on its output; `is_counted`: whether limits or budgets count it.
    pub(crate) fn new(route: &Route, path: &str, (is_capped, is_counted): (bool, bool)) -> Self {
        let folded = folded_path(path);
        // OpenAI's responses are, and with SGLang's own API a request goes on when its client has left.
        let is_of_sglang = matches!(route.model.server, Server::SgLang | Server::Unknown);
        let is_of_llama_cpp = matches!(route.model.server, Server::LlamaCpp | Server::Unknown);
        let may_pick = ["/completion", "/completions", "/infill"].iter().any(|end| folded.ends_with(end));
        let in_background = folded.ends_with("/responses") || (is_of_sglang && folded.ends_with("/generate"));
        Countable {
            is_counted,
            may_be_in_background: in_background && (is_capped || is_counted),
            may_ask: is_counted && asking(route).concerns(path),
            may_pick: is_counted && is_of_llama_cpp && may_pick,
        }
    }

    /// Whether anything in a body matters.
    pub(crate) fn matters(self) -> bool {
        self.is_counted || self.may_be_in_background
    }

    /// Checks what was read of a body. One that can't be read in only one way may say anything.
    ///
    /// # Errors
    ///
    /// Why the tokens may not be known.
    pub(crate) fn check(self, scan: &BodyScan) -> Result<(), Uncountable> {
        let (declared, is_faulty) = (scan.declared(), scan.is_faulty());
        match () {
            () if self.may_be_in_background && (declared.is_in_background || is_faulty) => {
                Err(Uncountable::InBackground)
            }
            () if self.may_ask && (declared.stream.is_unclear() || is_faulty) => {
                Err(Uncountable::UnclearStream)
            }
            () if self.may_pick && (declared.picks_answer || is_faulty) => Err(Uncountable::PickedAnswer),
            () => Ok(()),
        }
    }
}

impl From<Uncountable> for Denial {
    fn from(why: Uncountable) -> Self {
        match why {
            Uncountable::InBackground => Denial::in_background(),
            Uncountable::UnclearStream => Denial::unclear_stream(),
            Uncountable::PickedAnswer => Denial::picked_answer(),
        }
    }
}

impl From<Uncountable> for UploadFailure {
    fn from(why: Uncountable) -> Self {
        match why {
            Uncountable::InBackground => UploadFailure::InBackground,
            Uncountable::UnclearStream => UploadFailure::UnclearStream,
            Uncountable::PickedAnswer => UploadFailure::PickedAnswer,
        }
    }
}

/// Returns how the upstream of a route is asked for the usage of streams.
pub(super) fn asking(route: &Route) -> Asking {
    match route.usage {
        Usage::Leave => Asking::Leave,
        Usage::Ask => Asking::Ask { strips_null: true },
        Usage::AskWithNulls => Asking::Ask { strips_null: false },
    }
}
