//! Makes answers to an authority known to all processes that it may ask, until they are withdrawn.

use std::cell::RefCell;

use super::challenges::Question;
use super::fault::Failure;
use super::fleet::Fleet;
use super::order::Answers;
use super::storage::Storage;

/// The answers of one order. They are withdrawn when it is dropped.
pub(super) struct Publisher<'p> {
    fleet: &'p Fleet,
    storage: &'p Storage,
    published: RefCell<Vec<Question>>,
}

impl<'p> Publisher<'p> {
    pub(super) fn new(fleet: &'p Fleet, storage: &'p Storage) -> Self {
        Publisher { fleet, storage, published: RefCell::default() }
    }
}

impl Answers for Publisher<'_> {
    async fn publish(&self, question: Question, answer: &str) -> Result<(), Failure> {
        self.storage.publish(&question, answer).map_err(|error| Failure::of_storage(&error))?;
        self.fleet.publish(&question, answer).await;
        self.published.borrow_mut().push(question);
        Ok(())
    }
}

impl Drop for Publisher<'_> {
    fn drop(&mut self) {
        // Those at the server of all replicas end by themselves.
        self.published.borrow().iter().for_each(|question| self.storage.withdraw(question));
    }
}
