//! Writes to the standard output and standard error of commands.

use std::io::Write;

use super::failure::Failure;

/// Writes a command's result to standard output.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // The reader has closed the pipe, as `head` does in `bearward … | head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// Writes a line to standard error.
pub(crate) fn say(line: &str) {
    let _nobody_reads = writeln!(std::io::stderr().lock(), "{line}");
}
