//! How containers start and end.

use std::time::Duration;

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
        assert!(matches!(start(), Err(StartError::Exhausted { running: 2 })));
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
