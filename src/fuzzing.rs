//! The functions that fuzzers call, each of which checks properties that must hold for any input;
//! and the [`Steps`] of a request, for benches.
//!
//! Each function accepts any bytes, and panics if a property does not hold. `fuzz/` runs the
//! functions under libFuzzer. The tests in this file replay the inputs in `fuzz/corpus`. This
//! module is not part of the library for embedders.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a panic is how a fuzzer finds a broken property"
)]

mod answers;
mod bodies;
pub(crate) mod connection;
mod hygiene;
mod identities;
mod path;
mod patterns;
mod reference;
mod steps;
mod stores;
mod token;

pub use answers::{answer, answer_as_json};
pub use bodies::{body, usage};
pub use connection::connection;
pub use hygiene::hygiene;
pub use identities::{jwks, jwt};
pub use path::path;
pub use patterns::patterns;
pub use steps::Steps;
pub use stores::{config, keys};
pub use token::token;

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Runs every input in the corpus of a target. The corpus includes the inputs of past findings.
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
    fn tokens_of_issuers() {
        replay("jwt", super::jwt);
    }

    #[test]
    fn sets_of_keys() {
        replay("jwks", super::jwks);
    }

    #[test]
    fn bodies() {
        replay("body", super::body);
    }

    #[test]
    fn answers() {
        replay("answer", super::answer);
    }

    #[test]
    fn usages() {
        replay("usage", super::usage);
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
