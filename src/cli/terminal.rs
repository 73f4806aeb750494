//! Writes to the standard output and standard error of commands.

use std::borrow::Cow;
use std::io::Write;

use super::failure::Failure;
use crate::observe::shown::is_hidden;

/// Writes a command's result to standard output.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let text = harmless(text);
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // The reader has closed the pipe, as `head` does in `bearward … | head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// Writes a line to standard error.
pub(crate) fn say(line: &str) {
    let _nobody_reads = writeln!(std::io::stderr().lock(), "{}", harmless(line));
}

/// Returns a text in which hidden characters are written out, by which a name could mislead whoever reads it on a
/// terminal. They are written as JSON escapes, so that a JSON text stays the same.
fn harmless(text: &str) -> Cow<'_, str> {
    let misleads = |character| is_hidden(character) && !matches!(character, '\n' | '\t' | '\r');
    let has_lone_return = || text.split('\r').skip(1).any(|behind| !behind.starts_with('\n'));
    if !text.contains(misleads) && !has_lone_return() {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let is_lone_return = character == '\r' && characters.peek() != Some(&'\n');
        if !misleads(character) && !is_lone_return {
            shown.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            shown.push_str(&format!("\\u{unit:04x}"));
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_mislead_a_reader_is_written_out() {
        for plain in ["name\tüñ\n", "a,b\r\nc,d\r\n"] {
            assert!(matches!(harmless(plain), Cow::Borrowed(same) if same == plain));
        }
        let hostile = "a\u{1b}[31mb\rc\u{202e}d\u{9b}\u{7f}\u{e0041}\r";
        assert_eq!(harmless(hostile), "a\\u001b[31mb\\u000dc\\u202ed\\u009b\\u007f\\udb40\\udc41\\u000d");
        let json = "{\"name\":\"a\u{202e}\u{e0041}b\"}";
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(read(&harmless(json)), read(json));
    }
}
