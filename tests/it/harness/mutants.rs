//! Tokens that are almost good: every small change of a live one, with its checksum made right again where it has one.

use std::collections::HashSet;

use bearward::Token;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// What the checksum is of: `bwk_`, the id, `_`, the secret.
const SIGNED: usize = 4 + 10 + 1 + 32;

/// Live tokens.
pub fn tokens(count: usize) -> Vec<String> {
    (0..count).map(|_| Token::generate().unwrap().reveal().to_owned()).collect()
}

/// The CRC-32 of the first part of a token in base62, in the place of its end.
pub fn signed(bytes: &[u8]) -> Vec<u8> {
    let mut rest = crc32fast::hash(bytes);
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    [bytes, &digits].concat()
}

/// Calls `take` with every mutant of every token, again and again from other tokens, until it says that this is enough.
/// No mutant is one of the tokens.
pub fn each_mutant(tokens: &[String], mut take: impl FnMut(&[u8]) -> bool) {
    let live: HashSet<&[u8]> = tokens.iter().map(String::as_bytes).collect();
    let mut give = |mutant: &[u8]| live.contains(mutant) || take(mutant);
    for (index, token) in tokens.iter().enumerate() {
        let token = token.as_bytes();
        let other = tokens[(index + 1) % tokens.len()].as_bytes();
        let swapped = signed(&[&token[..4], &other[4..14], &token[14..SIGNED]].concat());
        let other_secret = signed(&[&token[..15], &other[15..SIGNED]].concat());
        let halves = signed(&[&token[..31], &other[31..SIGNED]].concat());
        let unsigned = [&token[..SIGNED], &other[SIGNED..]].concat();
        for mutant in
            [swapped, other_secret, halves, unsigned, token.to_ascii_lowercase(), token.to_ascii_uppercase()]
        {
            if !give(&mutant) {
                return;
            }
        }
        for place in 0..SIGNED {
            for bit in 0..8 {
                let mut mutant = token[..SIGNED].to_vec();
                mutant[place] ^= 1 << bit;
                // As it is, and with the checksum of the change.
                if !give(&signed(&mutant)) || !give(&[&mutant, &token[SIGNED..]].concat()) {
                    return;
                }
            }
            let mut other_case = token[..SIGNED].to_vec();
            other_case[place] ^= if other_case[place].is_ascii_alphabetic() { 0x20 } else { 0 };
            if !give(&signed(&other_case)) {
                return;
            }
        }
        for length in 0..token.len() {
            if !give(&token[..length]) || !give(&signed(&token[..length.min(SIGNED - 1)])) {
                return;
            }
        }
        for extra in [&b"0"[..], b" ", b"\0", b"\n", b"=", b"bwk_", token] {
            if !give(&[token, extra].concat()) || !give(&[extra, token].concat()) {
                return;
            }
        }
    }
}
