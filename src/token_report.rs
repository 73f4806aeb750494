//! The tokens that a request used, and where its account reports them to its record.

use std::sync::OnceLock;

/// How the tokens of a request became known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokensBy {
    /// The upstream reported them.
    Reported,
    /// bearward counted the events of the answer that had content.
    Counted,
    /// Neither: the tokens are those that were reserved.
    Estimated,
}

impl TokensBy {
    pub(crate) fn name(self) -> &'static str {
        match self {
            TokensBy::Reported => "reported",
            TokensBy::Counted => "counted",
            TokensBy::Estimated => "estimated",
        }
    }
}

/// The tokens that a request used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tokens {
    /// All tokens of the input, from a cache or not.
    pub(crate) input: u64,
    /// Tokens of the input that came from a cache, if the upstream reported them.
    pub(crate) cached: Option<u64>,
    pub(crate) output: u64,
    pub(crate) by: TokensBy,
}

/// Where an account reports the tokens of its request, for the request's record.
#[derive(Debug, Default)]
pub(crate) struct TokenReport(OnceLock<Tokens>);

impl TokenReport {
    /// Reports the tokens of the request. Called at most once.
    pub(crate) fn set(&self, tokens: Tokens) {
        let first = self.0.set(tokens);
        debug_assert!(first.is_ok(), "an account is settled once");
    }

    /// Returns the tokens of the request; `None` if it used none.
    pub(crate) fn tokens(&self) -> Option<Tokens> {
        self.0.get().copied()
    }
}
