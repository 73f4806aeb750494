//! Fuzzes tokens: a second implementation checks their format, and only the exact token of a key
//! may match the key.

use std::sync::OnceLock;

use crate::key_cache::KeyCache;
use crate::key_store::Reading;
use crate::key_store::Store;
use crate::keys::id_secret::IdSecret;
use crate::{Credential, Token};

/// Looks the bytes up as a credential, and checks their format as a token.
pub fn token(bytes: &[u8]) {
    let credential = Credential::new(bytes);
    assert_eq!(credential.token_id().is_some(), is_token(bytes), "two readings of the format differ");
    let id = IdSecret::random().key_id(&credential);
    let digits = id.strip_prefix("key_").unwrap();
    assert!(digits.len() == 10 && digits.bytes().all(|digit| digit.is_ascii_alphanumeric()), "{id}");
    let (cache, live) = keys();
    let opens = cache.lookup(&credential).is_ok();
    assert_eq!(opens, live.iter().any(|token| token.as_bytes() == bytes), "a token opens itself alone");
    // An almost valid token is a valid token in which the input's bytes replace a part.
    if let (Some((&at, rest)), Some(live)) = (bytes.split_first(), live.first()) {
        let mut near = live.clone().into_bytes();
        let start = usize::from(at) % near.len();
        for (byte, new) in near.iter_mut().skip(start).zip(rest) {
            *byte = *new;
        }
        let opens = cache.lookup(&Credential::new(&near)).is_ok();
        let is_live = keys().1.iter().any(|live| live.as_bytes() == near);
        assert_eq!(opens, is_live);
    }
}

fn keys() -> &'static (KeyCache, Vec<String>) {
    static KEYS: OnceLock<(KeyCache, Vec<String>)> = OnceLock::new();
    KEYS.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.txt");
        let live: Vec<String> = (0..5).map(|_| Token::generate().unwrap().reveal().to_owned()).collect();
        std::fs::write(&path, live.join("\n")).unwrap();
        let set = Store::at_path(&path)
            .unwrap()
            .load(Reading::first(&KeyCache::default(), &IdSecret::random()))
            .unwrap();
        (KeyCache::from(&set), live)
    })
}

/// Whether the bytes are a token. This second implementation of the format computes the CRC-32 bit
/// by bit.
fn is_token(bytes: &[u8]) -> bool {
    if bytes.len() != 53 || !bytes.starts_with(b"bwk_") || bytes[14] != b'_' {
        return false;
    }
    let digits = [&bytes[4..14], &bytes[15..]].concat();
    if !digits.iter().all(u8::is_ascii_alphanumeric) {
        return false;
    }
    let mut crc = u32::MAX;
    for byte in &bytes[..47] {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => u64::from(byte - b'0'),
        b'A'..=b'Z' => u64::from(byte - b'A') + 10,
        _ => u64::from(byte - b'a') + 36,
    };
    bytes[47..].iter().fold(0, |value, byte| value * 62 + digit(*byte)) == u64::from(!crc)
}
