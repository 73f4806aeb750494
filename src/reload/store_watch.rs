//! Starts and ends the thread that follows a key store in a Redis server.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use super::handle::Message;
use crate::key_store::redis::RedisStore;
use crate::key_store::redis::watch::{Stop, Watcher};
use crate::proxy::Gateway;
use crate::thread_supervisor::Duty;

/// The thread that follows a store. It ends when this `StoreWatch` is dropped.
pub(super) struct StoreWatch {
    store: Arc<RedisStore>,
    max_stale: Option<Duration>,
    stop: Arc<Stop>,
}

impl Drop for StoreWatch {
    fn drop(&mut self) {
        self.stop.ask();
    }
}

impl StoreWatch {
    /// # Errors
    ///
    /// The system can't start another thread.
    pub(super) fn start(
        store: &Arc<RedisStore>,
        max_stale: Option<Duration>,
        gateway: &Gateway,
        sender: SyncSender<Message>,
    ) -> io::Result<Self> {
        let stop = Arc::new(Stop::default());
        let watcher = Watcher {
            store: store.clone(),
            max_stale,
            availability: gateway.keys.availability.clone(),
            turn: gateway.keys.availability.take_over(None),
            tell: Box::new(move |news| sender.try_send(Message::Store(news)).is_ok()),
            stop: stop.clone(),
        };
        let threads = &gateway.observers.logs().threads;
        threads.spawn(Duty::Reload, "key store", move || watcher.run())?;
        Ok(StoreWatch { store: store.clone(), max_stale, stop })
    }

    /// Whether this store is followed in this way.
    pub(super) fn is_of(&self, store: &Arc<RedisStore>, max_stale: Option<Duration>) -> bool {
        Arc::ptr_eq(&self.store, store) && self.max_stale == max_stale
    }
}
