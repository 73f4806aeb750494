//! The compact form of a token (RFC 7515, section 3.1): its three parts, and its header.
//!
//! Invariant: nothing that the header says is fetched, and nothing in it is a key.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::json::{Json, Object};
use super::reason::Reason;
use crate::config::Algorithm;

/// The most bytes of a token.
pub(crate) const MOST_BYTES: usize = 8 * 1024;

/// Headers that carry a key, or say where one is. Nobody but the configured issuer says what its keys are.
const KEYS_IN_HEADERS: [&str; 4] = ["jku", "jwk", "x5u", "x5c"];
/// The types of tokens that identify their holder (RFC 7519, section 5.1; RFC 9068, section 2.1). Others, such as
/// logout tokens, are for something else (RFC 8725, section 3.11).
const TYPES: [&str; 4] = ["jwt", "application/jwt", "at+jwt", "application/at+jwt"];

/// A token, with its parts decoded. Nothing in it is verified.
#[derive(Debug)]
pub(super) struct Compact<'t> {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
    pub(super) claims: Object,
    /// The part of the token that is signed, and its signature in base64.
    pub(super) signed: (&'t str, &'t str),
}

/// Whether a credential is a token where tokens are accepted: it has two dots.
pub(crate) fn is_token(credential: &[u8]) -> bool {
    let mut dots = memchr::memchr_iter(b'.', credential);
    dots.next().is_some() && dots.next().is_some() && dots.next().is_none()
}

impl<'t> Compact<'t> {
    /// Reads a token.
    ///
    /// # Errors
    ///
    /// The reason why it is refused, whatever its signature is.
    pub(super) fn of(token: &'t [u8]) -> Result<Self, Reason> {
        if token.len() > MOST_BYTES {
            return Err(Reason::TooLong);
        }
        let token = std::str::from_utf8(token).map_err(|_| Reason::Malformed)?;
        let (signed, signature) = token.rsplit_once('.').ok_or(Reason::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(Reason::Malformed)?;
        if signature.is_empty() || URL_SAFE_NO_PAD.decode(signature).is_err() {
            return Err(Reason::Malformed);
        }
        let header = object(header).ok_or(Reason::HeaderMalformed)?;
        if header.get("crit").is_some() {
            return Err(Reason::CriticalHeader);
        }
        if KEYS_IN_HEADERS.iter().any(|name| header.get(name).is_some()) {
            return Err(Reason::KeyInHeader);
        }
        check_type(&header)?;
        let named = header.text("alg").map_err(|()| Reason::HeaderMalformed)?.unwrap_or_default();
        let algorithm = Algorithm::named(named).ok_or(Reason::AlgorithmNotAccepted)?;
        let key_id = header.text("kid").map_err(|()| Reason::HeaderMalformed)?.map(str::to_owned);
        let claims = object(claims).ok_or(Reason::ClaimsMalformed)?;
        Ok(Compact { algorithm, key_id, claims, signed: (signed, signature) })
    }
}

fn check_type(header: &Object) -> Result<(), Reason> {
    let is_known = |kind: &Json| match kind {
        Json::Text(kind) => TYPES.iter().any(|known| known.eq_ignore_ascii_case(kind)),
        _ => false,
    };
    // The content of a nested token is a token by itself (RFC 7519, section 5.2).
    if header.get("cty").is_some() || header.get("enc").is_some() || header.get("b64").is_some() {
        return Err(Reason::Nested);
    }
    match header.get("typ") {
        Some(kind) if !is_known(kind) => Err(Reason::TypeNotAccepted),
        _ => Ok(()),
    }
}

fn object(part: &str) -> Option<Object> {
    Object::parse(&URL_SAFE_NO_PAD.decode(part).ok()?)
}
