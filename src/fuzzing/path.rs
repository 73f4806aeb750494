//! Paths: the canonical form, compared with a second implementation, and that it is its own
//! canonical form.

use http::uri::PathAndQuery;

use super::reference;
use crate::guard;

/// Takes the bytes as the path and query of a request.
pub fn path(bytes: &[u8]) {
    let Ok(raw) = PathAndQuery::try_from(bytes) else { return };
    if !raw.path().starts_with('/') {
        return;
    }
    // The number of segments is bounded, encoded or not.
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
    // Removed segments must not have been ambiguous: where one contains a slash, another segment
    // would have been removed.
    assert!(ambiguities_again.iter().all(|again| ambiguities.contains(again)), "{raw}");
}
