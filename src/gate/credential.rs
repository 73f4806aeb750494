//! The credentials of a request: their places in the headers, and their form.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use crate::config::{Auth, Conflict};
use crate::denial::Denial;
use crate::keys::Credential;

/// Prefix of a WebSocket protocol that contains a key. Browsers send a key as a protocol, because
/// they can't set a header for a WebSocket.
const PROTOCOL_PREFIX: &[u8] = b"openai-insecure-api-key.";

/// A credential, as the request presents it.
#[derive(Debug)]
pub(super) enum PresentedCredential {
    /// A credential of one word, which is looked up.
    Word(Credential),
    /// A credential of several words, or a list. No key has such a form.
    Malformed(Credential),
}

impl PresentedCredential {
    fn of(key: &[u8]) -> Option<Self> {
        if key.is_empty() {
            return None;
        }
        let credential = Credential::new(key);
        let is_word = memchr::memchr3(b' ', b'\t', b',', key).is_none();
        Some(if is_word {
            PresentedCredential::Word(credential)
        } else {
            PresentedCredential::Malformed(credential)
        })
    }

    pub(super) fn credential(&self) -> &Credential {
        match self {
            PresentedCredential::Word(credential) | PresentedCredential::Malformed(credential) => credential,
        }
    }
}

/// The credentials of a request. There can be more than one only with `auth.conflict: any`; the
/// credential that matches a key is then used.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) first: PresentedCredential,
    /// All credentials except the first, without duplicates.
    pub(super) others: Vec<PresentedCredential>,
}

/// Finds the credentials of a request in the places that the configuration allows. The query,
/// cookies and Proxy-Authorization are never searched.
///
/// # Errors
///
/// 400 if a header is given twice, or two credentials differ and `auth.conflict` is `refuse`. 401
/// if there is no credential.
pub(super) fn find(headers: &HeaderMap, auth: &Auth) -> Result<Found, Denial> {
    let mut found: Option<Found> = None;
    for name in &auth.headers {
        let mut values = headers.get_all(name).iter();
        let Some(value) = values.next() else { continue };
        if values.next().is_some() {
            return Err(given_twice(name));
        }
        if let Some(presented) = read(name, value, auth.basic) {
            add(&mut found, presented, auth.conflict)?;
        }
    }
    if auth.websocket_protocol
        && let Some(presented) = in_protocols(headers)?
    {
        add(&mut found, presented, auth.conflict)?;
    }
    found.ok_or_else(|| Denial::missing_key(&canonical_name(auth.headers.first())))
}

fn given_twice(name: &HeaderName) -> Denial {
    Denial::bad_part("A credential header is given twice", "header", name.as_str())
}

/// Adds a credential, unless it equals an earlier one.
fn add(found: &mut Option<Found>, presented: PresentedCredential, conflict: Conflict) -> Result<(), Denial> {
    let Some(found) = found else {
        *found = Some(Found { first: presented, others: Vec::new() });
        return Ok(());
    };
    let is_same = |known: &PresentedCredential| known.credential().same_as(presented.credential());
    if is_same(&found.first) || found.others.iter().any(is_same) {
        return Ok(());
    }
    match conflict {
        Conflict::Refuse => Err(Denial::bad_request("Two different credentials")),
        Conflict::Any => {
            found.others.push(presented);
            Ok(())
        }
    }
}

fn read(name: &HeaderName, value: &HeaderValue, takes_basic: bool) -> Option<PresentedCredential> {
    let text = trim(value.as_bytes());
    if let Some(key) = behind_scheme(text, b"bearer") {
        return PresentedCredential::of(key);
    }
    if *name != AUTHORIZATION {
        return PresentedCredential::of(text);
    }
    let coded = behind_scheme(text, b"basic").filter(|coded| takes_basic && !coded.is_empty())?;
    match password(coded) {
        Some(password) => PresentedCredential::of(&password),
        None => Some(PresentedCredential::Malformed(Credential::new(coded))),
    }
}

/// Returns the part of a header value that follows an authentication scheme and a space. The
/// scheme's case does not matter (RFC 9110, section 11.1). A TAB in place of the space stays in the
/// result and makes the credential malformed, because servers disagree on whether a TAB is a
/// separator.
fn behind_scheme<'t>(text: &'t [u8], scheme: &[u8]) -> Option<&'t [u8]> {
    let (named, rest) = text.split_at_checked(scheme.len())?;
    if !named.eq_ignore_ascii_case(scheme) {
        return None;
    }
    match rest.first() {
        Some(b' ') => Some(trim(rest)),
        None | Some(b'\t') => Some(rest),
        Some(_) => None,
    }
}

/// Returns the password of a Basic credential (RFC 7617).
fn password(coded: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let decoded = Zeroizing::new(STANDARD.decode(coded).ok()?);
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some(Zeroizing::new(decoded.get(colon + 1..)?.to_vec()))
}

/// Finds the key among the WebSocket protocols of a request.
///
/// # Errors
///
/// 400 if two of the protocols contain a key.
fn in_protocols(headers: &HeaderMap) -> Result<Option<PresentedCredential>, Denial> {
    let mut keys = protocols(headers).filter_map(|protocol| protocol.strip_prefix(PROTOCOL_PREFIX));
    let key = keys.next();
    match keys.next() {
        Some(_) => Err(given_twice(&SEC_WEBSOCKET_PROTOCOL)),
        None => Ok(key.and_then(PresentedCredential::of)),
    }
}

fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(trim)
}

/// Returns the WebSocket protocols of a request without those that contain a key, in any spelling;
/// `None` if no protocol is left.
pub(crate) fn harmless_protocols(headers: &HeaderMap) -> Option<HeaderValue> {
    let others: Vec<&[u8]> =
        protocols(headers).filter(|protocol| !protocol.is_empty() && !is_key_protocol(protocol)).collect();
    HeaderValue::from_bytes(&others.join(&b", "[..])).ok().filter(|others| !others.is_empty())
}

/// Whether one of the WebSocket protocols of a request contains a key, in any spelling.
pub(crate) fn has_key_in_protocols(headers: &HeaderMap) -> bool {
    protocols(headers).any(is_key_protocol)
}

fn is_key_protocol(protocol: &[u8]) -> bool {
    let start = protocol.get(..PROTOCOL_PREFIX.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(PROTOCOL_PREFIX))
}

/// Returns a header value without the optional white space around it (RFC 9110, section 5.6.3).
fn trim(text: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = text.iter().position(|byte| !is_space(byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !is_space(byte)).map_or(start, |last| last + 1);
    let inner = text.get(start..end);
    debug_assert!(inner.is_some(), "both ends are in the text");
    inner.unwrap_or_default()
}

/// Returns a header's name with the capitals that documentation uses, such as `Authorization`.
fn canonical_name(name: Option<&HeaderName>) -> String {
    let name = name.unwrap_or(&AUTHORIZATION).as_str();
    let word = |word: &str| match word.split_at_checked(1) {
        Some((first, rest)) => first.to_ascii_uppercase() + rest,
        None => String::new(),
    };
    name.split('-').map(word).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

    fn auth() -> Auth {
        Auth { headers: vec![AUTHORIZATION, X_API_KEY], ..Auth::default() }
    }

    /// Returns the credentials that `find` returns, with a malformed credential in brackets, or the
    /// status of the refusal.
    fn found(auth: &Auth, fields: &[(&'static str, &str)]) -> Result<String, u16> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let found = find(&headers, auth).map_err(|denial| denial.code().status().as_u16())?;
        let shown = |presented: &PresentedCredential| {
            let text = String::from_utf8_lossy(presented.credential().as_bytes()).into_owned();
            if matches!(presented, PresentedCredential::Word(_)) { text } else { format!("[{text}]") }
        };
        let all: Vec<_> = std::iter::once(&found.first).chain(&found.others).map(shown).collect();
        Ok(all.join(" and "))
    }

    #[test]
    fn credentials_in_all_their_forms() {
        let cases = [
            ("authorization", "Bearer x", Ok("x")),
            ("authorization", "bearer   x", Ok("x")),
            ("authorization", "BEARER x \t", Ok("x")),
            ("authorization", " \t Bearer x", Ok("x")),
            ("authorization", "", Err(401)),
            ("authorization", "Bearer", Err(401)),
            ("authorization", "Bearer ", Err(401)),
            ("authorization", "Bearer\t", Err(401)),
            ("authorization", "Basic eDp5", Err(401)),
            ("authorization", "Bearerx", Err(401)),
            ("authorization", "x", Err(401)),
            ("authorization", "Token x", Err(401)),
            ("authorization", "Bearer a b", Ok("[a b]")),
            ("authorization", "Bearer a,b", Ok("[a,b]")),
            ("authorization", "Bearer Bearer a", Ok("[Bearer a]")),
            ("authorization", "Bearer\tx", Ok("[\tx]")),
            ("authorization", "Bearer \tx", Ok("x")),
            ("x-api-key", "x", Ok("x")),
            ("x-api-key", "Bearer x", Ok("x")),
            ("x-api-key", "bEARER  x", Ok("x")),
            ("x-api-key", "Bearer", Err(401)),
            ("x-api-key", "Bearer\tx", Ok("[\tx]")),
            ("x-api-key", "Bearerx", Ok("Bearerx")),
            ("x-api-key", "Basic eDp5", Ok("[Basic eDp5]")),
        ];
        for (name, value, expected) in cases {
            assert_eq!(found(&auth(), &[(name, value)]), expected.map(str::to_owned), "{name}: {value:?}");
        }
    }

    #[test]
    fn the_password_of_basic_is_the_key_where_that_is_configured() {
        let basic = Auth { basic: true, ..auth() };
        let cases = [
            ("Basic dXNlcjpzay1vbmU=", Ok("sk-one")),
            ("bAsIc   dXNlcjpzay1vbmU=", Ok("sk-one")),
            // In a Basic credential, the user name may be empty, and the password may contain a
            // colon.
            ("Basic OnNrOm9uZQ==", Ok("sk:one")),
            ("Basic dXNlcjo=", Err(401)),
            ("Basic dXNlcjphIGI=", Ok("[a b]")),
            ("Basic", Err(401)),
            ("Basic dXNlcg==", Ok("[dXNlcg==]")),
            ("Basic %%%", Ok("[%%%]")),
            ("Basic dXNlcjpzay1vbmU= x", Ok("[dXNlcjpzay1vbmU= x]")),
            ("Bearer x", Ok("x")),
        ];
        for (value, expected) in cases {
            assert_eq!(found(&basic, &[("authorization", value)]), expected.map(str::to_owned), "{value}");
        }
    }

    #[test]
    fn one_credential_and_no_more() {
        let strict = |fields: &[(&'static str, &str)]| found(&auth(), fields);
        assert_eq!(strict(&[]), Err(401));
        assert_eq!(strict(&[("authorization", "Bearer x"), ("x-api-key", "Bearer x")]), Ok("x".to_owned()));
        assert_eq!(strict(&[("authorization", "Bearer x"), ("x-api-key", "y")]), Err(400));
        assert_eq!(strict(&[("authorization", "Bearer x"), ("authorization", "Bearer x")]), Err(400));
        assert_eq!(strict(&[("cookie", "x"), ("proxy-authorization", "Bearer x")]), Err(401));
        let any = Auth { conflict: Conflict::Any, ..auth() };
        let both = [("authorization", "Bearer x"), ("x-api-key", "y")];
        assert_eq!(found(&any, &both), Ok("x and y".to_owned()));
        let twice = [("authorization", "Bearer x"), ("authorization", "Bearer y")];
        assert_eq!(found(&any, &twice), Err(400), "one header that stands twice is ambiguous all the same");
    }

    #[test]
    fn a_browsers_key_is_found_among_the_protocols_of_a_websocket() {
        let with = Auth { websocket_protocol: true, ..auth() };
        const NAME: &str = "sec-websocket-protocol";
        type Fields<'a> = &'a [(&'static str, &'a str)];
        let cases: [(Fields<'_>, Result<&str, u16>); 6] = [
            (&[(NAME, "openai-insecure-api-key.sk-one")], Ok("sk-one")),
            (&[(NAME, "realtime, openai-insecure-api-key.sk-one,v1")], Ok("sk-one")),
            (&[(NAME, "realtime"), (NAME, "openai-insecure-api-key.sk-one")], Ok("sk-one")),
            (&[(NAME, "realtime, openai-insecure-api-key.")], Err(401)),
            (&[(NAME, "openai-insecure-api-key.a, openai-insecure-api-key.b")], Err(400)),
            (&[(NAME, "openai-insecure-api-key.a"), ("x-api-key", "b")], Err(400)),
        ];
        for (fields, expected) in cases {
            assert_eq!(found(&with, fields), expected.map(str::to_owned), "{fields:?}");
        }
        assert_eq!(found(&auth(), &[(NAME, "openai-insecure-api-key.sk-one")]), Err(401));
    }

    #[test]
    fn the_missing_header_is_named_as_documentation_writes_it() {
        assert_eq!(canonical_name(Some(&X_API_KEY)), "X-Api-Key");
        assert_eq!(canonical_name(None), "Authorization");
    }
}
