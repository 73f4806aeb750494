//! What a server answers to questions without a key, and what follows from it.
//!
//! Called by the command and by its report. Invariant: what is not known counts as open.

use super::questions::Question;
use super::reach::Reach;
use crate::cli::model_server::ModelServer;
use crate::config::presets::Preset;

/// What a server's answer to a request without a key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It asks for a key.
    Guarded,
    /// It acts without a key.
    Open,
    /// It refuses, and does not say that a key would help: a server may refuse the name by which it was asked, or
    /// the network that the question came from.
    Refused,
    /// It has nothing at this path, or only by another method.
    Absent,
}

impl Verdict {
    pub(super) fn of(status: u16) -> Self {
        match status {
            401 => Verdict::Guarded,
            403 => Verdict::Refused,
            404 => Verdict::Absent,
            _ => Verdict::Open,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Verdict::Guarded => "guarded",
            Verdict::Open => "open",
            Verdict::Refused => "refused",
            Verdict::Absent => "absent",
        }
    }
}

/// A question and what the server answered; the answer is `None` if there was none.
pub(super) struct Finding {
    pub(super) question: Question,
    pub(super) status: Option<u16>,
}

impl Finding {
    pub(super) fn verdict(&self) -> Option<Verdict> {
        self.status.map(Verdict::of)
    }
}

/// The outcome of an audit.
pub(super) struct Audit {
    pub(super) url: String,
    pub(super) server: ModelServer,
    /// The kinds of servers whose paths were asked for.
    pub(super) kinds: Vec<Preset>,
    pub(super) findings: Vec<Finding>,
    pub(super) reach: Reach,
}

/// What follows from the answers, and from where the server can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conclusion {
    /// Each path that it has asks for a key.
    Guarded,
    /// Only this machine, or this pod, can reach it. It asks for no key, or that is not known.
    Local,
    /// Other machines can use it without a key.
    Open,
    /// Other machines can reach it, and it told nothing, or not all.
    Unknown,
}

impl Conclusion {
    pub(super) fn name(self) -> &'static str {
        match self {
            Conclusion::Guarded => "guarded",
            Conclusion::Local => "local",
            Conclusion::Open => "open",
            Conclusion::Unknown => "unknown",
        }
    }
}

impl Audit {
    /// Returns the number of answers with this meaning.
    pub(super) fn count(&self, verdict: Verdict) -> usize {
        self.findings.iter().filter(|finding| finding.verdict() == Some(verdict)).count()
    }

    /// Returns the number of questions without an answer.
    pub(super) fn silent(&self) -> usize {
        self.findings.iter().filter(|finding| finding.status.is_none()).count()
    }

    pub(super) fn conclusion(&self) -> Conclusion {
        let is_open = self.count(Verdict::Open) > 0;
        let is_known = self.silent() == 0 && self.count(Verdict::Refused) == 0;
        let is_guarded = !is_open && self.count(Verdict::Guarded) > 0 && is_known;
        match self.reach.is_exposed() {
            _ if is_guarded => Conclusion::Guarded,
            false => Conclusion::Local,
            true if is_open => Conclusion::Open,
            true => Conclusion::Unknown,
        }
    }

    /// Whether nobody on another machine finds anything open.
    pub(super) fn is_safe(&self) -> bool {
        matches!(self.conclusion(), Conclusion::Guarded | Conclusion::Local)
    }

    /// Returns the kind of the server, as it tells or as it was asked; `None` if it is not known.
    pub(super) fn kind(&self) -> Option<Preset> {
        match self.kinds.as_slice() {
            [only] => Some(*only),
            _ => self.server.preset,
        }
    }

    /// Returns the names of the kinds whose paths were asked for.
    pub(super) fn names_of_kinds(&self) -> String {
        self.kinds.iter().map(|preset| preset.name()).collect::<Vec<_>>().join(", ")
    }
}
