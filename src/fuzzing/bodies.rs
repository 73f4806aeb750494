//! Fuzzes the scan of request bodies, against serde_json, and the scan of answers for their usage,
//! against a reader of whole streams.

use bytes::Bytes;
use http::HeaderMap;
use serde_json::Value;

use crate::model::{BodyKind, BodyScan, Named};
use crate::tokens::scanned;

/// Scans the bytes as a request's JSON body, as a whole and in pieces.
///
/// The first byte is the length of the pieces. A body that the scan accepts is JSON for serde_json,
/// too, and names the same model.
pub fn body(bytes: &[u8]) {
    let Some((&size, body)) = bytes.split_first() else { return };
    let whole = scan(body, body.len().max(1));
    let pieces = scan(body, usize::from(size).max(1));
    assert_eq!((whole.is_faulty(), whole.named()), (pieces.is_faulty(), pieces.named()));
    let (one, other) = (whole.declared(), pieces.declared());
    assert_eq!((&one.outputs, one.multiplier()), (&other.outputs, other.multiplier()));
    if whole.is_faulty() {
        return;
    }
    assert_eq!(
        (one.text_bytes(), one.media, one.token_ids()),
        (other.text_bytes(), other.media, other.token_ids())
    );
    // serde_json refuses numbers beyond a double, and halves of surrogate pairs.
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        let text = std::str::from_utf8(body).expect("an accepted body is UTF-8");
        assert!(text.contains("\\u") || text.contains(['e', 'E']) || text.len() > 300, "{text}");
        return;
    };
    let named = value.as_object().and_then(|members| members.get("model"));
    match whole.named() {
        Named::Model(name) => assert_eq!(named.and_then(Value::as_str), Some(name.as_str())),
        Named::Absent => assert_eq!(named, None),
        Named::Ambiguous => {}
    }
    for output in &whole.declared().outputs {
        let written = &body[output.from as usize..output.to as usize];
        assert!(written.is_empty() || serde_json::from_slice::<Value>(written).is_ok(), "{output:?}");
    }
}

fn scan(body: &[u8], size: usize) -> BodyScan {
    let mut scan = BodyScan::new(BodyKind::Json, &HeaderMap::new());
    body.chunks(size).for_each(|piece| scan.push(piece));
    scan.finish();
    scan
}

/// Scans the bytes as a stream of server-sent events, as a whole and in pieces.
///
/// The first byte is the length of the pieces. Both scans find the same usage, forward the same
/// bytes, and a reader of the whole stream finds the same usage. Without a removal, all bytes are
/// forwarded unchanged.
pub fn usage(bytes: &[u8]) {
    let Some((&size, stream)) = bytes.split_first() else { return };
    let pieces = |size: usize| stream.chunks(size).map(Bytes::copy_from_slice).collect::<Vec<_>>();
    let (kept, counts) = scanned(pieces(usize::from(size).max(1)), false);
    assert_eq!(kept, stream, "nothing is removed");
    let (whole, of_whole) = scanned(pieces(stream.len().max(1)), true);
    let (in_pieces, of_pieces) = scanned(pieces(usize::from(size).max(1)), true);
    assert_eq!(whole, in_pieces, "the pieces of a stream do not matter");
    assert_eq!(of_whole, of_pieces);
    assert_eq!(counts.input_and_output(), of_whole.input_and_output());
    // The reader of whole streams knows only line feeds and the usage at the top of events.
    if !stream.contains(&b'\r') && stream.len() < 60_000 {
        let read = read_whole(stream);
        if read.is_certain {
            assert_eq!(counts.input_and_output(), (read.input, read.output));
        }
    }
}

#[derive(Default)]
struct Read {
    input: Option<u64>,
    output: Option<u64>,
    /// Whether each event with a count is one JSON object that has nothing but OpenAI's usage.
    is_certain: bool,
}

fn read_whole(stream: &[u8]) -> Read {
    let mut read = Read { is_certain: true, ..Read::default() };
    let Ok(text) = std::str::from_utf8(stream) else { return Read::default() };
    for event in text.split("\n\n") {
        let data: Vec<&str> = event.split('\n').filter_map(|line| line.strip_prefix("data:")).collect();
        let data = data.join("\n");
        let has_count = ["usage", "timings", "eval_count", "meta_info", "details", "tokens_"];
        if !has_count.iter().any(|word| data.contains(word)) {
            continue;
        }
        let value = serde_json::from_str::<Value>(&data);
        let usage = value.as_ref().ok().and_then(|value| value.get("usage")?.as_object().cloned());
        let (Ok(Value::Object(members)), Some(usage)) = (&value, usage) else { return Read::default() };
        let is_plain = members.keys().all(|name| matches!(name.as_str(), "usage" | "choices" | "id"))
            && data.matches("\"usage\"").count() == 1
            && usage.keys().all(|name| matches!(name.as_str(), "prompt_tokens" | "completion_tokens"));
        if !is_plain {
            return Read::default();
        }
        read.input = usage.get("prompt_tokens").and_then(Value::as_u64).or(read.input);
        read.output = usage.get("completion_tokens").and_then(Value::as_u64).or(read.output);
    }
    read
}
