//! Guests of WASI 0.1 as text.

/// Prints `text` and returns.
pub(super) fn hello(text: &str) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write"
                (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\10\00\00\00\{:02x}\00\00\00")
            (data (i32.const 16) "{text}")
            (func (export "_start")
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#,
        text.len(),
    )
}

/// Exits with `code`.
pub(crate) fn exit(code: u32) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (func (export "_start") (call $exit (i32.const {code})) unreachable))"#
    )
}

/// Traps in a function with a name.
pub(super) const TRAP: &str = r#"(module
    (memory (export "memory") 1)
    (func $inner unreachable)
    (func (export "_start") (call $inner)))"#;

/// Says that it runs, then never returns and never calls the host.
pub(super) const SPIN: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\10\00\00\00\04\00\00\00")
    (data (i32.const 16) "spin")
    (func (export "_start")
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        (loop $again (br $again))))"#;

/// Says that it runs, then sleeps for an hour in the host.
pub(super) const SLEEP: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\10\00\00\00\05\00\00\00")
    (data (i32.const 16) "sleep")
    (func (export "_start")
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        (i32.store (i32.const 112) (i32.const 1))                 ;; the monotonic clock
        (i64.store (i32.const 120) (i64.const 3600000000000))
        (drop (call $poll (i32.const 96) (i32.const 256) (i32.const 1) (i32.const 512)))))"#;

/// Grows its memory by `step` pages until it is told no, then exits with 9.
pub(super) fn hoard(step: u32) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (func (export "_start")
                (loop $again
                    (br_if $again (i32.ne (memory.grow (i32.const {step})) (i32.const -1))))
                (call $exit (i32.const 9))))"#
    )
}

/// Calls itself until its stack ends.
pub(super) const RECURSE: &str = r#"(module
    (memory (export "memory") 1)
    (func $down (param i64) (result i64) (i64.add (i64.const 1) (call $down (local.get 0))))
    (func (export "_start") (drop (call $down (i64.const 0)))))"#;

/// Opens `path` with these 0.1 open flags and rights, and exits with the error number; if it opens and `write` is
/// set, writes `text` at the end of it, else prints what it holds.
pub(super) fn file(path: &str, oflags: u32, write: Option<&str>) -> String {
    let text = write.unwrap_or_default();
    let rights = if write.is_some() { 1 << 6 } else { 1 << 1 };
    let fdflags = u32::from(write.is_some()); // append
    let work = if write.is_some() {
        format!(
            "(i32.store (i32.const 0) (i32.const 2048)) (i32.store (i32.const 4) (i32.const {}))
             (call $exit (call $write (i32.load (i32.const 64)) (i32.const 0) (i32.const 1) (i32.const 8)))",
            text.len()
        )
    } else {
        "(i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.const 1024))
         (drop (call $read (i32.load (i32.const 64)) (i32.const 0) (i32.const 1) (i32.const 8)))
         (i32.store (i32.const 4) (i32.load (i32.const 8)))
         (call $exit (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))"
            .to_owned()
    };
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "path_open" (func $open
                (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (data (i32.const 1024) "{path}")
            (data (i32.const 2048) "{text}")
            (func (export "_start") (local $errno i32)
                (local.set $errno (call $open (i32.const 3) (i32.const 1) (i32.const 1024) (i32.const {})
                    (i32.const {oflags}) (i64.const {rights}) (i64.const 0) (i32.const {fdflags})
                    (i32.const 64)))
                (if (local.get $errno) (then (call $exit (local.get $errno))))
                {work}))"#,
        path.len(),
    )
}

/// Opens one file again and again until it is told no, and exits with the error number.
pub(crate) const OPEN_ALL: &str = r#"(module
    (import "wasi_snapshot_preview1" "path_open" (func $open
        (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (data (i32.const 1024) "f")
    (func (export "_start") (local $errno i32)
        (loop $again
            (local.set $errno (call $open (i32.const 3) (i32.const 0) (i32.const 1024) (i32.const 1)
                (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 64)))
            (br_if $again (i32.eqz (local.get $errno))))
        (call $exit (local.get $errno))))"#;

/// Copies stdin to stdout until its end, then exits with 3.
pub(super) const CAT: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (func (export "_start")
        (loop $again
            (i32.store (i32.const 0) (i32.const 1024))
            (i32.store (i32.const 4) (i32.const 4096))
            (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
            (if (i32.eqz (i32.load (i32.const 8))) (then (call $exit (i32.const 3))))
            (i32.store (i32.const 4) (i32.load (i32.const 8)))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
            (br $again))))"#;
