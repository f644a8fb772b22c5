//! How a guest is asked to end, in the words it understands: the end of its stdin, listeners that fail, and
//! `coracle:lifecycle`.
//!
//! ```text
//!   running ──stop──▶ asked: stdin ends, listeners drain, `stopping` is ready ──▶ it returns, or is killed
//!               └───▶ nothing to notice it by: ended at once, as by SIGTERM's default
//! ```

use std::pin::pin;

use coracle_network::DrainHandle;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::stdin::{Stdin, StdinCloser, StdinReader, StdinWriter, stdin_pipe};

/// What a container can be asked to end by.
#[derive(Default)]
pub(crate) struct Stop {
    state: Mutex<State>,
    told: Notify,
}

#[derive(Default)]
struct State {
    asked: bool,
    /// The guest has looked whether it was asked: it knows the word.
    looks: bool,
    stdin: Option<StdinCloser>,
    /// Listeners that exist, and some that are gone.
    listeners: Vec<DrainHandle>,
    /// Pipes that nothing is written into: they end.
    pipes: Vec<StdinWriter>,
}

impl Stop {
    pub(crate) fn new(stdin: &Stdin) -> Stop {
        let stdin = match stdin {
            Stdin::Closed => None,
            Stdin::Pipe(reader) => Some(reader.closer()),
        };
        Stop { state: Mutex::new(State { stdin, ..State::default() }), told: Notify::new() }
    }

    /// The guest listens. Once it was asked to end, it is told so by its new listeners, too.
    pub(crate) fn listens(&self, listener: DrainHandle) {
        let mut state = self.state.lock();
        state.listeners.retain(DrainHandle::is_open);
        if state.asked {
            listener.drain();
        }
        state.listeners.push(listener);
    }

    /// Asks the guest to end; false if it cannot notice. Asking again does nothing.
    pub(crate) fn ask(&self) -> bool {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.asked, true) {
            return true;
        }
        let stdin = state.stdin.take().is_some_and(|stdin| stdin.close());
        state.listeners.retain(DrainHandle::drain);
        state.pipes.clear();
        self.told.notify_waiters();
        stdin || state.looks || !state.listeners.is_empty()
    }

    /// Whether the guest was asked to end, for the guest, which shows with it that it looks.
    pub(crate) fn look(&self) -> bool {
        let mut state = self.state.lock();
        state.looks = true;
        state.asked
    }

    /// A pipe that comes to its end when the guest is asked to end, for the guest, which shows with it that it looks.
    pub(crate) fn pipe(&self) -> StdinReader {
        let (writer, reader) = stdin_pipe();
        let mut state = self.state.lock();
        state.looks = true;
        state.pipes.retain(StdinWriter::is_read);
        if !state.asked {
            state.pipes.push(writer);
        }
        reader
    }

    /// Completes when the guest was asked to end.
    pub(crate) async fn asked(&self) {
        let mut told = pin!(self.told.notified());
        // From here on no word is missed.
        told.as_mut().enable();
        if !self.state.lock().asked {
            told.await;
        }
    }

    #[cfg(test)]
    pub(crate) fn looks(&self) -> bool {
        self.state.lock().looks
    }
}
