//! Pointers, lengths and numbers that no honest program would give.

use coracle_budget::Budget;

use super::*;
use crate::limits::OPEN_FILES;

/// Every function with nothing but the largest numbers, and with pointers to the very end of memory: each answers
/// with an error, or with what it does, and the guest goes on.
#[tokio::test]
async fn no_argument_ends_the_host() {
    let bench = Bench::new();
    for (name, params) in SIGNATURES {
        if *name == "proc_raise" {
            continue; // with any number it may end the guest
        }
        for module in [ONE, ZERO].into_iter().filter(|module| *module == ONE || *name != "sock_accept") {
            let mut body = String::new();
            for value in ["-1", "131071", "131072", "2147483647", "-2147483648", "65536", "0", "1", "3"] {
                for special in 0..params.len().max(1) {
                    for rest in ["0", "3", "-1"] {
                        let args: String = params
                            .chars()
                            .enumerate()
                            .map(|(at, of)| {
                                let value = if at == special { value } else { rest };
                                format!(" ({}.const {value})", if of == 'I' { "i64" } else { "i32" })
                            })
                            .collect();
                        let _ = writeln!(body, "(drop (call $f{args}))");
                    }
                }
            }
            let types: String = params.chars().map(|of| if of == 'I' { " i64" } else { " i32" }).collect();
            let types = if types.is_empty() { types } else { format!("(param{types})") };
            let text = format!(
                "(module (import \"{module}\" \"{name}\" (func $f {types} (result i32)))
                 (memory (export \"memory\") 2 2) (func (export \"_start\") {body}))"
            );
            // A clock that is far off, or stdin that never comes, is a wait and no error: `poll_oneoff` of zeros
            // is a clock at zero, and stdin is at its end.
            let (exit, _) = bench.run(&text, |_| {}).await;
            assert_eq!(exit, Exit::Code(0), "{module}::{name}");
        }
    }
}

#[tokio::test]
async fn results_that_do_not_fit_are_faults() {
    let bench = Bench::new();
    check(
        &bench,
        &[
            ("path_open 3 0 'f' 1 66 0 0 131069", 21),
            ("path_filestat_get 3 0 'f' 200", 44),
            ("path_open 3 0 'f' 1 66 0 0 100", 0),
            ("iov 0 300 1", 0),
            ("fd_write 4 0 1 131069", 21),
            ("fd_tell 4 104", 0),
            ("get64 104", 0),
            ("fd_write 4 131068 1 100", 21),
            ("fd_write 4 0 2 100", 0),
            ("iov 0 131072 1", 0),
            ("fd_write 4 0 1 100", 21),
            ("fd_read 4 0 1 100", 21),
            ("fd_filestat_get 4 131060", 21),
            ("fd_fdstat_get 4 131060", 21),
            ("fd_prestat_get 3 131068", 21),
            ("args_get 131072 0", 21),
            ("args_get 0 131068", 21),
            ("environ_sizes_get 131070 0", 21),
            ("fd_readdir 3 131000 100 0 100", 21),
            ("fd_readdir 3 1000 100 0 131070", 21),
            ("path_readlink 3 '.' 131000 100 100", 28),
            ("path_unlink_file 3 131000 100", 21),
            ("path_unlink_file 3 1000 -1", 21),
            ("path_unlink_file 3 1000 5000", 37),
            ("set8 1000 255", 0),
            ("path_unlink_file 3 1000 1", 25),
        ],
    )
    .await;
}

#[tokio::test]
async fn opening_without_end_is_told_no() {
    let bench = Bench::new();
    let (exit, _) = bench.run(crate::tests::guests::OPEN_ALL, |_| {}).await;
    assert_eq!(exit, Exit::Code(33), "at {OPEN_FILES}");
}

/// A program that lists its root in all descriptors that it may have, with a name in it.
const LIST_ALL: &str = r#"(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_readdir" (func $list (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) ".")
  (func (export "_start") (local $fault i32)
    (loop $again
      (local.set $fault (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 2)
        (i64.const 0x4000) (i64.const 0) (i32.const 0) (i32.const 8)))
      (if (local.get $fault) (then (call $exit (local.get $fault))))
      (local.set $fault (call $list (i32.load (i32.const 8)) (i32.const 100) (i32.const 30) (i64.const 0)
        (i32.const 12)))
      (if (local.get $fault) (then (call $exit (local.get $fault))))
      (br $again))))"#;

/// What each of them makes the host hold is the pod's memory: there is an end, and an error that says it.
#[tokio::test]
async fn listings_are_memory() {
    let bench = Bench::new();
    let budget = Budget::new(Some((64 << 10) + (200 << 10)));
    let (exit, _) = bench.run(LIST_ALL, |spec| spec.budget = budget.clone()).await;
    assert_eq!(exit, Exit::Code(48), "ENOMEM");
    let (exit, _) = bench.run(LIST_ALL, |_| {}).await;
    assert_eq!(exit, Exit::Code(33), "at {OPEN_FILES}");
    assert_eq!(budget.used(), 0);
}
