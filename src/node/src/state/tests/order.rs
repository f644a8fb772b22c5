//! Who starts and ends before whom: init containers, sidecars, ephemeral ones.

use super::*;

#[test]
fn init_containers_take_turns_and_sidecars_accompany() {
    let spec = json!({
        "restartPolicy": "OnFailure",
        "initContainers": [
            {"name": "first", "image": "i"},
            {"name": "side", "image": "i", "restartPolicy": "Always"},
            {"name": "last", "image": "i"},
        ],
        "containers": [{"name": "main", "image": "i"}],
    });
    let mut bench = Bench::new(&spec, &json!({}));
    bench.feed(Input::SetUp);
    bench.expect(&["setup", "launch 0.0"]);
    bench.up(0);
    bench.exit(0, 1);
    bench.expect(&["launch 0.1"]);
    bench.up(0);
    bench.exit(0, 0);
    bench.expect(&["launch 1.0"]);
    bench.up(1);
    bench.expect(&["launch 2.0"]);
    bench.up(2);
    bench.expect_views(&[
        "Completed(0) last=Error(1) x1 ready",
        "Running x0 ready",
        "Running x0",
        "PodInitializing x0",
    ]);
    bench.exit(2, 0);
    bench.expect(&["launch 3.0"]);
    bench.up(3);
    bench.exit(1, 1);
    bench.expect(&["launch 1.1"]);
    bench.up(1);
    bench.exit(3, 0);
    bench.expect(&["Killing: Stopping container side", "stop 1"]);
    bench.exit(1, 143);
    bench.expect(&["teardown"]);
}

#[test]
fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let spec = json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "init", "image": "i"}],
        "containers": [{"name": "main", "image": "i"}],
    });
    let mut bench = Bench::new(&spec, &json!({}));
    bench.feed(Input::SetUp);
    bench.up(0);
    bench.exit(0, 3);
    bench.expect(&["setup", "launch 0.0", "teardown"]);
    bench.expect_views(&["Error(3) x0", "PodInitializing x0"]);
}

#[test]
fn a_container_is_up_after_the_hook_of_its_start_and_others_wait() {
    let spec = json!({"containers": [
        {"name": "a", "image": "i", "lifecycle": {"postStart": {"sleep": {"seconds": 1}}}},
        {"name": "b", "image": "i"},
    ]});
    let mut bench = Bench::new(&spec, &json!({}));
    bench.feed(Input::SetUp);
    bench.expect(&["setup", "launch 0.0"]);
    bench.up(0);
    bench.expect(&["postStart 0"]);
    bench.expect_views(&["ContainerCreating x0", "ContainerCreating x0"]);
    bench.hooked(0, Hook::PostStart, true);
    bench.expect(&["launch 1.0"]);
    bench.expect_views(&["Running x0 ready", "ContainerCreating x0"]);
}

#[test]
fn what_is_behind_a_sidecar_waits_until_that_was_up_once() {
    let spec = |extra: Value| {
        let mut side = json!({"name": "side", "image": "i", "restartPolicy": "Always"});
        side.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"initContainers": [side], "containers": [{"name": "main", "image": "i"}]})
    };
    let probe = |bench: &mut Bench, run: i32, healthy: bool| {
        bench.feed(Input::Probed { index: 0, run, probe: ProbeKind::Startup, healthy });
    };
    let probed = spec(json!({"startupProbe": {"tcpSocket": {"port": 80}}}));
    let mut bench = Bench::new(&probed, &json!({}));
    bench.feed(Input::SetUp);
    bench.up(0);
    bench.expect(&["setup", "launch 0.0"]);
    probe(&mut bench, 0, false);
    bench.exit(0, 137);
    bench.expect(&[
        "Killing: Container side failed startup probe, will be restarted",
        "stop 0",
        "launch 0.1",
    ]);
    bench.up(0);
    bench.expect(&[]);
    probe(&mut bench, 1, true);
    bench.expect(&["launch 1.0"]);

    let mut bench =
        Bench::new(&spec(json!({"lifecycle": {"postStart": {"sleep": {"seconds": 1}}}})), &json!({}));
    bench.feed(Input::SetUp);
    bench.up(0);
    bench.hooked(0, Hook::PostStart, false);
    bench.exit(0, 137);
    bench.up(0);
    bench.seen.retain(|effect| effect.starts_with("launch"));
    bench.expect(&["launch 0.0", "launch 0.1"]);
    bench.hooked(0, Hook::PostStart, true);
    bench.expect(&["launch 1.0"]);
}

#[test]
fn sidecars_end_after_those_they_serve_the_last_first_within_one_grace() {
    let sidecar = |name: &str| json!({"name": name, "image": "i", "restartPolicy": "Always"});
    let mut hooked = sidecar("two");
    hooked["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 5}}});
    let spec = json!({
        "initContainers": [sidecar("one"), hooked],
        "containers": [{"name": "main", "image": "i"}],
    });
    let mut bench = Bench::new(&spec, &json!({}));
    bench.feed(Input::SetUp);
    bench.up(0);
    bench.up(1);
    bench.up(2);
    bench.seen.clear();
    bench.stop(30);
    bench.expect(&[
        "abort",
        "Killing: Stopping container one",
        "Killing: Stopping container two",
        "preStop 1",
        "Killing: Stopping container main",
        "stop 2",
    ]);
    bench.hooked(1, Hook::PreStop, true);
    bench.expect(&[]);
    bench.pass(10);
    bench.exit(2, 0);
    bench.expect(&["stop 1"]);
    bench.exit(1, 0);
    bench.expect(&["stop 0"]);
    assert_eq!(bench.machine.next_wake(), Some(bench.now.instant + Duration::from_secs(20)));
    bench.exit(0, 0);
    bench.expect(&["teardown"]);
}

#[test]
fn a_sidecar_whose_turn_does_not_come_in_time_is_told_anyway() {
    let spec = json!({
        "initContainers": [{"name": "side", "image": "i", "restartPolicy": "Always"}],
        "containers": [{"name": "main", "image": "i"}],
    });
    let mut bench = Bench::new(&spec, &json!({}));
    bench.feed(Input::SetUp);
    bench.up(0);
    bench.up(1);
    bench.stop(10);
    bench.seen.clear();
    bench.pass(10);
    bench.feed(Input::Tick);
    bench.expect(&["stop 0", "kill 1"]);
    bench.pass(2);
    bench.feed(Input::Tick);
    bench.expect(&["kill 0"]);
}

#[test]
fn ephemeral_containers_join_and_leave_without_consequences() {
    let joined = |name: &str| {
        let container = Container { name: name.into(), ..Container::default() };
        Input::Joined(vec![UnitPlan::of(&container, Role::Ephemeral)])
    };
    let spec = json!({"restartPolicy": "OnFailure", "containers": [{"name": "main", "image": "i"}]});
    let mut bench = Bench::new(&spec, &json!({}));
    bench.feed(joined("early"));
    bench.feed(Input::SetUp);
    bench.expect(&["setup", "launch 1.0", "launch 0.0"]);
    bench.up(0);
    bench.up(1);
    bench.expect_views(&["Running x0 ready", "Running x0"]);
    bench.exit(1, 1);
    bench.expect(&[]);
    bench.feed(joined("late"));
    bench.expect(&["launch 2.0"]);
    bench.up(2);
    bench.exit(0, 0);
    bench.expect(&["Killing: Stopping container late", "stop 2"]);
    bench.exit(2, 143);
    bench.expect(&["teardown"]);
}

#[test]
fn a_launch_without_room_is_tried_again_when_there_is_some() {
    let full = || Waiting { reason: "RunContainerError", message: Some("no room".into()) };
    let mut bench = Bench::simple("Always");
    bench.feed(Input::SetUp);
    bench.feed(Input::Room { index: 0 });
    bench.feed(Input::NoRoom { index: 0, waiting: full() });
    bench.expect(&["setup", "launch 0.0", "Failed: Error: no room"]);
    bench.expect_views(&["RunContainerError x0"]);
    assert_eq!(bench.machine.next_wake(), None, "nothing is tried meanwhile");
    assert!(bench.machine.settled());
    bench.pass(1_000);
    bench.feed(Input::Tick);
    bench.feed(Input::SourcesChanged);
    bench.expect(&[]);
    bench.feed(Input::Room { index: 0 });
    bench.expect(&["launch 0.0"]);
    bench.expect_views(&["RunContainerError x0"]);
    bench.feed(Input::Room { index: 0 });
    bench.up(0);
    bench.expect(&[]);
    bench.expect_views(&["Running x0 ready"]);
    // A run that ended comes back the same way, and counts.
    bench.exit(0, 1);
    bench.feed(Input::NoRoom { index: 0, waiting: full() });
    bench.expect_views(&["RunContainerError last=Error(1) x0"]);
    bench.feed(Input::Room { index: 0 });
    bench.up(0);
    bench.expect(&["launch 0.1", "Failed: Error: no room", "launch 0.1"]);
    bench.expect_views(&["Running last=Error(1) x1 ready"]);
    // Another image is another try, and a stop an end.
    bench.exit(0, 1);
    bench.pass(10);
    bench.feed(Input::Tick);
    bench.feed(Input::NoRoom { index: 0, waiting: full() });
    bench.seen.clear();
    bench.feed(Input::ImageChanged { index: 0, image: "other".into() });
    bench.expect(&["launch 0.2"]);
    bench.feed(Input::NoRoom { index: 0, waiting: full() });
    bench.stop(1);
    bench.expect(&["Failed: Error: no room", "abort", "teardown"]);
}
