//! Metrics of the queues of upstreams.

use std::fmt::Error;
use std::sync::Arc;

use super::sheet::{Sheet, counted, timed, valued};
use crate::config::Priority;
use crate::observe::tally::Tally;
use crate::observe::usage::KeyLabel;

/// The queue of an upstream at this moment.
#[derive(Clone, Debug)]
pub(crate) struct QueueSample {
    pub(crate) upstream: Arc<str>,
    /// Slots of the upstream, and how many of them are taken.
    pub(crate) slots: u64,
    pub(crate) taken: u64,
    pub(crate) waiting: [(Priority, usize); Priority::ALL.len()],
}

/// Writes the metrics of all queues. `key_id`: the value of the label of a key.
pub(super) fn write<'k>(
    sheet: &mut Sheet<'_>,
    queues: &[QueueSample],
    tally: &Tally,
    key_id: impl Fn(&KeyLabel) -> Option<&'k str>,
) -> Result<(), Error> {
    if queues.is_empty() {
        return Ok(());
    }
    let mut family = sheet.gauge("queue_slots", "Requests that may be at an upstream at once")?;
    for queue in queues {
        valued(&mut family, &[("upstream", &*queue.upstream)], queue.slots as f64)?;
    }
    let mut family = sheet.gauge("queue_slots_taken", "Slots of an upstream that requests have")?;
    for queue in queues {
        valued(&mut family, &[("upstream", &*queue.upstream)], queue.taken as f64)?;
    }
    let mut family = sheet.gauge("queue_waiting", "Requests that wait for a slot, by class")?;
    for queue in queues {
        for (class, waiting) in queue.waiting {
            let labels = [("upstream", &*queue.upstream), ("class", class.name())];
            valued(&mut family, &labels, waiting as f64)?;
        }
    }
    let of_queues = || {
        let all = tally.upstreams.iter();
        all.filter_map(|(upstream, of_one)| Some((&**upstream, of_one.queue.as_deref()?)))
    };
    let help = "How long requests waited for a slot, those that did not wait included, by class";
    let mut family = sheet.histogram("queue_wait_seconds", help)?;
    for (upstream, of_queue) in of_queues() {
        for (class, waits) in of_queue.waits() {
            timed(&mut family, &[("upstream", upstream), ("class", class.name())], &waits)?;
        }
    }
    let mut family = sheet.counter("queue_timeouts", "Requests that waited too long, by key")?;
    for (upstream, of_queue) in of_queues() {
        for (key, count) in &of_queue.timeouts {
            let Some(key_id) = key_id(key) else { continue };
            counted(&mut family, &[("upstream", upstream), ("key_id", key_id)], *count)?;
        }
    }
    Ok(())
}
