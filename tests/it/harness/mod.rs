//! What tests are written with: an upstream that records, a gateway that guards it, and a client that sends
//! any bytes at all. Everything is on port 0 and ends with the test.

pub mod frames;
mod gateway;
pub mod mutants;
mod raw;
mod upstream;

use std::future::Future;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

pub use gateway::{Binary, Door, Gateway, Running};
pub use raw::{Answer, Raw, assert_shape};
pub use upstream::{Recorded, Upstream, answer_of};

/// Long enough for the slowest machine, short enough for a person who waits.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// The value of a future that must be ready in time.
pub async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not in time: {what}"),
    }
}

/// Runs a command of the program with `input` on its standard input.
pub fn bearward(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_bearward"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses its arguments does not read.
    let _unread = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// Looks until something holds, without guessing how long it takes.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    until(what, async || holds()).await;
}

/// Asks until something holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    in_time(what, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}
