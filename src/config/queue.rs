//! `queue` and `priority`: who waits for a slot of an upstream, and in which order.

use std::time::Duration;

use crate::config::decode::Decoder;
use crate::config::form::{Form, duration, number, share};
use crate::config::section::section;
use crate::config::tree::Node;

/// The class of a request while it waits, highest first. A higher class goes before a lower one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Priority {
    /// Somebody waits in front of a screen.
    Interactive,
    #[default]
    Standard,
    /// Work that has time.
    Batch,
}

impl Priority {
    pub(crate) const ALL: [Priority; 3] = [Priority::Interactive, Priority::Standard, Priority::Batch];
    pub(crate) const WORDS: [(&str, Priority); 3] = [
        ("interactive", Priority::Interactive),
        ("standard", Priority::Standard),
        ("batch", Priority::Batch),
    ];

    /// Returns the word for the class in files, headers and metrics.
    pub(crate) fn name(self) -> &'static str {
        Priority::WORDS.iter().find(|(_, known)| *known == self).map_or("standard", |(name, _)| *name)
    }

    /// Returns the class with this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Priority::WORDS.iter().find(|(known, _)| *known == name).map(|(_, priority)| *priority)
    }

    /// Returns the number of classes before this one.
    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// Returns the lower of two classes.
    pub(crate) fn lowered_to(self, other: Priority) -> Self {
        self.max(other)
    }
}

/// The largest share of the slots that a lower class has for itself: the two lower classes together must leave
/// a share to the highest.
const LARGEST_SHARE: f64 = 1.0 / 3.0;

section! {
    /// The queue of an upstream. Requests beyond its slots wait, and the client of each sees an answer as soon
    /// as there is one.
    #[derive(Clone, Debug, PartialEq)]
    pub(crate) struct Queue: Default in "a queue" {
        /// The number of requests that may be at the upstream at once. Left out: each of `endpoints` has
        /// `slots` of its own.
        slots: Option<u32> = number(1).optional().narrowing();
        /// The number of requests that may wait. One more is refused with 503 QUEUE_FULL, or the last one of a
        /// lower class, or of the key with most waiting requests.
        max_waiting: usize = number(0).or(256);
        /// The longest time that a request waits. It is refused with 503 QUEUE_TIMEOUT then.
        max_wait: Duration = duration().or(Duration::from_secs(30));
        /// The share of the slots that is given to `batch` while others wait before it, and likewise to
        /// `standard` while `interactive` waits, so that no class waits for ever.
        batch_share: f64 = batch_share().or(0.05);
    }
}

impl Queue {
    /// Returns a queue in which nobody waits.
    pub(crate) fn unlimited() -> Self {
        Queue { slots: Some(u32::MAX), ..Queue::default() }
    }

    /// Returns the number of grants in a row of which one is of a class that waits.
    pub(crate) fn period(&self) -> u32 {
        // The conversion saturates.
        (1.0 / self.batch_share).floor() as u32
    }
}

fn batch_share() -> Form<f64> {
    const SHARES: &str = "from 0.001 to 0.33, as in 0.05";
    share().checked(|d: &mut Decoder<'_>, node: &Node, share| match share {
        share if share < 0.001 => {
            d.hinted(node.at, "without a share, a lower class may wait for ever", SHARES)
        }
        share if share > LARGEST_SHARE => {
            d.hinted(node.at, "the highest class would wait for ever behind two others", SHARES)
        }
        share => Some(share),
    })
}

/// The server whose own queue a request's class is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TellsPriority {
    /// The member `priority` of the body is set, for vLLM with `--scheduling-policy priority`.
    Vllm,
}

/// The words of `upstreams[].priority`.
pub(super) const TELLS_PRIORITY: [(&str, TellsPriority); 1] = [("vllm", TellsPriority::Vllm)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_has_a_name_and_is_only_lowered() {
        for (index, class) in Priority::ALL.into_iter().enumerate() {
            assert_eq!((Priority::named(class.name()), class.index()), (Some(class), index));
        }
        assert_eq!(Priority::Standard.lowered_to(Priority::Interactive), Priority::Standard);
        assert_eq!(Priority::Standard.lowered_to(Priority::Batch), Priority::Batch);
        assert_eq!(Queue { batch_share: 0.05, ..Queue::default() }.period(), 20);
    }
}
