//! Prepares text from clients and upstreams for output in logs, in traces and in the admin API. The
//! output is cut, and has no tokens and no characters that hide or reorder other characters.

use std::borrow::Cow;

use http::Method;

use crate::mask::masked;

/// Maximum number of bytes shown of a path.
const MAX_PATH: usize = 256;
/// Maximum number of bytes shown of a method.
const MAX_METHOD: usize = 32;
/// Maximum number of bytes shown of a reason, which may quote text of a peer.
const MAX_REASON: usize = 512;

/// Returns the path that is stored in a request's record: cut, but with its tokens, which are
/// masked later.
pub(super) fn kept_path(path: &str) -> Cow<'_, str> {
    cut(path, MAX_PATH)
}

/// Returns a path, or the name of a model, cut and with its tokens masked.
pub(super) fn path(path: &str) -> Cow<'_, str> {
    match cut(path, MAX_PATH) {
        Cow::Borrowed(path) => masked(path),
        Cow::Owned(path) => Cow::Owned(masked(&path).into_owned()),
    }
}

pub(super) fn method(method: &Method) -> Cow<'_, str> {
    match cut(method.as_str(), MAX_METHOD) {
        Cow::Borrowed(method) => masked(method),
        Cow::Owned(method) => Cow::Owned(masked(&method).into_owned()),
    }
}

pub(super) fn reason(reason: &str) -> String {
    masked(&cut(reason, MAX_REASON)).into_owned()
}

/// Returns `text` if it has at most `limit` bytes, else the beginning of `text` with a mark that
/// states the length of `text`.
fn cut(text: &str, limit: usize) -> Cow<'_, str> {
    if text.len() <= limit || is_cut(text, limit) {
        return Cow::Borrowed(text);
    }
    let shown = text.get(..text.floor_char_boundary(limit)).unwrap_or_default();
    Cow::Owned(format!("{shown}…[{} bytes]", text.len()))
}

/// Whether `text` was cut already: it ends with the mark of a cut, and the text before the mark is
/// as long as `limit` permits.
fn is_cut(text: &str, limit: usize) -> bool {
    let Some((shown, mark)) = text.rsplit_once('…') else { return false };
    let digits = mark.strip_prefix('[').and_then(|rest| rest.strip_suffix(" bytes]"));
    let is_mark =
        digits.is_some_and(|digits| digits.len() < 20 && digits.bytes().all(|b| b.is_ascii_digit()));
    is_mark && shown.len() <= limit && shown.len() + 4 > limit
}

/// Returns the current time in UTC as RFC 3339 text, with microseconds.
pub(super) fn timestamp() -> String {
    format!("{:.6}", jiff::Timestamp::now())
}

/// Returns a field of a log line for people; an empty text if there is no value.
pub(super) fn optional(name: &str, value: Option<&str>) -> String {
    value.map(|value| format!(" {name}={value}")).unwrap_or_default()
}

/// Returns the texts of an error and of its causes, in one line.
pub(super) fn with_sources<E: std::error::Error + ?Sized>(error: &E) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Whether a character is invisible, or changes how others are shown: controls, zero-width
/// characters, line separators, and characters that change the direction of text (Unicode Standard
/// Annex 9; Trojan Source, CVE-2021-42574).
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Returns a text for people, with every hidden character escaped.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_hidden(c) {
            true => shown.extend(c.escape_unicode()),
            false => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// Escapes hidden characters in a finished log line. `is_json`: the line is JSON, in which such
/// characters occur only in strings, and C0 controls are escaped already.
pub(super) fn escape_hidden(line: &mut Vec<u8>, is_json: bool) {
    // The loop checks all bytes and never stops early, so that the compiler can vectorize the loop.
    if !line.iter().fold(false, |any, byte| any | (*byte >= 0x7f)) {
        return;
    }
    let text = String::from_utf8_lossy(line);
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            // ASCII characters other than DEL are not escaped: the line end is ASCII, and so are
            // the control characters that the formatter for people writes.
            c if c.is_ascii() && c != '\u{7f}' => escaped.push(c),
            c if !is_hidden(c) => escaped.push(c),
            c if is_json => {
                let units = &mut [0; 2];
                c.encode_utf16(units).iter().for_each(|unit| escaped.push_str(&format!("\\u{unit:04x}")));
            }
            c => escaped.extend(c.escape_unicode()),
        }
    }
    *line = escaped.into_bytes();
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIDDEN: &[char] = &[
        '\u{7f}',
        '\u{80}',
        '\u{85}',
        '\u{9b}',
        '\u{9f}',
        '\u{ad}',
        '\u{61c}',
        '\u{200b}',
        '\u{200d}',
        '\u{200e}',
        '\u{200f}',
        '\u{2028}',
        '\u{2029}',
        '\u{202a}',
        '\u{202b}',
        '\u{202c}',
        '\u{202d}',
        '\u{202e}',
        '\u{2060}',
        '\u{2066}',
        '\u{2067}',
        '\u{2068}',
        '\u{2069}',
        '\u{feff}',
        '\u{e0041}',
    ];

    #[test]
    fn hidden_characters_are_escaped_in_both_forms_of_a_line() {
        for hidden in HIDDEN {
            let text = format!("/a{hidden}b");
            let mut json = serde_json::to_vec(&text).unwrap();
            escape_hidden(&mut json, true);
            assert!(json.is_ascii(), "{json:?}");
            assert_eq!(serde_json::from_slice::<String>(&json).unwrap(), text, "the text is the same");
            let mut pretty = text.clone().into_bytes();
            escape_hidden(&mut pretty, false);
            let expected = format!("/a\\u{{{:x}}}b", u32::from(*hidden));
            assert_eq!(String::from_utf8(pretty).unwrap(), expected);
            assert_eq!(visible(&text), expected);
        }
        for plain in ["ünïcödé", "模型", "/v1/models\n", "\t"] {
            let mut line = plain.as_bytes().to_vec();
            escape_hidden(&mut line, false);
            assert_eq!(line, plain.as_bytes());
        }
        assert_eq!(visible("a\nb\u{1b}[1m"), "a\\u{a}b\\u{1b}[1m");
    }

    #[test]
    fn long_text_is_cut_once_with_a_mark() {
        let long = format!("/{}", "x".repeat(4095));
        let shown = path(&long).into_owned();
        assert_eq!(shown, format!("/{}…[4096 bytes]", "x".repeat(255)));
        assert_eq!(path(&shown), shown);
        let wide = path(&format!("/{}", "😀".repeat(200))).into_owned();
        assert_eq!(
            (wide.chars().count(), path(&wide).into_owned()),
            (64 + "…[801 bytes]".chars().count(), wide.clone())
        );
        assert_eq!(path(&"ü".repeat(200)), format!("{}…[400 bytes]", "ü".repeat(128)));
        let exact = "x".repeat(256);
        assert_eq!(path(&exact), exact);
        let whole = Method::from_bytes(&[b'A'; 5000]).unwrap();
        assert_eq!(method(&whole), format!("{}…[5000 bytes]", "A".repeat(32)));
        assert_eq!(reason(&"y".repeat(9999)).len(), 512 + "…[9999 bytes]".len());
    }

    /// A token is recognized by its beginning. If a cut removes the beginning, it must remove the
    /// rest, too.
    #[test]
    fn no_cut_uncovers_a_token() {
        let token = "bwk_4f9Zk2Qx7B_abcdefghijabcdefghijabcdefghijab012345";
        for before in 200..260 {
            let shown = path(&format!("{}{token}{}", "x".repeat(before), "y".repeat(300))).into_owned();
            assert!(!shown.contains("7B_a"), "{shown}");
        }
    }
}
