//! The same lives in the dense class, and what it is for.

use super::*;
use crate::Density;
use crate::engine::Guards;

fn dense(max_containers: u32) -> Bench {
    with_guards(max_containers, Guards::of_kernel())
}

fn with_guards(max_containers: u32, guards: Guards) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { density: Density::Dense, ..config(dir.path(), max_containers) };
    Bench::on(Runtime::build_with(config, guards).unwrap(), dir)
}

#[tokio::test]
async fn guests_live_and_end_as_elsewhere() {
    check_lives(&dense(8)).await;
}

/// Kernels before 6.13.
#[tokio::test]
async fn guests_live_and_end_as_elsewhere_without_light_guards() {
    let bench = with_guards(8, Guards::Mapped);
    check_lives(&bench).await;
    check_memories(&bench).await;
}

async fn check_lives(bench: &Bench) {
    assert_eq!(bench.run(&guests::hello("hello"), |_| {}).await, (Exit::Code(0), "hello".into()));
    let (Exit::Trap { message }, _) = bench.run(guests::RECURSE, |_| {}).await else {
        panic!("a trap was due")
    };
    assert!(message.starts_with("wasm trap: call stack exhausted\n"), "{message}");
    for step in [1, 100, 60_000] {
        let (exit, _) = bench.run(&guests::hoard(step), |spec| spec.memory_limit = Some(40 * MIB)).await;
        assert_eq!(exit, Exit::OutOfMemory, "in steps of {step} pages");
    }
    let (exit, output) = bench.run_example("hello", &["Ada"], |_| {}).await;
    assert_eq!(exit, Exit::Code(0), "{output}");
    let (container, output) = bench.start(guests::SPIN, |_| {}).await;
    output.shows("spin").await;
    container.kill();
    assert_eq!(ended(&container).await, Exit::Killed);
}

#[tokio::test]
async fn memories_are_apart() {
    check_memories(&dense(4)).await;
}

/// Reads beyond a memory's end, and what others left in it, are traps and zeros without guard pages, too.
async fn check_memories(bench: &Bench) {
    // Exits with what it finds beside the end of its memory, which it has just made three pages longer.
    let touch = |beside: i32| {
        format!(
            r#"(module
                (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
                (memory (export "memory") 1)
                (func (export "_start")
                    (drop (memory.grow (i32.const 3)))
                    (call $exit (i32.load (i32.add (i32.const {beside})
                        (i32.mul (memory.size) (i32.const 65536)))))))"#
        )
    };
    let dirty = r#"(module (memory (export "memory") 1)
        (func (export "_start") (drop (memory.grow (i32.const 9)))
            (memory.fill (i32.const 65536) (i32.const 7) (i32.const 0x80000))))"#;
    for _ in 0..3 {
        assert_eq!(bench.run(dirty, |_| {}).await.0, Exit::Code(0));
        for inside in [-4, -65_536] {
            assert_eq!(bench.run(&touch(inside), |_| {}).await.0, Exit::Code(0));
        }
        for outside in [-3, 0, 65_536, 0x7000_0000] {
            let (exit, _) = bench.run(&touch(outside), |_| {}).await;
            assert!(
                matches!(&exit, Exit::Trap { message } if message.contains("out of bounds memory access")),
                "{exit:?} at {outside:#x}"
            );
        }
    }
}

/// What it is for: a container takes none of the mappings that a process may have.
#[tokio::test]
async fn containers_take_no_mappings() {
    let bench = dense(1_000);
    let program = bench.prepare(guests::SLEEP).await.unwrap();
    let output = Arc::new(Capture::default());
    let start = |count: usize| -> Vec<Container> {
        (0..count)
            .map(|_| {
                let mut spec = bench.spec(&output);
                spec.network = bench.pod();
                bench.runtime.start(Arc::clone(&program), spec).unwrap()
            })
            .collect()
    };
    let mappings = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let asleep = async |count: usize| {
        let all = async {
            while output.text().len() < count * 5 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, all).await.expect("all of them sleep");
    };
    let first = start(10);
    asleep(10).await;
    let before = mappings();
    let rest = start(800);
    asleep(810).await;
    let after = mappings();
    // Other tests run in this process, too; in the fast class these would be 2,400 more.
    assert!(after < before + 1_200, "{before} became {after}");
    for container in first.iter().chain(&rest) {
        container.kill();
    }
    for container in first.iter().chain(&rest) {
        assert_eq!(ended(container).await, Exit::Killed);
    }
}
