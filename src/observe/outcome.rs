//! The outcome of a request, as the request's access line reports it. This file declares all
//! outcomes.

use crate::activity::cut::CutReason;
use crate::denial::Code;

/// Declares the outcomes, each with its variant and its word in the access log.
macro_rules! outcomes {
    ($($(#[$doc:meta])* $variant:ident $word:literal;)*) => {
        /// How a request ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Outcome { $($(#[$doc])* $variant),* }

        impl Outcome {
            /// Returns the word of the outcome in the access log.
            pub(crate) fn word(self) -> &'static str {
                match self { $(Outcome::$variant => $word),* }
            }
        }
    };
}

outcomes! {
    /// The answer was sent completely.
    Complete "complete";
    /// The answer is a refusal by bearward itself.
    Refused "refused";
    /// The client left before its answer had ended.
    ClientLeft "client_left";
    /// The client read nothing for `limits.client_stall_timeout`.
    ClientStalled "client_stalled";
    /// The request's key was revoked while the answer was open.
    Revoked "revoked";
    /// The request's key expired while the answer was open, or a request without a key reached its
    /// time limit (`limits.public.total`).
    Expired "expired";
    /// The answer was cut, because it lasted longer than the drain of the stopping process.
    Drained "drained";
    /// Upstream could not be reached, or broke off its answer.
    UpstreamFailed "upstream_failed";
    /// Upstream was silent for too long.
    UpstreamTimeout "upstream_timeout";
}

impl Outcome {
    /// Returns the outcome of a request that bearward itself answered with `code`.
    pub(super) fn of_denial(code: Code) -> Self {
        match code {
            Code::UpstreamUnreachable | Code::UpstreamProtocolError | Code::UpstreamUnavailable => {
                Outcome::UpstreamFailed
            }
            Code::UpstreamTimeout => Outcome::UpstreamTimeout,
            _ => Outcome::Refused,
        }
    }

    /// Returns the outcome of a request that was dropped before its outcome was set. `cut`: the
    /// reason why bearward cut the request; `None` if the client has left.
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
