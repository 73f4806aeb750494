//! A thread with a runtime that is started when its work is first wanted, at the start or after a reload.

use std::io;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::{Builder, Runtime};

type Starter = Box<dyn FnOnce(Runtime) -> io::Result<()> + Send>;

/// A thread that may be started later.
#[derive(Default)]
pub(crate) struct LateThread {
    /// Starts the thread; `None` once it is started, or before it can be.
    starter: Mutex<Option<Starter>>,
}

impl LateThread {
    /// Sets how the thread is started.
    pub(crate) fn set(&self, starter: impl FnOnce(Runtime) -> io::Result<()> + Send + 'static) {
        *self.starter.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(starter));
    }

    /// Starts the thread, if it can be started and was not yet.
    ///
    /// # Errors
    ///
    /// The thread or its runtime can't be started.
    pub(crate) fn start(&self) -> io::Result<()> {
        let mut waiting = self.starter.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_none() {
            return Ok(());
        }
        // What most likely fails comes first: the next reload then tries again.
        let runtime = Builder::new_current_thread().enable_all().build()?;
        waiting.take().map_or(Ok(()), |starter| starter(runtime))
    }
}
