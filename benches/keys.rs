//! Lookup of tokens: its cost, acceptance of changed tokens, and timing as a side channel.
//!
//! `cargo bench --bench keys [-- MUTANTS [KEYS]]`; default: ten million mutants and a million keys.
//! With `-- parse FILE`, it only measures how long it takes to parse a JSON Lines file into a map.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "an interactive measurement, not a library"
)]
#![allow(clippy::print_stdout, clippy::panic, unreachable_pub, reason = "the same")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::ops::Range;
use std::process::ExitCode;
use std::time::Instant;

use bearward::{Credential, KeyHash, KeyRing};

#[path = "../tests/it/harness/mutants.rs"]
mod mutants;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(index) = arguments.iter().position(|argument| argument == "parse") {
        return parse_alone(&arguments[index + 1]);
    }
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok());
    let (mutants, keys) = (numbers.next().unwrap_or(10_000_000), numbers.next().unwrap_or(1_000_000));
    for count in [10, 1000, keys] {
        look_ups(count);
    }
    let is_tight = refuse_mutants(mutants);
    timing("control: both of tokens that are not there", false, 15..47);
    timing("all right but the first character of the secret", true, 15..16);
    timing("all right but the last character of the secret", true, 46..47);
    timing("all right but any character of the secret", true, 15..47);
    if is_tight { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Minimum work of any reader of such a file: parse each line, and map its digest to its id.
fn parse_alone(path: &str) -> ExitCode {
    #[derive(serde::Deserialize)]
    #[allow(dead_code, reason = "parsed, never read")]
    struct Key<'a> {
        id: String,
        name: Option<&'a str>,
        hash: &'a str,
        permissions: Vec<&'a str>,
        environment: Option<&'a str>,
        created_at: Option<&'a str>,
        expires_at: Option<&'a str>,
        disabled: Option<bool>,
        rate_limits: Option<Vec<Quota<'a>>>,
    }
    #[derive(serde::Deserialize)]
    #[allow(dead_code, reason = "the same")]
    struct Quota<'a> {
        requests: u32,
        per: &'a str,
        burst: Option<u32>,
    }
    let start = Instant::now();
    let text = std::fs::read(path).unwrap();
    let mut keys = std::collections::HashMap::new();
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let key: Key<'_> = serde_json::from_slice(line).unwrap();
        keys.insert(KeyHash::parse(key.hash).unwrap(), key.id);
    }
    println!("{}", serde_json::json!({"keys": keys.len(), "seconds": start.elapsed().as_secs_f64()}));
    ExitCode::SUCCESS
}

fn ring(tokens: &[String]) -> KeyRing {
    let mut text = String::new();
    for (index, token) in tokens.iter().enumerate() {
        let hash = KeyHash::of(token.as_bytes()).to_stored();
        writeln!(text, "{{\"id\":\"key_{index:010}\",\"hash\":\"{hash}\",\"permissions\":[\"read\"]}}")
            .unwrap();
    }
    let file = tempfile::Builder::new().suffix(".jsonl").tempfile().unwrap();
    std::fs::write(file.path(), text).unwrap();
    KeyRing::load(file.path()).unwrap()
}

/// Time of token → digest → key, with keys in scattered order.
fn look_ups(count: usize) {
    let tokens: Vec<String> = (0..count).map(|number| format!("sk-{number:012}")).collect();
    let ring = ring(&tokens);
    let rounds = 2_000_000;
    let start = Instant::now();
    let mut index = 0;
    for _ in 0..rounds {
        index = (index + 7_919_777) % count;
        assert!(black_box(ring.find(&Credential::new(tokens[index].as_bytes()))).is_some());
    }
    println!("lookup among {count:>7} keys: {:>4} ns", start.elapsed().as_nanos() / rounds);
}

fn refuse_mutants(wanted: usize) -> bool {
    // Tokens are made a thousand at a time, until there are enough mutants.
    let (mut tried, mut accepted) = (0, 0);
    let start = Instant::now();
    while tried < wanted {
        let tokens = mutants::tokens(1000);
        let ring = ring(&tokens);
        assert!(tokens.iter().all(|token| ring.find(&Credential::new(token.as_bytes())).is_some()));
        mutants::each_mutant(&tokens, |mutant| {
            accepted += usize::from(ring.find(&Credential::new(mutant)).is_some());
            tried += 1;
            tried < wanted
        });
    }
    println!("mutants: {tried} tried, {accepted} let in ({:.1} s)", start.elapsed().as_secs_f64());
    accepted == 0
}

/// Copy of a token with one other base62 character and a correct checksum.
///
/// A token with other characters is refused before any lookup; the timing of that is no secret.
fn changed(token: &str, index: usize) -> Vec<u8> {
    let mut bytes = token.as_bytes()[..47].to_vec();
    let old = bytes[index];
    while bytes[index] == old {
        bytes[index] = fastrand::alphanumeric() as u8;
    }
    mutants::signed(&bytes)
}

/// Welch's t-test of two classes of refused tokens, as in dudect.
///
/// One class is live tokens with one changed character, the other is tokens that were never live,
/// with the same change. Tokens are new and in random order. Times beyond the 95th percentile are
/// noise of the machine and are left out. |t| under 4.5 is no evidence of a difference.
fn timing(case: &str, is_near: bool, positions: Range<usize>) {
    const SAMPLES: usize = 1_000_000;
    const LIVE: usize = 50_000;
    let (live, never) = (mutants::tokens(LIVE), mutants::tokens(LIVE));
    let ring = ring(&live);
    let near = if is_near { live } else { mutants::tokens(LIVE) };
    let mut times = [Vec::with_capacity(SAMPLES), Vec::with_capacity(SAMPLES)];
    while times.iter().map(Vec::len).sum::<usize>() < 2 * SAMPLES {
        // Made in advance: work just before a measurement would change its time.
        let made: Vec<(usize, Credential)> = (0..1000)
            .map(|_| {
                let (token, index) = (fastrand::usize(..LIVE), fastrand::usize(positions.clone()));
                let both = [changed(&near[token], index), changed(&never[token], index)];
                let class = fastrand::usize(..2);
                (class, Credential::new(&both[class]))
            })
            .collect();
        for (class, credential) in &made {
            let start = Instant::now();
            black_box(ring.find(credential));
            times[*class].push(start.elapsed().as_nanos() as f64);
        }
    }
    let mut all: Vec<f64> = times.concat();
    all.sort_by(f64::total_cmp);
    let bound = all[all.len() * 95 / 100];
    let [first, second] = times.map(|times| moments(times.into_iter().filter(|time| *time <= bound)));
    let t = (first.0 - second.0) / (first.1 / first.2 + second.1 / second.2).sqrt();
    let verdict = if t.abs() < 4.5 { "no difference is seen" } else { "THEY DIFFER" };
    println!("near and far, {case}: {:.1} and {:.1} ns, t = {t:.2}: {verdict}", first.0, second.0);
}

/// Mean, variance and number of times.
fn moments(times: impl Iterator<Item = f64> + Clone) -> (f64, f64, f64) {
    let count = times.clone().count() as f64;
    let mean = times.clone().sum::<f64>() / count;
    let variance = times.map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
    (mean, variance, count)
}
