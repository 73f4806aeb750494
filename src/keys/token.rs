//! Tokens, their digests, and the credentials that callers present.
//!
//! A token is `bwk_<id>_<secret><checksum>`: 10, 32 and 6 base62 characters. The checksum is the
//! CRC-32 (zlib's) of everything before it. Only the SHA-256 of a token is ever stored or compared.
//! Invariant: no type of this module prints a secret or a digest.

use std::fmt;
use std::hash::{Hash, Hasher};

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::digest::sha256;

pub(crate) const PREFIX: &str = "bwk_";
const ID_LENGTH: usize = 10;
const SECRET_LENGTH: usize = 32;
const CHECKSUM_LENGTH: usize = 6;
const TOKEN_LENGTH: usize = PREFIX.len() + ID_LENGTH + 1 + SECRET_LENGTH + CHECKSUM_LENGTH;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A new token. It is shown once, and not stored.
pub struct Token(Zeroizing<String>);

impl Token {
    /// Makes a token from the system's random source: 59 bits of id, 190 bits of secret.
    ///
    /// # Errors
    ///
    /// The system's random source failed.
    pub fn generate() -> Result<Self, getrandom::Error> {
        Self::with_id(&random_base62(ID_LENGTH)?)
    }

    /// Makes a new token for an existing key. The token contains the id of the key, if that id has
    /// the length and the characters of a token's id.
    pub(crate) fn generate_for(key_id: &str) -> Result<Self, getrandom::Error> {
        let id = key_id.strip_prefix("key_").unwrap_or_default();
        match id.len() == ID_LENGTH && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            true => Self::with_id(id),
            false => Self::generate(),
        }
    }

    fn with_id(id: &str) -> Result<Self, getrandom::Error> {
        let mut token = Zeroizing::new(String::with_capacity(TOKEN_LENGTH));
        token.push_str(PREFIX);
        token.push_str(id);
        token.push('_');
        token.push_str(&random_base62(SECRET_LENGTH)?);
        let checksum = checksum(token.as_bytes());
        token.extend(checksum.map(char::from));
        Ok(Token(token))
    }

    /// Returns the token as text. Only code that shows a new token to its owner calls this
    /// function.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Returns the token's digest.
    pub fn hash(&self) -> KeyHash {
        KeyHash::of(self.0.as_bytes())
    }

    /// Returns the token's public id, `key_` and ten base62 characters.
    pub fn key_id(&self) -> String {
        token_key_id(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// A credential as the client presented it. The type has no `Display` and a redacted `Debug`, and
/// its bytes are zeroed when it is dropped.
pub struct Credential(Box<[u8]>);

impl Credential {
    /// Copies a credential from these bytes.
    pub fn new(bytes: &[u8]) -> Self {
        Credential(bytes.into())
    }

    /// Returns the credential's digest, which finds the key.
    pub fn hash(&self) -> KeyHash {
        KeyHash::of(&self.0)
    }

    /// Returns the credential's length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the form of the credential, from its bytes alone.
    pub(crate) fn form(&self) -> Form {
        let Ok(text) = std::str::from_utf8(&self.0) else { return Form::Foreign };
        match text.len() == TOKEN_LENGTH && text.starts_with(PREFIX) {
            true if token_id(text).is_some() => Form::Token,
            true => Form::Mistyped,
            false => Form::Foreign,
        }
    }

    /// Whether the credential has the form of a bearward token, but a wrong checksum. Such a
    /// credential has a typing mistake, and can match no key.
    pub fn is_mistyped(&self) -> bool {
        self.form() == Form::Mistyped
    }

    /// Whether the credential begins as a bearward token, but has another length or a wrong checksum: characters
    /// were lost, added or changed, unless another program makes keys with this prefix.
    pub(crate) fn is_damaged(&self) -> bool {
        self.0.starts_with(PREFIX.as_bytes()) && self.form() != Form::Token
    }

    /// Returns the id inside a bearward token whose checksum is right. A client can make such a
    /// token with an id of its choice.
    pub fn token_id(&self) -> Option<String> {
        token_key_id(std::str::from_utf8(&self.0).ok()?)
    }

    /// Whether two credentials are the same bytes, compared in constant time.
    pub fn same_as(&self, other: &Credential) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Drop for Credential {
    fn drop(&mut self) {
        // `Zeroize` writes byte by byte, which costs 5,000 instructions for a token of an issuer.
        self.0.fill(0);
        zeroize::optimization_barrier(&*self.0);
    }
}

impl zeroize::ZeroizeOnDrop for Credential {}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(…)")
    }
}

/// The form of a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A bearward token with a right checksum.
    Token,
    /// A bearward token with a wrong checksum.
    Mistyped,
    /// Any other credential, such as a key that another program made.
    Foreign,
}

/// The SHA-256 of a token: the only form in which a secret is stored, and the index of the map of
/// keys.
#[derive(Clone, Copy)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// Hashes a token's bytes.
    pub fn of(token: &[u8]) -> Self {
        KeyHash(sha256(token))
    }

    /// Parses `sha256:<64 hex digits>`.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("sha256:")?.as_bytes();
        if hex.len() != 64 {
            return None;
        }
        let mut digest = [0u8; 32];
        for (byte, pair) in digest.iter_mut().zip(hex.chunks_exact(2)) {
            let &[high, low] = pair else { return None };
            *byte = hex_digit(high)? << 4 | hex_digit(low)?;
        }
        Some(KeyHash(digest))
    }

    /// Returns the stored form, `sha256:<64 hex digits>`. It is written to key files, and never
    /// logged.
    pub fn to_stored(self) -> String {
        let mut text = String::with_capacity(7 + 64);
        text.push_str("sha256:");
        for byte in self.0 {
            text.push_str(&format!("{byte:02x}"));
        }
        text
    }
}

impl KeyHash {
    /// Returns the first eight bytes of the digest. The bytes of a SHA-256 are uniformly
    /// distributed, so these eight serve as its hash in a map.
    pub(crate) fn head(&self) -> u64 {
        let mut head = [0u8; 8];
        for (to, from) in head.iter_mut().zip(self.0) {
            *to = from;
        }
        u64::from_ne_bytes(head)
    }
}

impl PartialEq for KeyHash {
    /// Compares in constant time: the differences of all words are combined before the only branch.
    fn eq(&self, other: &Self) -> bool {
        let (a, _) = self.0.as_chunks::<8>();
        let (b, _) = other.0.as_chunks::<8>();
        let words = a.iter().zip(b).map(|(a, b)| u64::from_ne_bytes(*a) ^ u64::from_ne_bytes(*b));
        let difference = words.fold(0, |difference, word| difference | word);
        difference.ct_eq(&0).into()
    }
}

impl Eq for KeyHash {}

impl Hash for KeyHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.head());
    }
}

/// Hashes a digest for a map. A digest is uniformly distributed, so its first bytes serve as its
/// hash.
#[derive(Default)]
pub(crate) struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(…)")
    }
}

/// Whether `token` has only characters that a client can present in a request.
pub(crate) fn is_presentable(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
}

/// Whether `id` has the form of a key's public id: `key_` and at least one of `A-Za-z0-9_-`.
pub(crate) fn is_key_id(id: &str) -> bool {
    let Some(rest) = id.strip_prefix("key_") else { return false };
    (1..=64).contains(&rest.len())
        && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// Returns the public id inside text with the length and the prefix of a bearward token. The
/// checksum is not checked.
pub(crate) fn mistyped_id(token: &str) -> Option<String> {
    let id = token.strip_prefix(PREFIX)?.get(..ID_LENGTH)?;
    Some(format!("key_{id}")).filter(|id| token.len() == TOKEN_LENGTH && is_key_id(id))
}

/// Returns the id, without `key_`, inside a well-formed bearward token whose checksum is right.
fn token_id(token: &str) -> Option<&str> {
    if token.len() != TOKEN_LENGTH {
        return None;
    }
    let (signed, given) = token.split_at_checked(TOKEN_LENGTH - CHECKSUM_LENGTH)?;
    let (id, secret) = signed.strip_prefix(PREFIX)?.split_at_checked(ID_LENGTH)?;
    let secret = secret.strip_prefix('_')?;
    // The fold has no early return, so the compiler can check many bytes at a time.
    let all_base62 = |text: &str| text.bytes().fold(true, |all, byte| all & byte.is_ascii_alphanumeric());
    if !all_base62(id) || !all_base62(secret) {
        return None;
    }
    // The checksum is no secret, because anybody can compute it. The time of this comparison
    // reveals nothing.
    (checksum(signed.as_bytes()) == given.as_bytes()).then_some(id)
}

/// Returns the public id of the key inside a well-formed bearward token whose checksum is right.
fn token_key_id(token: &str) -> Option<String> {
    token_id(token).map(|id| format!("key_{id}"))
}

/// Makes a key id from ten base62 characters of a digest.
pub(crate) fn derived_id(digest: [u8; 32]) -> String {
    format!("key_{}", short_id(digest))
}

/// Returns ten base62 characters of a digest.
pub(crate) fn short_id(digest: [u8; 32]) -> String {
    let mut number = [0u8; 16];
    for (to, from) in number.iter_mut().zip(digest) {
        *to = from;
    }
    base62(u128::from_be_bytes(number), ID_LENGTH)
}

/// Computes the CRC-32 (zlib's) in base62, most significant digit first, padded with `0` to six
/// characters.
fn checksum(signed: &[u8]) -> [u8; CHECKSUM_LENGTH] {
    let mut number = crc32fast::hash(signed);
    let mut digits = [b'0'; CHECKSUM_LENGTH];
    for digit in digits.iter_mut().rev() {
        *digit = base62_digit(number % 62);
        number /= 62;
    }
    digits
}

/// Returns the last `length` base62 digits of `number`.
fn base62(mut number: u128, length: usize) -> String {
    let mut digits = vec!['0'; length];
    for digit in digits.iter_mut().rev() {
        *digit = char::from(base62_digit((number % 62) as u32));
        number /= 62;
    }
    digits.into_iter().collect()
}

fn base62_digit(value: u32) -> u8 {
    ALPHABET.get(value as usize).copied().unwrap_or(b'0')
}

/// Returns `length` random base62 characters, each of the 62 equally likely.
fn random_base62(length: usize) -> Result<Zeroizing<String>, getrandom::Error> {
    let mut text = Zeroizing::new(String::with_capacity(length));
    let mut bytes = [0u8; 64];
    while text.len() < length {
        getrandom::fill(&mut bytes)?;
        // 248 is the largest multiple of 62 below 256. Bytes from 248 on would make some characters
        // more likely, so they are skipped.
        for byte in bytes.iter().filter(|byte| **byte < 248).take(length - text.len()) {
            text.push(char::from(ALPHABET.get(usize::from(byte % 62)).copied().unwrap_or(b'0')));
        }
    }
    bytes.zeroize();
    Ok(text)
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn digests_that_differ_in_one_bit_are_not_the_same() {
        let one = KeyHash::of(b"x");
        assert_eq!(one, KeyHash(one.0));
        for bit in 0..256 {
            let mut other = one.0;
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(one, KeyHash(other), "bit {bit}");
        }
    }

    #[test]
    fn a_token_has_the_documented_form() {
        let token = Token::generate().unwrap();
        let text = token.reveal();
        assert_eq!(text.len(), 53);
        assert!(text.starts_with("bwk_"));
        assert_eq!(text.split('_').count(), 3, "one double-click selects it");
        assert_eq!(token.key_id(), format!("key_{}", &text[4..14]));
    }

    #[test]
    fn the_checksum_is_zlibs_crc32_in_base62() {
        // Computed by hand: zlib.crc32(b"123456789") == 0xCBF43926 == 3421780262.
        assert_eq!(&checksum(b"123456789"), b"3jZRME");
        assert_eq!(base62(3_421_780_262, 6), "3jZRME");
        assert_eq!(base62(0, 6), "000000");
        assert_eq!(base62(61, 6), "00000z");
    }

    #[test]
    fn only_a_token_has_an_id_of_its_own() {
        let foreign = Credential::new(b"sk-something-else");
        assert_eq!((foreign.form(), foreign.token_id()), (Form::Foreign, None));
        assert!(is_key_id(&derived_id([255; 32])) && derived_id([0; 32]).len() == 14);
    }

    #[test]
    fn nothing_prints_a_secret_or_a_hash() {
        let token = Token::generate().unwrap();
        let credential = Credential::new(token.reveal().as_bytes());
        for text in [format!("{token:?}"), format!("{credential:?}"), format!("{:?}", token.hash())] {
            assert!(text.ends_with("(…)"), "{text}");
        }
    }

    #[test]
    fn a_stored_hash_is_read_back() {
        let hash = KeyHash::of(b"x");
        assert_eq!(KeyHash::parse(&hash.to_stored()), Some(hash));
        for bad in ["", "sha256:", "md5:00", "sha256:zz", &hash.to_stored()[..70]] {
            assert_eq!(KeyHash::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_changed_character_is_found_before_a_look_up(position in 0usize..53, replacement in "[0-9A-Za-z]") {
            let token = Token::generate().unwrap();
            let mut mutant = token.reveal().to_owned();
            mutant.replace_range(position..=position, &replacement);
            prop_assume!(mutant != token.reveal());
            prop_assert_eq!(token_id(&mutant), None);
        }

        #[test]
        fn any_bytes_at_all_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let credential = Credential::new(&bytes);
            prop_assert_eq!(credential.form() == Form::Token, credential.token_id().is_some());
        }

        #[test]
        fn a_generated_token_is_read_back(_round in 0..50u8) {
            let token = Token::generate().unwrap();
            let credential = Credential::new(token.reveal().as_bytes());
            prop_assert_eq!(credential.token_id(), Some(token.key_id()));
            prop_assert!(!credential.is_mistyped());
        }
    }
}
