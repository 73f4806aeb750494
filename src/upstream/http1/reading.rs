//! Answers as they are read of given bytes, for fuzzers.

use bytes::{Buf, BytesMut};

use super::chunked::Decoded;
use super::decoder::Decoder;
use super::head::{self, HeadSearch};

/// The names and values of header fields.
type Fields = Vec<(String, Vec<u8>)>;

/// A complete answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) status: u16,
    pub(crate) fields: Fields,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Fields,
    /// The number of bytes behind the answer, if the connection may serve another request.
    pub(crate) behind: Option<usize>,
}

impl Reading {
    /// Reads an answer of a connection that sends these bytes in pieces, and then ends. Returns `None` if
    /// the answer is refused or incomplete. `is_head`: whether the request was a HEAD.
    pub(crate) fn of(bytes: &[u8], is_head: bool, piece: usize) -> Option<Self> {
        let (mut read, mut unread) = (BytesMut::new(), bytes);
        let mut more = |read: &mut BytesMut| {
            let length = piece.min(unread.len());
            read.extend_from_slice(unread.get(..length).unwrap_or_default());
            unread.advance(length);
            length > 0
        };
        let mut search = HeadSearch::default();
        let head = loop {
            if let Some(head) = head::take(&mut read, &mut search, is_head).ok()? {
                break head;
            }
            more(&mut read).then_some(())?;
        };
        let (mut body, mut trailers, mut decoder) = (Vec::new(), Fields::new(), Decoder::new(head.framing));
        while !decoder.has_ended() {
            match decoder.decode(&mut read).ok()? {
                Decoded::Data(data) => body.extend_from_slice(&data),
                Decoded::Trailers(fields) => trailers = listed(&fields),
                Decoded::End => break,
                Decoded::Incomplete => {
                    let is_complete = more(&mut read) || decoder.closed();
                    is_complete.then_some(())?;
                }
            }
        }
        let behind = head.persists.then_some(read.len() + unread.len());
        let (status, fields) = (head.parts.status.as_u16(), listed(&head.parts.headers));
        Some(Reading { status, fields, body, trailers, behind })
    }
}

/// Lists header fields, those of one name together.
pub(crate) fn listed(fields: &http::HeaderMap) -> Fields {
    fields.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
}
