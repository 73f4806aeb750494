//! Cost of single steps of a request: `make bench-steps`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "an interactive measurement, not a library"
)]

use std::fmt::Write as _;

use bearward::fuzzing::Steps;
use bearward::{Credential, KeyHash, KeyRing, Token};
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

/// Check of a credential for typing mistakes, and its digest.
#[divan::bench]
fn token(bencher: Bencher<'_, '_>) {
    let token = Token::generate().unwrap();
    bencher.bench(|| {
        let credential = Credential::new(black_box(token.reveal().as_bytes()));
        (credential.is_mistyped(), credential.hash())
    });
}

/// Digest of a credential and lookup among this many keys, a different key each time.
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

/// Decision on a request, from head to permit: guard, route, key, permission, limits.
#[divan::bench]
fn decision(bencher: Bencher<'_, '_>) {
    let steps = Steps::new();
    bencher.bench(|| steps.decide());
}

/// Rewrite of a copy of the caller's headers into those for upstream.
#[divan::bench]
fn headers(bencher: Bencher<'_, '_>) {
    let steps = Steps::new();
    let rewrite = steps.rewriter();
    bencher.bench(rewrite);
}

/// Load of a store of this many keys.
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
