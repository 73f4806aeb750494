//! Checks whether bytes that arrive in pieces are UTF-8 without a byte order mark.

/// The bytes are not UTF-8, or begin with a byte order mark.
#[derive(Debug)]
pub(super) struct NotUtf8;

/// The state of a check.
#[derive(Debug, Default)]
pub(super) struct Utf8Check {
    /// The beginning of a character that the last piece ended in.
    pending: Vec<u8>,
    has_begun: bool,
}

impl Utf8Check {
    /// Checks the next piece.
    ///
    /// # Errors
    ///
    /// The bytes are not UTF-8, or begin with a byte order mark.
    pub(super) fn push(&mut self, mut data: &[u8]) -> Result<(), NotUtf8> {
        if !self.pending.is_empty() {
            while let (Some((&byte, rest)), true) = (data.split_first(), self.pending.len() < 4) {
                self.pending.push(byte);
                data = rest;
                match std::str::from_utf8(&self.pending) {
                    Ok(_) => {
                        self.check_mark(&self.pending)?;
                        self.pending.clear();
                        self.has_begun = true;
                        break;
                    }
                    Err(error) if error.error_len().is_some() => return Err(NotUtf8),
                    Err(_) => {}
                }
            }
        }
        if data.is_empty() {
            return Ok(());
        }
        self.check_mark(data)?;
        match std::str::from_utf8(data) {
            Ok(_) => {}
            Err(error) if error.error_len().is_some() => return Err(NotUtf8),
            Err(error) => {
                let (valid, pending) = data.split_at(error.valid_up_to());
                self.pending.extend_from_slice(pending);
                if valid.is_empty() {
                    return Ok(());
                }
            }
        }
        self.has_begun = true;
        Ok(())
    }

    /// # Errors
    ///
    /// The bytes end within a character.
    pub(super) fn finish(&self) -> Result<(), NotUtf8> {
        if self.pending.is_empty() { Ok(()) } else { Err(NotUtf8) }
    }

    fn check_mark(&self, bytes: &[u8]) -> Result<(), NotUtf8> {
        match !self.has_begun && bytes.starts_with("\u{feff}".as_bytes()) {
            true => Err(NotUtf8),
            false => Ok(()),
        }
    }
}
