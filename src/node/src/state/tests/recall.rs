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
