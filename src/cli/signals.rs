//! Stops a command at a signal.

use tokio::signal::unix::{SignalKind, signal};

/// Returns a future that is ready at the first SIGTERM or SIGINT. A second signal ends the process
/// at once, with exit code 1.
pub(super) fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
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
