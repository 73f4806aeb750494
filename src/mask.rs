//! Shortens bearward's tokens in text that is shown or logged, so that a token sent to the wrong
//! place is useless to those who read the text.

use std::borrow::Cow;

/// Number of shown bytes of a token: `bwk_`, the id and `_`, which identify the token.
const SHOWN: usize = 15;

/// Returns the text with every token cut after its id. Tokens that are percent-encoded are found,
/// too.
pub(crate) fn masked(text: &str) -> Cow<'_, str> {
    if memchr::memchr2(b'%', b'_', text.as_bytes()).is_none() {
        return Cow::Borrowed(text);
    }
    // The text is decoded first: a token with a part in percent codes would otherwise keep that
    // part.
    let plain = if text.contains('%') { Cow::Owned(decoded(text)) } else { Cow::Borrowed(text) };
    if plain.contains("bwk_") { Cow::Owned(cut(&plain)) } else { Cow::Borrowed(text) }
}

fn cut(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("bwk_") {
        let (before, token) = rest.split_at(start);
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (token, behind) = token.split_at(token.find(|c| !is_part(c)).unwrap_or(token.len()));
        out.push_str(before);
        match token.split_at_checked(SHOWN) {
            Some((shown, hidden)) if !hidden.is_empty() => out.extend([shown, "…"]),
            _ => out.push_str(token),
        }
        rest = behind;
    }
    out.push_str(rest);
    out
}

/// Returns the text with percent codes decoded, but only those of characters that tokens consist
/// of.
fn decoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, code)) = rest.split_once('%') {
        out.push_str(before);
        let byte = code.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        rest = match byte.filter(|byte| byte.is_ascii_alphanumeric() || *byte == b'_') {
            Some(byte) => {
                out.push(char::from(byte));
                code.get(2..).unwrap_or_default()
            }
            None => {
                out.push('%');
                code
            }
        };
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_shown_without_the_tokens_in_it() {
        for (text, expected) in [
            ("/v1/models", "/v1/models"),
            ("/a%2fb%zz%", "/a%2fb%zz%"),
            ("/bwk_4f9Zk2Qx7B_abcdefghij/x", "/bwk_4f9Zk2Qx7B_…/x"),
            ("/xbwk_4f9Zk2Qx7B_a/bwk_4f9Zk2Qx7C_b", "/xbwk_4f9Zk2Qx7B_…/bwk_4f9Zk2Qx7C_…"),
            ("/%62wk%5F4f9Zk2Qx7B_abc%64/%00", "/bwk_4f9Zk2Qx7B_…/%00"),
            ("/bwk_", "/bwk_"),
            ("/bwk_4f9Zk2Qx7B%5Fabcdefghij%20", "/bwk_4f9Zk2Qx7B_…%20"),
            ("/bwk_x/%62wk_4f9Zk2Qx7B_abcd", "/bwk_x/bwk_4f9Zk2Qx7B_…"),
        ] {
            assert_eq!(masked(text), expected);
        }
    }
}
