//! What a file is and what it wants, before the compiler sees it.

use wasmparser::{
    ComponentExternalKind, ComponentTypeRef, Encoding, ExternalKind, Parser, Payload, TypeRef, Validator,
};

use crate::error::PrepareError;
use crate::linker::INTERFACES;

/// The import module of WASI 0.1.
pub(super) const PREVIEW1: &str = "wasi_snapshot_preview1";

/// The two shapes of WebAssembly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A component (WASI 0.2).
    Component,
    /// A core module (WASI 0.1).
    Module,
}

/// Tells modules from components, and both from everything else.
pub(super) fn kind(bytes: &[u8]) -> Result<Kind, PrepareError> {
    let kind = if Parser::is_component(bytes) {
        Kind::Component
    } else if Parser::is_core_wasm(bytes) {
        Kind::Module
    } else {
        return Err(PrepareError::NotWasm);
    };
    Validator::new().validate_all(bytes).map_err(invalid)?;
    Ok(kind)
}

/// Checks that a core module is a command of WASI 0.1. `offered` says which functions there are.
///
/// A module that carries component types of its own (made by a bindings generator) may import more: those
/// imports are checked on the component that is made of it.
pub(super) fn check_module(bytes: &[u8], offered: impl Fn(&str) -> bool) -> Result<(), PrepareError> {
    let mut exports = Vec::new();
    let mut unknown = None;
    let mut typed = false;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(invalid)? {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import.map_err(invalid)?;
                    let known = import.module == PREVIEW1
                        && matches!(import.ty, TypeRef::Func(_) | TypeRef::FuncExact(_))
                        && offered(import.name);
                    if !known && unknown.is_none() {
                        unknown = Some(format!("{}::{}", import.module, import.name));
                    }
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export.map_err(invalid)?;
                    if export.kind == ExternalKind::Func {
                        exports.push(export.name);
                    }
                }
            }
            Payload::CustomSection(section) if section.name().starts_with("component-type") => typed = true,
            _ => {}
        }
    }
    if let Some(import) = unknown.filter(|_| !typed) {
        return Err(PrepareError::UnknownImport { import });
    }
    if exports.contains(&"_start") {
        return Ok(());
    }
    let message = if exports.contains(&"_initialize") {
        "it is a reactor (it exports `_initialize` and no `_start`)"
    } else {
        "it exports no function `_start`"
    };
    Err(PrepareError::NotCommand { message: message.into() })
}

/// Checks that a component is a command of WASI 0.2 that wants nothing but what a node offers.
pub(super) fn check_component(bytes: &[u8]) -> Result<(), PrepareError> {
    let mut depth = 0_u32;
    let mut exports = Vec::new();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(invalid)? {
            Payload::Version { encoding: Encoding::Module | Encoding::Component, .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    let import = import.map_err(invalid)?;
                    let name = import.name.name;
                    let known = match import.ty {
                        ComponentTypeRef::Instance(_) => is_offered(name),
                        ComponentTypeRef::Type(_) => true,
                        _ => false,
                    };
                    if !known {
                        return Err(PrepareError::UnknownImport { import: name.to_owned() });
                    }
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    let export = export.map_err(invalid)?;
                    if export.kind == ComponentExternalKind::Instance {
                        exports.push(export.name.name.to_owned());
                    }
                }
            }
            _ => {}
        }
    }
    if exports.iter().any(|name| interface_of(name, "0.2.") == Some("wasi:cli/run")) {
        return Ok(());
    }
    let message = if exports.iter().any(|name| name.starts_with("wasi:http/")) {
        "it is a `wasi:http` handler, which is not served yet"
    } else if exports.iter().any(|name| name.starts_with("wasi:cli/run@")) {
        "it is a command of another WASI than 0.2"
    } else {
        "it exports no `wasi:cli/run`"
    };
    Err(PrepareError::NotCommand { message: message.into() })
}

fn is_offered(name: &str) -> bool {
    interface_of(name, "0.2.").is_some_and(|interface| INTERFACES.contains(&interface))
}

/// `wasi:cli/run` of `wasi:cli/run@0.2.6`, if the version starts with `version`.
fn interface_of<'a>(name: &'a str, version: &str) -> Option<&'a str> {
    let (interface, its_version) = name.split_once('@')?;
    its_version.starts_with(version).then_some(interface)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that `map_err` takes")]
pub(super) fn invalid(error: wasmparser::BinaryReaderError) -> PrepareError {
    PrepareError::Invalid { message: error.to_string() }
}
