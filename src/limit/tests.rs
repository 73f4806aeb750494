//! Tests of the limiter: windows, charges and headers.

use http::HeaderMap;
use jiff::Timestamp;

use super::*;

fn quota(requests: u32, seconds: u64, burst: u32) -> Quota {
    Quota::new(Unit::Requests, requests, Duration::from_secs(seconds), Some(burst))
}

fn limiter() -> (Limiter, Arc<crate::clock::Manual>) {
    let (clock, hands) = Clock::manual(Timestamp::UNIX_EPOCH);
    (Limiter::new(clock, usize::MAX), hands)
}

fn granted(limiter: &Limiter, state: &KeyState, windows: &[Arc<Window>], tries: u32) -> u32 {
    (0..tries).filter(|_| limiter.charge(state, windows.iter(), Cost::REQUEST).is_ok()).count() as u32
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
    let (remaining, _) = wide.status(state.uses.lock().unwrap().arrival(&wide, 0), 0);
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
        || limiter.status(&state, windows.iter()).0.iter().map(|w| w.remaining).collect::<Vec<_>>();
    let charge = |cost| limiter.charge(&state, windows.iter(), tokens(cost)).map(|charged| charged.of_tokens);
    let (first, second) = (charge(400).unwrap(), charge(100).unwrap());
    assert_eq!(remaining(), [8, 500]);
    limiter.settle(&state, &first, tokens(400), tokens(150));
    assert_eq!(remaining(), [8, 750], "what was too much is given back, in its own unit alone");
    limiter.settle(&state, &second, tokens(100), tokens(1100));
    assert_eq!(remaining(), [8, 0], "a debt");
    let refusal = charge(1).unwrap_err();
    assert_eq!((refusal.window.name(), refusal.wait), ("tokens-1m", Wait::For(Duration::from_millis(2510))));
    assert_eq!(remaining(), [8, 0], "a refusal takes nothing");
    hands.advance(Duration::from_millis(2510));
    let early = charge(1).unwrap();
    hands.advance(Duration::from_secs(60));
    let late = charge(1000).unwrap();
    limiter.settle(&state, &early, tokens(1), tokens(0));
    assert_eq!(remaining(), [9, 0], "what was regained is not given back");
    limiter.settle(&state, &late, tokens(1000), tokens(0));
    limiter.settle(&state, &late, tokens(1000), tokens(0));
    assert_eq!(remaining(), [9, 1000], "a window is never fuller than full");
    hands.advance(Duration::from_secs(60));
    charge(1500).unwrap();
    assert_eq!(remaining(), [9, 0], "a cost beyond the burst is granted by a full one, and leaves a debt");
    assert_eq!(limiter.status(&state, windows.iter()).0[1].reset, Duration::from_secs(15));
    assert!(limiter.charge(&state, windows.iter(), tokens(0)).is_ok(), "no tokens need no room");
}

#[test]
fn a_request_that_ends_after_a_reload_does_not_bring_the_old_limit_back() {
    let (limiter, hands) = limiter();
    let state = limiter.state("key_a");
    let tokens = |amount, burst| Quota { unit: Unit::Tokens, ..quota(amount, 60, burst) };
    let (before, after) =
        ([limiter.window(None, tokens(60_000, 60_000))], [limiter.window(None, tokens(60, 60))]);
    let cost = |tokens: u32| Cost { output_tokens: tokens, ..Cost::REQUEST };
    let charge = |windows: &[Arc<Window>], units| limiter.charge(&state, windows.iter(), cost(units));
    let held: Vec<_> = (0..3).map(|_| charge(&before, 60).unwrap().of_tokens).collect();
    charge(&after, 0).unwrap();
    let mut granted = 0;
    for charges in held {
        limiter.settle(&state, &charges, cost(60), cost(60));
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
        let remaining = limiter.status(&state, windows.iter()).0.iter().map(|w| w.remaining).min().unwrap();
        if step % 3 == 0 {
            assert_eq!(granted(&limiter, &state, &windows, remaining), remaining);
            let refusal = limiter.charge(&state, windows.iter(), Cost::REQUEST).unwrap_err();
            let Wait::For(retry_after) = refusal.wait else { panic!("{refusal:?}") };
            hands.advance(retry_after);
            assert!(
                limiter.charge(&state, windows.iter(), Cost::REQUEST).is_ok(),
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
    let status = limiter.status(&state, windows.iter());
    assert_eq!((status.0[0].remaining, status.0[0].reset), (6, Duration::from_secs(4)));
    hands.advance(Duration::from_secs(4));
    assert_eq!(limiter.status(&state, windows.iter()).0[0].remaining, 10);
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
    limiter.charge(&state, [&used].into_iter(), Cost::REQUEST).unwrap();
    drop(used);
    limiter.forget_unused_windows();
    let again = limiter.window(Some("a"), quota(1, 60, 1));
    assert!(
        limiter.charge(&state, [&again].into_iter(), Cost::REQUEST).is_err(),
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
    limiter.charge(&state, windows.iter(), Cost::REQUEST).unwrap().status.write_to(&mut headers);
    assert_eq!(
        headers["ratelimit-policy"],
        "\"requests-1m\";q=600;w=60, \"chat-requests-1d\";q=20000;w=86400"
    );
    assert_eq!(headers["ratelimit"], "\"requests-1m\";r=59;t=1, \"chat-requests-1d\";r=1999;t=5");
    assert_eq!(headers["x-ratelimit-limit-requests"], "600");
    assert_eq!(headers["x-ratelimit-remaining-requests"], "59");
    assert_eq!(headers["x-ratelimit-reset-requests"], "1s");
}
