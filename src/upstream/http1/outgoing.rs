//! A request on its way: its head, and its body as it comes from the client.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::TRAILER;
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame};

use super::request_head::{self, RequestFraming};
use crate::upstream::request::{UpstreamHeaders, UpstreamRequest};
use crate::upstream::socket::Socket;
use crate::upstream::upload::{Upload, UploadAborted};

/// A request that is being written.
#[derive(Debug)]
pub(super) struct Outgoing {
    upload: Upload,
    framing: RequestFraming,
    /// The names of the trailers that the head declares. Others are left out.
    declared: Vec<HeaderName>,
    /// The head of the request. It stays until the answer has come, because the request may be sent again.
    head: Vec<u8>,
    head_written: usize,
    /// What is written behind the head, in this order: the line before a chunk, or the last chunk; data; and
    /// the line end behind a chunk.
    line: Bytes,
    data: Bytes,
    line_end: &'static [u8],
    /// Bytes of the declared length that did not come yet.
    rest: u64,
    /// Whether a part of the body was taken from the client, or its failure, so that the request can't be
    /// sent anew.
    has_begun: bool,
    body_has_ended: bool,
}

/// Why a request could not be written as a whole.
#[derive(Debug)]
pub(super) enum NotSent {
    /// Upstream takes no more. It may have answered nevertheless.
    Refused(io::Error),
    /// The body of the request has failed.
    Aborted(UploadAborted),
    /// The body has another length than it declares.
    WrongLength,
}

/// Returns the names in the `Trailer` headers of a request (RFC 9110, section 6.6.2).
fn declared_trailers(headers: &UpstreamHeaders) -> Vec<HeaderName> {
    let values = headers.iter().filter(|(name, _)| *name == TRAILER);
    let names = values.flat_map(|(_, value)| value.as_bytes().split(|byte| *byte == b','));
    names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()).collect()
}

impl Outgoing {
    /// `upload`: the body of `request`; `room`: for the head.
    pub(super) fn new(request: &UpstreamRequest, upload: Upload, mut room: Vec<u8>) -> Self {
        let framing = RequestFraming::of(&upload);
        room.clear();
        request_head::write(request, framing, &mut room);
        Outgoing {
            upload,
            framing,
            declared: match framing {
                RequestFraming::Chunked => declared_trailers(&request.headers),
                _ => Vec::new(),
            },
            head: room,
            head_written: 0,
            line: Bytes::new(),
            data: Bytes::new(),
            line_end: b"",
            rest: if let RequestFraming::Length(length) = framing { length } else { 0 },
            has_begun: false,
            body_has_ended: framing == RequestFraming::Empty,
        }
    }

    /// Gives the body of a request back that upstream does not take.
    pub(super) fn stop(&mut self) {
        self.has_begun = true;
        self.upload = Upload::empty();
    }

    /// Removes and returns the head, which was written.
    pub(super) fn take_head(&mut self) -> Vec<u8> {
        self.head_written = 0;
        std::mem::take(&mut self.head)
    }

    /// Returns the body, if nothing of it was taken.
    pub(super) fn into_untouched(self) -> Option<Upload> {
        (!self.has_begun).then_some(self.upload)
    }

    /// Writes as much as possible. Ready when the whole request was written.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, socket: &Socket) -> Poll<Result<(), NotSent>> {
        loop {
            let waits_for_client =
                !self.has_data() && !self.body_has_ended && self.poll_body(cx)?.is_pending();
            ready!(self.poll_write(cx, socket)).map_err(NotSent::Refused)?;
            if self.body_has_ended || waits_for_client {
                ready!(socket.poll_flush(cx)).map_err(NotSent::Refused)?;
                return if self.body_has_ended { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
        }
    }

    fn has_data(&self) -> bool {
        self.line.has_remaining() || self.data.has_remaining() || !self.line_end.is_empty()
    }

    /// Takes the next part of the body.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, NotSent> {
        match Pin::new(&mut self.upload).poll_frame(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Some(Err(aborted))) => {
                self.has_begun = true;
                return Err(NotSent::Aborted(aborted));
            }
            Poll::Ready(Some(Ok(frame))) => {
                self.has_begun = true;
                self.take(frame)?;
                if !self.body_has_ended && self.upload.is_end_stream() {
                    self.end(None)?;
                }
            }
            Poll::Ready(None) => {
                self.has_begun = true;
                self.end(None)?;
            }
        }
        Ok(Poll::Ready(()))
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Result<(), NotSent> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return self.end(frame.into_trailers().ok()),
        };
        // A chunk without data would end the body.
        if data.is_empty() {
            return Ok(());
        }
        if self.framing == RequestFraming::Chunked {
            self.line = format!("{:x}\r\n", data.len()).into();
            self.line_end = b"\r\n";
        } else {
            self.rest = self.rest.checked_sub(data.len() as u64).ok_or(NotSent::WrongLength)?;
        }
        self.data = data;
        Ok(())
    }

    /// Ends the body.
    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), NotSent> {
        if self.rest > 0 {
            return Err(NotSent::WrongLength);
        }
        self.body_has_ended = true;
        if self.framing == RequestFraming::Chunked {
            self.line_end = match self.line_end {
                // The end goes behind the last chunk in the same write.
                b"\r\n" if trailers.is_none() => b"\r\n0\r\n\r\n",
                _ => b"",
            };
            if self.line_end.is_empty() {
                let mut last = b"0\r\n".to_vec();
                let trailers = trailers.iter().flatten();
                for (name, value) in trailers.filter(|(name, _)| self.declared.contains(name)) {
                    request_head::field(&mut last, name.as_str().as_bytes(), value.as_bytes());
                }
                last.extend_from_slice(b"\r\n");
                self.line = last.into();
            }
        }
        Ok(())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, socket: &Socket) -> Poll<io::Result<()>> {
        loop {
            let head = self.head.get(self.head_written..).unwrap_or_default();
            let parts = [head, &self.line, &self.data, self.line_end].map(IoSlice::new);
            let all: usize = parts.iter().map(|part| part.len()).sum();
            if all == 0 {
                return Poll::Ready(Ok(()));
            }
            let written = match parts.iter().filter(|part| !part.is_empty()).count() {
                1 => {
                    socket.poll_write(cx, parts.iter().find(|part| !part.is_empty()).map_or(b"", |part| part))
                }
                _ => socket.poll_write_vectored(cx, &parts),
            };
            let written = ready!(written)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
    }

    fn advance(&mut self, mut written: usize) {
        let mut step = |length: usize| {
            let part = length.min(written);
            written -= part;
            part
        };
        self.head_written += step(self.head.len() - self.head_written);
        self.line.advance(step(self.line.len()));
        self.data.advance(step(self.data.len()));
        self.line_end = self.line_end.get(step(self.line_end.len())..).unwrap_or_default();
    }
}
