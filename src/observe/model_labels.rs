//! The label `model` of metrics. Clients choose the names of models, so the number of labels is
//! bounded.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

/// Label of requests that name no model.
pub(super) const NO_MODEL: &str = "none";
/// Label of all models that have no label of their own.
const OTHER_MODEL: &str = "other";

/// The models with a label of their own, for all workers.
#[derive(Debug)]
pub(crate) struct ModelLabels {
    most: usize,
    known: RwLock<HashSet<Arc<str>>>,
    none: Arc<str>,
    other: Arc<str>,
}

impl ModelLabels {
    /// `most`: the number of models with a label of their own.
    pub(super) fn new(most: usize) -> Self {
        ModelLabels { most, known: RwLock::default(), none: NO_MODEL.into(), other: OTHER_MODEL.into() }
    }

    /// Returns the label of the model that a request names.
    pub(super) fn of(&self, model: Option<&str>) -> Arc<str> {
        let Some(model) = model else { return self.none.clone() };
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(label) = known.get(model) {
            return label.clone();
        }
        if known.len() >= self.most {
            return self.other.clone();
        }
        drop(known);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= self.most && !known.contains(model) {
            return self.other.clone();
        }
        let label: Arc<str> = model.into();
        known.insert(label.clone());
        label
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_models_have_labels_of_their_own() {
        let labels = ModelLabels::new(2);
        assert_eq!(&*labels.of(None), "none");
        for model in ["a", "b", "a"] {
            assert_eq!(&*labels.of(Some(model)), model);
        }
        assert_eq!(&*labels.of(Some("c")), "other");
        assert_eq!(&*labels.of(Some("b")), "b");
    }
}
