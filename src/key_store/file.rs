//! Opens and reads key files.

use std::fs;
use std::io::Read;
use std::path::Path;

use crate::bom;
use crate::config::fault::Fault;
use crate::regular_file;
use crate::shell_word::shell_word;

/// The size of the largest key file that is read as a whole, in bytes. A million keys should be
/// stored as JSON Lines.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Makes the fault of a key file that can't be read. Its hint names the command that creates a key
/// file.
pub(crate) fn unreadable(path: &Path, error: &std::io::Error) -> Fault {
    let fault = Fault::unreadable(path, "the key file", error);
    match error.kind() {
        std::io::ErrorKind::NotFound => fault
            .hint(format!("`bearward keys create --keys {} --permissions read` makes it", shell_word(path))),
        _ => fault,
    }
}

/// Opens a regular file. Other files are refused: reading a pipe could block, and a device has no
/// end.
pub(crate) fn open(path: &Path) -> Result<fs::File, Fault> {
    regular_file::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidInput => Fault::of_file(path, "is not a regular file"),
        _ => unreadable(path, &error),
    })
}

/// Reads the text of a key file.
pub(crate) fn read(path: &Path) -> Result<String, Fault> {
    let file = open(path)?;
    let too_large = || {
        let fault = Fault::of_file(path, "the key file is larger than 256 MiB");
        Err(fault.hint("keys.jsonl holds a million keys"))
    };
    if file.metadata().is_ok_and(|metadata| metadata.len() > MAX_BYTES) {
        return too_large();
    }
    let mut source = String::new();
    match file.take(MAX_BYTES + 1).read_to_string(&mut source) {
        Ok(length) if length as u64 > MAX_BYTES => too_large(),
        Ok(_) => Ok(bom::without(&source).to_owned()),
        Err(error) => Err(unreadable(path, &error)),
    }
}
