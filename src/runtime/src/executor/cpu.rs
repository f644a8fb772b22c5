//! The CPU time of threads, as they see it and as others do.

#![expect(unsafe_code, reason = "the clock of another thread has no safe name")]

use rustix::time::{ClockId, clock_gettime};

use super::queue::Nanos;

/// Measures the CPU time of its thread.
pub(super) struct Watch(Nanos);

impl Watch {
    pub(super) fn start() -> Watch {
        Watch(thread_nanos())
    }

    /// The time since the last lap.
    pub(super) fn lap(&mut self) -> Nanos {
        let before = std::mem::replace(&mut self.0, thread_nanos());
        self.0.saturating_sub(before)
    }
}

/// CPU time of this thread.
fn thread_nanos() -> Nanos {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// The CPU time of a thread, for others.
#[derive(Debug, Clone, Copy)]
pub(super) struct ThreadClock(libc::clockid_t);

impl ThreadClock {
    /// That of the calling thread; `None` if it has none.
    pub(super) fn of_this_thread() -> Option<ThreadClock> {
        let mut clock = 0;
        // SAFETY: the calling thread exists, and the call writes to `clock` alone.
        let failed = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
        (failed == 0).then_some(ThreadClock(clock))
    }

    /// CPU time of the thread; `None` if it has ended.
    pub(super) fn nanos(self) -> Option<Nanos> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call writes to `time` alone, and fails for a clock that does not exist.
        let failed = unsafe { libc::clock_gettime(self.0, &raw mut time) };
        let (seconds, nanos) = (u64::try_from(time.tv_sec).ok()?, u64::try_from(time.tv_nsec).ok()?);
        (failed == 0).then_some(seconds * 1_000_000_000 + nanos)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_thread_is_measured_from_elsewhere() {
        let (tell, clock) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let (mut watch, mut used) = (Watch::start(), 0);
            while used < 5_000_000 {
                used += watch.lap();
            }
            tell.send(ThreadClock::of_this_thread().unwrap()).unwrap();
            ended.recv().unwrap_err();
        });
        let clock = clock.recv().unwrap();
        assert!(clock.nanos().unwrap() >= 5_000_000);
        drop(end);
        thread.join().unwrap();
        assert!(ThreadClock::of_this_thread().unwrap().nanos().is_some());
    }
}
