//! What the keys of a store need of the configuration: the groups that they name, and a place where
//! what was used of budgets is kept.

use std::collections::BTreeSet;
use std::path::Path;

use crate::config::Config;
use crate::config::fault::{Fault, Position};
use crate::keys::record::KeyRecord;

/// What a configuration has that keys may need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Provided {
    /// The names of the groups.
    pub(crate) groups: BTreeSet<String>,
    /// Whether what was used of budgets survives a restart.
    pub(crate) keeps_budgets: bool,
}

impl Provided {
    pub(crate) fn by(config: &Config) -> Self {
        let groups = config.groups.iter().map(|group| group.name.clone()).collect();
        Provided { groups, keeps_budgets: config.keeps_budgets() }
    }

    /// Returns what a running process provides. `keeps_budgets`: whether it keeps budgets, which it begins
    /// to do at a start alone.
    pub(crate) fn kept(self, keeps_budgets: bool) -> Self {
        Provided { keeps_budgets: self.keeps_budgets && keeps_budgets, ..self }
    }
}

/// What the keys of a store may need.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Provisions<'a> {
    /// The configuration is not known, so keys may need anything.
    #[default]
    Any,
    Of(&'a Provided),
}

impl Provisions<'_> {
    /// Whether the configuration has what a key needs.
    pub(crate) fn admit(self, record: &KeyRecord) -> bool {
        self.fault(record, Path::new(""), Position::default()).is_none()
    }

    /// Returns the fault of an entry, at `at` in the file `path`, that needs what the configuration does
    /// not have.
    pub(crate) fn fault(self, record: &KeyRecord, path: &Path, at: Position) -> Option<Fault> {
        let Provisions::Of(Provided { groups, keeps_budgets }) = self else { return None };
        let terms = &record.terms;
        if terms.budgets.as_ref().is_some_and(|budgets| !budgets.is_empty()) && !keeps_budgets {
            let fault = Fault::at(path, at, "the key has budgets, and nothing keeps what was used of them");
            return Some(fault.hint("`state: {path: DIRECTORY}` in the configuration, or `shared`"));
        }
        if terms.group.as_ref().is_none_or(|group| groups.contains(group)) {
            return None;
        }
        let known = groups.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let hint = match known.is_empty() {
            true => "the configuration has no `groups`".to_owned(),
            false => format!("the configuration has: {known}"),
        };
        Some(Fault::at(path, at, "the key names a group that the configuration does not have").hint(hint))
    }
}
