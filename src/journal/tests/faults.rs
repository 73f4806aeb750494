//! Makes calls to the file system fail, in the thread of a test.

use std::cell::RefCell;
use std::io;
use std::os::unix::fs::FileExt;

use crate::journal::disk::Step;

/// The part of the calls that fails.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// Writes fail after so many bytes, like those to a full disk.
    Full { room: usize },
    /// Steps for which the function returns true fail with EIO and without an effect.
    Broken(fn(&Step<'_>) -> bool),
    /// All steps after the first so many have no effect, like those of a process that has crashed.
    Crashed { after: usize },
}

thread_local! {
    static FAULT: RefCell<Option<Fault>> = const { RefCell::new(None) };
}

/// Runs a function during a fault.
pub(crate) fn during<T>(fault: Fault, run: impl FnOnce() -> T) -> T {
    FAULT.set(Some(fault));
    let result = run();
    FAULT.set(None);
    result
}

/// Called before each step.
pub(crate) fn reach(step: Step<'_>) -> io::Result<()> {
    let broken = || Err(io::Error::from_raw_os_error(5));
    FAULT.with_borrow_mut(|fault| match (fault, step) {
        (Some(Fault::Full { room }), Step::Write { file, bytes, at }) => {
            let written = bytes.len().min(*room);
            *room -= written;
            if written == bytes.len() {
                return Ok(());
            }
            file.write_all_at(&bytes[..written], at).unwrap();
            Err(io::Error::from_raw_os_error(28))
        }
        (Some(Fault::Broken(is_broken)), step) if is_broken(&step) => broken(),
        (Some(Fault::Crashed { after: 0 }), _) => broken(),
        (Some(Fault::Crashed { after }), _) => {
            *after -= 1;
            Ok(())
        }
        _ => Ok(()),
    })
}
