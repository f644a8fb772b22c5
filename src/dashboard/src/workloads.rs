//! Workloads as rows of one table: what there should be, how far it is, and what that state is called.
//!
//! Kinds differ, the cells are the same: namespace, kind, name, how many of how many are ready, the state, details,
//! images, when it was made, and to whom it belongs (which the page shows by the order of its rows). States are
//! Kubernetes' own words: a condition's type or reason, a phase, or what `kubectl` prints.

use std::sync::LazyLock;

use jiff::Timestamp;
use k8s_openapi::{Metadata, Resource, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde::Serialize;
use serde_json::{Value, json};

use crate::rows::{Row, Table, created, namespace};

/// Images of a row; a template has rarely more than two or three.
const MAX_IMAGES: usize = 8;
/// Characters of what somebody else has written into a row: a line or two. The whole text is an event, too.
const MAX_TEXT: usize = 200;

static JOBS: LazyLock<Table> = LazyLock::new(|| Table::new("batch", "jobs", &["Status", "Duration"]));
static AUTOSCALERS: LazyLock<Table> =
    LazyLock::new(|| Table::of("autoscaling", "v2", "horizontalpodautoscalers", &["Targets"]));
static CLAIMS: LazyLock<Table> = LazyLock::new(|| {
    Table::new("", "persistentvolumeclaims", &["Status", "Capacity", "Access Modes", "StorageClass"])
});

/// What a kind's rows have of their own.
struct State {
    /// How many of how many are ready; the latter need not be said.
    ready: Option<(i64, Option<i64>)>,
    word: String,
    /// Texts, and `{said, at}` for what was some time ago.
    details: Vec<Value>,
}

/// The row of a workload; none for a ReplicaSet that is only kept for a rollback.
pub(crate) fn row<K>(object: &K, now: Timestamp) -> Option<Row>
where
    K: Serialize + Metadata<Ty = ObjectMeta> + Resource,
{
    // An object that came as JSON goes back.
    let value = serde_json::to_value(object).ok()?;
    let State { ready, word, details } = state(K::KIND, &value, now)?;
    let meta = object.metadata();
    Some(vec![
        namespace(meta),
        K::KIND.into(),
        meta.name.clone().into(),
        ready.map(|(ready, all)| json!([ready, all])).unwrap_or_default(),
        word.into(),
        details.into(),
        images(&value).into(),
        created(meta),
        owner(K::KIND, &value).into(),
    ])
}

fn state(kind: &str, object: &Value, now: Timestamp) -> Option<State> {
    match kind {
        "Job" => Some(job(object, now)),
        "CronJob" => Some(cron_job(object)),
        "HorizontalPodAutoscaler" => Some(autoscaler(object, now)),
        "PersistentVolumeClaim" => Some(claim(object, now)),
        _ => replicas(kind, object),
    }
}

/// How far a kind is that keeps a number of pods.
struct Progress {
    desired: i64,
    current: i64,
    /// Pods of the newest template, where a kind changes templates step by step.
    updated: Option<i64>,
    ready: i64,
    available: i64,
    /// Pods that should be of the newest template.
    to_update: i64,
}

impl Progress {
    fn of(kind: &str, object: &Value) -> Progress {
        let (spec, status) = (&object["spec"], &object["status"]);
        if kind == "DaemonSet" {
            let desired = int(&status["desiredNumberScheduled"]);
            return Progress {
                desired,
                current: int(&status["currentNumberScheduled"]),
                updated: Some(int(&status["updatedNumberScheduled"])),
                ready: int(&status["numberReady"]),
                available: int(&status["numberAvailable"]),
                to_update: if updates_by_itself(spec) { desired } else { 0 },
            };
        }
        let desired = spec["replicas"].as_i64().unwrap_or(1);
        let partition = int(&spec["updateStrategy"]["rollingUpdate"]["partition"]);
        let updates = matches!(kind, "Deployment" | "StatefulSet");
        Progress {
            desired,
            current: int(&status["replicas"]),
            updated: updates.then(|| int(&status["updatedReplicas"])),
            ready: int(&status["readyReplicas"]),
            available: int(&status["availableReplicas"]),
            to_update: if updates && updates_by_itself(spec) { (desired - partition).max(0) } else { 0 },
        }
    }

    /// Pods of an older template, where the number of all counts them, too.
    fn old(&self, kind: &str) -> i64 {
        if kind == "Deployment" { self.updated.map_or(0, |updated| self.current - updated) } else { 0 }
    }
}

/// False where the pods of an older template stay until somebody deletes them.
fn updates_by_itself(spec: &Value) -> bool {
    spec["updateStrategy"]["type"] != "OnDelete"
}

fn replicas(kind: &str, object: &Value) -> Option<State> {
    let progress = Progress::of(kind, object);
    let kept_for_a_rollback = kind == "ReplicaSet" && progress.desired == 0 && progress.current == 0;
    if kept_for_a_rollback && owner(kind, object).is_some() {
        return None;
    }
    let mut details = Vec::new();
    if let Some(updated) = progress.updated.filter(|updated| *updated != progress.desired) {
        details.push(format!("{updated} of {} up to date", progress.desired).into());
    }
    for (count, what) in
        [(progress.old(kind), "old"), (int(&object["status"]["numberMisscheduled"]), "misscheduled")]
    {
        details.extend((count > 0).then(|| format!("{count} {what}").into()));
    }
    let (word, message) = rollout(kind, object, &progress);
    details.extend(message);
    Some(State { ready: Some((progress.ready, Some(progress.desired))), word, details })
}

/// What the state of a rollout is called, and what its condition says about it.
fn rollout(kind: &str, object: &Value, progress: &Progress) -> (String, Option<Value>) {
    let failing = [("Progressing", "False"), ("ReplicaFailure", "True")];
    let failing = failing.iter().find_map(|(name, bad)| condition(object, name, bad));
    let observed =
        object["status"]["observedGeneration"].as_i64() >= object["metadata"]["generation"].as_i64();
    let done = observed
        && progress.updated.is_none_or(|updated| updated >= progress.to_update)
        && progress.old(kind) <= 0;
    let word = if is_going(object) {
        "Terminating"
    } else if let Some(condition) = failing {
        return (reason(condition), message(condition));
    } else if object["spec"]["paused"] == true {
        "Paused"
    } else if !done {
        "Progressing"
    } else if progress.available < progress.desired {
        let was_complete = condition(object, "Progressing", "True")
            .is_some_and(|condition| condition["reason"] == "NewReplicaSetAvailable");
        match condition(object, "Available", "False").filter(|_| was_complete) {
            Some(condition) => return (reason(condition), None),
            None => "Progressing",
        }
    } else if progress.current != progress.desired {
        "Scaling"
    } else {
        "Available"
    };
    (word.to_owned(), None)
}

fn job(object: &Value, now: Timestamp) -> State {
    let (spec, status) = (&object["spec"], &object["status"]);
    let mut cells = JOBS.cells(object, now).into_iter().map(text);
    let [word, duration] = std::array::from_fn(|_| cells.next().unwrap_or_default());
    let mut details = Vec::new();
    let ended = matches!(&*word, "Complete" | "Failed");
    if ended && !duration.is_empty() {
        details.push(format!("took {duration}").into());
    } else if !ended {
        details.extend(ago("started", &status["startTime"]));
    }
    for what in ["active", "failed"] {
        let pods = int(&status[what]);
        details.extend((pods > 0).then(|| format!("{pods} {what}").into()));
    }
    if let Some(condition) = condition(object, "Failed", "True") {
        details.push(reason(condition).into());
        details.extend(message(condition));
    }
    State { ready: Some((int(&status["succeeded"]), spec["completions"].as_i64())), word, details }
}

fn cron_job(object: &Value) -> State {
    let (spec, status) = (&object["spec"], &object["status"]);
    let active = status["active"].as_array().map_or(0, Vec::len);
    let word = if is_going(object) {
        "Terminating"
    } else if spec["suspend"] == true {
        "Suspended"
    } else if active > 0 {
        "Running"
    } else {
        "Scheduled"
    };
    let mut details: Vec<Value> = [&spec["schedule"], &spec["timeZone"]]
        .into_iter()
        .filter_map(|said| Some(clip(said.as_str()?)))
        .collect();
    details.extend((active > 0).then(|| format!("{active} active").into()));
    details.extend(ago("last run", &status["lastScheduleTime"]));
    State { ready: None, word: word.to_owned(), details }
}

fn autoscaler(object: &Value, now: Timestamp) -> State {
    let (spec, status) = (&object["spec"], &object["status"]);
    let failing = ["AbleToScale", "ScalingActive"];
    let failing = failing.iter().find_map(|name| condition(object, name, "False"));
    let known = status["conditions"].as_array().is_some_and(|list| !list.is_empty());
    let least = spec["minReplicas"].as_i64().unwrap_or(1);
    let (current, desired) = (int(&status["currentReplicas"]), int(&status["desiredReplicas"]));
    let mut details: Vec<Value> =
        AUTOSCALERS.cells(object, now).into_iter().map(text).map(|text| clip(&text)).collect();
    details.push(format!("{current} of {least} to {} pods", int(&spec["maxReplicas"])).into());
    details.extend((current != desired && desired > 0).then(|| format!("{desired} wanted").into()));
    details.extend(failing.and_then(message));
    let word = match failing {
        _ if is_going(object) => "Terminating".to_owned(),
        Some(condition) => reason(condition),
        None if known => "Active".to_owned(),
        None => "Pending".to_owned(),
    };
    State { ready: None, word, details }
}

fn claim(object: &Value, now: Timestamp) -> State {
    let mut cells = CLAIMS.cells(object, now).into_iter().map(text);
    let word = cells.next().unwrap_or_default();
    let said = cells.filter(|text| !text.is_empty() && !text.starts_with('<'));
    State { ready: None, word, details: said.map(|text| clip(&text)).collect() }
}

/// `Kind/name` of the workload that this one belongs to.
fn owner(kind: &str, object: &Value) -> Option<String> {
    let named =
        |reference: &Value| Some(format!("{}/{}", reference["kind"].as_str()?, reference["name"].as_str()?));
    if kind == "HorizontalPodAutoscaler" {
        return named(&object["spec"]["scaleTargetRef"]);
    }
    let owners = object["metadata"]["ownerReferences"].as_array()?;
    owners.iter().find(|owner| owner["controller"] == true).and_then(named)
}

fn images(object: &Value) -> Vec<Value> {
    let template = match &object["spec"]["jobTemplate"] {
        Value::Null => &object["spec"]["template"],
        job => &job["spec"]["template"],
    };
    let containers = template["spec"]["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let named = containers.iter().take(MAX_IMAGES).filter_map(|container| container["image"].as_str());
    let mut images: Vec<Value> = named.map(clip).collect();
    let more = containers.len().saturating_sub(MAX_IMAGES);
    images.extend((more > 0).then(|| format!("{more} more").into()));
    images
}

fn condition<'a>(object: &'a Value, name: &str, status: &str) -> Option<&'a Value> {
    let list = object["status"]["conditions"].as_array()?;
    list.iter().find(|condition| condition["type"] == *name && condition["status"] == *status)
}

/// A condition's reason, or its type if it gives none.
fn reason(condition: &Value) -> String {
    let said = [&condition["reason"], &condition["type"]].into_iter().filter_map(Value::as_str);
    said.filter(|text| !text.is_empty()).map(short).next().unwrap_or_default()
}

fn message(condition: &Value) -> Option<Value> {
    condition["message"].as_str().filter(|text| !text.is_empty()).map(clip)
}

fn ago(said: &str, time: &Value) -> Option<Value> {
    let at: Timestamp = time.as_str()?.parse().ok()?;
    Some(json!({ "said": said, "at": at.as_second() }))
}

fn is_going(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

fn int(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

fn text(cell: Value) -> String {
    match cell {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

fn clip(text: &str) -> Value {
    short(text).into()
}

fn short(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
#[path = "workloads_tests.rs"]
mod tests;
