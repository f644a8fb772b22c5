//! How a pod ends: deletion, deadlines, grace periods, hooks of the end.

use super::*;

#[test]
fn deletion_kills_what_runs_and_starts_nothing() {
    let spec = json!({"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]});
    let mut bench = Bench::new(&spec, &json!({}));
    bench.feed(Input::SetUp);
    bench.up(0);
    bench.expect(&["setup", "launch 0.0", "launch 1.0"]);
    bench.stop(30);
    bench.expect(&["abort", "Killing: Stopping container a", "stop 0"]);
    bench.expect_views(&["Running x0 ready", "ContainerCreating x0"]);
    bench.stop(30);
    bench.expect(&[]);
    bench.exit(0, 137);
    bench.expect(&["teardown"]);
    bench.expect_views(&["Error(137) x0", "ContainerCreating x0"]);
}

#[test]
fn a_deadline_ends_the_pod() {
    let spec = json!({"activeDeadlineSeconds": 30, "containers": [{"name": "c", "image": "i"}]});
    let mut bench = Bench::new(&spec, &json!({}));
    bench.feed(Input::SetUp);
    bench.up(0);
    bench.seen.clear();
    bench.pass(30);
    assert_eq!(bench.machine.next_wake(), Some(bench.now.instant));
    bench.feed(Input::Tick);
    bench.expect(&[
        "abort",
        "DeadlineExceeded: Pod was active on the node longer than the specified deadline",
        "Killing: Stopping container c",
        "stop 0",
    ]);
    bench.exit(0, 137);
    bench.expect(&["teardown"]);
}

#[test]
fn what_does_not_end_within_its_grace_is_killed() {
    let mut bench = Bench::simple("Always");
    bench.feed(Input::SetUp);
    bench.up(0);
    bench.seen.clear();
    bench.stop(30);
    bench.expect(&["abort", "Killing: Stopping container c", "stop 0"]);
    bench.pass(29);
    bench.feed(Input::Tick);
    bench.expect(&[]);
    bench.pass(1);
    assert_eq!(bench.machine.next_wake(), Some(bench.now.instant));
    bench.feed(Input::Tick);
    bench.expect(&["kill 0"]);
    assert_eq!(bench.machine.next_wake(), None);
    bench.exit(0, 137);
    bench.expect(&["teardown"]);
}

#[test]
fn grace_can_only_be_shortened() {
    let mut bench = Bench::simple("Always");
    bench.feed(Input::SetUp);
    bench.up(0);
    bench.stop(30);
    bench.seen.clear();
    bench.stop(60);
    bench.pass(10);
    bench.stop(5);
    bench.expect(&[]);
    assert_eq!(bench.machine.next_wake(), Some(bench.now.instant + Duration::from_secs(5)));
    bench.stop(0);
    bench.expect(&["kill 0"]);
    bench.stop(0);
    bench.expect(&[]);
}

#[test]
fn no_grace_means_at_once_and_without_a_hook() {
    let spec = json!({"containers": [{"name": "c", "image": "i", "lifecycle": {"preStop": {"sleep": {"seconds": 5}}}}]});
    let mut bench = Bench::new(&spec, &json!({}));
    bench.feed(Input::SetUp);
    bench.up(0);
    bench.seen.clear();
    bench.stop(0);
    bench.expect(&["abort", "Killing: Stopping container c", "kill 0"]);
}

#[test]
fn a_container_is_told_to_stop_after_its_hook() {
    let spec = json!({"containers": [{"name": "c", "image": "i", "lifecycle": {"preStop": {"sleep": {"seconds": 5}}}}]});
    for (took, success, left) in [(5, true, 25), (29, false, 2)] {
        let mut bench = Bench::new(&spec, &json!({}));
        bench.feed(Input::SetUp);
        bench.up(0);
        bench.seen.clear();
        bench.stop(30);
        bench.expect(&["abort", "Killing: Stopping container c", "preStop 0"]);
        bench.pass(took);
        bench.hooked(0, Hook::PreStop, success);
        let told =
            if success { vec!["stop 0"] } else { vec!["FailedPreStopHook: PreStopHook failed", "stop 0"] };
        bench.expect(&told);
        assert_eq!(bench.machine.next_wake(), Some(bench.now.instant + Duration::from_secs(left)));
    }
    // A hook that takes all of the grace leaves the minimum.
    let mut bench = Bench::new(&spec, &json!({}));
    bench.feed(Input::SetUp);
    bench.up(0);
    bench.stop(30);
    bench.seen.clear();
    bench.pass(30);
    bench.feed(Input::Tick);
    bench.expect(&["stop 0"]);
    bench.hooked(0, Hook::PreStop, true);
    bench.expect(&[]);
    bench.pass(2);
    bench.feed(Input::Tick);
    bench.expect(&["kill 0"]);
}

#[test]
fn probes_have_a_grace_of_their_own() {
    let probe = |grace: i64| json!({"tcpSocket": {"port": 80}, "terminationGracePeriodSeconds": grace});
    for (kind, grace) in [(ProbeKind::Startup, 7), (ProbeKind::Liveness, 9)] {
        let spec = json!({"containers": [
            {"name": "c", "image": "i", "startupProbe": probe(7), "livenessProbe": probe(9)},
        ]});
        let mut bench = Bench::new(&spec, &json!({}));
        bench.feed(Input::SetUp);
        bench.up(0);
        bench.feed(Input::Probed { index: 0, run: 0, probe: kind, healthy: false });
        assert_eq!(bench.machine.next_wake(), Some(bench.now.instant + Duration::from_secs(grace)));
    }
}

#[test]
fn a_deadline_may_come_later() {
    let mut bench = Bench::simple("Always");
    bench.feed(Input::SetUp);
    bench.up(0);
    bench.seen.clear();
    let deadline = bench.now.instant + Duration::from_secs(5);
    bench.feed(Input::DeadlineChanged(Some(deadline)));
    assert_eq!(bench.machine.next_wake(), Some(deadline));
    bench.pass(3);
    bench.feed(Input::DeadlineChanged(Some(bench.now.instant)));
    assert_eq!(bench.seen[0], "abort");
}

#[test]
fn a_shutdown_of_the_node_completes_nothing() {
    let shutdown = || Input::Stop { stop: Stop::Shutdown, grace: Duration::from_secs(30) };
    #[track_caller]
    fn check(policy: &str, code: i32, view: &str) {
        let mut bench = Bench::simple(policy);
        bench.feed(Input::SetUp);
        bench.up(0);
        bench.feed(Input::Stop { stop: Stop::Shutdown, grace: Duration::from_secs(30) });
        bench.exit(0, code);
        bench.expect_views(&[view]);
        assert!(bench.machine.over());
    }
    check("OnFailure", 0, "ContainerCreating last=Completed(0) x0");
    check("OnFailure", 143, "Error(143) x0");
    check("Never", 0, "Completed(0) x0");

    let mut bench = Bench::simple("Never");
    bench.feed(Input::SetUp);
    bench.up(0);
    bench.exit(0, 1);
    bench.seen.clear();
    bench.feed(shutdown());
    bench.expect(&[]);
    assert_eq!(bench.machine.stopped(), None, "it ended by itself before");
}
