//! What the fuzzers call, and what must hold whatever they send; and, for benches, the [`Steps`] of a request.
//!
//! Each function takes any bytes and panics where a promise is broken. `fuzz/` runs them under libFuzzer; the tests
//! below replay what it has found. Not part of the library that embedders use.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a fuzzer is told of a broken promise by a panic"
)]

pub(crate) mod connection;
mod hygiene;
mod path;
mod patterns;
mod reference;
mod steps;
mod stores;
mod token;

pub use connection::connection;
pub use hygiene::hygiene;
pub use path::path;
pub use patterns::patterns;
pub use steps::Steps;
pub use stores::{config, keys};
pub use token::token;

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Every input that is kept for a target: its corpus, and what was once a finding.
    fn replay(target: &str, run: fn(&[u8])) {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut replayed = 0;
        for entry in std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{target}: {error}")) {
            run(&std::fs::read(entry.unwrap().path()).unwrap());
            replayed += 1;
        }
        assert!(replayed >= 10, "{target} has {replayed} inputs");
    }

    #[test]
    fn tokens() {
        replay("token", super::token);
    }

    #[test]
    fn paths() {
        replay("path", super::path);
    }

    #[test]
    fn patterns() {
        replay("patterns", super::patterns);
    }

    #[test]
    fn hygiene() {
        replay("hygiene", super::hygiene);
    }

    #[test]
    fn key_files() {
        replay("keys", super::keys);
    }

    #[test]
    fn configurations() {
        replay("config", super::config);
    }

    #[test]
    fn connections() {
        replay("connection", super::connection);
    }
}
