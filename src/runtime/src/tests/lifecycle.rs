//! How containers start and end.

use std::time::Duration;

use coracle_budget::NodeBudget;

use super::*;

#[tokio::test]
async fn a_guest_prints_and_returns() {
    let bench = Bench::new();
    assert_eq!(bench.run(&guests::hello("hello"), |_| {}).await, (Exit::Code(0), "hello".into()));
}

#[tokio::test]
async fn exit_codes_are_kept() {
    let bench = Bench::new();
    for code in [0, 1, 7, 255] {
        let (exit, _) = bench.run(&guests::exit(code), |_| {}).await;
        assert_eq!(exit, Exit::Code(i32::try_from(code).unwrap()));
    }
}

/// As many memories and tables as a program may have, in one core module.
#[tokio::test]
async fn a_module_may_have_several_memories() {
    let text = format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1) {} (memory $last 1) {}
            (func (export "_start")
                (drop (memory.grow $last (i32.const 1)))
                (i32.store $last (i32.const 65536) (i32.const 42))
                (memory.copy 0 $last (i32.const 16) (i32.const 65536) (i32.const 4))
                (call $exit (i32.add (i32.load (i32.const 16)) (i32.load 1 (i32.const 16))))))"#,
        "(memory 1)".repeat(crate::limits::MEMORIES as usize - 2),
        "(table 1 funcref)".repeat(crate::limits::TABLES as usize),
    );
    for density in [crate::Density::Fast, crate::Density::Dense] {
        let bench = Bench::of(|config| config.density = density);
        assert_eq!(bench.run(&text, |_| {}).await.0, Exit::Code(42), "{density:?}");
        let little = |spec: &mut ContainerSpec| spec.memory_limit = Some(8 * 65_536);
        assert_eq!(bench.run(&text, little).await.0, Exit::OutOfMemory, "all of them count");
    }
}

#[tokio::test]
async fn a_trap_says_why_and_where() {
    let bench = Bench::new();
    let (Exit::Trap { message }, _) = bench.run(guests::TRAP, |_| {}).await else { panic!("a trap was due") };
    let mut lines = message.lines();
    assert_eq!(lines.next(), Some("wasm trap: wasm `unreachable` instruction executed"));
    assert_eq!(lines.next(), Some("wasm backtrace:"));
    assert!(lines.next().is_some_and(|line| line.ends_with("!inner")), "{message}");
}

#[tokio::test]
async fn deep_recursion_is_a_trap() {
    let bench = Bench::new();
    let (Exit::Trap { message }, _) = bench.run(guests::RECURSE, |_| {}).await else {
        panic!("a trap was due")
    };
    assert!(message.starts_with("wasm trap: call stack exhausted\n"), "{message}");
    assert!(message.len() <= crate::limits::MESSAGE_BYTES);
}

/// A spinning guest ends at once when it is killed, and so does one that waits in the host.
#[tokio::test]
async fn killing_ends_a_guest_wherever_it_is() {
    let bench = Bench::new();
    for (guest, says) in [(guests::SPIN, "spin"), (guests::SLEEP, "sleep")] {
        let (container, output) = bench.start(guest, |_| {}).await;
        output.shows(says).await;
        container.kill();
        assert_eq!(ended(&container).await, Exit::Killed);
        assert_eq!(ended(&container).await, Exit::Killed, "waiting again gives the same");
        container.kill();
    }
    let program = bench.prepare(guests::SLEEP).await.unwrap();
    let container = bench.runtime.start(program, bench.spec(&Arc::default())).unwrap();
    container.kill();
    assert_eq!(ended(&container).await, Exit::Killed, "also before it has begun");
}

/// More spinners than threads: each gets its turn, others still start and end, and each can be killed.
#[tokio::test]
async fn spinning_guests_share_their_threads() {
    let bench = Bench::new();
    let mut spinners = Vec::new();
    for _ in 0..8 {
        spinners.push(bench.start(guests::SPIN, |_| {}).await);
    }
    for (_, output) in &spinners {
        output.shows("spin").await;
    }
    assert_eq!(bench.run(&guests::hello("me too"), |_| {}).await, (Exit::Code(0), "me too".into()));
    for (container, _) in &spinners {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while container.usage().cpu < Duration::from_millis(5) {
            assert!(tokio::time::Instant::now() < deadline, "a spinner never got its turn");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    for (container, _) in &spinners {
        container.kill();
        assert_eq!(ended(container).await, Exit::Killed);
    }
}

#[tokio::test]
async fn memory_has_a_hard_limit() {
    let bench = Bench::new();
    for step in [1, 100, 60_000] {
        let (exit, _) = bench.run(&guests::hoard(step), |spec| spec.memory_limit = Some(8 * MIB)).await;
        assert_eq!(exit, Exit::OutOfMemory, "in steps of {step} pages");
    }
    let (exit, _) = bench.run(&guests::hello("hi"), |spec| spec.memory_limit = Some(1000)).await;
    assert_eq!(exit, Exit::OutOfMemory, "not even its first page fits");
}

/// What the containers of a pod hold together is bounded, too, and given back when they end.
#[tokio::test]
async fn the_memory_of_a_pod_has_a_limit() {
    let bench = Bench::new();
    let pod = Budget::new(Some(6 * MIB));
    let within = |spec: &mut ContainerSpec| {
        spec.budget = Arc::clone(&pod);
        spec.memory_limit = Some(5 * MIB);
    };
    assert_eq!(bench.run(&guests::hoard(1), within).await.0, Exit::OutOfMemory, "its own limit comes first");
    assert_eq!(pod.used(), 0);
    let other = pod.charge(3 * MIB).unwrap();
    let (Exit::PodOutOfMemory { message }, _) = bench.run(&guests::hoard(1), within).await else {
        panic!("the pod is full")
    };
    assert!(message.starts_with("memory limit of the pod exceeded: "), "{message}");
    assert_eq!(pod.used(), 3 * MIB);
    drop(other);
    let (container, output) = bench.start(guests::SPIN, within).await;
    output.shows("spin").await;
    assert_eq!(pod.used(), container.usage().memory);
    container.kill();
    ended(&container).await;
    assert_eq!(pod.used(), 0);
}

/// What all pods of a node hold is bounded. Who wants more than is left waits until somebody is ended for it; if nobody
/// is, it ends itself.
#[tokio::test]
async fn the_memory_of_a_node_has_a_limit() {
    let bench = Bench::new();
    let node = NodeBudget::new(8 * MIB);
    let pods = [(); 2].map(|()| Budget::of_node(Some(64 * MIB), &node));
    let in_pod = |pod: usize| {
        let budget = Arc::clone(&pods[pod]);
        move |spec: &mut ContainerSpec| spec.budget = budget
    };
    // Holds 6 MiB and sleeps.
    let holds =
        guests::SLEEP.replacen("(memory (export \"memory\") 1)", "(memory (export \"memory\") 96)", 1);
    let (held, output) = bench.start(&holds, in_pod(0)).await;
    output.shows("sleep").await;
    assert_eq!(node.used(), 4 * MIB, "two of them come with the pod");
    // Wants 7 MiB: nobody is ended.
    let wants =
        guests::SLEEP.replacen("(memory (export \"memory\") 1)", "(memory (export \"memory\") 112)", 1);
    assert_eq!(bench.run(&wants, in_pod(1)).await.0, Exit::NodeOutOfMemory);
    assert_eq!((pods[1].used(), node.used()), (0, 4 * MIB));
    let ends = held.clone();
    node.on_shortage(move || ends.end_for_memory());
    let (waits, output) = bench.start(&wants, in_pod(1)).await;
    output.shows("sleep").await;
    assert_eq!(ended(&held).await, Exit::NodeOutOfMemory);
    assert_eq!(node.used(), 5 * MIB);
    // One that waits can be the one that ends.
    let (next, _) = bench.start(&holds, in_pod(0)).await;
    while node.missing() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!next.has_ended());
    next.end_for_memory();
    assert_eq!(ended(&next).await, Exit::NodeOutOfMemory);
    waits.kill();
    assert_eq!(ended(&waits).await, Exit::Killed);
    assert!(waits.has_ended());
    assert_eq!(node.used(), 0);
}

/// Those that wait for memory of their node take no thread of others, and who is ended waits no longer.
#[tokio::test]
async fn who_waits_for_memory_keeps_nobody_from_running() {
    let bench = Bench::new();
    let threads = bench.runtime.executor.threads();
    let node = NodeBudget::new(8 * MIB);
    let pods = [(); 3].map(|()| Budget::of_node(None, &node));
    let sleeps = |pages: u32| {
        let memory = format!("(memory (export \"memory\") {pages})");
        guests::SLEEP.replacen("(memory (export \"memory\") 1)", &memory, 1)
    };
    let start = async |pages, pod: usize| {
        let budget = Arc::clone(&pods[pod]);
        bench.start(&sleeps(pages), move |spec| spec.budget = budget).await
    };
    let (held, output) = start(96, 0).await;
    output.shows("sleep").await;
    let mut waiting = Vec::new();
    for _ in 0..threads + 2 {
        waiting.push(start(112, 1).await.0);
    }
    while pods[1].awaited() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (grown, output) = start(64, 2).await;
    output.shows("sleep").await;
    assert_eq!(bench.runtime.executor.threads(), threads, "nobody had to stand in");
    waiting.iter().for_each(Container::kill);
    for one in &waiting {
        ended(one).await;
        assert_eq!(one.usage().memory, 0);
    }
    assert_eq!((node.missing(), node.used(), pods[1].awaited()), (0, 6 * MIB, 0));
    for one in [held, grown] {
        one.kill();
        ended(&one).await;
    }
}

/// A memory limit may change while a guest runs, but not to less than it holds.
#[tokio::test]
async fn the_memory_limit_of_a_guest_that_runs_may_change() {
    let bench = Bench::new();
    let grow = r#"(module
        (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 16)
        (data (i32.const 0) "\10\00\00\00\01\00\00\00")
        (func (export "_start")
            (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
            (drop (memory.grow (i32.const 64)))))"#;
    for (limit, expected) in [(2, Exit::OutOfMemory), (6, Exit::Code(0))] {
        let (writer, reader) = crate::stdin_pipe();
        let (container, _) = bench
            .start(grow, |spec| {
                spec.stdin = crate::Stdin::Pipe(reader);
                spec.memory_limit = Some(3 * MIB);
            })
            .await;
        while container.usage().memory == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(!bench.runtime.resize_memory(&container, Some(1 << 16)), "it holds more");
        assert!(bench.runtime.resize_memory(&container, Some(limit * MIB)));
        writer.close();
        assert_eq!(ended(&container).await, expected, "with {limit} MiB");
    }
}

/// A module's own maximum is not the container's limit: then the guest is told no, and goes on.
#[tokio::test]
async fn a_module_may_bound_itself() {
    let bench = Bench::new();
    let bounded = guests::hoard(1).replace("\"memory\") 1)", "\"memory\") 1 4)");
    assert_eq!(bench.run(&bounded, |_| {}).await.0, Exit::Code(9));
}

#[tokio::test]
async fn usage_is_counted() {
    let bench = Bench::new();
    let (container, output) = bench.start(guests::SPIN, |_| {}).await;
    output.shows("spin").await;
    assert_eq!(container.usage().memory, 64 << 10, "its own page");
    container.kill();
    ended(&container).await;
    let used = container.usage();
    assert!(used.cpu > Duration::ZERO);
    assert_eq!(container.usage(), used, "it stays readable and stands still");
}

/// The runtime has room for so many; a place is free again as soon as `wait` has answered.
#[tokio::test]
async fn places_are_bounded_and_come_back() {
    let bench = Bench::with_capacity(2);
    let program = bench.prepare(guests::SLEEP).await.unwrap();
    let start = || bench.runtime.start(Arc::clone(&program), bench.spec(&Arc::default()));
    for _ in 0..20 {
        let (one, two) = (start().unwrap(), start().unwrap());
        assert!(matches!(start(), Err(StartError::Exhausted { running: 2, needed: 1 })));
        for container in [one, two] {
            container.kill();
            ended(&container).await;
        }
    }
}

/// Dropping the runtime ends its containers, also those that spin, and their handles learn of it.
#[tokio::test]
async fn the_runtime_ends_its_containers() {
    let bench = Bench::new();
    let (spinning, output) = bench.start(guests::SPIN, |_| {}).await;
    let (sleeping, sleeps) = bench.start(guests::SLEEP, |_| {}).await;
    output.shows("spin").await;
    sleeps.shows("sleep").await;
    let engine = bench.runtime.engine();
    drop(bench);
    assert_eq!(ended(&spinning).await, Exit::Killed);
    assert_eq!(ended(&sleeping).await, Exit::Killed);
    let freed = async {
        while engine.upgrade().is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, freed).await.expect("the engine's address space is given back");
}

/// The end of its stdin is how a guest that reads learns that it is to end.
#[tokio::test]
async fn stdin_is_read_and_ends_when_the_guest_is_asked_to() {
    let bench = Bench::new();
    let (writer, reader) = crate::stdin_pipe();
    let (container, output) = bench.start(guests::CAT, |spec| spec.stdin = crate::Stdin::Pipe(reader)).await;
    let text = "all of it\n".repeat(20_000);
    writer.write(text.clone().into()).await.unwrap();
    container.stop();
    assert_eq!(ended(&container).await, Exit::Code(3));
    assert!(output.text() == text);
    assert!(writer.write("more".into()).await.is_err(), "nobody reads any more");
}

/// Without stdin and listeners there is nothing to learn it by.
#[tokio::test]
async fn a_guest_that_cannot_notice_is_ended_at_once() {
    let bench = Bench::new();
    for guest in [guests::SPIN, guests::SLEEP] {
        let (container, _) = bench.start(guest, |_| {}).await;
        container.stop();
        assert_eq!(ended(&container).await, Exit::Code(crate::TERMINATED));
    }
    let (writer, reader) = crate::stdin_pipe();
    writer.close();
    let (container, _) = bench.start(guests::SLEEP, |spec| spec.stdin = crate::Stdin::Pipe(reader)).await;
    container.stop();
    container.kill();
    assert_eq!(ended(&container).await, Exit::Code(crate::TERMINATED), "its stdin had ended before");
}

/// A component that waits for `coracle:lifecycle` to say that it is to end, and returns.
const STOPPABLE: &str = r#"(component
    (import "wasi:io/poll@0.2.0" (instance $poll
        (export "pollable" (type $p (sub resource)))
        (export "[method]pollable.block" (func (param "self" (borrow $p))))))
    (alias export $poll "pollable" (type $pollable))
    (import "coracle:lifecycle/stop@0.1.0" (instance $stop
        (alias outer 1 $pollable (type $outer))
        (export "pollable" (type $p (eq $outer)))
        (export "stopping" (func (result (own $p))))
        (export "is-stopping" (func (result bool)))))
    (core func $block (canon lower (func $poll "[method]pollable.block")))
    (core func $stopping (canon lower (func $stop "stopping")))
    (core func $is-stopping (canon lower (func $stop "is-stopping")))
    (core module $main
        (import "host" "block" (func $block (param i32)))
        (import "host" "stopping" (func $stopping (result i32)))
        (import "host" "is-stopping" (func $is-stopping (result i32)))
        (func (export "run") (result i32)
            (if (call $is-stopping) (then (return (i32.const 1))))
            (call $block (call $stopping))
            (i32.eqz (call $is-stopping))))
    (core instance $guest (instantiate $main (with "host" (instance
        (export "block" (func $block))
        (export "stopping" (func $stopping))
        (export "is-stopping" (func $is-stopping))))))
    (func $run (result (result)) (canon lift (core func $guest "run")))
    (instance $command (export "run" (func $run)))
    (export "wasi:cli/run@0.2.0" (instance $command)))"#;

#[tokio::test]
async fn a_guest_may_ask_whether_it_is_to_end() {
    let bench = Bench::new();
    let (container, _) = bench.start(STOPPABLE, |_| {}).await;
    let looks = async {
        while !container.control.stop.looks() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looks).await.expect("it looks");
    container.stop();
    assert_eq!(ended(&container).await, Exit::Code(0), "it ended by itself");
    let other = STOPPABLE.replace("stop@0.1.0", "stop@0.2.0");
    assert!(matches!(bench.prepare(&other).await, Err(PrepareError::UnknownImport { .. })));
}

/// Who reads a guest's output slowly makes it wait, not the host remember.
#[tokio::test]
async fn a_guest_waits_for_whoever_reads_its_output() {
    let bench = Bench::new();
    let (writer, stdin) = crate::stdin_pipe();
    let (stdout, mut reader) = crate::output_pipe();
    let (container, _) = bench
        .start(guests::CAT, |spec| {
            spec.stdin = crate::Stdin::Pipe(stdin);
            spec.stdout = stdout;
        })
        .await;
    let (size, part) = (2 << 20, vec![b'x'; 1 << 16]);
    let write = async {
        for _ in 0..size / part.len() {
            writer.write(part.clone().into()).await.unwrap();
        }
        writer.close();
    };
    let read = async {
        let mut count = 0;
        while let Some(data) = reader.read().await {
            count += data.len();
        }
        count
    };
    let ((), count) = tokio::time::timeout(PATIENCE, async { tokio::join!(write, read) }).await.unwrap();
    assert_eq!((count, ended(&container).await), (size, Exit::Code(3)));
}
