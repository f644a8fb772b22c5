//! WASI 0.1, directly: the functions that core modules import from `wasi_snapshot_preview1`, or from the older
//! `wasi_unstable`, over the container's view of files and its pod's network.
//!
//! Read first: [`Preview1`] (what a program of 0.1 has: arguments, descriptors, clocks), `Table` (its
//! descriptors) and [`add_to_linker`] (every function there is).
//!
//! ```text
//!   guest ─▶ function of the table below ─▶ Guest { memory, descriptors } ─▶ coracle-vfs, coracle-network
//!                                              │ EAGAIN, and the descriptor blocks
//!                                              └─▶ the guest's task waits; then the same again
//! ```
//!
//! Descriptors at the start: 0, 1 and 2; then, if the program imports `sock_accept`, a listener for each port
//! that the container declares, so that the first is 3, where programs made for `wasmtime --tcplisten` and for
//! systemd's `LISTEN_FDS` look for it; then `/`, the root of the container's view; then, if there is one, the working
//! directory as `.`. What looks for directories (wasi-libc, Rust, Go) skips the listeners, because `fd_prestat_get` calls them something that is no directory.
//! A program that cannot accept gets no listeners, so that a port it only declares stays closed. A listener says
//! that it does not block, as Wasmtime's do (Go would otherwise accept and do nothing else), but waits for those
//! that accept without having asked or said how it behaves: simple programs in C and Rust.
//!
//! A working directory is told as `PWD`, which Go begins in. wasi-libc begins in `/` whatever it is told: it makes all
//! paths relative itself, and of the directories found it uses the last that fits, which `.` always does. So a path
//! leads from there to the root if that has its first name, and to the working directory otherwise
//! (`Directory::working`).
//!
//! It must never trust a pointer, a length or a number of the guest, allocate what a guest asks for, or hold a
//! thread: what may wait is asynchronous, what may be long is done in pieces.

mod abi;
mod errors;
mod files;
mod memory;
mod paths;
mod poll;
mod process;
mod readdir;
mod sockets;
mod table;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use coracle_budget::Budget;
use tokio::time::Instant;
use wasmtime::{Caller, Extern, Linker, Memory};

use self::abi::{Errno, Result, Snapshot, code, fdflags};
use self::memory::GuestMemory;
use self::table::{Descriptor, Direction, Kind, OpenDirectory, Table};
use crate::container::ContainerSpec;
use crate::files as host_files;
use crate::run::Control;
use crate::sockets::Sockets;
use crate::state::State;
use crate::stdin::{Input, Stdin};
use crate::stdio::Stdio;

pub(crate) use self::process::Listeners;

/// The import modules, the newer one first.
const MODULES: [(&str, Snapshot); 2] =
    [("wasi_snapshot_preview1", Snapshot::One), ("wasi_unstable", Snapshot::Zero)];

/// What a program of 0.1 has.
pub(crate) struct Preview1 {
    args: Vec<String>,
    env: Vec<(String, String)>,
    table: Table,
    started: Instant,
    control: Arc<Control>,
    /// What its pod may hold.
    budget: Arc<Budget>,
    stdio: Stdio,
    /// Set once the program is instantiated.
    memory: Option<Memory>,
}

impl Preview1 {
    /// Takes out of the spec what is the program's alone.
    pub(crate) fn new(spec: &mut ContainerSpec, listeners: Listeners, control: &Arc<Control>) -> Preview1 {
        let mut table = Table::default();
        let mut open = |kind| {
            let flags = if matches!(kind, Kind::Listener { .. }) { fdflags::NONBLOCK } else { 0 };
            table.push(Descriptor::new(kind, flags)).is_ok()
        };
        let mut opened = true;
        let stdio = Stdio::new(&spec.stdin, &spec.stdout, &spec.stderr, spec.tty);
        opened &=
            open(Kind::Input { input: Input::new(std::mem::take(&mut spec.stdin)), terminal: spec.tty });
        for output in [&spec.stdout, &spec.stderr] {
            opened &= open(Kind::Output { output: Arc::clone(output), terminal: spec.tty, opened: false });
        }
        let mut env = std::mem::take(&mut spec.env);
        let mut tell = |name: &str, value: String| {
            if !env.iter().any(|(known, _)| known == name) {
                env.push((name.to_owned(), value));
            }
        };
        if !listeners.0.is_empty() {
            tell("LISTEN_FDS", listeners.0.len().to_string());
        }
        if let Some(dir) = &spec.working_dir {
            tell("PWD", dir.clone());
        }
        for listener in listeners.0 {
            control.stop.listens(listener.drain_handle());
            opened &= open(Kind::Listener { listener, unseen: true });
        }
        let mut preopen = |directory, name| {
            open(Kind::Directory(OpenDirectory { directory, preopened: Some(name), listing: None }))
        };
        let root = spec.mounts.root();
        let working = spec.working_dir.as_deref().and_then(|dir| host_files::working(&root, dir));
        opened &= preopen(root, host_files::ROOT);
        opened &= working.is_none_or(|working| preopen(working, host_files::WORKING));
        debug_assert!(opened, "a new table has room");
        Preview1 {
            args: std::mem::take(&mut spec.args),
            env,
            table,
            started: Instant::now(),
            control: Arc::clone(control),
            budget: Arc::clone(&spec.budget),
            stdio,
            memory: None,
        }
    }

    /// A descriptor that comes to its end when the program is asked to end, if there is room for one.
    pub(crate) fn open_stopping(&mut self) -> Option<u32> {
        self.table.check_room().ok()?;
        let input = Input::new(Stdin::Pipe(self.control.stop.pipe()));
        self.table.push(Descriptor::new(Kind::Input { input, terminal: false }, 0)).ok()
    }

    /// Where the program's pointers lead from now on. Until then the export is looked up at each call.
    pub(crate) fn set_memory(&mut self, memory: Option<Memory>) {
        self.memory = memory;
    }
}

/// What a function sees of its caller.
struct Guest<'a> {
    memory: GuestMemory<'a>,
    preview1: &'a mut Preview1,
    sockets: &'a Sockets,
}

/// Does something with the caller's memory and descriptors.
fn with<T>(caller: &mut Caller<'_, State>, operation: impl FnOnce(&mut Guest<'_>) -> Result<T>) -> Result<T> {
    let known = caller.data().preview1.as_ref().and_then(|preview1| preview1.memory);
    let memory = match known {
        Some(memory) => memory,
        None => match caller.get_export("memory") {
            Some(Extern::Memory(memory)) => memory,
            _ => return Err(Errno::Fault),
        },
    };
    let (memory, state) = memory.data_and_store_mut(caller);
    let State { preview1: Some(preview1), sockets, .. } = state else { return Err(Errno::NotSup) };
    operation(&mut Guest { memory: GuestMemory(memory), preview1, sockets })
}

/// Does something that may have to wait: tries, and if the answer is [`Errno::Again`] and the descriptor is one
/// that blocks, waits for it and tries again.
async fn retry(
    caller: &mut Caller<'_, State>,
    fd: u32,
    direction: Direction,
    mut attempt: impl FnMut(&mut Guest<'_>) -> Result<()>,
) -> u32 {
    loop {
        let result = with(caller, |guest| match attempt(guest) {
            Err(Errno::Again) if guest.preview1.table.get(fd)?.blocks() => Ok(false),
            result => result.map(|()| true),
        });
        match result {
            Ok(false) => ready(caller, fd, direction).await,
            Ok(true) => return code(Ok(())),
            Err(error) => return code(Err(error)),
        }
    }
}

/// Waits until an operation on a descriptor would not have to wait.
async fn ready(caller: &mut Caller<'_, State>, fd: u32, direction: Direction) {
    std::future::poll_fn(|cx| {
        let State { preview1, slack, .. } = caller.data_mut();
        let table = preview1.as_ref().map(|preview1| &preview1.table);
        let polled = match table.and_then(|table| table.get(fd).ok()) {
            Some(descriptor) => descriptor.poll(direction, cx),
            None => std::task::Poll::Ready(()),
        };
        slack.minds(polled)
    })
    .await;
}

/// Whether modules may import this.
pub(crate) fn offers(module: &str, function: &str) -> bool {
    MODULES.iter().any(|(name, snapshot)| {
        *name == module && FUNCTIONS.contains(&function) && (*snapshot == Snapshot::One || function != ACCEPT)
    })
}

/// The function by which a program shows that it is a server.
pub(crate) const ACCEPT: &str = "sock_accept";

/// Defines functions that answer at once, and lists their names.
macro_rules! functions {
    (
        $( now $now:ident($($arg:ident: $type:ty),*); )*
        $( own $own:ident; )*
    ) => {
        /// Every function of 0.1.
        const FUNCTIONS: &[&str] = &[$(stringify!($now),)* $(stringify!($own),)*];

        fn add_now(linker: &mut Linker<State>, module: &str) -> wasmtime::Result<()> {
            $(
                linker.func_wrap(module, stringify!($now), |mut caller: Caller<'_, State>, $($arg: $type),*| {
                    code(with(&mut caller, |guest| guest.$now($($arg),*)))
                })?;
            )*
            Ok(())
        }
    };
}

functions! {
    now args_get(pointers: u32, text: u32);
    now args_sizes_get(count_at: u32, bytes_at: u32);
    now environ_get(pointers: u32, text: u32);
    now environ_sizes_get(count_at: u32, bytes_at: u32);
    now clock_res_get(clock: u32, result_at: u32);
    now clock_time_get(clock: u32, precision: u64, result_at: u32);
    now fd_advise(fd: u32, offset: u64, length: u64, advice: u32);
    now fd_allocate(fd: u32, offset: u64, length: u64);
    now fd_close(fd: u32);
    now fd_datasync(fd: u32);
    now fd_fdstat_get(fd: u32, result_at: u32);
    now fd_fdstat_set_flags(fd: u32, flags: u32);
    now fd_fdstat_set_rights(fd: u32, base: u64, inheriting: u64);
    now fd_filestat_set_size(fd: u32, size: u64);
    now fd_filestat_set_times(fd: u32, accessed: u64, modified: u64, which: u32);
    now fd_pread(fd: u32, list: u32, count: u32, offset: u64, result_at: u32);
    now fd_prestat_get(fd: u32, result_at: u32);
    now fd_prestat_dir_name(fd: u32, name: u32, length: u32);
    now fd_pwrite(fd: u32, list: u32, count: u32, offset: u64, result_at: u32);
    now fd_renumber(from: u32, to: u32);
    now fd_sync(fd: u32);
    now fd_tell(fd: u32, result_at: u32);
    now path_create_directory(fd: u32, path: u32, length: u32);
    now path_filestat_set_times(fd: u32, lookup: u32, path: u32, length: u32, accessed: u64, modified: u64, which: u32);
    now path_link(fd: u32, lookup: u32, path: u32, length: u32, new_fd: u32, new_path: u32, new_length: u32);
    now path_open(fd: u32, lookup: u32, path: u32, length: u32, oflags: u32, base: u64, inheriting: u64, flags: u32, result_at: u32);
    now path_readlink(fd: u32, path: u32, length: u32, buffer: u32, room: u32, used_at: u32);
    now path_remove_directory(fd: u32, path: u32, length: u32);
    now path_rename(fd: u32, path: u32, length: u32, new_fd: u32, new_path: u32, new_length: u32);
    now path_symlink(target: u32, target_length: u32, fd: u32, path: u32, length: u32);
    now path_unlink_file(fd: u32, path: u32, length: u32);
    now sock_shutdown(fd: u32, how: u32);

    // Those that may wait, end the program, or differ between the snapshots.
    own fd_filestat_get;
    own fd_read;
    own fd_readdir;
    own fd_seek;
    own fd_write;
    own path_filestat_get;
    own poll_oneoff;
    own proc_exit;
    own proc_raise;
    own random_get;
    own sched_yield;
    own sock_accept;
    own sock_recv;
    own sock_send;
}

/// Adds both import modules to what modules may import.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    for (module, snapshot) in MODULES {
        add_now(linker, module)?;
        add_own(linker, module, snapshot)?;
        add_waiting(linker, module, snapshot)?;
    }
    Ok(())
}

/// Functions that answer at once, but not in the same way in both snapshots, or not at all.
fn add_own(linker: &mut Linker<State>, module: &str, snapshot: Snapshot) -> wasmtime::Result<()> {
    type Of<'a> = Caller<'a, State>;
    linker.func_wrap(module, "fd_filestat_get", move |mut caller: Of<'_>, fd: u32, result_at: u32| {
        code(with(&mut caller, |guest| guest.fd_filestat_get(snapshot, fd, result_at)))
    })?;
    linker.func_wrap(
        module,
        "fd_seek",
        move |mut caller: Of<'_>, fd: u32, offset: i64, whence: u32, result_at: u32| {
            code(with(&mut caller, |guest| guest.fd_seek(fd, offset, snapshot.whence(whence)?, result_at)))
        },
    )?;
    linker.func_wrap(
        module,
        "path_filestat_get",
        move |mut caller: Of<'_>, fd: u32, lookup: u32, path: u32, length: u32, result_at: u32| {
            code(with(&mut caller, |guest| {
                guest.path_filestat_get(snapshot, fd, lookup, path, length, result_at)
            }))
        },
    )?;
    linker.func_wrap(module, "proc_exit", |_: Of<'_>, status: i32| process::exit(status))?;
    linker.func_wrap(module, "proc_raise", |_: Of<'_>, signal: u32| process::raise(signal))?;
    Ok(())
}

/// Functions that may wait, or that take turns with other guests.
fn add_waiting(linker: &mut Linker<State>, module: &str, snapshot: Snapshot) -> wasmtime::Result<()> {
    type Of<'a> = Caller<'a, State>;
    linker.func_wrap_async(
        module,
        "fd_read",
        |mut caller: Of<'_>, (fd, list, count, result_at): (u32, u32, u32, u32)| {
            Box::new(async move {
                let attempt = |guest: &mut Guest<'_>| guest.fd_read(fd, list, count, result_at);
                retry(&mut caller, fd, Direction::Read, attempt).await
            })
        },
    )?;
    linker.func_wrap_async(
        module,
        "fd_write",
        |mut caller: Of<'_>, (fd, list, count, result_at): (u32, u32, u32, u32)| {
            Box::new(async move {
                let attempt = |guest: &mut Guest<'_>| guest.fd_write(fd, list, count, result_at);
                retry(&mut caller, fd, Direction::Write, attempt).await
            })
        },
    )?;
    linker.func_wrap_async(module, "fd_readdir", |mut caller: Of<'_>, call: (u32, u32, u32, u64, u32)| {
        Box::new(async move {
            let mut progress = readdir::Progress::from(call.3);
            loop {
                match with(&mut caller, |guest| guest.fd_readdir(call, &mut progress)) {
                    Ok(false) => tokio::task::yield_now().await,
                    result => break code(result.map(drop)),
                }
            }
        })
    })?;
    linker.func_wrap_async(
        module,
        "poll_oneoff",
        move |mut caller: Of<'_>, call: (u32, u32, u32, u32)| {
            Box::new(async move { code(poll::poll_oneoff(&mut caller, snapshot, call).await) })
        },
    )?;
    linker.func_wrap_async(module, "random_get", |mut caller: Of<'_>, (at, length): (u32, u32)| {
        Box::new(async move { code(process::random_get(&mut caller, at, length).await) })
    })?;
    linker.func_wrap_async(module, "sched_yield", |_: Of<'_>, (): ()| {
        Box::new(async {
            tokio::task::yield_now().await;
            code(Ok(()))
        })
    })?;
    if snapshot == Snapshot::One {
        linker.func_wrap_async(
            module,
            ACCEPT,
            |mut caller: Of<'_>, (fd, flags, result_at): (u32, u32, u32)| {
                Box::new(async move {
                    let attempt = |guest: &mut Guest<'_>| guest.sock_accept(fd, flags, result_at);
                    retry(&mut caller, fd, Direction::Read, attempt).await
                })
            },
        )?;
    }
    linker.func_wrap_async(
        module,
        "sock_recv",
        |mut caller: Of<'_>,
         (fd, list, count, flags, length_at, flags_at): (u32, u32, u32, u32, u32, u32)| {
            Box::new(async move {
                let mut received = 0;
                let attempt = |guest: &mut Guest<'_>| {
                    guest.sock_recv(fd, list, count, flags, (length_at, flags_at), &mut received)
                };
                retry(&mut caller, fd, Direction::Read, attempt).await
            })
        },
    )?;
    linker.func_wrap_async(
        module,
        "sock_send",
        |mut caller: Of<'_>, (fd, list, count, flags, length_at): (u32, u32, u32, u32, u32)| {
            Box::new(async move {
                let attempt = |guest: &mut Guest<'_>| guest.sock_send(fd, list, count, flags, length_at);
                retry(&mut caller, fd, Direction::Write, attempt).await
            })
        },
    )?;
    Ok(())
}
