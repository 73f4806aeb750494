//! The groups of the configuration, which the keys of a store may name.

use std::collections::BTreeSet;
use std::path::Path;

use crate::config::fault::{Fault, Position};
use crate::keys::record::KeyRecord;

/// The names of the groups that keys may name.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Groups<'a> {
    /// The configuration is not known, so keys may name any group.
    #[default]
    Any,
    Of(&'a BTreeSet<String>),
}

impl Groups<'_> {
    /// Whether a key may name its group.
    pub(crate) fn admit(self, record: &KeyRecord) -> bool {
        match (self, &record.terms.group) {
            (Groups::Of(known), Some(group)) => known.contains(group),
            (Groups::Any, _) | (_, None) => true,
        }
    }

    /// Returns the fault of an entry whose group the configuration does not have.
    pub(crate) fn fault(self, path: &Path, at: Position) -> Fault {
        let known = match self {
            Groups::Of(known) => known.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
            Groups::Any => String::new(),
        };
        let hint = match known.is_empty() {
            true => "the configuration has no `groups`".to_owned(),
            false => format!("the configuration has: {known}"),
        };
        Fault::at(path, at, "the key names a group that the configuration does not have").hint(hint)
    }
}
