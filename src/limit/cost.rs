//! The cost of a request, in the units that windows count.

use crate::config::Unit;

/// The cost of a request, in each unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) requests: u32,
    pub(crate) input_tokens: u32,
    /// Tokens of the input that the request needs in any case. The number decides whether a wait
    /// could help, since an estimate that follows earlier answers may be too high.
    pub(crate) least_input_tokens: u32,
    pub(crate) output_tokens: u32,
    /// Tokens of the output that the request asks for. The rest of `output_tokens` is a guess, of which a
    /// budget reserves no more than it has left.
    pub(crate) declared_output_tokens: u32,
    /// Whether the charge may be taken back as a whole, because the request may not be sent to upstream: it
    /// waits in a queue first.
    pub(crate) may_be_taken_back: bool,
}

impl Cost {
    /// The cost of one request whose tokens are not counted.
    pub(crate) const REQUEST: Cost = Cost {
        requests: 1,
        input_tokens: 0,
        least_input_tokens: 0,
        output_tokens: 0,
        declared_output_tokens: 0,
        may_be_taken_back: false,
    };

    /// The cost of a request that was not sent to upstream.
    pub(crate) const NOTHING: Cost = Cost { requests: 0, ..Cost::REQUEST };

    /// Returns the cost of the same request, whose charge may be taken back.
    pub(crate) fn to_be_taken_back(self, may_be_taken_back: bool) -> Self {
        Cost { may_be_taken_back, ..self }
    }

    /// Returns the cost of the request in one unit.
    pub(crate) fn of(self, unit: Unit) -> u32 {
        match unit {
            Unit::Requests => self.requests,
            Unit::Tokens => self.input_tokens.saturating_add(self.output_tokens),
            Unit::InputTokens => self.input_tokens,
            Unit::OutputTokens => self.output_tokens,
        }
    }

    /// Returns the least that the request needs in one unit, without guesses.
    pub(crate) fn least_of(self, unit: Unit) -> u32 {
        let (input, output) = (self.least_input_tokens, self.declared_output_tokens);
        let least = match unit {
            Unit::Requests => self.requests,
            Unit::Tokens => input.saturating_add(output),
            Unit::InputTokens => input,
            Unit::OutputTokens => output,
        };
        least.min(self.of(unit))
    }
}
