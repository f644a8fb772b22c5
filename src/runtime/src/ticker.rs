//! The clock that makes guests yield: one thread that advances the engine's epoch while guests run.
//!
//! ```text
//!   parked ──first guest polled──▶ ticking ──no guest polled for IDLE_TICKS──▶ parked
//! ```
//!
//! A node whose guests all wait has no timer at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use wasmtime::{Engine, EngineWeak};

/// How long a guest may run before it is asked whether others want to. With two threads and a hundred
/// spinning guests each waits 50 ms for its turn; halving the tick costs spinning guests about one percent.
const TICK: Duration = Duration::from_millis(1);

/// Ticks without a running guest before the thread parks: waking it costs more than a few idle ticks.
const IDLE_TICKS: u32 = 20;

/// Counts running guests; the ticker's thread looks at it.
#[derive(Default)]
pub(crate) struct Ticker {
    running: AtomicUsize,
    parked: AtomicBool,
    stopped: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

/// A guest is being polled as long as this lives.
pub(crate) struct Running<'a>(&'a Ticker);

impl Ticker {
    /// Starts the thread. It ends after [`Ticker::stop`], once no guest runs, and does not keep the engine (and
    /// its address space) alive.
    pub(crate) fn start(engine: &Engine) -> std::io::Result<Arc<Ticker>> {
        let ticker = Arc::new(Ticker::default());
        let (clock, engine) = (Arc::clone(&ticker), engine.weak());
        std::thread::Builder::new().name("epoch".into()).spawn(move || clock.run(&engine))?;
        Ok(ticker)
    }

    /// A guest is about to run.
    pub(crate) fn enter(&self) -> Running<'_> {
        // Sequentially consistent on both sides: either this sees `parked`, or the thread sees `running`.
        if self.running.fetch_add(1, Ordering::SeqCst) == 0 && self.parked.load(Ordering::SeqCst) {
            let _lock = self.lock.lock();
            self.wake.notify_one();
        }
        Running(self)
    }

    /// Lets the thread end when the last guest has yielded.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _lock = self.lock.lock();
        self.wake.notify_one();
    }

    fn idle(&self) -> bool {
        self.running.load(Ordering::SeqCst) == 0
    }

    fn run(&self, engine: &EngineWeak) {
        let mut idle = 0;
        let mut lock = self.lock.lock();
        loop {
            idle = if self.idle() { idle + 1 } else { 0 };
            if idle > IDLE_TICKS {
                self.parked.store(true, Ordering::SeqCst);
                while self.idle() {
                    if self.stopped.load(Ordering::SeqCst) {
                        return;
                    }
                    self.wake.wait(&mut lock);
                }
                self.parked.store(false, Ordering::SeqCst);
                idle = 0;
            }
            self.wake.wait_for(&mut lock, TICK);
            if let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
            }
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}
