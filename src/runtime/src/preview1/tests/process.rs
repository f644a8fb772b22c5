//! Arguments, environment, randomness, signals.

use super::*;

#[tokio::test]
async fn arguments_and_environment_arrive() {
    let bench = Bench::new();
    let steps = [
        ("args_sizes_get 0 4", 0),
        ("get32 0", 3),
        ("get32 4", 18),
        ("args_get 100 200", 0),
        ("get32 100", 200),
        ("get32 104", 206),
        ("get32 108", 207),
        ("same 200 'guest\0\0zwölf Uhr'", 1),
        ("environ_sizes_get 0 4", 0),
        ("get32 0", 2),
        ("get32 4", 10),
        ("environ_get 100 200", 0),
        ("get32 104", 207),
        ("same 200 'A=b c\0'", 0),
        ("same 200 'AB=b=c\0C=\0'", 1),
    ];
    for module in [ONE, ZERO] {
        let (exit, _) = bench
            .run(&Script::text(module, &steps), |spec| {
                spec.args = ["guest", "", "zwölf Uhr"].map(str::to_owned).to_vec();
                spec.env = [("AB", "b=c"), ("C", "")].map(|(a, b)| (a.to_owned(), b.to_owned())).to_vec();
            })
            .await;
        verdict(&steps, &exit);
    }
}

#[tokio::test]
async fn the_working_directory_is_told() {
    let bench = Bench::new();
    let steps = [("environ_sizes_get 0 4", 0), ("environ_get 100 200", 0), ("same 200 'PWD=/srv\0'", 1)];
    run_in(&bench, ONE, &steps, |spec| spec.working_dir = Some("/srv".into())).await;
    let steps = [("environ_sizes_get 0 4", 0), ("get32 0", 1), ("get32 4", 7)];
    run_in(&bench, ONE, &steps, |spec| {
        spec.working_dir = Some("/srv".into());
        spec.env = vec![("PWD".into(), "/x".into())];
    })
    .await;
}

#[tokio::test]
async fn the_working_directory_is_found_after_the_root() {
    let bench = Bench::new();
    let run = async |dir: &str, steps: &[(&str, u64)]| {
        run_in(&bench, ONE, steps, |spec| {
            spec.mounts.root().create_directories("srv/app").unwrap();
            spec.working_dir = Some(dir.to_owned());
        })
        .await;
    };
    let steps = [
        ("fd_prestat_get 3 200", 0),
        ("fd_prestat_dir_name 3 208 1", 0),
        ("same 208 '/'", 1),
        ("fd_prestat_get 4 200", 0),
        ("get32 200", 0),
        ("get32 204", 1),
        ("fd_prestat_dir_name 4 208 1", 0),
        ("same 208 '.'", 1),
        ("fd_prestat_get 5 200", 8),
        ("path_open 4 0 'new' 1 66 0 0 100", 0),
        ("path_filestat_get 3 0 'srv/app/new' 300", 0),
        ("path_filestat_get 3 0 'new' 300", 44),
        ("path_filestat_get 4 0 'srv/app/new' 300", 0),
        ("path_rename 4 'new' 3 'srv/moved'", 0),
        ("path_filestat_get 4 0 '../moved' 300", 0),
    ];
    run("/srv/app", &steps).await;
    run("//srv/./app/", &steps).await;
    for none in ["/", "/.", "", "/none"] {
        run(none, &[("fd_prestat_get 3 200", 0), ("fd_prestat_get 4 200", 8)]).await;
    }
}

#[tokio::test]
async fn randomness_is_random() {
    let bench = Bench::new();
    check(
        &bench,
        &[
            ("random_get 1000 0", 0),
            ("get64 1000", 0),
            ("random_get 1000 8", 0),
            ("get8 1008", 0),
            // Sixty-four zero bits or twice the same come once in the life of many universes.
            ("same 1000 '\0\0\0\0\0\0\0\0'", 0),
            ("random_get 2000 60000", 0),
            ("get8 62000", 0),
            ("same 61992 '\0\0\0\0\0\0\0\0'", 0),
            ("random_get 131072 0", 0),
            ("random_get 131072 1", 21),
            ("random_get 1000 -1", 21),
        ],
    )
    .await;
}

#[tokio::test]
async fn turns_are_taken_and_signals_end() {
    let bench = Bench::new();
    check(&bench, &[("sched_yield", 0), ("proc_raise 0", 0), ("proc_raise 17", 0), ("proc_raise 18", 58)])
        .await;
    check(&bench, &[("proc_raise 99", 28)]).await;
    for (signal, expected) in [(6, 134), (9, 137), (15, 143), (30, 159)] {
        let step = format!("proc_raise {signal}");
        let (exit, _) = bench.run(&Script::text(ONE, &[(&step, 0)]), |_| {}).await;
        assert_eq!(exit, Exit::Code(expected));
    }
}

/// Says that it waits, waits for `coracle:lifecycle` with `poll_oneoff`, and exits with 7.
const STOPPABLE: &str = r#"(module
    (import "coracle:lifecycle/stop@0.1.0" "is-stopping" (func $is-stopping (result i32)))
    (import "coracle:lifecycle/stop@0.1.0" "stopping" (func $stopping (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\10\00\00\00\05\00\00\00")
    (data (i32.const 16) "waits")
    (func $want (param i32 i32 i32)
        (if (i32.ne (local.get 1) (local.get 2)) (then (call $exit (local.get 0)))))
    (func (export "_start") (local $fd i32)
        (call $want (i32.const 1) (call $is-stopping) (i32.const 0))
        (local.set $fd (call $stopping))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        (i32.store8 (i32.const 72) (i32.const 1))                 ;; until it can be read
        (i32.store (i32.const 80) (local.get $fd))
        (call $want (i32.const 2) (call $poll (i32.const 64) (i32.const 256) (i32.const 1) (i32.const 512))
            (i32.const 0))
        (call $want (i32.const 3) (call $is-stopping) (i32.const 1))
        (call $want (i32.const 4) (call $read (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))
            (i32.const 0))
        (call $want (i32.const 5) (i32.load (i32.const 8)) (i32.const 0))
        ;; another one is at its end from the start
        (call $want (i32.const 6) (call $read (call $stopping) (i32.const 0) (i32.const 1) (i32.const 8))
            (i32.const 0))
        (call $exit (i32.const 7))))"#;

#[tokio::test]
async fn a_module_may_learn_that_it_is_to_end() {
    let bench = Bench::new();
    let (container, output) = bench.start(STOPPABLE, |_| {}).await;
    output.shows("waits").await;
    container.stop();
    assert_eq!(ended(&container).await, Exit::Code(7), "it ended by itself");
    for other in ["stop@0.2.0", "start@0.1.0"] {
        let refused = bench.prepare(&STOPPABLE.replace("stop@0.1.0", other)).await.unwrap_err().to_string();
        assert_eq!(refused, format!("unknown import `coracle:lifecycle/{other}::is-stopping`"));
    }
}

/// Asking for the descriptor without end is told no, and closing them gives the places back.
#[tokio::test]
async fn descriptors_of_the_end_are_bounded() {
    let bench = Bench::new();
    let text = r#"(module
        (import "coracle:lifecycle/stop@0.1.0" "stopping" (func $stopping (result i32)))
        (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func (export "_start") (local $last i32) (local $fd i32)
            (loop $again
                (local.set $last (local.get $fd))
                (local.set $fd (call $stopping))
                (br_if $again (i32.ge_s (local.get $fd) (i32.const 0))))
            (if (call $close (local.get $last)) (then unreachable))
            (if (i32.ne (call $stopping) (local.get $last)) (then unreachable))
            (call $exit (i32.add (i32.const 1) (local.get $last)))))"#;
    let (exit, _) = bench.run(text, |_| {}).await;
    // Beside these, stdout and stderr are open, which do not count.
    assert_eq!(exit, Exit::Code(crate::limits::OPEN_FILES as i32 + 2));
}
