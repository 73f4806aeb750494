//! Makes answers to an authority known to all processes that it may ask, until they are withdrawn.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::task::spawn_local;
use tokio::time::sleep;

use super::challenges::{FRESH, Question};
use super::fault::Failure;
use super::order::Answers;
use super::storage::Storage;
use super::tools::Tools;

/// The answers of one order. They are withdrawn when it is dropped.
pub(super) struct Publisher {
    tools: Rc<Tools>,
    storage: Storage,
    published: RefCell<Vec<(Question, String)>>,
}

impl Publisher {
    pub(super) fn new(tools: Rc<Tools>, storage: Storage) -> Self {
        Publisher { tools, storage, published: RefCell::default() }
    }
}

impl Answers for Publisher {
    async fn publish(&self, question: Question, answer: &str) -> Result<(), Failure> {
        self.storage.publish(&question, answer).map_err(|error| Failure::of_storage(&error))?;
        self.tools.answers.add(&question, answer);
        self.tools.fleet.publish(&question, answer).await;
        self.published.borrow_mut().push((question, answer.to_owned()));
        Ok(())
    }

    async fn settle(&self) {
        // Other processes look for new answers at most once in this time.
        sleep(FRESH + FRESH / 4).await;
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        for (question, answer) in self.published.take() {
            self.tools.answers.remove(&question);
            self.storage.withdraw(&question, &answer);
            let tools = self.tools.clone();
            spawn_local(async move { tools.fleet.withdraw(&question).await });
        }
    }
}
