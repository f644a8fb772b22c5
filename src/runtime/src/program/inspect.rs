//! What a file is and what it wants, before the compiler sees it.
//!
//! ```text
//!   core module ── `_start` ────────────────────────▶ Kind::Module
//!   component ──── `wasi:cli/run` 0.2 ──────────────▶ Kind::Command
//!                  `wasi:http/incoming-handler` 0.2 ▶ Kind::Handler
//!                  `wasi:cli/run` 0.3 ──────────────▶ Kind::Command3
//!                  `wasi:http/handler` 0.3 ─────────▶ Kind::Handler3
//! ```
//!
//! A component that can be entered in several ways is entered in the first of these. Everything else is refused
//! with what is missing, or what is too much.

use serde::{Deserialize, Serialize};
use wasmparser::{
    ComponentExternalKind, ComponentTypeRef, Encoding, ExternalKind, Parser, Payload, TableSectionReader,
    TypeRef, Validator, WasmFeatures,
};

use super::ProgramKind;
use crate::error::{MissingImport, PrepareError};
use crate::limits::{MEMORIES, TABLE_ELEMENTS, TABLES};
use crate::linker::{Offer, Offers};
use crate::{lifecycle, preview1};

/// How a program is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// A core module, a command of WASI 0.1.
    Module,
    /// A command of WASI 0.2.
    Command,
    /// A `wasi:http` handler of WASI 0.2.
    Handler,
    /// A command of WASI 0.3.
    Command3,
    /// A `wasi:http` handler of WASI 0.3.
    Handler3,
}

impl Kind {
    pub(super) fn program_kind(self) -> ProgramKind {
        match self {
            Kind::Module | Kind::Command | Kind::Command3 => ProgramKind::Command,
            Kind::Handler | Kind::Handler3 => ProgramKind::HttpHandler,
        }
    }
}

/// The exports that components are entered by, in the order in which they are preferred.
const ENTRIES: [(&str, &str, Kind); 4] = [
    ("wasi:cli/run", "0.2", Kind::Command),
    ("wasi:http/incoming-handler", "0.2", Kind::Handler),
    ("wasi:cli/run", "0.3", Kind::Command3),
    ("wasi:http/handler", "0.3", Kind::Handler3),
];

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// How it is entered.
    pub(super) kind: Kind,
    /// Its instances have a heap of objects that are collected.
    pub(super) heap: bool,
}

/// What a file is. It is valid, can be entered, and wants nothing but what a node offers.
pub(super) fn inspect(bytes: &[u8], offers: Offers) -> Result<Found, PrepareError> {
    let component = Parser::is_component(bytes);
    if !component && !Parser::is_core_wasm(bytes) {
        return Err(PrepareError::NotWasm);
    }
    let heap = validate(bytes)?;
    let kind = if component { check_component(bytes, offers)? } else { check_module(bytes)? };
    Ok(Found { kind, heap })
}

/// What the engine needs a heap of objects for. Exceptions are such objects.
const COLLECTED: WasmFeatures = WasmFeatures::GC_TYPES.union(WasmFeatures::EXCEPTIONS);

/// Checks that it is valid, and says whether it uses anything of [`COLLECTED`].
fn validate(bytes: &[u8]) -> Result<bool, PrepareError> {
    let valid = |features| Validator::new_with_features(features).validate_all(bytes).map(drop);
    // Components of WASI 0.3 are told what they are, not that they are invalid, also where they cannot run.
    let features = WasmFeatures::default() | WasmFeatures::CM_ASYNC;
    if valid(features.difference(COLLECTED)).is_ok() {
        return Ok(false);
    }
    match valid(features) {
        Ok(()) => Ok(true),
        Err(_) if valid(features | WasmFeatures::LEGACY_EXCEPTIONS).is_ok() => {
            Err(PrepareError::Unsupported { message: LEGACY.to_owned() })
        }
        Err(error) => Err(invalid(error)),
    }
}

const LEGACY: &str = "the legacy exceptions proposal (`try` and `catch`); build it with the standard one (`try_table` \
     and `exnref`: clang's `-mllvm -wasm-use-legacy-eh=false`, Kotlin's `-Xwasm-use-new-exception-proposal`)";

/// Checks that a core module is a command of WASI 0.1 that wants nothing but its functions.
fn check_module(bytes: &[u8]) -> Result<Kind, PrepareError> {
    let (mut functions, mut memories, mut memory, mut tables) = (Vec::new(), Vec::new(), None, 0);
    let (mut imports, mut unknown) = (false, None);
    let (mut typed, mut code) = (false, false);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(invalid)? {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import.map_err(invalid)?;
                    imports = true;
                    let known = matches!(import.ty, TypeRef::Func(_) | TypeRef::FuncExact(_))
                        && (preview1::offers(import.module, import.name)
                            || lifecycle::offers(import.module, import.name));
                    if !known && unknown.is_none() {
                        unknown = Some(format!("{}::{}", import.module, import.name));
                    }
                }
            }
            Payload::MemorySection(section) => {
                for its in section {
                    memories.push(its.map_err(invalid)?);
                }
            }
            Payload::TableSection(section) => {
                tables = section.count();
                check_tables(section)?;
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export.map_err(invalid)?;
                    match export.kind {
                        ExternalKind::Func => functions.push(export.name),
                        ExternalKind::Memory if export.name == "memory" => memory = Some(export.index),
                        _ => {}
                    }
                }
            }
            Payload::CodeSectionStart { count, .. } => code = count > 0,
            // What a bindings generator leaves for the tool that makes a component of the module.
            Payload::CustomSection(section) if section.name().starts_with("component-type") => typed = true,
            _ => {}
        }
    }
    if typed && !code {
        return Err(not_program(WIT_ONLY));
    }
    if let Some(import) = unknown {
        let why = if typed { MissingImport::Unfinished } else { MissingImport::Unknown };
        return Err(PrepareError::UnknownImport { import, why });
    }
    if !functions.contains(&"_start") {
        return Err(not_program(if functions.contains(&"_initialize") {
            "it is a reactor (it exports `_initialize` and no `_start`)"
        } else {
            "it exports no function `_start`"
        }));
    }
    for (what, count, most) in [
        ("memories", u32::try_from(memories.len()).unwrap_or(u32::MAX), MEMORIES),
        ("tables", tables, TABLES),
    ] {
        if count > most {
            return Err(not_program(&format!("it has {count} {what}, and a program may have {most}")));
        }
    }
    // No memory is imported, so the first of its own has index 0.
    let memory = memory.and_then(|index| memories.get(usize::try_from(index).ok()?));
    match memory {
        None if imports => Err(not_program("it exports no memory `memory`")),
        Some(memory) if memory.shared || memory.memory64 => {
            Err(not_program("its `memory` is shared, or has 64-bit addresses"))
        }
        _ => Ok(Kind::Module),
    }
}

/// Checks that an instance finds room for its tables: the pool's are no larger.
fn check_tables(section: TableSectionReader<'_>) -> Result<(), PrepareError> {
    for table in section {
        let elements = table.map_err(invalid)?.ty.initial;
        if elements > TABLE_ELEMENTS as u64 {
            let message =
                format!("it has a table of {elements} elements, and a program's may have {TABLE_ELEMENTS}");
            return Err(not_program(&message));
        }
    }
    Ok(())
}

const WIT_ONLY: &str = "it is a WIT package: it has types, but no code";

/// Checks a component's imports, and says how it is entered.
pub(super) fn check_component(bytes: &[u8], offers: Offers) -> Result<Kind, PrepareError> {
    let mut depth = 0_u32;
    let mut exports = Vec::new();
    let (mut types, mut others) = (false, false);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(invalid)? {
            Payload::Version { encoding: Encoding::Module | Encoding::Component, .. } => {
                others |= depth > 0; // parts that may have code
                depth += 1;
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::TableSection(section) => check_tables(section)?,
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    let import = import.map_err(invalid)?;
                    check_import(import.name.name, import.ty, offers)?;
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    let export = export.map_err(invalid)?;
                    match export.kind {
                        ComponentExternalKind::Instance => exports.push(export.name.name),
                        ComponentExternalKind::Type => types = true,
                        _ => others = true,
                    }
                }
            }
            _ => {}
        }
    }
    if exports.is_empty() && types && !others {
        return Err(not_program(WIT_ONLY));
    }
    entry(&exports, offers).map_err(|message| not_program(&message))
}

fn check_import(name: &str, ty: ComponentTypeRef, offers: Offers) -> Result<(), PrepareError> {
    let why = match ty {
        ComponentTypeRef::Type(_) => return Ok(()),
        ComponentTypeRef::Instance(_) => match offers.interface(name) {
            Offer::Yes => return Ok(()),
            Offer::NeedsFlag => MissingImport::Preview3,
            Offer::OtherVersion(versions) => MissingImport::Version(versions),
            Offer::No => MissingImport::Unknown,
        },
        _ => MissingImport::Unknown,
    };
    Err(PrepareError::UnknownImport { import: name.to_owned(), why })
}

/// How a component with these exports is entered, or why it cannot be.
fn entry(exports: &[&str], offers: Offers) -> Result<Kind, String> {
    let versioned: Vec<_> = exports.iter().filter_map(|name| name.split_once('@')).collect();
    let exported = |interface: &str| -> Vec<&str> {
        let all = versioned.iter().filter(|(its_interface, _)| *its_interface == interface);
        all.map(|(_, version)| *version).collect()
    };
    let kinds: Vec<Kind> = ENTRIES
        .iter()
        .filter(|(interface, track, _)| {
            exported(interface).iter().any(|version| Offers::compatible(version, track))
        })
        .map(|(_, _, kind)| *kind)
        .collect();
    let allowed = |kind: &&Kind| offers.wasi_p3 || !matches!(kind, Kind::Command3 | Kind::Handler3);
    if let Some(kind) = kinds.iter().find(allowed) {
        return Ok(*kind);
    }
    match kinds.first() {
        Some(Kind::Handler3) => return Err(format!("it is a handler of WASI 0.3, which {NEEDS_FLAG}")),
        Some(_) => return Err(format!("it is a command of WASI 0.3, which {NEEDS_FLAG}")),
        None => {}
    }
    for (interface, track, _) in ENTRIES {
        if let Some(version) = exported(interface).first() {
            return Err(format!("it exports `{interface}@{version}`; offered is version {track} of it"));
        }
    }
    Err(match exports.first() {
        Some(export) => format!("it is a library: it exports `{export}`, {NEITHER}"),
        None => format!("it exports {NEITHER}"),
    })
}

const NEEDS_FLAG: &str = "needs the node's flag --wasi-p3";
const NEITHER: &str = "neither `wasi:cli/run` nor `wasi:http/incoming-handler`";

fn not_program(message: &str) -> PrepareError {
    PrepareError::NotProgram { message: message.to_owned() }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that `map_err` takes")]
pub(super) fn invalid(error: wasmparser::BinaryReaderError) -> PrepareError {
    PrepareError::Invalid { message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STABLE: Offers = Offers { wasi_p3: false };
    const ALL: Offers = Offers { wasi_p3: true };

    #[track_caller]
    fn check(offers: Offers, text: &str, expected: Result<Kind, &str>) {
        let bytes = wat::parse_str(text).expect("the fixture is right");
        let found = inspect(&bytes, offers).map(|found| found.kind).map_err(|error| error.to_string());
        assert_eq!(found.as_ref().map_err(String::as_str), expected.as_ref().map_err(|text| *text), "{text}");
    }

    fn exporting(names: &[&str]) -> String {
        let exports: String = names.iter().map(|name| format!("(export \"{name}\" (instance $i))")).collect();
        format!("(component (instance $i) {exports})")
    }

    #[test]
    fn a_component_is_entered_by_what_it_exports() {
        use Kind::{Command, Command3, Handler, Handler3};
        for version in ["0.2.0", "0.2.3", "0.2.6", "0.2.12", "0.2.99"] {
            check(STABLE, &exporting(&[&format!("wasi:cli/run@{version}")]), Ok(Command));
            check(STABLE, &exporting(&[&format!("wasi:http/incoming-handler@{version}")]), Ok(Handler));
        }
        let both = ["wasi:cli/run@0.3.0", "wasi:http/incoming-handler@0.2.1"];
        for offers in [STABLE, ALL] {
            check(offers, &exporting(&both), Ok(Handler));
            check(offers, &exporting(&["wasi:cli/run@0.3.0", "wasi:cli/run@0.2.4"]), Ok(Command));
        }
        check(ALL, &exporting(&["wasi:cli/run@0.3.0"]), Ok(Command3));
        check(ALL, &exporting(&["acme:x/y", "wasi:http/handler@0.3.1"]), Ok(Handler3));
    }

    #[test]
    fn what_has_no_entry_is_told_why() {
        let refuse = |names: &[&str], expected: &str| {
            check(STABLE, &exporting(names), Err(&format!("not a program: {expected}")));
        };
        refuse(&[], "it exports neither `wasi:cli/run` nor `wasi:http/incoming-handler`");
        refuse(
            &["acme:math/add@1.0.0"],
            "it is a library: it exports `acme:math/add@1.0.0`, neither `wasi:cli/run` nor `wasi:http/incoming-handler`",
        );
        refuse(&["wasi:cli/run@0.3.0"], "it is a command of WASI 0.3, which needs the node's flag --wasi-p3");
        refuse(
            &["wasi:http/handler@0.3.0"],
            "it is a handler of WASI 0.3, which needs the node's flag --wasi-p3",
        );
        for version in ["0.4.0", "1.0.0", "0.2.0-rc-2023-11-10", "0.3.0-rc-2025-09-16"] {
            let name = format!("wasi:cli/run@{version}");
            refuse(&[&name], &format!("it exports `{name}`; offered is version 0.2 of it"));
        }
        let package =
            "(component (type $t (component (export \"i\" (instance)))) (export \"a:b/c\" (type $t)))";
        check(STABLE, package, Err("not a program: it is a WIT package: it has types, but no code"));
    }

    #[test]
    fn imports_are_those_of_a_node() {
        let importing = |name: &str| {
            format!(
                "(component (import \"{name}\" (instance)) (instance $i) (export \"wasi:cli/run@0.2.0\" (instance $i)))"
            )
        };
        let unknown = |name: &str, why: &str| format!("unknown import `{name}`{why}");
        for name in ["wasi:cli/environment@0.2.0", "wasi:io/poll@0.2.6", "wasi:sockets/tcp@0.2.77"] {
            check(STABLE, &importing(name), Ok(Kind::Command));
        }
        for (name, why) in [
            ("acme:db/store@1.2.0", ""),
            ("wasi:cli/environment", ""),
            ("wasi:nn/graph@0.2.0", ""),
            ("wasi:cli/environment@0.9.0", ": offered is version 0.2 of it"),
            ("wasi:cli/environment@0.2.0-rc-2023-12-05", ": offered is version 0.2 of it"),
            ("wasi:cli/environment@0.3.0", ": WASI 0.3 needs the node's flag --wasi-p3"),
            ("wasi:sockets/types@0.3.0", ": WASI 0.3 needs the node's flag --wasi-p3"),
        ] {
            check(STABLE, &importing(name), Err(&unknown(name, why)));
        }
        check(ALL, &importing("wasi:filesystem/types@0.3.0"), Ok(Kind::Command));
        let name = "wasi:cli/environment@0.9.0";
        check(ALL, &importing(name), Err(&unknown(name, ": offered are versions 0.2 and 0.3 of it")));
        check(STABLE, "(component (import \"f\" (func)))", Err("unknown import `f`"));
        let root = "(component (import \"m\" (core module)))";
        check(STABLE, root, Err("unknown import `m`"));
    }

    #[test]
    fn a_table_that_no_instance_has_room_for_is_named() {
        let module = |elements: usize| {
            format!(
                "(module (table {elements} funcref) (func (export \"_start\")) (memory (export \"memory\") 1))"
            )
        };
        let inside = |elements: usize| {
            let module = module(elements).replacen("(module", "(core module", 1);
            format!("(component {module} (instance $i) (export \"wasi:cli/run@0.2.0\" (instance $i)))")
        };
        check(STABLE, &module(TABLE_ELEMENTS), Ok(Kind::Module));
        check(STABLE, &inside(TABLE_ELEMENTS), Ok(Kind::Command));
        let refusal = "not a program: it has a table of 100001 elements, and a program's may have 100000";
        check(STABLE, &module(TABLE_ELEMENTS + 1), Err(refusal));
        check(STABLE, &inside(TABLE_ELEMENTS + 1), Err(refusal));
    }

    #[test]
    fn who_needs_a_heap_is_known() {
        #[track_caller]
        fn check(text: &str, expected: bool) {
            let text = format!("(module {text} (func (export \"_start\")) (memory (export \"memory\") 1))");
            let bytes = wat::parse_str(&text).expect("the fixture is right");
            assert_eq!(inspect(&bytes, STABLE).unwrap().heap, expected, "{text}");
        }
        check("", false);
        check("(table 3 funcref) (global funcref (ref.null func))", false);
        check("(rec (type $f (func)) (type (func (param (ref null $f)))))", false);
        check("(type (struct (field i32)))", true);
        check("(tag (param i32))", true);
        check("(table 3 externref)", true);
        check("(func (local anyref) (drop (ref.test (ref struct) (local.get 0))))", true);
        check("(func (try_table))", true);
    }

    #[test]
    fn legacy_exceptions_are_named() {
        let start = r#"(func (export "_start") try nop catch_all end)"#;
        let expected = format!("not supported: {LEGACY}");
        check(STABLE, &format!("(module {start})"), Err(&expected));
        let inside = format!("(component (core module {start}))");
        check(STABLE, &inside, Err(&expected));
    }

    #[test]
    fn modules_are_commands() {
        let start = "(func (export \"_start\"))";
        let module = |text: &str| format!("(module {text} (memory (export \"memory\") 1))");
        check(STABLE, &module(start), Ok(Kind::Module));
        for (text, expected) in [
            (String::new(), "not a program: it exports no function `_start`"),
            (
                "(func (export \"_initialize\"))".into(),
                "not a program: it is a reactor (it exports `_initialize` and no `_start`)",
            ),
            (
                "(global (export \"_start\") i32 (i32.const 0))".into(),
                "not a program: it exports no function `_start`",
            ),
            (format!("(import \"env\" \"f\" (func)) {start}"), "unknown import `env::f`"),
            (format!("(import \"env\" \"m\" (global i32)) {start}"), "unknown import `env::m`"),
            (
                format!("(import \"wasi_snapshot_preview1\" \"fork\" (func)) {start}"),
                "unknown import `wasi_snapshot_preview1::fork`",
            ),
        ] {
            check(STABLE, &module(&text), Err(expected));
        }
        let import = "(import \"wasi_snapshot_preview1\" \"proc_exit\" (func (param i32)))";
        check(STABLE, &module(&format!("{import} {start}")), Ok(Kind::Module));
        check(
            STABLE,
            &module(&format!("{} {start}", import.replace("snapshot_preview1", "unstable"))),
            Ok(Kind::Module),
        );
        let bare = format!("(module {import} {start})");
        check(STABLE, &bare, Err("not a program: it exports no memory `memory`"));
        check(STABLE, &format!("(module {start})"), Ok(Kind::Module));
        for (many, count, expected) in [
            ("(memory 1)", MEMORIES - 1, Ok(Kind::Module)),
            ("(memory 1)", MEMORIES, Err("not a program: it has 9 memories, and a program may have 8")),
            ("(table 1 funcref)", TABLES, Ok(Kind::Module)),
            (
                "(table 1 funcref)",
                TABLES + 1,
                Err("not a program: it has 65 tables, and a program may have 64"),
            ),
        ] {
            check(STABLE, &module(&format!("{start} {}", many.repeat(count as usize))), expected);
        }
        for memory in ["i64 1", "1 1 shared"] {
            let text = format!("(module {import} {start} (memory (export \"memory\") {memory}))");
            check(STABLE, &text, Err("not a program: its `memory` is shared, or has 64-bit addresses"));
        }
        check(
            STABLE,
            &module(&format!(
                "(@custom \"component-type:x\" \"\") (import \"a:b/c@1.0.0\" \"f\" (func)) {start}"
            )),
            Err(
                "unknown import `a:b/c@1.0.0::f`: the module must be made a component (`wasm-tools component new`)",
            ),
        );
        let typed = "(module (@custom \"component-type:x\" \"\"))";
        check(STABLE, typed, Err("not a program: it is a WIT package: it has types, but no code"));
    }
}
