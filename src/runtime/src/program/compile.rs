//! From a module to machine code: what is done the same in this process and in another.

use serde::{Deserialize, Serialize};
use wasmtime::Engine;

use super::cache::checksum;
use super::context;
use super::inspect::{self, Found, Kind};
use super::pieces::{self, Moved};
use crate::engine::Settings;
use crate::error::PrepareError;
use crate::limits::CONTEXT_BYTES;
use crate::linker::Offers;

/// Compiled code.
pub(super) struct Code {
    pub(super) facts: Facts,
    pub(super) bytes: Vec<u8>,
}

/// What the cache keeps about compiled code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Facts {
    /// The checksum of the code.
    pub(super) sum: String,
    /// How it is entered.
    pub(super) kind: Kind,
    /// Bytes that an instance makes the host keep beside its memories and tables.
    pub(super) context: u64,
    /// Its instances have a heap of objects that are collected.
    pub(super) heap: bool,
    /// Where its instructions were before it was compiled.
    pub(super) moved: Moved,
}

/// Checks and compiles a module. `engine` has these settings.
pub(super) fn compile(engine: &Engine, settings: Settings, module: &[u8]) -> Result<Code, PrepareError> {
    let offers = Offers { wasi_p3: settings.wasi_p3 };
    let Found { kind, heap } = inspect::inspect(module, offers)?;
    let context = context::bytes(module, heap)?;
    if context > CONTEXT_BYTES {
        return Err(PrepareError::Link {
            message: format!(
                "an instance of it takes {context} bytes beside its memories and tables, and may take {CONTEXT_BYTES}"
            ),
        });
    }
    let rewritten = pieces::piecewise(module).map_err(inspect::invalid)?;
    let (module, moved) = match &rewritten {
        Some((module, moved)) => (module.as_slice(), moved.clone()),
        None => (module, Moved::default()),
    };
    let code = match kind {
        Kind::Module => engine.precompile_module(module),
        Kind::Command | Kind::Handler | Kind::Command3 | Kind::Handler3 => {
            engine.precompile_component(module)
        }
    };
    let bytes = code.map_err(|error| PrepareError::Compile { message: format!("{error:#}") })?;
    Ok(Code { facts: Facts { sum: checksum(&bytes), kind, context, heap, moved }, bytes })
}
