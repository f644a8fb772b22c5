//! What instances of a program make the host keep beside memories and tables: their contexts, which nothing limits
//! when they are made.
//!
//! Estimated from above: globals, imports, and functions that are called indirectly are counted as the engine keeps
//! them, once for each core instance that the outermost component makes.
//!
//! With a heap of objects comes what the collector lists to begin from, and what the engine remembers of types.

use wasmparser::{
    ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind, ComponentTypeRef,
    ElementItems, Encoding, ExternalKind, Instance, Parser, Payload, TypeRef,
};

use super::inspect::invalid;
use crate::error::PrepareError;
use crate::limits::GUEST_STACK;

/// A global's value.
const GLOBAL: u64 = 16;

/// Where an import is found, or a memory or table of its own; the largest of them.
const IMPORT: u64 = 48;

/// What a function is called by indirectly, made when it first is.
const FUNCTION: u64 = 32;

/// A core module's instance: what every one has.
const INSTANCE: u64 = 256;

/// A reference that the collector begins from: 16 bytes in a list that is there twice when it grows to twice its size.
/// The engine's number for a function that an object refers to takes no more.
const ROOT: u64 = 48;

/// References that a stack has room for at most, 4 bytes each, in the same list.
const STACK_ROOTS: u64 = (GUEST_STACK as u64) / 4 * 16;

/// A value of an element segment, which is kept when there is a heap.
const ELEMENT: u64 = 16;

/// Where the collector finds what objects of a type refer to.
const TYPE: u64 = 64;

/// The answer to whether a type is another's subtype, of which the engine keeps [`ANSWERS`] for each store.
const ANSWER: u64 = 48;

/// See [`ANSWER`].
const ANSWERS: u64 = 1 << 16;

/// What a component keeps for a function that it lifts or lowers.
const LIFTED: u64 = 64;

/// A component that is being read: what is defined in it, and what its instance takes.
#[derive(Default)]
struct Frame {
    modules: Vec<u64>,
    components: Vec<u64>,
    bytes: u64,
    core: Option<Core>,
}

/// A core module that is being read.
#[derive(Default)]
struct Core {
    bytes: u64,
    functions: u64,
    /// How often one of them is mentioned where it can be called indirectly.
    mentions: u64,
    globals: u64,
    elements: u64,
    types: u64,
    /// It has a heap of objects.
    heap: bool,
}

impl Core {
    fn bytes(&self) -> u64 {
        let functions = self.functions.min(self.mentions);
        let bytes = self.bytes.saturating_add(functions.saturating_mul(FUNCTION)).saturating_add(INSTANCE);
        if self.heap { bytes.saturating_add(self.collected(functions)) } else { bytes }
    }

    /// What comes with a heap.
    fn collected(&self, functions: u64) -> u64 {
        let roots = self.globals + self.elements + functions;
        let answers = self.types.saturating_mul(self.types).min(ANSWERS);
        roots * ROOT + self.elements * ELEMENT + self.types * TYPE + answers * ANSWER
    }
}

/// Bytes that an instance of a program takes. The program is valid; `heap` says whether it has objects.
pub(super) fn bytes(program: &[u8], heap: bool) -> Result<u64, PrepareError> {
    let instances = instances(program, heap)?;
    Ok(if heap { instances.saturating_add(STACK_ROOTS) } else { instances })
}

fn instances(program: &[u8], heap: bool) -> Result<u64, PrepareError> {
    let mut frames: Vec<Frame> = Vec::new();
    // What a module or component can take that comes from somewhere else: no more than all of them.
    let mut all = 0_u64;
    for payload in Parser::new(0).parse_all(program) {
        let payload = payload.map_err(invalid)?;
        if let Payload::Version { encoding, .. } = &payload {
            let core = (*encoding == Encoding::Module).then(|| Core { heap, ..Core::default() });
            frames.push(Frame { core, ..Frame::default() });
            continue;
        }
        if let Payload::End(_) = &payload {
            let Some(ended) = frames.pop() else { break };
            let bytes = ended.core.as_ref().map_or(ended.bytes, Core::bytes);
            all = all.saturating_add(bytes);
            match (frames.last_mut(), ended.core) {
                (None, _) => return Ok(bytes),
                (Some(outer), Some(_)) => outer.modules.push(bytes),
                (Some(outer), None) => outer.components.push(bytes),
            }
            continue;
        }
        let Some((frame, outer)) = frames.split_last_mut() else { continue };
        match &mut frame.core {
            Some(core) => in_module(core, payload).map_err(invalid)?,
            None => in_component(frame, outer, all, payload).map_err(invalid)?,
        }
    }
    Ok(all)
}

fn in_module(core: &mut Core, payload: Payload<'_>) -> wasmparser::Result<()> {
    let many = |count: u32, bytes: u64| u64::from(count) * bytes;
    match payload {
        Payload::ImportSection(section) => {
            for import in section.into_imports() {
                core.bytes += IMPORT;
                core.functions += u64::from(matches!(import?.ty, TypeRef::Func(_) | TypeRef::FuncExact(_)));
            }
        }
        Payload::TypeSection(section) => {
            for group in section {
                core.types += group?.types().len() as u64;
            }
        }
        Payload::FunctionSection(section) => core.functions += u64::from(section.count()),
        Payload::GlobalSection(section) => {
            core.bytes += many(section.count(), GLOBAL);
            core.mentions += u64::from(section.count());
            core.globals += u64::from(section.count());
        }
        Payload::MemorySection(section) => core.bytes += many(section.count(), IMPORT),
        Payload::TableSection(section) => {
            core.bytes += many(section.count(), IMPORT);
            core.mentions += u64::from(section.count());
        }
        Payload::TagSection(section) => core.bytes += many(section.count(), IMPORT),
        Payload::ExportSection(section) => {
            for export in section {
                core.mentions += u64::from(export?.kind == ExternalKind::Func);
            }
        }
        Payload::StartSection { .. } => core.mentions += 1,
        Payload::ElementSection(section) => {
            for element in section {
                let items = u64::from(match element?.items {
                    ElementItems::Functions(items) => items.count(),
                    ElementItems::Expressions(_, items) => items.count(),
                });
                core.mentions += items;
                core.elements += items;
            }
        }
        _ => {}
    }
    Ok(())
}

fn in_component(
    frame: &mut Frame,
    outer: &[Frame],
    all: u64,
    payload: Payload<'_>,
) -> wasmparser::Result<()> {
    let at = |list: &[u64], index: u32| {
        usize::try_from(index).ok().and_then(|index| list.get(index)).copied().unwrap_or(all)
    };
    match payload {
        Payload::InstanceSection(section) => {
            for instance in section {
                if let Instance::Instantiate { module_index, .. } = instance? {
                    frame.bytes = frame.bytes.saturating_add(at(&frame.modules, module_index));
                }
            }
        }
        Payload::ComponentInstanceSection(section) => {
            for instance in section {
                if let ComponentInstance::Instantiate { component_index, .. } = instance? {
                    frame.bytes = frame.bytes.saturating_add(at(&frame.components, component_index));
                }
            }
        }
        Payload::ComponentCanonicalSection(section) => {
            frame.bytes = frame.bytes.saturating_add(u64::from(section.count()) * LIFTED);
        }
        Payload::ComponentImportSection(section) => {
            for import in section {
                match import?.ty {
                    ComponentTypeRef::Module(_) => frame.modules.push(all),
                    ComponentTypeRef::Component(_) => frame.components.push(all),
                    _ => {}
                }
            }
        }
        Payload::ComponentExportSection(section) => {
            for export in section {
                let export = export?;
                match export.kind {
                    ComponentExternalKind::Module => frame.modules.push(at(&frame.modules, export.index)),
                    ComponentExternalKind::Component => {
                        frame.components.push(at(&frame.components, export.index));
                    }
                    _ => {}
                }
            }
        }
        Payload::ComponentAliasSection(section) => {
            for alias in section {
                match alias? {
                    ComponentAlias::InstanceExport { kind: ComponentExternalKind::Module, .. } => {
                        frame.modules.push(all);
                    }
                    ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. } => {
                        frame.components.push(all);
                    }
                    ComponentAlias::Outer { kind, count, index } => {
                        alias_outer(frame, outer, kind, count, index, at);
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// Something of a component around this one.
fn alias_outer(
    frame: &mut Frame,
    outer: &[Frame],
    kind: ComponentOuterAliasKind,
    count: u32,
    index: u32,
    at: impl Fn(&[u64], u32) -> u64,
) {
    let back = usize::try_from(count).ok().and_then(|count| outer.len().checked_sub(count));
    let source = if count == 0 { Some(&*frame) } else { back.and_then(|back| outer.get(back)) };
    match kind {
        ComponentOuterAliasKind::CoreModule => {
            let bytes = at(source.map_or(&[], |source| &source.modules), index);
            frame.modules.push(bytes);
        }
        ComponentOuterAliasKind::Component => {
            let bytes = at(source.map_or(&[], |source| &source.components), index);
            frame.components.push(bytes);
        }
        ComponentOuterAliasKind::CoreType | ComponentOuterAliasKind::Type => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: u64) {
        let program = wat::parse_str(text).expect("the fixture is right");
        assert_eq!(bytes(&program, false).unwrap(), expected, "{text}");
    }

    #[test]
    fn what_comes_with_a_heap_is_counted() {
        #[track_caller]
        fn check(text: &str, expected: u64) {
            let program = wat::parse_str(text).expect("the fixture is right");
            let more = bytes(&program, true).unwrap() - bytes(&program, false).unwrap();
            assert_eq!(more, STACK_ROOTS + expected, "{text}");
        }
        check("(module)", 0);
        check("(module (global anyref (ref.null any)) (global i32 (i32.const 0)))", 2 * ROOT);
        check("(module (type (struct)) (rec (type (struct)) (type (func))))", 3 * TYPE + 9 * ANSWER);
        check(
            "(module (elem anyref (item (ref.null any)) (item (ref.i31 (i32.const 1)))))",
            2 * (ROOT + ELEMENT),
        );
        let module = "(core module $m (global anyref (ref.null any)))";
        let twice = "(core instance (instantiate $m)) (core instance (instantiate $m))";
        check(&format!("(component {module} {twice})"), 2 * ROOT);
        let many = "(type (struct))".repeat(1_000);
        check(&format!("(module {many})"), 1_000 * TYPE + ANSWERS * ANSWER);
    }

    #[test]
    fn what_instances_keep_is_counted() {
        check("(module)", INSTANCE);
        let globals = "(global i32 (i32.const 0))".repeat(100);
        check(&format!("(module {globals})"), INSTANCE + 100 * GLOBAL);
        check("(module (import \"a\" \"b\" (func)) (memory 1))", INSTANCE + 2 * IMPORT);
        check("(module (func) (func) (func))", INSTANCE);
        check(
            "(module (func $a) (func) (table 9 funcref) (elem (i32.const 0) func $a $a))",
            INSTANCE + IMPORT + 2 * FUNCTION,
        );
        let module = format!("(core module $m {globals})");
        let one = INSTANCE + 100 * GLOBAL;
        check(&format!("(component {module})"), 0);
        let twice = "(core instance (instantiate $m)) (core instance (instantiate $m))";
        check(&format!("(component {module} {twice})"), 2 * one);
        let inner = format!("(component $c {module} {twice})");
        check(
            &format!("(component {inner} (instance (instantiate $c)) (instance (instantiate $c)))"),
            4 * one,
        );
        // The same module, from around the component that makes instances of it.
        check(
            &format!(
                "(component $o {module} (component $c (alias outer $o $m (core module $n)) (core instance (instantiate $n))) (instance (instantiate $c)))"
            ),
            one,
        );
    }

    /// Each doubles the one before: the sum is refused rather than wrong.
    #[test]
    fn nesting_does_not_overflow() {
        let mut text = String::from(
            "(component $c0 (core module $m (global i64 (i64.const 0))) (core instance (instantiate $m)))",
        );
        for level in 1..80 {
            let below = level - 1;
            text += &format!(
                "(component $c{level} (alias outer $top $c{below} (component $b)) (instance (instantiate $b)) (instance (instantiate $b)))"
            );
        }
        check(&format!("(component $top {text} (instance (instantiate $c79)))"), u64::MAX);
    }
}
