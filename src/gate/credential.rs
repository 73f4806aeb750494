//! What a request presents as its key.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::denial::Denial;
use crate::keys::Credential;

/// A credential as it was presented.
#[derive(Debug)]
pub(super) enum Presented {
    /// One word, to be looked up.
    Word(Credential),
    /// Several words or a list: no key has that form.
    Malformed(Credential),
}

impl Presented {
    fn credential(&self) -> &Credential {
        match self {
            Presented::Word(credential) | Presented::Malformed(credential) => credential,
        }
    }
}

/// Finds the request's one credential in the headers that are accepted. The query, cookies and
/// Proxy-Authorization are never looked at.
///
/// # Errors
///
/// 400 where a header stands twice or two headers differ; 401 where there is none.
pub(super) fn find(headers: &HeaderMap, accepted: &[HeaderName]) -> Result<Presented, Denial> {
    let mut found: Option<Presented> = None;
    for name in accepted {
        let mut values = headers.get_all(name).iter();
        let Some(value) = values.next() else { continue };
        if values.next().is_some() {
            return Err(Denial::bad_part("A credential header stands twice", "header", name.as_str()));
        }
        let Some(presented) = read(name, value) else { continue };
        match &found {
            None => found = Some(presented),
            Some(first) if first.credential().same_as(presented.credential()) => {}
            Some(_) => return Err(Denial::bad_request("Two different credentials")),
        }
    }
    found.ok_or_else(|| Denial::missing_key(&canonical_name(accepted.first())))
}

fn read(name: &HeaderName, value: &HeaderValue) -> Option<Presented> {
    let text = trim(value.as_bytes());
    let key = if *name == AUTHORIZATION { bearer(text)? } else { text };
    if key.is_empty() {
        return None;
    }
    let credential = Credential::new(key);
    let is_word = memchr::memchr3(b' ', b'\t', b',', key).is_none();
    Some(if is_word { Presented::Word(credential) } else { Presented::Malformed(credential) })
}

/// What stands behind the scheme, if that is Bearer in any case (RFC 9110, section 11.1).
fn bearer(text: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = text.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return None;
    }
    match rest.first() {
        None => Some(rest),
        Some(b' ' | b'\t') => Some(trim(rest)),
        Some(_) => None,
    }
}

/// Without the optional white space of RFC 9110 around it.
fn trim(text: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = text.iter().position(|byte| !is_space(byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !is_space(byte)).map_or(start, |last| last + 1);
    text.get(start..end).unwrap_or_default()
}

/// `authorization` → `Authorization`, as documentation writes it.
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

    /// `Ok(true)`: a word; `Ok(false)`: malformed; `Err`: the status.
    fn found(fields: &[(&'static str, &str)]) -> Result<bool, u16> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        match find(&headers, &[AUTHORIZATION, X_API_KEY]) {
            Ok(presented) => Ok(matches!(presented, Presented::Word(_))),
            Err(denial) => Err(denial.code().status().as_u16()),
        }
    }

    #[test]
    fn credentials_in_all_their_forms() {
        let auth = |value| found(&[("authorization", value)]);
        for word in ["Bearer x", "bearer x", "BEARER \t x \t", " Bearer x"] {
            assert_eq!(auth(word), Ok(true), "{word:?}");
        }
        for missing in ["", "Bearer", "Bearer ", "Basic x", "Bearerx", "x", "Token x", "Bearer\t"] {
            assert_eq!(auth(missing), Err(401), "{missing:?}");
        }
        for malformed in ["Bearer a b", "Bearer a,b", "Bearer a, Bearer b", "Bearer Bearer a"] {
            assert_eq!(auth(malformed), Ok(false), "{malformed:?}");
        }
    }

    #[test]
    fn one_credential_and_no_more() {
        assert_eq!(found(&[]), Err(401));
        assert_eq!(found(&[("x-api-key", "x")]), Ok(true));
        assert_eq!(found(&[("authorization", "Bearer x"), ("x-api-key", "x")]), Ok(true));
        assert_eq!(found(&[("authorization", "Bearer x"), ("x-api-key", "y")]), Err(400));
        assert_eq!(found(&[("authorization", "Bearer x"), ("authorization", "Bearer x")]), Err(400));
        assert_eq!(found(&[("cookie", "x"), ("proxy-authorization", "Bearer x")]), Err(401));
    }

    #[test]
    fn the_missing_header_is_named_as_documentation_writes_it() {
        assert_eq!(canonical_name(Some(&X_API_KEY)), "X-Api-Key");
        assert_eq!(canonical_name(None), "Authorization");
    }
}
