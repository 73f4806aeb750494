//! Reads files that are named in a configuration: keys, certificates, tokens.
//!
//! Invariant: no read blocks. A pipe in place of a file would make its reader, such as the
//! reloading thread, wait for a writer; and a device has no end.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use zeroize::Zeroizing;

/// The size of the largest file that is read, in bytes.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Opens a regular file to read it.
///
/// # Errors
///
/// Fails with the system's error, or with `InvalidInput` if `path` is not a regular file.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits());
    debug_assert!(nonblocking.is_ok());
    let nonblocking = nonblocking.unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")),
    }
}

/// Reads a small file. The content is overwritten with zeros when it is dropped.
///
/// # Errors
///
/// Fails with the errors of [`open`], or with `FileTooLarge` past 16 MiB.
pub(crate) fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = open(path)?;
    let metadata = file.metadata()?;
    // The buffer is allocated at its final size: a buffer that grows would leave copies of a secret
    // in memory.
    let expected = usize::try_from(metadata.len().min(MAX_BYTES)).unwrap_or_default();
    let mut content = Zeroizing::new(Vec::with_capacity(expected + 1));
    file.take(MAX_BYTES + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(content)
}

/// Reads a small text file. The text is overwritten with zeros when it is dropped.
///
/// # Errors
///
/// Fails with the errors of [`read`], or with `InvalidData` if the file is not UTF-8.
pub(crate) fn read_text(path: &Path) -> io::Result<Zeroizing<String>> {
    let content = read(path)?;
    let text =
        std::str::from_utf8(&content).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("file"), "text").unwrap();
        assert_eq!(&**read_text(&path("file")).unwrap(), "text");
        assert!(std::process::Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
        std::fs::create_dir(path("directory")).unwrap();
        for none in [path("pipe"), path("directory"), "/dev/zero".into(), path("missing")] {
            assert!(read(&none).is_err(), "{none:?}");
        }
        File::create(path("large")).unwrap().set_len(MAX_BYTES + 1).unwrap();
        assert_eq!(read(&path("large")).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
