//! What the states of workloads are called, kind by kind.

use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
    autoscaling::v2::HorizontalPodAutoscaler,
    batch::v1::{CronJob, Job},
    core::v1::{PersistentVolumeClaim, ReplicationController},
};
use serde::de::DeserializeOwned;

use super::*;

const NOW: Timestamp = Timestamp::constant(1_700_000_000, 0);

fn row_of<K>(mut object: Value) -> Option<Row>
where
    K: Serialize + DeserializeOwned + Metadata<Ty = ObjectMeta> + Resource,
{
    for (field, value) in [("namespace", "n"), ("name", "w"), ("creationTimestamp", "2023-11-14T22:00:00Z")] {
        object["metadata"][field] = value.into();
    }
    row(&serde_json::from_value::<K>(object).unwrap(), NOW)
}

/// Its ready pods, its state and its details.
#[track_caller]
fn check<K>(object: Value, ready: Value, state: &str, details: Value)
where
    K: Serialize + DeserializeOwned + Metadata<Ty = ObjectMeta> + Resource,
{
    let row = row_of::<K>(object).unwrap();
    assert_eq!(row[3..6], [ready, state.into(), details], "{row:?}");
}

/// A deployment of three pods in generation 2, with more said about it.
fn deployment(counts: [i32; 4], conditions: &Value, more: &Value) -> Value {
    let [current, updated, ready, available] = counts;
    let mut spec = json!({"replicas": 3, "selector": {}, "template": {}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"metadata": {"generation": 2}, "spec": spec, "status": {
        "observedGeneration": 2, "replicas": current, "updatedReplicas": updated, "readyReplicas": ready,
        "availableReplicas": available, "conditions": conditions,
    }})
}

fn is(name: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({"type": name, "status": status, "reason": reason, "message": message})
}

#[test]
fn deployments() {
    let none = || json!([]);
    let check =
        |object, ready, state, details| check::<Deployment>(object, json!([ready, 3]), state, details);
    let done = || is("Progressing", "True", "NewReplicaSetAvailable", "");
    let unavailable = || is("Available", "False", "MinimumReplicasUnavailable", "");
    check(deployment([3, 3, 3, 3], &json!([done()]), &json!({})), 3, "Available", none());
    let rolling = json!(["1 of 3 up to date", "3 old"]);
    check(deployment([4, 1, 3, 3], &none(), &json!({})), 3, "Progressing", rolling.clone());
    check(deployment([4, 1, 3, 3], &none(), &json!({"paused": true})), 3, "Paused", rolling);
    check(deployment([4, 3, 3, 3], &none(), &json!({})), 3, "Progressing", json!(["1 old"]));
    check(deployment([3, 3, 1, 1], &json!([unavailable()]), &json!({})), 1, "Progressing", none());
    let word = "MinimumReplicasUnavailable";
    check(deployment([3, 3, 1, 1], &json!([done(), unavailable()]), &json!({})), 1, word, none());
    let late = json!([is("Progressing", "False", "ProgressDeadlineExceeded", "timed out")]);
    let details = json!(["1 of 3 up to date", "3 old", "timed out"]);
    check(deployment([4, 1, 3, 3], &late, &json!({})), 3, "ProgressDeadlineExceeded", details);
    let refused = json!([is("ReplicaFailure", "True", "FailedCreate", "exceeded quota")]);
    let details = json!(["0 of 3 up to date", "exceeded quota"]);
    check(deployment([0, 0, 0, 0], &refused, &json!({})), 0, "FailedCreate", details);
    let mut unseen = deployment([3, 3, 3, 3], &json!([done()]), &json!({}));
    unseen["metadata"]["generation"] = 3.into();
    check(unseen, 3, "Progressing", none());
    let mut going = deployment([3, 3, 3, 3], &json!([done()]), &json!({}));
    going["metadata"]["deletionTimestamp"] = "2023-11-14T22:00:00Z".into();
    check(going, 3, "Terminating", none());
}

#[test]
fn sets() {
    let set = |update: Value, updated: i32, available: i32| {
        json!({"spec": {"replicas": 3, "selector": {}, "serviceName": "", "template": {}, "updateStrategy": update},
            "status": {"replicas": 3, "readyReplicas": available, "availableReplicas": available,
                "updatedReplicas": updated}})
    };
    let rolling = || json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}});
    let one = json!(["1 of 3 up to date"]);
    check::<StatefulSet>(set(json!({}), 3, 3), json!([3, 3]), "Available", json!([]));
    check::<StatefulSet>(set(json!({}), 1, 3), json!([3, 3]), "Progressing", one.clone());
    check::<StatefulSet>(set(rolling(), 1, 3), json!([3, 3]), "Available", one.clone());
    check::<StatefulSet>(set(json!({"type": "OnDelete"}), 1, 3), json!([3, 3]), "Available", one);
    check::<StatefulSet>(set(json!({}), 3, 2), json!([2, 3]), "Progressing", json!([]));

    let daemons = |desired: i32, ready: i32, strays: i32| {
        json!({"spec": {"selector": {}, "template": {}}, "status": {"desiredNumberScheduled": desired,
            "currentNumberScheduled": desired, "updatedNumberScheduled": desired, "numberReady": ready,
            "numberAvailable": ready, "numberMisscheduled": strays}})
    };
    check::<DaemonSet>(daemons(5, 5, 0), json!([5, 5]), "Available", json!([]));
    check::<DaemonSet>(daemons(5, 4, 1), json!([4, 5]), "Progressing", json!(["1 misscheduled"]));
    check::<DaemonSet>(daemons(0, 0, 0), json!([0, 0]), "Available", json!([]));

    let replicas = |desired: i32, current: i32, owner: Option<&str>| {
        let owner = owner.map(|name| {
            json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": "u", "controller": true}])
        });
        json!({"metadata": {"ownerReferences": owner}, "spec": {"replicas": desired, "selector": {}},
            "status": {"replicas": current, "readyReplicas": current, "availableReplicas": current}})
    };
    check::<ReplicaSet>(replicas(2, 2, None), json!([2, 2]), "Available", json!([]));
    check::<ReplicaSet>(replicas(0, 2, Some("d")), json!([2, 0]), "Scaling", json!([]));
    check::<ReplicaSet>(replicas(0, 0, None), json!([0, 0]), "Available", json!([]));
    assert_eq!(row_of::<ReplicaSet>(replicas(0, 0, Some("d"))), None, "kept for a rollback");
    assert_eq!(row_of::<ReplicaSet>(replicas(1, 0, Some("d"))).unwrap()[8], "Deployment/d");
    check::<ReplicationController>(json!({"spec": {"replicas": 1}}), json!([0, 1]), "Progressing", json!([]));
}

#[test]
fn jobs() {
    let job = |spec: Value, status: Value| json!({"spec": spec, "status": status});
    let template = || json!({"template": {}, "completions": 3});
    let (start, end) = ("2023-11-14T22:10:00Z", "2023-11-14T22:10:12Z");
    let running = json!({"startTime": start, "succeeded": 1, "active": 2, "failed": 1});
    let details = json!([{"said": "started", "at": 1_699_999_800}, "2 active", "1 failed"]);
    check::<Job>(job(template(), running), json!([1, 3]), "Running", details);
    let done = json!({"startTime": start, "completionTime": end, "succeeded": 3,
        "conditions": [is("Complete", "True", "", "")]});
    check::<Job>(job(template(), done), json!([3, 3]), "Complete", json!(["took 12s"]));
    let failed =
        json!({"failed": 7, "conditions": [is("Failed", "True", "BackoffLimitExceeded", "no luck")]});
    let details = json!(["7 failed", "BackoffLimitExceeded", "no luck"]);
    check::<Job>(job(template(), failed), json!([0, 3]), "Failed", details);
    check::<Job>(job(json!({"template": {}}), json!({})), json!([0, null]), "Running", json!([]));

    let cron = |suspend: bool, status: Value| {
        let template = json!({"spec": {"containers": [{"name": "c", "image": "i:1"}]}});
        json!({"spec": {"schedule": "*/5 * * * *", "suspend": suspend,
            "jobTemplate": {"spec": {"template": template}}}, "status": status})
    };
    let said = json!(["*/5 * * * *"]);
    check::<CronJob>(cron(false, json!({})), Value::Null, "Scheduled", said.clone());
    check::<CronJob>(cron(true, json!({})), Value::Null, "Suspended", said);
    let active = json!({"active": [{"name": "j"}], "lastScheduleTime": start});
    let details = json!(["*/5 * * * *", "1 active", {"said": "last run", "at": 1_699_999_800}]);
    check::<CronJob>(cron(false, active.clone()), Value::Null, "Running", details);
    assert_eq!(row_of::<CronJob>(cron(false, active)).unwrap()[6], json!(["i:1"]));
}

#[test]
fn autoscalers_and_claims() {
    let metric = json!({"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": 50}}});
    let scaler = |status: Value| {
        json!({"spec": {"minReplicas": 2, "maxReplicas": 9, "metrics": [metric],
            "scaleTargetRef": {"kind": "Deployment", "name": "d"}}, "status": status})
    };
    let check_scaler = |status, state, details| {
        check::<HorizontalPodAutoscaler>(scaler(status), Value::Null, state, details);
    };
    check_scaler(json!({"desiredReplicas": 0}), "Pending", json!(["cpu: <unknown>/50%", "0 of 2 to 9 pods"]));
    let active = json!({"currentReplicas": 3, "desiredReplicas": 4, "conditions": [is("ScalingActive", "True", "", "")]});
    check_scaler(active, "Active", json!(["cpu: <unknown>/50%", "3 of 2 to 9 pods", "4 wanted"]));
    let blind = is("ScalingActive", "False", "FailedGetResourceMetric", "no metrics");
    let blind = json!({"currentReplicas": 3, "desiredReplicas": 3, "conditions": [blind]});
    let details = json!(["cpu: <unknown>/50%", "3 of 2 to 9 pods", "no metrics"]);
    check_scaler(blind, "FailedGetResourceMetric", details);
    let row = row_of::<HorizontalPodAutoscaler>(scaler(json!({"desiredReplicas": 0}))).unwrap();
    assert_eq!(row[8], "Deployment/d");

    let claim = |volume: &str, phase: &str| {
        json!({"spec": {"volumeName": volume, "storageClassName": "local"},
            "status": {"phase": phase, "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}})
    };
    check::<PersistentVolumeClaim>(claim("v", "Bound"), Value::Null, "Bound", json!(["1Gi", "RWO", "local"]));
    check::<PersistentVolumeClaim>(claim("", "Pending"), Value::Null, "Pending", json!(["local"]));
}

/// Who writes much into an object does not fill everybody's page.
#[test]
fn what_others_say_is_bounded() {
    let container = |at: usize| json!({"name": format!("c{at}"), "image": "é".repeat(300)});
    let mut object = deployment(
        [0; 4],
        &json!([is("ReplicaFailure", "True", &"r".repeat(999), &"m".repeat(9_999))]),
        &json!({}),
    );
    object["spec"]["template"] = json!({"spec": {"containers": (0..99).map(container).collect::<Vec<_>>()}});
    let row = row_of::<Deployment>(object).unwrap();
    assert_eq!(row[6].as_array().unwrap().len(), MAX_IMAGES + 1);
    assert_eq!(row[6][0], format!("{}…", "é".repeat(MAX_TEXT)));
    assert_eq!(row[6][MAX_IMAGES], "91 more");
    assert!(Value::from(row).to_string().len() < 5_000);
}
