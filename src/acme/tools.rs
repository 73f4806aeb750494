//! What the thread works with.

use std::sync::Arc;
use std::time::Duration;

use instant_acme::HttpClient;
use rustls::crypto::CryptoProvider;

use super::answers::OpenAnswers;
use super::fleet::{Fleet, OfServer};
use crate::clock::Clock;
use crate::config::Acme;
use crate::config::fault::Faults;
use crate::observe::Logs;

/// An HTTP client for an authority, and what that has said of the next attempt.
pub(crate) struct Connected {
    /// Makes a client.
    pub(crate) http: Box<dyn Fn() -> Box<dyn HttpClient>>,
    /// Returns the time to wait that the authority has asked for, in its last answer.
    pub(crate) retry_after: Box<dyn Fn() -> Option<Duration>>,
}

/// Makes the HTTP client for an authority, or returns the faults of the files that it needs.
type Connect = fn(&Acme) -> Result<Connected, Faults>;

/// What the thread works with.
pub(crate) struct Tools {
    pub(super) clock: Clock,
    pub(super) connect: Connect,
    pub(super) fleet: Fleet,
    pub(super) answers: OpenAnswers,
    pub(super) logs: Logs,
    pub(super) provider: Arc<CryptoProvider>,
}

impl Tools {
    /// `of_server`: returns the server that replicas share, if there is one.
    pub(crate) fn new(
        clock: Clock,
        connect: Connect,
        of_server: OfServer,
        logs: Logs,
        provider: Arc<CryptoProvider>,
    ) -> Self {
        let (fleet, answers) = (Fleet::new(of_server), OpenAnswers::default());
        Tools { clock, connect, fleet, answers, logs, provider }
    }
}
