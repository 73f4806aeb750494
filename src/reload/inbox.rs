//! The inbox of the reloading thread.

use std::iter;
use std::sync::mpsc::Receiver;

/// The capacity of the inbox, in messages. Events without room are noted as missed.
pub(super) const INBOX: usize = 1024;

/// The action that the messages in the inbox require.
#[derive(Clone, Copy)]
pub(super) enum Heard {
    Nothing,
    /// A check of the files is due.
    Change,
    Stop,
}

/// Returns a message and those behind it: no more than the inbox has room for, so that senders hold up nothing. The
/// others stay in the inbox.
pub(super) fn waiting<T>(first: T, inbox: &Receiver<T>) -> Vec<T> {
    iter::once(first).chain(inbox.try_iter()).take(INBOX + 1).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn no_message_is_lost_between_two_looks_into_the_inbox() {
        let (sender, inbox) = sync_channel(3 * INBOX);
        let all: Vec<usize> = (0..3 * INBOX).collect();
        all.iter().for_each(|message| sender.try_send(*message).unwrap());
        let mut taken = Vec::new();
        while let Ok(first) = inbox.try_recv() {
            taken.extend(waiting(first, &inbox));
        }
        assert_eq!(taken, all);
    }
}
