//! Reads a file in blocks of whole lines.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::bom;
use crate::config::fault::{Fault, Position};
use crate::key_store::file::{open, unreadable};

/// The length of the longest accepted line, in bytes.
pub(crate) const MAX_LINE: usize = 64 * 1024;
/// How many bytes a thread reads at a time.
pub(crate) const BLOCK: usize = 1024 * 1024;
/// Calls `take` with the number and the trimmed text of every line that is not blank, until `take`
/// returns false.
pub(crate) fn each_line(path: &Path, mut take: impl FnMut(usize, &[u8]) -> bool) -> Result<(), Fault> {
    each_raw_line(path, |number, line| {
        let line = line.trim_ascii();
        Ok::<bool, Fault>(line.is_empty() || take(number, line))
    })
}

/// Calls `take` with the number and the bytes of every line, including its line break, until `take`
/// returns false.
pub(crate) fn each_raw_line<E: From<Fault>>(
    path: &Path,
    mut take: impl FnMut(usize, &[u8]) -> Result<bool, E>,
) -> Result<(), E> {
    let mut blocks = Blocks::open(path, BLOCK)?;
    let mut block = Vec::new();
    while let Some(first) = blocks.next(&mut block)? {
        for (index, line) in lines(&block).enumerate() {
            if !take(first + index, line)? {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Returns the lines of a block, each including its line break.
pub(crate) fn lines(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = block;
    std::iter::from_fn(move || {
        let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |newline| newline + 1);
        let (line, behind) = rest.split_at_checked(end).filter(|(line, _)| !line.is_empty())?;
        rest = behind;
        Some(line)
    })
}

/// A file that is read in blocks of whole lines.
pub(crate) struct Blocks<'p> {
    path: &'p Path,
    file: File,
    /// The beginning of a line whose end has not been read yet.
    rest: Vec<u8>,
    /// How many bytes are read at a time.
    step: usize,
    /// The number, in the file, of the next line that will be returned.
    line: usize,
}

impl<'p> Blocks<'p> {
    pub(crate) fn open(path: &'p Path, step: usize) -> Result<Self, Fault> {
        Ok(Blocks { path, file: open(path)?, rest: Vec::new(), step, line: 1 })
    }

    /// Replaces the content of `block` by the next lines, and returns the number of the first of
    /// these lines; `None` at the end of the file.
    pub(crate) fn next(&mut self, block: &mut Vec<u8>) -> Result<Option<usize>, Fault> {
        std::mem::swap(block, &mut self.rest);
        self.rest.clear();
        loop {
            let before = block.len();
            let read = (&mut self.file).take(self.step as u64).read_to_end(block);
            let read = read.map_err(|error| unreadable(self.path, &error))?;
            let new = block.get(before..).unwrap_or_default();
            match memchr::memrchr(b'\n', new) {
                Some(newline) => {
                    self.rest.extend_from_slice(new.get(newline + 1..).unwrap_or_default());
                    block.truncate(before + newline + 1);
                    break;
                }
                None if read == 0 => break,
                None if block.len() > MAX_LINE => return Err(too_long(self.path, self.line)),
                None => {}
            }
        }
        if self.line == 1 && block.starts_with(bom::MARK) {
            block.drain(..bom::MARK.len());
        }
        let first = self.line;
        self.line += memchr::memchr_iter(b'\n', block).count();
        Ok(Some(first).filter(|_| !block.is_empty()))
    }
}

pub(crate) fn too_long(path: &Path, line: usize) -> Fault {
    Fault::at(path, Position { line, column: 1 }, "this line is longer than 64 KiB")
}
