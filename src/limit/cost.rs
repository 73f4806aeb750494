//! The cost of a request, in the units that windows count.

/// The unit that a window counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Unit {
    Requests,
    #[cfg_attr(not(test), expect(dead_code, reason = "no window of the configuration counts tokens, so far"))]
    Tokens,
}

/// The cost of a request, in each unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) requests: u32,
    pub(crate) tokens: u32,
}

impl Cost {
    /// The cost of one request whose tokens are not counted.
    pub(crate) const REQUEST: Cost = Cost { requests: 1, tokens: 0 };

    /// Returns the cost of the request in one unit.
    pub(crate) fn of(self, unit: Unit) -> u32 {
        match unit {
            Unit::Requests => self.requests,
            Unit::Tokens => self.tokens,
        }
    }
}

impl Unit {
    /// Returns the name of the unit, which is a part of a policy's name: `requests` in
    /// `requests-1m`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Unit::Requests => "requests",
            Unit::Tokens => "tokens",
        }
    }
}
