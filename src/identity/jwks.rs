//! The keys of an issuer: a JSON Web Key Set (RFC 7517, section 5), of which the usable keys are kept.
//!
//! Invariant: a key verifies only with the algorithms of its own type, whatever a token says; a key for anything
//! but the verification of signatures, a symmetric key and a weak key verify nothing.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::crypto::verify;

use super::json::{Json, Object};
use crate::config::Algorithm;
use crate::digest::sha256;

/// The most keys of a set. Issuers have a handful.
const MOST_KEYS: usize = 100;
/// The most bytes of a set.
pub(crate) const MOST_BYTES: usize = 512 * 1024;
/// The lengths of RSA moduli that are accepted, in bits (RFC 7518, section 3.3 asks for 2048 at least).
const MODULUS_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// The most keys that are tried for a token that names none: the old and the new one of an issuer.
const KEYS_WITHOUT_ID: usize = 2;
/// The most bytes of an RSA exponent. Longer ones only make each verification slow.
const EXPONENT_BYTES: usize = 4;

/// The usable keys of an issuer.
#[derive(Debug)]
pub(crate) struct KeySet {
    keys: Vec<Key>,
    /// Why other keys of the set are of no use, one text for each.
    pub(crate) unusable: Vec<String>,
    digest: [u8; 32],
}

struct Key {
    id: Option<String>,
    kind: Kind,
    /// The only algorithm that the set names for the key.
    algorithm: Option<Algorithm>,
    key: DecodingKey,
    /// The digest of all that the key is.
    digest: [u8; 32],
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("kind", &self.kind).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl Kind {
    /// Whether a key of this kind verifies signatures of this algorithm.
    fn fits(self, algorithm: Algorithm) -> bool {
        use Algorithm::{EdDsa, Es256, Es384, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        match self {
            Kind::Rsa => matches!(algorithm, Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512),
            Kind::P256 => algorithm == Es256,
            Kind::P384 => algorithm == Es384,
            Kind::Ed25519 => algorithm == EdDsa,
        }
    }
}

/// Why no key of a set verifies a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotVerified {
    /// The token names no key, and several could be meant.
    KeyMissing,
    /// No key of the set has this id, and fits the algorithm.
    KeyUnknown,
    Signature,
}

impl KeySet {
    /// Parses a set.
    ///
    /// # Errors
    ///
    /// What is wrong with the document. Keys that are of no use are no fault of it.
    pub(crate) fn parse(document: &[u8]) -> Result<Self, String> {
        if document.len() > MOST_BYTES {
            return Err(format!("more than {} KiB", MOST_BYTES / 1024));
        }
        let object = Object::parse(document).ok_or("no JSON object, or one with a repeated name")?;
        let Some(Json::List(listed)) = object.get("keys") else {
            return Err("no list `keys` in it (RFC 7517, section 5)".to_owned());
        };
        if listed.len() > MOST_KEYS {
            return Err(format!("{} keys, and at most {MOST_KEYS} are read", listed.len()));
        }
        let (mut keys, mut unusable) = (Vec::new(), Vec::new());
        for (number, listed) in listed.iter().enumerate() {
            let Json::Object(listed) = listed else {
                unusable.push(format!("key {}: no object", number + 1));
                continue;
            };
            match Key::of(listed) {
                Ok(key) => keys.push(key),
                Err(reason) => {
                    let named = listed.text("kid").ok().flatten().map(visible);
                    let named = named.unwrap_or_else(|| format!("number {}", number + 1));
                    unusable.push(format!("key {named}: {reason}"));
                }
            }
        }
        let mut material: Vec<[u8; 32]> = keys.iter().map(|key| key.digest).collect();
        material.sort_unstable();
        Ok(KeySet { keys, unusable, digest: sha256(material.concat()) })
    }

    /// Whether both have the same keys.
    pub(crate) fn is_same(&self, other: &KeySet) -> bool {
        self.digest == other.digest
    }

    /// Returns the number of usable keys.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Describes the usable keys in a few words.
    pub(crate) fn shown(&self) -> String {
        let kinds = [
            (Kind::Rsa, "RSA"),
            (Kind::P256, "EC P-256"),
            (Kind::P384, "EC P-384"),
            (Kind::Ed25519, "Ed25519"),
        ];
        let count = |kind| self.keys.iter().filter(|key| key.kind == kind).count();
        let counted = kinds.iter().map(|(kind, name)| (count(*kind), name)).filter(|(count, _)| *count > 0);
        let counted: Vec<String> = counted.map(|(count, name)| format!("{count} {name}")).collect();
        if counted.is_empty() { "none".to_owned() } else { counted.join(", ") }
    }

    /// Verifies a signature. `signed`: what is signed. `signature`: in base64. `id`: the key that the token
    /// names, which selects among the keys of this set alone.
    pub(super) fn verify(
        &self,
        (signed, signature): (&str, &str),
        algorithm: Algorithm,
        id: Option<&str>,
    ) -> Result<(), NotVerified> {
        let fits =
            |key: &&Key| key.kind.fits(algorithm) && key.algorithm.is_none_or(|only| only == algorithm);
        let fitting = self.keys.iter().filter(fits);
        let is_by = |key: &Key| {
            verify(signature, signed.as_bytes(), &key.key, in_library(algorithm)).unwrap_or(false)
        };
        let is_verified = match id {
            None => match fitting.clone().count() {
                0 => return Err(NotVerified::KeyUnknown),
                1..=KEYS_WITHOUT_ID => fitting.clone().any(is_by),
                _ => return Err(NotVerified::KeyMissing),
            },
            Some(id) => {
                let mut named = fitting.filter(|key| key.id.as_deref() == Some(id)).peekable();
                if named.peek().is_none() {
                    return Err(NotVerified::KeyUnknown);
                }
                named.any(is_by)
            }
        };
        if is_verified { Ok(()) } else { Err(NotVerified::Signature) }
    }
}

fn in_library(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    use jsonwebtoken::Algorithm as Library;
    match algorithm {
        Algorithm::Rs256 => Library::RS256,
        Algorithm::Rs384 => Library::RS384,
        Algorithm::Rs512 => Library::RS512,
        Algorithm::Ps256 => Library::PS256,
        Algorithm::Ps384 => Library::PS384,
        Algorithm::Ps512 => Library::PS512,
        Algorithm::Es256 => Library::ES256,
        Algorithm::Es384 => Library::ES384,
        Algorithm::EdDsa => Library::EdDSA,
    }
}

/// Returns an id that somebody else has chosen, as a message may show it.
fn visible(id: &str) -> String {
    let shown: String = id.chars().take(64).collect();
    format!("`{}`", shown.escape_debug())
}

impl Key {
    /// Reads a key. Fails with the reason why it is of no use.
    fn of(listed: &Object) -> Result<Self, String> {
        let text = |name: &str| listed.text(name).map_err(|()| format!("`{name}` is no text"));
        let needed = |name: &str| text(name)?.ok_or_else(|| format!("no `{name}`"));
        if text("use")?.is_some_and(|purpose| purpose != "sig") {
            return Err("not for signatures".to_owned());
        }
        match listed.get("key_ops") {
            None => {}
            Some(Json::List(uses)) if uses.contains(&Json::Text("verify".to_owned())) => {}
            Some(_) => return Err("not for verification".to_owned()),
        }
        let mut material = String::new();
        let mut part = |name: &str| -> Result<&str, String> {
            let part = needed(name)?;
            material.push_str(part);
            material.push('.');
            Ok(part)
        };
        let (kind, key) = match needed("kty")? {
            "RSA" => {
                let (n, e) = (part("n")?, part("e")?);
                (Kind::Rsa, rsa(n, e)?)
            }
            "EC" => {
                let (kind, bytes) = match needed("crv")? {
                    "P-256" => (Kind::P256, 32),
                    "P-384" => (Kind::P384, 48),
                    other => return Err(format!("the curve {} is not supported", visible(other))),
                };
                let (x, y) = (part("x")?, part("y")?);
                if [x, y].iter().any(|part| decoded(part).is_none_or(|part| part.len() != bytes)) {
                    return Err("no point of its curve".to_owned());
                }
                (kind, DecodingKey::from_ec_components(x, y).map_err(|error| error.to_string())?)
            }
            "OKP" => match needed("crv")? {
                "Ed25519" => {
                    let x = part("x")?;
                    if decoded(x).is_none_or(|point| point.len() != 32) {
                        return Err("no point of its curve".to_owned());
                    }
                    (Kind::Ed25519, DecodingKey::from_ed_components(x).map_err(|error| error.to_string())?)
                }
                other => return Err(format!("the curve {} is not supported", visible(other))),
            },
            "oct" => return Err("a symmetric key: whoever can verify could sign".to_owned()),
            other => return Err(format!("the type {} is not supported", visible(other))),
        };
        let algorithm = match text("alg")? {
            None => None,
            Some(name) => match Algorithm::named(name) {
                Some(algorithm) if kind.fits(algorithm) => Some(algorithm),
                _ => return Err(format!("for {}, which is not accepted", visible(name))),
            },
        };
        let id = text("kid")?.map(str::to_owned);
        let digest = sha256(format!("{kind:?} {algorithm:?} {id:?} {material}"));
        Ok(Key { id, kind, algorithm, key, digest })
    }
}

fn decoded(part: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(part).ok()
}

/// Reads an RSA key, and refuses weak ones.
fn rsa(modulus: &str, exponent: &str) -> Result<DecodingKey, String> {
    let (Some(n), Some(e)) = (decoded(modulus), decoded(exponent)) else {
        return Err("`n` or `e` is not base64".to_owned());
    };
    let significant =
        |bytes: &[u8]| bytes.iter().position(|byte| *byte != 0).map_or(0, |zeros| bytes.len() - zeros);
    let n = n.get(n.len() - significant(&n)..).unwrap_or_default();
    let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
    if !MODULUS_BITS.contains(&bits) {
        return Err(format!(
            "an RSA key of {bits} bits, and it needs {} to {}",
            MODULUS_BITS.start(),
            MODULUS_BITS.end()
        ));
    }
    let e_length = significant(&e);
    let e = e.get(e.len() - e_length..).unwrap_or_default();
    let is_odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
    if e_length > EXPONENT_BYTES || !is_odd(e) || e == [1] || !is_odd(n) {
        return Err("an RSA key with a weak exponent or modulus".to_owned());
    }
    Ok(DecodingKey::from_rsa_raw_components(n, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EC: &str = r#"{"kty":"EC","crv":"P-256","kid":"a","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

    fn set(keys: &[&str]) -> KeySet {
        KeySet::parse(format!("{{\"keys\":[{}]}}", keys.join(",")).as_bytes()).unwrap()
    }

    #[test]
    fn only_public_keys_for_signatures_are_used() {
        let with = |more: &str| EC.replace("\"kid\":\"a\"", more);
        let keys = [
            EC.to_owned(),
            with(r#""use":"sig","key_ops":["verify"]"#),
            with(r#""use":"enc""#),
            with(r#""key_ops":["sign"]"#),
            with(r#""alg":"RS256""#),
            with(r#""kid":7"#),
            r#"{"kty":"oct","k":"c2VjcmV0"}"#.to_owned(),
            r#"{"kty":"EC","crv":"P-521","x":"AA","y":"AA"}"#.to_owned(),
            r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#.to_owned(),
            r#"{"kty":"OKP","crv":"Ed448","x":"AA"}"#.to_owned(),
            r#"{"kty":"later"}"#.to_owned(),
            "7".to_owned(),
        ];
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let set = set(&keys);
        assert_eq!((set.len(), set.unusable.len()), (2, 10), "{:?}", set.unusable);
        assert_eq!(set.shown(), "2 EC P-256");
    }

    #[test]
    fn weak_rsa_keys_are_of_no_use() {
        let key = |n: &[u8], e: &[u8]| {
            let (n, e) = (URL_SAFE_NO_PAD.encode(n), URL_SAFE_NO_PAD.encode(e));
            set(&[&format!(r#"{{"kty":"RSA","n":"{n}","e":"{e}"}}"#)]).len()
        };
        let good = [0x01, 0x00, 0x01];
        assert_eq!(key(&[0xff; 256], &good), 1);
        assert_eq!(
            key(&[[0; 4].as_slice(), &[0xff; 256]].concat(), &good),
            1,
            "zeros in front change nothing"
        );
        assert_eq!(key(&[0xff; 255], &good), 0);
        assert_eq!(key(&[[0; 256].as_slice(), &[0xff; 128]].concat(), &good), 0);
        assert_eq!(key(&[0xff; 1025], &good), 0);
        for weak in [&[1][..], &[2], &[0], &[], &[1, 0, 0, 0, 1]] {
            assert_eq!(key(&[0xff; 256], weak), 0, "{weak:?}");
        }
        assert_eq!(key(&[0xfe; 256], &good), 0, "an even modulus");
    }

    #[test]
    fn a_document_that_is_no_set_is_a_fault() {
        for document in
            ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[],"keys":[]}"#, "<html>", r#"{"keys":7}"#]
        {
            assert!(KeySet::parse(document.as_bytes()).is_err(), "{document}");
        }
        assert!(KeySet::parse(&vec![b' '; MOST_BYTES + 1]).is_err());
        let many = vec![EC; MOST_KEYS + 1].join(",");
        assert!(KeySet::parse(format!("{{\"keys\":[{many}]}}").as_bytes()).is_err());
        assert_eq!(set(&[]).len(), 0);
    }

    #[test]
    fn the_order_of_keys_and_other_fields_make_no_other_set() {
        let other = EC.replace("\"a\"", "\"b\"");
        assert!(set(&[EC, &other]).is_same(&set(&[&other, &EC.replace("{", "{\"later\":1,")])));
        for changed in [EC.replace("\"a\"", "\"c\""), EC.replace("{", "{\"alg\":\"ES256\",")] {
            assert!(!set(&[EC]).is_same(&set(&[&changed])));
        }
    }

    #[test]
    fn a_token_without_a_key_id_means_one_of_at_most_two_keys() {
        let (b, c) = (EC.replace("\"a\"", "\"b\""), EC.replace("\"a\"", "\"d\""));
        let (two, three) = (set(&[EC, &b]), set(&[EC, &b, &c]));
        let token = ("x.y", "AA");
        assert_eq!(two.verify(token, Algorithm::Es256, None), Err(NotVerified::Signature));
        assert_eq!(three.verify(token, Algorithm::Es256, None), Err(NotVerified::KeyMissing));
        assert_eq!(two.verify(token, Algorithm::Rs256, None), Err(NotVerified::KeyUnknown));
        assert_eq!(two.verify(token, Algorithm::Es256, Some("c")), Err(NotVerified::KeyUnknown));
        assert_eq!(two.verify(token, Algorithm::Es256, Some("a")), Err(NotVerified::Signature));
        assert_eq!(set(&[EC]).verify(token, Algorithm::Es256, None), Err(NotVerified::Signature));
    }
}
