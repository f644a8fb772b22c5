//! How long a kill takes whom it finds in the middle of one long instruction or call:
//! `cargo bench -p coracle-runtime --bench kill [part of a name]`.
//!
//! Prints a line per guest and memory limit. Each is killed several times at different moments: from the kill until the
//! exit is known, and the CPU time from the beginning of the turn that the kill found, which other work on the machine
//! does not change. `spin after touching all` is what taking down the memory takes, which is part of every other
//! figure.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Bench, say};
use coracle_runtime::{Config, Exit, Program, Runtime};
use tokio::time::Instant;

const MIB: u64 = 1 << 20;

/// Kills of each guest.
const KILLS: u32 = 12;

/// How long a guest runs before it is killed: this, and a few milliseconds more each time.
const RUNS: Duration = Duration::from_millis(150);

/// What ordinary guests do, whose cost is no matter of kills.
const SHORT: [(&str, &str); 3] = [
    ("a short loop", ""),
    (
        "memory.copy of 0 to 63 bytes",
        "(memory.copy (i32.const 4096) (i32.const 64) (i32.and (local.get $n) (i32.const 63)))",
    ),
    (
        "memory.fill of 0 to 63 bytes",
        "(memory.fill (i32.const 4096) (i32.const 64) (i32.and (local.get $n) (i32.const 63)))",
    ),
];

/// How often.
const TIMES: u32 = 5_000_000;

/// A module that does something with all of a memory of so many pages, over and over.
fn over_and_over(pages: u64, items: &str, once: &str, again: &str) -> String {
    format!(
        r#"(module (memory (export "memory") {pages}) {items}
            (func (export "_start") {once} (loop $again {again} (br $again))))"#
    )
}

/// Guests that use `bytes` of memory.
fn guests(bytes: u64) -> Vec<(&'static str, String)> {
    let pages = bytes / (64 << 10);
    let half = bytes / 2;
    let fill = format!("(memory.fill (i32.const 0) (i32.const 1) (i32.const {}))", bytes - 1);
    let of = |items: &str, once: &str, again: &str| over_and_over(pages, items, once, again);
    let gc = |items: &str, again: &str| over_and_over(1, items, "", again);
    // Two halves, an array of references that fills a quarter of one, and what it refers to.
    let objects = bytes / 2 / 32;
    vec![
        ("spin after touching all", of("", &fill, "")),
        ("memory.fill", of("", "", &fill)),
        ("memory.fill, first touch", of("", &fill, "")),
        (
            "memory.copy, up",
            of("", &fill, &format!("(memory.copy (i32.const 1) (i32.const 0) (i32.const {}))", bytes - 2)),
        ),
        (
            "memory.copy, down",
            of("", &fill, &format!("(memory.copy (i32.const 0) (i32.const 1) (i32.const {}))", bytes - 2)),
        ),
        (
            "memory.copy, halves",
            of("", &fill, &format!("(memory.copy (i32.const {half}) (i32.const 0) (i32.const {half}))")),
        ),
        (
            "memory.init of 32 MiB",
            of(
                &format!("(data $d \"{}\")", "x".repeat(32 << 20)),
                "",
                &format!("(memory.init $d (i32.const 0) (i32.const 0) (i32.const {}))", 32 << 20),
            ),
        ),
        (
            "memory.grow",
            format!(
                r#"(module (memory (export "memory") 1) (func (export "_start")
                    (drop (memory.grow (i32.const {}))) (loop $again (br $again))))"#,
                pages - 2
            ),
        ),
        (
            "table.copy",
            gc(
                "(table $t 100000 funcref) (elem (table $t) (i32.const 0) func $f) (func $f)",
                "(table.copy (i32.const 1) (i32.const 0) (i32.const 99999))",
            ),
        ),
        (
            "table.fill",
            gc(
                "(table $t 100000 funcref) (elem declare func $f) (func $f)",
                "(table.fill (i32.const 0) (ref.func $f) (i32.const 100000))",
            ),
        ),
        (
            "table.init",
            gc(
                &format!("(table $t 100000 funcref) (func $f) (elem $e func {})", "$f ".repeat(100_000)),
                "(table.init $e (i32.const 0) (i32.const 0) (i32.const 100000))",
            ),
        ),
        (
            "array.new of bytes",
            gc(
                "(type $a (array (mut i8)))",
                &format!("(drop (array.new $a (i32.const 1) (i32.const {})))", bytes / 8),
            ),
        ),
        (
            "array.new of i32",
            gc(
                "(type $a (array (mut i32)))",
                &format!("(drop (array.new $a (i32.const 0x12345) (i32.const {})))", bytes / 32),
            ),
        ),
        (
            "array.fill of i32",
            over_and_over(
                1,
                "(type $a (array (mut i32))) (global $g (mut (ref null $a)) (ref.null $a))",
                &format!("(global.set $g (array.new_default $a (i32.const {})))", bytes / 16),
                &format!(
                    "(array.fill $a (global.get $g) (i32.const 0) (i32.const 0x12345) (i32.const {}))",
                    bytes / 16
                ),
            ),
        ),
        (
            "collection of small objects",
            format!(
                r#"(module (memory (export "memory") 1) (type $node (struct (field (ref null $node))))
                (global $head (mut (ref null $node)) (ref.null $node))
                (func (export "_start") (local $n i32)
                    (loop $again
                        (global.set $head (struct.new $node (global.get $head)))
                        (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1)))
                            (i32.const {}))))
                    (loop $again (drop (struct.new $node (ref.null $node))) (br $again))))"#,
                objects * 3 / 4
            ),
        ),
        (
            "collection of an array of objects",
            format!(
                r#"(module (memory (export "memory") 1) (type $node (struct (field i32)))
                (type $nodes (array (mut (ref null $node))))
                (global $all (mut (ref null $nodes)) (ref.null $nodes))
                (func (export "_start") (local $n i32)
                    (global.set $all (array.new_default $nodes (i32.const {count})))
                    (loop $again
                        (array.set $nodes (global.get $all) (local.get $n) (struct.new $node (local.get $n)))
                        (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1)))
                            (i32.const {count}))))
                    (loop $again (drop (struct.new $node (i32.const 1))) (br $again))))"#,
                count = objects * 3 / 4
            ),
        ),
        ("string, UTF-8 to UTF-8", strings("utf8", "utf8", half / 8 * 7)),
        ("string, UTF-8 to UTF-16", strings("utf8", "utf16", bytes / 5)),
        ("string, UTF-16 to UTF-8", strings("utf16", "utf8", bytes / 5)),
        ("string, UTF-16 to UTF-16", strings("utf16", "utf16", bytes / 5)),
    ]
}

/// A component that hands a string of so many code units from one of its parts to another.
fn strings(from: &str, to: &str, length: u64) -> String {
    let unit = if from == "utf16" { 2 } else { 1 };
    let from_pages = (length * unit).div_ceil(64 << 10) + 1;
    format!(
        r#"(component
        (component $callee
            (core module $m
                (memory (export "memory") 1)
                (func (export "realloc") (param i32 i32 i32 i32) (result i32)
                    (if (i32.gt_u (local.get 3) (i32.mul (i32.const 65536) (memory.size)))
                        (then (drop (memory.grow (i32.add (i32.const 1)
                            (i32.shr_u (local.get 3) (i32.const 16)))))))
                    (i32.const 0))
                (func (export "f") (param i32 i32)))
            (core instance $i (instantiate $m))
            (func (export "f") (param "s" string)
                (canon lift (core func $i "f") (memory (core memory $i "memory"))
                    (realloc (core func $i "realloc"))
                    string-encoding={to})))
        (instance $callee (instantiate $callee))
        (component $caller
            (import "f" (func $callee (param "s" string)))
            (core module $libc (memory (export "memory") {from_pages}))
            (core instance $libc (instantiate $libc))
            (core func $f (canon lower (func $callee) (memory (core memory $libc "memory")) string-encoding={from}))
            (core module $main
                (import "" "memory" (memory {from_pages}))
                (import "" "f" (func $f (param i32 i32)))
                (func (export "run") (result i32)
                    (memory.fill (i32.const 0) (i32.const 65) (i32.const {bytes}))
                    (loop $again (call $f (i32.const 0) (i32.const {length})) (br $again))
                    unreachable))
            (core instance $main (instantiate $main (with "" (instance
                (export "memory" (memory $libc "memory")) (export "f" (func $f))))))
            (func $run (result (result)) (canon lift (core func $main "run")))
            (export "run" (func $run)))
        (instance $caller (instantiate $caller (with "f" (func $callee "f"))))
        (instance (export "wasi:cli/run@0.2.0") (export "run" (func $caller "run"))))"#,
        bytes = length * unit,
    )
}

impl Bench {
    async fn kills(&self, what: &str, program: &Arc<Program>, limit: u64, runs: Duration) {
        let (mut times, mut turns) = (Vec::new(), Vec::new());
        let mut early = None;
        for at in 0..KILLS {
            let container = self.start(program, Some(limit));
            tokio::time::sleep(runs + Duration::from_millis(7) * at).await;
            let (begin, used) = (Instant::now(), container.usage().cpu);
            container.kill();
            let exit = container.wait().await;
            times.push(begin.elapsed());
            turns.push(container.usage().cpu - used);
            if exit != Exit::Killed {
                early = Some(exit);
            }
        }
        times.sort();
        turns.sort();
        let early = early.map(|exit| format!("  (ended by itself: {exit:?})")).unwrap_or_default();
        say(
            what,
            format!(
                "median {:>7.1} ms, worst {:>7.1} ms; CPU time {:>7.1} and {:>7.1} ms{}",
                millis(times[times.len() / 2]),
                millis(times[times.len() - 1]),
                millis(turns[turns.len() / 2]),
                millis(turns[turns.len() - 1]),
                &early[..early.len().min(200)]
            ),
        );
    }
}

#[tokio::main]
async fn main() {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with("--")).unwrap_or_default();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config = Config::new(dir.path().join("compiled"));
    let config = Config { threads: 2, max_containers: 8, ..config };
    let runtime = Runtime::build(config).expect("a runtime");
    let bench = Bench::new(runtime);
    for (what, body) in SHORT {
        if !what.contains(&wanted) {
            continue;
        }
        let path = dir.path().join("module");
        let text = format!(
            r#"(module (memory (export "memory") 17) (func (export "_start") (local $n i32)
                (loop $again {body}
                    (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1)))
                        (i32.const {TIMES}))))))"#
        );
        std::fs::write(&path, wat::parse_str(&text).expect("valid text")).expect("a file");
        let program = bench.runtime.prepare(what, &path, "test").await.expect("a program");
        let mut times = Vec::new();
        for _ in 0..KILLS {
            let container = bench.start(&program, None);
            assert_eq!(container.wait().await, Exit::Code(0));
            times.push(container.usage().cpu);
        }
        times.sort();
        let each = times[0].as_secs_f64() * 1e9 / f64::from(TIMES);
        say(what, format!("{each:>7.2} ns each, the least of {KILLS}"));
    }
    for (limit, used) in [(256, 250), (1024, 1000), (4096, 4000)] {
        for (name, text) in guests(used * MIB) {
            let what = format!("{name}, {limit} MiB");
            if !what.contains(&wanted) {
                continue;
            }
            let path = dir.path().join("module");
            std::fs::write(&path, wat::parse_str(&text).expect("valid text")).expect("a file");
            let program = bench.runtime.prepare(&what, &path, "test").await.expect("a program");
            // Long enough for what is done once, and a part of what is done over and over.
            let runs = RUNS * u32::try_from(limit / 256).expect("a small number");
            let runs = if name.ends_with("first touch") { Duration::from_millis(5) } else { runs };
            bench.kills(&what, &program, limit * MIB, runs).await;
        }
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
