//! Stops a command at a signal.

use tokio::signal::unix::{SignalKind, signal};

/// The signal to a process that writes past its limit of the size of files (signal(7)), which would end it.
const SIGXFSZ: i32 = 25;

/// Returns a future that is ready at the first SIGTERM or SIGINT. A second signal ends the process
/// at once, with exit code 1.
pub(super) fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Where files may not grow any further, a write fails, and the process goes on.
    let _file_limit = signal(SignalKind::from_raw(SIGXFSZ))?;
    Ok(async move {
        tokio::select! {
            _asked = terminate.recv() => {}
            _asked = interrupt.recv() => {}
        }
        tokio::spawn(async move {
            tokio::select! {
                _again = terminate.recv() => {}
                _again = interrupt.recv() => {}
            }
            std::process::exit(1);
        });
    })
}
