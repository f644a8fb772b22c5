use std::sync::LazyLock;

use proptest::prelude::*;
use wasmtime::{
    Extern, Instance, Memory, MemoryType, Module, Store, Trap, UpdateDeadline, Val, WasmBacktrace,
};

use super::*;
use crate::engine::Settings;
use crate::limits::MODULE_BYTES;

const MIB: u32 = 1 << 20;

/// Every operation on two memories of 3 MiB each, with some more than a piece of data. Each function takes three
/// operands.
const OPERATIONS: [(&str, &str); 6] = [
    ("fill", "(memory.fill $a"),
    ("fill-other", "(memory.fill $b"),
    ("copy", "(memory.copy $a $a"),
    ("copy-there", "(memory.copy $b $a"),
    ("copy-back", "(memory.copy $a $b"),
    ("init", "(memory.init $a $d"),
];

static ALL: LazyLock<Both> = LazyLock::new(|| Both::new(&operations()));

fn operations() -> String {
    let data: String = (0..(MIB + 100_000) / 64).map(|at| format!("{at:064}")).collect();
    let functions: String = OPERATIONS
        .iter()
        .map(|(name, operation)| {
            let body = format!("{operation} (local.get 0) (local.get 1) (local.get 2))");
            format!(r#"(func (export "{name}") (param i32 i32 i32) {body})"#)
        })
        .collect();
    format!(
        r#"(module (memory $a (export "a") 48 64) (memory $b (export "b") 48) (data $d "{data}")
            (func (export "drop") (data.drop $d)) {functions})"#
    )
}

/// A module, as it is and in pieces.
struct Both {
    modules: [(Module, Moved); 2],
}

/// An instance of a module, compiled as it is or in pieces.
struct Guest {
    store: Store<()>,
    instance: Instance,
    moved: Moved,
}

/// How an operation ended: well, or with a trap, and where.
type Ended = Result<(), (Trap, Vec<(u32, usize)>)>;

impl Guest {
    /// Bytes of both memories, no two pieces of which are the same.
    fn new((module, moved): &(Module, Moved)) -> Guest {
        static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
            let words = (0..MIB).map(|at| at.wrapping_mul(2_654_435_761));
            words.flat_map(u32::to_le_bytes).collect()
        });
        let mut store = Store::new(module.engine(), ());
        store.set_epoch_deadline(u64::MAX / 2);
        // Whatever it imports is one memory.
        let memory = Memory::new(&mut store, MemoryType::new(48, None)).unwrap();
        let imports: Vec<Extern> = module.imports().map(|_| memory.into()).collect();
        let instance = Instance::new(&mut store, module, &imports).unwrap();
        let mut guest = Guest { store, instance, moved: moved.clone() };
        for (at, name) in ["a", "b"].into_iter().enumerate() {
            let memory = guest.memory(name);
            memory.copy_from_slice(&BYTES[at..][..memory.len()]);
        }
        guest
    }

    fn call(&mut self, name: &str, operands: &[Val]) -> Ended {
        let function = self.instance.get_func(&mut self.store, name).unwrap();
        function.call(&mut self.store, operands, &mut []).map_err(|error| {
            let frames = error.downcast_ref::<WasmBacktrace>().unwrap().frames();
            let place = |frame: &wasmtime::FrameInfo| {
                (frame.func_index(), self.moved.before(frame.module_offset().unwrap()))
            };
            (*error.downcast_ref().unwrap(), frames.iter().map(place).collect())
        })
    }

    fn memory(&mut self, name: &str) -> &mut [u8] {
        let memory = self.instance.get_memory(&mut self.store, name).unwrap();
        memory.data_mut(&mut self.store)
    }
}

impl Both {
    fn new(text: &str) -> Both {
        let engine = Settings { wasi_p3: false, dense: false }.compiler().unwrap();
        let bytes = wat::parse_str(text).unwrap();
        let (rewritten, moved) = piecewise(&bytes).unwrap().expect("it has long operations");
        let modules = [(bytes, Moved::default()), (rewritten, moved)]
            .map(|(module, moved)| (Module::new(&engine, module).unwrap(), moved));
        Both { modules }
    }

    fn guests(&self) -> [Guest; 2] {
        self.modules.each_ref().map(Guest::new)
    }
}

/// Both do the same; what they did is returned.
#[track_caller]
fn same(guests: &mut [Guest; 2], operation: &str, operands: [u32; 3]) -> Ended {
    let operands = operands.map(|operand| Val::I32(operand.cast_signed()));
    let [direct, pieces] = guests;
    let (expected, found) = (direct.call(operation, &operands), pieces.call(operation, &operands));
    // What is called for a segment that was dropped traps in a function that the module does not have.
    let seen = |ended: &Ended| ended.clone().map_err(|(trap, frames)| (trap, frames.last().copied()));
    assert_eq!(seen(&expected), seen(&found), "{operation} {operands:?}");
    for name in ["a", "b"] {
        assert!(direct.memory(name) == pieces.memory(name), "{operation} {operands:?}: {name}");
    }
    expected
}

#[test]
fn what_an_operation_does_stays_the_same() {
    let mut guests = ALL.guests();
    let all = 3 * MIB;
    for (name, _) in OPERATIONS {
        for (to, from, length) in [
            (0, 0, 0),
            (0, 0, 100),
            (0, 0, MIB),
            (0, 0, MIB + 1),
            (1, 0, 2 * MIB - 1),
            (0, 1, 2 * MIB - 1),
            (5, 70_000, MIB + 65_536),
            (70_000, 5, MIB + 65_536),
            (MIB, 0, 2 * MIB),
            (0, MIB, 2 * MIB),
            (0, 0, all),
            (17, 17, all - 17),
            (MIB + 3, MIB, MIB * 3 / 2),
        ] {
            let _ = same(&mut guests, name, [to, from, length]);
        }
        // The end of a memory, and of all addresses.
        for (to, from, length) in [
            (0, 0, all + 1),
            (1, 0, all),
            (0, 1, all),
            (all, all, 0),
            (all + 1, 0, 0),
            (all, 0, 1),
            (MIB, MIB, u32::MAX),
            (u32::MAX, 0, u32::MAX),
            (0, u32::MAX, 2 * MIB),
            (u32::MAX - MIB, 0, 2 * MIB),
        ] {
            let _ = same(&mut guests, name, [to, from, length]);
        }
        let (trap, frames) = same(&mut guests, name, [0, u32::MAX, u32::MAX]).unwrap_err();
        assert_eq!((trap, frames.len()), (Trap::MemoryOutOfBounds, 1), "{name}");
    }
    for guest in &mut guests {
        guest.call("drop", &[]).unwrap();
    }
    same(&mut guests, "init", [0, 0, 0]).unwrap();
    same(&mut guests, "init", [0, 0, MIB + 1]).unwrap_err();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_operation_does_the_same(
        all in prop::collection::vec((0..OPERATIONS.len(), 0..3 * MIB, 0..3 * MIB, 0..3 * MIB + 10), 1..6),
    ) {
        let mut guests = ALL.guests();
        for (operation, to, from, length) in all {
            // Half of them fit.
            let length = if length % 2 == 0 { length.min(3 * MIB - to.max(from)) } else { length };
            let _ = same(&mut guests, OPERATIONS[operation].0, [to, from, length]);
        }
    }
}

/// Wide addresses, sizes of more than 32 bits, and operands that are only both wide sometimes.
#[test]
fn wide_memories_are_done_in_pieces() {
    let text = r#"(module (memory $a (export "a") i64 48) (memory $b (export "b") 48)
        (func (export "fill") (param i64 i32 i64) (memory.fill $a (local.get 0) (local.get 1) (local.get 2)))
        (func (export "copy") (param i64 i64 i64) (memory.copy $a $a (local.get 0) (local.get 1) (local.get 2)))
        (func (export "out") (param i32 i64 i32) (memory.copy $b $a (local.get 0) (local.get 1) (local.get 2)))
        (func (export "both") (param i64 i64 i64 i32)
            (memory.fill $b (i32.const 0) (local.get 3) (local.get 3))
            (memory.copy $a $a (local.get 0) (local.get 1) (local.get 2))))"#;
    let guests = &mut Both::new(text).guests();
    let mut check = |name: &str, operands: &[Val], works: bool| {
        let ended = guests.each_mut().map(|guest| guest.call(name, operands));
        assert_eq!(ended[0], ended[1], "{name} {operands:?}");
        assert_eq!(ended[0].is_ok(), works, "{name} {operands:?}");
        let [direct, pieces] = guests;
        for memory in ["a", "b"] {
            assert!(direct.memory(memory) == pieces.memory(memory), "{name} {operands:?}");
        }
    };
    let (mib, all) = (i64::from(MIB), 3 * i64::from(MIB));
    for (to, length, works) in [
        (0, all, true),
        (5, mib + 1, true),
        (mib, 2 * mib, true),
        (mib, 2 * mib + 1, false),
        (-1, 2 * mib, false),
        (2 * mib, -1, false),
        (1 << 32, 2 * mib, false),
    ] {
        check("fill", &[Val::I64(to), Val::I32(9), Val::I64(length)], works);
        check("copy", &[Val::I64(to), Val::I64(0), Val::I64(length)], works);
        check("copy", &[Val::I64(0), Val::I64(to), Val::I64(length)], works);
        check(
            "both",
            &[Val::I64(1), Val::I64(to), Val::I64(length), Val::I32(2 << 20)],
            works && length < all,
        );
    }
    check("out", &[Val::I32(3), Val::I64(9), Val::I32(2 << 20)], true);
    check("out", &[Val::I32(3), Val::I64(1 << 33), Val::I32(2 << 20)], false);
}

#[test]
fn a_memory_that_is_imported_twice_is_copied_as_one() {
    let text = r#"(module (import "" "m" (memory $a 48)) (import "" "m" (memory $b 48))
        (export "a" (memory $a)) (export "b" (memory $b))
        (func (export "copy") (param i32 i32 i32) (memory.copy $b $a (local.get 0) (local.get 1) (local.get 2))))"#;
    let mut guests = Both::new(text).guests();
    for (to, from) in [(MIB / 2, 0), (0, MIB / 2), (7, 7)] {
        same(&mut guests, "copy", [to, from, 2 * MIB + 5]).unwrap();
    }
}

/// What is remembered of a module whose every third instruction is a long operation is bounded, and right to a few
/// instructions.
#[test]
fn what_is_remembered_of_a_module_is_bounded() {
    use wasm_encoder::{CodeSection, Function, FunctionSection, MemorySection, TypeSection, ValType};

    const SITES: usize = 300_000;
    let (mut types, mut functions, mut code) =
        (TypeSection::new(), FunctionSection::new(), CodeSection::new());
    let mut memories = MemorySection::new();
    memories.memory(wasm_encoder::MemoryType {
        minimum: 1,
        maximum: None,
        memory64: false,
        shared: false,
        page_size_log2: None,
    });
    types.ty().function([ValType::I32], []);
    functions.function(0);
    let mut function = Function::new([]);
    let mut body = function.instructions();
    for _ in 0..SITES {
        body.local_get(0).local_get(0).local_get(0).memory_fill(0);
    }
    body.end();
    code.function(&function);
    let mut module = wasm_encoder::Module::new();
    module.section(&types).section(&functions).section(&memories).section(&code);
    let module = module.finish();

    let (rewritten, moved) = piecewise(&module).unwrap().expect("it has long operations");
    let text = serde_json::to_vec(&moved).unwrap();
    assert!(text.len() < 1 << 20, "{} bytes are more than a compiler's process may say", text.len());
    assert_eq!(serde_json::from_slice::<Moved>(&text).unwrap(), moved);
    let places = |file: &[u8]| -> Vec<usize> {
        let bodies = Parser::new(0).parse_all(file).filter_map(|payload| match payload.unwrap() {
            wasmparser::Payload::CodeSectionEntry(body) => Some(body.get_operators_reader().unwrap()),
            _ => None,
        });
        let all = bodies.flat_map(|body| body.into_iter_with_offsets().map(Result::unwrap));
        let fills = all.filter(|(operator, _)| matches!(operator, wasmparser::Operator::MemoryFill { .. }));
        fills.map(|(_, at)| at).take(SITES).collect()
    };
    for (new, old) in places(&rewritten).into_iter().zip(places(&module)) {
        assert!(moved.before(new).abs_diff(old) < 200, "{new}: {} and {old}", moved.before(new));
    }
}

/// The engine looks between pieces whether the guest is to end, and it ends there.
#[test]
fn the_engine_looks_between_pieces() {
    #[track_caller]
    fn check(name: &str, operands: [u32; 3], done: impl Fn(&[u8]) -> bool) {
        let [_, mut guest] = ALL.guests();
        guest.memory("a")[..3 * MIB as usize].fill(0);
        guest.store.set_epoch_deadline(0);
        let mut looks = 0;
        // Where both functions begin, and twice in each piece: not before the first is done.
        guest.store.epoch_deadline_callback(move |_| {
            looks += 1;
            Ok(if looks > 5 { UpdateDeadline::Interrupt } else { UpdateDeadline::Continue(0) })
        });
        let operands = operands.map(|operand| Val::I32(operand.cast_signed()));
        let (trap, _) = guest.call(name, &operands).unwrap_err();
        assert_eq!(trap, Trap::Interrupt);
        let memory = guest.memory("a");
        let pieces = memory.chunks_exact(MIB as usize).filter(|piece| done(piece)).count();
        assert!((1..3).contains(&pieces), "{name}: {pieces} pieces of three are done");
    }
    check("fill", [0, 5, 3 * MIB], |piece| piece.iter().all(|byte| *byte == 5));
    check("copy-back", [0, 0, 3 * MIB], |piece| piece.iter().any(|byte| *byte != 0));
}

#[test]
fn what_is_short_stays_as_it_is() {
    #[track_caller]
    fn check(items: &str, expected: bool) {
        let bytes = wat::parse_str(format!(r#"(module (memory 1) {items})"#)).unwrap();
        assert_eq!(piecewise(&bytes).unwrap().is_some(), expected, "{items}");
    }
    let fill =
        |length: &str| format!("(func (param i32) (memory.fill (i32.const 0) (i32.const 1) {length}))");
    check("", false);
    check("(func (param f32) (result i32) (i32.trunc_sat_f32_s (local.get 0)))", false);
    check(&fill("(i32.const 1048576)"), false);
    check(&fill("(i32.const 1048577)"), true);
    check(&fill("(i32.const -1)"), true);
    check(&fill("(local.get 0)"), true);
    check(&fill("(block (result i32) (i32.const 5))"), true);
    let init = |data: &str| {
        format!(
            r#"(func (param i32) (memory.init $d (i32.const 0) (i32.const 1) (local.get 0))) (data $d "{data}")"#
        )
    };
    check(&init("some"), false);
    check(&init(&"x".repeat(PIECE as usize)), false);
    check(&init(&"x".repeat(PIECE as usize + 1)), true);
}

/// Types in groups, imports of all kinds, functions with many locals, code that is not reached.
#[test]
fn modules_of_any_shape_stay_valid() {
    #[track_caller]
    fn check(text: &str) {
        let bytes = wat::parse_str(text).unwrap();
        let (rewritten, _) = piecewise(&bytes).unwrap().expect("it has long operations");
        assert!(rewritten.len() < MODULE_BYTES as usize);
        let mut all = wasmparser::Validator::new_with_features(wasmparser::WasmFeatures::all());
        let valid = all.validate_all(&rewritten).map(drop);
        assert!(valid.is_ok(), "{text}: {valid:?}");
        // Types and functions that were there have their numbers: it can be printed and says the same.
        assert!(piecewise(&rewritten).unwrap().is_some());
    }
    let copy = "(memory.copy (local.get 0) (local.get 0) (local.get 0))";
    check(&format!("(module (memory 1) (func (param i32) {copy} {copy} (block {copy})))"));
    check(&format!(
        r#"(module (rec (type (struct)) (type $f (func (param i32)))) (type (func (param i32 i64 f32)))
            (import "" "a" (func)) (import "" "m" (memory 1)) (import "" "g" (global i32)) (import "" "b" (func (type $f)))
            (func (type $f) (local i64 i64 f32 funcref) (local.set 0 (i32.const 7)) {copy})
            (func (type $f) (unreachable) (memory.fill))
            (table 3 funcref) (elem (i32.const 0) func 0 1 2) (start 0)
            (export "x" (func 2)) (tag (param i32)) (data "abc")
            (func (param i32 i32) (result i32) (local.get 1) {copy}))"#
    ));
    let module = format!("(core module (memory 1) (func (param i32) {copy}))");
    let plain = r#"(core module (func (export "f")))"#;
    check(&format!("(component {plain} {module})"));
    check(&format!(
        "(component {plain} (component {module} (component {module} {module})) (component {plain}) {module})"
    ));
}
