//! How fast containers start and what an idle one costs: `cargo bench -p coracle-runtime`.
//!
//! Prints one line per figure. Plain figures, no statistics package: compare runs of one machine.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{Bench, say};
use coracle_runtime::{Config, Container, Exit, Program, Runtime};
use tokio::time::Instant;

const ROUNDS: usize = 2_000;
const IN_FLIGHT: usize = 64;
const IDLE: usize = 1_000;
const ROOM: u32 = 10_000;

/// Returns at once. 17 pages, as Rust programs have.
const RETURN: &str = r#"(module (memory (export "memory") 17) (func (export "_start")))"#;

/// Touches four pages and sleeps for an hour.
const SLEEP: &str = r#"(module
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 17)
    (func (export "_start")
        (i32.store (i32.const 4096) (i32.const 1))
        (i32.store (i32.const 8192) (i32.const 1))
        (i32.store (i32.const 12288) (i32.const 1))
        (i32.store (i32.const 16) (i32.const 1))
        (i64.store (i32.const 24) (i64.const 3600000000000))
        (drop (call $poll (i32.const 0) (i32.const 256) (i32.const 1) (i32.const 512)))))"#;

const SPIN: &str =
    r#"(module (memory (export "memory") 1) (func (export "_start") (loop $again (br $again))))"#;

impl Bench {
    /// Starts a program that ends at once, again and again.
    async fn starts(&self, what: &str, program: &Arc<Program>) {
        let mut times = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let begin = Instant::now();
            assert_eq!(self.start(program, None).wait().await, Exit::Code(0));
            times.push(begin.elapsed());
        }
        times.sort();
        say(&format!("{what}: start to exit, alone, median"), micros(times[ROUNDS / 2]));
        say(&format!("{what}: start to exit, alone, p99"), micros(times[ROUNDS * 99 / 100]));

        let begin = Instant::now();
        for _ in 0..ROUNDS * 5 / IN_FLIGHT {
            let running: Vec<Container> = (0..IN_FLIGHT).map(|_| self.start(program, None)).collect();
            for container in running {
                container.wait().await;
            }
        }
        let count = (ROUNDS * 5 / IN_FLIGHT * IN_FLIGHT) as f64;
        say(
            &format!("{what}: starts, 64 in flight"),
            format!("{:.0} /s", count / begin.elapsed().as_secs_f64()),
        );
    }
}

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let build = |max_containers| {
        let config = Config::new(dir.path().join("compiled"));
        Runtime::build(Config { threads: 2, max_containers, ..config }).expect("a runtime")
    };
    let prepare = async |runtime: &Runtime, name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, wat::parse_str(text).expect("valid text")).expect("a file");
        runtime.prepare(name, &path, "test").await.expect("a program")
    };

    let runtime = build(1);
    let begin = Instant::now();
    prepare(&runtime, "return", RETURN).await;
    prepare(&runtime, "sleep", SLEEP).await;
    say("prepare, two modules, compiled", micros(begin.elapsed()));
    drop(runtime);

    let begin = Instant::now();
    let runtime = build(ROOM);
    say("runtime for 10,000 containers", micros(begin.elapsed()));
    let begin = Instant::now();
    let returns = prepare(&runtime, "return", RETURN).await;
    let sleeps = prepare(&runtime, "sleep", SLEEP).await;
    say("prepare, two modules, from the cache", micros(begin.elapsed()));

    let bench = Bench::new(runtime);

    bench.starts("0.1", &returns).await;
    let hello = concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-examples/built/hello.wasm");
    let hello = bench.runtime.prepare("hello", Path::new(hello), "test").await.expect("the example is built");
    bench.starts("0.2, hello", &hello).await;

    let spins = prepare(&bench.runtime, "spin", SPIN).await;
    let mut times = Vec::new();
    for _ in 0..100 {
        let spinning = bench.start(&spins, None);
        while spinning.usage().cpu == Duration::ZERO {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let begin = Instant::now();
        spinning.kill();
        assert_eq!(spinning.wait().await, Exit::Killed);
        times.push(begin.elapsed());
    }
    times.sort();
    say("kill of a tight loop, median", micros(times[50]));
    say("kill of a tight loop, worst of 100", micros(times[99]));

    let before = resident_kib();
    let idle: Vec<Container> = (0..IDLE).map(|_| bench.start(&sleeps, None)).collect();
    while idle.iter().any(|container| container.usage().memory == 0) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let each = (resident_kib() - before) as f64 / IDLE as f64;
    say("resident memory of an idle container", format!("{each:.1} KiB"));

    let begin = Instant::now();
    for container in &idle {
        container.kill();
    }
    for container in &idle {
        assert_eq!(container.wait().await, Exit::Killed);
    }
    say("kill 1,000 idle containers", micros(begin.elapsed()));
}

fn micros(time: Duration) -> String {
    format!("{} µs", time.as_micros())
}

/// Resident memory of this process.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}
