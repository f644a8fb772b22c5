//! Guests with objects that are collected, and with exceptions: what Kotlin, Dart and newer C++ compile to.

use super::*;
use crate::Density;

const EXIT: &str = r#"(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))"#;

fn module(text: &str) -> String {
    format!(r#"(module {EXIT} (memory (export "memory") 1) {text})"#)
}

/// Builds a list of `length` structs over and over, and keeps one of `lists`; exits with its sum modulo 251.
fn lists(lists: u32, length: u32) -> String {
    module(&format!(
        r#"(type $node (struct (field i32) (field (mut (ref null $node)))))
        (func $list (param $n i32) (result (ref null $node)) (local $head (ref null $node))
            (loop $again
                (local.set $head (struct.new $node (local.get $n) (local.get $head)))
                (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
            (local.get $head))
        (func $sum (param $at (ref null $node)) (result i32) (local $sum i32)
            (block $done (loop $again
                (br_if $done (ref.is_null (local.get $at)))
                (local.set $sum (i32.add (local.get $sum) (struct.get $node 0 (local.get $at))))
                (local.set $at (struct.get $node 1 (local.get $at)))
                (br $again)))
            (local.get $sum))
        (func (export "_start") (local $left i32) (local $kept (ref null $node))
            (local.set $left (i32.const {lists}))
            (local.set $kept (call $list (i32.const {length})))
            (loop $again
                ;; A cycle: what only counts references keeps it.
                (struct.set $node 1 (call $list (i32.const {length})) (call $list (i32.const 3)))
                (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
            (call $exit (i32.rem_u (call $sum (local.get $kept)) (i32.const 251))))"#
    ))
}

/// An array of arrays with values of several types, casts, and calls through references.
const SHAPES: &str = r#"
    (type $shape (sub (struct (field i32))))
    (type $square (sub $shape (struct (field i32) (field i64))))
    (type $area (func (param (ref $shape)) (result i32)))
    (type $shapes (array (mut (ref null $shape))))
    (func $of (type $area) (if (result i32) (ref.test (ref $square) (local.get 0))
        (then (i32.wrap_i64 (struct.get $square 1 (ref.cast (ref $square) (local.get 0)))))
        (else (struct.get $shape 0 (local.get 0)))))
    (elem declare func $of)
    (global $all (mut (ref null $shapes)) (ref.null $shapes))
    (func (export "_start") (local $area (ref null $area))
        (global.set $all (array.new $shapes (ref.null $shape) (i32.const 10)))
        (array.set $shapes (global.get $all) (i32.const 3) (struct.new $shape (i32.const 2)))
        (array.set $shapes (global.get $all) (i32.const 4) (struct.new $square (i32.const 9) (i64.const 40)))
        (local.set $area (ref.func $of))
        (call $exit (i32.add
            (call_ref $area (ref.as_non_null (array.get $shapes (global.get $all) (i32.const 3))) (local.get $area))
            (call_ref $area (ref.as_non_null (array.get $shapes (global.get $all) (i32.const 4))) (local.get $area)))))"#;

/// Throws from `depth` calls down, catches, and exits with what was thrown.
fn throw(depth: u32) -> String {
    module(&format!(
        r#"(tag $e (param i32))
        (func $down (param $left i32)
            (if (i32.eqz (local.get $left)) (then (throw $e (i32.const 42))))
            (call $down (i32.sub (local.get $left) (i32.const 1)))
            (call $down (i32.const 0)))
        (func (export "_start")
            (call $exit (block $caught (result i32)
                (try_table (catch $e $caught) (call $down (i32.const {depth})))
                (unreachable))))"#
    ))
}

/// Throws and catches for ever.
const THROW_FOR_EVER: &str = r#"
    (tag $e (param i32 i64))
    (func $thrower (throw $e (i32.const 1) (i64.const 2)))
    (func (export "_start") (loop $again
        (drop (drop (block $caught (result i32 i64)
            (try_table (catch $e $caught) (call $thrower)) (unreachable))))
        (br $again)))"#;

/// Keeps all that it makes.
fn hoard(object: &str) -> String {
    module(&format!(
        r#"(type $bytes (array (mut i8)))
        (type $node (struct (field anyref) (field (ref null $node))))
        (global $head (mut (ref null $node)) (ref.null $node))
        (func (export "_start") (loop $again
            (global.set $head (struct.new $node {object} (global.get $head)))
            (br $again)))"#
    ))
}

/// Makes garbage for ever.
const GARBAGE: &str = r#"
    (type $pair (struct (field i32) (field i32)))
    (func (export "_start") (loop $again
        (drop (struct.new $pair (i32.const 1) (i32.const 2))) (br $again)))"#;

fn benches() -> [Bench; 2] {
    [Density::Fast, Density::Dense].map(|density| Bench::of(|config| config.density = density))
}

#[track_caller]
fn trap(exit: &Exit, expected: &str) {
    assert!(matches!(exit, Exit::Trap { message } if message.contains(expected)), "{exit:?}");
}

#[tokio::test]
async fn objects_live_and_are_collected() {
    for bench in benches() {
        let pod = Budget::new(None);
        let (exit, _) = bench
            .run(&lists(300, 10_000), |spec| {
                spec.memory_limit = Some(16 * MIB);
                spec.budget = Arc::clone(&pod);
            })
            .await;
        assert_eq!(exit, Exit::Code(10_000 * 10_001 / 2 % 251), "of 70 MiB made, few live at one time");
        assert_eq!(pod.used(), 0);
        assert_eq!(bench.run(&module(SHAPES), |_| {}).await.0, Exit::Code(42));
    }
}

#[tokio::test]
async fn exceptions_are_thrown_and_caught() {
    for bench in benches() {
        for depth in [0, 1, 5_000] {
            assert_eq!(bench.run(&throw(depth), |_| {}).await.0, Exit::Code(42), "{depth} down");
        }
        trap(&bench.run(&throw(u32::MAX), |_| {}).await.0, "call stack exhausted");
        let uncaught = module(r#"(tag $e) (func (export "_start") (throw $e))"#);
        trap(&bench.run(&uncaught, |_| {}).await.0, "exception");
    }
}

/// The heap is its container's memory.
#[tokio::test]
async fn who_keeps_all_objects_is_out_of_memory() {
    for bench in benches() {
        for object in [
            "(ref.i31 (i32.const 1))",
            "(array.new $bytes (i32.const 7) (i32.const 100_000))",
            "(array.new $bytes (i32.const 7) (i32.const 0x7000_0000))",
        ] {
            let pod = Budget::new(None);
            let (container, _) = bench
                .start(&hoard(object), |spec| {
                    spec.memory_limit = Some(40 * MIB);
                    spec.budget = Arc::clone(&pod);
                })
                .await;
            assert_eq!(ended(&container).await, Exit::OutOfMemory, "{object}");
            assert!(container.usage().memory <= 40 * MIB);
            assert_eq!(pod.used(), 0);
        }
        let pod = Budget::new(Some(24 * MIB));
        let guest = hoard("(ref.null any)");
        let (exit, _) = bench.run(&guest, |spec| spec.budget = Arc::clone(&pod)).await;
        assert!(matches!(exit, Exit::PodOutOfMemory { .. }), "{exit:?}");
        assert_eq!(pod.used(), 0);
    }
}

/// A linear memory that doubles, beside a heap.
#[tokio::test]
async fn a_memory_that_doubles_is_out_of_memory() {
    let guest = module(
        r#"(tag $e) (func (export "_start") (loop $again
            (br_if $again (i32.ne (memory.grow (memory.size)) (i32.const -1))))
            (unreachable))"#,
    );
    let bench = Bench::new();
    let (exit, _) = bench.run(&guest, |spec| spec.memory_limit = Some(40 * MIB)).await;
    assert_eq!(exit, Exit::OutOfMemory);
    let fails = module(r#"(tag $e) (func (export "_start") (unreachable))"#);
    trap(&bench.run(&fails, |_| {}).await.0, "unreachable");
}

#[tokio::test]
async fn who_makes_garbage_or_throws_for_ever_can_be_killed() {
    for bench in benches() {
        for guest in [module(GARBAGE), module(THROW_FOR_EVER), lists(u32::MAX, 100_000)] {
            let (container, _) = bench.start(&guest, |_| {}).await;
            let used = async {
                while container.usage().cpu < Duration::from_millis(200) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(PATIENCE, used).await.expect("it runs");
            assert!(container.usage().memory < 32 * MIB, "{:?}", container.usage());
            container.kill();
            assert_eq!(ended(&container).await, Exit::Killed);
            assert_eq!(bench.run(&guests::hello("hello"), |_| {}).await.0, Exit::Code(0));
        }
    }
}

/// What the collector begins from is the host's memory: a table of references costs more where there is a heap.
#[tokio::test]
async fn what_the_collector_begins_from_is_memory() {
    let guest = |many: usize| {
        module(&format!(r#"{} (func (export "_start"))"#, "(table 100000 anyref)".repeat(many)))
    };
    let bench = Bench::with_capacity(32);
    for (tables, expected) in [(4, Exit::Code(0)), (8, Exit::OutOfMemory)] {
        let (exit, _) = bench.run(&guest(tables), |spec| spec.memory_limit = Some(32 * MIB)).await;
        assert_eq!(exit, expected, "{tables} tables");
    }
}

/// A heap lies in a memory of the engine's pool, and so takes a place: who has one finds room for it.
#[tokio::test]
async fn a_heap_takes_a_place() {
    let bench = Bench::with_capacity(4);
    let program = bench.prepare(&module(GARBAGE)).await.unwrap();
    let output = Arc::default();
    let all: Vec<_> =
        (0..2).map(|_| bench.runtime.start(Arc::clone(&program), bench.spec(&output)).unwrap()).collect();
    let refused = bench.runtime.start(program, bench.spec(&output)).unwrap_err();
    assert!(matches!(refused, StartError::Exhausted { running: 2, needed: 2 }), "{refused:?}");
    for container in all {
        container.kill();
        assert_eq!(ended(&container).await, Exit::Killed);
    }
}

/// What was compiled before has its heap, too.
#[tokio::test]
async fn who_comes_from_the_cache_has_a_heap() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("module.wasm");
    std::fs::write(&path, wat::parse_str(lists(3, 1_000)).unwrap()).unwrap();
    for _ in 0..2 {
        let runtime = Runtime::build(config(dir.path(), 4)).unwrap();
        let bench = Bench::on(runtime, tempfile::tempdir().unwrap());
        let program = bench.runtime.prepare("sha256:lists", &path, "test").await.unwrap();
        assert_eq!(program.places(), 2);
        let container = bench.runtime.start(program, bench.spec(&Arc::default())).unwrap();
        assert_eq!(ended(&container).await, Exit::Code(1_000 * 1_001 / 2 % 251));
    }
}

/// A component's core modules may have objects and exceptions of their own.
#[tokio::test]
async fn components_have_them_too() {
    let guest = r#"(component
        (core module $m
            (tag $e (param (ref $box)))
            (type $box (struct (field i32)))
            (func $throw (throw $e (struct.new $box (i32.const 0))))
            (func (export "run") (result i32)
                (struct.get $box 0 (block $caught (result (ref $box))
                    (try_table (catch $e $caught) (call $throw)) (unreachable)))))
        (core instance $i (instantiate $m))
        (func $run (result (result)) (canon lift (core func $i "run")))
        (instance (export "wasi:cli/run@0.2.0") (export "run" (func $run))))"#;
    for bench in benches() {
        assert_eq!(bench.run(guest, |_| {}).await.0, Exit::Code(0));
    }
}
