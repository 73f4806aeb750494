//! Orders of replicas that share a server of limits (`shared`): one orders at a time, and each replica can
//! answer what the authority asks another one.
//!
//! Invariant: without that server, everything works as with a shared storage alone. A failure of the server
//! delays no order by more than its time limit. The server's user needs no more rights than for limits.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::challenges::{FRESH, Question};
use crate::random_id::random_id;
use crate::redis_link::{Connection, ErrorKind, RedisResult, Script, cmd, text_of};
use crate::shared::Settings;

/// Time after which a lock that is not renewed has ended, in milliseconds.
const LOCK_LIFE: u64 = 20_000;
/// Time for which answers to authorities are kept, in milliseconds: longer than an order takes.
const ANSWER_LIFE: u64 = 600_000;
/// Time limit of a command.
const PATIENCE: Duration = Duration::from_secs(1);

/// Takes a lock that nobody has, or renews one's own. Returns 0 if another has it.
const HOLD: &str = "local owner = redis.call('HGET', KEYS[1], 'owner')
    if owner and owner ~= ARGV[1] then return 0 end
    redis.call('HSET', KEYS[1], 'owner', ARGV[1])
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    return 1";
/// Ends a lock that is still its owner's.
const END: &str =
    "if redis.call('HGET', KEYS[1], 'owner') == ARGV[1] then redis.call('HDEL', KEYS[1], 'owner') end
    return 1";
/// Keeps an answer.
const PUBLISH: &str = "redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
    return 1";

/// Returns the settings of the server, if limits are shared.
pub(super) type OfServer = Box<dyn Fn() -> Option<Arc<Settings>> + Send>;

/// The server of all replicas.
pub(super) struct Fleet {
    of_server: OfServer,
    connection: RefCell<Option<Connection>>,
    /// The answers of all replicas, and when they were read.
    answers: Mutex<(Option<Instant>, HashMap<String, String>)>,
    /// Whether the last command failed, which was logged.
    is_in_trouble: Cell<bool>,
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
        Fleet {
            of_server,
            connection: RefCell::default(),
            answers: Mutex::default(),
            is_in_trouble: Cell::new(false),
        }
    }

    pub(super) async fn lock(&self, name: &str) -> Taken {
        let Some(settings) = (self.of_server)() else { return Taken::Nowhere };
        let lock = FleetLock { key: format!("{}:acme:lock:{name}", settings.prefix), owner: random_id() };
        match self.hold(&settings, &lock).await {
            Some(1) => Taken::Held(lock),
            Some(_) => Taken::ByAnother,
            None => {
                // It may have been taken all the same.
                self.end(lock).await;
                Taken::Nowhere
            }
        }
    }

    /// Renews a lock. Returns `false` if another replica has it.
    pub(super) async fn renew(&self, lock: &FleetLock) -> bool {
        let Some(settings) = (self.of_server)() else { return true };
        self.hold(&settings, lock).await != Some(0)
    }

    async fn hold(&self, settings: &Settings, lock: &FleetLock) -> Option<i64> {
        self.run(settings, HOLD, &lock.key, &[&lock.owner, &LOCK_LIFE.to_string()]).await
    }

    pub(super) async fn end(&self, lock: FleetLock) {
        if let Some(settings) = (self.of_server)() {
            self.run(&settings, END, &lock.key, &[&lock.owner]).await;
        }
    }

    /// Keeps the answer to a question of the authority, for all replicas.
    pub(super) async fn publish(&self, question: &Question, answer: &str) {
        let Some(settings) = (self.of_server)() else { return };
        let arguments = [&*question.text(), answer, &ANSWER_LIFE.to_string()];
        self.run(&settings, PUBLISH, &answers_of(&settings), &arguments).await;
    }

    pub(super) async fn withdraw(&self, question: &Question) {
        let Some(settings) = (self.of_server)() else { return };
        let mut command = cmd("HDEL");
        command.arg(answers_of(&settings)).arg(question.text());
        self.ask(&settings, async |mut link| command.query_async::<i64>(&mut link).await).await;
    }

    /// Returns the answer to a question of the authority that another replica has published. The server is
    /// asked at most once in [`FRESH`], however often strangers ask.
    pub(super) async fn published(&self, question: &Question) -> Option<String> {
        let settings = (self.of_server)()?;
        // Whoever asks meanwhile waits for the same answer.
        let mut answers = self.answers.lock().await;
        if answers.0.is_none_or(|read| read.elapsed() >= FRESH) {
            let mut command = cmd("HGETALL");
            command.arg(answers_of(&settings));
            let all = self
                .ask(&settings, async |mut link| {
                    command.query_async::<HashMap<String, String>>(&mut link).await
                })
                .await;
            *answers = (Some(Instant::now()), all.unwrap_or_default());
        }
        answers.1.get(&question.text()).cloned()
    }

    async fn run(&self, settings: &Settings, script: &str, key: &str, arguments: &[&str]) -> Option<i64> {
        let script = Script::new(script);
        let mut call = script.key(key);
        arguments.iter().for_each(|argument| {
            call.arg(*argument);
        });
        self.ask(settings, async |mut link| call.invoke_async::<i64>(&mut link).await).await
    }

    /// Sends a command. Returns `None` after a failure. The first failure in a row is logged.
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
        let late = || Err((ErrorKind::Io, "no answer in time").into());
        let answer = tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_elapsed| late());
        let was_in_trouble = self.is_in_trouble.replace(answer.is_err());
        match answer {
            Ok(answer) => Some(answer),
            Err(error) => {
                // The next command connects again.
                self.connection.replace(None);
                if !was_in_trouble {
                    let why = text_of(&error);
                    tracing::warn!(why, "replicas can't agree on certificates by the server of `shared`");
                }
                None
            }
        }
    }
}

fn answers_of(settings: &Settings) -> String {
    format!("{}:acme:answers", settings.prefix)
}
