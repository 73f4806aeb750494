//! The outcome of a request in its access line: a closed set, decided here alone.

use crate::activity::cut::CutReason;
use crate::denial::Code;

/// Declares the closed set of outcomes: variant and word.
macro_rules! outcomes {
    ($($(#[$doc:meta])* $variant:ident $word:literal;)*) => {
        /// How a request ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Outcome { $($(#[$doc])* $variant),* }

        impl Outcome {
            /// The word in the access log.
            pub(crate) fn word(self) -> &'static str {
                match self { $(Outcome::$variant => $word),* }
            }
        }
    };
}

outcomes! {
    /// The answer went out whole.
    Complete "complete";
    /// The answer is a refusal of our own.
    Refused "refused";
    /// The client left before its answer had ended.
    ClientLeft "client_left";
    /// The client took nothing for `limits.client_stall_timeout`.
    ClientStalled "client_stalled";
    /// The key was revoked while its answer was open.
    Revoked "revoked";
    /// The key expired while its answer was open, or a request without a key had its time
    /// (`limits.public.total`).
    Expired "expired";
    /// The process stopped, and the answer lasted longer than the drain.
    Drained "drained";
    /// Upstream could not be reached, or broke off.
    UpstreamFailed "upstream_failed";
    /// Upstream was silent for too long.
    UpstreamTimeout "upstream_timeout";
}

impl Outcome {
    /// The outcome of a request with an answer of our own.
    pub(super) fn of_denial(code: Code) -> Self {
        match code {
            Code::UpstreamUnreachable | Code::UpstreamProtocolError | Code::UpstreamUnavailable => {
                Outcome::UpstreamFailed
            }
            Code::UpstreamTimeout => Outcome::UpstreamTimeout,
            _ => Outcome::Refused,
        }
    }

    /// The outcome of a request that was dropped before it ended in another way. `cut`: the
    /// server's reason, if it was the server.
    pub(super) fn of_dropped(cut: Option<CutReason>) -> Self {
        cut.map_or(Outcome::ClientLeft, Outcome::from)
    }
}

impl From<CutReason> for Outcome {
    fn from(cut: CutReason) -> Self {
        match cut {
            CutReason::ClientStalled => Outcome::ClientStalled,
            CutReason::Revoked => Outcome::Revoked,
            CutReason::Expired | CutReason::OutOfTime => Outcome::Expired,
            CutReason::Drained => Outcome::Drained,
            CutReason::MadeRoom => Outcome::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_a_refusal_but_those_of_upstreams_doing() {
        let of_upstream: Vec<&str> = Code::ALL
            .iter()
            .filter(|code| Outcome::of_denial(**code) != Outcome::Refused)
            .map(|code| code.name())
            .collect();
        assert_eq!(
            of_upstream,
            ["UPSTREAM_UNREACHABLE", "UPSTREAM_PROTOCOL_ERROR", "UPSTREAM_TIMEOUT", "UPSTREAM_UNAVAILABLE"]
        );
    }
}
