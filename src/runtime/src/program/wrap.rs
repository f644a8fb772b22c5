//! WASI 0.1 modules made into components, so that there is one path for all guests.
//!
//! The released adapter translates 0.1 into 0.2, with one loss: its `proc_exit` keeps only "ok" or "failed".
//! So a module's import of `proc_exit` is renamed to `exit-with-code` of `wasi:cli/exit` before it is wrapped.
//! The two have the same core type, `(i32) -> ()`, and neither returns.

use std::sync::OnceLock;

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
};
use wasmparser::{BinaryReader, ExternalKind, ImportSectionReader, Imports, Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata, metadata};

use super::inspect::{self, PREVIEW1};
use crate::error::PrepareError;

/// Counts changes to how modules are wrapped: cached code that was made otherwise is not used.
pub(super) const VERSION: u32 = 1;

/// Where `proc_exit` goes. The version is the adapter's own.
const EXIT_INTERFACE: &str = "wasi:cli/exit@0.2.12";
const EXIT_FUNCTION: &str = "exit-with-code";

/// Makes a component of a 0.1 command, which was inspected.
pub(super) fn wrap(module: &[u8]) -> Result<Vec<u8>, PrepareError> {
    let module = match redirect_exit(module)? {
        Some(module) => with_exit_type(module).map_err(|error| failed(&error))?,
        None => module.to_vec(),
    };
    let encode = || {
        ComponentEncoder::default()
            .module(&module)?
            .adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER)?
            .encode()
    };
    encode().map_err(|error| failed(&error))
}

fn failed(error: &impl std::fmt::Display) -> PrepareError {
    PrepareError::Invalid { message: format!("{error:#}") }
}

/// The functions that the adapter offers to modules.
pub(super) fn adapter_functions() -> &'static [String] {
    static FUNCTIONS: OnceLock<Vec<String>> = OnceLock::new();
    FUNCTIONS.get_or_init(|| {
        let payloads = Parser::new(0).parse_all(WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER).flatten();
        let exports = payloads.filter_map(|payload| match payload {
            Payload::ExportSection(section) => Some(section),
            _ => None,
        });
        exports
            .flatten()
            .flatten()
            .filter(|export| export.kind == ExternalKind::Func)
            .map(|export| export.name.to_owned())
            .collect()
    })
}

/// The module with its import of `proc_exit` renamed; `None` if it has none. Everything else is copied as it
/// is, byte for byte. The module is valid already.
fn redirect_exit(module: &[u8]) -> Result<Option<Vec<u8>>, PrepareError> {
    const PREAMBLE: usize = 8;
    const IMPORTS: u8 = 2;
    let mut reader = BinaryReader::new(&module[PREAMBLE..], 0);
    while !reader.eof() {
        let header = PREAMBLE + reader.original_position();
        let id = reader.read_u8().map_err(inspect::invalid)?;
        let length = reader.read_var_u32().map_err(inspect::invalid)? as usize;
        let content = reader.read_bytes(length).map_err(inspect::invalid)?;
        if id != IMPORTS {
            continue;
        }
        let Some(imports) = rename_exit(content)? else { return Ok(None) };
        let end = PREAMBLE + reader.original_position();
        let mut out = Vec::with_capacity(module.len() + EXIT_INTERFACE.len() + EXIT_FUNCTION.len());
        out.extend_from_slice(&module[..header]);
        out.push(IMPORTS);
        push_length(&mut out, imports.len());
        out.extend_from_slice(&imports);
        out.extend_from_slice(&module[end..]);
        return Ok(Some(out));
    }
    Ok(None)
}

/// The content of an import section with `proc_exit` renamed; `None` if it has none.
fn rename_exit(content: &[u8]) -> Result<Option<Vec<u8>>, PrepareError> {
    let section = ImportSectionReader::new(BinaryReader::new(content, 0)).map_err(inspect::invalid)?;
    for group in section.into_iter_with_offsets() {
        let (start, group) = group.map_err(inspect::invalid)?;
        let Imports::Single(_, import) = group else { continue };
        if import.module != PREVIEW1 || import.name != "proc_exit" {
            continue;
        }
        let mut old = Vec::new();
        push_name(&mut old, import.module);
        push_name(&mut old, import.name);
        let mut out = content[..start].to_vec();
        push_name(&mut out, EXIT_INTERFACE);
        push_name(&mut out, EXIT_FUNCTION);
        out.extend_from_slice(&content[start + old.len()..]);
        // Lengths may be written longer than they need to be; nobody does, and then nothing is renamed.
        return Ok(content[start..].starts_with(&old).then_some(out));
    }
    Ok(None)
}

fn push_name(out: &mut Vec<u8>, name: &str) {
    push_length(out, name.len());
    out.extend_from_slice(name.as_bytes());
}

/// Unsigned LEB128.
fn push_length(out: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

/// Says in the module's component types that it imports [`EXIT_INTERFACE`]. The interface is taken from the
/// adapter's own types, so the two cannot differ.
fn with_exit_type(mut module: Vec<u8>) -> Result<Vec<u8>, String> {
    let text = |error: &dyn std::fmt::Display| format!("{error:#}");
    let (_, adapter) =
        metadata::decode(WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER).map_err(|error| text(&error))?;
    let mut types = adapter.resolve;
    let wit = format!("package coracle:wrap; world wrap {{ import {EXIT_INTERFACE}; }}");
    let package = types.push_source("wrap.wit", &wit).map_err(|error| text(&error))?;
    let world = types.select_world(&[package], None).map_err(|error| text(&error))?;
    embed_component_metadata(&mut module, &types, world, StringEncoding::UTF8)
        .map_err(|error| text(&error))?;
    Ok(module)
}
