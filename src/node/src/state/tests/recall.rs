//! Pods that an earlier process ran.

use super::*;

#[test]
fn what_ran_before_the_agent_came_back() {
    #[track_caller]
    fn check(policy: &str, state: &Value, restarts: i32, effects: &[&str], view: &str) {
        let spec = json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]});
        let status = json!({"phase": "Running", "containerStatuses": [{
            "name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": restarts,
            "containerID": "coracle://x", "state": state,
        }]});
        let mut bench = Bench::new(&spec, &status);
        if bench.seen == ["setup"] {
            bench.feed(Input::SetUp);
            bench.up(0);
        }
        bench.expect(effects);
        bench.expect_views(&[view]);
    }
    let running = json!({"running": {"startedAt": "2024-12-31T00:00:00Z"}});
    let again = &["setup", "launch 0.3"];
    check("Always", &running, 2, again, "Running last=ContainerStatusUnknown(137) x3 ready");
    check("OnFailure", &running, 2, again, "Running last=ContainerStatusUnknown(137) x3 ready");
    check("Never", &running, 0, &["teardown"], "ContainerStatusUnknown(137) x0");
    let done = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
    check("OnFailure", &done, 0, &["teardown"], "Completed(0) x0");
    check("Always", &done, 0, &["setup", "launch 0.1"], "Running last=Completed(0) x1 ready");
    let waiting = json!({"waiting": {"reason": "ContainerCreating"}});
    check("Never", &waiting, 0, &["setup", "launch 0.0"], "Running x0 ready");
}

#[test]
fn a_pod_that_was_over_stays_over() {
    let spec = json!({"containers": [{"name": "c", "image": "i"}]});
    let mut bench = Bench::new(&spec, &json!({"phase": "Failed", "reason": "Evicted"}));
    bench.expect(&["teardown"]);
    assert!(bench.machine.over());
}

#[test]
fn ephemeral_containers_do_not_come_back_after_a_restart_of_the_agent() {
    let spec = json!({
        "containers": [{"name": "main", "image": "i"}],
        "ephemeralContainers": [{"name": "ran", "image": "i"}, {"name": "did not", "image": "i"}],
    });
    let running = json!({"running": {"startedAt": "2024-12-31T00:00:00Z"}});
    let status = |name: &str, state: &Value| json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state});
    let known = json!({"phase": "Running", "containerStatuses": [status("main", &running)],
        "ephemeralContainerStatuses": [status("ran", &running)]});
    let mut bench = Bench::new(&spec, &known);
    bench.feed(Input::SetUp);
    bench.expect(&["setup", "launch 2.0", "launch 0.1"]);
    bench.expect_views(&[
        "ContainerCreating last=ContainerStatusUnknown(137) x0",
        "ContainerStatusUnknown(137) x0",
        "ContainerCreating x0",
    ]);
}

#[test]
fn a_run_that_only_its_log_tells_of_counts() {
    let mut bench = Bench::simple("Always");
    bench.machine.recall_run(0, 4);
    bench.feed(Input::SetUp);
    bench.expect(&["setup", "launch 0.5"]);
    bench.up(0);
    bench.expect_views(&["Running x5 ready"]);
}

#[test]
fn init_containers_that_succeeded_look_so_while_they_run_again() {
    let state = |name: &str, state: &Value| json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state});
    let known = |init: &[Value], main: &Value| json!({"phase": "Pending", "initContainerStatuses": init, "containerStatuses": [main]});
    let spec = |policy: &str, init: &[&str]| {
        let init: Vec<_> = init.iter().map(|name| json!({"name": name, "image": "i"})).collect();
        json!({"restartPolicy": policy, "initContainers": init, "containers": [{"name": "main", "image": "i"}]})
    };
    let done = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
    let running = json!({"running": {"startedAt": "2024-12-31T00:00:00Z"}});
    let waiting = json!({"waiting": {"reason": "PodInitializing"}});
    let main = state("main", &waiting);

    // It will not run again: the pod is over.
    let mut bench =
        Bench::new(&spec("Never", &["a", "b"]), &known(&[state("a", &done), state("b", &running)], &main));
    bench.expect(&["teardown"]);
    bench.expect_views(&["Completed(0) x0 ready", "ContainerStatusUnknown(137) x0", "PodInitializing x0"]);

    let of_policy =
        |policy: &str, main: &Value| Bench::new(&spec(policy, &["a"]), &known(&[state("a", &done)], main));
    let mut stopped = of_policy("OnFailure", &main);
    stopped.stop(0);
    stopped.expect_views(&["Completed(0) x0 ready", "PodInitializing x0"]);

    let mut bench = of_policy("OnFailure", &state("main", &running));
    bench.feed(Input::SetUp);
    bench.expect(&["setup", "launch 0.1"]);
    let lost = "PodInitializing last=ContainerStatusUnknown(137) x0";
    bench.expect_views(&["Completed(0) x0 ready", lost]);
    bench.up(0);
    bench.expect_views(&["Completed(0) x1 ready", lost]);
    bench.exit(0, 1);
    bench.expect_views(&["Error(1) last=Completed(0) x1", lost]);
    bench.up(0);
    bench.exit(0, 0);
    bench.expect(&["launch 0.2", "launch 1.1"]);
    bench.expect_views(&["Completed(0) last=Error(1) x2 ready", lost]);

    // Where every container may be restarted, nothing needs to be hidden.
    of_policy("Always", &main).expect_views(&["PodInitializing last=Completed(0) x0", "PodInitializing x0"]);
}

#[test]
fn what_is_behind_a_sidecar_waits_for_it_again() {
    let spec = json!({
        "initContainers": [
            {"name": "side", "image": "i", "restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": 80}}},
            {"name": "init", "image": "i"},
        ],
        "containers": [{"name": "main", "image": "i"}],
    });
    let state = |name: &str, state: Value| json!({"name": name, "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": state});
    let running = json!({"running": {"startedAt": "2024-12-31T00:00:00Z"}});
    let done = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
    let known = json!({
        "phase": "Running",
        "initContainerStatuses": [state("side", running.clone()), state("init", done)],
        "containerStatuses": [state("main", running)],
    });
    let mut bench = Bench::new(&spec, &known);
    bench.feed(Input::SetUp);
    bench.up(0);
    bench.expect(&["setup", "launch 0.1"]);
    bench.feed(Input::Probed { index: 0, run: 1, probe: ProbeKind::Startup, healthy: true });
    bench.expect(&["launch 1.1"]);
}

#[test]
fn a_container_remembers_the_image_that_ran() {
    let images = |bench: &Bench| bench.machine.views().map(|view| view.image).collect::<Vec<_>>();
    let spec = json!({"containers": [{"name": "c", "image": "new"}]});
    let running = json!({"running": {"startedAt": "2024-12-31T00:00:00Z"}});
    let known = json!({"phase": "Running", "containerStatuses": [{
        "name": "c", "image": "old", "imageID": "old@sha256:0", "ready": true, "restartCount": 0, "state": running,
    }]});
    let mut bench = Bench::new(&spec, &known);
    assert_eq!(images(&bench), [Some("old".into())]);
    bench.feed(Input::SetUp);
    bench.up(0);
    assert_eq!(images(&bench), [None]);
    bench.feed(Input::ImageChanged { index: 0, image: "newer".into() });
    bench.feed(Input::ImageChanged { index: 0, image: "newest".into() });
    assert_eq!(images(&bench), [Some("new".into())]);
    bench.exit(0, 143);
    bench.up(0);
    assert_eq!(images(&bench), [None]);
}

/// Jobs count restarts as failures; what the node itself ended is none.
#[test]
fn what_a_shutdown_of_the_node_interrupted_is_no_restart() {
    #[track_caller]
    fn check(policy: &str, message: &str, main: &Value, expected: &str) {
        let spec = json!({
            "restartPolicy": policy, "initContainers": [{"name": "init", "image": "i"}],
            "containers": [{"name": "main", "image": "i"}],
        });
        let state = |name: &str, state: &Value| {
            json!({
                "name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 2,
                "state": state["state"], "lastState": state["last"],
            })
        };
        let done = json!({"state": {"terminated": {"exitCode": 0, "finishedAt": "2024-12-30T00:00:00Z"}}});
        let known = json!({
            "phase": "Running", "initContainerStatuses": [state("init", &done)],
            "containerStatuses": [state("main", main)],
            "conditions": [{
                "type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet",
                "message": message, "lastTransitionTime": "2024-12-31T00:00:00Z",
            }],
        });
        let mut bench = Bench::new(&spec, &known);
        // Its log tells of the same.
        bench.machine.recall_run(1, 2);
        bench.feed(Input::SetUp);
        bench.up(0);
        bench.exit(0, 0);
        bench.seen.retain(|effect| effect.starts_with("launch"));
        let both = bench.seen.join(" ");
        assert_eq!(both, expected);
        bench.up(1);
        bench.seen.clear();
        bench.exit(1, 1);
        let next: i32 = expected.rsplit_once('.').unwrap().1.parse().unwrap();
        assert!(
            bench.seen.contains(&format!("launch 1.{}", next + 1)),
            "its own failure counts: {:?}",
            bench.seen
        );
    }
    let words = "Pod was terminated in response to imminent node shutdown.";
    let ended = |code: i32, at: &str| json!({"exitCode": code, "finishedAt": at});
    let told = json!({"state": {"terminated": ended(143, "2024-12-31T00:00:05Z")}});
    let through = json!({"state": {"waiting": {"reason": "ContainerCreating"}},
        "last": {"terminated": ended(0, "2024-12-31T00:00:05Z")}});
    let crashed = json!({"state": {"terminated": ended(1, "2024-12-30T23:59:00Z")}});
    check("OnFailure", words, &told, "launch 0.2 launch 1.2");
    check("OnFailure", words, &through, "launch 0.2 launch 1.2");
    check("OnFailure", words, &crashed, "launch 0.2 launch 1.3");
    check("OnFailure", "The node was low on resource: memory.", &told, "launch 0.3 launch 1.3");
    check("Always", words, &told, "launch 0.3 launch 1.3");
}
