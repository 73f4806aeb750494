//! The bytes of a journal: its header, and its records (docs/budgets.md).
//!
//! Invariant: nothing is allocated or skipped by a length field before the record's checksum is
//! verified. All numbers are little-endian.

use std::io;

/// The length of the header, in bytes.
pub(super) const HEADER: u64 = 32;
/// The length of the part of a record before its key, in bytes.
pub(super) const HEAD: usize = 24;
/// The length of the longest record, with its head, key and value, in bytes.
pub(super) const MAX_RECORD: usize = 64 * 1024;
/// The first bytes of each record. The last of them is the version of the format. The first of them
/// never occurs in UTF-8.
pub(super) const MARKER: [u8; 4] = [0xff, b'b', b'w', 1];

const MAGIC: [u8; 14] = *b"bearward-state";
const VERSION: u16 = 1;
/// The first byte of a record that its checksum covers: all behind the marker and the checksum.
const COVERED: usize = 8;

/// The header of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// A random number that all records of the file repeat. A record with another salt is of an older
    /// file, or is part of a value.
    pub(super) salt: u32,
    /// The length that the file had when it got its name, in bytes. All of these bytes were durable.
    pub(super) sealed: u64,
}

/// The beginning of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// A valid header of this version.
    Header(Header),
    /// A valid header of a newer version.
    Newer(u16),
    /// A header with the name of the format, but with a fault.
    Damaged,
    /// Not the name of the format. The name may be damaged.
    Foreign,
}

impl Header {
    pub(super) fn bytes(self) -> Vec<u8> {
        let mut bytes = Vec::from(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.salt.to_le_bytes());
        bytes.extend(self.sealed.to_le_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }
}

impl Beginning {
    /// Reads the header at the beginning of `bytes`.
    pub(super) fn of(bytes: &[u8]) -> Self {
        if !bytes.starts_with(&MAGIC) {
            return Beginning::Foreign;
        }
        Self::after_magic(bytes).unwrap_or(Beginning::Damaged)
    }

    /// Returns `None` if the header has a fault.
    fn after_magic(bytes: &[u8]) -> Option<Self> {
        let covered = bytes.get(..HEADER as usize - 4)?;
        let mut fields = Fields(bytes.get(MAGIC.len()..)?);
        let version = u16::from_le_bytes(fields.next()?);
        let salt = u32::from_le_bytes(fields.next()?);
        let sealed = u64::from_le_bytes(fields.next()?);
        let checksum = u32::from_le_bytes(fields.next()?);
        // All versions have a header with these fields, so that the checksum of a newer version can be
        // verified: otherwise, a flipped bit would look like a newer version.
        match (checksum == crc32fast::hash(covered), version) {
            (true, VERSION) => Some(Beginning::Header(Header { salt, sealed })),
            (true, version) if version > VERSION => Some(Beginning::Newer(version)),
            _ => None,
        }
    }
}

/// A valid record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'b> {
    pub(super) key: &'b [u8],
    pub(super) value: &'b [u8],
    pub(super) salt: u32,
    pub(super) sequence: u64,
    /// The length of the whole record, in bytes.
    pub(super) length: usize,
}

/// The records that a reader accepts next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// `None` if the header is damaged and no record was read yet.
    pub(super) salt: Option<u32>,
    /// The sequence number of the last record. Stale records have this number or a lower one.
    pub(super) after: u64,
}

/// The fields before the key of a record.
#[derive(Clone, Copy)]
struct Head {
    checksum: u32,
    salt: u32,
    sequence: u64,
    key_length: usize,
    length: usize,
}

impl Head {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes.strip_prefix(&MARKER)?);
        let checksum = u32::from_le_bytes(fields.next()?);
        let salt = u32::from_le_bytes(fields.next()?);
        let sequence = u64::from_le_bytes(fields.next()?);
        let key_length = usize::from(u16::from_le_bytes(fields.next()?));
        let value_length = usize::from(u16::from_le_bytes(fields.next()?));
        let length = HEAD + key_length + value_length;
        (length <= MAX_RECORD).then_some(Head { checksum, salt, sequence, key_length, length })
    }
}

/// Returns the record at the beginning of `bytes`, if it is whole, valid and expected.
pub(super) fn decode(bytes: &[u8], expected: Expected) -> Option<Record<'_>> {
    let head = Head::parse(bytes)?;
    let Head { salt, sequence, length, .. } = head;
    // The salt is compared before the checksum is computed, so that a search in damaged bytes with
    // many markers stays fast.
    if expected.salt.is_some_and(|expected| salt != expected) || sequence <= expected.after {
        return None;
    }
    if head.checksum != crc32fast::hash(bytes.get(COVERED..length)?) {
        return None;
    }
    let (key, value) = bytes.get(HEAD..length)?.split_at_checked(head.key_length)?;
    Some(Record { key, value, salt, sequence, length })
}

/// Whether `bytes`, which are the last of a file, are the beginning of a record that is cut.
pub(super) fn is_cut_record(bytes: &[u8], salt: Option<u32>) -> bool {
    match Head::parse(bytes) {
        Some(head) => head.length > bytes.len() && salt.is_none_or(|salt| salt == head.salt),
        None => bytes.len() < HEAD && (MARKER.starts_with(bytes) || bytes.starts_with(&MARKER)),
    }
}

/// Appends a record to `bytes`.
///
/// # Errors
///
/// Fails with `InvalidInput` if the record is longer than [`MAX_RECORD`].
pub(super) fn encode(
    bytes: &mut Vec<u8>,
    salt: u32,
    sequence: u64,
    key: &[u8],
    value: &[u8],
) -> io::Result<()> {
    let lengths = u16::try_from(key.len()).ok().zip(u16::try_from(value.len()).ok());
    let Some((key_length, value_length)) = lengths.filter(|_| HEAD + key.len() + value.len() <= MAX_RECORD)
    else {
        let message = format!("a record of {} bytes is too long", HEAD + key.len() + value.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    };
    let mut fields = [0; HEAD - COVERED];
    let covered = salt.to_le_bytes().into_iter().chain(sequence.to_le_bytes());
    let covered = covered.chain(key_length.to_le_bytes()).chain(value_length.to_le_bytes());
    fields.iter_mut().zip(covered).for_each(|(field, byte)| *field = byte);
    let mut checksum = crc32fast::Hasher::new();
    [&fields, key, value].into_iter().for_each(|covered| checksum.update(covered));
    bytes.extend(MARKER);
    bytes.extend(checksum.finalize().to_le_bytes());
    [&fields, key, value].into_iter().for_each(|covered| bytes.extend_from_slice(covered));
    Ok(())
}

/// The fields of a header or a head that are still to be read.
struct Fields<'b>(&'b [u8]);

impl Fields<'_> {
    fn next<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }
}
