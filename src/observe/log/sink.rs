//! The destination of a log's bytes: an open stream, or a file that can be opened again by its
//! name.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// An open destination of log lines.
pub(super) struct Sink {
    out: Box<dyn Write + Send>,
    /// Path of the destination, if it is a file.
    path: Option<PathBuf>,
    /// Whether the last line was written only in part.
    is_torn: bool,
}

impl Sink {
    pub(super) fn of(out: impl Write + Send + 'static) -> Self {
        Sink { out: Box::new(out), path: None, is_torn: false }
    }

    /// # Errors
    ///
    /// The file can't be opened for writing.
    pub(super) fn file(path: &Path) -> io::Result<Self> {
        Ok(Sink { path: Some(path.to_owned()), ..Sink::of(open(path)?) })
    }

    /// Opens the file at the path again, which may be another file now (as after logrotate). Does
    /// nothing for a stream.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if let Some(path) = &self.path {
            self.out = Box::new(open(path)?);
            self.is_torn = false;
        }
        Ok(())
    }

    /// Writes whole lines.
    ///
    /// # Errors
    ///
    /// Writing failed; the error contains the number of lost lines and the system's error.
    pub(super) fn write(&mut self, lines: &[u8]) -> Result<(), (u64, io::Error)> {
        if self.is_torn {
            // A line end is written first, so that the next line does not continue the incomplete
            // line.
            self.out.write_all(b"\n").map_err(|error| (count(lines), error))?;
            self.is_torn = false;
        }
        let mut rest = lines;
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(0) => return Err(self.lose(lines, rest, io::ErrorKind::WriteZero.into())),
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.lose(lines, rest, error)),
            }
        }
        self.out.flush().map_err(|error| (0, error))
    }

    fn lose(&mut self, lines: &[u8], rest: &[u8], error: io::Error) -> (u64, io::Error) {
        debug_assert!(lines.ends_with(rest));
        let written = lines.get(..lines.len() - rest.len()).unwrap_or_default();
        self.is_torn = written.last().is_some_and(|byte| *byte != b'\n');
        (count(rest), error)
    }
}

fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

/// Opens a log file for appending. A new file is readable by its owner and group only, because a
/// log contains paths and addresses.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o640);
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo()) {
        // A FIFO is opened for reading, too, because opening it for writing alone would wait for a
        // reader.
        options.read(true);
    }
    options.open(path)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A destination for tests, which accepts a limited number of bytes and then fails.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (kept, room) = &mut *self.0.lock().unwrap();
            let taken = bytes.len().min(*room);
            *room -= taken;
            kept.extend_from_slice(&bytes[..taken]);
            if taken == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_was_cut_does_not_spoil_the_next_one() {
        let disk = Disk::default();
        disk.0.lock().unwrap().1 = 6;
        let mut sink = Sink::of(disk.clone());
        let (lost, _) = sink.write(b"one\ntwo\nthree\n").unwrap_err();
        assert_eq!(lost, 2);
        disk.0.lock().unwrap().1 = 100;
        sink.write(b"four\n").unwrap();
        assert_eq!(disk.0.lock().unwrap().0, b"one\ntw\nfour\n");
    }

    #[test]
    fn a_file_is_opened_again_by_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let (path, moved) = (directory.path().join("log"), directory.path().join("log.1"));
        let mut sink = Sink::file(&path).unwrap();
        sink.write(b"old\n").unwrap();
        std::fs::rename(&path, &moved).unwrap();
        sink.write(b"still old\n").unwrap();
        sink.reopen().unwrap();
        sink.write(b"new\n").unwrap();
        assert_eq!(std::fs::read_to_string(&moved).unwrap(), "old\nstill old\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new\n");
    }
}
