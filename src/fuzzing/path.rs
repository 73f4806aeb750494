//! Fuzzes paths: the canonical form must equal that of a second implementation, and must be
//! canonical itself.

use http::uri::PathAndQuery;

use super::reference;
use crate::guard;

/// Parses the bytes as the path and query of a request, and checks the canonical form.
pub fn path(bytes: &[u8]) {
    let Ok(raw) = PathAndQuery::try_from(bytes) else { return };
    if !raw.path().starts_with('/') {
        return;
    }
    // bearward refuses paths with too many segments. The second implementation has no limit on
    // segments, so paths that may have too many are skipped here.
    if raw.path().matches(['/', ';', '%']).count() > 256 {
        return;
    }
    let expected = reference::canonical_path(raw.path());
    let Some((found, ambiguities)) = guard::canonical(&raw) else {
        assert_eq!(expected, None, "{raw} was refused");
        return;
    };
    assert_eq!(Some(found.path()), expected.as_deref(), "{raw}");
    assert_eq!(found.query(), raw.query(), "the query is left alone");
    let (again, ambiguities_again) = guard::canonical(&found).expect("a canonical path is one");
    assert_eq!(again, found, "nothing is left to resolve");
    // If `..` follows a segment that contains an encoded slash, an upstream that decodes the slash
    // removes another segment than bearward would. bearward refuses such a path, so the canonical
    // form has no ambiguous part that the raw path did not have.
    assert!(ambiguities_again.iter().all(|again| ambiguities.contains(again)), "{raw}");
}
