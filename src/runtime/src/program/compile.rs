//! From a module to machine code: what is done the same in this process and in another.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use wasmtime::Engine;

use super::cache::checksum;
use super::inspect::{self, Kind};
use super::wrap;
use crate::engine::Settings;
use crate::error::PrepareError;
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
}

/// Checks and compiles a module. `engine` has these settings.
pub(super) fn compile(engine: &Engine, settings: Settings, module: &[u8]) -> Result<Code, PrepareError> {
    let offers = Offers { wasi_p3: settings.wasi_p3 };
    let kind = inspect::inspect(module, offers)?;
    let component = match kind {
        Kind::Module => {
            let component = wrap::wrap(module)?;
            // A module with component types of its own may want more.
            inspect::check_component(&component, offers)?;
            Cow::Owned(component)
        }
        Kind::Command | Kind::Handler | Kind::Command3 | Kind::Handler3 => Cow::Borrowed(module),
    };
    let code = engine.precompile_component(&component);
    let bytes = code.map_err(|error| PrepareError::Compile { message: format!("{error:#}") })?;
    Ok(Code { facts: Facts { sum: checksum(&bytes), kind }, bytes })
}
