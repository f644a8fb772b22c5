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
