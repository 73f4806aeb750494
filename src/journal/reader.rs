//! Reads the records of a journal in order, and finds the next valid record behind damaged bytes.
//!
//! Called when a journal is opened, and by commands that read the journal of a running server.
//! Invariant: each record that is passed on was written to this file, and records are passed on in
//! the order in which they were written.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::format::{self, Beginning, Expected, HEADER, MARKER, MAX_RECORD};
use super::open_error::OpenError;

/// How many bytes are read at a time.
const CHUNK: usize = 256 * 1024;

/// The result of reading a journal, for the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recovered {
    /// The number of valid records.
    pub(crate) records: u64,
    /// The length of the file up to the end of the last valid record, in bytes.
    pub(crate) bytes: u64,
    /// The damaged parts of the file. Their records are lost.
    pub(crate) damaged: Damaged,
    /// Whether the end of the file was cut, as a crash during an append does. The cut record is lost.
    pub(crate) cut: bool,
    /// Whether there was no journal, and an empty one was created.
    pub(crate) is_new: bool,
}

/// The damaged parts of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Damaged {
    /// The number of damaged parts. A part may have held several records, or the header.
    pub(crate) parts: u64,
    /// The length of all damaged parts, in bytes.
    pub(crate) bytes: u64,
    /// The offset of the first damaged part in the file, in bytes.
    pub(crate) first: Option<u64>,
}

impl Damaged {
    fn note(&mut self, from: u64, to: u64) {
        if from < to {
            self.parts += 1;
            self.bytes += to - from;
            self.first.get_or_insert(from);
        }
    }
}

/// The state of a file that was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scan {
    pub(super) recovered: Recovered,
    /// The salt of the file's records.
    pub(super) salt: u32,
    /// The highest sequence number that a record of the file can have, the damaged ones included.
    pub(super) last_sequence: u64,
    /// The length of the file, in bytes.
    pub(super) length: u64,
}

/// Reads all valid records of the file up to its present length. `take`: key and value of each
/// record, in the order in which they were written.
///
/// # Errors
///
/// Fails if the file is no journal, is of a newer version, has lost all records, or can't be read.
pub(super) fn scan(path: &Path, file: &File, take: &mut impl FnMut(&[u8], &[u8])) -> Result<Scan, OpenError> {
    let failed = |error| OpenError::system("read", path, error);
    let mut window = Window::new(file).map_err(failed)?;
    window.fill().map_err(failed)?;
    let beginning = Beginning::of(window.bytes());
    let (salt, sealed) = match beginning {
        Beginning::Header(header) => (Some(header.salt), header.sealed),
        Beginning::Newer(version) => return Err(OpenError::Newer { path: path.to_owned(), version }),
        // The records repeat the salt, so they can be read without the header.
        Beginning::Damaged | Beginning::Foreign => (None, 0),
    };
    let start = if salt.is_some() { HEADER } else { 0 };
    window.skip(start as usize);
    let mut expected = Expected { salt, after: 0 };
    let mut recovered = Recovered { bytes: start, ..Recovered::default() };
    let mut is_cut_record = false;
    while window.fill().map_err(failed)? {
        let Some(record) = format::decode(window.bytes(), expected) else {
            if window.offset == recovered.bytes {
                is_cut_record = window.is_whole() && format::is_cut_record(window.bytes(), expected.salt);
            }
            window.skip_to_marker();
            continue;
        };
        take(record.key, record.value);
        expected = Expected { salt: Some(record.salt), after: record.sequence };
        let length = record.length;
        recovered.damaged.note(recovered.bytes, window.offset);
        recovered.records += 1;
        window.skip(length);
        recovered.bytes = window.offset;
    }
    let length = window.offset;
    let end = recovered.bytes;
    recovered.cut = end < length || length < sealed;
    // The first append of a file can be cut within its first record. Other files without a record
    // have lost their records.
    let is_empty = end == length || is_cut_record;
    match expected.salt {
        Some(salt) if recovered.records > 0 || (is_empty && sealed <= HEADER) => {
            if !is_cut_record {
                recovered.damaged.note(end, length);
            }
            // The cut records had sequence numbers too, which are not used again.
            let last_sequence = expected.after + (length - end).div_ceil(format::HEAD as u64);
            Ok(Scan { recovered, salt, last_sequence, length })
        }
        _ if beginning == Beginning::Foreign && length > 0 => Err(OpenError::Foreign(path.to_owned())),
        _ => Err(OpenError::Unreadable(path.to_owned())),
    }
}

/// The bytes of a file that are in memory: those from `offset` on.
struct Window<'f> {
    /// The file, up to the length that it had at the beginning.
    file: io::Take<&'f File>,
    buffer: Vec<u8>,
    /// The part of the buffer that was skipped, in bytes.
    skipped: usize,
    /// The offset of the first byte that was not skipped, in the file.
    offset: u64,
}

impl<'f> Window<'f> {
    /// `file` must be at its beginning.
    fn new(file: &'f File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let buffer = Vec::with_capacity(CHUNK + MAX_RECORD);
        Ok(Window { file: file.take(length), buffer, skipped: 0, offset: 0 })
    }

    fn bytes(&self) -> &[u8] {
        self.buffer.get(self.skipped..).unwrap_or_default()
    }

    /// Reads on until the longest record fits, or the file ends. Returns whether there are bytes.
    fn fill(&mut self) -> io::Result<bool> {
        if self.bytes().len() < MAX_RECORD && !self.is_whole() {
            self.buffer.drain(..self.skipped);
            self.skipped = 0;
            let read = (&mut self.file).take(CHUNK as u64).read_to_end(&mut self.buffer)?;
            if read == 0 {
                // The file became shorter while it was read.
                self.file.set_limit(0);
            }
        }
        Ok(!self.bytes().is_empty())
    }

    /// Whether the window extends to the end of the file.
    fn is_whole(&self) -> bool {
        self.file.limit() == 0
    }

    fn skip(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes().len());
        self.skipped += bytes;
        self.offset += bytes as u64;
    }

    /// Skips at least one byte, up to bytes that may be a marker.
    fn skip_to_marker(&mut self) {
        self.skip(1);
        let bytes = self.bytes();
        let found = bytes.windows(MARKER.len()).position(|bytes| bytes == MARKER);
        let end = if self.is_whole() { bytes.len() } else { (bytes.len() + 1).saturating_sub(MARKER.len()) };
        self.skip(found.unwrap_or(end));
    }
}
