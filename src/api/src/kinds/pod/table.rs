//! How `kubectl get pods` shows a pod.

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    Cell, Column,
    kinds::{common::*, pod_spec::is_sidecar},
};

pub(super) static COLUMNS: [Column; 9] = [
    Column::object_name(),
    column("Ready", "How many of the containers are ready."),
    column("Status", "What the pod is doing, or what stops it."),
    column("Restarts", "How often containers were restarted, and when last."),
    AGE,
    wide("IP", "Address of the pod."),
    wide("Node", "Node that runs the pod."),
    wide("Nominated Node", "Node that is being freed for the pod."),
    wide("Readiness Gates", "How many of the extra conditions of readiness hold."),
];

pub(super) fn row(object: &Value, now: Timestamp) -> Vec<Cell> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let summary = Summary::of(object);
    let restarts = match summary.last_restart {
        Some(_) => format!("{} ({} ago)", summary.restarts, since(summary.last_restart_field, now)),
        None => summary.restarts.to_string(),
    };
    vec![
        name(object),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        age(object, now),
        or(pod_ip(status), "<none>").into(),
        or(text(&spec["nodeName"]), "<none>").into(),
        or(text(&status["nominatedNodeName"]), "<none>").into(),
        gates(object).into(),
    ]
}

/// The pod's address: the first of `podIPs`, or `podIP` where only that is set.
pub(super) fn pod_ip(status: &Value) -> &str {
    or(text(&status["podIPs"][0]["ip"]), text(&status["podIP"]))
}

fn gates(object: &Value) -> String {
    let gates = items(&object["spec"]["readinessGates"]);
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let hold = gates
        .iter()
        .filter(|gate| condition(&object["status"], text(&gate["conditionType"])) == Some("True"))
        .count();
    format!("{hold}/{}", gates.len())
}

/// The status of the first condition of this type.
fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a str> {
    let condition = items(&status["conditions"]).iter().find(|condition| text(&condition["type"]) == kind)?;
    Some(text(&condition["status"]))
}

/// What the containers' states amount to.
struct Summary<'a> {
    total: usize,
    ready: usize,
    reason: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
    last_restart_field: &'a Value,
}

impl<'a> Summary<'a> {
    fn of(object: &'a Value) -> Summary<'a> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let sidecars =
            items(&spec["initContainers"]).iter().filter(|container| is_sidecar(container)).count();
        let mut summary = Summary {
            total: items(&spec["containers"]).len() + sidecars,
            ready: 0,
            reason: or(text(&status["reason"]), text(&status["phase"])).to_owned(),
            restarts: 0,
            last_restart: None,
            last_restart_field: &Value::Null,
        };
        let gated = items(&status["conditions"]).iter().any(|condition| {
            text(&condition["type"]) == "PodScheduled" && text(&condition["reason"]) == "SchedulingGated"
        });
        if gated {
            summary.reason = "SchedulingGated".to_owned();
        }
        let initializing = summary.add_init_containers(spec, status);
        if !initializing || condition(status, "Initialized") == Some("True") {
            summary.add_containers(spec, status);
        }
        if is_set(&object["metadata"]["deletionTimestamp"]) {
            if text(&status["reason"]) == "NodeLost" {
                summary.reason = "Unknown".to_owned();
            } else if !matches!(text(&status["phase"]), "Succeeded" | "Failed") {
                summary.reason = "Terminating".to_owned();
            }
        }
        summary
    }

    /// Goes through the init containers up to the first that is not through; true if there is one.
    fn add_init_containers(&mut self, spec: &Value, status: &'a Value) -> bool {
        let declared = items(&spec["initContainers"]);
        for (index, container) in items(&status["initContainerStatuses"]).iter().enumerate() {
            self.count_restarts(container);
            let sidecar =
                declared.iter().any(|other| other["name"] == container["name"] && is_sidecar(other));
            let state = &container["state"];
            let (terminated, waiting) = (&state["terminated"], text(&state["waiting"]["reason"]));
            if is_set(terminated) && int(&terminated["exitCode"]) == 0 {
                continue;
            }
            if sidecar && flag(&container["started"]) {
                self.ready += usize::from(flag(&container["ready"]));
                continue;
            }
            self.reason = if is_set(terminated) {
                format!("Init:{}", terminated_reason(terminated))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{index}/{}", declared.len())
            };
            return true;
        }
        false
    }

    /// From here on only containers that live as long as the pod count: sidecars and regular ones.
    fn add_containers(&mut self, spec: &Value, status: &'a Value) {
        self.restarts = 0;
        self.last_restart = None;
        for container in items(&status["initContainerStatuses"]) {
            let declared = items(&spec["initContainers"]);
            if declared.iter().any(|other| other["name"] == container["name"] && is_sidecar(other)) {
                self.count_restarts(container);
            }
        }
        let mut running = false;
        // Backwards, so that the first container with something to say has the last word.
        for container in items(&status["containerStatuses"]).iter().rev() {
            self.count_restarts(container);
            let state = &container["state"];
            let waiting = text(&state["waiting"]["reason"]);
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if is_set(&state["terminated"]) {
                self.reason = terminated_reason(&state["terminated"]);
            } else if flag(&container["ready"]) && is_set(&state["running"]) {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && running {
            let ready = condition(status, "Ready") == Some("True");
            self.reason = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }

    fn count_restarts(&mut self, container: &'a Value) {
        self.restarts += int(&container["restartCount"]);
        let field = &container["lastState"]["terminated"]["finishedAt"];
        let finished = timestamp(field);
        if finished.is_some() && finished > self.last_restart {
            self.last_restart = finished;
            self.last_restart_field = field;
        }
    }
}

/// `Error`, `Signal:9` or `ExitCode:1`.
fn terminated_reason(terminated: &Value) -> String {
    match (text(&terminated["reason"]), int(&terminated["signal"])) {
        ("", 0) => format!("ExitCode:{}", int(&terminated["exitCode"])),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}
