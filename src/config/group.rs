//! `groups`: keys that have limits, models and caps together.

use crate::config::budget::{BudgetQuota, budgets};
use crate::config::decode::Decoder;
use crate::config::form::{Form, list_of, number, one_of, text};
use crate::config::model::{OutputCap, models};
use crate::config::queue::Priority;
use crate::config::quota::{Quota, rate_limits};
use crate::config::section::{nested, section};
use crate::config::tree::Node;
use crate::model::ModelPatterns;

section! {
    /// A group of keys. What it says holds for each key of the group, beside what the key itself says.
    #[derive(Clone, Debug)]
    pub(crate) struct Group in "a group" {
        /// The name of the group, which keys name as their `group`.
        name: String = text(group_name).shown().required();
        /// Rate limits of all keys of the group together.
        rate_limits: Vec<Quota> = rate_limits().or_default().narrowing();
        /// Budgets of all keys of the group together. They need `state`, or `shared`.
        budgets: Vec<BudgetQuota> = budgets().or_default().narrowing();
        /// The number of requests in flight at once, of all keys of the group together.
        max_concurrent: Option<u32> = number(1).optional().narrowing();
        /// Patterns of the models that keys of the group may use, as in llama-3*; a pattern with `!`
        /// takes models out again. Left out: all models.
        models: Option<ModelPatterns> = models().optional().narrowing();
        /// How much output a request of a key of the group may ask for.
        request: Option<OutputCap> = nested().optional().narrowing();
        /// The class of the keys of the group in a queue. A key may have a lower class of its own. Left out:
        /// `standard`.
        priority: Option<Priority> = one_of(&Priority::WORDS).optional().narrowing();
        /// The share of each key of the group within its class, for keys without a `weight`. Left out: 1.
        weight: Option<u32> = number(1).optional().narrowing();
    }
}

/// Longest name of a group, in bytes.
const LONGEST_NAME: usize = 64;

/// Whether a text can be the name of a group. Names of groups are parts of the names of policies, of
/// names in a Redis server, and of labels in metrics.
pub(crate) fn is_group_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.is_empty() && name.len() <= LONGEST_NAME && name.bytes().all(is_plain)
}

pub(super) fn group_name(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let name = d.word(node)?;
    match is_group_name(&name) {
        true => Some(name),
        false => d.hinted(
            node.at,
            "the name of a group has 1 to 64 letters, digits or any of `-_.`",
            "as in team-a",
        ),
    }
}

/// Returns the `Form` of the list of groups. Two groups of one name are a fault.
pub(super) fn groups() -> Form<Vec<Group>> {
    list_of(nested::<Group>().positioned()).then(|d, _, groups| {
        let mut known: Vec<Group> = Vec::with_capacity(groups.len());
        for (at, group) in groups {
            if known.iter().any(|other| other.name == group.name) {
                return d.hinted(
                    at,
                    format!("the group `{}` is given twice", group.name),
                    "a name of its own, since keys name their group by it",
                );
            }
            known.push(group);
        }
        Some(known)
    })
}
