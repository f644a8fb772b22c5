//! Jobs and cron jobs: defaults, rules and rows.

use super::{
    defaults::{check as default, check_prepared as prepared},
    rules::{create, status, update},
    tables::{check as row, check_headings as headings},
    *,
};

const JOBS: &str = "batch/jobs";
const CRON_JOBS: &str = "batch/cronjobs";

#[test]
fn defaults_of_jobs() {
    let spec = |patch: Value, pointer: &str, want: Value| {
        default(JOBS, json!({"spec": patch}), &format!("/spec/{pointer}"), want);
    };
    spec(json!({}), "completions", 1.into());
    spec(json!({}), "parallelism", 1.into());
    spec(json!({"parallelism": 3}), "completions", Value::Null);
    spec(json!({"completions": 3}), "parallelism", 1.into());
    spec(json!({}), "backoffLimit", 6.into());
    spec(json!({"backoffLimitPerIndex": 1}), "backoffLimit", i32::MAX.into());
    spec(json!({}), "completionMode", "NonIndexed".into());
    spec(json!({}), "suspend", false.into());
    spec(json!({}), "podReplacementPolicy", "TerminatingOrFailed".into());
    let policy = json!({"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]});
    spec(json!({"podFailurePolicy": policy}), "podReplacementPolicy", "Failed".into());
    spec(
        json!({"podFailurePolicy": policy}),
        "podFailurePolicy/rules/0/onPodConditions/0/status",
        "True".into(),
    );
}

#[test]
fn jobs_select_their_own_pods() {
    let own = json!({
        "batch.kubernetes.io/controller-uid": "1", "controller-uid": "1",
        "batch.kubernetes.io/job-name": "web", "job-name": "web",
    });
    let mut labels = own.clone();
    labels["app"] = "web".into();
    prepared(JOBS, json!({}), "/spec/template/metadata/labels", labels);
    let bare = json!({"spec": {"template": {"metadata": null}}});
    prepared(JOBS, bare.clone(), "/spec/template/metadata/labels", own.clone());
    prepared(JOBS, bare, "/metadata/labels", own);
    let selector = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "1"}});
    prepared(JOBS, json!({}), "/spec/selector", selector);
    create(
        JOBS,
        json!({"spec": {"template": {"metadata": {"labels": {"app": null, "job-name": "other"}}}}}),
        &[
            "spec.template.metadata.labels[job-name]: Invalid value: {\"batch.kubernetes.io/controller-uid\":\"1\",\
           \"batch.kubernetes.io/job-name\":\"web\",\"controller-uid\":\"1\",\"job-name\":\"other\"}: must be 'web'",
        ],
    );
    let manual = |patch: Value, want: &[&str]| {
        let mut spec = json!({"manualSelector": true});
        json_patch::merge(&mut spec, &patch);
        create(JOBS, json!({"spec": spec}), want);
    };
    manual(json!({"selector": {"matchLabels": {"app": "web"}}}), &[]);
    manual(
        json!({}),
        &[
            "spec.selector: Required value",
            "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
        ],
    );
}

#[test]
fn specs_of_jobs() {
    let spec = |patch: Value, want: &[&str]| create(JOBS, json!({"spec": patch}), want);
    let restart = |policy: &str| json!({"template": {"spec": {"restartPolicy": policy}}});
    spec(restart("OnFailure"), &[]);
    spec(
        restart("Always"),
        &["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""],
    );
    spec(
        json!({"parallelism": -1, "backoffLimit": -1}),
        &[
            "spec.parallelism: Invalid value: -1: must be greater than or equal to 0",
            "spec.backoffLimit: Invalid value: -1: must be greater than or equal to 0",
        ],
    );
    spec(
        json!({"backoffLimitPerIndex": 1, "maxFailedIndexes": 2}),
        &[
            "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode",
            "spec.maxFailedIndexes: Invalid value: 2: requires indexed completion mode",
        ],
    );
    spec(
        json!({"completionMode": "Sorted"}),
        &[
            "spec.completionMode: Unsupported value: \"Sorted\": supported values: \"NonIndexed\", \"Indexed\"",
        ],
    );
    spec(
        json!({"completionMode": "Indexed", "parallelism": 100_001}),
        &[
            "spec.completions: Required value: when completion mode is Indexed",
            "spec.parallelism: Invalid value: 100001: must be less than or equal to 100000 when completion mode is Indexed",
        ],
    );
    spec(
        json!({"completionMode": "Indexed", "completions": 100_001, "parallelism": 10_001, "backoffLimitPerIndex": 1}),
        &[
            "spec.maxFailedIndexes: Required value: must be specified when completions is above 100000",
            "spec.parallelism: Invalid value: 10001: must be less than or equal to 10000 when completions are above \
             100000 and used with backoff limit per index",
        ],
    );
    create(
        JOBS,
        json!({"metadata": {"name": "a.b"}, "spec": {"completionMode": "Indexed", "completions": 10}}),
        &["metadata.name: Invalid value: \"a.b\": will not able to create pod with invalid DNS label: a.b-9"],
    );
    spec(json!({"managedBy": "example.com/queue"}), &[]);
    spec(
        json!({"managedBy": "queue"}),
        &[
            "spec.managedBy: Invalid value: \"queue\": must be a domain-prefixed path (such as \"acme.io/foo\")",
        ],
    );
    spec(
        json!({"podReplacementPolicy": "Soon"}),
        &[
            "spec.podReplacementPolicy: Unsupported value: \"Soon\": supported values: \"Failed\", \"TerminatingOrFailed\"",
        ],
    );
}

#[test]
fn policies_of_jobs() {
    let rules = |rules: Value, want: &[&str]| {
        create(JOBS, json!({"spec": {"podFailurePolicy": {"rules": rules}}}), want);
    };
    let codes = |codes: Value| json!({"action": "FailJob", "onExitCodes": codes});
    rules(json!([codes(json!({"operator": "In", "values": [1, 42]}))]), &[]);
    const AT: &str = "spec.podFailurePolicy.rules[0]";
    rules(
        json!([codes(json!({"operator": "In", "values": [2, 0, 2], "containerName": "other"}))]),
        &[
            &format!(
                "{AT}.onExitCodes.containerName: Invalid value: \"other\": must be one of the container or initContainer \
                 names in the pod template"
            ),
            &format!("{AT}.onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator"),
            &format!("{AT}.onExitCodes.values[2]: Duplicate value: 2"),
            &format!("{AT}.onExitCodes.values: Invalid value: [2,0,2]: must be ordered"),
        ],
    );
    rules(
        json!([{"action": "Explode"}]),
        &[
            &format!(
                "{AT}.action: Unsupported value: \"Explode\": supported values: \"Count\", \"FailIndex\", \"FailJob\", \
                 \"Ignore\""
            ),
            &format!("{AT}: Invalid value: specifying one of OnExitCodes and OnPodConditions is required"),
        ],
    );
    rules(
        json!([{"action": "FailIndex", "onPodConditions": [{"type": "Ready", "status": "Maybe"}]}]),
        &[
            &format!(
                "{AT}.action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set"
            ),
            &format!(
                "{AT}.onPodConditions[0].status: Unsupported value: \"Maybe\": supported values: \"False\", \"True\", \
                 \"Unknown\""
            ),
        ],
    );
    rules(
        json!([{"onPodConditions": [{"type": "Ready"}]}]),
        &[&format!(
            "{AT}.action: Required value: valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]"
        )],
    );
    let success = |rules: Value, want: &[&str]| {
        let spec = json!({"completionMode": "Indexed", "completions": 5, "successPolicy": {"rules": rules}});
        create(JOBS, json!({"spec": spec}), want);
    };
    success(json!([{"succeededIndexes": "0,2-4", "succeededCount": 2}]), &[]);
    success(
        json!([]),
        &[
            "spec.successPolicy.rules: Required value: at least one rules must be specified when the successPolicy is specified",
        ],
    );
    success(
        json!([{}]),
        &[
            "spec.successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified",
        ],
    );
    success(
        json!([{"succeededIndexes": "0,9", "succeededCount": 6}]),
        &[
            "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"0,9\": error parsing succeededIndexes: too large \
             index: \"9\"",
            "spec.successPolicy.rules[0].succeededCount: Invalid value: 6: must be less than or equal to 5 (the number of \
             specified completions)",
            "spec.successPolicy.rules[0].succeededCount: Invalid value: 6: must be less than or equal to 0 (the number of \
             indexes in the specified succeededIndexes field)",
        ],
    );
}

/// What is wrong with changing the job made with `old` by `patch`.
#[track_caller]
fn change(old: Value, was_started: bool, patch: Value, want: &[&str]) {
    let kind = kind(JOBS);
    let mut before = created(kind, changed(kind, &json!({"spec": old})));
    if was_started {
        before["status"]["startTime"] = "2026-01-01T11:30:00Z".into();
    }
    let mut after = before.clone();
    json_patch::merge(&mut after, &json!({"spec": patch}));
    let after = updated(kind, after, &before);
    assert_eq!(lines(&kind.validate_update(&after, &before)), want);
}

#[test]
fn jobs_hardly_change() {
    change(json!({}), true, json!({"parallelism": 3, "suspend": true, "activeDeadlineSeconds": 5}), &[]);
    change(
        json!({}),
        true,
        json!({"completions": 3}),
        &["spec.completions: Invalid value: 3: field is immutable"],
    );
    let indexed = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2});
    change(indexed.clone(), true, json!({"completions": 3, "parallelism": 3}), &[]);
    change(
        indexed,
        true,
        json!({"completions": 3}),
        &["spec.completions: Invalid value: 3: can only be modified in tandem with spec.parallelism"],
    );
    change(
        json!({}),
        true,
        json!({"completionMode": "Indexed", "managedBy": "a.b/c"}),
        &[
            "spec.completionMode: Invalid value: \"Indexed\": field is immutable",
            "spec.managedBy: Invalid value: \"a.b/c\": field is immutable",
        ],
    );
    // Where the pods of a job may run can change as long as it has never run.
    let elsewhere =
        json!({"template": {"spec": {"nodeSelector": {"a": "b"}, "affinity": {"nodeAffinity": {}}}}});
    change(json!({"suspend": true}), false, elsewhere.clone(), &[]);
    let kind = kind(JOBS);
    let before = created(kind, changed(kind, &json!({"spec": {"suspend": true}})));
    let mut started = before.clone();
    started["status"]["startTime"] = "2026-01-01T11:30:00Z".into();
    let mut after = started.clone();
    json_patch::merge(&mut after, &json!({"spec": elsewhere}));
    let causes = kind.validate_update(&after, &started);
    assert_eq!(causes.len(), 1);
    assert!(causes[0].field == "spec.template" && causes[0].message.ends_with("field is immutable"));
    let mut after = before.clone();
    after["spec"]["template"]["spec"]["containers"][0]["image"] = "other".into();
    assert_eq!(kind.validate_update(&after, &before)[0].field, "spec.template", "the image is not where");
}

#[test]
fn finished_jobs_stay_finished() {
    let condition = |type_: &str| json!({"type": type_, "status": "True"});
    let complete = json!({
        "conditions": [condition("SuccessCriteriaMet"), condition("Complete")],
        "startTime": "2026-01-01T11:00:00Z", "completionTime": "2026-01-01T11:30:00Z", "succeeded": 1,
    });
    let check = |old: Value, new: Value, want: &[&str]| status(JOBS, json!({}), old, new, want);
    check(json!({}), complete.clone(), &[]);
    check(
        json!({}),
        json!({"conditions": [condition("Complete")], "active": 1}),
        &[
            "status.completionTime: Required value: completionTime is required for Complete jobs",
            "status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
            "status.active: Invalid value: 1: active>0 is invalid for finished job",
            "status.startTime: Required value: startTime is required for finished job",
        ],
    );
    check(
        json!({}),
        json!({"conditions": [condition("Failed")], "startTime": "2026-01-01T11:00:00Z"}),
        &[
            "status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition",
        ],
    );
    check(
        complete,
        json!({"conditions": [], "completionTime": null, "succeeded": 0}),
        &[
            "status.conditions: Invalid value: cannot disable the terminal Complete=True condition",
            "status.succeeded: Invalid value: 0: cannot decrease the succeeded counter",
            "status.conditions: Invalid value: cannot disable the SuccessCriteriaMet=True condition",
        ],
    );
    check(
        json!({"startTime": "2026-01-01T11:00:00Z"}),
        json!({"startTime": "2026-01-01T11:05:00Z"}),
        &["status.startTime: Required value: startTime cannot be removed for unsuspended job"],
    );
    check(
        json!({"startTime": "2026-01-01T11:00:00Z", "conditions": [condition("Suspended")]}),
        json!({"startTime": "2026-01-01T11:05:00Z"}),
        &[],
    );
    check(
        json!({}),
        json!({"ready": 2, "active": 1, "completedIndexes": "0"}),
        &[
            "status.completedIndexes: Invalid value: \"0\": cannot set non-empty completedIndexes when non-indexed completion \
             mode",
            "status.ready: Invalid value: 2: cannot set more ready pods than active",
        ],
    );
    status(
        JOBS,
        json!({"spec": {"completionMode": "Indexed", "completions": 5, "backoffLimitPerIndex": 1}}),
        json!({}),
        json!({"completedIndexes": "0-2", "failedIndexes": "2,4"}),
        &[
            "status.failedIndexes: Invalid value: \"2,4\": failedIndexes and completedIndexes overlap at index: 2",
        ],
    );
    check(
        json!({}),
        json!({"uncountedTerminatedPods": {"succeeded": ["a", "a"], "failed": [""]}}),
        &[
            "status.uncountedTerminatedPods.succeeded[1]: Duplicate value: \"a\"",
            "status.uncountedTerminatedPods.failed[0]: Invalid value: \"\": must not be empty",
        ],
    );
}

#[test]
fn cron_jobs() {
    let at = |pointer: &str, want: Value| default(CRON_JOBS, json!({}), &format!("/spec/{pointer}"), want);
    at("concurrencyPolicy", "Allow".into());
    at("suspend", false.into());
    at("successfulJobsHistoryLimit", 3.into());
    at("failedJobsHistoryLimit", 1.into());
    at("jobTemplate/spec/template/spec/dnsPolicy", "ClusterFirst".into());
    at("jobTemplate/spec/backoffLimit", Value::Null);

    let spec = |patch: Value, want: &[&str]| create(CRON_JOBS, json!({"spec": patch}), want);
    spec(json!({"schedule": null}), &["spec.schedule: Required value"]);
    spec(
        json!({"schedule": "61 * * * *"}),
        &["spec.schedule: Invalid value: \"61 * * * *\": end of range (61) above maximum (59): 61"],
    );
    spec(
        json!({"schedule": "CRON_TZ=UTC 0 * * * *"}),
        &[
            "spec.schedule: Invalid value: \"CRON_TZ=UTC 0 * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone \
           field instead",
        ],
    );
    spec(json!({"schedule": "@every -5s"}), &[]);
    for zone in ["UTC", "Etc/UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires"] {
        spec(json!({"timeZone": zone}), &[]);
    }
    spec(
        json!({"timeZone": "europe/berlin"}),
        &["spec.timeZone: Invalid value: \"europe/berlin\": unknown time zone europe/berlin"],
    );
    spec(
        json!({"timeZone": ""}),
        &["spec.timeZone: Invalid value: \"\": timeZone must be nil or non-empty string"],
    );
    spec(
        json!({"timeZone": "../etc"}),
        &["spec.timeZone: Invalid value: \"../etc\": unknown time zone ../etc"],
    );
    spec(
        json!({"timeZone": "local"}),
        &["spec.timeZone: Invalid value: \"local\": timeZone must be an explicit time zone as defined in \
           https://www.iana.org/time-zones"],
    );
    spec(
        json!({"concurrencyPolicy": "Queue", "startingDeadlineSeconds": -1}),
        &[
            "spec.startingDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0",
            "spec.concurrencyPolicy: Unsupported value: \"Queue\": supported values: \"Allow\", \"Forbid\", \"Replace\"",
        ],
    );
    spec(
        json!({"jobTemplate": {"spec": {"selector": {}, "manualSelector": true}}}),
        &[
            "spec.jobTemplate.spec.selector: Invalid value: {}: `selector` will be auto-generated",
            "spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: \"nil\", \"false\"",
        ],
    );
    spec(
        json!({"jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": null}}}}}),
        &[
            "spec.jobTemplate.spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
        ],
    );
    let long = "a".repeat(53);
    create(
        CRON_JOBS,
        json!({"metadata": {"name": long}}),
        &[&format!("metadata.name: Invalid value: \"{long}\": must be no more than 52 characters")],
    );
    update(CRON_JOBS, json!({}), json!({"spec": {"schedule": "@hourly", "suspend": true}}), &[]);
}

#[test]
fn rows() {
    headings(JOBS, "Name | Status | Completions | Duration | Age", "Containers | Images | Selector");
    headings(
        CRON_JOBS,
        "Name | Schedule | Timezone | Suspend | Active | Last Schedule | Age",
        "Containers | Images | Selector",
    );
    let wide = "web | registry.local/web:1";
    row(JOBS, json!({}), &format!("web | Running | 0/1 |  | 60m | {wide} | <none>"));
    row(
        JOBS,
        json!({"spec": {"parallelism": 3}, "status": {"succeeded": 2, "startTime": "2026-01-01T11:58:00Z"}}),
        &format!("web | Running | 2/1 of 3 | 2m | 60m | {wide} | <none>"),
    );
    let complete = json!({
        "conditions": [{"type": "Complete", "status": "True"}],
        "succeeded": 5, "startTime": "2026-01-01T11:58:00Z", "completionTime": "2026-01-01T11:58:30Z",
    });
    row(
        JOBS,
        json!({"spec": {"completions": 5, "selector": {"matchLabels": {"a": "b"}}}, "status": complete}),
        &format!("web | Complete | 5/5 | 30s | 60m | {wide} | a=b"),
    );
    row(
        JOBS,
        json!({"status": {"conditions": [{"type": "Suspended", "status": "True"}]}}),
        &format!("web | Suspended | 0/1 |  | 60m | {wide} | <none>"),
    );
    row(
        CRON_JOBS,
        json!({}),
        &format!("web | */5 * * * * | <none> | <unset> | 0 | <none> | 60m | {wide} | <none>"),
    );
    row(
        CRON_JOBS,
        json!({
            "spec": {"timeZone": "UTC", "suspend": false},
            "status": {"active": [{"name": "a"}], "lastScheduleTime": "2026-01-01T11:55:00Z"},
        }),
        &format!("web | */5 * * * * | UTC | False | 1 | 5m | 60m | {wide} | <none>"),
    );
}
