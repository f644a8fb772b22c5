//! Small guests in text form: WASI 0.1 commands.

/// Writes `text` to stdout, then exits with `code` (or returns, for 0).
pub(super) fn prints(text: &str, code: u32) -> Vec<u8> {
    let end = if code == 0 { String::new() } else { format!("(call $exit (i32.const {code}))") };
    let escaped: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    compile(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write"
                (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (data (i32.const 64) "{escaped}")
            (func (export "_start")
                (i32.store (i32.const 0) (i32.const 64))
                (i32.store (i32.const 4) (i32.const {length}))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
                {end}))"#,
        length = text.len(),
    ))
}

/// Writes `text`, then sleeps for an hour.
pub(super) fn sleeps(text: &str) -> Vec<u8> {
    let escaped: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    compile(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write"
                (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "poll_oneoff"
                (func $poll (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 64) "{escaped}")
            (func (export "_start")
                (i32.store (i32.const 0) (i32.const 64))
                (i32.store (i32.const 4) (i32.const {length}))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
                ;; One subscription: the monotonic clock, an hour from now.
                (i32.store (i32.const 1040) (i32.const 1))
                (i64.store (i32.const 1048) (i64.const 3600000000000))
                (drop (call $poll (i32.const 1024) (i32.const 2048) (i32.const 1) (i32.const 3000)))))"#,
        length = text.len(),
    ))
}

/// Has a memory of so many pages, and is ready at once; sleeps for an hour.
pub(super) fn holds(pages: u32) -> Vec<u8> {
    compile(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "poll_oneoff"
                (func $poll (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") {pages})
            (func (export "_start")
                ;; One subscription: the monotonic clock, an hour from now.
                (i32.store (i32.const 1040) (i32.const 1))
                (i64.store (i32.const 1048) (i64.const 3600000000000))
                (drop (call $poll (i32.const 1024) (i32.const 2048) (i32.const 1) (i32.const 3000)))))"#
    ))
}

/// Writes `text` into a file below the root, then ends well.
pub(super) fn writes(path: &str, text: &str) -> Vec<u8> {
    compile(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write"
                (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 64) "{path}")
            (data (i32.const 512) "{text}")
            (func (export "_start")
                ;; Of the first folder that is open, with the right to write; descriptor at 16.
                (if (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const {path_length})
                        (i32.const 1) (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 16))
                    (then unreachable))
                (i32.store (i32.const 0) (i32.const 512))
                (i32.store (i32.const 4) (i32.const {length}))
                (if (call $write (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 8))
                    (then unreachable))))"#,
        path_length = path.len(),
        length = text.len(),
    ))
}

/// Writes `text`; then, with more arguments than its name, exits with `code`, else sleeps for an hour.
pub(super) fn fails_with_arguments(text: &str, code: u32) -> Vec<u8> {
    let escaped: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    compile(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write"
                (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "args_sizes_get"
                (func $sizes (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (import "wasi_snapshot_preview1" "poll_oneoff"
                (func $poll (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 64) "{escaped}")
            (func (export "_start")
                (i32.store (i32.const 0) (i32.const 64))
                (i32.store (i32.const 4) (i32.const {length}))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
                (drop (call $sizes (i32.const 32) (i32.const 36)))
                (if (i32.gt_u (i32.load (i32.const 32)) (i32.const 1))
                    (then (call $exit (i32.const {code}))))
                (i32.store (i32.const 1040) (i32.const 1))
                (i64.store (i32.const 1048) (i64.const 3600000000000))
                (drop (call $poll (i32.const 1024) (i32.const 2048) (i32.const 1) (i32.const 3000)))))"#,
        length = text.len(),
    ))
}

/// Traps at once.
pub(super) fn traps() -> Vec<u8> {
    compile(r#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#)
}

/// Copies stdin to stdout until its end.
pub(super) fn echoes() -> Vec<u8> {
    compile(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "_start")
                (loop $again
                    (i32.store (i32.const 0) (i32.const 1024))
                    (i32.store (i32.const 4) (i32.const 4096))
                    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
                    (if (i32.load (i32.const 8)) (then
                        (i32.store (i32.const 4) (i32.load (i32.const 8)))
                        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
                        (br $again))))))"#,
    )
}

fn compile(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("the guest's text is valid")
}
