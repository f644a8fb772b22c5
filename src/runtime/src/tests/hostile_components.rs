//! Attacks through the door of WASI 0.2, by components written for each. The table of attacks is in
//! [`hostile`](super::hostile).

use super::*;
use crate::limits::{CALL_BYTES, RESOURCES};

/// Interfaces of 0.2, as far as these components need them.
const INTERFACES: &str = r#"
    (import "wasi:io/poll@0.2.0" (instance $poll
        (export "pollable" (type $p (sub resource)))
        (export "poll" (func (param "in" (list (borrow $p))) (result (list u32))))))
    (alias export $poll "pollable" (type $pollable))
    (import "wasi:io/streams@0.2.0" (instance $streams (export "output-stream" (type (sub resource)))))
    (alias export $streams "output-stream" (type $stream))
    (import "wasi:cli/stdout@0.2.0" (instance $stdout
        (alias outer 1 $stream (type $s))
        (export "output-stream" (type $s2 (eq $s)))
        (export "get-stdout" (func (result (own $s2))))))
    (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
        (alias outer 1 $pollable (type $p))
        (export "pollable" (type $p2 (eq $p)))
        (export "subscribe-duration" (func (param "when" u64) (result (own $p2))))
        (export "subscribe-instant" (func (param "when" u64) (result (own $p2))))))
    (import "wasi:random/random@0.2.0" (instance $random
        (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))
    (import "wasi:cli/environment@0.2.0" (instance $environment
        (export "get-arguments" (func (result (list string))))))
    (import "wasi:sockets/tcp@0.2.0" (instance $tcp (export "tcp-socket" (type (sub resource)))))
    (alias export $tcp "tcp-socket" (type $socket))
    (import "wasi:sockets/tcp-create-socket@0.2.0" (instance $create
        (alias outer 1 $socket (type $s))
        (export "tcp-socket" (type $s2 (eq $s)))
        (type $codes (enum "unknown" "access-denied" "not-supported" "invalid-argument" "out-of-memory" "timeout"
            "concurrency-conflict" "not-in-progress" "would-block" "invalid-state" "new-socket-limit"
            "address-not-bindable" "address-in-use" "remote-unreachable" "connection-refused" "connection-reset"
            "connection-aborted" "datagram-too-large" "name-unresolvable" "temporary-resolver-failure"
            "permanent-resolver-failure"))
        (export "error-code" (type $error (eq $codes)))
        (type $families (enum "ipv4" "ipv6"))
        (export "ip-address-family" (type $family (eq $families)))
        (export "create-tcp-socket" (func (param "address-family" $family)
            (result (result (own $s2) (error $error)))))))
    (core module $libc
        (memory (export "memory") 16)
        (func (export "realloc") (param i32 i32 i32 i32) (result i32)
            (if (i32.gt_u (local.get 3) (i32.const 524288)) (then unreachable))
            (i32.const 65536)))
    (core instance $libc (instantiate $libc))
    (alias core export $libc "memory" (core memory $memory))
    (alias core export $libc "realloc" (core func $realloc))
    (core func $get-stdout (canon lower (func $stdout "get-stdout")))
    (core func $drop-stream (canon resource.drop $stream))
    (core func $drop-pollable (canon resource.drop $pollable))
    (core func $subscribe (canon lower (func $clock "subscribe-duration")))
    (core func $subscribe-at (canon lower (func $clock "subscribe-instant")))
    (core func $wait (canon lower (func $poll "poll") (memory $memory) (realloc $realloc)))
    (core func $bytes (canon lower (func $random "get-random-bytes") (memory $memory) (realloc $realloc)))
    (core func $args (canon lower (func $environment "get-arguments") (memory $memory) (realloc $realloc)))
    (core func $socket-new (canon lower (func $create "create-tcp-socket") (memory $memory)))
    (core instance $host
        (export "stdout" (func $get-stdout)) (export "drop-stream" (func $drop-stream))
        (export "drop-pollable" (func $drop-pollable)) (export "wait" (func $wait))
        (export "subscribe" (func $subscribe)) (export "subscribe-at" (func $subscribe-at))
        (export "bytes" (func $bytes)) (export "args" (func $args)) (export "socket" (func $socket-new))
        (export "memory" (memory $memory)))"#;

/// A command of 0.2 that does this, and then ends well.
fn component(body: &str) -> String {
    format!(
        r#"(component {INTERFACES}
            (core module $main
                (import "host" "memory" (memory 1))
                (import "host" "stdout" (func $stdout (result i32)))
                (import "host" "drop-stream" (func $drop_stream (param i32)))
                (import "host" "drop-pollable" (func $drop_pollable (param i32)))
                (import "host" "wait" (func $wait (param i32 i32 i32)))
                (import "host" "subscribe" (func $subscribe (param i64) (result i32)))
                (import "host" "subscribe-at" (func $subscribe_at (param i64) (result i32)))
                (import "host" "bytes" (func $bytes (param i64 i32)))
                (import "host" "args" (func $args (param i32)))
                (import "host" "socket" (func $socket (param i32 i32)))
                (func (export "run") (result i32) (local $handle i32) (local $count i32)
                    {body}
                    (i32.const 0)))
            (core instance $main (instantiate $main (with "host" (instance $host))))
            (func $run (result (result)) (canon lift (core func $main "run")))
            (instance (export "wasi:cli/run@0.2.0") (export "run" (func $run))))"#
    )
}

/// Runs a component to its end, which must be a trap that says this.
async fn traps(bench: &Bench, body: &str, why: &str) {
    let (exit, _) = bench.run(&component(body), |_| {}).await;
    let Exit::Trap { message } = &exit else { panic!("{body}: {exit:?}") };
    assert!(message.contains(why), "{body}: {message}");
}

async fn ends(bench: &Bench, body: &str) {
    let (exit, _) = bench.run(&component(body), |_| {}).await;
    assert_eq!(exit, Exit::Code(0), "{body}");
}

#[tokio::test]
async fn what_was_dropped_is_gone() {
    let bench = Bench::new();
    let take = "(local.set $handle (call $stdout))";
    let drop = "(call $drop_stream (local.get $handle))";
    ends(&bench, &format!("{take}{drop}")).await;
    traps(&bench, &format!("{take}{drop}{drop}"), "unknown handle index").await;
    traps(&bench, "(call $drop_stream (i32.const -1))", "unknown handle index").await;
    // A number that stands for something else now.
    traps(
        &bench,
        &format!("{take}{drop} (drop (call $subscribe (i64.const 0))) {drop}"),
        "handle index 1 used with the wrong type",
    )
    .await;
}

#[tokio::test]
async fn sockets_and_handles_are_bounded() {
    let bench = Bench::new();
    traps(&bench, "(loop $again (drop (call $stdout)) (br $again))", "resource table has no free keys").await;
    traps(
        &bench,
        "(loop $again (drop (call $subscribe (i64.const 1))) (br $again))",
        "resource table has no free keys",
    )
    .await;
    // Sockets are told no.
    ends(
        &bench,
        &format!(
            "(loop $again
                (call $socket (i32.const 0) (i32.const 64))
                (local.set $count (i32.add (local.get $count) (i32.const 1)))
                (if (i32.gt_u (local.get $count) (i32.const {RESOURCES})) (then unreachable))
                (br_if $again (i32.eqz (i32.load8_u (i32.const 64)))))
             (if (i32.ne (i32.load8_u (i32.const 68)) (i32.const 10)) (then unreachable))"
        ),
    )
    .await;
    // What is given back can be had again, without end.
    ends(
        &bench,
        &format!(
            "(loop $again
                (call $drop_pollable (call $subscribe (i64.const -1)))
                (local.set $count (i32.add (local.get $count) (i32.const 1)))
                (br_if $again (i32.le_u (local.get $count) (i32.const {}))))",
            2 * RESOURCES
        ),
    )
    .await;
}

#[tokio::test]
async fn lists_are_bounded() {
    let bench = Bench::new();
    traps(&bench, "(call $bytes (i64.const -1) (i32.const 64))", "exceeds limit 1048576").await;
    traps(&bench, "(call $bytes (i64.const 1048577) (i32.const 64))", "exceeds limit 1048576").await;
    ends(&bench, "(call $bytes (i64.const 65536) (i32.const 64))").await;
    // A list that leaves memory, one that is empty, and one of the same thing over and over.
    traps(&bench, "(call $wait (i32.const 0) (i32.const -1) (i32.const 64))", "out of bounds of memory")
        .await;
    traps(
        &bench,
        "(call $wait (i32.const 65532) (i32.const 2000000) (i32.const 64))",
        "out of bounds of memory",
    )
    .await;
    traps(&bench, "(call $wait (i32.const 0) (i32.const 0) (i32.const 64))", "empty poll list").await;
    let same = |count: usize| {
        format!(
            "(local.set $handle (call $subscribe (i64.const 0)))
             (loop $next
                (i32.store (i32.add (i32.const 131072) (i32.mul (local.get $count) (i32.const 4)))
                    (local.get $handle))
                (local.set $count (i32.add (local.get $count) (i32.const 1)))
                (br_if $next (i32.lt_u (local.get $count) (i32.const {count}))))
             (call $wait (i32.const 131072) (i32.const {count}) (i32.const 64))"
        )
    };
    ends(&bench, &same(100)).await;
    traps(&bench, &same(RESOURCES + 1), "store handle limit exceeded").await;
}

#[tokio::test]
async fn enormous_arguments_arrive_or_are_refused() {
    let bench = Bench::new();
    let run = async |bytes: usize| {
        let args = vec!["guest".to_owned(), "x".repeat(bytes)];
        bench.run(&component("(call $args (i32.const 64))"), |spec| spec.args = args).await.0
    };
    assert_eq!(run(500_000).await, Exit::Code(0));
    // It has no room for them, and what it does then is its own.
    assert!(matches!(run(600_000).await, Exit::Trap { .. }));
    assert!(matches!(run(2 * CALL_BYTES).await, Exit::Trap { .. }));
    // The same through 0.1, whose guest gives two pointers and no sizes.
    let guest = r#"(module
        (import "wasi_snapshot_preview1" "environ_get" (func $env (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 2 2)
        (func (export "_start")
            (call $exit (i32.add (call $args (i32.const 0) (i32.const 1024))
                (i32.mul (i32.const 2) (call $env (i32.const 0) (i32.const 1024)))))))"#;
    for (bytes, expected) in [(100_000, 0), (131_072, 3 * 21), (8 << 20, 3 * 21)] {
        let (exit, _) = bench
            .run(guest, |spec| {
                spec.args.push("x".repeat(bytes));
                spec.env.push(("X".to_owned(), "y".repeat(bytes)));
            })
            .await;
        assert_eq!(exit, Exit::Code(expected), "{bytes} bytes");
    }
}

#[tokio::test]
async fn clocks_that_never_come_are_waited_for_and_killed() {
    let bench = Bench::new();
    for subscribe in ["$subscribe", "$subscribe_at"] {
        for when in ["-1", "9223372036854775807", "18446744073709000000"] {
            let body = format!(
                "(i32.store (i32.const 32) (call {subscribe} (i64.const {when})))
                 (call $wait (i32.const 32) (i32.const 1) (i32.const 64)) unreachable"
            );
            let (container, _) = bench.start(&component(&body), |_| {}).await;
            let early = tokio::time::timeout(Duration::from_millis(30), container.wait()).await;
            assert!(early.is_err(), "{subscribe} {when}: {early:?}");
            container.kill();
            assert_eq!(ended(&container).await, Exit::Killed);
        }
    }
}

/// Components in components, and blocks in blocks: whoever looks at them must not recurse as deep as they say.
#[tokio::test]
async fn deep_components_are_refused() {
    let bench = Bench::new();
    let path = bench.dir.path().join("deep");
    // Each holds the next as its only section; lengths are padded to five bytes.
    let mut bytes: Vec<u8> = b"\0asm\x0d\0\x01\0".to_vec();
    for _ in 0..20_000 {
        let length = bytes.len() as u32;
        let mut outer = b"\0asm\x0d\0\x01\0\x04".to_vec();
        outer.extend((0..5).map(|at| (length >> (7 * at) & 0x7f) as u8 | if at < 4 { 0x80 } else { 0 }));
        outer.extend(&bytes);
        bytes = outer;
        if bytes.len() > 200_000 {
            break;
        }
    }
    std::fs::write(&path, &bytes).unwrap();
    let refused = bench.runtime.prepare("sha256:deep", &path, "test").await.unwrap_err().to_string();
    assert!(!refused.is_empty());
    let deep = 40_000;
    let text = format!(
        r#"(module (memory (export "memory") 1) (func (export "_start") {} {}))"#,
        "block ".repeat(deep),
        "end ".repeat(deep)
    );
    // Compiled or refused, but the process goes on.
    let _ = bench.prepare(&text).await;
    assert_eq!(bench.run(&guests::hello("hello"), |_| {}).await.0, Exit::Code(0));
}
