//! A group of keys in service: its limits, and what its keys may do.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{self, OutputCap, Priority};
use crate::limit::{Budget, Holder, KeyState, Limiter, Window};
use crate::model::ModelPatterns;

/// A group of keys in service.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: Arc<str>,
    /// The limit state of all keys of the group together.
    pub(crate) state: Arc<KeyState>,
    pub(crate) windows: Vec<Arc<Window>>,
    pub(crate) budgets: Vec<Arc<Budget>>,
    pub(crate) max_concurrent: Option<u32>,
    /// The models that keys of the group may use; `None` if they may use all.
    pub(crate) models: Option<ModelPatterns>,
    pub(crate) output_cap: Option<OutputCap>,
    pub(crate) priority: Option<Priority>,
    pub(crate) weight: Option<u32>,
}

impl Group {
    fn new(config: &config::Group, limiter: &Limiter) -> Self {
        let policies = format!("group-{}", config.name);
        Group {
            name: config.name.as_str().into(),
            state: limiter.state(&state_id(&config.name)),
            windows: config.rate_limits.iter().map(|quota| limiter.window(Some(&policies), *quota)).collect(),
            budgets: config.budgets.iter().map(|quota| limiter.budget(Some(&policies), quota)).collect(),
            max_concurrent: config.max_concurrent,
            models: config.models.clone(),
            output_cap: config.request,
            priority: config.priority,
            weight: config.weight,
        }
    }

    /// Returns the group as a holder of limits.
    pub(crate) fn holder(&self) -> Holder<'_> {
        Holder { state: &self.state, windows: [&self.windows, &[]], budgets: &self.budgets }
    }
}

/// Returns the id of a group's limit state. No key has it.
fn state_id(name: &str) -> String {
    format!("group:{name}")
}

/// The groups of a configuration, by their names.
#[derive(Debug, Default)]
pub(crate) struct Groups(BTreeMap<String, Arc<Group>>);

impl Groups {
    pub(crate) fn new(configs: &[config::Group], limiter: &Limiter) -> Self {
        let groups = configs.iter().map(|group| (group.name.clone(), Arc::new(Group::new(group, limiter))));
        Groups(groups.collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Group>> {
        self.0.get(name)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Group>> {
        self.0.values()
    }
}
