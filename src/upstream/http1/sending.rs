//! The sending of a request, up to the head of its answer.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Method;
use http::response::Parts;

use super::body::Http1Body;
use super::connection::{Http1, Tunnelled};
use super::decoder::Decoder;
use super::head::{self, AnswerFraming, Head};
use super::outgoing::{NotSent, Outgoing};
use crate::upstream::failure::{Failure, Unanswered};
use crate::upstream::request::UpstreamRequest;
use crate::upstream::upload::Upload;

impl Http1 {
    /// Sends a request, and reads the head of its answer. Upstream may answer before it has read the whole
    /// request; a task then sends the rest. `is_repeatable`: whether the request may be sent again if
    /// upstream closes the connection without an answer.
    pub(in crate::upstream) async fn send(
        self: &Arc<Self>,
        mut request: Box<UpstreamRequest>,
        is_repeatable: bool,
    ) -> Result<(Parts, Http1Body), Unanswered> {
        let written_before = self.socket.written();
        self.socket.expect_head();
        let upload = std::mem::replace(&mut request.upload, Upload::empty());
        let mut outgoing = Outgoing::new(&request, upload, self.wire().begin());
        let (mut is_sent, mut refusal) = (false, None);
        let answered = poll_fn(|cx| {
            if !is_sent && refusal.is_none() {
                match outgoing.poll_send(cx, &self.socket) {
                    Poll::Ready(Ok(())) => is_sent = true,
                    // Upstream may have answered before it closed its side.
                    Poll::Ready(Err(NotSent::Refused(error))) => {
                        self.refused(&error);
                        if self.socket.written() > written_before {
                            outgoing.stop();
                        }
                        refusal = Some(error);
                    }
                    Poll::Ready(Err(NotSent::Aborted(aborted))) => {
                        return Poll::Ready(Err(Failure::of_request(aborted.into())));
                    }
                    Poll::Ready(Err(NotSent::WrongLength)) => {
                        let error = io::Error::new(io::ErrorKind::InvalidData, "the body has another length");
                        return Poll::Ready(Err(Failure::of_request(error.into())));
                    }
                    Poll::Pending => {}
                }
            }
            self.poll_head(cx, request.method == Method::HEAD)
        });
        match answered.await {
            Ok(head) => Ok(self.answered(head, outgoing, is_sent, refusal.is_some())),
            Err(failure) => {
                let nothing_written = self.socket.written() == written_before;
                if !nothing_written && is_repeatable && self.socket.is_silent() {
                    self.wire().unanswered = Some(outgoing.take_head());
                }
                Err(unanswered(failure, refusal, request, outgoing, nothing_written))
            }
        }
    }

    fn poll_head(&self, cx: &mut Context<'_>, is_head: bool) -> Poll<Result<Head, Failure>> {
        let mut wire = self.wire();
        loop {
            let wire = &mut *wire;
            if let Some(head) =
                head::take(&mut wire.read, &mut wire.search, is_head).map_err(Failure::from)?
            {
                return Poll::Ready(Ok(head));
            }
            match ready!(wire.poll_read(cx, &self.socket)) {
                Ok(0) => {
                    return Poll::Ready(Err(Failure::ended(
                        "upstream closed the connection without an answer",
                    )));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Returns the answer, whose body may still be arriving.
    fn answered(
        self: &Arc<Self>,
        head: Head,
        mut outgoing: Outgoing,
        is_sent: bool,
        is_refused: bool,
    ) -> (Parts, Http1Body) {
        self.socket.head_received();
        let Head { mut parts, framing, persists } = head;
        if framing == AnswerFraming::Tunnel {
            parts.extensions.insert(Tunnelled(self.clone()));
        }
        {
            let mut wire = self.wire();
            (wire.persists, wire.request_has_ended) = (persists, is_sent);
            if is_sent {
                wire.room = outgoing.take_head();
            }
        }
        // A connection whose request was refused or cut short is not used again.
        if !is_sent && !is_refused {
            tokio::spawn(send_rest(self.clone(), outgoing));
        }
        let body = Http1Body::new(self.clone(), Decoder::new(framing), is_sent);
        (parts, body)
    }
}

/// Sends the rest of a request while its answer is read, so that a client that reads nothing before it has
/// sent everything does not wait for ever.
async fn send_rest(connection: Arc<Http1>, mut outgoing: Outgoing) {
    let sent = poll_fn(|cx| {
        connection.sender.register(cx.waker());
        if connection.is_abandoned() {
            return Poll::Ready(Err(NotSent::Refused(io::ErrorKind::ConnectionAborted.into())));
        }
        outgoing.poll_send(cx, &connection.socket)
    });
    match sent.await {
        Ok(()) => connection.wire().request_has_ended = true,
        // The answer may be complete nevertheless.
        Err(NotSent::Refused(error)) => connection.refused(&error),
        Err(NotSent::Aborted(_) | NotSent::WrongLength) => connection.cut(),
    }
}

fn unanswered(
    failure: Failure,
    refusal: Option<io::Error>,
    mut request: Box<UpstreamRequest>,
    outgoing: Outgoing,
    nothing_written: bool,
) -> Unanswered {
    let upload = outgoing.into_untouched().filter(|_| nothing_written);
    let unsent = upload.map(|upload| {
        request.upload = upload;
        request
    });
    // What kept the request from being sent says more than that there was no answer.
    let failure = refusal.filter(|_| failure.was_closed()).map_or(failure, Failure::from);
    Unanswered { failure, unsent }
}
