//! What others see of the reload: they ask for one, and are told what came of it.

use std::sync::mpsc::{self, TrySendError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::part::Part;
use super::watch::Touched;
use crate::config::fault::Faults;

const ROOM_INTERVAL: Duration = Duration::from_millis(10);

/// What became of one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Unchanged,
    Applied,
    /// What was there before stays.
    Refused(Faults),
}

impl Outcome {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Outcome::Unchanged => "unchanged",
            Outcome::Applied => "applied",
            Outcome::Refused(_) => "refused",
        }
    }
}

/// What a reload did.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// Counts the changes that were applied since the start.
    pub(crate) generation: u64,
    pub(crate) parts: Vec<(Part, Outcome)>,
    /// Fields of the configuration that differ from what runs, and take a restart.
    pub(crate) needs_restart: Vec<&'static str>,
}

pub(super) enum Message {
    Touched(Touched),
    Asked(Option<oneshot::Sender<Report>>),
    Stop,
}

/// Asks the reloading thread.
#[derive(Clone, Debug)]
pub(crate) struct Handle(pub(super) mpsc::SyncSender<Message>);

impl Handle {
    /// Reloads now, and says what came of it; `None` where the process is ending.
    pub(crate) async fn reload(&self) -> Option<Report> {
        let (reply, report) = oneshot::channel();
        self.send(Message::Asked(Some(reply))).await;
        report.await.ok()
    }

    /// Reloads soon.
    pub(crate) async fn nudge(&self) {
        self.send(Message::Asked(None)).await;
    }

    /// Ends the thread.
    pub(crate) async fn stop(&self) {
        self.send(Message::Stop).await;
    }

    /// Sends, and waits for room without holding up the runtime.
    async fn send(&self, mut message: Message) {
        loop {
            match self.0.try_send(message) {
                Err(TrySendError::Full(unsent)) => message = unsent,
                // Whoever waits for a reply sees that there is none.
                Ok(()) | Err(TrySendError::Disconnected(_)) => return,
            }
            tokio::time::sleep(ROOM_INTERVAL).await;
        }
    }
}
