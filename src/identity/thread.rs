//! The thread that asks issuers for their keys, each when it is due, and forgets holders that are gone.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::fetch::{self, Client};
use super::registry::{Identities, SWEEP};
use super::source::Source;
use crate::thread_supervisor::Ended;

/// Forgets holders.
pub(crate) type Sweep = Box<dyn FnMut() + Send>;

/// The work of the thread.
pub(crate) struct Tasks {
    identities: Arc<Identities>,
    client: Client,
    sweep: Sweep,
}

impl Tasks {
    pub(crate) fn new(identities: Arc<Identities>, client: Client, sweep: Sweep) -> Self {
        Tasks { identities, client, sweep }
    }

    /// Works as long as the process runs.
    pub(crate) fn run(self, runtime: &Runtime) -> Ended {
        runtime.block_on(self.work())
    }

    async fn work(mut self) -> Ended {
        let mut asking: JoinSet<()> = JoinSet::new();
        let mut swept = Instant::now();
        loop {
            let sources = self.identities.sources();
            for source in sources.iter().filter(|source| source.begin()) {
                let (identities, client) = (self.identities.clone(), self.client.clone());
                asking.spawn(ask(identities, source.clone(), client));
            }
            if swept.elapsed() >= SWEEP {
                (self.sweep)();
                swept = Instant::now();
            }
            let waits = sources.iter().filter_map(|source| source.wait());
            let wait = waits.chain([SWEEP.saturating_sub(swept.elapsed())]).min().unwrap_or(SWEEP);
            tokio::select! {
                () = tokio::time::sleep(wait.max(Duration::from_millis(1))) => {}
                () = self.identities.wake.notified() => self.sweep_if_crowded(&mut swept),
                Some(_ended) = asking.join_next() => {}
            }
        }
    }

    fn sweep_if_crowded(&mut self, swept: &mut Instant) {
        // Whoever adds holders wakes the thread often. A sweep may find nothing to forget, so it is not repeated
        // at once.
        if self.identities.is_crowded() && swept.elapsed() >= Duration::from_secs(1) {
            (self.sweep)();
            *swept = Instant::now();
        }
    }
}

/// Asks all issuers in service for their keys once, at the same time.
pub(crate) async fn ask_all(identities: &Identities, client: &Client) {
    let sources = identities.sources();
    let asked = sources.iter().filter(|source| source.begin()).map(|source| async move {
        source.end(fetch::keys_of(source, client).await);
    });
    join_all(asked).await;
    identities.note_change();
}

async fn ask(identities: Arc<Identities>, source: Arc<Source>, client: Client) {
    // If the request panics, it has failed, and the next one is due after a pause.
    let asked = tokio::spawn({
        let source = source.clone();
        async move { fetch::keys_of(&source, &client).await }
    });
    let answer = asked.await.unwrap_or_else(|_panic| Err("an internal error".to_owned()));
    if source.end(answer) {
        identities.note_change();
    }
}
