//! When a certificate is renewed, and when an attempt that failed is made again. Pure functions of times.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::certificate::Life;

/// Shortest time between two orders for a certificate.
pub(super) const LEAST_INTERVAL: SignedDuration = SignedDuration::from_secs(10);

/// Pauses after attempts that failed. Together with the first attempt they make five attempts in the first
/// hour, and one an hour then: Let's Encrypt accepts five failed validations of a name in an hour.
const PAUSES: [SignedDuration; 5] = [
    SignedDuration::from_secs(10),
    SignedDuration::from_secs(60),
    SignedDuration::from_mins(5),
    SignedDuration::from_mins(20),
    SignedDuration::from_mins(60),
];
/// Pause after a failure of this machine.
const OF_MACHINE: SignedDuration = SignedDuration::from_secs(30);
/// The longest pause, to which the last of [`PAUSES`] doubles.
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_hours(12);
/// Pause after an authority has said that it was asked too often, without saying how long.
const RATE_LIMITED: SignedDuration = SignedDuration::from_hours(1);
/// The longest pause that an authority may ask for.
const LONGEST_ASKED: SignedDuration = SignedDuration::from_hours(48);
/// Greatest share of a pause that is added to it by chance, so that replicas do not ask together.
const JITTER: f64 = 0.25;

/// A certificate that is renewed before this share of its life is over is renewed in haste: its authority
/// has said so, most likely because it will revoke the certificate.
const HASTE: i32 = 20;
/// The longest time between two renewals in haste.
const LONGEST_HASTE: SignedDuration = SignedDuration::from_hours(24);

/// Why an attempt failed, as far as the next attempt depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The authority was asked too often.
    RateLimited,
    /// Nobody was asked: something is wrong on this machine.
    Here,
    Other,
}

/// Returns the pause after the attempt that was the `failures`-th in a row to fail. `asked`: the time that the
/// authority asks to wait. `chance`: from 0 to 1.
pub(super) fn pause(failures: u32, kind: Kind, asked: Option<Duration>, chance: f64) -> SignedDuration {
    let index = usize::try_from(failures.saturating_sub(1)).unwrap_or(usize::MAX);
    let own = match PAUSES.get(index) {
        Some(pause) => *pause,
        None => {
            let last = PAUSES.last().copied().unwrap_or(LONGEST_PAUSE);
            let doublings = u32::try_from(index + 1 - PAUSES.len()).unwrap_or(u32::MAX).min(8);
            last.saturating_mul(2_i32.saturating_pow(doublings)).min(LONGEST_PAUSE)
        }
    };
    let own = match kind {
        Kind::RateLimited => own.max(RATE_LIMITED),
        Kind::Here => OF_MACHINE,
        Kind::Other => own,
    };
    let asked = asked.and_then(|asked| SignedDuration::try_from(asked).ok()).unwrap_or_default();
    let whole = own.max(asked.min(LONGEST_ASKED));
    whole.saturating_add(share(whole, JITTER * chance.clamp(0.0, 1.0)))
}

/// Returns the pause that leaves time for another attempt before the certificate in service ends: at most half
/// of the time that is `left`, but no shorter than an hour if it is longer.
pub(super) fn while_serving(pause: SignedDuration, left: SignedDuration) -> SignedDuration {
    pause.min((left / 2).max(SignedDuration::from_hours(1)))
}

/// Returns when a certificate is renewed by its own life: at two thirds of it.
pub(super) fn renewal(life: &Life) -> Timestamp {
    life.not_before.checked_add(life.length().saturating_mul(2) / 3).unwrap_or(life.not_after)
}

/// Returns the time after a start for which an authority is not asked about a certificate that is there.
pub(super) fn first_question(life: &Life) -> SignedDuration {
    (life.length() / 10).clamp(SignedDuration::from_mins(1), SignedDuration::from_hours(1))
}

/// Returns the time in the window that an authority suggests for a renewal (RFC 9773, section 4.2). `chance`,
/// from 0 to 1, is the same for all replicas, and each time that it is asked for.
pub(super) fn suggested(start: Timestamp, end: Timestamp, chance: f64) -> Timestamp {
    let window = end.duration_since(start).max(SignedDuration::ZERO);
    start.checked_add(share(window, chance)).unwrap_or(start)
}

/// Returns the earliest time of an attempt after one that failed at `failed`.
pub(super) fn after_failure(failed: Timestamp) -> Timestamp {
    failed.checked_add(LEAST_INTERVAL).unwrap_or(failed)
}

/// Returns the earliest time of the next order after a certificate that was got at `got`. `hasty`: number of
/// certificates in a row that were renewed in haste.
pub(super) fn earliest(got: Timestamp, hasty: u32) -> Timestamp {
    let interval = LEAST_INTERVAL.saturating_mul(2_i32.saturating_pow(hasty.min(16))).min(LONGEST_HASTE);
    got.checked_add(interval).unwrap_or(got)
}

/// Whether a renewal at `now` is in haste, after a certificate of about the same life that was got at `got`.
pub(super) fn is_hasty(life: &Life, got: Timestamp, now: Timestamp) -> bool {
    now.duration_since(got) < life.length() / HASTE
}

fn share(of: SignedDuration, share: f64) -> SignedDuration {
    SignedDuration::try_from_secs_f64(of.as_secs_f64() * share).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    #[test]
    fn attempts_that_fail_stay_within_the_limits_of_authorities() {
        let (mut now, mut attempts) = (0, vec![0]);
        for failures in 1..200 {
            now += pause(failures, Kind::Other, None, 0.0).as_secs();
            attempts.push(now);
        }
        for first in &attempts {
            let in_an_hour = attempts.iter().filter(|at| (*first..*first + 3600).contains(*at)).count();
            assert!(in_an_hour <= 5, "{in_an_hour} attempts from second {first} on");
        }
        assert!(pause(u32::MAX, Kind::Other, None, 1.0) <= LONGEST_PAUSE * 2);
    }

    #[test]
    fn an_authority_may_ask_for_a_longer_pause_and_not_for_ever() {
        let secs = |kind, asked: Option<u64>| pause(1, kind, asked.map(Duration::from_secs), 0.0).as_secs();
        assert_eq!(secs(Kind::Other, None), 10);
        assert_eq!(secs(Kind::Other, Some(5)), 10);
        assert_eq!(secs(Kind::Other, Some(100)), 100);
        assert_eq!(secs(Kind::Here, None), 30);
        assert_eq!(secs(Kind::RateLimited, None), 3600);
        assert_eq!(secs(Kind::RateLimited, Some(7200)), 7200);
        assert_eq!(secs(Kind::Other, Some(u64::MAX)), 10);
        assert_eq!(secs(Kind::Other, Some(1 << 40)), 48 * 3600);
        assert_eq!(pause(1, Kind::Other, None, 1.0), SignedDuration::from_millis(12_500));
    }

    #[test]
    fn the_last_attempts_before_a_certificate_ends_come_oftener() {
        let hours = |pause, left| {
            while_serving(SignedDuration::from_hours(pause), SignedDuration::from_hours(left)).as_hours()
        };
        assert_eq!(
            (hours(12, 100), hours(12, 8), hours(12, 1), hours(12, -5), hours(0, 1)),
            (12, 4, 1, 1, 0)
        );
    }

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life() {
        let life = |length| Life { not_before: at(0), not_after: at(length), names: Vec::new() };
        assert_eq!(renewal(&life(90)), at(60));
        assert_eq!(renewal(&life(90 * 86_400)), at(60 * 86_400));
        // A certificate whose end is before its beginning is renewed at once.
        assert!(renewal(&life(-90)) < at(0));
        assert!(is_hasty(&life(100), at(9), at(13)) && !is_hasty(&life(100), at(9), at(14)));
    }

    #[test]
    fn a_suggested_time_is_in_its_window() {
        assert_eq!(suggested(at(0), at(100), 0.25), at(25));
        assert_eq!(suggested(at(0), at(-100), 0.25), at(0));
        assert_eq!(suggested(Timestamp::MAX, Timestamp::MAX, 1.0), Timestamp::MAX);
    }

    #[test]
    fn an_authority_that_always_asks_for_a_renewal_is_asked_ever_more_seldom() {
        let waits = |hasty| earliest(at(0), hasty).duration_since(at(0)).as_secs();
        assert_eq!((0..4).map(waits).collect::<Vec<_>>(), [10, 20, 40, 80]);
        assert_eq!(waits(u32::MAX), 86_400);
    }
}
