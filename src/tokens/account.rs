//! The account of one request: the tokens that it reserved, and what it used in the end.
//!
//! Invariant: an account is settled exactly once, however its request ends.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};
use smallvec::SmallVec;

use super::answer::{AnswerScan, Shown};
use super::counts::Counts;
use super::estimate::{Estimate, InputSize, saturated};
use super::events::Removal;
use super::learned::Learned;
use crate::limit::{Cost, Debit, Limiter};
use crate::tap::BodyEnd;
use crate::token_report::{TokenReport, Tokens, TokensBy};

/// The charge of a request's windows that count tokens.
#[derive(Debug)]
pub(crate) struct Reservation {
    pub(crate) debits: SmallVec<[Debit; 2]>,
    pub(crate) cost: Cost,
}

/// The charges of a request whose tokens nobody counts, until the request is sent to upstream. Dropping them
/// takes them back.
pub(crate) struct Charges {
    limiter: Arc<Limiter>,
    reservation: Option<Box<Reservation>>,
}

impl Charges {
    pub(crate) fn new(limiter: &Arc<Limiter>, reservation: Box<Reservation>) -> Self {
        Charges { limiter: limiter.clone(), reservation: Some(reservation) }
    }

    /// Keeps the charges: the request is sent.
    pub(crate) fn keep(mut self) {
        self.settle(Cost::REQUEST);
    }

    /// Keeps what was reserved: nobody will tell what the request uses.
    pub(crate) fn keep_as_reserved(mut self) {
        if let Some(reservation) = &self.reservation {
            self.settle(reservation.cost);
        }
    }

    fn settle(&mut self, used: Cost) {
        if let Some(reservation) = self.reservation.take() {
            self.limiter.settle(&reservation.debits, reservation.cost, used);
        }
    }
}

impl Drop for Charges {
    fn drop(&mut self) {
        self.settle(Cost::NOTHING);
    }
}

impl fmt::Debug for Charges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Charges").field("reservation", &self.reservation).finish_non_exhaustive()
    }
}

/// The account of one request.
pub(crate) struct TokenAccount {
    limiter: Arc<Limiter>,
    learned: Arc<Learned>,
    reservation: Option<Box<Reservation>>,
    estimate: Estimate,
    size: InputSize,
    /// Whether the request asks for several answers. A server may report the tokens of one of them.
    has_several: bool,
    /// The name under which the model's answers are remembered.
    model: String,
    report: Arc<TokenReport>,
    removal: Removal,
    /// Bytes of the input that passed beyond the estimate; `None` if the estimate includes all.
    more_input: Option<Arc<AtomicU64>>,
    is_sent: bool,
    is_settled: bool,
}

impl TokenAccount {
    pub(crate) fn new(
        limiter: &Arc<Limiter>,
        learned: &Arc<Learned>,
        reservation: Option<Box<Reservation>>,
        (estimate, size): (Estimate, InputSize),
        has_several: bool,
        model: String,
    ) -> Self {
        TokenAccount {
            limiter: limiter.clone(),
            learned: learned.clone(),
            reservation,
            estimate,
            size,
            has_several,
            model,
            report: Arc::default(),
            removal: Removal::Nothing,
            more_input: None,
            is_sent: false,
            is_settled: false,
        }
    }

    /// Returns the place where the tokens of the request will be reported.
    pub(crate) fn report(&self) -> Arc<TokenReport> {
        self.report.clone()
    }

    /// Notes that the upstream is asked for the usage of a stream. `strips_null`: whether `"usage":
    /// null` is removed from the answer, too.
    pub(crate) fn asked(&mut self, strips_null: bool) {
        self.removal = if strips_null { Removal::ChunkAndNulls } else { Removal::Chunk };
    }

    /// Adds bytes to the input that pass while the body is forwarded.
    pub(crate) fn counts_more_input(&mut self, bytes: Arc<AtomicU64>) {
        self.more_input = Some(bytes);
    }

    /// Returns the estimated tokens of the input, with all bytes that have passed.
    fn estimated_input(&self) -> u64 {
        let more = self.more_input.as_ref().map_or(0, |bytes| bytes.load(Ordering::Relaxed));
        let more = (more as f64 * self.learned.ratio(&self.model)).ceil() as u64;
        u64::from(self.estimate.input).saturating_add(more)
    }

    /// Notes that the request may have reached the upstream.
    pub(crate) fn sent(&mut self) {
        self.is_sent = true;
    }

    /// Settles a request that failed before the first byte of an answer: it used nothing.
    pub(crate) fn failed(&mut self) {
        self.settle(None);
    }

    /// Begins to observe the body of the answer. If bytes will be removed from the body, removes its
    /// length from `headers`.
    pub(crate) fn answered(self, status: StatusCode, headers: &mut HeaderMap) -> TokenTap {
        let counts_of = |name: &str| headers.get(name)?.to_str().ok()?.parse().ok();
        // TGI reports the counts of an answer that is no stream in its headers, too.
        let in_headers = Counts {
            input: counts_of("x-prompt-tokens"),
            cached: None,
            output: counts_of("x-generated-tokens"),
        };
        let scan = AnswerScan::new(headers, self.removal);
        if scan.changes_body() {
            headers.remove(CONTENT_LENGTH);
        }
        TokenTap { is_success: status.is_success(), in_headers, scan, account: self }
    }

    /// Settles the request. `used`: the tokens that it used; `None` if it used none.
    fn settle(&mut self, used: Option<Tokens>) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        if let Some(reservation) = &self.reservation {
            let Reservation { debits, cost } = &**reservation;
            let of_request = if self.is_sent { Cost::REQUEST } else { Cost::NOTHING };
            let used = Cost {
                input_tokens: used.map_or(0, |tokens| saturated(tokens.input)),
                output_tokens: used.map_or(0, |tokens| saturated(tokens.output)),
                ..of_request
            };
            self.limiter.settle(debits, *cost, used);
        }
        if let Some(tokens) = used {
            self.report.set(tokens);
        }
    }

    /// Returns what an answer used that has shown `shown`.
    fn used(&self, shown: Shown, end: BodyEnd, is_success: bool) -> Option<Tokens> {
        let Shown { counts, content_events, has_content_behind, has_last_event } = shown;
        let is_reported = !counts.is_empty();
        if !is_success && !is_reported {
            return None;
        }
        let input = counts.input.unwrap_or_else(|| self.estimated_input());
        // SDKs close the connection behind the last event.
        let is_whole = end == BodyEnd::Complete || has_last_event;
        let counted = content_events.unwrap_or(0);
        let (output, by) = match (is_reported, is_whole) {
            // An answer without output, such as an embedding, reports its input alone.
            (true, true) if self.has_several => (counts.output.unwrap_or(0).max(counted), TokensBy::Reported),
            // A usage that is not the last word of a stream, or that lacks the output.
            (true, true) if counted > 0 && (has_content_behind || counts.output.is_none()) => {
                (counts.output.unwrap_or(0).max(counted), TokensBy::Counted)
            }
            (true, true) => (counts.output.unwrap_or(0), TokensBy::Reported),
            (true, false) => (counts.output.unwrap_or(0).max(counted), TokensBy::Counted),
            (false, true) if counted == 0 => (u64::from(self.estimate.output), TokensBy::Estimated),
            (false, false) if content_events.is_none() => {
                (u64::from(self.estimate.output), TokensBy::Estimated)
            }
            (false, _) => (counted, TokensBy::Counted),
        };
        Some(Tokens { input, cached: counts.cached, output, by })
    }

    /// Learns from an answer that was reported completely.
    fn learn(&self, tokens: &Tokens, counts: Counts) {
        if let (TokensBy::Reported, Some(input)) = (tokens.by, counts.input) {
            let is_text = self.size.media == 0 && self.size.token_ids == 0 && self.size.is_whole;
            let text_bytes = is_text.then_some(self.size.text_bytes);
            self.learned.learn(&self.model, text_bytes, input, tokens.output);
        }
    }
}

impl Drop for TokenAccount {
    fn drop(&mut self) {
        // The client left before an answer came. The upstream has read the input.
        let input = self.estimated_input();
        let used = Tokens { input, cached: None, output: 0, by: TokensBy::Estimated };
        self.settle(self.is_sent.then_some(used));
    }
}

impl fmt::Debug for TokenAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenAccount").field("estimate", &self.estimate).finish_non_exhaustive()
    }
}

/// Observes the body of an answer, and settles the account when the body has ended.
pub(crate) struct TokenTap {
    account: TokenAccount,
    scan: AnswerScan,
    is_success: bool,
    in_headers: Counts,
}

impl TokenTap {
    /// Scans data of the answer, and returns what is forwarded of it.
    pub(crate) fn take(&mut self, data: Bytes) -> Bytes {
        self.scan.take(data)
    }

    /// Whether bytes may be removed from the body.
    pub(crate) fn changes_body(&self) -> bool {
        self.scan.changes_body()
    }

    /// Whether the beginning of an event is held back.
    pub(crate) fn holds_bytes(&self) -> bool {
        self.scan.holds_bytes()
    }

    /// Ends the body, and settles the account. Returns the bytes that were held back.
    pub(crate) fn ended(&mut self, end: BodyEnd) -> Bytes {
        if self.account.is_settled {
            return Bytes::new();
        }
        let rest = self.scan.finish();
        let mut shown = self.scan.shown();
        let mut counts = self.in_headers;
        counts.update(shown.counts);
        shown.counts = counts;
        let used = self.account.used(shown, end, self.is_success);
        if let Some(tokens) = &used {
            self.account.learn(tokens, counts);
        }
        self.account.settle(used);
        rest
    }
}

impl Drop for TokenTap {
    fn drop(&mut self) {
        self.ended(BodyEnd::Dropped);
    }
}

impl fmt::Debug for TokenTap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenTap").field("account", &self.account).finish_non_exhaustive()
    }
}
