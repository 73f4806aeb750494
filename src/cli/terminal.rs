//! Writes to the standard output and standard error of commands.

use std::borrow::Cow;
use std::io::Write;

use super::failure::Failure;

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

/// Returns a text in which the characters are written out by which a name could mislead whoever reads it on a terminal:
/// control characters, and those that turn the direction of writing (Unicode, UAX #9). They are written as JSON
/// escapes, so that a JSON text stays the same.
fn harmless(text: &str) -> Cow<'_, str> {
    if !text.contains(misleads) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match misleads(character) {
            true => shown.push_str(&format!("\\u{:04x}", u32::from(character))),
            false => shown.push(character),
        }
    }
    Cow::Owned(shown)
}

fn misleads(character: char) -> bool {
    let turns = matches!(
        character,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    turns || (character.is_control() && !matches!(character, '\n' | '\t'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_mislead_a_reader_is_written_out() {
        assert!(matches!(harmless("name\tüñ\n"), Cow::Borrowed("name\tüñ\n")));
        assert_eq!(
            harmless("a\u{1b}[31mb\rc\u{202e}d\u{9b}\u{7f}"),
            "a\\u001b[31mb\\u000dc\\u202ed\\u009b\\u007f"
        );
        let json = "{\"name\":\"a\u{202e}b\"}";
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(read(&harmless(json)), read(json));
    }
}
