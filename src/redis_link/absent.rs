//! The client's names in a build without it. No connection exists, so no command is sent.

#![expect(dead_code, reason = "answers and errors of a server are read, and nothing makes them here")]

use std::fmt;

/// A connection. Nothing makes one.
#[derive(Clone)]
pub(crate) struct Connection(());

pub(crate) type MultiplexedConnection = Connection;

pub(crate) type RedisResult<T> = Result<T, RedisError>;

/// Reason why an answer is not what was asked for.
#[derive(Debug)]
pub(crate) struct RedisError(ErrorKind, &'static str);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    AuthenticationFailed,
    Extension,
    Io,
    Server(ServerErrorKind),
    UnexpectedReturnType,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerErrorKind {
    NoPerm,
    NoScript,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Array(Vec<Value>),
    Boolean(bool),
    BulkString(Vec<u8>),
    Int(i64),
    Nil,
    Okay,
    SimpleString(String),
}

/// A message that was not asked for.
pub(crate) struct PushInfo {
    pub(crate) kind: PushKind,
    pub(crate) data: Vec<Value>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PushKind {
    Disconnection,
    Invalidate,
}

pub(crate) struct Script;

pub(crate) struct Cmd;

impl Connection {
    pub(crate) fn is_cluster(&self) -> bool {
        false
    }
}

pub(super) fn no_client() -> RedisError {
    (ErrorKind::Io, "bearward was built without the feature `redis`").into()
}

impl Script {
    pub(crate) fn new(_: &str) -> Self {
        Script
    }

    pub(crate) fn get_hash(&self) -> &str {
        ""
    }

    pub(crate) fn key<T>(&self, _: T) -> Cmd {
        Cmd
    }
}

pub(crate) fn cmd(_: &str) -> Cmd {
    Cmd
}

impl Cmd {
    pub(crate) fn key<T>(&mut self, _: T) -> &mut Self {
        self
    }

    pub(crate) fn arg<T>(&mut self, _: T) -> &mut Self {
        self
    }

    pub(crate) async fn query_async<T>(&self, _: &mut Connection) -> RedisResult<T> {
        Err(no_client())
    }

    pub(crate) async fn invoke_async<T>(&self, _: &mut Connection) -> RedisResult<T> {
        Err(no_client())
    }
}

/// What an answer can be read as.
pub(crate) trait FromRedisValue: Sized {
    fn from_redis_value(_: Value) -> RedisResult<Self> {
        Err(no_client())
    }
}

impl<T> FromRedisValue for T {}

pub(crate) fn from_redis_value_ref<T: FromRedisValue>(_: &Value) -> RedisResult<T> {
    Err(no_client())
}

impl RedisError {
    pub(crate) fn kind(&self) -> ErrorKind {
        self.0
    }

    pub(crate) fn code(&self) -> Option<&str> {
        None
    }

    pub(crate) fn is_timeout(&self) -> bool {
        false
    }

    pub(crate) fn is_io_error(&self) -> bool {
        self.0 == ErrorKind::Io
    }

    pub(crate) fn is_connection_dropped(&self) -> bool {
        false
    }

    pub(crate) fn is_unrecoverable_error(&self) -> bool {
        false
    }
}

impl From<(ErrorKind, &'static str)> for RedisError {
    fn from((kind, text): (ErrorKind, &'static str)) -> Self {
        RedisError(kind, text)
    }
}

impl fmt::Display for RedisError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.1)
    }
}
