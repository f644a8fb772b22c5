//! SIGINT and SIGTERM: the first asks for an orderly stop, the second ends the process.

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The exit code of a process that a second signal ended: 128 + SIGINT, as shells have it.
const FORCED: i32 = 130;

/// The signals that stop the process.
pub(crate) struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    /// Takes the signals over from the default handlers.
    pub(crate) fn listen() -> anyhow::Result<Stop> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Stop { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Waits for the next signal.
    pub(crate) async fn requested(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Runs the orderly stop; a signal meanwhile ends the process at once.
    pub(crate) async fn during(&mut self, stop: impl Future<Output = ()>) {
        tokio::select! {
            () = stop => {}
            () = self.requested() => {
                tracing::warn!("second signal: ending without waiting");
                std::process::exit(FORCED);
            }
        }
    }
}
