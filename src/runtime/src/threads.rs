//! The threads that guests and the compiler run on: not the control plane's, and below it in priority, so that
//! a busy guest delays neither API requests nor other parts of the node.

use std::io;

use rayon::ThreadPool;
use tokio::runtime::{Builder, Runtime};

/// How much nicer guests are than the control plane: five steps give them about a third of its share when both
/// want a core.
const GUEST_NICE: i32 = 5;

/// Compilation waits for everything else; a pod that starts from a cached module does not wait for it.
const COMPILE_NICE: i32 = 15;

/// Threads that stand in while a guest waits for a disk.
const BLOCKING_THREADS: usize = 64;

/// Cranelift recurses over deeply nested code of guests.
const COMPILE_STACK: usize = 8 << 20;

/// The guests' own tokio runtime.
pub(crate) fn guests(threads: usize) -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(threads.max(1))
        .max_blocking_threads(BLOCKING_THREADS)
        // Guests yield by waking themselves. With tokio's default of 61 polls between looks at timers and
        // sockets, a hundred spinning guests delay every timer by 57 ms (measured); with 1 by one tick.
        .event_interval(1)
        .thread_name("guest")
        .on_thread_start(|| nice(GUEST_NICE))
        .enable_all()
        .build()
}

/// The compiler's threads.
pub(crate) fn compilers(threads: usize) -> io::Result<ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.max(1))
        .stack_size(COMPILE_STACK)
        .thread_name(|_| "compile".into())
        .start_handler(|_| nice(COMPILE_NICE))
        .build()
        .map_err(io::Error::other)
}

/// Lowers the priority of the calling thread. On Linux a priority belongs to a thread, and "process 0" is the
/// one that calls.
fn nice(level: i32) {
    if let Err(error) = rustix::process::setpriority_process(None, level) {
        tracing::debug!(%error, "a thread keeps its priority");
    }
}
