//! What a program knows of itself and of the world: arguments, environment, clocks, randomness, its end.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::SystemTime;

use coracle_network::limits::BACKLOG_DEFAULT;
use coracle_network::{PodStack, TcpListener};
use rand::RngExt as _;
use wasmtime::Caller;
use wasmtime_wasi::I32Exit;

use super::abi::{
    CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME, CLOCK_REALTIME, CLOCK_THREAD_CPUTIME, Errno, Result, code,
};
use super::files::nanoseconds;
use super::{Guest, with};
use crate::error::StartError;
use crate::limits::CHUNK;
use crate::state::State;

/// Nanoseconds between two values of the wall and the monotonic clock.
const CLOCK_STEP: u64 = 1;

/// The same of the CPU clocks, which are counted when a guest yields.
const CPU_CLOCK_STEP: u64 = 1_000_000;

/// Listeners that a program finds open.
#[derive(Debug, Default)]
pub(crate) struct Listeners(pub(super) Vec<TcpListener>);

impl Listeners {
    /// Listens on these ports of the pod, on every address.
    pub(crate) fn open(network: &PodStack, ports: &[u16]) -> std::result::Result<Listeners, StartError> {
        let open = |port: &u16| {
            let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port));
            let listener = network.listen(address, BACKLOG_DEFAULT);
            listener.map_err(|source| StartError::Listen { port: *port, source })
        };
        ports.iter().map(open).collect::<std::result::Result<_, _>>().map(Listeners)
    }
}

impl Guest<'_> {
    pub(super) fn args_get(&mut self, pointers: u32, text: u32) -> Result<()> {
        let args = &self.preview1.args;
        strings(&mut self.memory, args.iter().map(|arg| [arg.as_str(), "", ""]), pointers, text)
    }

    pub(super) fn args_sizes_get(&mut self, count_at: u32, bytes_at: u32) -> Result<()> {
        let args = &self.preview1.args;
        let bytes = args.iter().map(|arg| arg.len() + 1).sum();
        self.put_sizes(args.len(), bytes, count_at, bytes_at)
    }

    pub(super) fn environ_get(&mut self, pointers: u32, text: u32) -> Result<()> {
        let env = &self.preview1.env;
        let entries = env.iter().map(|(name, value)| [name.as_str(), "=", value.as_str()]);
        strings(&mut self.memory, entries, pointers, text)
    }

    pub(super) fn environ_sizes_get(&mut self, count_at: u32, bytes_at: u32) -> Result<()> {
        let env = &self.preview1.env;
        let bytes = env.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
        self.put_sizes(env.len(), bytes, count_at, bytes_at)
    }

    fn put_sizes(&mut self, count: usize, bytes: usize, count_at: u32, bytes_at: u32) -> Result<()> {
        self.put_count(count_at, count)?;
        self.put_count(bytes_at, bytes)
    }

    pub(super) fn clock_res_get(&mut self, clock: u32, result_at: u32) -> Result<()> {
        let step = match clock {
            CLOCK_REALTIME | CLOCK_MONOTONIC => CLOCK_STEP,
            CLOCK_PROCESS_CPUTIME | CLOCK_THREAD_CPUTIME => CPU_CLOCK_STEP,
            _ => return Err(Errno::Inval),
        };
        self.memory.put_u64(result_at, step)
    }

    /// The precision that the guest would do with is ignored: there is none cheaper.
    pub(super) fn clock_time_get(&mut self, clock: u32, _precision: u64, result_at: u32) -> Result<()> {
        let time = self.time(clock)?;
        self.memory.put_u64(result_at, time)
    }

    /// Nanoseconds of a clock. The monotonic one begins with the program, at 1: Go takes 0 for a fault.
    pub(super) fn time(&self, clock: u32) -> Result<u64> {
        let time = match clock {
            CLOCK_REALTIME => return Ok(nanoseconds(now())),
            CLOCK_MONOTONIC => self.preview1.started.elapsed(),
            CLOCK_PROCESS_CPUTIME | CLOCK_THREAD_CPUTIME => self.preview1.control.usage().cpu,
            _ => return Err(Errno::Inval),
        };
        Ok(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).saturating_add(1))
    }
}

/// The wall time now.
#[expect(clippy::disallowed_methods, reason = "the guests' own clock")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// Writes strings, each ended by a zero, one after the other, and where each begins.
fn strings<'s>(
    memory: &mut super::GuestMemory<'_>,
    strings: impl Iterator<Item = [&'s str; 3]>,
    pointers: u32,
    text: u32,
) -> Result<()> {
    let (mut pointer, mut at) = (pointers, text);
    for parts in strings {
        memory.put_u32(pointer, at)?;
        pointer = pointer.checked_add(4).ok_or(Errno::Fault)?;
        for part in parts.map(str::as_bytes).into_iter().chain([&b"\0"[..]]) {
            memory.put(at, part)?;
            at = u32::try_from(part.len())
                .ok()
                .and_then(|length| at.checked_add(length))
                .ok_or(Errno::Fault)?;
        }
    }
    Ok(())
}

/// Fills the guest's buffer, in pieces, so that a long one does not hold the thread.
pub(super) async fn random_get(caller: &mut Caller<'_, State>, at: u32, length: u32) -> Result<()> {
    with(caller, |guest| guest.memory.check(at, length))?;
    let mut done = 0;
    while done < length {
        let part = (length - done).min(CHUNK as u32);
        with(caller, |guest| {
            rand::rng().fill(guest.memory.bytes_mut(at + done, part)?);
            Ok(())
        })?;
        done += part;
        if done < length {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// Ends the program with this code, any code.
pub(super) fn exit(status: i32) -> wasmtime::Result<()> {
    Err(wasmtime::Error::new(I32Exit(status)))
}

/// A signal to itself: a program has no handlers, so each does what it does by default. Those that end it give
/// the code that a shell would show.
pub(super) fn raise(signal: u32) -> wasmtime::Result<u32> {
    match default_action(signal) {
        Action::Ignore => Ok(code(Ok(()))),
        Action::End(number) => Err(wasmtime::Error::new(I32Exit(128 + number))),
        Action::Stop => Ok(code(Err(Errno::NotSup))),
        Action::Unknown => Ok(code(Err(Errno::Inval))),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Ignore,
    /// With Linux's number of the signal.
    End(i32),
    Stop,
    Unknown,
}

fn default_action(signal: u32) -> Action {
    const LAST: u32 = 30;
    match signal {
        // None at all, then CHLD, CONT, URG and WINCH.
        0 | 16 | 17 | 22 | 27 => Action::Ignore,
        // STOP, TSTP, TTIN and TTOU: nobody could continue it.
        18..=21 => Action::Stop,
        // The first fifteen have Linux's numbers; then Linux has one more (STKFLT).
        1..=15 => Action::End(signal.cast_signed()),
        23..=LAST => Action::End(signal.cast_signed() + 1),
        _ => Action::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_do_what_they_do_by_default() {
        #[track_caller]
        fn check(signal: u32, expected: Action) {
            assert_eq!(default_action(signal), expected);
        }
        check(0, Action::Ignore);
        check(2, Action::End(2));
        check(6, Action::End(6));
        check(9, Action::End(9));
        check(15, Action::End(15));
        check(16, Action::Ignore);
        check(18, Action::Stop);
        check(23, Action::End(24));
        check(30, Action::End(31));
        check(31, Action::Unknown);
        check(u32::MAX, Action::Unknown);
    }
}
