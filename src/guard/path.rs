//! The one canonical form of a path (RFC 3986, section 6.2.2). This form is matched and forwarded.

use http::uri::PathAndQuery;

use crate::config::Ambiguity;
use crate::denial::Denial;
use crate::path_pattern::character::{hex_pair, push, resolve, stands_raw};

/// Largest number of segments in a path, however a server may split it. Routes with `**` compare
/// each segment, in each reading of the path, before a key is required. Legitimate paths have fewer
/// segments.
const MAX_SEGMENTS: usize = 256;

#[derive(Debug)]
pub(super) struct Canonical {
    pub(super) path_and_query: PathAndQuery,
    pub(super) ambiguities: Vec<Ambiguity>,
}

/// Makes the canonical form of a path: decodes characters that need no encoding, encodes those that
/// do, merges slashes and resolves dot segments. The query is not changed.
///
/// # Errors
///
/// 400 for an invalid `%`, encoded control bytes, a raw `\`, or more than [`MAX_SEGMENTS`]
/// segments.
pub(super) fn canonical(raw: &PathAndQuery) -> Result<Canonical, Denial> {
    // Each nonempty segment takes at least two bytes with its separator, so the segments of a path
    // of up to 2 × `MAX_SEGMENTS` bytes need not be counted.
    if raw.path().len() > 2 * MAX_SEGMENTS && segments(raw.path()) > MAX_SEGMENTS {
        return Err(Denial::bad_request("The path has more than 256 segments"));
    }
    if raw.as_str() == "/" {
        // For an empty path (of `http://host#fragment`), `as_str` also returns `/`, but a copy of
        // `raw` would be written as an empty string.
        return Ok(Canonical { path_and_query: PathAndQuery::from_static("/"), ambiguities: Vec::new() });
    }
    if is_canonical(raw.path()) {
        return Ok(Canonical { path_and_query: raw.clone(), ambiguities: Vec::new() });
    }
    let (decoded, ambiguities) = decode(raw.path())?;
    let mut text = resolve(&decoded);
    let may_hide = !ambiguities.is_empty() || text.contains("%3B");
    if may_hide && text.split('/').any(hides_dot_segment) {
        // An upstream that decodes the ambiguous part would serve another path, for which this
        // request was never authorized.
        return Err(refused("The path hides a dot segment", ".."));
    }
    if let Some(query) = raw.query() {
        text.push('?');
        text.push_str(query);
    }
    let path_and_query =
        PathAndQuery::try_from(text).map_err(|_| Denial::bad_request("The path is not valid"))?;
    Ok(Canonical { path_and_query, ambiguities })
}

/// Counts the segments that a server may find in a path. Servers may split it at slashes, encoded
/// or not, at encoded backslashes, and at `;`, encoded or not.
fn segments(path: &str) -> usize {
    let bytes = path.as_bytes();
    let is_end = |at: usize| match bytes.get(at) {
        Some(b'/' | b';') => true,
        Some(b'%') => {
            matches!(
                hex_pair(bytes.get(at + 1).copied(), bytes.get(at + 2).copied()),
                Some(b'/' | b'\\' | b';')
            )
        }
        _ => false,
    };
    (0..bytes.len()).filter(|at| is_end(*at)).count()
}

/// Whether `path` is already canonical. The paths of nearly all requests are canonical, and a
/// canonical path needs no copy.
fn is_canonical(path: &str) -> bool {
    let mut previous = 0;
    for byte in path.bytes() {
        // A dot that follows a slash may begin a dot segment.
        if !(stands_raw(byte) || byte == b'/') || (previous == b'/' && matches!(byte, b'/' | b'.')) {
            return false;
        }
        previous = byte;
    }
    true
}

fn decode(path: &str) -> Result<(String, Vec<Ambiguity>), Denial> {
    let mut out = String::with_capacity(path.len());
    let mut ambiguities = Vec::new();
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let decoded = hex_pair(bytes.next(), bytes.next())
                    .ok_or_else(|| refused("The path holds a `%` that encodes nothing", "%"))?;
                match decoded {
                    0..=0x1f | 0x7f => return Err(refused("The path holds an encoded control byte", "%")),
                    b'/' => ambiguities.push(Ambiguity::EncodedSlash),
                    b'\\' => ambiguities.push(Ambiguity::EncodedBackslash),
                    _ => {}
                }
                push(&mut out, decoded);
            }
            b'\\' => return Err(refused("The path holds a backslash", "\\")),
            b'/' => out.push('/'),
            b';' => {
                ambiguities.push(Ambiguity::Semicolon);
                out.push(';');
            }
            _ => push(&mut out, byte),
        }
    }
    Ok((out, ambiguities))
}

/// Whether a segment contains a dot segment for a server that splits it at an encoded slash or
/// backslash, or cuts it off at `;`, encoded or not.
fn hides_dot_segment(segment: &str) -> bool {
    let mut pieces = segment.split("%2F").flat_map(|piece| piece.split("%5C"));
    pieces.any(|piece| {
        let name = piece.split(';').next().unwrap_or_default();
        matches!(name.split("%3B").next(), Some("." | ".."))
    })
}

fn refused(message: &'static str, found: &str) -> Denial {
    Denial::bad_part(message, "found", found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn form(path: &str) -> Result<String, u16> {
        let raw: PathAndQuery = path.parse().unwrap();
        match canonical(&raw) {
            Ok(canonical) => Ok(canonical.path_and_query.to_string()),
            Err(denial) => Err(denial.code().status().as_u16()),
        }
    }

    #[test]
    fn paths_have_one_form() {
        let cases = [
            ("/", "/"),
            ("/v1/models", "/v1/models"),
            ("/v1/%6dodels", "/v1/models"),
            ("/v1/models/", "/v1/models/"),
            ("//v1///models", "/v1/models"),
            ("/v1/./models", "/v1/models"),
            ("/v1/x/../models", "/v1/models"),
            ("/v1/x/%2e%2E/models", "/v1/models"),
            ("/../../v1", "/v1"),
            ("/v1/..", "/"),
            ("/v1/.", "/v1/"),
            ("/a/...", "/a/..."),
            ("/.hidden", "/.hidden"),
            ("/a%c3%a9", "/a%C3%A9"),
            ("/a%20b", "/a%20b"),
            ("/%25", "/%25"),
            ("/a%252fb", "/a%252fb"),
            ("/a|b", "/a%7Cb"),
            ("/a$b&c(d)*'", "/a$b&c(d)*'"),
            ("/m%3Aunload", "/m:unload"),
            ("/%21%24%26%27%28%29%2a%2B%2c%3d%3A%40", "/!$&'()*+,=:@"),
            ("/a%3Bb%3Fc%23d%5B%5D", "/a%3Bb%3Fc%23d%5B%5D"),
            ("/x?a=../%2f//;\\", "/x?a=../%2f//;\\"),
            ("//x?", "/x?"),
        ];
        for (path, expected) in cases {
            assert_eq!(form(path).as_deref(), Ok(expected), "{path}");
        }
    }

    #[test]
    fn paths_that_no_server_should_read_are_refused() {
        for path in
            ["/%", "/%2", "/%zz", "/%00", "/%0a", "/%7f", "/a\\b", "/%1F", "/a/..%3Bx/b", "/.%3b", "/a/..;/b"]
        {
            assert_eq!(form(path), Err(400), "{path}");
        }
    }

    #[test]
    fn a_path_has_a_bound_of_segments_however_they_are_split() {
        for piece in ["/a", "%2Fa", "%2fa", "%5Ca", ";a", "%3ba"] {
            assert!(form(&format!("/a{}", piece.repeat(255))).is_ok(), "{piece}");
            assert_eq!(form(&format!("/a{}", piece.repeat(256))), Err(400), "{piece}");
        }
        assert!(form(&format!("/{}?{}", "a".repeat(4000), "/;".repeat(1000))).is_ok());
    }

    #[test]
    fn ambiguous_parts_are_reported() {
        let found = |path: &str| canonical(&path.parse().unwrap()).unwrap().ambiguities;
        assert_eq!(found("/a%2fb"), [Ambiguity::EncodedSlash]);
        assert_eq!(found("/a%5Cb"), [Ambiguity::EncodedBackslash]);
        assert_eq!(found("/a;b"), [Ambiguity::Semicolon]);
        assert!(found("/a%20b").is_empty());
    }

    proptest! {
        /// The canonical form of any path is its own canonical form, so a server that normalizes a
        /// canonical path does not change it.
        #[test]
        fn the_canonical_form_is_a_fixed_point(path in "/[a-zA-Z0-9/.%;:@!$&'()*+,=~_{}|^\"<>-]{0,40}") {
            let Ok(raw) = path.parse::<PathAndQuery>() else { return Ok(()) };
            if let Ok(once) = canonical(&raw) {
                let twice = canonical(&once.path_and_query).unwrap();
                prop_assert_eq!(&twice.path_and_query, &once.path_and_query);
                prop_assert_eq!(twice.ambiguities, once.ambiguities);
                let text = once.path_and_query.path();
                prop_assert!(text.starts_with('/'));
                prop_assert!(!text.contains("//"), "{}", text);
                prop_assert!(!text.split('/').any(|segment| segment == "." || segment == ".."), "{}", text);
            }
        }

        /// A character that needs no encoding has one canonical form, whether it was sent raw or
        /// encoded.
        #[test]
        fn a_character_that_may_be_raw_has_one_form(segment in "[a-zA-Z0-9._~!$&'()*+,=:@-]{1,12}", encoded in prop::collection::vec(any::<bool>(), 12)) {
            prop_assume!(!matches!(segment.as_str(), "." | ".."));
            let written = segment.bytes().zip(encoded).map(|(byte, is_encoded)| match is_encoded {
                true => format!("%{byte:02x}"),
                false => char::from(byte).to_string(),
            });
            let found = form(&format!("/a/{}", written.collect::<String>()));
            prop_assert_eq!(found, Ok(format!("/a/{segment}")));
        }

        /// The shortcut of `is_canonical` accepts only paths that full decoding would not change.
        #[test]
        fn the_shortcut_is_right(path in "/[a-z/.%:@!;,=~_-]{0,20}") {
            let Ok(raw) = path.parse::<PathAndQuery>() else { return Ok(()) };
            if is_canonical(raw.path()) {
                let (decoded, ambiguities) = decode(raw.path()).unwrap();
                prop_assert_eq!(resolve(&decoded), raw.path());
                prop_assert!(ambiguities.is_empty());
            }
        }
    }
}
