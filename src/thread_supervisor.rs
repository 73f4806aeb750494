//! Starts the threads of the process, and the tasks that run until the process ends. Each thread
//! and each task has a name. If a thread or a task ends too early, its end is logged and counted in
//! a metric.
//!
//! Without a worker, its connections are not served. Without the reload thread, no revocation takes
//! effect. Without the thread for shared limits, no key that has limits is served. Without the thread
//! that writes the state, a restart would forget what was used of budgets. Without the thread that gets
//! certificates, these would end. If one of these threads ends, the process stops as on SIGTERM and
//! exits with 1, so that the service manager restarts it.

use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use futures_util::FutureExt;
use tokio::sync::watch;

/// The purpose of a thread or task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    /// Serves connections.
    Worker,
    /// Reloads configuration, keys and certificates.
    Reload,
    /// Asks the server that has the limits of all replicas.
    Shared,
    /// Writes what survives a restart.
    State,
    /// Gets and renews certificates.
    Acme,
    /// Asks issuers of tokens for their keys.
    Identities,
    /// Writes a log.
    Log,
    /// Sends spans to a collector.
    Traces,
    /// Does background work: health checks, the admin listener, periodic reports.
    Background,
}

impl Duty {
    const ALL: [Duty; 9] = [
        Duty::Worker,
        Duty::Reload,
        Duty::Shared,
        Duty::State,
        Duty::Acme,
        Duty::Identities,
        Duty::Log,
        Duty::Traces,
        Duty::Background,
    ];

    /// Returns the name of the duty in metrics.
    fn name(self) -> &'static str {
        match self {
            Duty::Worker => "worker",
            Duty::Reload => "reload",
            Duty::Shared => "shared",
            Duty::State => "state",
            Duty::Acme => "acme",
            Duty::Identities => "identities",
            Duty::Log => "log",
            Duty::Traces => "traces",
            Duty::Background => "background",
        }
    }

    /// Whether the process stops when a thread of this duty ends. Log lines and spans that get lost
    /// are counted, and are no reason to stop serving.
    fn is_vital(self) -> bool {
        matches!(
            self,
            Duty::Worker | Duty::Reload | Duty::Shared | Duty::State | Duty::Acme | Duty::Identities
        )
    }
}

/// The reason why the work of a thread ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The thread was asked to end.
    Asked,
    /// The thread returned without being asked to end.
    Early,
}

/// The record of all threads that ended too early. Clones share one record.
#[derive(Clone, Debug, Default)]
pub(crate) struct Threads(Arc<Record>);

#[derive(Debug)]
struct Record {
    /// Number of threads that ended too early, for each duty in the order of [`Duty::ALL`].
    ended: [AtomicU64; Duty::ALL.len()],
    /// Name of the first vital thread that ended too early.
    vital: watch::Sender<Option<String>>,
}

impl Default for Record {
    fn default() -> Self {
        Record { ended: Default::default(), vital: watch::Sender::new(None) }
    }
}

impl Threads {
    /// Starts a thread, and records it if it ends without being asked.
    ///
    /// # Errors
    ///
    /// The system can't start another thread.
    pub(crate) fn spawn(
        &self,
        duty: Duty,
        name: &str,
        work: impl FnOnce() -> Ended + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let (threads, of_thread) = (self.clone(), name.to_owned());
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            match catch_unwind(AssertUnwindSafe(work)) {
                Ok(Ended::Asked) => {}
                Ok(Ended::Early) => threads.note(duty, &of_thread, "it returned"),
                Err(_panic) => threads.note(duty, &of_thread, "it panicked"),
            }
        })
    }

    /// Starts a task on the current runtime, and records it if it ends. The task must run until the
    /// process ends.
    pub(crate) fn spawn_task(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let threads = self.clone();
        tokio::spawn(async move {
            let how = match AssertUnwindSafe(work).catch_unwind().await {
                Ok(()) => "it returned",
                Err(_panic) => "it panicked",
            };
            threads.note(Duty::Background, name, how);
        });
    }

    fn note(&self, duty: Duty, name: &str, how: &'static str) {
        let counts = Duty::ALL.iter().zip(&self.0.ended).find(|(known, _)| **known == duty);
        if let Some((_, count)) = counts {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let stops = duty.is_vital();
        tracing::error!(thread = name, how, stops, "a thread has ended while the process runs");
        if stops {
            self.0.vital.send_if_modified(|first| {
                let is_first = first.is_none();
                first.get_or_insert_with(|| name.to_owned());
                is_first
            });
        }
    }

    /// Waits until a vital thread has ended, and returns the thread's name.
    pub(crate) async fn vital_ended(&self) -> String {
        let mut vital = self.0.vital.subscribe();
        let ended = vital.wait_for(Option::is_some).await;
        debug_assert!(ended.is_ok(), "the sender is our own");
        ended.ok().and_then(|name| name.clone()).unwrap_or_default()
    }

    /// Returns the number of threads that ended too early, by duty.
    pub(crate) fn ended(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Duty::ALL.iter().zip(&self.0.ended).map(|(duty, count)| (duty.name(), count.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(threads: &Threads) -> Vec<(&'static str, u64)> {
        threads.ended().filter(|(_, count)| *count > 0).collect()
    }

    #[test]
    fn a_thread_that_was_asked_to_end_is_not_reported() {
        let threads = Threads::default();
        for duty in Duty::ALL {
            threads.spawn(duty, "asked", || Ended::Asked).unwrap().join().unwrap();
        }
        assert_eq!(ended(&threads), []);
        assert!(threads.vital_ended().now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_thread_that_panics_or_returns_is_counted_and_a_vital_one_is_reported() {
        for (duty, is_vital) in
            [(Duty::Worker, true), (Duty::Reload, true), (Duty::Log, false), (Duty::Traces, false)]
        {
            let threads = Threads::default();
            threads.spawn(duty, "early", || Ended::Early).unwrap().join().unwrap();
            assert_eq!(ended(&threads), [(duty.name(), 1)]);
            threads.spawn(duty, "panics", || panic!("a test asked for this")).unwrap().join().unwrap();
            assert_eq!(ended(&threads), [(duty.name(), 2)]);
            let first = threads.vital_ended().now_or_never();
            assert_eq!(first.as_deref(), is_vital.then_some("early"), "{duty:?}");
        }
        let threads = Threads::default();
        threads.spawn_task("returns", async {});
        threads.spawn_task("panics", async { panic!("a test asked for this") });
        while ended(&threads) != [("background", 2)] {
            tokio::task::yield_now().await;
        }
    }
}
