//! The tokens of an answer, as its body passes.

use bytes::Bytes;
use http::response::Parts;
use http_body::Frame;

use crate::tap::BodyEnd;
use crate::tokens::{Charges, TokenAccount, TokenTap};

/// What a request is charged until an answer has come.
#[derive(Debug, Default)]
pub(crate) struct RequestTokens {
    /// The account of the request's tokens; `None` if it uses none.
    pub(crate) account: Option<Box<TokenAccount>>,
    /// The charges that are taken back if the request is not sent; `None` if the account has them, or if the
    /// request did not have to wait.
    pub(crate) charges: Option<Box<Charges>>,
}

impl RequestTokens {
    /// Notes that the request may have reached the upstream.
    pub(super) fn sent(&mut self) {
        if let Some(charges) = self.charges.take() {
            charges.keep();
        }
        if let Some(account) = &mut self.account {
            account.sent();
        }
    }

    /// Settles a request that got no answer: it used nothing.
    pub(super) fn failed(&mut self) {
        if let Some(account) = &mut self.account {
            account.failed();
        }
    }

    /// Begins to observe the answer with this head.
    pub(super) fn answered(self, head: &mut Parts) -> AnswerTokens {
        AnswerTokens(self.account.map(|account| Box::new(account.answered(head.status, &mut head.headers))))
    }
}

/// Observes the tokens of an answer; empty if its request uses none.
#[derive(Debug)]
pub(super) struct AnswerTokens(Option<Box<TokenTap>>);

impl AnswerTokens {
    /// Observes a frame, and returns what is forwarded of it. `is_last`: whether the body ends with
    /// the frame.
    pub(super) fn observe(&mut self, frame: Frame<Bytes>, is_last: bool) -> Frame<Bytes> {
        let Some(tokens) = &mut self.0 else { return frame };
        match frame.into_data() {
            Ok(data) => {
                let kept = tokens.take(data);
                if is_last {
                    Frame::data(joined(kept, self.ended(BodyEnd::Complete)))
                } else {
                    Frame::data(kept)
                }
            }
            Err(trailers) => trailers,
        }
    }

    /// Settles the tokens of the answer. Returns the bytes that were held back.
    pub(super) fn ended(&mut self, end: BodyEnd) -> Bytes {
        self.0.as_mut().map(|tokens| tokens.ended(end)).unwrap_or_default()
    }

    /// Whether bytes may be removed from the body.
    pub(super) fn changes_body(&self) -> bool {
        self.0.as_ref().is_some_and(|tokens| tokens.changes_body())
    }

    /// Whether the beginning of an event is held back.
    pub(super) fn holds_bytes(&self) -> bool {
        self.0.as_ref().is_some_and(|tokens| tokens.holds_bytes())
    }
}

fn joined(first: Bytes, second: Bytes) -> Bytes {
    if second.is_empty() { first } else { [first, second].concat().into() }
}
