//! What a certificate authority asks, to see that a name belongs to this server, and the way of a question
//! from the workers to the thread that knows the answer.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

/// The path of requests of an authority, before the token (RFC 8555, section 8.3).
pub(crate) const HTTP_PATH: &str = "/.well-known/acme-challenge/";
/// The protocol of handshakes of an authority (RFC 8737, section 6.2).
pub(crate) const ALPN: &[u8] = b"acme-tls/1";

/// Time for which what is known of other processes' answers holds.
pub(super) const FRESH: Duration = Duration::from_millis(200);

/// Longest token that is looked for. Authorities send 43 characters.
const LONGEST_TOKEN: usize = 256;
/// Longest name that is looked for.
const LONGEST_NAME: usize = 253;
/// Greatest number of questions that wait for the thread. Others have no answer.
const MOST_WAITING: usize = 256;
/// Longest wait for the thread.
const PATIENCE: Duration = Duration::from_secs(3);

/// What an authority asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Question {
    /// A request for the path with this token.
    Http(String),
    /// A handshake for this name.
    Tls(String),
}

impl Question {
    /// Makes the question of a request; `None` if no authority sends such a token.
    pub(super) fn of_token(token: &str) -> Option<Self> {
        let is_sound = (1..=LONGEST_TOKEN).contains(&token.len())
            && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        is_sound.then(|| Question::Http(token.to_owned()))
    }

    /// Makes the question of a handshake; `None` if the name is none.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        let is_sound = (1..=LONGEST_NAME).contains(&name.len()) && crate::host_pattern::is_name(name);
        is_sound.then(|| Question::Tls(name.to_ascii_lowercase()))
    }

    /// Whether this is a handshake for the domain.
    pub(super) fn is_for(&self, domain: &str) -> bool {
        matches!(self, Question::Tls(name) if name == domain)
    }

    /// Returns the question as text, by which replicas know it.
    pub(super) fn text(&self) -> String {
        match self {
            Question::Http(token) => format!("http:{token}"),
            Question::Tls(name) => format!("tls:{name}"),
        }
    }
}

/// A question that waits for its answer: the key authorization (RFC 8555, section 8.1).
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) question: Question,
    pub(super) reply: oneshot::Sender<Option<String>>,
}

/// The way of questions to the thread.
#[derive(Debug)]
pub(super) struct Line {
    sender: mpsc::Sender<Waiting>,
}

impl Line {
    pub(super) fn new() -> (Self, mpsc::Receiver<Waiting>) {
        let (sender, receiver) = mpsc::channel(MOST_WAITING);
        (Line { sender }, receiver)
    }

    /// Returns the answer to a question; `None` if nobody knows one.
    pub(super) async fn ask(&self, question: Question) -> Option<String> {
        let (reply, answer) = oneshot::channel();
        self.sender.try_send(Waiting { question, reply }).ok()?;
        tokio::time::timeout(PATIENCE, answer).await.ok()?.ok()?
    }
}
