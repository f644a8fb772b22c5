//! Tables of the machine: inputs in, effects and views out. Here what concerns any run; the rest by subject.

mod ending;
mod images;
mod order;
mod recall;

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
