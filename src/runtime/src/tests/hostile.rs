//! Guests that do what they must not. Each ends contained, and says why it ended; the others never notice.
//!
//! | attack | here and in [`components`](super::hostile_components), through both doors | and |
//! | --- | --- | --- |
//! | path escapes | `misdeeds_are_contained` | `vfs: paths_stay_below_their_directory`, `links_are_walked_inside` |
//! | symlink races | | `vfs: swapping_links_does_not_lead_out`, `racing_changes_keep_the_books` |
//! | handle reuse after drop | `what_was_dropped_is_gone` | `preview1: numbers_are_given_and_moved` |
//! | enormous arguments and environment | `enormous_arguments_arrive_or_are_refused` | `preview1: results_that_do_not_fit_are_faults` |
//! | enormous lists, names, directory reads | `lists_are_bounded` | `preview1: no_argument_ends_the_host`, `vfs: names_have_a_limit`, `large_folders_are_folders` |
//! | fd and socket floods | `sockets_and_handles_are_bounded` | `preview1: opening_without_end_is_told_no`, `files: open_files_are_bounded` |
//! | connection floods on a neighbour | `connections_that_ask_nothing_are_bounded` | `network: strangers_cannot_use_up_a_pods_memory`, `a_pod_can_hold_only_so_much`, `a_full_backlog_makes_callers_wait_and_then_time_out` |
//! | log floods | | `lifecycle: a_guest_waits_for_whoever_reads_its_output` |
//! | memory and table growth | `tables_are_memory`, `misdeeds_are_contained` | `lifecycle: memory_has_a_hard_limit`, `vfs: the_pod_pays_for_what_is_held` |
//! | deep recursion | `deep_components_are_refused` | `lifecycle: deep_recursion_is_a_trap` |
//! | tight loops | | `lifecycle: killing_ends_a_guest_wherever_it_is`, `spinning_guests_share_their_threads` |
//! | poll storms | `poll_storms_can_be_killed`, `lists_are_bounded` | `network: WAITERS` |
//! | header and trailer bombs, smuggling | `what_two_readers_would_read_differently_is_refused` | `handlers: what_no_guest_can_answer_is_refused`, `io: a_head_that_comes_byte_by_byte_is_not_waited_for` |
//! | decompression bombs in layers | | `image: bombs_do_not_go_off`, `many_long_names_are_refused_before_they_are_held`, `hiding_again_and_again_is_not_looking_again_and_again` |
//! | malformed components | `fuzz: no_module_ends_the_host` | `prepare: what_is_no_wasm_is_refused`; `tests/fuzz` |
//! | giant modules | `giant_modules_are_refused_unread` | `program::process`: time and memory of the compiler |
//! | clock abuse | `clocks_that_never_come_are_waited_for_and_killed` | `preview1: a_sleep_ends_when_it_should` |

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

/// A file of the largest size and one byte, which is all a hole: refused by its size.
#[tokio::test]
async fn giant_modules_are_refused_unread() {
    let bench = Bench::new();
    let path = bench.dir.path().join("giant");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(crate::limits::MODULE_BYTES + 1).unwrap();
    let refused = bench.runtime.prepare("sha256:giant", &path).await.unwrap_err().to_string();
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
