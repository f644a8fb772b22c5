//! Tables of the machine: inputs in, effects and views out.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::*;

/// A machine with a clock and short words for what goes in and out.
struct Bench {
    machine: Machine,
    now: Now,
    seen: Vec<String>,
}

impl Bench {
    fn new(spec: &Value, status: &Value) -> Bench {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec, "status": status,
        }))
        .unwrap();
        let now = Now { instant: Instant::now(), wall: "2025-01-01T00:00:00Z".parse().unwrap() };
        let deadline = pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds);
        let deadline = deadline.map(|seconds| now.instant + Duration::from_secs(seconds.unsigned_abs()));
        let machine = Machine::new(Plan::of(&pod, deadline), pod.status.as_ref(), now);
        let mut bench = Bench { machine, now, seen: Vec::new() };
        bench.feed(Input::Tick);
        bench
    }

    fn simple(policy: &str) -> Bench {
        Bench::new(&json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]}), &json!({}))
    }

    fn feed(&mut self, input: Input) {
        for effect in self.machine.step(input, self.now) {
            self.seen.push(match effect {
                Effect::SetUp => "setup".into(),
                Effect::Launch { index, run } => format!("launch {index}.{run}"),
                Effect::Abandon { index } => format!("abandon {index}"),
                Effect::Abort => "abort".into(),
                Effect::Probe { .. } => continue,
                Effect::Ending { .. } => continue,
                Effect::Hook { index, hook: Hook::PostStart } => format!("postStart {index}"),
                Effect::Hook { index, hook: Hook::PreStop } => format!("preStop {index}"),
                Effect::Terminate { index } => format!("stop {index}"),
                Effect::Kill { index } => format!("kill {index}"),
                Effect::Note { reason, message, .. } => format!("{reason}: {message}"),
                Effect::TearDown => "teardown".into(),
            });
        }
    }

    fn pass(&mut self, seconds: u64) {
        self.now.instant += Duration::from_secs(seconds);
        self.now.wall += Duration::from_secs(seconds);
    }

    fn up(&mut self, index: usize) {
        self.feed(Input::Launched {
            index,
            container_id: format!("id{index}").into(),
            image_id: "im".into(),
        });
    }

    fn exit(&mut self, index: usize, code: i32) {
        let reason = if code == 0 { "Completed" } else { "Error" };
        self.feed(Input::Exited { index, exit: Exit { code, reason, message: None } });
    }

    fn stop(&mut self, seconds: u64) {
        self.feed(Input::Stop { stop: Stop::Deleted, grace: Duration::from_secs(seconds) });
    }

    fn hooked(&mut self, index: usize, hook: Hook, success: bool) {
        self.feed(Input::Hooked { index, hook, success });
    }

    /// Everything done since the last look.
    #[track_caller]
    fn expect(&mut self, effects: &[&str]) {
        assert_eq!(std::mem::take(&mut self.seen), effects);
    }

    /// One line per container: state, `last` if there is one, restarts, `ready`.
    #[track_caller]
    fn expect_views(&self, views: &[&str]) {
        let seen: Vec<String> = self.machine.views().map(|view| describe(&view)).collect();
        assert_eq!(seen, views);
    }
}

fn describe(view: &UnitView) -> String {
    let state = |state: &ContainerState| match (&state.waiting, &state.running, &state.terminated) {
        (Some(waiting), None, None) => waiting.reason.clone().unwrap_or_default(),
        (None, Some(_), None) => "Running".into(),
        (None, None, Some(end)) => {
            format!("{}({})", end.reason.as_deref().unwrap_or_default(), end.exit_code)
        }
        _ => "broken".into(),
    };
    let last = view.last_state.as_ref().map(|last| format!(" last={}", state(last))).unwrap_or_default();
    let ready = if view.ready { " ready" } else { "" };
    format!("{}{last} x{}{ready}", state(&view.state), view.restart_count)
}

#[test]
fn a_pod_runs_to_its_end() {
    let mut bench = Bench::simple("Never");
    bench.expect(&["setup"]);
    bench.expect_views(&["ContainerCreating x0"]);
    bench.feed(Input::SetUp);
    bench.expect(&["launch 0.0"]);
    bench.up(0);
    bench.expect_views(&["Running x0 ready"]);
    bench.exit(0, 0);
    bench.expect(&["teardown"]);
    bench.expect_views(&["Completed(0) x0"]);
    assert!(bench.machine.over() && bench.machine.next_wake().is_none());
}

#[test]
fn crashes_back_off_as_kubernetes_times_it() {
    let mut bench = Bench::simple("Always");
    bench.feed(Input::SetUp);
    bench.up(0);
    bench.expect(&["setup", "launch 0.0"]);
    bench.exit(0, 1);
    bench.expect(&["launch 0.1"]);
    bench.expect_views(&["Error(1) x0"]);
    bench.up(0);
    bench.expect_views(&["Running last=Error(1) x1 ready"]);
    for (seconds, text, run) in [(10, "10s", 2), (20, "20s", 3), (40, "40s", 4), (80, "1m20s", 5)] {
        bench.exit(0, 1);
        bench.expect(&["BackOff: Back-off restarting failed container c in pod p_n(u)"]);
        let view = bench.machine.views().next().unwrap();
        let message = view.state.waiting.unwrap().message.unwrap();
        assert_eq!(message, format!("back-off {text} restarting failed container=c pod=p_n(u)"));
        bench.pass(seconds - 1);
        bench.feed(Input::Tick);
        bench.expect(&[]);
        bench.pass(1);
        assert_eq!(bench.machine.next_wake(), Some(bench.now.instant));
        bench.feed(Input::Tick);
        bench.expect(&[&format!("launch 0.{run}")]);
        bench.expect_views(&[&format!("CrashLoopBackOff last=Error(1) x{}", run - 1)]);
        bench.up(0);
    }
    bench.pass(601);
    bench.exit(0, 1);
    bench.expect(&["launch 0.6"]);
}

#[test]
fn restart_policies() {
    #[track_caller]
    fn check(policy: &str, code: i32, effect: &str) {
        let mut bench = Bench::simple(policy);
        bench.feed(Input::SetUp);
        bench.up(0);
        bench.seen.clear();
        bench.exit(0, code);
        bench.expect(&[effect]);
    }
    check("Always", 0, "launch 0.1");
    check("Always", 1, "launch 0.1");
    check("OnFailure", 0, "teardown");
    check("OnFailure", 1, "launch 0.1");
    check("Never", 0, "teardown");
    check("Never", 1, "teardown");
}

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
fn failed_pulls_are_relabelled_and_retried() {
    let mut bench = Bench::simple("Always");
    bench.feed(Input::SetUp);
    bench.seen.clear();
    let waiting = Waiting { reason: "ErrImagePull", message: Some("no such image".into()) };
    bench.feed(Input::LaunchFailed { index: 0, waiting: waiting.clone() });
    bench.expect(&["Failed: Error: ErrImagePull"]);
    bench.expect_views(&["ErrImagePull x0"]);
    bench.pass(1);
    bench.feed(Input::Tick);
    bench.expect(&["BackOff: Back-off pulling image \"i\"", "Failed: Error: ImagePullBackOff"]);
    bench.expect_views(&["ImagePullBackOff x0"]);
    bench.pass(9);
    bench.feed(Input::Tick);
    bench.expect(&["launch 0.0"]);
    bench.expect_views(&["ImagePullBackOff x0"]);
    bench.feed(Input::LaunchFailed { index: 0, waiting });
    bench.pass(1);
    bench.feed(Input::Tick);
    bench.seen.clear();
    bench.pass(18);
    bench.feed(Input::Tick);
    bench.expect(&[]);
    bench.pass(1);
    bench.feed(Input::Tick);
    bench.expect(&["launch 0.0"]);
    bench.up(0);
    bench.expect_views(&["Running x0 ready"]);
}

#[test]
fn missing_configuration_is_tried_again_when_it_appears() {
    let mut bench = Bench::simple("Always");
    bench.feed(Input::SetUp);
    bench.seen.clear();
    let waiting =
        Waiting { reason: "CreateContainerConfigError", message: Some("configmap \"m\" not found".into()) };
    bench.feed(Input::LaunchFailed { index: 0, waiting });
    bench.expect(&["Failed: Error: configmap \"m\" not found"]);
    bench.feed(Input::SourcesChanged);
    bench.expect(&["launch 0.0"]);
}

fn new_image(index: usize) -> Input {
    Input::ImageChanged { index, image: "new".into() }
}

#[test]
fn a_new_image_restarts_a_running_container_whatever_the_policy_says() {
    for policy in ["Always", "OnFailure", "Never"] {
        for code in [137, 0] {
            let mut bench = Bench::simple(policy);
            bench.feed(Input::SetUp);
            bench.up(0);
            bench.seen.clear();
            bench.feed(new_image(0));
            bench.expect(&["Killing: Container c definition changed, will be restarted", "stop 0"]);
            bench.expect_views(&["Running x0 ready"]);
            assert_eq!(bench.machine.images().collect::<Vec<_>>(), ["new"]);
            bench.feed(Input::ImageChanged { index: 0, image: "newer".into() });
            bench.expect(&[]);
            bench.exit(0, code);
            bench.expect(&["launch 0.1"]);
            let reason = if code == 0 { "Completed" } else { "Error" };
            bench.expect_views(&[&format!("ContainerCreating last={reason}({code}) x0")]);
            bench.up(0);
            bench.expect_views(&[&format!("Running last={reason}({code}) x1 ready")]);
        }
    }
}

#[test]
fn a_new_image_forgives_crashes() {
    let mut bench = Bench::simple("Always");
    bench.feed(Input::SetUp);
    bench.up(0);
    bench.exit(0, 1);
    bench.up(0);
    bench.exit(0, 1);
    bench.seen.clear();
    bench.expect_views(&["CrashLoopBackOff last=Error(1) x1"]);
    bench.feed(new_image(0));
    bench.expect(&["launch 0.2"]);
    bench.up(0);
    bench.exit(0, 1);
    bench.expect(&["BackOff: Back-off restarting failed container c in pod p_n(u)"]);
    assert_eq!(bench.machine.next_wake(), Some(bench.now.instant + Duration::from_secs(10)));
    bench.feed(new_image(0));
    bench.up(0);
    bench.seen.clear();
    bench.feed(new_image(0));
    bench.exit(0, 137);
    bench.up(0);
    bench.exit(0, 1);
    bench.expect(&[
        "Killing: Container c definition changed, will be restarted",
        "stop 0",
        "launch 0.4",
        "launch 0.5",
    ]);
}

#[test]
fn a_new_image_is_tried_at_once_by_what_waits() {
    #[track_caller]
    fn check(reason: &'static str, seconds: u64, shown: &str) {
        let mut bench = Bench::simple("Never");
        bench.feed(Input::SetUp);
        bench.feed(Input::LaunchFailed { index: 0, waiting: Waiting { reason, message: None } });
        bench.pass(seconds);
        bench.feed(Input::Tick);
        bench.seen.clear();
        bench.feed(new_image(0));
        bench.expect(&["launch 0.0"]);
        bench.expect_views(&[&format!("{shown} x0")]);
        // And what the new one lacks is not held against it longer than a first failure.
        bench.feed(Input::LaunchFailed { index: 0, waiting: Waiting { reason, message: None } });
        bench.pass(1);
        bench.feed(Input::Tick);
        if reason == "ErrImagePull" {
            bench.expect(&[
                "Failed: Error: ErrImagePull",
                "BackOff: Back-off pulling image \"new\"",
                "Failed: Error: ImagePullBackOff",
            ]);
        }
        assert_eq!(bench.machine.next_wake(), Some(bench.now.instant + Duration::from_secs(9)));
    }
    check("ErrImagePull", 0, "ErrImagePull");
    check("ErrImagePull", 1, "ImagePullBackOff");
    check("SignatureValidationFailed", 0, "SignatureValidationFailed");
    check("SignatureValidationFailed", 1, "ImagePullBackOff");
    check("InvalidImageName", 1, "InvalidImageName");
    check("ErrImageNeverPull", 1, "ErrImageNeverPull");
    check("CreateContainerError", 1, "CreateContainerError");
}

#[test]
fn a_new_image_replaces_a_launch_under_way() {
    let mut bench = Bench::simple("Always");
    bench.feed(new_image(0));
    bench.expect(&["setup"]);
    bench.feed(Input::SetUp);
    bench.expect(&["launch 0.0"]);
    bench.feed(new_image(0));
    bench.expect(&["abandon 0", "launch 0.0"]);
    bench.expect_views(&["ContainerCreating x0"]);
}

#[test]
fn a_new_image_starts_nothing_in_a_pod_that_ends() {
    let mut bench = Bench::simple("Always");
    bench.feed(Input::SetUp);
    bench.up(0);
    bench.feed(new_image(0));
    bench.seen.clear();
    bench.stop(30);
    bench.feed(new_image(0));
    bench.expect(&["abort"]);
    bench.exit(0, 137);
    bench.expect(&["teardown"]);
    bench.feed(new_image(0));
    bench.expect(&[]);
}

#[test]
fn new_images_of_init_containers() {
    let spec = json!({
        "restartPolicy": "Never",
        "initContainers": [
            {"name": "side", "image": "i", "restartPolicy": "Always"},
            {"name": "init", "image": "i"},
        ],
        "containers": [{"name": "main", "image": "i"}],
    });
    let mut bench = Bench::new(&spec, &json!({}));
    bench.feed(Input::SetUp);
    bench.up(0);
    bench.up(1);
    bench.seen.clear();
    bench.feed(new_image(1));
    bench.expect(&[]);
    bench.feed(new_image(0));
    bench.expect(&["Killing: Init container side definition changed", "stop 0"]);
    bench.exit(0, 137);
    bench.expect(&["launch 0.1"]);
    bench.exit(1, 0);
    bench.expect(&["launch 2.0"]);
    bench.feed(new_image(1));
    bench.expect(&[]);
    bench.up(2);
    bench.exit(2, 0);
    bench.expect(&["abandon 0", "teardown"]);
}

#[test]
fn setup_is_retried() {
    let mut bench = Bench::simple("Always");
    bench.seen.clear();
    let failed = Input::SetUpFailed { reason: "FailedMount", message: "no".into() };
    bench.feed(failed.clone());
    bench.expect(&[]);
    bench.feed(Input::SourcesChanged);
    bench.expect(&["setup"]);
    bench.feed(failed);
    bench.pass(1);
    bench.feed(Input::Tick);
    bench.expect(&["FailedMount: no", "setup"]);
}

#[test]
fn probes_decide() {
    let probe = json!({"tcpSocket": {"port": 80}});
    let spec = json!({"containers": [
        {"name": "c", "image": "i", "startupProbe": probe, "readinessProbe": probe, "livenessProbe": probe},
    ]});
    let mut bench = Bench::new(&spec, &json!({}));
    bench.feed(Input::SetUp);
    bench.up(0);
    bench.seen.clear();
    let word = |run, probe, healthy| Input::Probed { index: 0, run, probe, healthy };
    bench.expect_views(&["Running x0"]);
    bench.feed(word(0, ProbeKind::Startup, true));
    bench.expect_views(&["Running x0"]);
    bench.feed(word(0, ProbeKind::Readiness, true));
    bench.expect_views(&["Running x0 ready"]);
    bench.feed(word(0, ProbeKind::Readiness, false));
    bench.expect_views(&["Running x0"]);
    bench.feed(word(0, ProbeKind::Liveness, false));
    bench.expect(&["Killing: Container c failed liveness probe, will be restarted", "stop 0"]);
    bench.exit(0, 137);
    bench.expect(&["launch 0.1"]);
    bench.up(0);
    bench.feed(word(0, ProbeKind::Liveness, false));
    bench.expect(&[]);
}

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
fn a_failed_hook_of_a_start_restarts_the_container() {
    #[track_caller]
    fn check(policy: &str, after: &str) {
        let spec = json!({"restartPolicy": policy, "containers": [
            {"name": "c", "image": "i", "lifecycle": {"postStart": {"sleep": {"seconds": 1}}}},
        ]});
        let mut bench = Bench::new(&spec, &json!({}));
        bench.feed(Input::SetUp);
        bench.up(0);
        bench.seen.clear();
        bench.hooked(0, Hook::PostStart, false);
        bench.expect(&[
            "FailedPostStartHook: PostStartHook failed",
            "Killing: FailedPostStartHook",
            "stop 0",
        ]);
        bench.exit(0, 143);
        bench.expect(&[after]);
    }
    check("Always", "launch 0.1");
    check("Never", "teardown");
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
fn a_run_that_only_its_log_tells_of_counts() {
    let mut bench = Bench::simple("Always");
    bench.machine.recall_run(0, 4);
    bench.feed(Input::SetUp);
    bench.expect(&["setup", "launch 0.5"]);
    bench.up(0);
    bench.expect_views(&["Running x5 ready"]);
}

#[test]
fn other_resources_may_need_a_restart() {
    let mut bench = Bench::simple("Never");
    bench.feed(Input::SetUp);
    bench.up(0);
    bench.seen.clear();
    bench.feed(Input::Resized { index: 0 });
    bench.expect(&["Killing: Container c resize requires restart", "stop 0"]);
    bench.exit(0, 143);
    bench.expect(&["launch 0.1"]);
}
