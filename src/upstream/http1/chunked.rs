//! The chunked transfer coding of an answer (RFC 9112, section 7.1).

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use super::head::{self, HeadSearch, Malformed};

/// Greatest length of all extensions of an answer's chunks together, and of its trailers, in bytes.
const MOST_EXTENSIONS: usize = 16 * 1024;
const MOST_TRAILERS: usize = 16 * 1024;

/// A decoder of chunks, and where it is.
#[derive(Debug)]
pub(super) struct Chunked {
    state: State,
    /// Bytes that the extensions of chunks may still have.
    extensions: usize,
}

#[derive(Debug)]
enum State {
    /// Within the size of a chunk, with the number of its digits so far.
    Size {
        size: u64,
        digits: u32,
    },
    /// Within the extensions behind a size.
    Extension {
        size: u64,
    },
    /// Behind the CR of the line with a size.
    SizeEnd {
        size: u64,
    },
    /// Within a chunk, with the rest of its length.
    Data {
        rest: u64,
    },
    /// Behind a chunk, with the part of its CR and LF that is missing.
    DataEnd {
        missing: &'static [u8],
    },
    Trailers(HeadSearch),
    Ended,
}

const SIZE: State = State::Size { size: 0, digits: 0 };

/// What was decoded.
#[derive(Debug, PartialEq)]
pub(super) enum Decoded {
    Data(Bytes),
    Trailers(HeaderMap),
    /// The body has ended.
    End,
    /// More has to be read first.
    Incomplete,
}

impl Default for Chunked {
    fn default() -> Self {
        Chunked { state: SIZE, extensions: MOST_EXTENSIONS }
    }
}

impl Chunked {
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Decodes the next chunk, or a part of it. Each chunk that was read is passed on by itself.
    ///
    /// # Errors
    ///
    /// The coding is broken, or ambiguous.
    pub(super) fn decode(&mut self, read: &mut BytesMut) -> Result<Decoded, Malformed> {
        self.advance(read)?;
        match &mut self.state {
            State::Data { rest } => {
                let length = read.len().min(usize::try_from(*rest).unwrap_or(usize::MAX));
                if length == 0 {
                    return Ok(Decoded::Incomplete);
                }
                let data = read.split_to(length).freeze();
                *rest -= length as u64;
                if *rest == 0 {
                    self.state = State::DataEnd { missing: b"\r\n" };
                }
                Ok(Decoded::Data(data))
            }
            State::Trailers(search) => {
                let Some(length) = search.end(read, MOST_TRAILERS)? else {
                    return Ok(Decoded::Incomplete);
                };
                let bytes = read.split_to(length);
                self.state = State::Ended;
                Ok(match length {
                    2 => Decoded::End,
                    _ => Decoded::Trailers(head::trailers(&bytes)?),
                })
            }
            State::Ended => Ok(Decoded::End),
            _ => Ok(Decoded::Incomplete),
        }
    }

    /// Goes on behind a chunk as far as nothing of the next one is passed on, so that the end of the body
    /// is seen with its last chunk.
    pub(super) fn look_ahead(&mut self, read: &mut BytesMut) -> Result<(), Malformed> {
        self.advance(read)?;
        if let State::Trailers(_) = self.state
            && read.starts_with(b"\r\n")
        {
            read.advance(2);
            self.state = State::Ended;
        }
        Ok(())
    }

    /// Reads what is between two chunks, as far as it has come.
    fn advance(&mut self, read: &mut BytesMut) -> Result<(), Malformed> {
        let mut length = 0;
        for byte in &**read {
            self.state = match self.state {
                State::Data { .. } | State::Trailers(_) | State::Ended => break,
                State::Size { size, digits } => match (*byte, hexadecimal(*byte)) {
                    // Sixteen digits are the largest number of 64 bits.
                    (_, Some(digit)) if digits < 16 => {
                        State::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
                    }
                    (b'\r', _) if digits > 0 => State::SizeEnd { size },
                    (b';', _) if digits > 0 => State::Extension { size },
                    _ => return Err(Malformed("the size of a chunk is not valid")),
                },
                State::Extension { size } => {
                    let left = self.extensions.checked_sub(1);
                    self.extensions = left.ok_or(Malformed("the extensions of chunks are too long"))?;
                    match byte {
                        b'\r' => State::SizeEnd { size },
                        b'\t' | b' '..=b'~' | 0x80.. => State::Extension { size },
                        _ => return Err(Malformed("the extension of a chunk is not valid")),
                    }
                }
                State::SizeEnd { size } => match (byte, size) {
                    (b'\n', 0) => State::Trailers(HeadSearch::default()),
                    (b'\n', rest) => State::Data { rest },
                    _ => return Err(Malformed("the size of a chunk is not valid")),
                },
                State::DataEnd { missing } => match missing {
                    [first, rest @ ..] if first == byte => match rest {
                        [] => SIZE,
                        missing => State::DataEnd { missing },
                    },
                    _ => return Err(Malformed("a chunk is longer than its size")),
                },
            };
            length += 1;
        }
        if length > 0 {
            read.advance(length);
        }
        Ok(())
    }
}

/// Returns the value of a hexadecimal digit.
fn hexadecimal(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes what comes in two pieces. Returns the data, whether there were trailers, and the rest.
    fn decoded(bytes: &[u8], cut: usize) -> Result<(Vec<u8>, usize, Vec<u8>), Malformed> {
        let (mut chunked, mut read) = (Chunked::default(), BytesMut::from(&bytes[..cut]));
        let (mut data, mut trailers, mut is_whole) = (Vec::new(), 0, false);
        loop {
            match chunked.decode(&mut read)? {
                Decoded::Data(part) => {
                    data.extend_from_slice(&part);
                    chunked.look_ahead(&mut read)?;
                }
                Decoded::Trailers(fields) => trailers = fields.len(),
                Decoded::End => {
                    let unread = if is_whole { &[] } else { &bytes[cut..] };
                    return Ok((data, trailers, [&read[..], unread].concat()));
                }
                Decoded::Incomplete if is_whole => return Err(Malformed("incomplete")),
                Decoded::Incomplete => {
                    read.extend_from_slice(&bytes[cut..]);
                    is_whole = true;
                }
            }
        }
    }

    #[test]
    fn chunks_may_come_in_any_pieces() {
        let body = b"5\r\nhello\r\n0006;a=\"b\"\r\n world\r\nA;x\r\n0123456789\r\n0\r\nx-a: b\r\n\r\nrest";
        for cut in 0..body.len() {
            let (data, trailers, rest) = decoded(body, cut).unwrap();
            assert_eq!(
                (&data[..], trailers, &rest[..]),
                (&b"hello world0123456789"[..], 1, &b"rest"[..]),
                "{cut}"
            );
        }
        let (data, trailers, rest) = decoded(b"1\r\na\r\n0\r\n\r\nHTTP", 3).unwrap();
        assert_eq!((&data[..], trailers, &rest[..]), (&b"a"[..], 0, &b"HTTP"[..]));
    }

    #[test]
    fn the_end_is_seen_with_the_last_chunk() {
        let (mut chunked, mut read) = (Chunked::default(), BytesMut::from(&b"1\r\na\r\n0\r\n\r\n"[..]));
        assert_eq!(chunked.decode(&mut read), Ok(Decoded::Data(Bytes::from_static(b"a"))));
        chunked.look_ahead(&mut read).unwrap();
        assert!(chunked.has_ended() && read.is_empty());
    }

    #[test]
    fn what_is_broken_or_ambiguous_is_refused() {
        let long = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(MOST_EXTENSIONS + 1));
        for body in [
            "\r\na\r\n0\r\n\r\n",
            "1\na\r\n0\r\n\r\n",
            "1\r\na\n0\r\n\r\n",
            "1\r\nab\r\n0\r\n\r\n",
            "g\r\na\r\n0\r\n\r\n",
            "+1\r\na\r\n0\r\n\r\n",
            "0x1\r\na\r\n0\r\n\r\n",
            " 1\r\na\r\n0\r\n\r\n",
            "1 \r\na\r\n0\r\n\r\n",
            "1_0\r\na\r\n0\r\n\r\n",
            "00000000000000001\r\na\r\n0\r\n\r\n",
            "1;a\nb\r\na\r\n0\r\n\r\n",
            "1;a\rb\r\na\r\n0\r\n\r\n",
            "1;a\0b\r\na\r\n0\r\n\r\n",
            "1\r\na\r\n0\r\n\n",
            "1\r\na\r\n0\r\nx\r\n\r\n",
            "1\r\na\r\n0\r\nx : y\r\n\r\n",
            "1\r\na\r\n0\r\n",
            &long,
        ] {
            for cut in [0, 1, body.len()] {
                assert!(decoded(body.as_bytes(), cut).is_err(), "{body:?}");
            }
        }
    }
}
