//! Recognizes secrets that are easy to guess.
//!
//! Whether a secret was made at random can't be seen. These checks find what people type: short
//! secrets, usual words, patterns.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::fault::Fault;
use crate::{bom, placeholder, regular_file};

/// Minimum length of a secret in characters. Twenty random characters have more than a hundred
/// bits.
const SHORTEST: usize = 20;
/// Minimum entropy of a secret in bits, computed from the frequencies of its characters. Twenty
/// random hex digits have an entropy of about 70 bits.
const LEAST_BITS: f64 = 60.0;
/// Minimum number of letters and digits in a secret, not counting those in usual words (`WORDS`).
const LEAST_REST: usize = 16;
const WORDS: [&str; 24] = [
    "admin",
    "administrator",
    "bearward",
    "token",
    "secret",
    "password",
    "passwd",
    "changeme",
    "change",
    "default",
    "root",
    "test",
    "demo",
    "example",
    "letmein",
    "welcome",
    "qwerty",
    "master",
    "access",
    "apikey",
    "key",
    "the",
    "your",
    "my",
];

/// Returns the weakness of a secret as a phrase that follows the secret's name; `None` if the
/// secret seems strong.
pub(super) fn weakness(secret: &str) -> Option<&'static str> {
    if placeholder::find(secret).is_some() {
        return Some("is a placeholder");
    }
    if secret.chars().count() < SHORTEST {
        return Some("has less than 20 characters");
    }
    if rest(secret) < LEAST_REST {
        return Some("is made of usual words");
    }
    (bits(secret) < LEAST_BITS || is_walk(secret)).then_some("follows a pattern")
}

/// Returns the number of letters and digits in `secret`, not counting those in usual words.
fn rest(secret: &str) -> usize {
    let folded = secret.to_ascii_lowercase();
    // Longer words are removed first: `administrator` before `admin`.
    let mut words = WORDS;
    words.sort_by_key(|word| std::cmp::Reverse(word.len()));
    let rest = words.iter().fold(folded, |rest, word| rest.replace(word, " "));
    rest.chars().filter(char::is_ascii_alphanumeric).count()
}

/// Returns the Shannon entropy of a secret in bits, computed from the frequencies of its
/// characters.
fn bits(secret: &str) -> f64 {
    let mut counts: BTreeMap<char, f64> = BTreeMap::new();
    for c in secret.chars() {
        *counts.entry(c).or_default() += 1.0;
    }
    let length: f64 = counts.values().sum();
    counts.values().map(|count| count * (length / count).log2()).sum()
}

/// Whether a secret follows a pattern: most of its characters are neighbours of the character
/// before, as in `abcdef` or `987654`, or repeat the character one period earlier, as in
/// `a1b2a1b2`.
fn is_walk(secret: &str) -> bool {
    let codes: Vec<i64> = secret.chars().map(|c| i64::from(u32::from(c))).collect();
    let steps: Vec<i64> = codes.iter().zip(codes.iter().skip(1)).map(|(a, b)| b - a).collect();
    let walked = steps.iter().filter(|step| step.abs() <= 1).count();
    let repeats = |period: usize| {
        let again = codes.iter().zip(codes.iter().skip(period)).filter(|(a, b)| a == b).count();
        again * 4 >= (codes.len() - period) * 3
    };
    walked * 2 > steps.len() || (1..=codes.len() / 2).any(repeats)
}

/// Returns the fault of the admin token's file, if it has one.
pub(super) fn token_fault(path: &Path) -> Option<Fault> {
    match regular_file::read_text(path) {
        Ok(token) => {
            let token = bom::without(&token).trim();
            // A token that contains a weak word, such as `changeme`, is no fault: `weakness` finds
            // the word, and the token gets a warning. A template that was not filled in is a fault.
            match placeholder::find(token).filter(|found| !found.is_word()) {
                _ if token.is_empty() => Some(Fault::of_file(path, "the admin token is empty")),
                Some(found) => {
                    Some(Fault::of_file(path, format!("the admin token is {}", found.what)).hint(found.hint))
                }
                None => None,
            }
        }
        Err(error) => Some(Fault::unreadable(path, "the admin token", &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_secrets_are_weak_and_random_ones_are_not() {
        for weak in [
            "",
            "admin",
            "hunter2",
            "the-admin-token",
            "correct-horse",
            "0123456789abcdef",
            "adminadminadminadmin",
            "my-secret-admin-token-2026",
            "Password-Password-Password1",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "abcdefghijklmnopqrstuvwxyz",
            "01234567890123456789012345678901",
            "a1b2c3a1b2c3a1b2c3a1b2c3",
            "change-me-change-me-change-me",
            "${ADMIN_TOKEN}-and-much-more-than-that",
            "zyxwvutsrqponmlkjihgfedcba",
            "deadbeefdeadbeefdeadbeefdeadbeef",
        ] {
            assert!(weakness(weak).is_some(), "{weak}");
        }
        for _ in 0..200 {
            let token = crate::keys::token::Token::generate().unwrap();
            let hex =
                |bytes: usize| (0..bytes).map(|_| format!("{:02x}", fastrand::u8(..))).collect::<String>();
            for strong in [token.reveal()[15..47].to_owned(), token.reveal().to_owned(), hex(16), hex(32)] {
                assert_eq!(weakness(&strong), None, "{strong}");
            }
        }
        assert_eq!(weakness("7Jx-quoted-horse-Battery-staple-91"), None, "a long phrase is no usual word");
    }
}
