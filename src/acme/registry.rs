//! The certificates that bearward gets by itself: what is wanted, and what is known of each. The thread that
//! asks the authority, the workers and the admin listener share it.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc};

use super::challenges::{Line, Question, Waiting};
use super::progress::KeptFault;
use super::storage::name_of;
use crate::config::{Acme, Challenge, Config, Listener};
use crate::late_thread::LateThread;

/// The certificates that bearward gets by itself.
pub(crate) struct Registry {
    wanted: ArcSwap<Vec<Arc<Managed>>>,
    /// Whether a certificate is wanted whose authority asks by HTTP.
    is_asked_by_http: AtomicBool,
    line: Line,
    /// The thread's end of the line; `None` once the thread has it.
    receiver: Mutex<Option<mpsc::Receiver<Waiting>>>,
    thread: LateThread,
    /// Notified when other certificates are wanted.
    pub(super) changed: Notify,
}

/// A certificate that is wanted.
#[derive(Debug)]
pub(super) struct Managed {
    /// The name of its files.
    pub(super) name: String,
    pub(super) acme: ArcSwap<Acme>,
    pub(super) state: Mutex<State>,
    /// Notified when its settings have changed.
    pub(super) changed: Notify,
}

/// What is known of a certificate.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) not_after: Option<Timestamp>,
    /// When it will be renewed, or asked for.
    pub(super) due_at: Option<Timestamp>,
    pub(super) is_asking: bool,
    pub(super) fault: Option<KeptFault>,
    pub(super) issued: u64,
    pub(super) failed: u64,
}

/// A certificate, as it is shown to operators.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    /// The name of its files.
    pub(crate) name: String,
    pub(crate) domains: Vec<String>,
    pub(crate) directory: String,
    pub(crate) not_after: Option<Timestamp>,
    /// When it will be renewed, or asked for.
    pub(crate) due_at: Option<Timestamp>,
    pub(crate) is_asking: bool,
    /// Number of certificates that this process has got.
    pub(crate) issued: u64,
    /// Number of attempts of this process that have failed.
    pub(crate) failed: u64,
    pub(crate) fault: Option<ShownFault>,
}

/// Why the last attempt failed.
#[derive(Clone, Debug)]
pub(crate) struct ShownFault {
    pub(crate) message: String,
    pub(crate) advice: String,
    pub(crate) at: Timestamp,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

impl Default for Registry {
    fn default() -> Self {
        let (line, receiver) = Line::new();
        Registry {
            wanted: ArcSwap::default(),
            is_asked_by_http: AtomicBool::new(false),
            line,
            receiver: Mutex::new(Some(receiver)),
            thread: LateThread::default(),
            changed: Notify::new(),
        }
    }
}

impl Registry {
    /// Makes the registry of the certificates that a configuration wants.
    pub(crate) fn of(config: &Config) -> Self {
        let registry = Registry::default();
        registry.configure(&config.listeners);
        registry
    }

    /// Takes over what the listeners want. What is known of a certificate that is still wanted stays.
    pub(crate) fn configure(&self, listeners: &[Listener]) {
        let before = self.wanted.load();
        let mut wanted: Vec<Arc<Managed>> = Vec::new();
        for acme in listeners.iter().filter_map(|listener| listener.tls.as_ref()?.acme()) {
            let name = name_of(acme);
            let is_same =
                |known: &&Arc<Managed>| known.name == name && known.acme.load().storage == acme.storage;
            if wanted.iter().any(|known| is_same(&known)) {
                continue;
            }
            wanted.push(match before.iter().find(is_same) {
                Some(known) => {
                    if **known.acme.load() != *acme {
                        known.acme.store(Arc::new(acme.clone()));
                        known.changed.notify_one();
                    }
                    known.clone()
                }
                None => Arc::new(Managed::new(name, acme.clone())),
            });
        }
        let by_http = |managed: &Arc<Managed>| managed.acme.load().challenge == Challenge::Http01;
        self.is_asked_by_http.store(wanted.iter().any(by_http), Ordering::Relaxed);
        self.wanted.store(Arc::new(wanted));
        self.changed.notify_one();
        if let Err(error) = self.start() {
            tracing::error!(%error, "the thread that gets certificates can't be started");
        }
    }

    /// Sets how the thread is started, and starts it as soon as a certificate is wanted.
    ///
    /// # Errors
    ///
    /// A certificate is wanted now, and the thread can't be started.
    pub(crate) fn start_with(
        &self,
        starter: impl FnOnce(Runtime) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        self.thread.set(starter);
        self.start()
    }

    fn start(&self) -> io::Result<()> {
        match self.wanted.load().is_empty() {
            true => Ok(()),
            false => self.thread.start(),
        }
    }

    pub(super) fn wanted(&self) -> Arc<Vec<Arc<Managed>>> {
        self.wanted.load_full()
    }

    /// Returns the thread's end of the line, the first time that this is called.
    pub(super) fn take_receiver(&self) -> Option<mpsc::Receiver<Waiting>> {
        self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether an authority may ask by HTTP.
    pub(crate) fn are_asked_by_http(&self) -> bool {
        self.is_asked_by_http.load(Ordering::Relaxed)
    }

    /// Returns the answer to a request of an authority; `None` if no such token is known.
    pub(crate) async fn http_answer(&self, token: &str) -> Option<String> {
        self.line.ask(Question::of_token(token)?).await
    }

    /// Returns the key authorization for a handshake of an authority; `None` if none is expected for `name`.
    pub(crate) async fn tls_answer(&self, name: &str) -> Option<String> {
        let question = Question::of_name(name)?;
        let is_ours =
            |managed: &Arc<Managed>| managed.acme.load().domains.iter().any(|own| question.is_for(own));
        // The thread is not asked about what nobody has ordered.
        if !self.wanted.load().iter().any(is_ours) {
            return None;
        }
        self.line.ask(question).await
    }

    /// Returns all certificates that are wanted.
    pub(crate) fn shown(&self) -> Vec<Shown> {
        self.wanted.load().iter().map(|managed| managed.shown()).collect()
    }
}

impl Managed {
    fn new(name: String, acme: Acme) -> Self {
        Managed { name, acme: ArcSwap::from_pointee(acme), state: Mutex::default(), changed: Notify::new() }
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn shown(&self) -> Shown {
        let State { not_after, due_at, is_asking, fault, issued, failed } =
            self.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let acme = self.acme.load();
        let fault = fault.map(|KeptFault { message, advice, at }| ShownFault { message, advice, at });
        Shown {
            name: self.name.clone(),
            domains: acme.domains.clone(),
            directory: acme.directory.clone(),
            not_after,
            due_at,
            is_asking,
            issued,
            failed,
            fault,
        }
    }
}
