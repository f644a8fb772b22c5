//! The threads that guests and the compiler run on: not the control plane's, and below it in priority, so that
//! a busy guest delays neither API requests nor other parts of the node.

use std::io;

use rayon::ThreadPool;
use tokio::runtime::Builder;

use crate::executor::Executor;

/// How much nicer guests are than the control plane: five steps give them about a third of its share when both
/// want a core.
const GUEST_NICE: i32 = 5;

/// Compilation waits for everything else; a pod that starts from a cached module does not wait for it.
const COMPILE_NICE: i32 = 15;

/// Threads for what hosts do in the background for guests.
const BLOCKING_THREADS: usize = 64;

/// Cranelift recurses over deeply nested code of guests.
pub(crate) const COMPILE_STACK: usize = 8 << 20;

/// How much nicer than the control plane the thread is that moves the guests' timers and sockets: a guest that
/// spins must not make others late, and one that opens connections must not hinder the control plane.
const IO_NICE: i32 = 2;

/// The executor of guests: as many threads as the node gives them, and one for their timers and sockets.
pub(crate) fn guests(threads: usize, tick: impl Fn() + Send + 'static) -> io::Result<Executor> {
    let io = Builder::new_multi_thread()
        .worker_threads(threads.div_ceil(4))
        .max_blocking_threads(BLOCKING_THREADS)
        // What is polled here is short, but there may be much of it. With tokio's default of 61 polls between
        // looks at timers and sockets those of all guests would be late.
        .event_interval(1)
        .thread_name("guest-io")
        .on_thread_start(|| nice(IO_NICE))
        .enable_all()
        .build()?;
    Executor::start(threads, io, tick, || nice(GUEST_NICE))
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
