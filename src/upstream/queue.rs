//! The queue of an upstream: requests wait in it for one of the upstream's slots.
//!
//! While nobody waits, a slot is taken and given back by one atomic operation each, and nobody takes a
//! lock. Who finds no free slot takes the lock, and waits in the [line](line). Who gives a slot back while
//! somebody waits takes the lock and hands free slots to those who are next. A queue outlives snapshots, so
//! a reload moves nobody.
//!
//! Invariants: a slot is one request's; a free slot and a request that could use it are not both left,
//! once the lock is free. When an ejection ends, its end is noticed with the next
//! [`Queues::hand_out_awaited`].

mod class;
mod line;
mod pace;
#[cfg(test)]
mod simulation;

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::endpoints::Endpoint;
use super::slots::{Slots, TakenSlot};
use crate::config::{self, Priority};
use crate::token_report::TokenReport;
pub(crate) use class::Who;
use class::{Offer, Standing};
use line::{Line, Outcome};
use pace::Pace;

/// Where requests want to go: an upstream with a queue.
pub(super) trait Destination: Send + Sync {
    /// Returns a number that destinations share which have the same slots.
    fn id(&self) -> u64;

    /// Takes a slot for a request that was not served by the endpoints `tried`.
    fn take(&self, tried: &[Tried]) -> Free;
}

/// An endpoint to which a request was sent in vain.
#[derive(Debug)]
pub(super) struct Tried {
    endpoint: Arc<Endpoint>,
    was_healthy: bool,
}

impl Tried {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        let was_healthy = endpoint.health.is_healthy();
        Tried { endpoint, was_healthy }
    }

    /// Whether the request may not be sent to this endpoint. It may if the endpoint has come back meanwhile: it
    /// was not healthy, and is now.
    pub(super) fn rules_out(&self, endpoint: &Arc<Endpoint>) -> bool {
        Arc::ptr_eq(&self.endpoint, endpoint) && (self.was_healthy || !endpoint.health.is_healthy())
    }
}

/// Whether a slot is free.
#[derive(Debug)]
pub(super) enum Free {
    Taken(Place),
    /// All slots are taken that the request could use.
    Busy,
    /// No endpoint is left that the request could be sent to.
    Nowhere,
}

/// A slot at a destination.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) _slot: TakenSlot,
    /// The endpoint of the slot; `None` if the slots are of all endpoints together.
    pub(super) endpoint: Option<Arc<Endpoint>>,
}

/// Why a request is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotServed {
    /// Too many requests wait. A request that comes after this time finds room, as far as is known.
    Full(Duration),
    /// The request has waited for `max_wait`. One that comes now would wait for this time.
    TimedOut(Duration),
    /// No endpoint is left that the request could be sent to.
    Nowhere,
    ShuttingDown,
}

/// The queue of an upstream, shared by all workers.
#[derive(Debug)]
pub(crate) struct Queue {
    /// The slots of all endpoints together; without a limit if endpoints have slots of their own.
    whole: Arc<Slots>,
    /// Whether anybody waits.
    has_line: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    line: Line<Waiter>,
    /// The destination of those who wait; `None` if a reload has changed it, so that they have several.
    destination: Option<u64>,
    pace: Pace,
    max_waiting: usize,
    is_closed: bool,
}

/// A request in the line.
struct Waiter {
    destination: Arc<dyn Destination>,
    tried: Vec<Tried>,
    since: Instant,
    reply: Reply,
}

/// Where the outcome of a wait is sent.
type Reply = oneshot::Sender<Result<Slot, NotServed>>;

impl std::fmt::Debug for Waiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiter").field("tried", &self.tried.len()).finish_non_exhaustive()
    }
}

/// Replies that are sent when the lock is free.
#[must_use]
#[derive(Default)]
struct Replies(Vec<(Reply, Result<Slot, NotServed>)>);

impl Replies {
    fn send(self) {
        for (reply, outcome) in self.0 {
            // A slot of a request that has left meanwhile is dropped here, and so given to the next one.
            drop(reply.send(outcome));
        }
    }
}

/// A slot that a request has. Dropping it gives the slot to the next one who waits.
#[derive(Debug)]
pub(crate) struct Slot {
    queue: Arc<Queue>,
    /// `None` once the slot is given back.
    place: Option<Place>,
    who: Who,
    /// The units that the request's key was charged in the line.
    charged: f64,
    /// Where the tokens of the request will be reported; `None` if they are not known.
    tokens: Option<Arc<TokenReport>>,
    /// Whether the request was sent, as far as is known.
    was_sent: bool,
}

impl Slot {
    /// Returns the endpoint of the slot; `None` if the slots are of all endpoints together.
    pub(super) fn endpoint(&self) -> Option<&Arc<Endpoint>> {
        self.place.as_ref()?.endpoint.as_ref()
    }

    /// Sets the place where the tokens of the request will be reported.
    pub(super) fn counts(&mut self, tokens: Arc<TokenReport>) {
        self.tokens = Some(tokens);
    }

    /// Notes that the request is sent now.
    pub(super) fn sent(&mut self) {
        self.was_sent = true;
    }

    /// Gives this slot back. Returns the place where the tokens of its request will be reported: it is not
    /// served yet.
    pub(super) fn without_tokens(mut self) -> Option<Arc<TokenReport>> {
        self.was_sent = false;
        self.tokens.take()
    }

    /// Gives this slot back for another place that was taken already.
    pub(super) fn move_to(&mut self, place: Place) {
        let before = self.place.replace(place);
        drop(before);
        self.queue.hand_out_awaited();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(place) = self.place.take() else { return };
        drop(place);
        if self.queue.has_line.load(Ordering::SeqCst) {
            let tokens = self.tokens.take().and_then(|report| report.tokens());
            let outcome = match tokens {
                Some(tokens) => Outcome::Served(tokens.input.saturating_add(tokens.output)),
                None if self.was_sent => Outcome::Unknown,
                None => Outcome::NotSent,
            };
            self.queue.left(self.who, self.charged, outcome, Instant::now());
        }
    }
}

/// A request that waits. Dropping it gives its place in the line up.
#[derive(Debug)]
pub(super) struct Waiting {
    queue: Arc<Queue>,
    standing: Standing,
    reply: oneshot::Receiver<Result<Slot, NotServed>>,
    has_reply: bool,
}

impl Future for Waiting {
    type Output = Result<Slot, NotServed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.reply).poll(cx).map(|reply| {
            self.has_reply = true;
            // The queue replies to all who wait, or outlives them.
            reply.unwrap_or(Err(NotServed::ShuttingDown))
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.has_reply {
            self.queue.give_up(self.standing);
        }
    }
}

impl Queue {
    pub(super) fn new(config: &config::Queue) -> Self {
        let whole = config.slots.unwrap_or(u32::MAX);
        Queue {
            whole: Arc::new(Slots::new(whole)),
            has_line: AtomicBool::new(false),
            state: Mutex::new(State {
                line: Line::new(config.period()),
                destination: None,
                pace: Pace::new(Instant::now()),
                max_waiting: config.max_waiting,
                is_closed: false,
            }),
        }
    }

    /// Returns how long a request of this class that came now would wait, as far as the past tells.
    pub(super) fn would_wait(&self, class: Priority, now: Instant) -> Duration {
        let state = self.lock();
        state.pace.wait(state.line.ahead_of(class), now)
    }

    /// Returns the slots of all endpoints together.
    pub(super) fn whole(&self) -> &Arc<Slots> {
        &self.whole
    }

    /// Returns the number of those who wait in each class.
    pub(crate) fn waiting(&self) -> [(Priority, usize); Priority::ALL.len()] {
        let state = self.lock();
        Priority::ALL.map(|class| (class, state.line.of_class(class)))
    }

    /// Takes new settings up. If there are more slots than before, those who wait get them.
    fn configure(self: &Arc<Self>, config: &config::Queue, now: Instant) {
        let replies = {
            let mut state = self.lock();
            state.line.set_period(config.period());
            state.max_waiting = config.max_waiting;
            // Without a number, the endpoints have slots. Those who wait since before keep to the old number.
            config.slots.into_iter().for_each(|slots| self.whole.set_limit(slots));
            self.hand_out(&mut state, now)
        };
        replies.send();
    }

    /// Takes a slot at once, if one is free and nobody waits.
    pub(super) fn take_at_once(self: &Arc<Self>, destination: &impl Destination, who: Who) -> Option<Slot> {
        if self.has_line.load(Ordering::SeqCst) {
            return None;
        }
        match destination.take(&[]) {
            Free::Taken(place) => Some(self.slot(place, who, 0.0)),
            Free::Busy | Free::Nowhere => None,
        }
    }

    fn slot(self: &Arc<Self>, place: Place, who: Who, charged: f64) -> Slot {
        Slot { queue: self.clone(), place: Some(place), who, charged, tokens: None, was_sent: false }
    }

    /// Puts a request into the line. The request gets a slot at once if it is next and one is free.
    /// `returns`: whether the request has had a slot, so that it is next.
    ///
    /// # Errors
    ///
    /// The queue is full or closed.
    pub(super) fn wait(
        self: &Arc<Self>,
        destination: Arc<dyn Destination>,
        who: Who,
        tried: Vec<Tried>,
        returns: bool,
        now: Instant,
    ) -> Result<Waiting, NotServed> {
        let mut displaced = None;
        let (standing, reply, replies) = {
            let mut state = self.lock();
            let state = &mut *state;
            if state.is_closed {
                return Err(NotServed::ShuttingDown);
            }
            if state.line.is_empty() {
                state.pace.begins(now);
                state.destination = Some(destination.id());
            } else if state.destination != Some(destination.id()) {
                state.destination = None;
            }
            if !returns && state.line.len() >= state.max_waiting {
                let full =
                    |class, state: &State| NotServed::Full(state.pace.wait(state.line.ahead_of(class), now));
                let (standing, waiter) = state.line.displace(who).ok_or_else(|| full(who.class, state))?;
                displaced = Some((waiter, full(standing.who.class, state)));
            }
            let (reply, receiver) = oneshot::channel();
            let standing = state.line.push(who, returns, Waiter { destination, tried, since: now, reply });
            self.has_line.store(true, Ordering::SeqCst);
            // A slot may have become free before the flag was set.
            (standing, receiver, self.hand_out(state, now))
        };
        if let Some((waiter, full)) = displaced {
            drop(waiter.reply.send(Err(full)));
        }
        replies.send();
        Ok(Waiting { queue: self.clone(), standing, reply, has_reply: false })
    }

    /// Hands free slots to those who are next.
    fn hand_out(self: &Arc<Self>, state: &mut State, now: Instant) -> Replies {
        let mut replies = Replies::default();
        let mut nowhere = Vec::new();
        let has_one_destination = state.destination.is_some();
        loop {
            let next = state.line.next(|waiter: &Waiter| match waiter.destination.take(&waiter.tried) {
                Free::Taken(place) => Offer::Taken(Some(place)),
                Free::Nowhere => Offer::Taken(None),
                Free::Busy if waiter.tried.is_empty() && has_one_destination => Offer::NothingFree,
                Free::Busy => Offer::NotThisOne,
            });
            let Some((standing, waiter, place, charged)) = next else { break };
            match place {
                Some(place) => {
                    if waiter.since < now {
                        state.pace.granted(now);
                    }
                    replies.0.push((waiter.reply, Ok(self.slot(place, standing.who, charged))));
                }
                None => nowhere.push(waiter.reply),
            }
        }
        replies.0.extend(nowhere.into_iter().map(|reply| (reply, Err(NotServed::Nowhere))));
        self.has_line.store(!state.line.is_empty(), Ordering::SeqCst);
        replies
    }

    /// Notes that a request has given its slot back.
    fn left(self: &Arc<Self>, who: Who, charged: f64, outcome: Outcome, now: Instant) {
        let replies = {
            let mut state = self.lock();
            state.line.settle(who, charged, outcome);
            self.hand_out(&mut state, now)
        };
        replies.send();
    }

    /// Hands out what has become free otherwise: an endpoint is healthy again, or not any more, or its ejection
    /// may be over.
    pub(super) fn hand_out_awaited(self: &Arc<Self>) {
        if self.has_line.load(Ordering::SeqCst) {
            let replies = {
                let mut state = self.lock();
                self.hand_out(&mut state, Instant::now())
            };
            replies.send();
        }
    }

    fn give_up(self: &Arc<Self>, standing: Standing) {
        let mut state = self.lock();
        drop(state.line.remove(standing));
        self.has_line.store(!state.line.is_empty(), Ordering::SeqCst);
    }

    /// Refuses all who wait, and all who would have to wait from now on: the process ends.
    pub(crate) fn close(&self) {
        let waiters = {
            let mut state = self.lock();
            state.is_closed = true;
            self.has_line.store(false, Ordering::SeqCst);
            state.line.drain()
        };
        for waiter in waiters {
            drop(waiter.reply.send(Err(NotServed::ShuttingDown)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All queues in use, by the upstream's name. A reload finds the queues of before here.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    known: Mutex<HashMap<String, Arc<Queue>>>,
    /// Queues that are in use no longer, and in which somebody may still wait.
    retired: Mutex<Vec<Weak<Queue>>>,
}

impl Queues {
    /// Returns the queue in use of the upstream with this name, or makes a new one. It takes its settings
    /// up with [`Queues::adopt`], because its configuration may still be refused.
    pub(super) fn find_or_make(&self, upstream: &str, config: &config::Queue) -> Arc<Queue> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(upstream).cloned().unwrap_or_else(|| Arc::new(Queue::new(config)))
    }

    /// Replaces the queues in use. `in_use`: all upstreams by name, each with its queue if it has one. Who waits
    /// for an upstream that has no queue any more gets a slot at once. Who waits for an upstream that is gone, or
    /// has another name, goes on waiting for one of its slots.
    pub(crate) fn adopt<'s>(
        &self,
        in_use: impl Iterator<Item = (&'s str, Option<(&'s Arc<Queue>, &'s config::Queue)>)>,
    ) {
        let now = Instant::now();
        let (mut adopted, mut without) = (HashMap::new(), HashSet::new());
        for (upstream, queue) in in_use {
            if let Some((queue, config)) = queue {
                queue.configure(config, now);
                adopted.insert(upstream.to_owned(), queue.clone());
            } else {
                without.insert(upstream);
            }
        }
        let before = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *known, adopted.clone())
        };
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.retain(|queue| queue.strong_count() > 0);
        for (upstream, queue) in before {
            if !adopted.contains_key(&upstream) {
                if without.contains(&*upstream) {
                    queue.configure(&config::Queue::unlimited(), now);
                }
                retired.push(Arc::downgrade(&queue));
            }
        }
    }

    /// Hands out what became free without anybody's doing: the ejection of an endpoint has ended, and it may be
    /// the only one that has free slots. One of those who wait probes it.
    pub(crate) fn hand_out_awaited(&self) {
        self.all().iter().for_each(Queue::hand_out_awaited);
    }

    /// Refuses all who wait: the process ends.
    pub(crate) fn close(&self) {
        self.all().iter().for_each(|queue| queue.close());
    }

    /// Returns all queues in which somebody may wait.
    fn all(&self) -> Vec<Arc<Queue>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().cloned().chain(retired.iter().filter_map(Weak::upgrade)).collect()
    }
}
