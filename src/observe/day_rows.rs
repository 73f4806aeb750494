//! All rows of the ledger of a day, with their sums.

use std::collections::HashMap;

use super::ledger::{Counts, MOST_MODELS, OTHER_MODELS, RowKey};

/// The rows of a day. A key has at most [`MOST_MODELS`] of them, and one of the model [`OTHER_MODELS`] for
/// each of its groups.
#[derive(Debug, Default)]
pub(crate) struct DayRows {
    sums: HashMap<RowKey, Counts, foldhash::quality::RandomState>,
    /// The number of rows of each key. (Clients choose the names of models, and operators those of keys.)
    of_keys: HashMap<String, usize, foldhash::fast::RandomState>,
}

impl DayRows {
    /// Sets the sum of a row. Returns the sum before.
    pub(crate) fn set(&mut self, key: RowKey, sum: Counts) -> Option<Counts> {
        let of_key = key.key.clone();
        let before = self.sums.insert(key, sum);
        if before.is_none() {
            *self.of_keys.entry(of_key).or_default() += 1;
        }
        before
    }

    /// Returns the new sums of the rows to which counts are to be added. Changes nothing.
    pub(crate) fn added(&self, counted: &[(RowKey, Counts)]) -> Vec<(RowKey, Counts)> {
        let mut sums: HashMap<RowKey, Counts, foldhash::quality::RandomState> = HashMap::default();
        for (key, counts) in counted {
            let is_one_too_many = !self.sums.contains_key(key)
                && self.of_keys.get(&key.key).is_some_and(|rows| *rows >= MOST_MODELS);
            let model = if is_one_too_many { Some(OTHER_MODELS.to_owned()) } else { key.model.clone() };
            let key = RowKey { model, ..key.clone() };
            let before = self.sums.get(&key).copied().unwrap_or_default();
            sums.entry(key).or_insert(before).add(*counts);
        }
        sums.into_iter().collect()
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (&RowKey, &Counts)> {
        self.sums.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_added_to_the_rows_of_a_bounded_number_of_models() {
        let mut rows = DayRows::default();
        let row = |model: usize| RowKey {
            day: "2026-11-29".parse().unwrap(),
            key: "key_a".to_owned(),
            group: None,
            model: Some(format!("model-{model}")),
        };
        let once = Counts { requests: 1, ..Counts::default() };
        for _ in 0..2 {
            for model in 0..MOST_MODELS + 50 {
                for (key, sum) in rows.added(&[(row(model), once)]) {
                    rows.set(key, sum);
                }
            }
        }
        assert_eq!(rows.iter().len(), MOST_MODELS + 1);
        let other = RowKey { model: Some(OTHER_MODELS.to_owned()), ..row(0) };
        let of = |wanted: &RowKey| rows.iter().find(|(key, _)| *key == wanted).unwrap().1.requests;
        assert_eq!((of(&row(0)), of(&other)), (2, 100));
    }
}
