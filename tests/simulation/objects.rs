//! Objects of the simulation in few words, and what is asked of them.

use coracle_client::clock;
use k8s_openapi::{
    api::core::v1::{Node, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::{Value, json};

pub(crate) const NAMESPACE: &str = "sim";

pub(crate) fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

pub(crate) fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

pub(crate) fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

pub(crate) fn restart_policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
}

/// True for pods of jobs, whose program does its work and ends.
pub(crate) fn ends_by_itself(pod: &Pod) -> bool {
    restart_policy(pod) != "Always"
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

pub(crate) fn node_is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

pub(crate) fn node(name: &str) -> Node {
    let labels = json!({ "kubernetes.io/hostname": name, "kubernetes.io/os": "wasi" });
    from(json!({ "metadata": { "name": name, "labels": labels } }))
}

pub(crate) fn node_status() -> Value {
    let room = json!({ "cpu": "8", "memory": "32Gi", "pods": "60", "ephemeral-storage": "100Gi" });
    let now = clock::time();
    json!({ "status": {
        "capacity": room, "allocatable": room,
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "the node runs pods",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        }],
    } })
}

pub(crate) fn ready_status(address: &str) -> Value {
    let now = clock::time();
    let condition = |type_: &str| json!({ "type": type_, "status": "True", "lastTransitionTime": now });
    json!({
        "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }, { "$patch": "replace" }], "startTime": now,
        "conditions": [condition("Initialized"), condition("ContainersReady"), condition("Ready")],
    })
}

/// The status of a pod whose program has ended with `code`.
pub(crate) fn ended_status(pod: &Pod, code: i32) -> Value {
    let now = clock::time();
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    let container = pod.spec.as_ref().map(|spec| spec.containers[0].name.clone());
    let condition = |type_: &str| json!({ "type": type_, "status": "False", "lastTransitionTime": now });
    json!({
        "phase": phase,
        "conditions": [condition("ContainersReady"), condition("Ready")],
        "containerStatuses": [{
            "name": container, "image": "hello", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "terminated": { "exitCode": code, "reason": "Error", "finishedAt": now } },
        }],
    })
}

pub(crate) fn from<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("an object of this kind")
}

/// A template of pods labelled `app=<app>`.
fn template(app: &str, image: &str, restart: &str) -> Value {
    let container = json!({
        "name": "main", "image": image, "resources": { "requests": { "cpu": "100m", "memory": "64Mi" } },
    });
    let spec =
        json!({ "restartPolicy": restart, "terminationGracePeriodSeconds": 5, "containers": [container] });
    json!({ "metadata": { "labels": { "app": app } }, "spec": spec })
}

fn selector(app: &str) -> Value {
    json!({ "matchLabels": { "app": app } })
}

pub(crate) fn deployment(app: &str, replicas: i32, surge: i32, unavailable: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": app, "namespace": NAMESPACE },
        "spec": {
            "replicas": replicas, "selector": selector(app), "template": template(app, "v1", "Always"),
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": surge, "maxUnavailable": unavailable } },
        },
    })
}

pub(crate) fn replica_set(app: &str, replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": { "name": app, "namespace": NAMESPACE },
        "spec": { "replicas": replicas, "selector": selector(app), "template": template(app, "v1", "Always") },
    })
}

pub(crate) fn budget(app: &str, available: i32) -> Value {
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": { "name": app, "namespace": NAMESPACE },
        "spec": { "minAvailable": available, "selector": selector(app) },
    })
}

pub(crate) fn stateful_set(app: &str, replicas: i32, parallel: bool, claims: bool) -> Value {
    let policy = if parallel { "Parallel" } else { "OrderedReady" };
    let mut spec = json!({
        "replicas": replicas, "serviceName": app, "selector": selector(app), "podManagementPolicy": policy,
        "template": template(app, "v1", "Always"),
    });
    if claims {
        spec["volumeClaimTemplates"] = json!([{
            "metadata": { "name": "data" },
            "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } },
        }]);
        spec["template"]["spec"]["containers"][0]["volumeMounts"] =
            json!([{ "name": "data", "mountPath": "/data" }]);
    }
    json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": app, "namespace": NAMESPACE }, "spec": spec })
}

pub(crate) fn daemon_set(app: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "name": app, "namespace": NAMESPACE },
        "spec": { "selector": selector(app), "template": template(app, "v1", "Always") },
    })
}

pub(crate) fn job(app: &str, completions: i32, parallelism: i32, indexed: bool) -> Value {
    let mode = if indexed { "Indexed" } else { "NonIndexed" };
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": app, "namespace": NAMESPACE },
        "spec": {
            "completions": completions, "parallelism": parallelism, "completionMode": mode, "backoffLimit": 1000,
            "template": template(app, "v1", "Never"),
        },
    })
}

/// Every minute a job.
pub(crate) fn cron_job(app: &str, policy: &str) -> Value {
    let job = job(app, 1, 1, false);
    json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": { "name": app, "namespace": NAMESPACE },
        "spec": {
            "schedule": "* * * * *", "concurrencyPolicy": policy, "successfulJobsHistoryLimit": 1,
            "jobTemplate": { "spec": job["spec"] },
        },
    })
}

/// Half of the CPU that a pod requests is what it is to use.
pub(crate) const TARGET: u64 = 50;
/// As many pods as the autoscaler may ask for.
pub(crate) const MOST: u64 = 5;

pub(crate) fn autoscaler(app: &str) -> Value {
    json!({
        "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler",
        "metadata": { "name": app, "namespace": NAMESPACE },
        "spec": {
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": app },
            "minReplicas": 1, "maxReplicas": MOST, "targetCPUUtilizationPercentage": TARGET,
        },
    })
}

pub(crate) fn config_map(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": NAMESPACE } })
}

/// A secret that a config map owns, and that blocks it; `held` by a finalizer of the user's.
pub(crate) fn secret(name: &str, owner: &ObjectMeta, held: bool) -> Value {
    let finalizers: &[&str] = if held { &["example.com/hold"] } else { &[] };
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {
            "name": name, "namespace": NAMESPACE, "finalizers": finalizers,
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "ConfigMap", "name": owner.name, "uid": owner.uid,
                "blockOwnerDeletion": true,
            }],
        },
    })
}

pub(crate) fn service(app: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": app, "namespace": NAMESPACE },
        "spec": { "selector": { "app": app }, "ports": [{ "port": 80 }] },
    })
}
