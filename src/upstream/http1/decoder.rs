//! The body of an answer, in each of its framings (RFC 9112, section 6.3).

use bytes::BytesMut;
use http_body::SizeHint;

use super::chunked::{Chunked, Decoded};
use super::head::{AnswerFraming, Malformed};

/// A decoder of a body, and where it is.
#[derive(Debug)]
pub(super) enum Decoder {
    /// The rest of the length, in bytes.
    Length(u64),
    Chunked(Chunked),
    /// The body ends with the connection.
    UntilClose,
    Ended,
    /// What is behind the data that was decoded is not framed as it should be.
    Broken(Malformed),
}

impl Decoder {
    pub(super) fn new(framing: AnswerFraming) -> Self {
        match framing {
            AnswerFraming::Length(0) | AnswerFraming::Tunnel => Decoder::Ended,
            AnswerFraming::Length(length) => Decoder::Length(length),
            AnswerFraming::Chunked => Decoder::Chunked(Chunked::default()),
            AnswerFraming::UntilClose => Decoder::UntilClose,
        }
    }

    /// Decodes what was read.
    ///
    /// # Errors
    ///
    /// The body is not framed as its head says.
    pub(super) fn decode(&mut self, read: &mut BytesMut) -> Result<Decoded, Malformed> {
        let decoded = match self {
            Decoder::Ended => return Ok(Decoded::End),
            Decoder::Broken(malformed) => return Err(*malformed),
            Decoder::Chunked(chunked) => {
                let decoded = chunked.decode(read)?;
                if let Err(malformed) = chunked.look_ahead(read) {
                    *self = Decoder::Broken(malformed);
                }
                decoded
            }
            Decoder::Length(_) | Decoder::UntilClose if read.is_empty() => return Ok(Decoded::Incomplete),
            Decoder::Length(rest) => {
                let length = read.len().min(usize::try_from(*rest).unwrap_or(usize::MAX));
                *rest -= length as u64;
                Decoded::Data(read.split_to(length).freeze())
            }
            Decoder::UntilClose => Decoded::Data(read.split().freeze()),
        };
        let has_ended = match self {
            Decoder::Length(rest) => *rest == 0,
            Decoder::Chunked(chunked) => chunked.has_ended(),
            Decoder::UntilClose | Decoder::Ended | Decoder::Broken(_) => false,
        };
        if has_ended {
            *self = Decoder::Ended;
        }
        Ok(decoded)
    }

    /// Notes that the connection has ended. Returns whether the body has ended with it.
    pub(super) fn closed(&mut self) -> bool {
        let is_end = matches!(self, Decoder::UntilClose | Decoder::Ended);
        if is_end {
            *self = Decoder::Ended;
        }
        is_end
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self, Decoder::Ended)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Decoder::Length(rest) => SizeHint::with_exact(*rest),
            Decoder::Ended => SizeHint::with_exact(0),
            Decoder::Chunked(_) | Decoder::UntilClose | Decoder::Broken(_) => SizeHint::default(),
        }
    }
}
