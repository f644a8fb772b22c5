//! How a guest is asked to end, in the words it understands: the end of its stdin, and listeners that fail.
//!
//! ```text
//!   running ──stop──▶ asked: stdin ends, listeners drain ──▶ it returns, or is killed
//!               └───▶ nothing to notice it by: ended at once, as by SIGTERM's default
//! ```

use coracle_network::DrainHandle;
use parking_lot::Mutex;

use crate::stdin::{Stdin, StdinCloser};

/// What a container can be asked to end by.
#[derive(Default)]
pub(crate) struct Stop(Mutex<State>);

#[derive(Default)]
struct State {
    asked: bool,
    stdin: Option<StdinCloser>,
    /// Listeners that exist, and some that are gone.
    listeners: Vec<DrainHandle>,
}

impl Stop {
    pub(crate) fn new(stdin: &Stdin) -> Stop {
        let stdin = match stdin {
            Stdin::Closed => None,
            Stdin::Pipe(reader) => Some(reader.closer()),
        };
        Stop(Mutex::new(State { stdin, ..State::default() }))
    }

    /// The guest listens. Once it was asked to end, it is told so by its new listeners, too.
    pub(crate) fn listens(&self, listener: DrainHandle) {
        let mut state = self.0.lock();
        state.listeners.retain(DrainHandle::is_open);
        if state.asked {
            listener.drain();
        }
        state.listeners.push(listener);
    }

    /// Asks the guest to end; false if it cannot notice. Asking again does nothing.
    pub(crate) fn ask(&self) -> bool {
        let mut state = self.0.lock();
        if std::mem::replace(&mut state.asked, true) {
            return true;
        }
        let stdin = state.stdin.take().is_some_and(|stdin| stdin.close());
        state.listeners.retain(DrainHandle::drain);
        stdin || !state.listeners.is_empty()
    }
}
