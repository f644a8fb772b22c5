//! HorizontalPodAutoscaler in both versions: defaults, rules, rows, and the way from one to the other.

use super::{
    defaults::{check as default, check_prepared as prepared},
    rules::{create, status},
    tables::{check as row, check_headings as headings},
    *,
};

const V2: &str = "autoscaling/v2/horizontalpodautoscalers";
const V1: &str = "autoscaling/horizontalpodautoscalers";

fn cpu(utilization: i64) -> Value {
    let target = json!({"type": "Utilization", "averageUtilization": utilization});
    json!({"type": "Resource", "resource": {"name": "cpu", "target": target}})
}

fn requests(value: &str) -> Value {
    json!({"type": "Pods", "pods": {
        "metric": {"name": "http_requests_per_second"}, "target": {"type": "AverageValue", "averageValue": value},
    }})
}

#[test]
fn filled_in() {
    default(V2, json!({}), "/spec/minReplicas", 1.into());
    default(V2, json!({}), "/spec/metrics", json!([cpu(80)]));
    default(V2, json!({"spec": {"metrics": [requests("5")]}}), "/spec/metrics", json!([requests("5")]));
    default(V2, json!({}), "/spec/behavior", Value::Null);
    let all = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let behavior = json!({"spec": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}}}});
    default(
        V2,
        behavior.clone(),
        "/spec/behavior/scaleDown",
        json!({"selectPolicy": "Max", "stabilizationWindowSeconds": 60, "policies": [all]}),
    );
    let four = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
    default(
        V2,
        behavior,
        "/spec/behavior/scaleUp",
        json!({"selectPolicy": "Max", "stabilizationWindowSeconds": 0, "policies": [four, all]}),
    );
    prepared(V2, json!({"status": {"currentReplicas": 3}}), "/status", json!({"desiredReplicas": 0}));
    default(V1, json!({}), "/spec/minReplicas", 1.into());
}

#[test]
fn rules() {
    let spec = |patch: Value, want: &[&str]| create(V2, json!({"spec": patch}), want);
    spec(
        json!({"minReplicas": 0, "maxReplicas": 0}),
        &[
            "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
            "spec.maxReplicas: Invalid value: 0: must be greater than 0",
        ],
    );
    spec(
        json!({"minReplicas": 7, "scaleTargetRef": {"kind": "a/b", "name": null}}),
        &[
            "spec.maxReplicas: Invalid value: 5: must be greater than or equal to `minReplicas`",
            "spec.scaleTargetRef.kind: Invalid value: \"a/b\": may not contain '/'",
            "spec.scaleTargetRef.name: Required value",
        ],
    );
    let metric = |metric: Value, want: &[&str]| spec(json!({"metrics": [metric]}), want);
    metric(requests("5"), &[]);
    const AT: &str = "spec.metrics[0]";
    metric(
        requests("0"),
        &[&format!("{AT}.pods.target.averageValue: Invalid value: \"0\": must be positive")],
    );
    metric(
        json!({"type": "Weather"}),
        &[&format!(
            "{AT}.type: Unsupported value: \"Weather\": supported values: \"ContainerResource\", \"External\", \"Object\", \
             \"Pods\", \"Resource\""
        )],
    );
    let mut two = cpu(80);
    two["pods"] = requests("5")["pods"].clone();
    two["type"] = "Pods".into();
    metric(two, &[&format!("{AT}.resource: Forbidden: must populate the given metric source only")]);
    metric(
        json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "target": {"type": "Utilization"}}}),
        &[
            &format!("{AT}.containerResource.container: Required value: must specify a container"),
            &format!(
                "{AT}.containerResource.target.averageUtilization: Required value: must set either a target raw value or a \
                 target utilization"
            ),
        ],
    );
    metric(
        json!({"type": "External", "external": {
            "metric": {"name": "q"}, "target": {"type": "Value", "value": "1", "averageValue": "1"},
        }}),
        &[&format!(
            "{AT}.external.target.value: Forbidden: may not set both a target value for metric and a per-pod target"
        )],
    );
    metric(
        json!({"type": "Resource"}),
        &[&format!("{AT}.resource: Required value: must populate information for the given metric source")],
    );
    spec(
        json!({"behavior": {"scaleUp": {
            "stabilizationWindowSeconds": 3601, "selectPolicy": "Most",
            "policies": [{"type": "Tenfold", "value": 0, "periodSeconds": 1801}],
        }}}),
        &[
            "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
            "spec.behavior.scaleUp.selectPolicy: Unsupported value: \"Most\": supported values: \"Disabled\", \"Max\", \"Min\"",
            "spec.behavior.scaleUp.policies[0].type: Unsupported value: \"Tenfold\": supported values: \"Percent\", \"Pods\"",
            "spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
            "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800",
        ],
    );
    status(
        V2,
        json!({}),
        json!({}),
        json!({"desiredReplicas": -1}),
        &["status.desiredReplicas: Invalid value: -1: must be greater than or equal to 0"],
    );
    // The older version keeps the same rules, and what its annotations say must make sense.
    create(
        V1,
        json!({"spec": {"targetCPUUtilizationPercentage": 0}}),
        &["spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0"],
    );
    let note = "autoscaling.alpha.kubernetes.io/metrics";
    create(
        V1,
        json!({"metadata": {"annotations": {note: "{}"}}}),
        &[&format!("metadata.annotations[{note}]: Invalid value: \"{{}}\": must be a list")],
    );
}

#[test]
fn rows() {
    for kind in [V1, V2] {
        headings(kind, "Name | Reference | Targets | MinPods | MaxPods | Replicas | Age", "");
    }
    row(V2, json!({}), "web | Deployment/web | <none> | <unset> | 5 | 0 | 60m");
    row(
        V1,
        json!({"spec": {"minReplicas": 2}}),
        "web | Deployment/web | cpu: <unknown>/80% | 2 | 5 | 0 | 60m",
    );
    let memory = json!({"type": "Resource", "resource": {
        "name": "memory", "target": {"type": "AverageValue", "averageValue": "100Mi"},
    }});
    let current = json!([
        {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 12, "averageValue": "3m"}}},
        {"type": "Pods", "pods": {"metric": {"name": "http_requests_per_second"}, "current": {"averageValue": "2500m"}}},
    ]);
    row(
        V2,
        json!({
            "spec": {"metrics": [cpu(50), requests("5"), memory]},
            "status": {"currentReplicas": 3, "currentMetrics": current},
        }),
        "web | Deployment/web | cpu: 12%/50%, 2500m/5 + 1 more... | <unset> | 5 | 3 | 60m",
    );
}

/// What the older version shows of an object of the newer one.
#[track_caller]
fn viewed(patch: Value) -> Value {
    let (stored, view) = (kind(V2), kind(V1));
    let mut object = changed(stored, &patch);
    stored.hooks.default(&mut object);
    view.hooks.from_stored(&mut object);
    let problems = schema::conform(view, &mut object).unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    object
}

#[test]
fn the_older_version_shows_what_it_can() {
    let object = viewed(json!({
        "spec": {"metrics": [cpu(50), requests("5")]},
        "status": {"desiredReplicas": 2, "currentMetrics": [
            {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 12}}},
        ]},
    }));
    assert_eq!(object["apiVersion"], "autoscaling/v1");
    assert_eq!(object["spec"]["targetCPUUtilizationPercentage"], 50);
    assert_eq!(object["status"]["currentCPUUtilizationPercentage"], 12);
    let notes = &object["metadata"]["annotations"];
    let read = |name: &str| -> Value {
        serde_json::from_str(notes[format!("autoscaling.alpha.kubernetes.io/{name}")].as_str().unwrap())
            .unwrap()
    };
    let flat = json!({"metricName": "http_requests_per_second", "targetAverageValue": "5"});
    assert_eq!(read("metrics"), json!([{"type": "Pods", "pods": flat}]));
    let flat = json!({"name": "cpu", "currentAverageUtilization": 12});
    assert_eq!(read("current-metrics"), json!([{"type": "Resource", "resource": flat}]));
    // Nothing to say is not said.
    assert_eq!(viewed(json!({}))["metadata"]["annotations"], Value::Null);
}

#[test]
fn the_older_version_loses_nothing() {
    let object = json!({"kind": "Service", "name": "web"});
    let condition = json!({"type": "ScalingActive", "status": "True", "reason": "ValidMetricFound"});
    let everything = json!({
        "metadata": {"annotations": {"mine": "stays"}},
        "spec": {
            "metrics": [
                requests("5"),
                {"type": "Object", "object": {
                    "describedObject": object, "metric": {"name": "q"}, "target": {"type": "Value", "value": "7"},
                }},
                {"type": "External", "external": {
                    "metric": {"name": "q", "selector": {"matchLabels": {"a": "b"}}},
                    "target": {"type": "AverageValue", "averageValue": "3"},
                }},
                {"type": "ContainerResource", "containerResource": {
                    "name": "memory", "container": "web", "target": {"type": "AverageValue", "averageValue": "1Gi"},
                }},
                cpu(50),
            ],
            "behavior": {"scaleDown": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}},
        },
        "status": {"currentReplicas": 2, "desiredReplicas": 3, "conditions": [condition], "currentMetrics": [
            {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 12, "averageValue": "3m"}}},
            {"type": "Object", "object": {
                "describedObject": object, "metric": {"name": "q"}, "current": {"value": "6"},
            }},
        ]},
    });
    let stored = kind(V2);
    let mut want = changed(stored, &everything);
    stored.hooks.default(&mut want);
    let mut view = viewed(everything);
    kind(V1).hooks.to_stored(&mut view);
    assert_eq!(view, want);
}

#[test]
fn the_status_is_not_the_users_in_the_older_version_either() {
    let view = kind(V1);
    let old = viewed(json!({"status": {"conditions": [{"type": "AbleToScale", "status": "True"}]}}));
    let new = updated(view, valid(view), &old);
    let conditions = "autoscaling.alpha.kubernetes.io/conditions";
    assert_eq!(new["metadata"]["annotations"][conditions], old["metadata"]["annotations"][conditions]);
    assert!(old["metadata"]["annotations"][conditions].is_string());
}
