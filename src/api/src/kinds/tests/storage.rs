//! Volumes, claims and classes: defaults, rules and rows.

use super::{
    defaults::{check as default, check_prepared as prepared},
    rules::{create, status, update},
    tables::{check as row, check_headings as headings},
    *,
};

const CLAIMS: &str = "persistentvolumeclaims";
const VOLUMES: &str = "persistentvolumes";
const CLASSES: &str = "storage.k8s.io/storageclasses";

#[test]
fn filled_in() {
    default(CLAIMS, json!({}), "/spec/volumeMode", "Filesystem".into());
    prepared(CLAIMS, json!({"status": {"phase": "Bound"}}), "/status", json!({"phase": "Pending"}));
    let source = json!({"kind": "PersistentVolumeClaim", "name": "other"});
    prepared(CLAIMS, json!({"spec": {"dataSource": source}}), "/spec/dataSourceRef", source.clone());
    prepared(CLAIMS, json!({"spec": {"dataSourceRef": source}}), "/spec/dataSource", source);
    default(VOLUMES, json!({}), "/spec/persistentVolumeReclaimPolicy", "Retain".into());
    default(VOLUMES, json!({}), "/spec/volumeMode", "Filesystem".into());
    default(VOLUMES, json!({"spec": {"hostPath": {"path": "/x"}}}), "/spec/hostPath/type", "".into());
    prepared(VOLUMES, json!({}), "/status", json!({"phase": "Pending", "lastPhaseTransitionTime": NOW}));
    default(CLASSES, json!({}), "/reclaimPolicy", "Delete".into());
    default(CLASSES, json!({}), "/volumeBindingMode", "Immediate".into());
}

#[test]
fn claims() {
    let spec = |patch: Value, want: &[&str]| create(CLAIMS, json!({"spec": patch}), want);
    spec(
        json!({"accessModes": null, "resources": null}),
        &[
            "spec.accessModes: Required value: at least 1 access mode is required",
            "spec.resources[storage]: Required value",
        ],
    );
    spec(
        json!({"accessModes": ["ReadWriteOncePod", "ReadWriteOnce", "Write"]}),
        &[
            "spec.accessModes: Unsupported value: \"Write\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \
             \"ReadWriteOnce\", \"ReadWriteOncePod\"",
            "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
        ],
    );
    spec(
        json!({"resources": {"requests": {"storage": "0"}}, "volumeMode": "Tape"}),
        &[
            "spec.resources[storage]: Invalid value: \"0\": must be greater than zero",
            "spec.volumeMode: Unsupported value: \"Tape\": supported values: \"Block\", \"Filesystem\"",
        ],
    );
    spec(
        json!({"dataSource": {"kind": "Secret", "name": "a"}}),
        &[
            "spec.dataSource: Invalid value: \"Secret\": must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            "spec.dataSourceRef: Invalid value: \"Secret\": must be 'PersistentVolumeClaim' when referencing the default \
             apiGroup",
        ],
    );
    // No class at all is not the same as the default class.
    spec(json!({"storageClassName": ""}), &[]);
}

/// What is wrong with changing the claim made with `old`, which is bound or not, by `patch`.
#[track_caller]
fn change(old: Value, bound: bool, patch: Value, want: &[&str]) {
    let kind = kind(CLAIMS);
    let mut before = created(kind, changed(kind, &json!({"spec": old})));
    if bound {
        before["spec"]["volumeName"] = "pv".into();
        before["status"] = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
    }
    let mut after = before.clone();
    json_patch::merge(&mut after, &json!({"spec": patch}));
    let after = updated(kind, after, &before);
    assert_eq!(lines(&kind.validate_update(&after, &before)), want);
}

#[test]
fn claims_that_exist() {
    const IMMUTABLE: &str = "spec: Forbidden: spec is immutable after creation except resources.requests and \
        volumeAttributesClassName for bound claims";
    let size = |size: &str| json!({"resources": {"requests": {"storage": size}}});
    change(json!({}), false, json!({"volumeName": "pv"}), &[]);
    change(
        json!({}),
        true,
        json!({"volumeName": "other"}),
        &[&format!("{IMMUTABLE}\n-\tspec.volumeName: \"pv\"\n+\tspec.volumeName: \"other\"")],
    );
    change(json!({}), true, size("2Gi"), &[]);
    change(
        json!({}),
        false,
        size("2Gi"),
        &[&format!(
            "{IMMUTABLE}\n-\tspec.resources.requests.storage: \"1Gi\"\n+\tspec.resources.requests.storage: \"2Gi\""
        )],
    );
    change(
        json!({}),
        true,
        size("500Mi"),
        &["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"],
    );
    // A wish that was too large may be lowered again.
    change(size("3Gi"), true, size("2Gi"), &[]);
    // The default class is named once there is one.
    change(json!({}), false, json!({"storageClassName": "local"}), &[]);
    change(
        json!({"storageClassName": "a"}),
        false,
        json!({"storageClassName": "b"}),
        &[&format!("{IMMUTABLE}\n-\tspec.storageClassName: \"a\"\n+\tspec.storageClassName: \"b\"")],
    );
    status(
        CLAIMS,
        json!({}),
        json!({}),
        json!({"capacity": {"storage": "-1"}, "allocatedResourceStatuses": {"cpu": "Growing"}}),
        &[
            "status.capacity[storage]: Invalid value: \"-1\": must be greater than or equal to 0",
            "status.allocatedResourceStatus: Unsupported value: \"cpu\": supported values: \"storage\"",
            "status.allocatedResourceStatus: Unsupported value: \"cpu\": supported values: \"ControllerResizeInProgress\", \
             \"ControllerResizeInfeasible\", \"NodeResizePending\", \"NodeResizeInProgress\", \"NodeResizeInfeasible\"",
        ],
    );
}

#[test]
fn volumes() {
    let spec = |patch: Value, want: &[&str]| create(VOLUMES, json!({"spec": patch}), want);
    spec(json!({"csi": null}), &["spec: Required value: must specify a volume type"]);
    spec(
        json!({"hostPath": {"path": "/x"}}),
        &["spec.csi: Forbidden: may not specify more than 1 volume type"],
    );
    spec(
        json!({"csi": {"driver": "a/b", "volumeHandle": null}}),
        &[
            "spec.csi.driver: Invalid value: \"a/b\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
             characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used \
             for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            "spec.csi.volumeHandle: Required value",
        ],
    );
    spec(
        json!({"csi": null, "local": {"path": "/x/../y"}}),
        &[
            "spec.local.path: Invalid value: \"/x/../y\": must not contain '..'",
            "spec.nodeAffinity: Required value: Local volume requires node affinity",
        ],
    );
    spec(
        json!({"csi": null, "hostPath": {"path": "/"}, "persistentVolumeReclaimPolicy": "Recycle"}),
        &["spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'"],
    );
    spec(
        json!({"capacity": {"storage": "0"}, "persistentVolumeReclaimPolicy": "Burn"}),
        &[
            "spec.capacity[storage]: Invalid value: \"0\": must be greater than zero",
            "spec.persistentVolumeReclaimPolicy: Unsupported value: \"Burn\": supported values: \"Delete\", \"Recycle\", \
             \"Retain\"",
        ],
    );
    spec(
        json!({"nodeAffinity": {}}),
        &["spec.nodeAffinity.required: Required value: must specify required node constraints"],
    );
    let claim = json!({"claimRef": {"name": "a"}, "capacity": {"storage": "2Gi"}});
    update(VOLUMES, json!({}), json!({"spec": claim}), &[]);
    update(
        VOLUMES,
        json!({}),
        json!({"spec": {"csi": {"volumeHandle": "other"}, "volumeMode": "Block"}}),
        &[
            "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation\n\
             -\tspec.csi.volumeHandle: \"web\"\n+\tspec.csi.volumeHandle: \"other\"",
            "volumeMode: Invalid value: \"Block\": field is immutable",
        ],
    );
}

#[test]
fn classes() {
    create(CLASSES, json!({"provisioner": null}), &["provisioner: Required value"]);
    create(
        CLASSES,
        json!({"reclaimPolicy": "Recycle", "volumeBindingMode": "Later"}),
        &[
            "reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"",
            "volumeBindingMode: Unsupported value: \"Later\": supported values: \"Immediate\", \"WaitForFirstConsumer\"",
        ],
    );
    let zones = |values: Value| json!({"matchLabelExpressions": [{"key": "zone", "values": values}]});
    create(
        CLASSES,
        json!({"allowedTopologies": [zones(json!(["a", "a"])), zones(json!([]))]}),
        &[
            "allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: \"a\"",
            "allowedTopologies[1].matchLabelExpressions[0].values: Required value",
        ],
    );
    update(CLASSES, json!({}), json!({"allowVolumeExpansion": true}), &[]);
    update(
        CLASSES,
        json!({}),
        json!({"parameters": {"a": "b"}, "provisioner": "x", "reclaimPolicy": "Retain", "volumeBindingMode": "WaitForFirstConsumer"}),
        &[
            "parameters: Forbidden: updates to parameters are forbidden.",
            "provisioner: Forbidden: updates to provisioner are forbidden.",
            "reclaimPolicy: Forbidden: updates to reclaimPolicy are forbidden.",
            "volumeBindingMode: Invalid value: \"WaitForFirstConsumer\": field is immutable",
        ],
    );
}

#[test]
fn rows() {
    headings(
        CLAIMS,
        "Name | Status | Volume | Capacity | Access Modes | StorageClass | VolumeAttributesClass | Age",
        "VolumeMode",
    );
    row(
        CLAIMS,
        json!({"status": {"phase": "Pending"}}),
        "web | Pending |  |  |  |  | <unset> | 60m | <unset>",
    );
    row(
        CLAIMS,
        json!({
            "metadata": {"deletionTimestamp": NOW},
            "spec": {"volumeName": "pv", "storageClassName": "local", "volumeMode": "Filesystem"},
            "status": {"accessModes": ["ReadWriteMany", "ReadWriteOnce"], "capacity": {"storage": "1Gi"}},
        }),
        "web | Terminating | pv | 1Gi | RWO,RWX | local | <unset> | 60m | Filesystem",
    );
    headings(
        VOLUMES,
        "Name | Capacity | Access Modes | Reclaim Policy | Status | Claim | StorageClass | VolumeAttributesClass | Reason | Age",
        "VolumeMode",
    );
    row(
        VOLUMES,
        json!({
            "spec": {
                "claimRef": {"namespace": "default", "name": "data"}, "storageClassName": "local",
                "persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem",
            },
            "status": {"phase": "Bound"},
        }),
        "web | 1Gi | RWO | Retain | Bound | default/data | local | <unset> |  | 60m | Filesystem",
    );
    headings(
        CLASSES,
        "Name | Provisioner | ReclaimPolicy | VolumeBindingMode | AllowVolumeExpansion | Age",
        "",
    );
    row(CLASSES, json!({}), "web | coracle.dev/local | Delete | Immediate | false | 60m");
    let annotations = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    row(
        CLASSES,
        json!({"metadata": {"annotations": annotations}, "volumeBindingMode": "WaitForFirstConsumer"}),
        "web (default) | coracle.dev/local | Delete | WaitForFirstConsumer | false | 60m",
    );
}
