//! The demo's upstream: a model server with the part of the OpenAI API that the demo uses,
//! including streams.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{Interval, interval};

use crate::net::body::IncomingBody;
use crate::net::server;

const ANSWER: &str = "A bear, and it knows every key that may pass.";
const PAUSE: Duration = Duration::from_millis(150);

/// Starts the model server on a free port of 127.0.0.1, and returns its address.
pub(super) async fn start() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(server::serve(stream, answer));
        }
    });
    Ok(address)
}

async fn answer(request: Request<IncomingBody>) -> Response<Words> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    match (&parts.method, parts.uri.path()) {
        (&Method::GET, "/v1/models") => whole(
            json!({"object": "list", "data": [{"id": "demo", "object": "model", "owned_by": "bearward"}]}),
        ),
        (&Method::POST, "/v1/chat/completions") if body.get("stream") == Some(&Value::Bool(true)) => {
            streamed(&body)
        }
        (&Method::POST, "/v1/chat/completions") => whole(json!({
            "id": "chatcmpl-demo", "object": "chat.completion", "model": "demo",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": ANSWER}}],
            "usage": usage(&body),
        })),
        (&Method::POST, "/v1/files") => whole(json!({"id": "file-demo", "object": "file", "bytes": 0})),
        _ => {
            let mut response = whole(json!({"error": {"message": "the demo's model does not know this"}}));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    }
}

fn whole(body: Value) -> Response<Words> {
    typed(Words::all_at_once(vec![format!("{body}\n")]), "application/json")
}

/// Returns the usage of a request. A token of the demo's model is a word.
fn usage(body: &Value) -> Value {
    let words = |text: &str| text.split_whitespace().count();
    let messages = body.get("messages").and_then(Value::as_array).into_iter().flatten();
    let contents = messages.filter_map(|message| message.get("content")?.as_str());
    let (input, output) = (contents.map(words).sum::<usize>(), words(ANSWER));
    json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output})
}

fn streamed(body: &Value) -> Response<Words> {
    let chunk = |delta: Value| {
        let chunk = json!({
            "id": "chatcmpl-demo", "object": "chat.completion.chunk", "model": "demo",
            "choices": [{"index": 0, "delta": delta}],
        });
        format!("data: {chunk}\n\n")
    };
    let mut events: Vec<String> =
        ANSWER.split_inclusive(' ').map(|word| chunk(json!({"content": word}))).collect();
    if body.pointer("/stream_options/include_usage") == Some(&Value::Bool(true)) {
        let last = json!({
            "id": "chatcmpl-demo", "object": "chat.completion.chunk", "model": "demo",
            "choices": [], "usage": usage(body),
        });
        events.push(format!("data: {last}\n\n"));
    }
    events.push("data: [DONE]\n\n".to_owned());
    typed(Words::one_by_one(events), "text/event-stream")
}

fn typed(body: Words, content_type: &'static str) -> Response<Words> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

/// A response body that is sent in pieces, with or without a pause before each.
struct Words {
    pieces: std::vec::IntoIter<String>,
    pause: Option<Interval>,
}

impl Words {
    fn all_at_once(pieces: Vec<String>) -> Self {
        Words { pieces: pieces.into_iter(), pause: None }
    }

    fn one_by_one(pieces: Vec<String>) -> Self {
        Words { pieces: pieces.into_iter(), pause: Some(interval(PAUSE)) }
    }
}

impl Body for Words {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(pause) = &mut self.pause
            && pause.poll_tick(cx).is_pending()
        {
            return Poll::Pending;
        }
        Poll::Ready(self.pieces.next().map(|piece| Ok(Frame::data(Bytes::from(piece)))))
    }
}
