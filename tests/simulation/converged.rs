//! What a cluster still has to do.

use coracle_client::Key;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    api::{DynamicObject, ListParams},
};
use serde_json::Value;

use crate::{
    cluster::Cluster,
    garbage,
    objects::{self, MOST, NAMESPACE, TARGET},
    scenario::api,
};

/// What is not yet as the objects ask for, in words; empty when all is well.
pub(crate) async fn open(cluster: &Cluster) -> Vec<String> {
    let mut open = garbage::open(&cluster.user).await;
    let list = async |kind: &str| api(&cluster.user, kind).list(&ListParams::default()).await.unwrap().items;
    let pods = list("Pod").await;
    for (kind, check) in CHECKS {
        for object in list(kind).await {
            if let Some(what) = check(&object.data, &object) {
                open.push(format!(
                    "{kind} {}: {what}; {}",
                    objects::name(&object.metadata),
                    object.data["status"]
                ));
            }
        }
    }
    for (kind, label) in [("Deployment", "web"), ("ReplicaSet", "guarded"), ("StatefulSet", "db")] {
        for object in list(kind).await {
            if objects::name(&object.metadata) != label {
                continue;
            }
            let wanted = object.data["spec"]["replicas"].as_u64().unwrap_or(1);
            let have = pods.iter().filter(|pod| app(pod) == label && !is_over(pod)).count() as u64;
            if have != wanted {
                open.push(format!("{kind} {label} has {have} of {wanted} pods"));
            }
        }
    }
    for scaler in list("HorizontalPodAutoscaler").await {
        let web = api(&cluster.user, "Deployment").get("web").await.unwrap();
        let have = web.data["spec"]["replicas"].as_u64().unwrap_or(1);
        if let Some(what) = misscaled(have, cluster.load.get()) {
            open.push(format!("{what}; {}", scaler.data["status"]));
        }
    }
    for pod in &pods {
        let name = objects::name(&pod.metadata);
        if pod.metadata.deletion_timestamp.is_some() {
            open.push(format!("pod {name} is still being deleted"));
        } else if !is_over(pod) && !is_ready(pod) {
            let node = pod.data["spec"]["nodeName"].as_str().and_then(|node| cluster.nodes.get(node));
            let view = node.map_or_else(String::new, |node| node.view(&Key::of(&pod.metadata)));
            let version = pod.metadata.resource_version.as_deref().unwrap_or_default();
            open.push(format!("pod {name} (version {version}) is not ready: {view}; {}", pod.data["status"]));
        }
    }
    running(cluster, &pods, &mut open);
    let nodes: Api<Node> = Api::all(cluster.user.clone());
    for node in nodes.list(&ListParams::default()).await.unwrap() {
        let taints =
            node.spec.as_ref().and_then(|spec| spec.taints.as_ref()).is_some_and(|taints| !taints.is_empty());
        if taints || !objects::node_is_ready(&node) {
            open.push(format!("node {} is not back: {:?}", objects::name(&node.metadata), node.status));
        }
    }
    open
}

/// The autoscaler is content with its target. One that the user has scaled to nothing it leaves alone.
fn misscaled(have: u64, load: u64) -> Option<String> {
    let wanted = load.div_ceil(TARGET).clamp(1, MOST);
    // In whole percents, as it counts.
    let used = load.checked_div(have).unwrap_or(TARGET);
    let tolerated = have <= MOST && (TARGET * 9..=TARGET * 11).contains(&(used * 10));
    let content = have == 0 || have == wanted || tolerated;
    (!content).then(|| format!("web has {have} pods, {wanted} are wanted for a load of {load}"))
}

/// What runs is what the API says runs.
fn running(cluster: &Cluster, pods: &[DynamicObject], open: &mut Vec<String>) {
    let running = cluster.truth.running();
    for process in &running {
        let known = pods.iter().any(|pod| objects::uid(&pod.metadata) == process.uid && !is_over(pod));
        if process.pod.namespace == NAMESPACE && !known {
            open.push(format!("orphan: {} on {}", process.pod, process.node));
        }
    }
    for pod in pods.iter().filter(|pod| is_ready(pod)) {
        if !running.iter().any(|process| process.uid == objects::uid(&pod.metadata)) {
            open.push(format!("{} is ready and does not run", Key::of(&pod.metadata)));
        }
    }
}

type Check = fn(&Value, &DynamicObject) -> Option<String>;

const CHECKS: [(&str, Check); 7] = [
    ("Deployment", |data, object| {
        let replicas = &data["spec"]["replicas"];
        let fields = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"];
        observed(data, object).or_else(|| all(data, &fields, replicas))
    }),
    ("ReplicaSet", |data, object| {
        let replicas = &data["spec"]["replicas"];
        observed(data, object)
            .or_else(|| all(data, &["replicas", "readyReplicas", "availableReplicas"], replicas))
    }),
    ("StatefulSet", |data, object| {
        let replicas = &data["spec"]["replicas"];
        let fields = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"];
        let revision = data["status"]["currentRevision"] != data["status"]["updateRevision"];
        observed(data, object)
            .or_else(|| all(data, &fields, replicas))
            .or_else(|| revision.then(|| "the update is not the current revision".to_owned()))
    }),
    ("DaemonSet", |data, object| {
        let desired = &data["status"]["desiredNumberScheduled"];
        let fields = ["currentNumberScheduled", "numberReady", "numberAvailable", "updatedNumberScheduled"];
        observed(data, object)
            .or_else(|| all(data, &fields, desired))
            .or_else(|| (desired != 3).then(|| "not on every node".to_owned()))
    }),
    ("Job", |data, _| {
        let done = data["status"]["succeeded"] == data["spec"]["completions"];
        (!job_is_over(data) || !done).then(|| "not complete".to_owned())
    }),
    ("CronJob", |data, _| {
        let active = data["status"]["active"].as_array().is_some_and(|active| !active.is_empty());
        active.then(|| "a job is under way".to_owned())
    }),
    ("PodDisruptionBudget", |data, object| {
        let status = &data["status"];
        let allowed = status["disruptionsAllowed"] == 2 && status["currentHealthy"] == 4;
        observed(data, object).or_else(|| (!allowed).then(|| "the budget is not back".to_owned()))
    }),
];

/// A job's end is told by its conditions.
pub(crate) fn job_is_over(data: &Value) -> bool {
    let conditions = data["status"]["conditions"].as_array().into_iter().flatten();
    conditions
        .into_iter()
        .any(|c| (c["type"] == "Complete" || c["type"] == "Failed") && c["status"] == "True")
}

fn observed(data: &Value, object: &DynamicObject) -> Option<String> {
    let observed = data["status"]["observedGeneration"].as_i64();
    (observed != object.metadata.generation).then(|| format!("observed {observed:?}"))
}

/// A number that is 0 may be left out.
fn all(data: &Value, fields: &[&str], wanted: &Value) -> Option<String> {
    let wanted = wanted.as_i64().unwrap_or(0);
    let wrong = fields.iter().find(|field| data["status"][**field].as_i64().unwrap_or(0) != wanted)?;
    Some(format!("{wrong} is not {wanted}"))
}

fn app(pod: &DynamicObject) -> &str {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get("app")).map_or("", String::as_str)
}

fn is_over(pod: &DynamicObject) -> bool {
    pod.data["status"]["phase"] == "Succeeded" || pod.data["status"]["phase"] == "Failed"
}

fn is_ready(pod: &DynamicObject) -> bool {
    let conditions = pod.data["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}
