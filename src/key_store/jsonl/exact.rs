//! The exact decoder: decodes a line with the decoder that all kinds of store use, which reports
//! the positions of all faults.

use std::path::Path;
use std::str;

use super::blocks::{MAX_LINE, too_long};
use crate::config::decode::Decoder;
use crate::config::fault::{Fault, Position};
use crate::config::tree::{self, Kind, Quoting};
use crate::key_store::claim::Claim;
use crate::key_store::decode::{self, Unique};
use crate::key_store::settle::Unread;
use crate::keys::record::KeyRecord;

/// Decodes a line. `unique` has the ids, names and hashes of earlier lines. The line is at fault if
/// it repeats one of these values.
pub(super) fn decode(
    path: &Path,
    number: usize,
    line: &[u8],
    unique: &mut Unique,
) -> Result<KeyRecord, Unread> {
    let foreign = |fault| Unread { claim: Claim::of_line(line), is_entry: false, faults: vec![fault] };
    if line.len() > MAX_LINE {
        return Err(foreign(too_long(path, number)));
    }
    let Ok(text) = str::from_utf8(line) else {
        return Err(foreign(Fault::at(path, Position { line: number, column: 1 }, "not UTF-8")));
    };
    let node = tree::from_json(path, text, number).map_err(foreign)?;
    let mut decoder = Decoder::new(path, Quoting::Never, None);
    let record = decode::decode(&mut decoder, &node, unique);
    let faults = decoder.faults;
    let is_entry = matches!(node.kind, Kind::Map(_));
    record.filter(|_| faults.is_empty()).ok_or_else(|| Unread {
        claim: Claim::of_node(&node),
        is_entry,
        faults,
    })
}

/// Decodes a line without comparing it to other lines. The caller looks for shared ids, names and
/// hashes.
pub(in crate::key_store) fn decode_alone(
    path: &Path,
    number: usize,
    line: &[u8],
) -> Result<KeyRecord, Unread> {
    decode(path, number, line, &mut Unique::default())
}
