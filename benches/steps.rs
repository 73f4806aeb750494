//! What the steps of a request cost by themselves: `make bench-steps`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a program for a person who looks on"
)]

use std::fmt::Write as _;

use bearward::fuzzing::Steps;
use bearward::{Credential, KeyHash, KeyRing, Token};
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

/// A credential as it was presented, checked for typing mistakes, and its digest.
#[divan::bench]
fn token(bencher: Bencher<'_, '_>) {
    let token = Token::generate().unwrap();
    bencher.bench(|| {
        let credential = Credential::new(black_box(token.reveal().as_bytes()));
        (credential.is_mistyped(), credential.hash())
    });
}

/// The same, and its look-up among so many keys, each time of another one.
#[divan::bench(args = [10, 1_000, 1_000_000])]
fn look_up(bencher: Bencher<'_, '_>, keys: usize) {
    let ring = KeyRing::load(&stored(keys).path().join("keys.jsonl")).unwrap();
    let mut number = 0;
    bencher
        .with_inputs(|| {
            number = (number + 7_919_777) % keys;
            secret(number)
        })
        .bench_local_values(|secret| ring.find(&Credential::new(secret.as_bytes())).expect("a key"));
}

/// From a request's head to the permit to forward it: guard, route, key, permission, limits.
#[divan::bench]
fn decision(bencher: Bencher<'_, '_>) {
    let steps = Steps::new();
    bencher.bench(|| steps.decide());
}

/// A caller's headers, copied, turned into those that upstream gets.
#[divan::bench]
fn headers(bencher: Bencher<'_, '_>) {
    let steps = Steps::new();
    let rewrite = steps.rewriter();
    bencher.bench(rewrite);
}

/// A store of so many keys, read whole.
#[divan::bench(args = [1_000, 100_000])]
fn reload(bencher: Bencher<'_, '_>, keys: usize) {
    let directory = stored(keys);
    bencher.bench(|| KeyRing::load(&directory.path().join("keys.jsonl")).unwrap().keys());
}

fn secret(number: usize) -> String {
    format!("sk-bench-{number:016}")
}

fn stored(keys: usize) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut lines = String::new();
    for number in 0..keys {
        let hash = KeyHash::of(secret(number).as_bytes()).to_stored();
        let _ = writeln!(lines, r#"{{"id":"key_{number:010}","hash":"{hash}","permissions":["read"]}}"#);
    }
    std::fs::write(directory.path().join("keys.jsonl"), lines).unwrap();
    directory
}
