//! Fuzzes the reading of answers of upstreams (HTTP/1.1), against hyper's client.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::upstream::{Reading, listed};

/// Reads the bytes as an answer, as a whole and in pieces, and lets hyper read them.
///
/// The first byte says whether the request was a HEAD, and the length of the pieces. Whatever the pieces,
/// the answer is the same. An answer that both accept is the same for both.
pub fn answer(bytes: &[u8]) {
    let Some((&first, bytes)) = bytes.split_first() else { return };
    let (is_head, piece) = (first & 1 == 1, usize::from(first >> 1).max(1));
    let ours = Reading::of(bytes, is_head, piece);
    assert_eq!(ours, Reading::of(bytes, is_head, bytes.len().max(1)));
    let Some(ours) = ours else { return };
    // hyper has no end of an answer that becomes a tunnel.
    if ours.status == 101 {
        return;
    }
    if let Some(theirs) = by_hyper(bytes, is_head, piece) {
        assert_eq!(Reading { behind: None, ..ours }, theirs);
    }
}

/// Reads one answer, and writes what was read of it as a line of JSON: for comparisons with other programs.
/// The input is that of [`answer`].
pub fn answer_as_json(bytes: &[u8]) -> String {
    let Some((&first, bytes)) = bytes.split_first() else { return "null".to_owned() };
    let reading = Reading::of(bytes, first & 1 == 1, usize::from(first >> 1).max(1));
    let shown = reading.map(|Reading { status, fields, body, trailers, behind }| {
        // Latin 1 shows each byte as one character.
        let latin = |bytes: &[u8]| bytes.iter().map(|byte| char::from(*byte)).collect::<String>();
        let sorted = |fields: Vec<(String, Vec<u8>)>| {
            let mut fields: Vec<_> =
                fields.into_iter().map(|(name, value)| (name, latin(&value))).collect();
            fields.sort();
            fields
        };
        serde_json::json!({
            "status": status, "fields": sorted(fields), "body": latin(&body), "trailers": sorted(trailers), "behind": behind,
        })
    });
    serde_json::to_string(&shown).expect("these are values of JSON")
}

/// A connection that sends bytes in pieces when something was written to it, and then ends.
struct Scripted {
    unread: Vec<u8>,
    piece: usize,
    has_request: bool,
    reader: Option<Waker>,
}

impl AsyncRead for Scripted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.has_request {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let length = self.piece.min(self.unread.len()).min(buf.remaining());
        let piece: Vec<u8> = self.unread.drain(..length).collect();
        buf.put_slice(&piece);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Scripted {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.has_request = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

thread_local! {
    static RUNTIME: RefCell<tokio::runtime::Runtime> =
        RefCell::new(tokio::runtime::Builder::new_current_thread().build().expect("a runtime"));
}

/// Lets hyper read an answer. Returns `None` if hyper refuses it.
fn by_hyper(bytes: &[u8], is_head: bool, piece: usize) -> Option<Reading> {
    let connection = Scripted { unread: bytes.to_vec(), piece, has_request: false, reader: None };
    let reading = async {
        let (mut sender, driver) = http1::handshake(TokioIo::new(connection)).await.ok()?;
        let driver = tokio::spawn(driver);
        let method = if is_head { "HEAD" } else { "GET" };
        let request = Request::builder().method(method).uri("/").header("host", "a");
        let answer = sender.send_request(request.body(Empty::<&[u8]>::new()).ok()?).await.ok()?;
        let (head, body) = answer.into_parts();
        let collected = body.collect().await.ok()?;
        let trailers = collected.trailers().map(listed).unwrap_or_default();
        driver.abort();
        Some(Reading {
            status: head.status.as_u16(),
            fields: listed(&head.headers),
            body: collected.to_bytes().to_vec(),
            trailers,
            behind: None,
        })
    };
    RUNTIME.with_borrow(|runtime| runtime.block_on(reading))
}
