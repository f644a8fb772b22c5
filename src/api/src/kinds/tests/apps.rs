//! The kinds of `apps`: defaults, rules and rows.

use super::{
    defaults::{check as default, check_prepared as prepared},
    rules::{create, status, update},
    tables::{check as row, check_headings as headings},
    *,
};

const DEPLOYMENTS: &str = "apps/deployments";
const REPLICA_SETS: &str = "apps/replicasets";

#[test]
fn defaults_of_deployments() {
    let spec = |patch: Value, pointer: &str, want: Value| {
        default(DEPLOYMENTS, json!({"spec": patch}), &format!("/spec/{pointer}"), want);
    };
    spec(json!({}), "replicas", 1.into());
    spec(json!({"replicas": 0}), "replicas", 0.into());
    spec(json!({}), "revisionHistoryLimit", 10.into());
    spec(json!({}), "progressDeadlineSeconds", 600.into());
    let rolling = json!({"maxUnavailable": "25%", "maxSurge": "25%"});
    spec(json!({}), "strategy", json!({"type": "RollingUpdate", "rollingUpdate": rolling}));
    spec(
        json!({"strategy": {"rollingUpdate": {"maxSurge": 0}}}),
        "strategy/rollingUpdate",
        json!({"maxUnavailable": "25%", "maxSurge": 0}),
    );
    spec(json!({"strategy": {"type": "Recreate"}}), "strategy", json!({"type": "Recreate"}));
    spec(json!({}), "template/spec/restartPolicy", "Always".into());
    // Only core/v1 and extensions ever took the labels of the template.
    default(DEPLOYMENTS, json!({}), "/metadata/labels", Value::Null);
    prepared(DEPLOYMENTS, json!({"status": {"replicas": 3}}), "/status", json!({}));
    default(REPLICA_SETS, json!({}), "/spec/replicas", 1.into());
    prepared(REPLICA_SETS, json!({"status": {"replicas": 3}}), "/status", json!({"replicas": 0}));
}

#[test]
fn selectors_and_templates() {
    for kind in [DEPLOYMENTS, REPLICA_SETS] {
        let spec = |patch: Value, want: &[&str]| create(kind, json!({"spec": patch}), want);
        const MISMATCH: &str = "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match \
            template `labels`";
        spec(json!({"selector": null}), &["spec.selector: Required value", MISMATCH]);
        spec(
            json!({"selector": {"matchLabels": null}}),
            &["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
        );
        spec(json!({"selector": {"matchLabels": {"app": "other"}}}), &[MISMATCH]);
        spec(json!({"selector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}}), &[]);
        spec(
            json!({"selector": {"matchLabels": null, "matchExpressions": [{"key": "app", "operator": "Like"}]}}),
            &[
                "spec.selector.matchExpressions[0].operator: Invalid value: \"Like\": not a valid selector operator",
                "spec.selector: Invalid value: {\"matchExpressions\":[{\"key\":\"app\",\"operator\":\"Like\"}]}: invalid label \
                 selector",
            ],
        );
        spec(
            json!({"replicas": -1}),
            &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
        );
        spec(
            json!({"template": {"spec": {"restartPolicy": "Never", "activeDeadlineSeconds": 5}}}),
            &[
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
                "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported",
            ],
        );
        let other = json!({"spec": {
            "selector": {"matchLabels": {"app": "other"}},
            "template": {"metadata": {"labels": {"app": "other"}}},
        }});
        update(
            kind,
            json!({}),
            other,
            &["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"other\"}}: field is immutable"],
        );
        update(kind, json!({}), json!({"spec": {"replicas": 7}}), &[]);
    }
}

#[test]
fn strategies_of_deployments() {
    let strategy =
        |patch: Value, want: &[&str]| create(DEPLOYMENTS, json!({"spec": {"strategy": patch}}), want);
    let rolling = |unavailable: Value, surge: Value, want: &[&str]| {
        strategy(json!({"rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}}), want);
    };
    rolling(json!(0), json!(1), &[]);
    rolling(json!("100%"), json!("200%"), &[]);
    rolling(
        json!(0),
        json!("0%"),
        &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"],
    );
    rolling(
        json!("101%"),
        json!(0),
        &[
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
        ],
    );
    const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', \
        regex used for validation is '[0-9]+%')";
    rolling(
        json!("many"),
        json!(-1),
        &[
            &format!("spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"many\": {PERCENT}"),
            "spec.strategy.rollingUpdate.maxSurge: Invalid value: -1: must be greater than or equal to 0",
        ],
    );
    strategy(
        json!({"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}),
        &["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"],
    );
    strategy(
        json!({"type": "Sudden"}),
        &[
            "spec.strategy: Unsupported value: {\"Type\":\"Sudden\",\"RollingUpdate\":null}: supported values: \"Recreate\", \
             \"RollingUpdate\"",
        ],
    );
    create(
        DEPLOYMENTS,
        json!({"spec": {"minReadySeconds": 600}}),
        &["spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds"],
    );
}

#[test]
fn counts_add_up() {
    status(
        DEPLOYMENTS,
        json!({}),
        json!({"collisionCount": 2}),
        json!({"replicas": 1, "updatedReplicas": 2, "readyReplicas": 1, "availableReplicas": 2, "collisionCount": 1}),
        &[
            "status.updatedReplicas: Invalid value: 2: cannot be greater than status.replicas",
            "status.availableReplicas: Invalid value: 2: cannot be greater than status.replicas",
            "status.availableReplicas: Invalid value: 2: cannot be greater than readyReplicas",
            "status.collisionCount: Invalid value: 1: cannot be decremented",
        ],
    );
    status(
        REPLICA_SETS,
        json!({}),
        json!({}),
        json!({"replicas": 1, "readyReplicas": -1}),
        &[
            "status.readyReplicas: Invalid value: -1: must be greater than or equal to 0",
            "status.availableReplicas: Invalid value: 0: cannot be greater than readyReplicas",
        ],
    );
}

#[test]
fn rows() {
    headings(DEPLOYMENTS, "Name | Ready | Up-to-date | Available | Age", "Containers | Images | Selector");
    headings(REPLICA_SETS, "Name | Desired | Current | Ready | Age", "Containers | Images | Selector");
    let counts = json!({"replicas": 3, "readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1});
    row(
        DEPLOYMENTS,
        json!({"spec": {"replicas": 4}, "status": counts}),
        "web | 2/4 | 3 | 1 | 60m | web | registry.local/web:1 | app=web",
    );
    let selector = json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}]});
    row(
        REPLICA_SETS,
        json!({"spec": {"replicas": 4, "selector": selector}, "status": counts}),
        "web | 4 | 3 | 2 | 60m | web | registry.local/web:1 | app=web,tier in (a,b)",
    );
}

const STATEFUL_SETS: &str = "apps/statefulsets";
const DAEMON_SETS: &str = "apps/daemonsets";
const REVISIONS: &str = "apps/controllerrevisions";

#[test]
fn defaults_of_stateful_sets() {
    let spec = |patch: Value, pointer: &str, want: Value| {
        default(STATEFUL_SETS, json!({"spec": patch}), &format!("/spec/{pointer}"), want);
    };
    spec(json!({}), "podManagementPolicy", "OrderedReady".into());
    let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}});
    spec(json!({}), "updateStrategy", rolling);
    let named = json!({"type": "RollingUpdate"});
    spec(json!({"updateStrategy": named}), "updateStrategy", named);
    spec(json!({"updateStrategy": {"type": "OnDelete"}}), "updateStrategy", json!({"type": "OnDelete"}));
    let retain = json!({"whenDeleted": "Retain", "whenScaled": "Retain"});
    spec(json!({}), "persistentVolumeClaimRetentionPolicy", retain);
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}});
    spec(
        json!({"volumeClaimTemplates": [claim]}),
        "volumeClaimTemplates/0",
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem"}, "status": {"phase": "Pending"},
        }),
    );
}

#[test]
fn rules_of_stateful_sets() {
    let spec = |patch: Value, want: &[&str]| create(STATEFUL_SETS, json!({"spec": patch}), want);
    spec(
        json!({"podManagementPolicy": "Random", "ordinals": {"start": -1}}),
        &[
            "spec.podManagementPolicy: Invalid value: \"Random\": must be 'OrderedReady' or 'Parallel'",
            "spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0",
        ],
    );
    spec(
        json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": {"partition": 1}}}),
        &[
            "spec.updateStrategy.rollingUpdate: Invalid value: {\"partition\":1}: only allowed for updateStrategy \
             'RollingUpdate'",
        ],
    );
    spec(
        json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0}}}),
        &["spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0"],
    );
    spec(
        json!({"persistentVolumeClaimRetentionPolicy": {"whenScaled": "Keep"}}),
        &[
            "spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: \"Keep\": supported values: \
           \"Retain\", \"Delete\"",
        ],
    );
    // A mount may name a claim that comes with each pod.
    let mounts =
        json!([{"name": "web", "image": "web", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]);
    spec(json!({"template": {"spec": {"containers": mounts}}}), &[]);
    create(
        STATEFUL_SETS,
        json!({"metadata": {"name": "a.b"}}),
        &["metadata.name: Invalid value: \"a.b\": must not contain dots"],
    );
    let change = |patch: Value, want: &[&str]| update(STATEFUL_SETS, json!({}), json!({"spec": patch}), want);
    change(
        json!({
            "replicas": 5, "ordinals": {"start": 1}, "revisionHistoryLimit": 2, "minReadySeconds": 3,
            "updateStrategy": {"type": "OnDelete"}, "template": {"spec": {"hostname": "x"}},
            "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete"},
        }),
        &[],
    );
    change(
        json!({"serviceName": "other"}),
        &[
            "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
             'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are \
             forbidden",
        ],
    );
    status(
        STATEFUL_SETS,
        json!({}),
        json!({}),
        json!({"replicas": 1, "readyReplicas": 0, "availableReplicas": 1}),
        &["status.availableReplicas: Invalid value: 1: cannot be greater than status.readyReplicas"],
    );
}

#[test]
fn daemon_sets() {
    let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}});
    default(DAEMON_SETS, json!({}), "/spec/updateStrategy", rolling);
    let spec = |patch: Value, want: &[&str]| create(DAEMON_SETS, json!({"spec": patch}), want);
    let strategy = |unavailable: Value, surge: Value, want: &[&str]| {
        spec(
            json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}}}),
            want,
        );
    };
    strategy(json!("10%"), json!(0), &[]);
    strategy(json!(0), json!("10%"), &[]);
    strategy(
        json!(0),
        json!(0),
        &["spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0"],
    );
    strategy(
        json!(1),
        json!(1),
        &[
            "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero",
        ],
    );
    spec(
        json!({"updateStrategy": {"type": "Sudden"}}),
        &[
            "spec.updateStrategy: Unsupported value: {\"Type\":\"Sudden\",\"RollingUpdate\":null}: supported values: \
           \"RollingUpdate\", \"OnDelete\"",
        ],
    );
    spec(
        json!({"selector": {"matchLabels": null}}),
        &["spec.selector: Invalid value: {}: empty selector is invalid for daemonset"],
    );

    const GENERATION: &str = "/metadata/annotations/deprecated.daemonset.template.generation";
    prepared(DAEMON_SETS, json!({}), GENERATION, "1".into());
    let kind = kind(DAEMON_SETS);
    let before = created(kind, valid(kind));
    let patch = json!({"metadata": {"annotations": null}, "spec": {"minReadySeconds": 5}});
    let same = updated(kind, changed(kind, &patch), &before);
    assert_eq!(same.pointer(GENERATION), Some(&"1".into()));
    let patch = json!({"spec": {"template": {"spec": {"hostname": "x"}}}});
    let other = updated(kind, changed(kind, &patch), &before);
    assert_eq!(other.pointer(GENERATION), Some(&"2".into()));
}

#[test]
fn controller_revisions() {
    create(REVISIONS, json!({"data": null}), &["data: Required value: data is mandatory"]);
    update(REVISIONS, json!({}), json!({"revision": 2}), &[]);
    update(REVISIONS, json!({}), json!({"data": 5}), &["data: Invalid value: 5: field is immutable"]);
}

#[test]
fn rows_of_the_rest() {
    headings(STATEFUL_SETS, "Name | Ready | Age", "Containers | Images");
    row(
        STATEFUL_SETS,
        json!({"spec": {"replicas": 3}, "status": {"readyReplicas": 2}}),
        "web | 2/3 | 60m | web | registry.local/web:1",
    );
    headings(
        DAEMON_SETS,
        "Name | Desired | Current | Ready | Up-to-date | Available | Node Selector | Age",
        "Containers | Images | Selector",
    );
    let counts = json!({
        "desiredNumberScheduled": 5, "currentNumberScheduled": 4, "numberReady": 3, "updatedNumberScheduled": 2,
        "numberAvailable": 1,
    });
    row(
        DAEMON_SETS,
        json!({"spec": {"template": {"spec": {"nodeSelector": {"a": "b"}}}}, "status": counts}),
        "web | 5 | 4 | 3 | 2 | 1 | a=b | 60m | web | registry.local/web:1 | app=web",
    );
    headings(REVISIONS, "Name | Controller | Revision | Age", "");
    row(REVISIONS, json!({}), "web | <none> | 1 | 60m");
    let owner = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "controller": true});
    row(REVISIONS, json!({"metadata": {"ownerReferences": [owner]}}), "web | statefulset.apps/db | 1 | 60m");
}
