//! The scripts that run in the server, and strict decoders of their answers.

use super::version::{Changes, Version};
use crate::redis_link::{
    ErrorKind, MultiplexedConnection, RedisError, RedisResult, Script, ServerErrorKind, Value, cmd, text_of,
};

/// A script. The server caches it by its hash.
pub(super) struct StoreScript {
    text: &'static str,
    hash: String,
}

/// The scripts of a store.
pub(super) struct Scripts {
    pub(super) beat: StoreScript,
    pub(super) changes: StoreScript,
    pub(super) complete: StoreScript,
    pub(super) edit: StoreScript,
    pub(super) get: StoreScript,
    pub(super) id_secret: StoreScript,
    pub(super) permitted: StoreScript,
    pub(super) replicas: StoreScript,
    pub(super) scan: StoreScript,
    pub(super) stage: StoreScript,
}

impl Default for Scripts {
    fn default() -> Self {
        let script = |text: &'static str| StoreScript { text, hash: Script::new(text).get_hash().to_owned() };
        Scripts {
            beat: script(include_str!("beat.lua")),
            changes: script(include_str!("changes.lua")),
            complete: script(include_str!("complete.lua")),
            edit: script(include_str!("edit.lua")),
            get: script(include_str!("get.lua")),
            id_secret: script(include_str!("id_secret.lua")),
            permitted: script(include_str!("permitted.lua")),
            replicas: script(include_str!("replicas.lua")),
            scan: script(include_str!("scan.lua")),
            stage: script(include_str!("stage.lua")),
        }
    }
}

impl StoreScript {
    /// Runs the script. Only the commands EVALSHA and EVAL are used, so that a user of the server
    /// needs no more rights.
    pub(super) async fn run(
        &self,
        connection: &mut MultiplexedConnection,
        names: &[&str],
        arguments: &[&[u8]],
    ) -> RedisResult<Value> {
        let command = |verb: &str, script: &str| {
            let mut command = cmd(verb);
            command.arg(script).arg(names.len()).arg(names).arg(arguments);
            command
        };
        match command("EVALSHA", &self.hash).query_async(connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                command("EVAL", self.text).query_async(connection).await
            }
            answer => answer,
        }
    }
}

/// Returns the error of an answer that no script of ours gives.
pub(super) fn unexpected() -> RedisError {
    (ErrorKind::UnexpectedReturnType, "an answer that is none of this store").into()
}

/// Returns the values of a list.
pub(super) fn list(value: Value) -> RedisResult<Vec<Value>> {
    match value {
        Value::Array(values) => Ok(values),
        _ => Err(unexpected()),
    }
}

/// Returns the bytes of a text.
pub(super) fn bytes(value: Option<Value>) -> RedisResult<Vec<u8>> {
    match value {
        Some(Value::BulkString(bytes)) => Ok(bytes),
        Some(Value::SimpleString(text)) => Ok(text.into_bytes()),
        _ => Err(unexpected()),
    }
}

/// Returns a word without control characters. Names of stores and labels are such words.
pub(super) fn word(value: Option<Value>) -> RedisResult<String> {
    let text = String::from_utf8(bytes(value)?).map_err(|_| unexpected())?;
    if text.chars().any(char::is_control) { Err(unexpected()) } else { Ok(text) }
}

/// Returns a number that is an integer, or a text of digits.
pub(super) fn number(value: Option<Value>) -> RedisResult<u64> {
    match value {
        Some(Value::Int(number)) => u64::try_from(number).map_err(|_| unexpected()),
        other => word(other)?.parse().map_err(|_| unexpected()),
    }
}

/// Takes the name of the store, its generation and its number of entries. Returns `None` if the
/// server has no store.
pub(super) fn version(values: &mut impl Iterator<Item = Value>) -> RedisResult<Option<Version>> {
    let store = word(values.next())?;
    let (generation, entries) = (number(values.next())?, number(values.next())?);
    Ok(Some(Version { store, generation, entries }).filter(|version| !version.store.is_empty()))
}

/// Takes pairs of an id and a text.
pub(super) fn pairs(values: &mut impl Iterator<Item = Value>) -> RedisResult<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut pairs = Vec::new();
    while let Some(id) = values.next() {
        pairs.push((bytes(Some(id))?, bytes(values.next())?));
    }
    Ok(pairs)
}

/// Decodes the answer of `changes.lua`.
pub(super) fn changes(answer: Value) -> RedisResult<Changes> {
    let mut values = list(answer)?.into_iter();
    let now = version(&mut values)?;
    let is_known = number(values.next())? == 1;
    let entries = pairs(&mut values)?;
    Ok(Changes { now, entries: is_known.then_some(entries) })
}

/// Returns a message for people. The text of a server is bounded, and has no control characters.
pub(super) fn message(error: &RedisError) -> String {
    let shown = text_of(error);
    match error.kind() {
        ErrorKind::AuthenticationFailed => format!("the server refuses the user or the password ({shown})"),
        ErrorKind::Server(ServerErrorKind::NoPerm) => {
            format!("the server's user lacks a permission ({shown})")
        }
        ErrorKind::Io => format!("the server can't be reached: {shown}"),
        _ => format!("the server answers: {shown}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn an_answer_is_decoded_strictly() {
        let good = vec![text("s"), text("7"), Value::Int(2), Value::Int(1), text("key_a"), text("{}")];
        let decoded = changes(Value::Array(good.clone())).unwrap();
        assert_eq!(decoded.now, Some(Version { store: "s".to_owned(), generation: 7, entries: 2 }));
        assert_eq!(decoded.entries, Some(vec![(b"key_a".to_vec(), b"{}".to_vec())]));
        let with = |index: usize, value: Value| {
            let mut bad = good.clone();
            bad[index] = value;
            changes(Value::Array(bad))
        };
        for (index, value) in [
            (0, Value::Nil),
            (0, text("a\nb")),
            (0, Value::BulkString(vec![0xff])),
            (1, text("-1")),
            (1, text("1e9")),
            (1, Value::Array(Vec::new())),
            (2, Value::Int(-1)),
            (3, text("yes")),
            (4, Value::Int(3)),
            (5, Value::Boolean(true)),
        ] {
            assert!(with(index, value.clone()).is_err(), "{index} {value:?}");
        }
        assert!(changes(Value::Array(good[..5].to_vec())).is_err(), "an id without a text");
        assert!(changes(Value::Array(good[..2].to_vec())).is_err());
        assert!(changes(Value::Okay).is_err());
        assert_eq!(with(0, text("")).unwrap().now, None, "no store");
        assert_eq!(with(3, Value::Int(0)).unwrap().entries, None);
    }

    #[test]
    fn a_message_of_a_server_is_bounded() {
        let detail = format!("bad\u{1b}[2J\n{}", "x".repeat(10_000));
        let error = RedisError::from((ErrorKind::Client, "odd", detail));
        let shown = message(&error);
        assert!(shown.len() < 300 && !shown.contains(char::is_control), "{shown}");
    }
}
