//! The answers to authorities that this process knows: its own, and those of other processes with the same
//! storage.
//!
//! Invariant: however often strangers ask, the storage is read at most once in [`FRESH`].

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Instant;

use super::challenges::{FRESH, Question};
use super::storage::{Storage, digest_of};

/// The answers that this process knows.
#[derive(Default)]
pub(super) struct OpenAnswers {
    own: RefCell<HashMap<String, String>>,
    /// Those of the storage, by the digests of their questions, and when they were read.
    stored: RefCell<(Option<Instant>, HashMap<String, String>)>,
}

impl OpenAnswers {
    pub(super) fn add(&self, question: &Question, answer: &str) {
        self.own.borrow_mut().insert(question.text(), answer.to_owned());
    }

    pub(super) fn remove(&self, question: &Question) {
        self.own.borrow_mut().remove(&question.text());
    }

    /// Returns an answer of this process itself.
    pub(super) fn own(&self, question: &Question) -> Option<String> {
        self.own.borrow().get(&question.text()).cloned()
    }

    /// Returns an answer that a process has put into one of the storages.
    pub(super) fn stored(
        &self,
        storages: impl Iterator<Item = Storage>,
        question: &Question,
    ) -> Option<String> {
        let mut stored = self.stored.borrow_mut();
        if stored.0.is_none_or(|read| read.elapsed() >= FRESH) {
            let mut known: Vec<Storage> = Vec::new();
            for storage in storages {
                if !known.contains(&storage) {
                    known.push(storage);
                }
            }
            *stored = (Some(Instant::now()), known.iter().flat_map(Storage::published).collect());
        }
        stored.1.get(&digest_of(question)).cloned()
    }
}
