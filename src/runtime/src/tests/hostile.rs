//! Guests that do what they must not. Each ends contained, and says why it ended; the others never notice.
//!
//! | attack | here and in [`components`](super::hostile_components), through both doors | and |
//! | --- | --- | --- |
//! | path escapes | `misdeeds_are_contained` | `vfs: paths_stay_below_their_directory`, `links_are_walked_inside` |
//! | symlink races | `links_that_change_under_a_reader_do_not_lead_out` | `vfs: swapping_links_does_not_lead_out`, `racing_changes_keep_the_books` |
//! | handle reuse after drop | `what_was_dropped_is_gone` | `preview1: numbers_are_given_and_moved` |
//! | enormous arguments and environment | `enormous_arguments_arrive_or_are_refused` | `preview1: results_that_do_not_fit_are_faults` |
//! | enormous lists, names, directory reads | `lists_are_bounded` | `preview1: no_argument_ends_the_host`, `vfs: names_have_a_limit`, `large_folders_are_folders` |
//! | fd and socket floods | `sockets_and_handles_are_bounded` | `preview1: opening_without_end_is_told_no`, `files: open_files_are_bounded`, `listings_are_memory` |
//! | connection floods on a neighbour | `connections_that_ask_nothing_are_bounded` | `network: strangers_cannot_use_up_a_pods_memory`, `a_pod_can_hold_only_so_much`, `a_full_backlog_makes_callers_wait_and_then_time_out` |
//! | log floods | `a_flood_of_output_waits_for_its_reader` | `lifecycle: a_guest_waits_for_whoever_reads_its_output`, `node: a_flood_becomes_a_stream` |
//! | memory and table growth | `tables_are_memory`, `contexts_are_memory`, `misdeeds_are_contained` | `lifecycle: memory_has_a_hard_limit`, `vfs: the_pod_pays_for_what_is_held` |
//! | objects, garbage and exceptions without end | `collected: who_keeps_all_objects_is_out_of_memory`, `what_the_collector_begins_from_is_memory` | `collected: who_makes_garbage_or_throws_for_ever_can_be_killed`, `exceptions_are_thrown_and_caught` |
//! | a neighbour's places | `who_has_many_tables_takes_many_places` | `places: what_needs_more_takes_more`, `places: a_handler_leaves_places_for_others` |
//! | requests that never leave, or are kept | `requests_that_never_leave_are_memory`, `requests_that_are_kept_are_memory` | |
//! | deep recursion | `deep_components_are_refused` | `lifecycle: deep_recursion_is_a_trap` |
//! | tight loops | `tight_loops_delay_nobody_and_can_be_killed` | `lifecycle: killing_ends_a_guest_wherever_it_is`, `spinning_guests_share_their_threads` |
//! | filling and copying gigabytes | `pieces: who_moves_memory_for_ever_is_killed` | `program::pieces: the_engine_looks_between_pieces`, `what_an_operation_does_stays_the_same` |
//! | poll storms | `poll_storms_can_be_killed`, `lists_are_bounded` | `network: WAITERS` |
//! | header and trailer bombs, smuggling | `what_two_readers_would_read_differently_is_refused` | `handlers: what_no_guest_can_answer_is_refused`, `io: a_head_that_comes_byte_by_byte_is_not_waited_for` |
//! | answers that nobody reads | | `slow_clients: heads_that_nobody_reads_are_memory`, and those after it |
//! | rapid resets, floods of CONTINUATION | `requests_that_are_taken_back_at_once_end_their_connection`, `heads_without_end_end_their_connection` | |
//! | decompression bombs in layers | | `image: bombs_do_not_go_off`, `many_long_names_are_refused_before_they_are_held`, `hiding_again_and_again_is_not_looking_again_and_again` |
//! | malformed components | `fuzz: no_module_ends_the_host` | `prepare: what_is_no_wasm_is_refused`; `tests/fuzz` |
//! | giant modules, compile bombs | `giant_modules_are_refused_unread` | `process: how_a_process_ends_says_why`, `line: nobody_holds_all_places`, `tests: compile_bombs_end_and_hold_nobody_up` |
//! | clock abuse | `clocks_that_never_come_are_waited_for_and_killed` | `preview1: a_sleep_ends_when_it_should` |

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

use coracle_vfs::{MountOptions, Volume};

use super::*;

#[tokio::test]
async fn a_rust_program_runs() {
    let bench = Bench::new();
    let (exit, output) = bench.run_example("hello", &["Ada"], |_| {}).await;
    assert_eq!(exit, Exit::Code(0), "{output}");
    assert!(!output.is_empty());
}

#[tokio::test]
async fn misdeeds_are_contained() {
    let bench = Bench::new();
    let secret = tempfile::tempdir().unwrap();
    let folder = secret.path().join("volume");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(secret.path().join("secret"), "x").unwrap();
    let volume = Volume::host(&folder, None).unwrap();
    for path in ["/etc/passwd", "/data/../../../../etc/passwd", "/data/../secret", "/proc/self/mem"] {
        let (exit, output) = bench
            .run_example("hostile", &["host-file", path], |spec| {
                spec.mounts.add("/data", &volume, &MountOptions::default()).unwrap();
            })
            .await;
        assert_eq!(exit, Exit::Code(0), "{output}");
        assert!(output.starts_with("may not"), "{output}");
    }
    let (exit, output) =
        bench.run_example("hostile", &["hoard"], |spec| spec.memory_limit = Some(32 * MIB)).await;
    assert_eq!(exit, Exit::OutOfMemory, "{output}");
    let (exit, output) = bench.run_example("hostile", &["trap"], |_| {}).await;
    assert!(matches!(&exit, Exit::Trap { message } if message.contains("wasm backtrace:")), "{exit:?}");
    assert!(output.contains("trapping on purpose"), "what it said before is kept: {output}");
    let (exit, _) = bench.run_example("hostile", &["exit", "3"], |_| {}).await;
    assert_eq!(exit, Exit::Code(1), "0.2 itself has only 'failed' for `std::process::exit`");
}

/// The sidecar of the demo writes a folder that others read.
#[tokio::test]
async fn environment_and_arguments_arrive_alone() {
    let bench = Bench::new();
    let (exit, output) = bench.run_example("hostile", &["unheard", "of"], |_| {}).await;
    assert_eq!((exit, output.trim()), (Exit::Code(1), "unknown misdeed [\"unheard\", \"of\"]"));
}

/// A mangled C++ name in which each type is ten times the one before: 500 bytes that mean 10^15.
#[tokio::test]
async fn a_name_that_stands_for_endless_text_is_shown_as_it_is() {
    let seen = |number: usize| match number {
        0 => "S0_".to_owned(),
        number => format!("S{}_", char::from_digit(number as u32, 36).unwrap().to_ascii_uppercase()),
    };
    let mut name = format!("_Z1f1A1BI{}E", "S_".repeat(10));
    for number in 1..15 {
        name += &format!("{}I{}E", seen(0), seen(number).repeat(10));
    }
    let guest = format!(
        r#"(module (memory (export "memory") 1) (func (@name "{name}") (export "_start") unreachable))"#
    );
    let bench = Bench::new();
    let (exit, _) = bench.run(&guest, |_| {}).await;
    assert!(matches!(&exit, Exit::Trap { message } if message.ends_with(&format!("!{name}"))), "{exit:?}");
}

/// A module may name its functions with any number of bytes.
#[tokio::test]
async fn a_long_name_is_cut() {
    let name = "n".repeat(90_000);
    let guest = format!(
        r#"(module (memory (export "memory") 1) (func (@name "{name}") (export "_start") unreachable))"#
    );
    let bench = Bench::new();
    let (exit, _) = bench.run(&guest, |_| {}).await;
    assert!(matches!(&exit, Exit::Trap { message } if message.len() == 4_096), "{exit:?}");
}

#[tokio::test]
async fn names_of_rust_can_be_read() {
    let guest = r#"(module (memory (export "memory") 1)
        (func (@name "_RNvNtCs9pv848UzQwQ_4core9panicking9panic_fmt") (export "_start") unreachable))"#;
    let bench = Bench::new();
    let (exit, _) = bench.run(guest, |_| {}).await;
    assert!(
        matches!(&exit, Exit::Trap { message } if message.ends_with("!core::panicking::panic_fmt")),
        "{exit:?}"
    );
}

/// Tables are the host's memory: they count, and end where a table ends.
#[tokio::test]
async fn tables_are_memory() {
    let grow = |step: u32| {
        format!(
            r#"(module (table 0 funcref) (memory (export "memory") 1)
                (func (export "_start") (loop $again (br_if $again (i32.ne
                    (table.grow (ref.null func) (i32.const {step})) (i32.const -1))))))"#
        )
    };
    let bench = Bench::new();
    for step in [1_000, u32::MAX] {
        let (exit, _) = bench.run(&grow(step), |_| {}).await;
        assert_eq!(exit, Exit::Code(0), "it is told no, and goes on");
    }
    let (exit, _) = bench.run(&grow(1_000), |spec| spec.memory_limit = Some(MIB / 2)).await;
    assert_eq!(exit, Exit::OutOfMemory, "a table of 100,000 is more than half a megabyte");
    for (many, what) in [("(table 1 funcref)", "tables"), ("(memory 1)", "memories")] {
        let many = format!(
            r#"(module (memory (export "memory") 1) {} (func (export "_start")))"#,
            many.repeat(crate::limits::TABLES as usize + 1)
        );
        let refused = bench.prepare(&many).await.unwrap_err().to_string();
        assert!(refused.contains(what), "{refused}");
    }
}

/// A module with so many globals, which the engine keeps in its own memory.
fn globals(many: usize) -> String {
    "(global (mut i64) (i64.const 1))".repeat(many)
}

#[tokio::test]
async fn contexts_are_memory() {
    let bench = Bench::new();
    let guest =
        format!(r#"(module (memory (export "memory") 1) {} (func (export "_start")))"#, globals(100_000));
    let pod = Budget::new(None);
    for (limit, expected) in [(MIB, Exit::OutOfMemory), (2 * MIB, Exit::Code(0))] {
        let (exit, _) = bench
            .run(&guest, |spec| {
                spec.memory_limit = Some(limit);
                spec.budget = Arc::clone(&pod);
            })
            .await;
        assert_eq!((exit, pod.used()), (expected, 0));
    }
    let many = "(core instance (instantiate $m))".repeat(11);
    let guest = format!(
        r#"(component (core module $m {}) {many}
            (core module $main (func (export "run") (result i32) (i32.const 0)))
            (core instance $main (instantiate $main))
            (func $run (result (result)) (canon lift (core func $main "run")))
            (instance (export "wasi:cli/run@0.2.0") (export "run" (func $run))))"#,
        globals(100_000)
    );
    let refused = bench.prepare(&guest).await.unwrap_err().to_string();
    assert!(refused.contains("beside its memories and tables"), "{refused}");
}

/// Who takes more of the engine's pool than others takes more of its places, and nothing of theirs.
#[tokio::test]
async fn who_has_many_tables_takes_many_places() {
    let bench = Bench::with_capacity(16);
    let wide = |tables: usize| {
        format!(
            r#"(component
                (core module $table (table 0 funcref)) {}
                (core module $m (func (export "run") (result i32) (loop $again (br $again)) (i32.const 0)))
                (core instance $i (instantiate $m))
                (func $run (result (result)) (canon lift (core func $i "run")))
                (instance (export "wasi:cli/run@0.2.0") (export "run" (func $run))))"#,
            "(core instance (instantiate $table))".repeat(tables)
        )
    };
    let (first, _) = bench.start(&wide(60), |_| {}).await;
    let program = bench.prepare(&wide(8)).await.unwrap();
    let refused = bench.runtime.start(program, bench.spec(&Arc::default())).unwrap_err();
    assert!(matches!(refused, StartError::Exhausted { running: 1, needed: 2 }), "{refused:?}");
    assert_eq!(bench.run(&guests::hello("hello"), |_| {}).await, (Exit::Code(0), "hello".into()));
    first.kill();
    assert_eq!(ended(&first).await, Exit::Killed);
    assert_eq!(bench.runtime.running(), 0);
}

/// A file of the largest size and one byte, which is all a hole: refused by its size.
#[tokio::test]
async fn giant_modules_are_refused_unread() {
    let bench = Bench::new();
    let path = bench.dir.path().join("giant");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(crate::limits::MODULE_BYTES + 1).unwrap();
    let refused = bench.runtime.prepare("sha256:giant", &path, "test").await.unwrap_err().to_string();
    assert!(refused.contains("256 MiB") || refused.contains("268435456"), "{refused}");
}

/// The most subscriptions that a call takes, over and over: others have their turns, and it can be killed.
#[tokio::test]
async fn poll_storms_can_be_killed() {
    let storm = r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 16)
        (data (i32.const 0) "\10\00\00\00\05\00\00\00")
        (data (i32.const 16) "storm")
        (func (export "_start") (local $at i32)
            (if (i32.ne (call $poll (i32.const 64) (i32.const 500000) (i32.const 8193) (i32.const 32))
                (i32.const 28)) (then unreachable))
            ;; every other for stdout, which has room, the rest for a clock at once
            (loop $next
                (i32.store8 offset=72 (local.get $at) (i32.and (i32.const 2)
                    (i32.shr_u (local.get $at) (i32.const 5))))
                (i32.store offset=80 (local.get $at) (i32.const 1))
                (local.set $at (i32.add (local.get $at) (i32.const 48)))
                (br_if $next (i32.lt_u (local.get $at) (i32.const 393216))))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
            (loop $again
                (drop (call $poll (i32.const 64) (i32.const 500000) (i32.const 8192) (i32.const 32)))
                (br $again))))"#;
    let bench = Bench::new();
    let (first, said) = bench.start(storm, |_| {}).await;
    let (second, _) = bench.start(storm, |_| {}).await;
    said.shows("storm").await;
    let (exit, output) = bench.run(&guests::hello("hello"), |_| {}).await;
    assert_eq!((exit, output.as_str()), (Exit::Code(0), "hello"));
    for container in [first, second] {
        container.kill();
        assert_eq!(ended(&container).await, Exit::Killed);
    }
}

/// A line of output that holds so much and is never read.
#[derive(Default)]
struct Clogged(AtomicUsize);

const CLOGGED_BYTES: usize = 64 << 10;

impl Output for Clogged {
    fn write(&self, bytes: &[u8]) {
        self.0.fetch_add(bytes.len(), Relaxed);
    }

    fn room(&self) -> usize {
        CLOGGED_BYTES.saturating_sub(self.0.load(Relaxed))
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.room() > 0 {
            return Poll::Ready(());
        }
        let _ = cx; // it never has room again
        Poll::Pending
    }
}

/// Nobody takes what a guest prints without end: it waits, using no CPU, and can be killed.
#[tokio::test]
async fn a_flood_of_output_waits_for_its_reader() {
    let bench = Bench::of(|config| config.wasi_p3 = true);
    let flood = r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 2)
        (data (i32.const 0) "\10\00\00\00\00\80\00\00")
        (func (export "_start") (loop $again
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
            (br $again))))"#;
    let one = bench.prepare(flood).await.unwrap();
    let two = bench.runtime.prepare("example:hostile", &example("hostile"), "test").await.unwrap();
    let three = bench.runtime.prepare("example:preview3", &example("preview3"), "test").await.unwrap();
    let args = ["guest".to_owned(), "flood".to_owned()];
    let long = ["guest".to_owned(), "say".to_owned(), "x".repeat(4 * CLOGGED_BYTES)];
    for (program, args) in [(one, &args[..]), (two, &args[..]), (three, &long[..])] {
        let output = Arc::new(Clogged::default());
        let mut spec = bench.spec(&Arc::default());
        spec.args = args.to_vec();
        spec.stdout = Arc::clone(&output) as Arc<dyn Output>;
        let container = bench.runtime.start(program, spec).unwrap();
        // It has come to a stop when its CPU time stands still and its output is full.
        let mut before = Duration::MAX;
        while output.room() > 0 || container.usage().cpu != before {
            before = container.usage().cpu;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(output.0.load(Relaxed), CLOGGED_BYTES, "no more than there was room for");
        container.kill();
        assert_eq!(ended(&container).await, Exit::Killed);
    }
}

/// One guest makes a name a folder and a link out of its volume, in turns, while another looks through it.
#[tokio::test]
async fn links_that_change_under_a_reader_do_not_lead_out() {
    let bench = Bench::new();
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("volume/in", "in"), ("secret", "out")] {
        std::fs::create_dir_all(folder.path().join(name)).unwrap();
        std::fs::write(folder.path().join(name).join("f"), text).unwrap();
    }
    let volume = Volume::host(&folder.path().join("volume"), None).unwrap();
    let mount = |spec: &mut ContainerSpec| {
        spec.mounts.add("/data", &volume, &MountOptions::default()).unwrap();
    };
    let (swapper, says) = bench.start_example("hostile", &["swap", "/data"], mount).await;
    says.shows("swapping").await;
    let (exit, found) = bench.run_example("hostile", &["peek", "/data/s/f", "20000"], mount).await;
    assert_eq!(exit, Exit::Code(0), "{found}");
    assert!(!found.starts_with("found 0 "), "it saw the folder at times: {found}");
    swapper.kill();
    assert_eq!(ended(&swapper).await, Exit::Killed, "{}", says.text());
}

/// Spinners through every door, more than there are threads: another guest starts and ends, and each is killed.
#[tokio::test]
async fn tight_loops_delay_nobody_and_can_be_killed() {
    let bench = Bench::new();
    let component = r#"(component
        (core module $m (func (export "run") (result i32) (loop $again (br $again)) (i32.const 0)))
        (core instance $i (instantiate $m))
        (func $run (result (result)) (canon lift (core func $i "run")))
        (instance (export "wasi:cli/run@0.2.0") (export "run" (func $run))))"#;
    let mut spinners = Vec::new();
    for _ in 0..3 {
        for guest in [guests::SPIN, component] {
            spinners.push(bench.start(guest, |_| {}).await.0);
        }
    }
    let spun = |container: &Container| container.usage().cpu > Duration::from_millis(2);
    while !spinners.iter().all(spun) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(bench.run(&guests::hello("hello"), |_| {}).await, (Exit::Code(0), "hello".into()));
    for container in &spinners {
        container.kill();
        assert_eq!(ended(container).await, Exit::Killed);
    }
}

/// A row that cites a test that was renamed would look like a defence.
#[test]
fn the_table_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = String::new();
    for folder in ["runtime", "vfs", "network", "image", "node", "../tests"] {
        read_sources(&root.join(folder), &mut sources);
    }
    let rows = include_str!("hostile.rs").lines().filter_map(|line| line.strip_prefix("//! | "));
    let mut cited = 0;
    for name in rows.flat_map(|row| row.split('`').skip(1).step_by(2)) {
        let name = name.rsplit(": ").next().unwrap_or(name);
        if name.contains(|letter: char| letter.is_ascii_lowercase()) && name.contains('_') {
            let there = sources.contains(&format!("fn {name}("));
            assert!(there || sources.contains(&format!("    {name},\n")), "no test is called {name}");
            cited += 1;
        }
    }
    assert!(cited > 30, "{cited}");
}

fn read_sources(folder: &Path, sources: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            read_sources(&entry, sources);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&std::fs::read_to_string(&entry).unwrap());
        }
    }
}
