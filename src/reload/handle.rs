//! The handle with which callers request a reload and get its outcome.

use std::path::Path;
use std::sync::mpsc::{self, TrySendError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::part::Part;
use super::watch::Touched;
use crate::config::fault::{Fault, Faults};
use crate::key_store::redis::watch::News;
use crate::plural::plural;

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

impl Report {
    /// Logs the outcome in one line. Faults that were logged before are named again, because somebody has asked.
    /// `by`: what asked for the reload.
    pub(crate) fn log(&self, by: &'static str) {
        let (text, is_refused) = self.line();
        match is_refused {
            true => tracing::error!(by, "{text}"),
            false => tracing::info!(by, "{text}"),
        }
    }

    /// Returns the outcome in one line, and whether a part was refused.
    fn line(&self) -> (String, bool) {
        let with = |name: &str| -> Vec<&str> {
            self.parts
                .iter()
                .filter(|(_, outcome)| outcome.name() == name)
                .map(|(part, _)| part.name())
                .collect()
        };
        let (applied, refused) = (with("applied"), with("refused"));
        let reloaded = match applied.is_empty() {
            true => "reloaded: nothing changed".to_owned(),
            false => format!("reloaded {}", applied.join(", ")),
        };
        let mut faults = self.parts.iter().flat_map(|(_, outcome)| match outcome {
            Outcome::Refused(faults) => faults.0.as_slice(),
            Outcome::Unchanged | Outcome::Applied => &[],
        });
        let Some(first) = faults.next() else { return (reloaded, false) };
        let more = match faults.count() {
            0 => String::new(),
            more => format!(", and {}", plural(more, "more fault", "more faults")),
        };
        let rest = if applied.is_empty() { String::new() } else { format!("; {reloaded}") };
        (format!("refused {}: {first}{more}{rest}", refused.join(", ")), true)
    }
}

pub(super) enum Message {
    Touched(Touched),
    /// News of the key store in a Redis server.
    Store(News),
    Asked(oneshot::Sender<Report>),
    Stop,
}

/// Sends messages to the reloading thread, for example requests for a reload.
#[derive(Clone, Debug)]
pub(crate) struct Handle(pub(super) mpsc::SyncSender<Message>);

impl Handle {
    /// Reloads now, and returns the outcome; `None` if the process is ending.
    pub(crate) async fn reload(&self) -> Option<Report> {
        let (reply, report) = oneshot::channel();
        self.send(Message::Asked(reply)).await;
        report.await.ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outcome_of_a_reload_is_one_line() {
        let line = |parts: &[(Part, Outcome)]| {
            Report { generation: 1, parts: parts.to_vec(), needs_restart: Vec::new() }.line()
        };
        let fault = |name: &str| Fault::of_file(Path::new(name), "is broken");
        let config = |outcome: Outcome| (Part::Config, outcome);
        let refused = Outcome::Refused(Faults(vec![fault("a.yaml"), fault("b.yaml")]));
        assert_eq!(line(&[config(Outcome::Unchanged)]), ("reloaded: nothing changed".to_owned(), false));
        let applied = [config(Outcome::Applied), (Part::Keys, Outcome::Unchanged)];
        assert_eq!(line(&applied), ("reloaded config".to_owned(), false));
        let both = [config(Outcome::Applied), (Part::Keys, refused)];
        let expected = "refused keys: a.yaml: is broken, and 1 more fault; reloaded config";
        assert_eq!(line(&both), (expected.to_owned(), true));
        let one = [config(Outcome::Refused(fault("c.yaml").into()))];
        assert_eq!(line(&one), ("refused config: c.yaml: is broken".to_owned(), true));
    }
}
