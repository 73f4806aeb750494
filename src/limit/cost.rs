//! What a request costs, in the units that windows count.

/// What a window counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Unit {
    Requests,
    #[cfg_attr(not(test), expect(dead_code, reason = "no window of the configuration counts tokens, so far"))]
    Tokens,
}

/// The cost of a request in each unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) requests: u32,
    pub(crate) tokens: u32,
}

impl Cost {
    /// One request, of which no tokens are counted.
    pub(crate) const REQUEST: Cost = Cost { requests: 1, tokens: 0 };

    /// The cost in one unit.
    pub(crate) fn of(self, unit: Unit) -> u32 {
        match unit {
            Unit::Requests => self.requests,
            Unit::Tokens => self.tokens,
        }
    }
}

impl Unit {
    /// The name in policies: `requests-1m`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Unit::Requests => "requests",
            Unit::Tokens => "tokens",
        }
    }
}
