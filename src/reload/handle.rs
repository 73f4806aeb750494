//! The handle with which callers request a reload and get its outcome.

use std::path::Path;
use std::sync::mpsc::{self, TrySendError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::part::Part;
use super::watch::Touched;
use crate::config::fault::{Fault, Faults};
use crate::key_store::redis::watch::News;

const ROOM_INTERVAL: Duration = Duration::from_millis(10);

/// The outcome of the reload of one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Unchanged,
    Applied,
    /// The part has faults, and stays as it was.
    Refused(Faults),
}

impl Outcome {
    /// Returns the outcome for a caller that requests a reload while a file is being written.
    pub(super) fn unsettled(part: Part) -> Self {
        let message = "is being written; it is taken once it stands still";
        Outcome::Refused(Fault::of_file(Path::new(part.name()), message).into())
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Outcome::Unchanged => "unchanged",
            Outcome::Applied => "applied",
            Outcome::Refused(_) => "refused",
        }
    }
}

/// The outcome of a reload.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// The number of changes that were applied since the process started.
    pub(crate) generation: u64,
    pub(crate) parts: Vec<(Part, Outcome)>,
    /// Changed fields of the configuration that take effect only after a restart.
    pub(crate) needs_restart: Vec<&'static str>,
}

pub(super) enum Message {
    Touched(Touched),
    /// News of the key store in a Redis server.
    Store(News),
    Asked(Option<oneshot::Sender<Report>>),
    Stop,
}

/// Sends messages to the reloading thread, for example requests for a reload.
#[derive(Clone, Debug)]
pub(crate) struct Handle(pub(super) mpsc::SyncSender<Message>);

impl Handle {
    /// Reloads now, and returns the outcome; `None` if the process is ending.
    pub(crate) async fn reload(&self) -> Option<Report> {
        let (reply, report) = oneshot::channel();
        self.send(Message::Asked(Some(reply))).await;
        report.await.ok()
    }

    /// Requests a reload without waiting for its outcome.
    pub(crate) async fn nudge(&self) {
        self.send(Message::Asked(None)).await;
    }

    /// Asks the reloading thread to end.
    pub(crate) async fn stop(&self) {
        self.send(Message::Stop).await;
    }

    /// Sends a message to the reloading thread. If the inbox of the thread is full, this function
    /// waits without blocking the runtime.
    async fn send(&self, mut message: Message) {
        loop {
            match self.0.try_send(message) {
                Err(TrySendError::Full(unsent)) => message = unsent,
                // If the reloading thread has ended, a caller that waits for a reply gets `None`.
                Ok(()) | Err(TrySendError::Disconnected(_)) => return,
            }
            tokio::time::sleep(ROOM_INTERVAL).await;
        }
    }
}

/// Returns the messages to the service manager at the beginning of a reload.
pub(super) fn reloading() -> Vec<sd_notify::NotifyState<'static>> {
    // systemd 253 and later also requires the current time in this message.
    let time = sd_notify::NotifyState::monotonic_usec_now().ok();
    std::iter::once(sd_notify::NotifyState::Reloading).chain(time).collect()
}
