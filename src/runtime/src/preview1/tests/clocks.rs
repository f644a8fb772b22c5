//! Clocks, and waiting for them and for descriptors.

use std::time::Duration;

use super::*;

#[tokio::test]
async fn clocks_go_on() {
    let bench = Bench::new();
    for clock in 0..4 {
        let time = format!("clock_time_get {clock} 1 100");
        let again = format!("later 100 {clock}");
        let step = if clock < 2 { 1 } else { 1_000_000 };
        let resolution = format!("clock_res_get {clock} 200");
        check(&bench, &[(&time, 0), ("sched_yield", 0), (&again, 1), (&resolution, 0), ("get64 200", step)])
            .await;
    }
    // 2026 has begun everywhere.
    let steps = [("set64 100 1767225600000000000", 0), ("later 100 0", 1), ("later 100 1", 0)];
    check(&bench, &steps).await;
    check(&bench, &[("clock_time_get 4 0 100", 28), ("clock_res_get 4 100", 28)]).await;
    check(&bench, &[("clock_time_get 0 0 131065", 21), ("clock_res_get 0 131065", 21)]).await;
}

/// Steps that write a clock subscription at 1000, in the layout of a snapshot.
fn clock(module: &str, clock: u32, timeout: u64, flags: u32) -> Vec<(String, u64)> {
    let [id, time, how] = if module == ONE { [1016, 1024, 1040] } else { [1024, 1032, 1048] };
    vec![
        ("set64 1000 77".into(), 0),
        ("set8 1008 0".into(), 0),
        (format!("set32 {id} {clock}"), 0),
        (format!("set64 {time} {timeout}"), 0),
        (format!("set32 {how} {flags}"), 0),
    ]
}

#[tokio::test]
async fn a_sleep_ends_when_it_should() {
    let bench = Bench::new();
    for module in [ONE, ZERO] {
        // A clock, its time, whether absolute, and the event's error.
        for (id, timeout, flags, error) in [
            (1, 3_000_000, 0, 0),
            (0, 3_000_000, 0, 0),
            (1, 0, 0, 0),
            (1, 1, 1, 0),
            (0, 1_767_225_600_000_000_000, 1, 0),
            (2, 1, 0, 58),
            (1, 1, 2, 28),
        ] {
            let mut steps = vec![("clock_time_get 1 0 104".to_owned(), 0)];
            steps.extend(clock(module, id, timeout, flags));
            steps.extend([("poll_oneoff 1000 2000 1 3000".into(), 0), ("get32 3000".into(), 1)]);
            steps.extend([("get64 2000".into(), 77), ("get16 2008".into(), error), ("get8 2010".into(), 0)]);
            if timeout == 3_000_000 {
                // Not before its time: what the clock said, and 3 ms.
                steps.extend([
                    ("clock_time_get 1 0 112".into(), 0),
                    ("later 104 1".into(), 1),
                    ("get64 2016".into(), 0),
                ]);
            }
            let steps: Vec<(&str, u64)> =
                steps.iter().map(|(step, answer)| (step.as_str(), *answer)).collect();
            run_in(&bench, module, &steps, |_| {}).await;
        }
    }
}

/// An absolute time of the monotonic clock, taken from it.
#[tokio::test]
async fn a_sleep_takes_its_time() {
    let bench = Bench::new();
    let before = tokio::time::Instant::now();
    let mut steps = clock(ONE, 1, 30_000_000, 0);
    steps.push(("poll_oneoff 1000 2000 1 3000".into(), 0));
    let steps: Vec<(&str, u64)> = steps.iter().map(|(step, answer)| (step.as_str(), *answer)).collect();
    run_in(&bench, ONE, &steps, |_| {}).await;
    assert!(before.elapsed() >= Duration::from_millis(30));
}

#[tokio::test]
async fn descriptors_are_waited_for() {
    let bench = Bench::new();
    // Stdin is at its end, stdout takes more, 9 is not open, 3 is a directory; and an hour's clock beside.
    let steps = [
        ("set64 1000 1", 0),
        ("set8 1008 1", 0),
        ("set32 1016 0", 0),
        ("set64 1048 2", 0),
        ("set8 1056 2", 0),
        ("set32 1064 1", 0),
        ("set64 1096 3", 0),
        ("set8 1104 1", 0),
        ("set32 1112 9", 0),
        ("set64 1144 4", 0),
        ("set8 1152 2", 0),
        ("set32 1160 3", 0),
        ("set64 1192 5", 0),
        ("set8 1200 0", 0),
        ("set32 1208 1", 0),
        ("set64 1216 3600000000000", 0),
        ("poll_oneoff 1000 2000 5 3000", 0),
        ("get32 3000", 4),
        ("get64 2000", 1),
        ("get16 2008", 0),
        ("get8 2010", 1),
        ("get64 2032", 2),
        ("get8 2042", 2),
        ("get64 2048", 65536),
        ("get64 2064", 3),
        ("get16 2072", 8),
        ("get8 2074", 1),
        ("get64 2096", 4),
        ("get16 2104", 8),
    ];
    run_in(&bench, ONE, &steps, |_| {}).await;
    check(
        &bench,
        &[
            ("poll_oneoff 1000 2000 0 3000", 28),
            ("poll_oneoff 1000 2000 8193 3000", 28),
            ("poll_oneoff 1000 2000 -1 3000", 28),
            ("poll_oneoff 131000 2000 4 3000", 21),
            ("poll_oneoff 1000 131060 4 3000", 21),
            ("poll_oneoff 1000 2000 1 131070", 21),
            ("set8 1008 3", 0),
            ("poll_oneoff 1000 2000 1 3000", 28),
        ],
    )
    .await;
}

/// A guest that waits for its stdin is woken by what is written, and by the end.
#[tokio::test]
async fn stdin_wakes_who_waits_for_it() {
    let bench = Bench::new();
    let (writer, reader) = crate::stdin_pipe();
    let steps = [
        ("iov 0 200 3", 0),
        ("fd_fdstat_set_flags 0 4", 0),
        ("fd_read 0 0 1 100", 6),
        ("put 300 'waits'", 0),
        ("iov 8 300 5", 0),
        ("fd_write 1 8 1 100", 0),
        ("set8 1008 1", 0),
        ("poll_oneoff 1000 2000 1 3000", 0),
        ("fd_read 0 0 1 100", 0),
        ("get32 100", 3),
        ("fd_fdstat_set_flags 0 0", 0),
        ("fd_read 0 0 1 100", 0),
        ("get32 100", 2),
        ("fd_read 0 0 1 100", 0),
        ("get32 100", 0),
        ("poll_oneoff 1000 2000 1 3000", 0),
    ];
    let (container, output) = start(&bench, &steps, |spec| spec.stdin = crate::Stdin::Pipe(reader)).await;
    output.shows("waits").await;
    writer.write("12345".into()).await.unwrap();
    container.stop();
    verdict(&steps, &ended(&container).await);
}
