//! Orders of replicas that share a server of limits (`shared`): one orders at a time, and each replica can
//! answer what the authority asks another one.
//!
//! Invariant: without that server, everything works as with a shared storage alone. A failure of the server
//! delays no order by more than its time limit.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{RedisResult, Script};

use super::challenges::Question;
use crate::random_id::random_id;
use crate::redis_link::{Connection, text_of};
use crate::shared::Settings;

/// Time after which a lock that is not renewed has ended, in milliseconds.
const LOCK_LIFE: u64 = 30_000;
/// Time for which an answer to the authority is kept, in milliseconds: longer than an order takes.
const ANSWER_LIFE: u64 = 600_000;
/// Time limit of a command.
const PATIENCE: Duration = Duration::from_secs(1);
/// Greatest number of questions in a second for which the server is asked: anybody may send any token.
const MOST_LOOKUPS: u32 = 20;

/// Renews a lock that is still its owner's.
const RENEW: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0";
/// Ends a lock that is still its owner's.
const END: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

/// Returns the settings of the server, if limits are shared.
pub(super) type OfServer = Box<dyn Fn() -> Option<Arc<Settings>> + Send>;

/// The server of all replicas.
pub(super) struct Fleet {
    of_server: OfServer,
    connection: RefCell<Option<Connection>>,
    lookups: Cell<(Instant, u32)>,
}

/// The lock on an order among all replicas.
pub(super) struct FleetLock {
    key: String,
    owner: String,
}

/// What became of an attempt to take the lock.
pub(super) enum Taken {
    Held(FleetLock),
    /// Another replica holds it.
    ByAnother,
    /// There is no server, or it does not answer: the lock of the storage holds alone.
    Nowhere,
}

impl Fleet {
    pub(super) fn new(of_server: OfServer) -> Self {
        Fleet { of_server, connection: RefCell::default(), lookups: Cell::new((Instant::now(), 0)) }
    }

    pub(super) async fn lock(&self, name: &str) -> Taken {
        let Some(settings) = (self.of_server)() else { return Taken::Nowhere };
        let lock = FleetLock { key: format!("{}:acme:lock:{name}", settings.prefix), owner: random_id() };
        let mut command = redis::cmd("SET");
        command.arg(&lock.key).arg(&lock.owner).arg("NX").arg("PX").arg(LOCK_LIFE);
        match self
            .ask(&settings, async |mut link| command.query_async::<Option<String>>(&mut link).await)
            .await
        {
            Some(Some(_ok)) => Taken::Held(lock),
            Some(None) => Taken::ByAnother,
            None => Taken::Nowhere,
        }
    }

    /// Renews a lock. Returns `false` if it is certain that it is another's now.
    pub(super) async fn renew(&self, lock: &FleetLock) -> bool {
        let Some(settings) = (self.of_server)() else { return true };
        let renewed = self.run(&settings, RENEW, lock).await;
        renewed.is_none_or(|count| count == 1)
    }

    pub(super) async fn end(&self, lock: FleetLock) {
        if let Some(settings) = (self.of_server)() {
            self.run(&settings, END, &lock).await;
        }
    }

    async fn run(&self, settings: &Settings, script: &str, lock: &FleetLock) -> Option<i64> {
        let script = Script::new(script);
        let mut call = script.key(&lock.key);
        call.arg(&lock.owner).arg(LOCK_LIFE);
        self.ask(settings, async |mut link| call.invoke_async::<i64>(&mut link).await).await
    }

    /// Keeps the answer to a question of the authority, for all replicas.
    pub(super) async fn publish(&self, question: &Question, answer: &str) {
        let Some(settings) = (self.of_server)() else { return };
        let mut command = redis::cmd("SET");
        command.arg(key_of(&settings, question)).arg(answer).arg("PX").arg(ANSWER_LIFE);
        self.ask(&settings, async |mut link| command.query_async::<String>(&mut link).await).await;
    }

    /// Returns the answer to a question of the authority that another replica has published.
    pub(super) async fn published(&self, question: &Question) -> Option<String> {
        let settings = (self.of_server)()?;
        let (since, count) = self.lookups.get();
        let (since, count) =
            if since.elapsed() >= Duration::from_secs(1) { (Instant::now(), 0) } else { (since, count) };
        if count >= MOST_LOOKUPS {
            return None;
        }
        self.lookups.set((since, count + 1));
        let mut command = redis::cmd("GET");
        command.arg(key_of(&settings, question));
        self.ask(&settings, async |mut link| command.query_async::<Option<String>>(&mut link).await).await?
    }

    /// Sends a command. Returns `None` after a failure, which is logged.
    async fn ask<T, F>(&self, settings: &Settings, send: impl FnOnce(Connection) -> F) -> Option<T>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let asking = async {
            let known = self.connection.borrow().clone();
            let connection = match known {
                Some(connection) => connection,
                None => settings.server.connect().await?,
            };
            self.connection.replace(Some(connection.clone()));
            send(connection).await
        };
        let late = || Err((redis::ErrorKind::Io, "no answer in time").into());
        match tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_elapsed| late()) {
            Ok(answer) => Some(answer),
            Err(error) => {
                // The next command connects again.
                self.connection.replace(None);
                let why = text_of(&error);
                tracing::warn!(why, "replicas can't agree on certificates by the server of `shared`");
                None
            }
        }
    }
}

fn key_of(settings: &Settings, question: &Question) -> String {
    format!("{}:acme:challenge:{}", settings.prefix, question.text())
}
