//! A client of HTTP/2 that sends any frames at all (RFC 9113, section 4; RFC 7541, section 6.2.2).

use super::{Raw, in_time};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header block of literal fields, byte for byte.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            integer(&mut bytes, text.len());
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}

/// A string's length: seven bits, and more where they are full (RFC 7541, section 5.1).
fn integer(bytes: &mut Vec<u8>, mut value: usize) {
    if value < 127 {
        bytes.push(u8::try_from(value).unwrap());
        return;
    }
    bytes.push(127);
    value -= 127;
    while value >= 128 {
        bytes.push(u8::try_from(value % 128).unwrap() | 128);
        value /= 128;
    }
    bytes.push(u8::try_from(value).unwrap());
}

/// The fields of a request, and more of them.
pub fn request<'a>(path: &'a str, token: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut fields =
        vec![(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "a.example")];
    if !token.is_empty() {
        fields.push(("x-api-key", token));
    }
    fields.extend_from_slice(more);
    fields
}

pub fn headers(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, stream, &block(fields))
}

/// A connection that has said its preface and its settings.
pub struct Frames {
    pub raw: Raw,
}

impl Frames {
    pub async fn over(mut raw: Raw, settings: &[(u16, u32)]) -> Self {
        let entries: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        raw.send([PREFACE, &frame(SETTINGS, 0, 0, &entries)].concat()).await;
        Frames { raw }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.raw.send(bytes).await;
    }

    /// The next frame; `None` where the connection ended. Settings are acknowledged on the way.
    pub async fn next(&mut self) -> Option<Frame> {
        in_time("a frame", async {
            let header = self.raw.bytes(9).await?;
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
            let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
            let payload = self.raw.bytes(usize::try_from(length).unwrap()).await?;
            let frame = Frame { kind: header[3], flags: header[4], stream, payload };
            if frame.kind == SETTINGS && frame.flags & ACK == 0 {
                self.raw.send(self::frame(SETTINGS, ACK, 0, &[])).await;
            }
            Some(frame)
        })
        .await
    }

    /// The next frame of this kind on this stream; `None` where the connection ended before.
    pub async fn until(&mut self, kind: u8, stream: u32) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if (frame.kind, frame.stream) == (kind, stream) {
                return Some(frame);
            }
        }
    }

    /// How a stream ended: with its end, reset by an error code, or `None` with the whole connection.
    pub async fn end_of(&mut self, stream: u32) -> Option<End> {
        loop {
            let frame = self.next().await?;
            match (frame.kind, frame.stream == stream) {
                (RST_STREAM, true) => return Some(End::Reset),
                (DATA | HEADERS, true) if frame.flags & END_STREAM != 0 => return Some(End::Clean),
                _ => {}
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Clean,
    Reset,
}
