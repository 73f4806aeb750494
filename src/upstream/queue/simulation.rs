//! A simulation of a queue: random arrivals, departures, clients that leave, endpoints that die and come back,
//! and reloads, with a clock of its own. The queue, its line and its slots are those of the process.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::sync::oneshot::error::TryRecvError;

use super::super::slots::Slots;
use super::*;

/// An upstream with slots in all, or with slots by endpoint.
struct Upstream {
    whole: Option<Arc<Slots>>,
    endpoints: Vec<(Arc<Slots>, AtomicBool)>,
}

impl Destination for Upstream {
    fn id(&self) -> u64 {
        0
    }

    fn take(&self, _tried: &[Tried]) -> Free {
        let live = || self.endpoints.iter().filter(|(_, lives)| lives.load(Ordering::Relaxed));
        let taken = match &self.whole {
            Some(whole) => whole.take(),
            None => live().find_map(|(slots, _)| slots.take()),
        };
        match taken {
            Some(slot) => Free::Taken(Place { _slot: slot, endpoint: None }),
            None if live().next().is_none() => Free::Nowhere,
            None => Free::Busy,
        }
    }
}

/// One step of the simulation.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A request arrives.
    Arrive { class: u8, key: u8, weight: u8 },
    /// A request that has a slot ends, and has used this many tokens if that is known.
    Depart { index: u16, tokens: Option<u16> },
    /// A client that waits leaves, or has waited too long.
    Leave { index: u16 },
    /// An endpoint dies, or is healthy again.
    Flip { endpoint: u8 },
    /// A reload changes the slots and the settings.
    Reload { slots: u8, max_waiting: u8, share: u8 },
    /// Time passes, in milliseconds.
    Pass { millis: u16 },
}

impl Step {
    fn random(chance: &mut fastrand::Rng) -> Self {
        match chance.u8(..100) {
            0..40 => Step::Arrive { class: chance.u8(..3), key: chance.u8(..12), weight: chance.u8(1..5) },
            40..76 => Step::Depart { index: chance.u16(..), tokens: chance.bool().then(|| chance.u16(..)) },
            76..86 => Step::Leave { index: chance.u16(..) },
            86..88 => Step::Flip { endpoint: chance.u8(..) },
            88..90 => {
                Step::Reload { slots: chance.u8(1..9), max_waiting: chance.u8(..40), share: chance.u8(2..34) }
            }
            _ => Step::Pass { millis: chance.u16(..) },
        }
    }
}

/// A request that waits: its number, its key and class, and its place in the line.
type InLine = (u64, (Priority, usize), Waiting);

struct Simulation {
    queue: Arc<Queue>,
    upstream: Arc<Upstream>,
    now: Instant,
    arrivals: u64,
    waiting: Vec<InLine>,
    /// The slots that requests have, each with the number of its request.
    served: Vec<(u64, Slot)>,
    /// The last request of each key and class that was served.
    last_served: HashMap<(Priority, usize), u64>,
}

impl Simulation {
    fn new(by_endpoint: bool) -> Self {
        let slots = 4;
        let config = config::Queue { slots: (!by_endpoint).then_some(slots), ..config::Queue::default() };
        let queue = Arc::new(Queue::new(&config));
        let endpoints = (0..2).map(|_| (Arc::new(Slots::new(slots / 2)), AtomicBool::new(true))).collect();
        let whole = (!by_endpoint).then(|| queue.whole().clone());
        Simulation {
            queue,
            upstream: Arc::new(Upstream { whole, endpoints }),
            now: Instant::now(),
            arrivals: 0,
            waiting: Vec::new(),
            served: Vec::new(),
            last_served: HashMap::new(),
        }
    }

    fn run(&mut self, step: Step) {
        let before: Vec<u32> = self.slots().map(|slots| slots.taken()).collect();
        match step {
            Step::Arrive { class, key, weight } => self.arrive(class, key, weight),
            Step::Depart { index, tokens } if !self.served.is_empty() => {
                let (_, mut slot) = self.served.swap_remove(usize::from(index) % self.served.len());
                if let Some(tokens) = tokens {
                    let report = TokenReport::default();
                    let by = crate::token_report::TokensBy::Reported;
                    let (input, output) = (u64::from(tokens), 1);
                    report.set(crate::token_report::Tokens { input, cached: None, output, by });
                    slot.counts(Arc::new(report));
                }
                slot.sent();
                drop(slot);
            }
            Step::Leave { index } if !self.waiting.is_empty() => {
                drop(self.waiting.swap_remove(usize::from(index) % self.waiting.len()));
            }
            Step::Flip { endpoint } => {
                let count = self.upstream.endpoints.len();
                let (_, lives) = &self.upstream.endpoints[usize::from(endpoint) % count];
                lives.fetch_xor(true, Ordering::Relaxed);
                self.queue.hand_out_awaited();
            }
            Step::Reload { slots, max_waiting, share } => self.reload(slots, max_waiting, share),
            Step::Pass { millis } => self.now += Duration::from_millis(u64::from(millis)),
            Step::Depart { .. } | Step::Leave { .. } => {}
        }
        self.receive();
        self.check();
        // With fewer slots after a reload, those who have one keep it, and nobody gets another.
        for (slots, before) in self.slots().zip(before) {
            assert!(slots.taken() <= slots.limit().max(before), "{} of {}", slots.taken(), slots.limit());
        }
    }

    fn arrive(&mut self, class: u8, key: u8, weight: u8) {
        self.arrivals += 1;
        let who = Who {
            class: Priority::ALL[usize::from(class)],
            key: usize::from(key),
            weight: u32::from(weight),
        };
        if let Some(slot) = self.queue.take_at_once(&*self.upstream, who) {
            assert!(self.waiting.is_empty(), "nobody passes those who wait");
            self.note_served(self.arrivals, (who.class, who.key), slot);
            return;
        }
        let waiting = self.queue.wait(self.upstream.clone(), who, Vec::new(), false, self.now);
        match waiting {
            Ok(waiting) => self.waiting.push((self.arrivals, (who.class, who.key), waiting)),
            Err(NotServed::Full(wait)) => assert!(wait <= Duration::from_secs(3600)),
            Err(other) => panic!("{other:?}"),
        }
    }

    fn reload(&mut self, slots: u8, max_waiting: u8, share: u8) {
        let slots = u32::from(slots);
        let is_whole = self.upstream.whole.is_some();
        let config = config::Queue {
            slots: is_whole.then_some(slots),
            max_waiting: usize::from(max_waiting),
            batch_share: f64::from(share) / 100.0,
            ..config::Queue::default()
        };
        if !is_whole {
            self.upstream.endpoints.iter().for_each(|(of_one, _)| of_one.set_limit(slots));
        }
        self.queue.configure(&config, self.now);
    }

    /// Receives the replies to those who wait.
    fn receive(&mut self) {
        let (mut index, mut granted) = (0, Vec::new());
        while index < self.waiting.len() {
            match self.waiting[index].2.reply.try_recv() {
                Ok(reply) => {
                    let (number, of, mut waiting) = self.waiting.remove(index);
                    waiting.has_reply = true;
                    match reply {
                        Ok(slot) => granted.push((number, of, slot)),
                        Err(NotServed::Full(_)) => {}
                        Err(NotServed::Nowhere) => {
                            assert!(
                                self.upstream
                                    .endpoints
                                    .iter()
                                    .any(|(_, lives)| !lives.load(Ordering::Relaxed))
                            );
                        }
                        Err(other) => panic!("{other:?}"),
                    }
                }
                Err(TryRecvError::Empty) => index += 1,
                Err(TryRecvError::Closed) => panic!("a request was forgotten"),
            }
        }
        // Several may be granted in one step.
        granted.sort_by_key(|(number, ..)| *number);
        granted.into_iter().for_each(|(number, of, slot)| self.note_served(number, of, slot));
    }

    fn note_served(&mut self, number: u64, of: (Priority, usize), slot: Slot) {
        let before = self.last_served.insert(of, number);
        assert!(before.is_none_or(|before| before < number), "{number} was passed by {before:?}");
        self.served.push((number, slot));
    }

    fn slots(&self) -> impl Iterator<Item = &Arc<Slots>> {
        let of_endpoints = self.upstream.endpoints.iter().map(|(slots, _)| slots);
        let of_endpoints = of_endpoints.filter(|_| self.upstream.whole.is_none());
        self.upstream.whole.iter().chain(of_endpoints)
    }

    fn taken(&self) -> u32 {
        self.slots().map(|slots| slots.taken()).sum()
    }

    fn check(&self) {
        assert_eq!(self.taken() as usize, self.served.len(), "each slot that is taken is a request's");
        let in_line: usize = self.queue.waiting().iter().map(|(_, count)| count).sum();
        assert_eq!(in_line, self.waiting.len());
        assert_eq!(self.queue.has_line.load(Ordering::SeqCst), in_line > 0);
        if in_line > 0 {
            let free = self.upstream.take(&[]);
            assert!(matches!(free, Free::Busy), "a free slot and one who waits are both left");
        }
    }

    /// Ends all requests.
    fn finish(mut self) -> (u64, usize) {
        let arrivals = self.arrivals;
        while let Some((_, slot)) = self.served.pop() {
            drop(slot);
            self.receive();
            self.check();
        }
        assert!(self.waiting.is_empty(), "all were served");
        let left = self.queue.waiting().iter().map(|(_, count)| count).sum::<usize>();
        (arrivals, left + self.taken() as usize)
    }
}

#[test]
fn a_million_random_steps_lose_no_slot_and_nobody_passes_an_earlier_request_of_his_own() {
    // Each run begins with an empty queue, and is long enough for long lines.
    let (runs, steps) = (100, 10_000);
    let config = Config { cases: runs, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&any::<(bool, u64)>(), |(by_endpoint, seed)| {
            let (mut simulation, mut chance) = (Simulation::new(by_endpoint), fastrand::Rng::with_seed(seed));
            (0..steps).for_each(|_| simulation.run(Step::random(&mut chance)));
            let (arrivals, left) = simulation.finish();
            prop_assert!(arrivals > 1000);
            prop_assert_eq!(left, 0);
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_queue_that_closes_refuses_all_who_wait_and_still_serves_whom_a_slot_is_free_for() {
    let mut simulation = Simulation::new(false);
    (0..10).for_each(|key| simulation.arrive(1, key, 1));
    simulation.receive();
    assert_eq!((simulation.served.len(), simulation.waiting.len()), (4, 6));
    simulation.queue.close();
    for (_, _, mut waiting) in simulation.waiting.drain(..) {
        assert_eq!(waiting.reply.try_recv().unwrap().unwrap_err(), NotServed::ShuttingDown);
    }
    let who = Who { class: Priority::Interactive, key: 1, weight: 1 };
    let late = simulation.queue.wait(simulation.upstream.clone(), who, Vec::new(), false, simulation.now);
    assert_eq!(late.unwrap_err(), NotServed::ShuttingDown);
    simulation.served.pop();
    assert!(simulation.queue.take_at_once(&*simulation.upstream, who).is_some());
}

#[test]
fn a_slot_that_was_granted_to_one_who_left_goes_to_the_next() {
    let mut simulation = Simulation::new(true);
    (0..6).for_each(|key| simulation.arrive(1, key, 1));
    simulation.receive();
    let first = simulation.waiting.remove(0);
    simulation.served.pop();
    // The first has its slot, and leaves before it looks.
    drop(first);
    simulation.receive();
    assert_eq!((simulation.served.len(), simulation.waiting.len(), simulation.taken()), (4, 0, 4));
}

#[test]
fn threads_that_take_and_give_back_at_once_leave_nobody_waiting() {
    let simulation = Simulation::new(false);
    let (queue, upstream) = (&simulation.queue, &simulation.upstream);
    std::thread::scope(|scope| {
        for key in 0..4 {
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                let who = Who { class: Priority::Standard, key, weight: 1 };
                for number in 0..5000 {
                    let slot = queue.take_at_once(&**upstream, who).unwrap_or_else(|| {
                        let waiting = queue.wait(upstream.clone(), who, Vec::new(), false, Instant::now());
                        runtime.block_on(waiting.unwrap()).unwrap()
                    });
                    let second = queue.take_at_once(&**upstream, who);
                    assert!(upstream.whole.as_ref().unwrap().taken() <= 4);
                    if number % 7 == 0 {
                        std::thread::yield_now();
                    }
                    drop((slot, second));
                }
            });
        }
    });
    assert_eq!((simulation.taken(), simulation.queue.waiting()[1].1), (0, 0));
}
