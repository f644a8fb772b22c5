//! Attacks through `wasi:http` of 0.2, by components written for each. The table of attacks is in
//! [`hostile`](super::hostile).

use http::StatusCode;

use super::handlers::{Served, ask, request};
use super::*;
use crate::HttpConfig;
use crate::http::READ_BYTES;

/// What a request is made of.
const INTERFACES: &str = r#"
    (import "wasi:http/types@0.2.0" (instance $types
        (export "fields" (type $fields (sub resource)))
        (export "outgoing-request" (type $request (sub resource)))
        (export "outgoing-body" (type $body (sub resource)))
        (type $errors (variant (case "invalid-syntax") (case "forbidden") (case "immutable")))
        (export "header-error" (type $error (eq $errors)))
        (export "[constructor]fields" (func (result (own $fields))))
        (export "[method]fields.append" (func (param "self" (borrow $fields)) (param "name" string)
            (param "value" (list u8)) (result (result (error $error)))))
        (export "[constructor]outgoing-request" (func (param "headers" (own $fields)) (result (own $request))))
        (export "[method]outgoing-request.set-authority" (func (param "self" (borrow $request))
            (param "authority" (option string)) (result (result))))
        (export "[method]outgoing-request.body" (func (param "self" (borrow $request))
            (result (result (own $body)))))))
    (alias export $types "fields" (type $fields))
    (alias export $types "outgoing-request" (type $request))
    (alias export $types "outgoing-body" (type $body))
    (core module $libc
        (memory (export "memory") 4)
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
    (core instance $libc (instantiate $libc))
    (alias core export $libc "memory" (core memory $memory))
    (core func $fields (canon lower (func $types "[constructor]fields")))
    (core func $append (canon lower (func $types "[method]fields.append") (memory $memory)))
    (core func $request (canon lower (func $types "[constructor]outgoing-request")))
    (core func $authority (canon lower (func $types "[method]outgoing-request.set-authority") (memory $memory)))
    (core func $body (canon lower (func $types "[method]outgoing-request.body") (memory $memory)))
    (core func $drop-fields (canon resource.drop $fields))
    (core func $drop-request (canon resource.drop $request))
    (core func $drop-body (canon resource.drop $body))
    (core instance $host
        (export "fields" (func $fields)) (export "append" (func $append)) (export "request" (func $request))
        (export "authority" (func $authority)) (export "body" (func $body))
        (export "drop-fields" (func $drop-fields)) (export "drop-request" (func $drop-request))
        (export "drop-body" (func $drop-body)) (export "memory" (memory $memory)))"#;

/// A command that does this so many times, and then ends well.
fn component(times: u32, body: &str) -> String {
    format!(
        r#"(component {INTERFACES}
            (core module $main
                (import "host" "memory" (memory 1))
                (import "host" "fields" (func $fields (result i32)))
                (import "host" "append" (func $append (param i32 i32 i32 i32 i32 i32)))
                (import "host" "request" (func $request (param i32) (result i32)))
                (import "host" "authority" (func $authority (param i32 i32 i32 i32) (result i32)))
                (import "host" "body" (func $body (param i32 i32)))
                (import "host" "drop-fields" (func $drop_fields (param i32)))
                (import "host" "drop-request" (func $drop_request (param i32)))
                (import "host" "drop-body" (func $drop_body (param i32)))
                (func (export "run") (result i32) (local $handle i32) (local $count i32)
                    (memory.fill (i32.const 65536) (i32.const 97) (i32.const 131072))
                    (loop $again
                        {body}
                        (local.set $count (i32.add (local.get $count) (i32.const 1)))
                        (br_if $again (i32.lt_u (local.get $count) (i32.const {times}))))
                    (i32.const 0)))
            (core instance $main (instantiate $main (with "host" (instance $host))))
            (func $run (result (result)) (canon lift (core func $main "run")))
            (instance (export "wasi:cli/run@0.2.0") (export "run" (func $run))))"#
    )
}

const FIELDS: &str = "(local.set $handle (call $fields))";
const REQUEST: &str = "(local.set $handle (call $request (call $fields)))";

/// One field of 60,000 bytes.
const APPEND: &str = "(call $append (local.get $handle) (i32.const 65536) (i32.const 1) (i32.const 65536)
    (i32.const 60000) (i32.const 16)) (if (i32.load8_u (i32.const 16)) (then unreachable))";

/// A name of 60,000 bytes, whom to ask.
const AUTHORITY: &str =
    "(if (call $authority (local.get $handle) (i32.const 1) (i32.const 65536) (i32.const 60000))
    (then unreachable))";

const BODY: &str = "(call $body (local.get $handle) (i32.const 16))
    (if (i32.load8_u (i32.const 16)) (then unreachable))
    (call $drop_body (i32.load (i32.const 20)))";

/// What requests are made of is held by the host until they leave. It counts as the container's memory.
#[tokio::test]
async fn requests_that_never_leave_are_memory() {
    let bench = Bench::new();
    let check = async |body: &str, release: &str| {
        let pod = Budget::new(None);
        let limit = |spec: &mut ContainerSpec| {
            spec.memory_limit = Some(8 * MIB);
            spec.budget = Arc::clone(&pod);
        };
        let (exit, _) = bench.run(&component(2_000, body), limit).await;
        assert_eq!(exit, Exit::OutOfMemory, "{body}");
        let (exit, _) = bench.run(&component(5_000, &format!("{body} {release}")), limit).await;
        assert_eq!(exit, Exit::Code(0), "{body}: what is dropped costs nothing any more");
        assert_eq!(pod.used(), 0, "{body}");
    };
    let (drop_fields, drop_request) =
        ("(call $drop_fields (local.get $handle))", "(call $drop_request (local.get $handle))");
    check(&format!("{REQUEST}{BODY}"), drop_request).await;
    check(&format!("{FIELDS}{APPEND}"), drop_fields).await;
    check(&format!("{REQUEST}{AUTHORITY}"), drop_request).await;
    let pod = Budget::new(Some(4 * MIB));
    let of_pod = |spec: &mut ContainerSpec| spec.budget = Arc::clone(&pod);
    let (exit, _) = bench.run(&component(2_000, &format!("{REQUEST}{BODY}")), of_pod).await;
    assert!(matches!(exit, Exit::PodOutOfMemory { .. }), "{exit:?}");
    assert_eq!(pod.used(), 0);
}

/// A handler that lets go of nothing that it is given, and answers nothing.
const KEEPER: &str = r#"(component
    (import "wasi:http/types@0.2.0" (instance $types
        (export "incoming-request" (type (sub resource)))
        (export "response-outparam" (type (sub resource)))))
    (alias export $types "incoming-request" (type $request))
    (alias export $types "response-outparam" (type $out))
    (core module $main (func (export "handle") (param i32 i32)))
    (core instance $main (instantiate $main))
    (func $handle (param "request" (own $request)) (param "response-out" (own $out))
        (canon lift (core func $main "handle")))
    (instance (export "wasi:http/incoming-handler@0.2.0") (export "handle" (func $handle))))"#;

/// An instance that is used again pays for what it keeps of its requests, and gets no other when it cannot.
#[tokio::test]
async fn requests_that_are_kept_are_memory() {
    let bench = Bench::new();
    let (program, pod) = (bench.prepare(KEEPER).await.unwrap(), Budget::new(None));
    let limit = |spec: &mut ContainerSpec| {
        spec.memory_limit = Some(4 * MIB);
        spec.budget = Arc::clone(&pod);
    };
    let served = Served::program(program, bench, HttpConfig { reuse: 1_000, ..HttpConfig::default() }, limit);
    let mut client = served.client().await;
    let most = 4 * MIB / READ_BYTES;
    let mut made = 0;
    for asked in 1..=2 * most {
        let (status, _, text) = ask(&mut client, request("/")).await;
        assert_eq!(
            (status, text.as_str()),
            (StatusCode::INTERNAL_SERVER_ERROR, "the handler gave no answer\n")
        );
        let usage = served.container.usage();
        let http = usage.http.unwrap();
        assert!(http.instances == 0 || usage.memory >= READ_BYTES, "request {asked}: {usage:?}");
        made = http.instances_made;
    }
    assert!(made > 1, "one cannot pay for all of them");
    served.container.kill();
    assert_eq!(ended(&served.container).await, Exit::Killed);
    assert_eq!(pod.used(), 0);
}
