//! The runtime of containers: Wasm programs, compiled once, each instance held to its own files, network,
//! memory and time.
//!
//! Read first: [`Runtime`] (prepare a module, start a container), [`ContainerSpec`] (all that a container gets:
//! what is not in it does not exist for the guest) and [`Container`] (the handle: wait, kill, usage).
//!
//! ```text
//!   prepare: bytes ─▶ inspect ─▶ compile, or the cache ─▶ Program
//!   start:   Program + ContainerSpec ─▶ instance on the guest threads ─▶ Exit
//!   serve:   Program + ContainerSpec + HttpConfig ─▶ a listener; an instance per request
//! ```
//!
//! Components see `wasi:filesystem` over `coracle-vfs`, `wasi:sockets` and `wasi:http` over `coracle-network`, and
//! the rest from `wasmtime-wasi`. Core modules see WASI 0.1 (`preview1`), all our own, over the same files and the
//! same network. It must never give a guest anything of the host: no file, no socket, no environment, no thread of
//! the control plane. Guests run on an executor of their own (`executor`: weights, quotas, accounting), below the
//! control plane's priority, and what they can make the host hold is bounded by the constants of [`limits`] and by
//! their pod's and node's budgets: memories, tables and contexts of instances, requests and bodies of `wasi:http` and
//! answers that nobody has read yet count as their container's memory, and so do connections of who asks a handler as
//! soon as they hold more than a few kilobytes (the table of what that comes to is in `http`); descriptors, sockets and
//! streams are counted. Whoever takes more of the engine's pool than an ordinary container takes more of its places, and a
//! handler, which takes a place for each request, leaves a quarter of them to others (`places`). A container that finds
//! none may wait for one in a line ([`Runtime::queue`]), which each that is given back is handed to; a request
//! waits, until its timeout, while what is left is for others, and is refused at once if nothing is (503,
//! `Retry-After`), as is what is started beside a container. Whom the engine has no room for after all ends as
//! [`Exit::Exhausted`]. A guest that wants memory which its node does not have waits without a thread, pods in turns,
//! until somebody has given some back.
//!
//! Who is killed runs nothing any more after a millisecond or two, also in the middle of filling or copying gigabytes:
//! that is compiled to be done in pieces (`program::pieces`). The exit is known when memory was given back, which takes
//! a tenth of a millisecond for each MiB that was used. What the engine does not stop in is a string that one part of a
//! composed component hands to another, and an array of objects that is made, filled or copied: such may take as long
//! as the container's memory limit lets them.
//!
//! Programs with objects that are collected or with exceptions (the GC and exception-handling proposals) have a heap,
//! which is one more of the engine's memories: it counts as the container's memory and takes a place. The collector
//! copies what lives from one half of it to the other, and the heap doubles when more than half of a half lives, so
//! that such a program needs several times the memory of its living objects. It gives way between each few thousand
//! objects; who is killed in a collection is gone when the collection is done. Programs without either have nothing of
//! this, and their code is the same.

mod container;
mod engine;
mod error;
mod executor;
mod files;
#[doc(hidden)]
pub mod fuzz;
mod http;
mod lifecycle;
mod limiter;
pub mod limits;
mod linker;
mod output;
mod p3;
mod pipe;
mod places;
mod poll;
mod preview1;
mod program;
mod run;
mod runtime;
mod sockets;
mod stack;
mod state;
mod stdin;
mod stdio;
mod stop;
mod threads;

pub use container::{Container, ContainerSpec, Cpu, Exit, TERMINATED, Usage};
pub use engine::Density;
pub use error::{MissingImport, PrepareError, RuntimeError, StartError};
pub use http::{BUCKETS, CONCURRENCY_MAX, HttpConfig, HttpUsage};
pub use output::{Output, OutputReader, PipedOutput, output_pipe};
pub use places::{Place, Queued};
pub use program::{Compiler, Program, ProgramKind, compile_process, digest};
pub use runtime::{Config, Runtime};
pub use stdin::{Stdin, StdinReader, StdinWriter, stdin_pipe};

#[cfg(test)]
mod tests;
