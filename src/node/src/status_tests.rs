//! Tables of phase and conditions.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};

use super::*;
use crate::{admission::Denial, resize::Behind};

struct Case {
    spec: Value,
    statuses: Vec<(Role, Value)>,
    over: bool,
    stop: Option<Stop>,
    resize: Option<Resize>,
}

fn running(ready: bool) -> (Role, Value) {
    (Role::Main, json!({"state": {"running": {}}, "ready": ready, "started": true}))
}

fn ended(role: Role, code: i32) -> (Role, Value) {
    (role, json!({"state": {"terminated": {"exitCode": code}}, "ready": role == Role::Init && code == 0}))
}

fn waiting(role: Role) -> (Role, Value) {
    (role, json!({"state": {"waiting": {}}}))
}

fn crash_loop() -> (Role, Value) {
    (Role::Main, json!({"state": {"waiting": {}}, "last": {"terminated": {"exitCode": 1}}}))
}

fn case(policy: &str, statuses: Vec<(Role, Value)>) -> Case {
    let names = ["a", "b", "c"];
    let containers = |init: bool| -> Vec<Value> {
        let of_kind = statuses.iter().enumerate().filter(|(_, (role, _))| (*role != Role::Main) == init);
        let policy = |role: Role| (role == Role::Sidecar).then_some("Always");
        of_kind
            .map(|(index, (role, _))| json!({"name": names[index], "restartPolicy": policy(*role)}))
            .collect()
    };
    let spec = json!({
        "restartPolicy": policy, "initContainers": containers(true), "containers": containers(false),
    });
    Case { spec, statuses, over: false, stop: None, resize: None }
}

impl Case {
    fn over(self) -> Case {
        Case { over: true, ..self }
    }

    fn status(&self) -> PodStatus {
        let pod: Pod = serde_json::from_value(json!({"spec": self.spec})).unwrap();
        let views = self.statuses.iter().map(|(_, value)| UnitView {
            state: serde_json::from_value(value["state"].clone()).unwrap(),
            last_state: serde_json::from_value(value["last"].clone()).unwrap(),
            restart_count: 0,
            ready: value["ready"] == true,
            started: value["started"] == true,
            container_id: value["started"].as_bool().map(|_| "coracle://x".into()),
            image_id: None,
            image: value["ran"].as_str().map(Into::into),
        });
        let policy = match self.spec["restartPolicy"].as_str().unwrap() {
            "Never" => RestartPolicy::Never,
            "OnFailure" => RestartPolicy::OnFailure,
            _ => RestartPolicy::Always,
        };
        let now = "2025-01-01T00:00:00Z".parse().unwrap();
        let facts = Facts {
            pod: &pod,
            policy,
            views: views.collect(),
            stop: self.stop.as_ref(),
            resize: self.resize.as_ref(),
            over: self.over,
            set_up: true,
            pod_ip: Some("10.128.0.2".parse().unwrap()),
            pod_ip6: None,
            host_ip: "10.0.0.1".parse().unwrap(),
            start: now,
            now,
        };
        pod_status(&facts, &mut Transitions::default())
    }

    #[track_caller]
    fn phase(self, expected: &str) {
        assert_eq!(self.status().phase.as_deref(), Some(expected));
    }

    /// `Type=Status Reason Message` of the conditions that are not simply true.
    #[track_caller]
    fn conditions(self, expected: &[&str]) {
        let seen: Vec<String> = self
            .status()
            .conditions
            .unwrap()
            .into_iter()
            .filter(|condition| condition.status != "True" || condition.reason.is_some())
            .map(|condition| {
                let text = |field: Option<String>| field.map(|text| format!(" {text}")).unwrap_or_default();
                format!(
                    "{}={}{}{}",
                    condition.type_,
                    condition.status,
                    text(condition.reason),
                    text(condition.message)
                )
            })
            .collect();
        assert_eq!(seen, expected);
    }
}

#[test]
fn phases_of_main_containers() {
    let main = Role::Main;
    case("Always", vec![waiting(main)]).phase("Pending");
    case("Always", vec![running(false), waiting(main)]).phase("Pending");
    case("Always", vec![running(false), ended(main, 1)]).phase("Running");
    case("Always", vec![crash_loop()]).phase("Running");
    case("Always", vec![running(true), crash_loop()]).phase("Running");
    case("Always", vec![ended(main, 0)]).phase("Running");
    case("Always", vec![ended(main, 0)]).over().phase("Succeeded");
    case("Always", vec![ended(main, 137)]).over().phase("Failed");
    case("OnFailure", vec![ended(main, 1)]).phase("Running");
    case("OnFailure", vec![ended(main, 0)]).phase("Succeeded");
    case("Never", vec![ended(main, 0), ended(main, 0)]).phase("Succeeded");
    case("Never", vec![ended(main, 0), ended(main, 2)]).phase("Failed");
    case("Never", vec![ended(main, 0), running(true)]).phase("Running");
    case("Never", vec![ended(main, 1), crash_loop()]).phase("Running");
    case("Never", vec![crash_loop()]).over().phase("Failed");
    Case {
        stop: Some(Stop::Failed { reason: "DeadlineExceeded", message: "".into(), disruption: false }),
        ..case("Always", vec![ended(main, 143)])
    }
    .phase("Failed");
    Case {
        stop: Some(Stop::Failed { reason: "DeadlineExceeded", message: "".into(), disruption: false }),
        ..case("Always", vec![running(true)])
    }
    .phase("Running");
}

#[test]
fn phases_of_init_containers() {
    let (init, side, main) = (Role::Init, Role::Sidecar, Role::Main);
    case("Always", vec![waiting(init), waiting(main)]).phase("Pending");
    case("Always", vec![ended(init, 1), waiting(main)]).phase("Pending");
    case("Never", vec![ended(init, 1), waiting(main)]).phase("Failed");
    case("Always", vec![ended(init, 0), running(true)]).phase("Running");
    case("Always", vec![waiting(side), waiting(main)]).phase("Pending");
    let sidecar = || (side, running(true).1);
    case("OnFailure", vec![sidecar(), ended(main, 0)]).phase("Running");
    case("Never", vec![sidecar(), ended(init, 1), waiting(main)]).phase("Pending");
    case("OnFailure", vec![ended(side, 137), ended(main, 0)]).over().phase("Succeeded");
}

#[test]
fn what_never_began_in_a_pod_that_is_over_has_failed() {
    /// The phase, and of each container the code it ended with, or why it waits.
    #[track_caller]
    fn check(case: Case, phase: &str, containers: &[&str]) {
        let status = case.over().status();
        let all = [status.init_container_statuses, status.container_statuses];
        let seen: Vec<String> = all
            .into_iter()
            .flatten()
            .flatten()
            .map(|container| match container.state.unwrap().terminated {
                Some(end) => format!("{} {}", end.exit_code, end.reason.unwrap_or_default()),
                None => "waits".into(),
            })
            .collect();
        let seen: Vec<&str> = seen.iter().map(|text| text.trim()).collect();
        assert_eq!((status.phase.as_deref(), &seen[..]), (Some(phase), containers));
    }
    let (init, side, main) = (Role::Init, Role::Sidecar, Role::Main);
    let unknown = "137 ContainerStatusUnknown";
    for policy in ["Always", "Never"] {
        check(case(policy, vec![waiting(main)]), "Failed", &[unknown]);
        check(case(policy, vec![ended(main, 0), waiting(main)]), "Failed", &["0", unknown]);
        check(case(policy, vec![waiting(init), waiting(main)]), "Failed", &[unknown, "waits"]);
        check(case(policy, vec![ended(init, 0), waiting(main)]), "Failed", &["0", unknown]);
        let amid = vec![ended(init, 143), waiting(side), waiting(main)];
        check(case(policy, amid), "Failed", &["143", "waits", "waits"]);
    }
    let status = case("Always", vec![waiting(main)]).over().status().container_statuses.unwrap().remove(0);
    let end = status.state.unwrap().terminated.unwrap();
    let words = "The container could not be located when the pod was terminated";
    assert_eq!(end.message.as_deref(), Some(words));
}

#[test]
fn conditions_name_what_is_missing() {
    let (init, main) = (Role::Init, Role::Main);
    case("Always", vec![running(true)]).conditions(&[]);
    case("Always", vec![running(true), running(false)]).conditions(&[
        "Ready=False ContainersNotReady containers with unready status: [b]",
        "ContainersReady=False ContainersNotReady containers with unready status: [b]",
    ]);
    case("Always", vec![waiting(init), waiting(main)]).conditions(&[
        "Initialized=False ContainersNotInitialized containers with incomplete status: [a]",
        "Ready=False ContainersNotReady containers with unready status: [b]",
        "ContainersReady=False ContainersNotReady containers with unready status: [b]",
    ]);
    case("Never", vec![ended(main, 0)]).conditions(&[
        "Initialized=True PodCompleted",
        "Ready=False PodCompleted",
        "ContainersReady=False PodCompleted",
    ]);
    case("Never", vec![ended(main, 1)])
        .conditions(&["Ready=False PodFailed", "ContainersReady=False PodFailed"]);
}

#[test]
fn what_the_node_ends_for_its_own_sake_is_a_disruption() {
    let evicted = |disruption| Case {
        stop: Some(Stop::Failed { reason: "Evicted", message: "low on memory".into(), disruption }),
        ..case("Always", vec![ended(Role::Main, 137)])
    };
    let failed = ["Ready=False PodFailed", "ContainersReady=False PodFailed"];
    let disrupted = "DisruptionTarget=True TerminationByKubelet low on memory";
    evicted(true).conditions(&[failed[0], failed[1], disrupted]);
    evicted(false).conditions(&failed);
}

#[test]
fn readiness_gates_hold_the_pod_back() {
    let mut gated = case("Always", vec![running(true)]);
    gated.spec["readinessGates"] = json!([{"conditionType": "x/y"}]);
    gated.conditions(&[
        "Ready=False ReadinessGatesNotReady corresponding condition of pod readiness gate \"x/y\" does not exist.",
    ]);
}

#[test]
fn transition_times_move_only_with_the_value() {
    let mut transitions = Transitions::default();
    let [early, late]: [Timestamp; 2] =
        ["2025-01-01T00:00:00Z", "2025-01-02T00:00:00Z"].map(|t| t.parse().unwrap());
    assert_eq!(transitions.at(2, false, early), early);
    assert_eq!(transitions.at(2, false, late), early);
    assert_eq!(transitions.at(2, true, late), late);
}

#[test]
fn a_memory_limit_that_cannot_change_is_named() {
    let mut case = case("Always", vec![running(true)]);
    let resources = json!({"limits": {"memory": "2Mi", "cpu": "1"}, "requests": {"memory": "1Mi"}});
    case.spec["containers"][0]["resources"] = resources;
    let behind =
        |memory: &str, restarts| Behind { index: 0, memory: Some(Quantity(memory.into())), restarts };
    case.resize = Some(Resize { denied: None, behind: vec![behind("1048576", false)] });
    let status = case.status();
    let limits = status.container_statuses.as_ref().unwrap()[0].resources.clone().unwrap().limits.unwrap();
    assert_eq!((limits["memory"].0.as_str(), limits["cpu"].0.as_str()), ("1048576", "1"));
    let condition = status.conditions.as_ref().unwrap().last().unwrap();
    assert_eq!(
        (condition.type_.as_str(), condition.reason.as_deref()),
        ("PodResizePending", Some("Infeasible"))
    );

    case.resize = Some(Resize { denied: None, behind: vec![behind("1Mi", true)] });
    let restarting = case.status();
    let resources = restarting.container_statuses.as_ref().unwrap()[0].resources.clone().unwrap();
    assert_eq!(resources.limits.unwrap()["memory"].0, "1Mi", "in the words of its spec");
    let condition = restarting.conditions.as_ref().unwrap().last().unwrap();
    assert_eq!((condition.type_.as_str(), condition.reason.as_deref()), ("PodResizeInProgress", None));

    case.resize = None;
    let pod = Pod { status: Some(status), ..Pod::default() };
    let patch = status_patch(&pod, "u", &case.status());
    let last = patch["status"]["conditions"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last, json!({"type": "PodResizePending", "$patch": "delete"}));
}

#[test]
fn a_resize_that_the_node_denies_is_named() {
    let mut case = case("Always", vec![running(true)]);
    let denial = Denial { reason: "Deferred", message: "later".into() };
    let (wanted, freed) = (Pod::default().into(), tokio::sync::watch::channel(()).1);
    case.resize = Some(Resize { denied: Some(Denied { wanted, denial, freed }), behind: Vec::new() });
    case.conditions(&["PodResizePending=True Deferred later"]);
}

#[test]
fn a_shutdown_of_the_node_fails_what_never_restarts() {
    let main = Role::Main;
    let shut_down =
        |policy: &str, statuses| Case { stop: Some(Stop::Shutdown), over: true, ..case(policy, statuses) };
    for code in [0, 143] {
        let status = shut_down("Never", vec![ended(main, code)]).status();
        assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("Terminated")));
        let words = "Pod was terminated in response to imminent node shutdown.";
        assert_eq!(status.message.as_deref(), Some(words));
        shut_down("Never", vec![ended(main, code)]).conditions(&[
            "Ready=False PodFailed",
            "ContainersReady=False PodFailed",
            &format!("DisruptionTarget=True TerminationByKubelet {words}"),
        ]);
    }
    shut_down("Never", vec![ended(main, 143), waiting(main)]).phase("Pending");
    let interrupted = (main, json!({"state": {"waiting": {}}, "last": {"terminated": {"exitCode": 0}}}));
    shut_down("OnFailure", vec![interrupted]).phase("Running");
    let status = shut_down("OnFailure", vec![ended(main, 143)]).status();
    assert_eq!((status.phase.as_deref(), status.reason.clone()), (Some("Running"), None));

    // It says what it was ended for until it runs again; what others say of it stays.
    let is_disrupted = |one: &PodCondition| one.type_ == "DisruptionTarget";
    assert!(status.conditions.iter().flatten().any(is_disrupted));
    let again = case("OnFailure", vec![running(true)]).status();
    let over = |of: &PodStatus, status: &PodStatus| {
        let pod = Pod { status: Some(of.clone()), ..Pod::default() };
        conditions_over(&pod, status).collect::<Vec<_>>()
    };
    assert_eq!(over(&status, &again), ["DisruptionTarget"]);
    assert_eq!(over(&status, &case("Never", vec![ended(main, 1)]).over().status()), [""; 0]);
    let mut by_others = status;
    let mut conditions = by_others.conditions.iter_mut().flatten();
    conditions.find(|one| is_disrupted(one)).unwrap().reason = Some("PreemptionByScheduler".into());
    assert_eq!(over(&by_others, &again), [""; 0]);
    let status = Case { stop: Some(Stop::Shutdown), ..case("Always", vec![ended(main, 143)]) }.status();
    assert!(!status.conditions.iter().flatten().any(is_disrupted));
}

#[test]
fn of_a_refused_pod_nothing_is_said_but_why() {
    let stop = Stop::Refused { reason: "OutOfcpu".into(), message: "too much".into() };
    let status = Case { stop: Some(stop), over: true, ..case("Always", vec![waiting(Role::Main)]) }.status();
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("OutOfcpu")));
    assert!(status.container_statuses.is_none() && status.conditions.is_none(), "{status:?}");
}

#[test]
fn a_container_shows_what_ran_and_what_is_mounted() {
    let mut case = case("Always", vec![running(true)]);
    case.statuses[0].1["ran"] = "old:1".into();
    case.spec["containers"][0]["image"] = "new:1".into();
    case.spec["containers"][0]["volumeMounts"] = json!([
        {"name": "a", "mountPath": "/a"},
        {"name": "b", "mountPath": "/b", "readOnly": true},
        {"name": "c", "mountPath": "/c", "readOnly": true, "recursiveReadOnly": "IfPossible"},
    ]);
    let status = case.status().container_statuses.unwrap().remove(0);
    assert_eq!(status.image, "old:1");
    assert_eq!(serde_json::to_value(&status.resources).unwrap(), json!({}));
    assert_eq!(
        serde_json::to_value(status.volume_mounts).unwrap(),
        json!([
            {"name": "a", "mountPath": "/a"},
            {"name": "b", "mountPath": "/b", "readOnly": true, "recursiveReadOnly": "Disabled"},
            {"name": "c", "mountPath": "/c", "readOnly": true, "recursiveReadOnly": "Enabled"},
        ])
    );
}

#[test]
fn patches_leave_nothing_of_before() {
    let patch = status_patch(&Pod::default(), "u", &case("Always", vec![running(true)]).status());
    assert_eq!(patch["metadata"]["uid"], "u");
    assert_eq!(patch["status"]["conditions"][2]["type"], "Ready");
    assert!(patch["status"]["conditions"][2].as_object().unwrap()["reason"].is_null());
    assert_eq!(patch["status"]["podIPs"], json!([{"ip": "10.128.0.2"}, {"$patch": "replace"}]));
}

#[test]
fn the_last_words_of_all_containers_share_a_limit() {
    #[track_caller]
    fn check(count: usize, length: usize, expected: usize) {
        let words = "\u{1}".repeat(length);
        let end = json!({"terminated": {"exitCode": 1, "message": words}});
        let mut case = case("Always", vec![]);
        case.statuses = vec![(Role::Main, json!({"state": end, "last": end})); count];
        case.spec["containers"] =
            (0..count).map(|index| json!({"name": format!("c{index}"), "restartPolicy": null})).collect();
        let status = case.status();
        let statuses = status.container_statuses.as_deref().unwrap();
        assert_eq!(statuses.len(), count);
        for status in statuses {
            for state in [&status.state, &status.last_state] {
                let words = state.as_ref().unwrap().terminated.as_ref().unwrap().message.as_ref().unwrap();
                assert_eq!(words.len(), expected);
            }
        }
    }
    check(1, 4096, 4096);
    check(3, 4096, 4096);
    check(4, 4096, 3072);
    check(100, 4096, 122);
    check(100, 50, 50);
}
