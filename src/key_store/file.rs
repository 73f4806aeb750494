//! Files of keys, opened and read.

use std::fs;
use std::io::Read;
use std::path::Path;

use crate::bom;
use crate::config::fault::Fault;
use crate::regular_file;

/// The largest file that is read whole. A million keys belong into JSON Lines.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// The fault of a key file that can't be read. The hint names the command that makes one.
pub(crate) fn unreadable(path: &Path, error: &std::io::Error) -> Fault {
    let fault = Fault::of_file(path, format!("the key file can't be read: {error}"));
    match error.kind() {
        std::io::ErrorKind::NotFound => fault
            .hint(format!("`bearward keys create --keys {} --permissions read` makes it", path.display())),
        _ => fault,
    }
}

/// Opens a regular file. A pipe would block, and a device has no end.
pub(crate) fn open(path: &Path) -> Result<fs::File, Fault> {
    regular_file::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidInput => Fault::of_file(path, "is not a regular file"),
        _ => unreadable(path, &error),
    })
}

/// The text of a key file.
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
