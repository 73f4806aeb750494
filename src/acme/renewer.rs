//! The thread that gets certificates and renews them, and answers what authorities ask.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::Runtime;
use tokio::task::{AbortHandle, LocalSet, spawn_local};
use tokio::time::sleep;

use super::challenges::Waiting;
use super::registry::{Managed, Registry};
use super::storage::Storage;
use super::tending::Tending;
use super::tools::Tools;
use crate::thread_supervisor::Ended;

/// Pause after a panic.
const AFTER_PANIC: Duration = Duration::from_secs(60);

/// The work of the thread.
pub(crate) struct Renewer {
    registry: Arc<Registry>,
    tools: Tools,
}

/// The certificates that are tended, each with its task.
type Tended = HashMap<*const Managed, (Arc<Managed>, AbortHandle)>;

impl Renewer {
    pub(crate) fn new(registry: Arc<Registry>, tools: Tools) -> Self {
        Renewer { registry, tools }
    }

    /// Works until the process ends.
    pub(crate) fn run(self, runtime: &Runtime) -> Ended {
        LocalSet::new().block_on(runtime, self.work());
        Ended::Early
    }

    async fn work(self) {
        let Renewer { registry, tools } = self;
        let Some(mut questions) = registry.take_receiver() else { return };
        let tools = Rc::new(tools);
        let mut tended = Tended::new();
        follow(&registry, &tools, &mut tended);
        loop {
            tokio::select! {
                question = questions.recv() => match question {
                    Some(waiting) => {
                        spawn_local(answer(registry.clone(), tools.clone(), waiting));
                    }
                    None => return,
                },
                () = registry.changed.notified() => follow(&registry, &tools, &mut tended),
            }
        }
    }
}

/// Begins to tend what is wanted, and stops tending what is wanted no more.
fn follow(registry: &Registry, tools: &Rc<Tools>, tended: &mut Tended) {
    let wanted = registry.wanted();
    tended.retain(|_, (managed, task)| {
        let stays = wanted.iter().any(|other| Arc::ptr_eq(other, managed));
        if !stays {
            task.abort();
        }
        stays
    });
    for managed in wanted.iter() {
        tended.entry(Arc::as_ptr(managed)).or_insert_with(|| {
            let task = spawn_local(tend(tools.clone(), managed.clone()));
            (managed.clone(), task.abort_handle())
        });
    }
}

/// Gets a certificate and renews it, for as long as it is wanted, also after a panic.
async fn tend(tools: Rc<Tools>, managed: Arc<Managed>) {
    loop {
        let tending = Tending::new(tools.clone(), managed.clone()).run();
        if AssertUnwindSafe(tending).catch_unwind().await.is_err() {
            tracing::error!(name = managed.name, "tending a certificate panicked; it begins again");
        }
        sleep(AFTER_PANIC).await;
    }
}

/// Answers a question of an authority: by what this process has published, or another one.
async fn answer(registry: Arc<Registry>, tools: Rc<Tools>, waiting: Waiting) {
    let Waiting { question, reply } = waiting;
    let wanted = registry.wanted();
    let in_storage = || {
        let storages = wanted.iter().map(|managed| Storage::of(&managed.acme.load()));
        tools.answers.stored(storages, &question)
    };
    let answer = match tools.answers.own(&question) {
        Some(own) => Some(own),
        // A process that was killed may have left another answer in this storage.
        None => tools.fleet.published(&question).await.or_else(in_storage),
    };
    let _client_left = reply.send(answer.filter(|answer| is_key_authorization(answer)));
}

/// Whether a text is a key authorization: a token, a dot and a digest (RFC 8555, section 8.1).
fn is_key_authorization(text: &str) -> bool {
    let is_sound = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(is_sound);
    text.len() <= 512 && text.split_once('.').is_some_and(|(token, digest)| is_word(token) && is_word(digest))
}
