//! Tests of the limiter: windows, charges and headers.

use http::HeaderMap;
use jiff::Timestamp;

use super::*;
use crate::config::Unit;

fn quota(requests: u32, seconds: u64, burst: u32) -> Quota {
    Quota::new(Unit::Requests, requests, Duration::from_secs(seconds), Some(burst))
}

fn limiter() -> (Limiter, Arc<crate::clock::Manual>) {
    let (clock, hands) = Clock::manual(Timestamp::UNIX_EPOCH);
    (Limiter::new(clock, usize::MAX), hands)
}

fn holder<'a>(state: &'a Arc<KeyState>, windows: &'a [Arc<Window>]) -> Holder<'a> {
    Holder { state, windows: [windows, &[]], budgets: &[] }
}

fn refused(refused: &Refused) -> (&str, Wait) {
    match refused {
        Refused::Window { window, wait } => (window.name(), *wait),
        Refused::Budget { budget, wait, .. } => (budget.policy(), Wait::For(*wait)),
    }
}

fn granted(limiter: &Limiter, state: &Arc<KeyState>, windows: &[Arc<Window>], tries: u32) -> u32 {
    (0..tries).filter(|_| limiter.charge(&holder(state, windows), None, Cost::REQUEST).is_ok()).count() as u32
}

#[test]
fn a_burst_and_then_the_rate_and_never_more() {
    let (limiter, hands) = limiter();
    let state = limiter.state("key_a");
    let windows = [limiter.window(None, quota(60, 60, 10))];
    assert_eq!(granted(&limiter, &state, &windows, 100), 10);
    let mut total = 10;
    for _ in 0..200 {
        hands.advance(Duration::from_millis(100));
        total += granted(&limiter, &state, &windows, 5);
    }
    assert_eq!(total, 30, "10 at once and one a second for 20 s");
    hands.advance(Duration::from_secs(3600));
    assert_eq!(granted(&limiter, &state, &windows, 100), 10, "idle time saves up no more than the burst");
}

#[test]
fn a_refusal_by_one_window_leaves_the_other_as_it_was() {
    let (limiter, hands) = limiter();
    let state = limiter.state("key_a");
    let (tight, wide) = (limiter.window(None, quota(1, 10, 1)), limiter.window(None, quota(100, 60, 100)));
    let windows = [tight, wide.clone()];
    assert_eq!(granted(&limiter, &state, &windows, 50), 1);
    let (remaining, _) = wide.status(state.uses().windows.arrival(&wide, 0), 0);
    assert_eq!(remaining, 99);
    hands.advance(Duration::from_secs(10));
    assert_eq!(granted(&limiter, &state, &windows, 50), 1);
}

#[test]
fn a_settled_charge_costs_what_was_used() {
    let (limiter, hands) = limiter();
    let state = limiter.state("key_a");
    let tokens = |tokens: u32| Cost { output_tokens: tokens, ..Cost::REQUEST };
    let windows = [
        limiter.window(None, quota(60, 60, 10)),
        limiter.window(None, Quota { unit: Unit::Tokens, ..quota(6000, 60, 1000) }),
    ];
    let remaining =
        || limiter.status(&holder(&state, &windows)).0.iter().map(|w| w.remaining).collect::<Vec<_>>();
    let charge =
        |cost| limiter.charge(&holder(&state, &windows), None, tokens(cost)).map(|charged| charged.debits);
    let (first, second) = (charge(400).unwrap(), charge(100).unwrap());
    assert_eq!(remaining(), [8, 500]);
    limiter.settle(&first, tokens(400), tokens(150));
    assert_eq!(remaining(), [8, 750], "what was too much is given back, in its own unit alone");
    limiter.settle(&second, tokens(100), tokens(1100));
    assert_eq!(remaining(), [8, 0], "a debt");
    let refusal = charge(1).unwrap_err();
    assert_eq!(refused(&refusal), ("tokens-1m", Wait::For(Duration::from_millis(2510))));
    assert_eq!(remaining(), [8, 0], "a refusal takes nothing");
    hands.advance(Duration::from_millis(2510));
    let early = charge(1).unwrap();
    hands.advance(Duration::from_secs(60));
    let late = charge(1000).unwrap();
    limiter.settle(&early, tokens(1), tokens(0));
    assert_eq!(remaining(), [9, 0], "what was regained is not given back");
    limiter.settle(&late, tokens(1000), tokens(0));
    limiter.settle(&late, tokens(1000), tokens(0));
    assert_eq!(remaining(), [9, 1000], "a window is never fuller than full");
    hands.advance(Duration::from_secs(60));
    charge(1500).unwrap();
    assert_eq!(remaining(), [9, 0], "a cost beyond the burst is granted by a full one, and leaves a debt");
    assert_eq!(limiter.status(&holder(&state, &windows)).0[1].reset, Duration::from_secs(15));
    assert!(limiter.charge(&holder(&state, &windows), None, tokens(0)).is_ok(), "no tokens need no room");
}

#[test]
fn a_charge_that_is_taken_back_leaves_no_trace_and_what_was_regained_stays_regained() {
    let (limiter, hands) = limiter();
    let state = limiter.state("key_a");
    let windows = [
        limiter.window(None, quota(60, 60, 10)),
        limiter.window(None, Quota { unit: Unit::Tokens, ..quota(60, 60, 100) }),
    ];
    let cost = Cost { output_tokens: 20, ..Cost::REQUEST }.to_be_taken_back(true);
    let remaining =
        || limiter.status(&holder(&state, &windows)).0.iter().map(|w| w.remaining).collect::<Vec<_>>();
    let charge = || limiter.charge(&holder(&state, &windows), None, cost).unwrap().debits;
    let (first, second) = (charge(), charge());
    assert_eq!((first.len(), remaining()), (2, vec![8, 60]));
    limiter.settle(&first, cost, Cost::NOTHING);
    assert_eq!(remaining(), [9, 80]);
    limiter.settle(&second, cost, Cost { output_tokens: 20, ..Cost::REQUEST });
    assert_eq!(remaining(), [9, 80], "what was sent stays charged");
    let late = charge();
    hands.advance(Duration::from_secs(2));
    assert_eq!(remaining(), [10, 62]);
    limiter.settle(&late, cost, Cost::NOTHING);
    assert_eq!(remaining(), [10, 82], "the request is regained already, and some of the tokens are");
    // Charges that are taken back in any order, between others that are kept, cost what is kept.
    let all: Vec<_> = (0..4).map(|_| charge()).collect();
    for index in [3, 0] {
        limiter.settle(&all[index], cost, Cost::NOTHING);
    }
    assert_eq!(remaining(), [8, 42]);
}

#[test]
fn a_request_is_charged_to_its_key_and_its_group_or_to_neither() {
    let (limiter, hands) = limiter();
    let (first, second, group) = (limiter.state("key_a"), limiter.state("key_b"), limiter.state("group:g"));
    let of_key = [limiter.window(None, quota(60, 60, 10))];
    let tokens = Quota { unit: Unit::Tokens, ..quota(60, 60, 100) };
    let of_group =
        [limiter.window(Some("group-g"), quota(60, 60, 15)), limiter.window(Some("group-g"), tokens)];
    let together = holder(&group, &of_group);
    let charge = |state: &Arc<KeyState>, output_tokens| {
        let cost = Cost { output_tokens, ..Cost::REQUEST };
        limiter.charge(&holder(state, &of_key), Some(&together), cost)
    };
    let left = |holder: Holder<'_>| limiter.status(&holder).0.iter().map(|w| w.remaining).collect::<Vec<_>>();
    let count = |state: &Arc<KeyState>| (0..20).filter(|_| charge(state, 0).is_ok()).count();
    assert_eq!((count(&first), count(&second)), (10, 5));
    assert_eq!((left(holder(&first, &of_key)), left(holder(&second, &of_key))), (vec![0], vec![5]));
    let refusal = charge(&second, 0).unwrap_err();
    assert_eq!(refused(&refusal).0, "group-g-requests-1m");
    assert_eq!(refused(&charge(&first, 0).unwrap_err()).0, "requests-1m", "the first of equal waits");
    hands.advance(Duration::from_secs(60));
    let charged = charge(&first, 70).unwrap();
    assert_eq!(charged.status.0.len(), 3);
    assert!(charge(&second, 40).is_err(), "the group has 30 tokens left");
    assert_eq!(left(holder(&second, &of_key)), [10], "what the group refuses costs the key nothing");
    let (reserved, used) =
        (Cost { output_tokens: 70, ..Cost::REQUEST }, Cost { output_tokens: 20, ..Cost::REQUEST });
    limiter.settle(&charged.debits, reserved, used);
    assert_eq!(left(together), [14, 80]);
    assert!(charge(&second, 40).is_ok());
}

#[test]
fn a_request_that_ends_after_a_reload_does_not_bring_the_old_limit_back() {
    let (limiter, hands) = limiter();
    let state = limiter.state("key_a");
    let tokens = |amount, burst| Quota { unit: Unit::Tokens, ..quota(amount, 60, burst) };
    let (before, after) =
        ([limiter.window(None, tokens(60_000, 60_000))], [limiter.window(None, tokens(60, 60))]);
    let cost = |tokens: u32| Cost { output_tokens: tokens, ..Cost::REQUEST };
    let charge = |windows: &[Arc<Window>], units| limiter.charge(&holder(&state, windows), None, cost(units));
    let held: Vec<_> = (0..3).map(|_| charge(&before, 60).unwrap().debits).collect();
    charge(&after, 0).unwrap();
    let mut granted = 0;
    for charges in held {
        limiter.settle(&charges, cost(60), cost(60));
        hands.advance(Duration::from_secs(1));
        granted += u32::from(charge(&after, 60).is_ok());
    }
    assert_eq!(granted, 0, "180 tokens were used, and one a second comes back");
}

#[test]
fn all_that_remains_is_granted_and_retry_after_is_kept() {
    let (limiter, hands) = limiter();
    let state = limiter.state("key_a");
    let windows = [limiter.window(None, quota(7, 13, 3)), limiter.window(None, quota(20, 60, 5))];
    for step in 0..500u64 {
        let remaining =
            limiter.status(&holder(&state, &windows)).0.iter().map(|w| w.remaining).min().unwrap();
        if step % 3 == 0 {
            assert_eq!(granted(&limiter, &state, &windows, remaining), remaining);
            let refusal = limiter.charge(&holder(&state, &windows), None, Cost::REQUEST).unwrap_err();
            let Wait::For(retry_after) = refusal.wait() else { panic!("{refusal:?}") };
            hands.advance(retry_after);
            assert!(
                limiter.charge(&holder(&state, &windows), None, Cost::REQUEST).is_ok(),
                "the promise of Retry-After"
            );
        }
        hands.advance(Duration::from_millis(137 * (step % 11)));
    }
}

#[test]
fn the_reset_time_is_when_all_is_granted_again() {
    let (limiter, hands) = limiter();
    let state = limiter.state("key_a");
    let windows = [limiter.window(None, quota(60, 60, 10))];
    granted(&limiter, &state, &windows, 4);
    let status = limiter.status(&holder(&state, &windows));
    assert_eq!((status.0[0].remaining, status.0[0].reset), (6, Duration::from_secs(4)));
    hands.advance(Duration::from_secs(4));
    assert_eq!(limiter.status(&holder(&state, &windows)).0[0].remaining, 10);
}

#[test]
fn a_window_lasts_as_long_as_anything_has_it() {
    let (limiter, _hands) = limiter();
    let used = limiter.window(Some("a"), quota(1, 60, 1));
    limiter.window(Some("b"), quota(1, 60, 1));
    limiter.forget_unused_windows();
    assert_eq!(limiter.windows.len(), 1);
    // The state of a key still refers to the window of the route after the route was removed.
    let state = limiter.state("key_a");
    limiter.charge(&holder(&state, std::slice::from_ref(&used)), None, Cost::REQUEST).unwrap();
    drop(used);
    limiter.forget_unused_windows();
    let again = limiter.window(Some("a"), quota(1, 60, 1));
    assert!(
        limiter.charge(&holder(&state, std::slice::from_ref(&again)), None, Cost::REQUEST).is_err(),
        "what was used is remembered"
    );
}

#[test]
fn the_headers_have_the_documented_form() {
    let (limiter, _hands) = limiter();
    let state = limiter.state("key_a");
    let windows =
        [limiter.window(None, quota(600, 60, 60)), limiter.window(Some("chat"), quota(20_000, 86_400, 2000))];
    let mut headers = HeaderMap::new();
    limiter.charge(&holder(&state, &windows), None, Cost::REQUEST).unwrap().status.write_to(&mut headers);
    assert_eq!(
        headers["ratelimit-policy"],
        "\"requests-1m\";q=600;w=60, \"chat-requests-1d\";q=20000;w=86400"
    );
    assert_eq!(headers["ratelimit"], "\"requests-1m\";r=59;t=1, \"chat-requests-1d\";r=1999;t=5");
    assert_eq!(headers["x-ratelimit-limit-requests"], "600");
    assert_eq!(headers["x-ratelimit-remaining-requests"], "59");
    assert_eq!(headers["x-ratelimit-reset-requests"], "1s");
}
