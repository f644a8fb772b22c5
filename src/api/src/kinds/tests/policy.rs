//! Budgets, priorities, quotas, limits and templates: defaults, rules and rows.

use super::{
    defaults::{check as default, check_prepared as prepared},
    rules::{create, status, update},
    tables::{check as row, check_headings as headings},
    *,
};

const BUDGETS: &str = "policy/poddisruptionbudgets";
const PRIORITIES: &str = "scheduling.k8s.io/priorityclasses";
const QUOTAS: &str = "resourcequotas";
const LIMITS: &str = "limitranges";
const TEMPLATES: &str = "podtemplates";

#[test]
fn budgets() {
    let none = json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
    prepared(BUDGETS, json!({}), "/status", none);
    let spec = |patch: Value, want: &[&str]| create(BUDGETS, json!({"spec": patch}), want);
    spec(
        json!({"minAvailable": null, "maxUnavailable": "50%", "unhealthyPodEvictionPolicy": "AlwaysAllow"}),
        &[],
    );
    spec(json!({"selector": null}), &[]);
    spec(
        json!({"maxUnavailable": 1, "selector": null}),
        &[
            "spec: Invalid value: {\"maxUnavailable\":1,\"minAvailable\":1}: minAvailable and maxUnavailable cannot be both set",
        ],
    );
    spec(
        json!({"minAvailable": "150%", "unhealthyPodEvictionPolicy": "Never"}),
        &[
            "spec.minAvailable: Invalid value: \"150%\": must not be greater than 100%",
            "spec.unhealthyPodEvictionPolicy: Unsupported value: \"Never\": supported values: \"AlwaysAllow\", \
             \"IfHealthyBudget\"",
        ],
    );
    update(BUDGETS, json!({}), json!({"spec": {"minAvailable": 2}}), &[]);
    status(
        BUDGETS,
        json!({}),
        json!({}),
        json!({"disruptionsAllowed": -1}),
        &["status.disruptionsAllowed: Invalid value: -1: must be greater than or equal to 0"],
    );
    headings(BUDGETS, "Name | Min Available | Max Unavailable | Allowed Disruptions | Age", "");
    row(BUDGETS, json!({"status": {"disruptionsAllowed": 2}}), "web | 1 | N/A | 2 | 60m");
    row(
        BUDGETS,
        json!({"spec": {"minAvailable": null, "maxUnavailable": "50%"}}),
        "web | N/A | 50% | 0 | 60m",
    );
}

#[test]
fn priorities() {
    default(PRIORITIES, json!({}), "/preemptionPolicy", "PreemptLowerPriority".into());
    create(
        PRIORITIES,
        json!({"value": 1_000_000_001, "preemptionPolicy": "Maybe"}),
        &[
            "value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
            "preemptionPolicy: Unsupported value: \"Maybe\": supported values: \"PreemptLowerPriority\", \"Never\"",
        ],
    );
    let named = |name: &str, value: i64, want: &[&str]| {
        create(PRIORITIES, json!({"metadata": {"name": name}, "value": value}), want);
    };
    named("system-node-critical", 2_000_001_000, &[]);
    named(
        "system-node-critical",
        5,
        &[
            "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: \
           value of system-node-critical PriorityClass must be 2000001000",
        ],
    );
    named(
        "system-mine",
        5,
        &[
            "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: \
           system-mine is not a known system priority class",
        ],
    );
    update(
        PRIORITIES,
        json!({}),
        json!({"value": 5, "preemptionPolicy": "Never"}),
        &[
            "value: Forbidden: may not be changed in an update.",
            "preemptionPolicy: Invalid value: \"Never\": field is immutable",
        ],
    );
    headings(PRIORITIES, "Name | Value | Global-Default | Age | PreemptionPolicy", "");
    row(
        PRIORITIES,
        json!({"globalDefault": true, "preemptionPolicy": "Never"}),
        "web | 1000 | true | 60m | Never",
    );
}

#[test]
fn quotas() {
    let spec = |patch: Value, want: &[&str]| create(QUOTAS, json!({"spec": patch}), want);
    let hard = |hard: Value, want: &[&str]| spec(json!({"hard": hard}), want);
    hard(
        json!({"count/deployments.apps": "5", "requests.nvidia.com/gpu": "1", "requests.hugepages-2Mi": "2Mi"}),
        &[],
    );
    hard(
        json!({"pods": "1500m", "limits.cpu": "-1", "apples": "1"}),
        &[
            "spec.hard[apples]: Invalid value: \"apples\": must be a standard resource type or fully qualified",
            "spec.hard[limits.cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
            "spec.hard[pods]: Invalid value: \"1500m\": must be an integer",
        ],
    );
    hard(
        json!({"storage": "1Gi"}),
        &["spec.hard[storage]: Invalid value: \"storage\": must be a standard resource for quota"],
    );
    let scopes = |scopes: Value, want: &[&str]| spec(json!({"scopes": scopes}), want);
    scopes(json!(["NotBestEffort", "Terminating"]), &[]);
    scopes(
        json!(["BestEffort"]),
        &["spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource"],
    );
    scopes(json!(["Nice"]), &["spec.scopes: Invalid value: [\"Nice\"]: unsupported scope"]);
    scopes(
        json!(["Terminating", "NotTerminating"]),
        &["spec.scopes: Invalid value: [\"Terminating\",\"NotTerminating\"]: conflicting scopes"],
    );
    let selector = |requirement: Value, want: &[&str]| {
        spec(json!({"scopeSelector": {"matchExpressions": [requirement]}}), want);
    };
    selector(json!({"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}), &[]);
    const AT: &str = "spec.scopeSelector.matchExpressions";
    selector(
        json!({"scopeName": "PriorityClass", "operator": "In"}),
        &[&format!(
            "{AT}.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"
        )],
    );
    selector(
        json!({"scopeName": "Terminating", "operator": "Near"}),
        &[
            &format!(
                "{AT}.operator: Invalid value: \"Near\": must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, \
                 ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or \
                 ResourceQuotaScopeCrossNamespacePodAffinity"
            ),
            &format!("{AT}.operator: Invalid value: \"Near\": not a valid selector operator"),
        ],
    );
    update(QUOTAS, json!({}), json!({"spec": {"hard": {"pods": "20"}}}), &[]);
    update(
        QUOTAS,
        json!({}),
        json!({"spec": {"scopes": ["NotBestEffort"]}}),
        &["spec.scopes: Invalid value: [\"NotBestEffort\"]: field is immutable"],
    );
    status(
        QUOTAS,
        json!({}),
        json!({}),
        json!({"used": {"pods": "-1"}}),
        &["status.used[pods]: Invalid value: \"-1\": must be greater than or equal to 0"],
    );
    headings(QUOTAS, "Name | Request | Limit | Age", "");
    row(
        QUOTAS,
        json!({"status": {
            "hard": {"pods": "10", "limits.cpu": "4", "requests.memory": "1024Mi"}, "used": {"pods": "3"},
        }}),
        "web | pods: 3/10, requests.memory: 0/1Gi | limits.cpu: 0/4 | 60m",
    );
}

#[test]
fn limits() {
    let item = |item: Value, pointer: &str, want: Value| {
        default(LIMITS, json!({"spec": {"limits": [item]}}), &format!("/spec/limits/0/{pointer}"), want);
    };
    let bounds = json!({"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1", "memory": "1Mi"}});
    item(bounds.clone(), "default", json!({"cpu": "2"}));
    item(bounds, "defaultRequest", json!({"cpu": "2", "memory": "1Mi"}));
    item(json!({"type": "Pod", "max": {"cpu": "2"}}), "default", Value::Null);

    let limits = |items: Value, want: &[&str]| create(LIMITS, json!({"spec": {"limits": items}}), want);
    limits(
        json!([{"type": "Pod", "max": {"cpu": "1"}, "default": {"cpu": "1"}}, {"type": "Pod"}, {"type": "Disk"}]),
        &[
            "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
            "spec.limits[1].type: Duplicate value: \"Pod\"",
            "spec.limits[2].type: Invalid value: \"Disk\": must be a standard limit type or fully qualified",
        ],
    );
    limits(
        json!([{"type": "Container", "min": {"cpu": "3"}, "max": {"cpu": "2"}, "defaultRequest": {"cpu": "1"}}]),
        &[
            "spec.limits[0].min[cpu]: Invalid value: \"3\": min value 3 is greater than max value 2",
            "spec.limits[0].defaultRequest[cpu]: Invalid value: \"1\": min value 3 is greater than default request value 1",
            "spec.limits[0].default[cpu]: Invalid value: \"3\": min value 3 is greater than default value 2",
        ],
    );
    limits(
        json!([{"type": "Pod", "max": {"cpu": "4"}, "min": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "3"}}]),
        &[
            "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"3\": ratio 3 is greater than max/min = 2.000000",
        ],
    );
    limits(
        json!([{"type": "Pod", "maxLimitRequestRatio": {"cpu": "500m"}}]),
        &["spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is less than 1"],
    );
    limits(
        json!([{"type": "PersistentVolumeClaim"}]),
        &[
            "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was \
             provided",
        ],
    );
    limits(
        json!([{"type": "Container", "max": {"storage": "1Gi"}}]),
        &[
            "spec.limits[0].max[storage]: Invalid value: \"storage\": must be a standard resource for containers",
            "spec.limits[0].default[storage]: Invalid value: \"storage\": must be a standard resource for containers",
            "spec.limits[0].defaultRequest[storage]: Invalid value: \"storage\": must be a standard resource for containers",
        ],
    );
    headings(LIMITS, "Name | Created At", "");
    row(LIMITS, json!({}), "web | 2026-01-01T11:00:00Z");
}

#[test]
fn templates() {
    default(TEMPLATES, json!({}), "/template/spec/restartPolicy", "Always".into());
    create(
        TEMPLATES,
        json!({"template": {"spec": {"containers": []}}}),
        &["template.spec.containers: Required value"],
    );
    headings(TEMPLATES, "Name | Containers | Images | Pod Labels", "");
    row(TEMPLATES, json!({}), "web | web | registry.local/web:1 | app=web");
}
