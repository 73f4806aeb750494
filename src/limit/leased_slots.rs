//! Slots: the requests in flight that a key may have in all replicas together (`max_concurrent`).
//!
//! A replica holds slots at the server for as many requests as it has in flight. The server forgets the
//! slots of a replica that does not renew them, so a replica that dies gives them back. Slots that are no
//! longer used are given back after a moment, since the next request may need them.
//!
//! Invariants: no more requests are in flight than slots are held, except that a replica that can't
//! renew its slots finishes what it has begun; a slot is given back once.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::part::PartOf;

/// The part of a limit that a replica keeps beyond what it uses: an eighth.
const SPARE_PART: u32 = 8;

/// Time for which requests do not wait for an ask after one without an answer, in nanoseconds.
const FAILING: u64 = 500_000_000;

/// Time for which requests are refused without an ask after a refusal, in nanoseconds.
const PAUSE: u64 = 20_000_000;

/// The slots of one key.
#[derive(Debug, Default)]
pub(crate) struct LeasedSlots {
    /// Number of requests in flight.
    in_use: u32,
    /// Number of slots that are held, and the end of their life in nanoseconds of the clock.
    held: u32,
    ends: u64,
    /// Largest number of requests in flight since the last ask.
    peak: u32,
    /// The key's limit, as the last request had it.
    limit: u32,
    waiting: VecDeque<oneshot::Sender<SlotReply>>,
    is_asking: bool,
    is_reporting: bool,
    /// Until then, requests are refused without an ask.
    pause: u64,
    /// Until then, requests go by this replica's part without an ask, because an ask had no answer.
    failing: u64,
}

/// The answer to a request for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotReply {
    Granted,
    Refused,
    /// The server did not answer in time.
    Unavailable,
}

/// How a request for a slot goes on.
#[derive(Debug)]
pub(crate) enum SlotStep {
    Done(SlotReply),
    Waits(oneshot::Receiver<SlotReply>),
}

/// A message to the server: this replica wants to hold so many slots of a key, of `limit` in all.
#[derive(Debug)]
pub(crate) struct SlotAsk {
    pub(crate) want: u32,
    pub(crate) in_use: u32,
    pub(crate) limit: u32,
    waiting: Vec<oneshot::Sender<SlotReply>>,
    sent: u64,
}

impl LeasedSlots {
    /// Takes a slot, or lets the request wait for an ask. The second value: whether the caller must
    /// start an ask.
    pub(crate) fn enter(&mut self, limit: u32, now: u64) -> (SlotStep, bool) {
        self.limit = limit;
        if self.in_use < self.held.min(limit) && now < self.ends {
            self.take();
            return (SlotStep::Done(SlotReply::Granted), false);
        }
        if now < self.failing {
            return (SlotStep::Done(SlotReply::Unavailable), false);
        }
        if now < self.pause || self.in_use >= limit {
            return (SlotStep::Done(SlotReply::Refused), false);
        }
        let (reply, receiver) = oneshot::channel();
        self.waiting.push_back(reply);
        (SlotStep::Waits(receiver), !std::mem::replace(&mut self.is_asking, true))
    }

    /// Takes a slot of this replica's part of the limit, because the server can't be asked.
    pub(crate) fn enter_part(&mut self, limit: u32, of: PartOf) -> SlotReply {
        self.limit = limit;
        if self.in_use >= of.share_of(limit) {
            return SlotReply::Refused;
        }
        self.take();
        SlotReply::Granted
    }

    fn take(&mut self) {
        self.in_use += 1;
        self.peak = self.peak.max(self.in_use);
    }

    /// Gives a slot back when its request has ended. Returns whether the caller must announce a report.
    pub(crate) fn leave(&mut self) -> bool {
        self.in_use = self.in_use.saturating_sub(1);
        let is_unused = self.in_use < self.held;
        is_unused && !self.is_asking && !std::mem::replace(&mut self.is_reporting, true)
    }

    /// Gives all slots back, because this replica ends. Returns whether the caller must ask.
    pub(crate) fn give_back(&mut self) -> bool {
        (self.in_use, self.peak) = (0, 0);
        self.held > 0 && !std::mem::replace(&mut self.is_asking, true)
    }

    /// Begins the report that was announced. Returns whether the caller must ask.
    pub(crate) fn begin_report(&mut self) -> bool {
        self.is_reporting = false;
        !std::mem::replace(&mut self.is_asking, true)
    }

    /// Begins the renewal of slots that are held. Returns whether the caller must ask.
    pub(crate) fn begin_renewal(&mut self) -> bool {
        (self.held > 0 || self.in_use > 0) && !std::mem::replace(&mut self.is_asking, true)
    }

    /// Begins an ask. Returns `None` if nothing is to be asked; no ask is under way then.
    pub(crate) fn begin_ask(&mut self, is_renewal: bool, now: u64) -> Option<SlotAsk> {
        let waiting: Vec<_> = self.waiting.drain(..).collect();
        let wanted = u32::try_from(waiting.len()).unwrap_or(u32::MAX);
        let limit = self.limit;
        // A few slots are kept for the next requests, unless others might need them.
        let spare = self.in_use.saturating_add(limit / SPARE_PART);
        let kept = if is_renewal { self.in_use } else { self.peak.min(spare) };
        let want = self.in_use.saturating_add(wanted).max(kept);
        self.peak = self.in_use;
        let want = want.min(limit.max(self.in_use));
        if waiting.is_empty() && want == self.held && !is_renewal {
            self.is_asking = false;
            return None;
        }
        // What is given back is not used while the message is under way.
        self.held = self.held.min(want);
        Some(SlotAsk { want, in_use: self.in_use, limit, waiting, sent: now })
    }

    /// Ends an ask. `held`: the number of slots that this replica holds now, and the end of their life
    /// in microseconds from the ask; `None` if there was no answer in time. Returns whether another ask
    /// must follow.
    pub(crate) fn end_ask(&mut self, ask: SlotAsk, held: Option<(u32, u64)>) -> bool {
        let Some((held, life)) = held else {
            self.failing = ask.sent.saturating_add(FAILING);
            ask.waiting.into_iter().for_each(|reply| {
                let _left = reply.send(SlotReply::Unavailable);
            });
            return false;
        };
        self.failing = 0;
        self.held = held;
        self.ends = ask.sent.saturating_add(life.saturating_mul(1000));
        let mut is_full = false;
        for reply in ask.waiting {
            if self.in_use >= self.held {
                is_full = true;
                let _left = reply.send(SlotReply::Refused);
            } else if reply.send(SlotReply::Granted).is_ok() {
                self.take();
            }
        }
        if is_full {
            self.pause = ask.sent.saturating_add(PAUSE);
        }
        let has_more = !self.waiting.is_empty();
        self.is_asking = has_more;
        has_more
    }

    /// Ends an ask that could not be sent.
    pub(crate) fn fail(&mut self) {
        (self.is_asking, self.is_reporting) = (false, false);
        self.waiting.drain(..).for_each(|reply| {
            let _left = reply.send(SlotReply::Unavailable);
        });
    }

    pub(crate) fn in_use(&self) -> u32 {
        self.in_use
    }

    /// Whether nothing is held.
    pub(crate) fn is_unused(&self, now: u64) -> bool {
        self.in_use == 0 && !self.is_asking && (self.held == 0 || self.ends <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(slots: &mut LeasedSlots, limit: u32, now: u64) -> oneshot::Receiver<SlotReply> {
        match slots.enter(limit, now).0 {
            SlotStep::Waits(receiver) => receiver,
            SlotStep::Done(reply) => panic!("{reply:?}"),
        }
    }

    #[test]
    fn requests_wait_for_slots_and_give_them_back() {
        let mut slots = LeasedSlots::default();
        let mut replies: Vec<_> = (0..3).map(|_| wait(&mut slots, 5, 1)).collect();
        let ask = slots.begin_ask(false, 1).unwrap();
        assert_eq!((ask.want, ask.limit), (3, 5));
        assert!(!slots.end_ask(ask, Some((2, 1000))));
        let replies: Vec<_> = replies.iter_mut().map(|reply| reply.try_recv().unwrap()).collect();
        assert_eq!(replies, [SlotReply::Granted, SlotReply::Granted, SlotReply::Refused]);
        assert_eq!(slots.in_use(), 2);
        assert!(matches!(slots.enter(5, 2).0, SlotStep::Done(SlotReply::Refused)), "a pause");
        assert!(slots.leave(), "an unused slot is reported");
        assert!(matches!(slots.enter(5, 3).0, SlotStep::Done(SlotReply::Granted)), "and can be used");
        slots.leave();
        assert!(slots.begin_report());
        let ask = slots.begin_ask(false, 4).unwrap();
        assert_eq!(ask.want, 1, "of a small limit, no spare slots are kept");
        slots.end_ask(ask, Some((1, 1000)));
        slots.leave();
        assert!(slots.begin_report());
        assert_eq!(slots.begin_ask(false, 5).unwrap().want, 0);
    }

    #[test]
    fn what_is_given_back_is_not_used_meanwhile_and_spare_slots_are_kept() {
        let mut slots = LeasedSlots::default();
        let _replies: Vec<_> = (0..8).map(|_| wait(&mut slots, 32, 1)).collect();
        let ask = slots.begin_ask(false, 1).unwrap();
        slots.end_ask(ask, Some((8, 1000)));
        let reports = (0..8).filter(|_| slots.leave()).count();
        assert_eq!(reports, 1, "one report is announced for all");
        assert!(slots.begin_report());
        let ask = slots.begin_ask(false, 2).unwrap();
        assert_eq!((ask.want, ask.in_use), (4, 0), "an eighth of the limit is kept");
        let replies: Vec<_> = (0..5).map(|_| slots.enter(32, 3).0).collect();
        let granted = replies.iter().filter(|step| matches!(step, SlotStep::Done(SlotReply::Granted)));
        assert_eq!(granted.count(), 4, "the others are on their way back");
        slots.end_ask(ask, Some((4, 1000)));
    }

    #[test]
    fn slots_whose_life_has_ended_are_not_used() {
        let mut slots = LeasedSlots::default();
        let reply = wait(&mut slots, 5, 1);
        let ask = slots.begin_ask(false, 1).unwrap();
        drop(reply);
        slots.end_ask(ask, Some((3, 1)));
        assert_eq!(slots.in_use(), 0, "a request that has left takes no slot");
        assert!(matches!(slots.enter(5, 1000).0, SlotStep::Done(SlotReply::Granted)));
        assert!(matches!(slots.enter(5, 1001).0, SlotStep::Waits(_)));
    }
}
