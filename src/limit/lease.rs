//! A lease: units of one window that this replica has taken out of the bucket that all replicas share,
//! and what is to be reported to the server.
//!
//! Invariants: a unit is spent once; a lease is not spent after its end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::ask::{AnswerOfWindow, AskOfWindow, Refund};
use super::charge::ChargeOf;
use super::gcra::{Wait, Window};
use super::open_charges::OpenCharges;
use super::part::{Part, PartOf};
use super::rate::Rate;
use super::status::WindowStatus;

/// Largest number of refunds of one window in one ask. The others wait for the next one.
const MOST_REFUNDS: usize = 64;

/// Longest life of a lease. What a replica that dies had taken out is lost until then.
const LONGEST_LIFE: Duration = Duration::from_secs(1);

/// Shortest life of a lease. A shorter one would end before it arrives.
const SHORTEST_LIFE: Duration = Duration::from_millis(2);

/// Smallest burst of which leases are given. All requests under a smaller one are asked for.
const SMALLEST_BURST: u32 = 8;

/// The lease of one window.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) window: Arc<Window>,
    /// Units that may be spent.
    left: u32,
    /// Units behind the last answer.
    peak: u32,
    /// The slot in which the server counts the lease, and its end in nanoseconds of the clock.
    slot: u64,
    ends: u64,
    /// Units that have left the lease since the last report, spent or given back.
    gone: u32,
    /// Units to give back to the bucket, to charge to it, and that were granted without the server.
    back: u64,
    debt: u64,
    away: u64,
    /// Units of requests that were charged and not used.
    refunds: VecDeque<Refund>,
    /// What was left in the bucket at the last answer, the time at which the bucket is full, and its line.
    room: u32,
    full: u64,
    line: u64,
    refusal: Option<Refusal>,
    /// Units that are asked of the window for each second.
    rate: Rate,
    part: Part,
    open_in_part: OpenCharges,
}

/// A refusal by the server, which holds for a while.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    units: u32,
    /// Until then, no request of as many units is asked for.
    pause: u64,
    /// The time at which the units are granted, if nobody else takes them.
    promised: u64,
}

impl Lease {
    pub(super) fn new(window: Arc<Window>, now: u64) -> Self {
        let room = window.quota().burst;
        Lease {
            window,
            left: 0,
            peak: 0,
            slot: 0,
            ends: 0,
            gone: 0,
            back: 0,
            debt: 0,
            away: 0,
            refunds: VecDeque::new(),
            room,
            full: now,
            line: 0,
            refusal: None,
            rate: Rate::default(),
            part: Part::default(),
            open_in_part: OpenCharges::default(),
        }
    }

    /// Puts a window in the place of this one, after a reload. The server converts what was used.
    pub(super) fn replace(&mut self, window: &Arc<Window>) {
        self.give_back();
        self.window = window.clone();
    }

    /// Counts units that a request needs, and ends the lease if its time is over.
    pub(super) fn need(&mut self, units: u32, now: u64) {
        self.end(now);
        self.rate.note(units, now);
    }

    pub(super) fn has_units(&self, now: u64) -> bool {
        self.left > 0 && now < self.ends
    }

    pub(super) fn has(&self, units: u32) -> bool {
        self.left >= units
    }

    pub(super) fn spend(&mut self, units: u32) {
        self.left = self.left.saturating_sub(units);
        self.gone = self.gone.saturating_add(units);
    }

    /// Whether the lease should be renewed before it is used up.
    pub(super) fn is_low(&self) -> bool {
        self.left < self.peak / 2 && self.extra() > self.left
    }

    /// Whether requests are refused without an ask now.
    pub(super) fn is_paused(&self, now: u64) -> bool {
        self.refusal.is_some_and(|refusal| now < refusal.pause)
    }

    /// Returns this replica's part of the window behind a charge.
    ///
    /// # Errors
    ///
    /// How long the request has to wait.
    pub(super) fn part_behind(&self, units: u32, of: PartOf, now: u64) -> Result<Part, Duration> {
        self.part.charged(&self.window, units, of, now)
    }

    /// Charges this replica's part of the window: `after` is the part behind the charge. `id`: greater
    /// than that of each charge before; `None` if the charge is not corrected later.
    pub(super) fn spend_part(&mut self, units: u32, after: Part, id: Option<u64>, now: u64) -> ChargeOf {
        self.part = after;
        self.away += u64::from(units);
        let Some(id) = id.filter(|_| units > 0) else { return ChargeOf::Nothing };
        self.open_in_part.add(id, after.arrival(), now);
        ChargeOf::Part(id)
    }

    /// Takes units back that were granted to a request that has left.
    pub(super) fn take_back(&mut self, units: u32) {
        self.back += u64::from(units);
    }

    /// Records that the server refuses so many units for a time. `pause`: how long requests are refused
    /// without an ask.
    pub(super) fn note_refusal(&mut self, units: u32, sent: u64, wait: Duration, pause: Duration) {
        let promised = sent.saturating_add(nanos(wait));
        // In the pause, the bucket does not get full, so nothing is lost.
        let harmless = Duration::from_nanos(self.window.time_of(self.window.quota().burst) / 8);
        let pause = sent.saturating_add(nanos(pause.min(wait.max(harmless))));
        self.refusal = Some(Refusal { units, pause, promised });
    }

    /// Refuses requests without an ask for a moment, if nothing is left in the bucket and here.
    pub(super) fn pause_if_empty(&mut self, sent: u64, pause: Duration) {
        if self.room == 0 && self.left == 0 {
            self.note_refusal(1, sent, Duration::from_nanos(self.window.period()), pause);
        }
    }

    /// Takes back what an ask without an answer had reported.
    pub(super) fn not_answered(&mut self, asked: &AskOfWindow) {
        // The server may have charged this already. What was to be given back is lost.
        self.debt += asked.debt;
        self.away += asked.away;
    }

    /// Whether nothing is held or owed.
    pub(super) fn is_unused(&self, now: u64) -> bool {
        !self.owes() && (self.left == 0 || self.ends <= now) && self.full <= now
    }

    /// Whether something is to be reported soon.
    pub(super) fn owes(&self) -> bool {
        self.back > 0 || self.debt > 0 || self.away > 0 || !self.refunds.is_empty()
    }

    /// Ends the lease if its time is over. What is left goes back with the next ask.
    pub(super) fn end(&mut self, now: u64) {
        if self.left > 0 && now >= self.ends {
            self.give_back();
        }
    }

    pub(super) fn give_back(&mut self) {
        self.gone = self.gone.saturating_add(self.left);
        self.back += u64::from(std::mem::take(&mut self.left));
    }

    /// Corrects a charge of `charged` units, of which `used` were used.
    pub(super) fn settle(&mut self, of: ChargeOf, charged: u32, used: u32, now: u64) {
        let (charged, used) = (self.window.counted(charged), self.window.counted(used));
        let unused = charged.saturating_sub(used);
        self.debt += u64::from(used.saturating_sub(charged));
        match of {
            ChargeOf::Bucket(line) if unused > 0 => self.refunds.push_back(Refund { units: unused, line }),
            ChargeOf::Part(id) => {
                let time = u64::from(unused).saturating_mul(self.part.period());
                let given_back = self.open_in_part.close(id, time, now);
                self.part.give_back(given_back);
                // What was reported already stays charged.
                self.away = self.away.saturating_sub(given_back / self.part.period().max(1));
            }
            ChargeOf::Bucket(_) | ChargeOf::Own(_) | ChargeOf::Nothing => {}
        }
    }

    /// Returns where a charge of so many units can be corrected that was made now.
    pub(super) fn charge_of(&self, units: u32) -> ChargeOf {
        match units {
            0 => ChargeOf::Nothing,
            _ => ChargeOf::Bucket(self.line_of_charge()),
        }
    }

    /// Returns the line of the bucket behind a charge that was made now. What is left of the lease is
    /// behind it.
    fn line_of_charge(&self) -> u64 {
        self.line.saturating_sub(self.window.time_of(self.left).div_ceil(1000))
    }

    /// Life of a lease: an eighth of the time in which the burst is regained.
    fn life(&self) -> Duration {
        let refill = self.window.time_of(self.window.quota().burst) / 8;
        Duration::from_nanos(refill).clamp(SHORTEST_LIFE, LONGEST_LIFE)
    }

    /// Returns how many units the lease should have: those of its life at the rate of late.
    pub(super) fn extra(&self) -> u32 {
        if self.window.quota().burst < SMALLEST_BURST {
            return 0;
        }
        // The conversion saturates.
        (self.rate.per_second() * self.life().as_secs_f64()).ceil() as u32
    }

    /// Returns the refusal of a request of this many units, if one is known to hold.
    pub(super) fn refuses(&self, units: u32, now: u64) -> Option<(Arc<Window>, Wait)> {
        let refusal = self.refusal.filter(|refusal| now < refusal.pause && units >= refusal.units)?;
        if !self.window.quota().is_enforced || self.left >= units {
            return None;
        }
        Some((self.window.clone(), Wait::For(Duration::from_nanos(refusal.promised.saturating_sub(now)))))
    }

    /// Whether an ask is worth while, even if no request waits.
    pub(super) fn has_report(&self) -> bool {
        let is_low = self.left < self.peak / 2 || (self.left == 0 && self.peak > 0);
        self.owes() || (is_low && self.extra() > self.left)
    }

    pub(super) fn ask(&mut self, now: u64) -> AskOfWindow {
        // In the order of the charges: what is given back makes those behind it be regained earlier, and the server
        // takes each that follows for one of these.
        self.refunds.make_contiguous().sort_unstable_by_key(|refund| refund.line);
        // What the part has regained of that, the bucket has, too.
        let away = std::mem::take(&mut self.away).min(self.part.not_regained(now));
        AskOfWindow {
            window: self.window.clone(),
            width: u64::try_from(self.life().as_micros() / 2).unwrap_or(1).max(1),
            extra: self.extra().saturating_sub(self.left),
            slot: self.slot,
            gone: std::mem::take(&mut self.gone),
            left: self.left,
            back: std::mem::take(&mut self.back),
            debt: std::mem::take(&mut self.debt),
            away,
            line: self.line,
            full_in: self.full.saturating_sub(now) / 1000,
            refunds: self.refunds.drain(..self.refunds.len().min(MOST_REFUNDS)).collect(),
        }
    }

    pub(super) fn answered(&mut self, asked: &AskOfWindow, answer: &AnswerOfWindow, sent: u64, now: u64) {
        if !answer.is_kept {
            // The server has put what was left back into the bucket. Some of it was spent meanwhile.
            self.debt += u64::from(asked.left.saturating_sub(self.left));
            self.left = 0;
            self.gone = 0;
        }
        // A server that grants more than was asked for, or for longer, is not believed.
        self.left = self.left.saturating_add(answer.leased.min(asked.extra));
        self.peak = self.left;
        self.slot = answer.slot;
        self.ends = sent.saturating_add(answer.lasts.min(2 * asked.width).saturating_mul(1000));
        self.room = answer.room;
        self.full = sent.saturating_add(answer.full_in.saturating_mul(1000));
        self.line = answer.line;
        self.refusal = self.refusal.filter(|refusal| now < refusal.pause);
    }

    /// Returns what would be granted by this replica's part of the window.
    pub(super) fn status_of_part(&self, of: PartOf, now: u64) -> WindowStatus {
        let (remaining, reset) = self.part.status(&self.window, of, now);
        WindowStatus { window: self.window.clone(), remaining, reset }
    }

    /// Returns what would be granted now.
    pub(super) fn status(&self, now: u64) -> WindowStatus {
        let burst = self.window.quota().burst;
        // A bucket in debt regains the debt first.
        let used = self.full.saturating_sub(now).div_ceil(self.window.period());
        let remaining = u64::from(self.left) + u64::from(burst).saturating_sub(used);
        WindowStatus {
            window: self.window.clone(),
            remaining: u32::try_from(remaining).unwrap_or(u32::MAX).min(burst),
            reset: Duration::from_nanos(self.full.saturating_sub(now)),
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Quota, Unit};

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn charges_are_given_back_in_their_order() {
        let window =
            Arc::new(Window::new(None, Quota::new(Unit::Requests, 60, Duration::from_secs(60), None)));
        let mut lease = Lease::new(window, 0);
        for line in [5, 3, 9, 1] {
            lease.settle(ChargeOf::Bucket(line), 1, 0, 0);
        }
        let lines: Vec<u64> = lease.ask(0).refunds.iter().map(|refund| refund.line).collect();
        assert_eq!(lines, [1, 3, 5, 9]);
    }

    #[test]
    fn a_bucket_in_debt_shows_nothing_until_the_debt_is_regained() {
        let quota = Quota::new(Unit::Tokens, 60, Duration::from_secs(60), Some(10));
        let mut lease = Lease::new(Arc::new(Window::new(None, quota)), 0);
        let asked = lease.ask(0);
        let (slot, lasts, line) = (0, 0, 0);
        // Full in 30 s: ten units of the burst, and twenty of debt.
        let answer =
            AnswerOfWindow { leased: 0, is_kept: true, slot, lasts, room: 0, full_in: 30_000_000, line };
        lease.answered(&asked, &answer, 0, 0);
        let remaining = |second: u64| lease.status(second * SECOND).remaining;
        assert_eq!([0, 5, 20, 21, 25, 30, 40].map(remaining), [0, 0, 0, 1, 5, 10, 10]);
    }
}
