//! Programs: modules that were found fit, compiled, and linked to what a node offers.
//!
//! ```text
//!   loader ─▶ cache ───────────────────────────── known ──▶ link ─▶ Program
//!      └─ line ─▶ process ─▶ worker (another process) ─ code ─▶ cache ─▶ link
//!                               └ inspect, pieces, compile
//! ```
//!
//! Whoever waits in the line for a compiler has their turn, however many modules others have.
//!
//! What looks at a module's bytes does so in the worker's process, with its limits: a module that takes too much
//! ends the worker, and nothing else notices. The worker's memory is lent by the node ([`line`]), and it ends when nobody
//! waits for its module any more.

mod cache;
mod compile;
mod context;
mod costly;
mod inspect;
mod line;
pub(crate) mod loader;
mod pieces;
mod process;
mod worker;

use sha2::{Digest, Sha256};
use wasmtime::InstancePre;
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::p3::bindings::CommandPre as Command3Pre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p3::bindings::ServicePre;

use self::cache::Pin;
pub use self::loader::Compiler;
pub(crate) use self::loader::{Loader, Source};
use self::pieces::Moved;
pub use self::worker::compile_process;
use crate::error::PrepareError;
use crate::limits::CONTEXT_FREE;
use crate::linker::Offers;
use crate::preview1;
use crate::state::State;

/// Whether bytes are a program, without the process around it that bounds what it takes: for `crate::fuzz`.
pub(crate) fn inspect_bytes(bytes: &[u8], offers: Offers) -> Result<(), PrepareError> {
    inspect::inspect(bytes, offers).map(drop)
}

/// A valid program as it is compiled, if that is not as it is: for `crate::fuzz`.
pub(crate) fn piecewise(bytes: &[u8]) -> Result<Option<Vec<u8>>, PrepareError> {
    let pieces = pieces::piecewise(bytes).map_err(inspect::invalid)?;
    Ok(pieces.map(|(program, _)| program))
}

/// A module that is ready to run. It is shared by all containers that run it, and stays loaded as long as
/// somebody holds it.
pub struct Program {
    digest: String,
    kind: ProgramKind,
    entry: Entry,
    places: u32,
    /// Bytes.
    context: u64,
    heap: bool,
    /// Where its instructions were before it was compiled.
    moved: Moved,
    asks_where: bool,
    /// Keeps its code in the cache.
    _pin: Option<Pin>,
}

/// What a program is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgramKind {
    /// It is started once and runs to its end.
    Command,
    /// It answers HTTP requests, each on its own.
    HttpHandler,
}

/// How a program is entered.
pub(crate) enum Entry {
    /// A command of WASI 0.2.
    Command(CommandPre<State>),
    /// A command of WASI 0.1.
    Module(InstancePre<State>),
    /// A `wasi:http` handler of WASI 0.2.
    Handler(ProxyPre<State>),
    /// A `wasi:http` handler of WASI 0.3.
    Handler3(ServicePre<State>),
    /// A command of WASI 0.3.
    Command3(Command3Pre<State>),
}

impl Program {
    /// The digest it was prepared under.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What it is for.
    pub fn kind(&self) -> ProgramKind {
        self.kind
    }

    /// Whether it is a 0.1 module that can accept connections: it finds listeners on the ports of
    /// [`crate::ContainerSpec::listen`].
    pub fn accepts(&self) -> bool {
        match &self.entry {
            Entry::Command(_) | Entry::Command3(_) | Entry::Handler(_) | Entry::Handler3(_) => false,
            Entry::Module(module) => {
                module.module().imports().any(|import| import.name() == preview1::ACCEPT)
            }
        }
    }

    /// How many of the engine's places an instance takes.
    pub(crate) fn places(&self) -> u32 {
        self.places
    }

    /// Bytes that an instance is charged with for what it makes the host keep beside memories and tables.
    pub(crate) fn context(&self) -> u64 {
        self.context.saturating_sub(CONTEXT_FREE)
    }

    /// Whether instances have a heap of objects that are collected.
    pub(crate) fn heap(&self) -> bool {
        self.heap
    }

    /// Where an instruction stands in the module, of which the engine knows only where it was when it was compiled.
    pub(crate) fn offset(&self, compiled: usize) -> usize {
        self.moved.before(compiled)
    }

    /// Whether it is a component that asks where it is to work. Others work in the directory that they find as theirs.
    pub(crate) fn asks_where(&self) -> bool {
        self.asks_where
    }

    pub(crate) fn entry(&self) -> &Entry {
        &self.entry
    }
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// The digest of a module, as images name it.
#[must_use]
pub fn digest(module: &[u8]) -> String {
    Sha256::digest(module).iter().fold(String::from("sha256:"), |text, byte| text + &format!("{byte:02x}"))
}
