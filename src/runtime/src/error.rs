//! What can go wrong before a guest runs. Afterwards it is an [`crate::Exit`].

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use coracle_network::NetworkError;
use serde::{Deserialize, Serialize};

/// The runtime could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The folder of compiled code is not usable.
    #[error("compiled code cannot be kept in {path}")]
    CacheDir {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The folder of compiled code belongs to somebody else, who could put code into this process.
    #[error("compiled code cannot be kept in {path}: it belongs to another user")]
    CacheOwner {
        /// The folder.
        path: PathBuf,
    },
    /// The engine refused its settings, or the host cannot reserve the address space.
    #[error("the Wasm engine cannot be set up for {containers} containers")]
    Engine {
        /// How many it was to be set up for.
        containers: u32,
        /// Why.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// Threads could not be started.
    #[error("guest threads cannot be started")]
    Threads(#[source] io::Error),
}

/// A module is not one that can run here. Clones share their source. What a module is refused for can come from
/// another process.
#[derive(Debug, Clone, thiserror::Error, Serialize, Deserialize)]
pub enum PrepareError {
    /// The file cannot be read.
    #[error("module {path} cannot be read")]
    #[serde(skip)]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// It is larger than [`crate::limits::MODULE_BYTES`].
    #[error("module is larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// It is not WebAssembly at all.
    #[error("not a WebAssembly module or component")]
    NotWasm,
    /// It is WebAssembly, but not valid.
    #[error("invalid WebAssembly: {message}")]
    Invalid {
        /// What the validator says.
        message: String,
    },
    /// It uses a proposal that the engine does not run.
    #[error("not supported: {message}")]
    Unsupported {
        /// Which, and what to do.
        message: String,
    },
    /// It has nothing to start.
    #[error("not a program: {message}")]
    NotProgram {
        /// What is missing.
        message: String,
    },
    /// It wants something of its host that Coracle does not offer.
    #[error("unknown import `{import}`{why}")]
    UnknownImport {
        /// The interface or function, as the module names it.
        import: String,
        /// What would have to be different.
        why: MissingImport,
    },
    /// It cannot be linked, although every import has a known name.
    #[error("module cannot be linked: {message}")]
    Link {
        /// What the linker says.
        message: String,
    },
    /// The compiler failed.
    #[error("module cannot be compiled: {message}")]
    Compile {
        /// What the compiler says.
        message: String,
    },
    /// It takes more than a module of its size may.
    #[error("compiling took more than {limit}")]
    TooCostly {
        /// How much of what: `30s of CPU time`, `512 MiB of memory`.
        limit: String,
    },
    /// By the clock it took too long: it may not have got enough of the processors, so that it may be tried again.
    #[error("the compiler has not ended within {limit}: the node may be too busy")]
    Overdue {
        /// How much: `600s`.
        limit: String,
    },
    /// The node has not as much memory left as the compiler needs, or pods want it. It may be tried again.
    #[error("the node has too little memory left to compile the module")]
    NoMemory,
    /// Somebody of the host ended the compiler's process, usually the kernel for want of memory. The module need not
    /// be the reason, so that it may be tried again at once.
    #[error("the compiler was killed: the node may be out of memory")]
    Killed,
    /// The compiler's process cannot be run.
    #[error("the compiler cannot be run")]
    #[serde(skip)]
    Compiler(#[source] Arc<io::Error>),
    /// The runtime is going away.
    #[error("the runtime has ended")]
    Ended,
}

/// Why an import is not there, as the rest of the sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum MissingImport {
    /// Coracle has nothing of this name.
    #[error("")]
    Unknown,
    /// It has other versions of it.
    #[error(": {0}")]
    Version(String),
    /// It belongs to WASI 0.3.
    #[error(": WASI 0.3 needs the node's flag --wasi-p3")]
    Preview3,
    /// A bindings generator made the module for the component model, and nobody made a component of it.
    #[error(": the module must be made a component (`wasm-tools component new`)")]
    Unfinished,
}

/// A container could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// As many containers as the runtime was set up for are running.
    #[error("no room for another container: {running} are running, {}", why_full(.needed))]
    Exhausted {
        /// How many are running.
        running: u32,
        /// How many of the node's places it needs. An ordinary container needs one.
        needed: u32,
    },
    /// It is a handler, which nothing but a request can start.
    #[error("not a command: it is a `wasi:http` handler")]
    NotCommand,
    /// It is a command, which starts by itself.
    #[error("not a `wasi:http` handler: it is a command")]
    NotHandler,
    /// A port on which a 0.1 module is to find a listener, or a handler is to be served, is not to be had.
    #[error("cannot listen on port {port}")]
    Listen {
        /// The port.
        port: u16,
        /// Why.
        #[source]
        source: NetworkError,
    },
}

fn why_full(needed: &u32) -> String {
    match needed {
        0 | 1 => "which is the limit of this node".to_owned(),
        _ => format!("and it needs {needed} places of this node for its memories and tables"),
    }
}
