//! Plans and counts by tables, and the running controller on a fake API that misbehaves and with a
//! process that is killed.

use std::collections::BTreeSet;

use coracle_client::{random, test_support::FakeApi, test_support::Fault, test_support::eventually};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        batch::v1::{
            JobCondition, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
            PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule, SuccessPolicyRule,
            UncountedTerminatedPods,
        },
        core::v1::{
            ContainerState, ContainerStateTerminated, ContainerStatus, Event, PodCondition, PodTemplateSpec,
        },
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector as ApiSelector, ObjectMeta, Time},
};
use kube::{ResourceExt, api::DeleteParams};

use super::{
    plan::{Act, Plan},
    status::Done,
    *,
};
use crate::{
    Controller as Registered,
    testing::{Bench, chaos, labels, meta, pod},
};

const ONLY: &[Registered] = &[Registered { name: NAME, run }];

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).expect("in range")
}

/// A job by words like `completions=3 parallelism=2 indexed suspend`.
fn job(text: &str) -> Job {
    let mut spec = JobSpec {
        selector: Some(ApiSelector {
            match_labels: Some(labels(&[("app", "web")])),
            ..ApiSelector::default()
        }),
        backoff_limit: Some(6),
        parallelism: Some(1),
        template: PodTemplateSpec {
            metadata: Some(ObjectMeta { labels: Some(labels(&[("app", "web")])), ..ObjectMeta::default() }),
            spec: pod("").spec,
        },
        ..JobSpec::default()
    };
    let mut status = JobStatus::default();
    let mut job = Job { metadata: meta("work"), ..Job::default() };
    job.metadata.uid = Some("u".to_owned());
    let condition = |type_: &str| JobCondition {
        type_: type_.to_owned(),
        status: "True".to_owned(),
        reason: Some("Why".to_owned()),
        ..JobCondition::default()
    };
    for word in text.split_whitespace() {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let number = || Some(value.parse().expect("a number"));
        match name {
            "completions" => spec.completions = number(),
            "parallelism" => spec.parallelism = number(),
            "limit" => spec.backoff_limit = number(),
            "per-index" => {
                spec.backoff_limit_per_index = number();
                spec.backoff_limit = Some(i32::MAX);
            }
            "max-indexes" => spec.max_failed_indexes = number(),
            "deadline" => spec.active_deadline_seconds = number().map(i64::from),
            "indexed" => spec.completion_mode = Some("Indexed".to_owned()),
            "suspend" => spec.suspend = Some(true),
            "replace-failed" => spec.pod_replacement_policy = Some("Failed".to_owned()),
            "on-failure" => {
                spec.template.spec.as_mut().expect("has one").restart_policy = Some("OnFailure".to_owned());
            }
            "managed" => spec.managed_by = Some(value.to_owned()),
            "going" => job.metadata.deletion_timestamp = Some(Time(now())),
            "policy" => {
                spec.pod_failure_policy =
                    Some(PodFailurePolicy { rules: value.split(',').map(rule).collect() });
            }
            "success" => {
                let (indexes, count) = value.split_once(':').unwrap_or((value, ""));
                let rule = SuccessPolicyRule {
                    succeeded_indexes: Some(indexes.to_owned()).filter(|text| !text.is_empty()),
                    succeeded_count: count.parse().ok(),
                };
                spec.success_policy.get_or_insert_default().rules.push(rule);
            }
            "started" => {
                status.start_time =
                    Some(Time(now() - SignedDuration::from_secs(number().map_or(0, i64::from))));
            }
            "succeeded" => status.succeeded = number(),
            "failed" => status.failed = number(),
            "done" => status.completed_indexes = Some(value.to_owned()),
            "lost" => status.failed_indexes = Some(value.to_owned()),
            "uncounted" => {
                let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
                uncounted.succeeded = Some(value.split(',').map(|name| format!("uid-{name}")).collect());
            }
            "is" => status.conditions.get_or_insert_default().push(condition(value)),
            other => panic!("unknown word {other}"),
        }
    }
    job.spec = Some(spec);
    job.status = Some(status);
    job
}

/// A rule like `FailJob@42` (exit code) or `Ignore@DisruptionTarget` (condition).
fn rule(text: &str) -> PodFailurePolicyRule {
    let (action, on) = text.split_once('@').expect("ACTION@WHAT");
    let codes = on.parse().ok().map(|code| PodFailurePolicyOnExitCodesRequirement {
        operator: "In".to_owned(),
        values: vec![code],
        container_name: None,
    });
    let conditions = codes.is_none().then(|| {
        vec![PodFailurePolicyOnPodConditionsPattern { type_: on.to_owned(), status: "True".to_owned() }]
    });
    PodFailurePolicyRule { action: action.to_owned(), on_exit_codes: codes, on_pod_conditions: conditions }
}

/// A pod of the job by words: its name, then `ok`, `bad[=CODE]`, `going`, `counted` (no finalizer),
/// `disrupted`, `at=INDEX`, `fails=N`, `ago=SECONDS` (when it ended), `restarts=N`.
fn described(text: &str) -> Arc<Pod> {
    let mut words = text.split_whitespace();
    let mut pod = pod(words.next().expect("a name"));
    pod.metadata.uid = Some(format!("uid-{}", pod.name_any()));
    pod.metadata.finalizers = Some(vec![view::FINALIZER.to_owned()]);
    pod.metadata.owner_references = claim::owner_reference(&job("")).map(|owner| vec![owner]);
    pod.status.get_or_insert_default().phase = Some("Running".to_owned());
    let mut ended = None;
    let mut ago = 1000;
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let status = pod.status.get_or_insert_default();
        match name {
            "ok" => {
                status.phase = Some("Succeeded".to_owned());
                ended = Some(0);
            }
            "bad" => {
                status.phase = Some("Failed".to_owned());
                ended = Some(value.parse().unwrap_or(1));
            }
            "going" => pod.metadata.deletion_timestamp = Some(Time(now())),
            "counted" => pod.metadata.finalizers = None,
            "disrupted" => {
                let condition = PodCondition {
                    type_: "DisruptionTarget".to_owned(),
                    status: "True".to_owned(),
                    ..PodCondition::default()
                };
                status.conditions.get_or_insert_default().push(condition);
            }
            "at" => {
                pod.annotations_mut().insert(view::INDEX.to_owned(), value.to_owned());
            }
            "fails" => {
                pod.annotations_mut().insert(view::INDEX_FAILURES.to_owned(), value.to_owned());
            }
            "ago" => ago = value.parse().expect("a number"),
            "restarts" => {
                let status_of = ContainerStatus {
                    restart_count: value.parse().expect("a number"),
                    ..ContainerStatus::default()
                };
                status.container_statuses = Some(vec![status_of]);
            }
            other => panic!("unknown word {other}"),
        }
    }
    if let Some(code) = ended {
        let finished = Some(Time(now() - SignedDuration::from_secs(ago)));
        let terminated =
            ContainerStateTerminated { exit_code: code, finished_at: finished, ..Default::default() };
        let state = Some(ContainerState { terminated: Some(terminated), ..ContainerState::default() });
        let status = ContainerStatus { name: "main".to_owned(), state, ..ContainerStatus::default() };
        pod.status.get_or_insert_default().container_statuses = Some(vec![status]);
    }
    Arc::new(pod)
}

fn names(pods: &[Arc<Pod>]) -> String {
    pods.iter().map(|pod| pod.name_any()).collect::<Vec<_>>().join(",")
}

fn said(plan: &Plan) -> String {
    let act = match &plan.act {
        Act::Nothing => String::new(),
        Act::Create(slots) => {
            let index = |slot: &plan::Slot| {
                let failures = slot.failures.filter(|failures| failures.total() > 0);
                let failures = failures.map(|failures| format!("/{}+{}", failures.counted, failures.ignored));
                slot.index.map(|index| format!("{index}{}", failures.unwrap_or_default()))
            };
            let indexes: Vec<_> = slots.iter().filter_map(index).collect();
            if indexes.is_empty() {
                format!("create {}", slots.len())
            } else {
                format!("create at {}", indexes.join(","))
            }
        }
        Act::Remove(pods) if pods.is_empty() => String::new(),
        Act::Remove(pods) => format!("remove {}", names(pods)),
        Act::End(pods) => format!("end {}", names(pods)).trim_end().to_owned(),
    };
    let verdict = plan.verdict.as_ref().map(|verdict| format!("{} {}", verdict.interim(), verdict.reason));
    let again = plan.again.map(|again| format!("again in {}", again.as_secs()));
    let all = [Some(act).filter(|act| !act.is_empty()), verdict, again];
    all.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

#[track_caller]
fn check(text: &str, pods: &[&str], expected: &str) {
    let job = job(text);
    let pods: Vec<_> = pods.iter().map(|text| described(text)).collect();
    let view = View::new(&job, job.spec.as_ref().expect("has one"), &pods);
    let plan = plan::plan(&view, plan::recover(&view), now());
    assert_eq!(said(&plan), expected, "{text}");
}

#[test]
fn numbers_of_pods() {
    check("completions=3 parallelism=2", &[], "create 2");
    check("completions=3 parallelism=5", &["a"], "create 2");
    check("completions=3 parallelism=2 succeeded=2", &[], "create 1");
    check("completions=3 parallelism=2 succeeded=1 uncounted=a", &["a ok"], "create 1");
    check("completions=3 parallelism=2", &["a ok", "b ok", "c ok"], "");
    check("completions=3 parallelism=1", &["a", "b"], "remove a");
    check("completions=3 parallelism=2 succeeded=2", &["a", "b going"], "");
    check("completions=1 parallelism=0", &["a"], "remove a");
    check("parallelism=3", &["a"], "create 2");
    check("parallelism=3", &["a ok", "b"], "");
    check("completions=2000 parallelism=1000", &[], "create 500");
    check("completions=3 parallelism=2 suspend", &["a", "b ok"], "remove a");
    check("completions=3 parallelism=2 going", &["a"], "");
}

#[test]
fn pods_that_are_being_deleted_are_replaced_at_once_or_when_they_ended() {
    check("completions=2 parallelism=2", &["a", "b going"], "again in 10");
    check("completions=2 parallelism=2 replace-failed", &["a", "b going"], "");
    check("completions=2 parallelism=2 replace-failed", &["a", "b going bad"], "create 1");
    check("completions=2 parallelism=2 indexed replace-failed", &["a at=1 going"], "create at 0");
    check("completions=2 parallelism=2 policy=Ignore@DisruptionTarget", &["a", "b going"], "");
}

#[test]
fn indexes_are_filled_from_below_and_once() {
    check("completions=5 parallelism=3 indexed", &[], "create at 0,1,2");
    check("completions=5 parallelism=3 indexed done=0-1", &["a at=3"], "create at 2,4");
    check("completions=5 parallelism=3 indexed", &["a at=1", "b at=1", "c", "d at=9"], "remove c,d,a");
    check("completions=2 parallelism=2 indexed done=0-1", &[], "");
    check(
        "completions=1000000000 parallelism=2 indexed done=0-999999997",
        &[],
        "create at 999999998,999999999",
    );
}

#[test]
fn failures_are_waited_for() {
    check("completions=1", &["a bad ago=4"], "again in 6");
    check("completions=1", &["a bad ago=11"], "create 1");
    check("completions=1", &["a bad ago=100", "b bad ago=15"], "again in 5");
    check(
        "completions=1 failed=3",
        &["a bad counted", "b bad counted", "c bad counted ago=3"],
        "again in 37",
    );
    check("completions=5", &["a bad ago=20", "b ok ago=10"], "create 1");
    check("completions=1 limit=99", &["a bad ago=-5000"], "again in 10");
    let many: Vec<String> = (0..40).map(|at| format!("p{at} bad ago=1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    check("completions=1 limit=99", &many, "again in 599");
}

#[test]
fn limits_end_a_job() {
    check("completions=1 limit=1", &["a bad", "b bad"], "end; FailureTarget BackoffLimitExceeded");
    check(
        "completions=2 parallelism=2 limit=0",
        &["a bad", "b"],
        "end b; FailureTarget BackoffLimitExceeded",
    );
    check("completions=1 limit=2 failed=2", &["a counted bad"], "create 1");
    check("completions=1 limit=2 on-failure", &["a restarts=2"], "end a; FailureTarget BackoffLimitExceeded");
    check("completions=1 limit=2 on-failure", &["a restarts=1"], "");
    check("completions=1 limit=0 on-failure", &["a restarts=0"], "");
    check("completions=1 deadline=10 started=4", &["a"], "again in 6");
    check("completions=1 deadline=10 started=10", &["a"], "end a; FailureTarget DeadlineExceeded");
    check("completions=1 deadline=10 started=10 suspend", &["a"], "remove a");
    check("completions=1 is=FailureTarget", &["a"], "end a; FailureTarget Why");
    check("completions=1 is=SuccessCriteriaMet", &["a bad"], "end; SuccessCriteriaMet Why");
}

#[test]
fn indexes_fail_on_their_own() {
    let two = "completions=2 parallelism=2 indexed";
    check(&format!("{two} per-index=1"), &["a bad at=0", "b at=1"], "create at 0/1+0");
    check(&format!("{two} per-index=1"), &["a bad at=0 ago=3", "b at=1"], "again in 7");
    check(&format!("{two} per-index=1"), &["a bad at=0 fails=1", "b at=1"], "");
    check(&format!("{two} per-index=0"), &["a bad at=0", "b ok at=1"], "end; FailureTarget FailedIndexes");
    check(
        &format!("{two} per-index=0 max-indexes=0"),
        &["a bad at=0", "b at=1"],
        "end b; FailureTarget MaxFailedIndexesExceeded",
    );
    check(
        &format!("{two} per-index=5 policy=FailIndex@42"),
        &["a bad=42 at=0", "b ok at=1"],
        "end; FailureTarget FailedIndexes",
    );
    check(
        &format!("{two} per-index=5 policy=Ignore@42"),
        &["a bad=42 at=0 fails=2", "b at=1"],
        "create at 0/2+1",
    );
    check(&format!("{two} per-index=0 lost=0"), &["b at=1"], "");
}

#[test]
fn policies_decide() {
    let one = "completions=1 limit=0";
    check(&format!("{one} policy=FailJob@42"), &["a bad=42"], "end; FailureTarget PodFailurePolicy");
    check(&format!("{one} policy=Ignore@DisruptionTarget"), &["a bad disrupted"], "create 1");
    check(
        &format!("{one} policy=Count@42,Ignore@42"),
        &["a bad=42"],
        "end; FailureTarget BackoffLimitExceeded",
    );
    check(&format!("{one} policy=New@42"), &["a bad=42"], "end; FailureTarget BackoffLimitExceeded");
    let four = "completions=4 parallelism=4 indexed";
    check(
        &format!("{four} success=0-1"),
        &["a ok at=0", "b ok at=1", "c at=2"],
        "end c; SuccessCriteriaMet SuccessPolicy",
    );
    check(&format!("{four} success=0-2:1 done=1"), &["c at=2"], "end c; SuccessCriteriaMet SuccessPolicy");
    check(&format!("{four} success=:3 done=1"), &["c at=2"], "create at 0,3");
    let message = |text: &str, pod: &str| {
        let (job, pods) = (job(text), [described(pod)]);
        let view = View::new(&job, job.spec.as_ref().expect("has one"), &pods);
        plan::plan(&view, Backoff::default(), now()).verdict.map(|verdict| verdict.message)
    };
    assert_eq!(
        message(&format!("{one} policy=Count@1,FailJob@42"), "a bad=42").as_deref(),
        Some("Container main for pod ns/a failed with exit code 42 matching FailJob rule at index 1")
    );
    assert_eq!(
        message(&format!("{one} policy=FailJob@DisruptionTarget"), "a bad disrupted").as_deref(),
        Some("Pod ns/a has condition DisruptionTarget matching FailJob rule at index 0")
    );
    assert_eq!(
        message(&format!("{four} success=9 success=1"), "a ok at=1").as_deref(),
        Some("Matched rules at index 1")
    );
}

/// The status after everything was done, as `succeeded/failed INDEXES (uncounted) CONDITIONS`, and the pods let go of.
#[track_caller]
fn check_status(text: &str, pods: &[&str], expected: &str) {
    let job = job(text);
    let pods: Vec<_> = pods.iter().map(|text| described(text)).collect();
    let view = View::new(&job, job.spec.as_ref().expect("has one"), &pods);
    let plan = plan::plan(&view, Backoff::default(), now());
    let deleted = match &plan.act {
        Act::Remove(pods) | Act::End(pods) => pods.len(),
        Act::Create(_) | Act::Nothing => 0,
    };
    let done = Done { whole: true, deleted, ..Done::default() };
    let tracked = status::track(&view, &plan, done, now());
    let UncountedTerminatedPods { failed, succeeded } =
        tracked.status.uncounted_terminated_pods.clone().expect("always there");
    let named: Vec<_> = succeeded.into_iter().chain(failed).flatten().collect();
    let released: HashSet<String> =
        tracked.release.iter().map(|pod| pods::uid(&pod.metadata).to_owned()).collect();
    let kept = pods.iter().filter(|pod| view::is_tracked(&pod.metadata));
    let kept =
        kept.map(|pod| pods::uid(&pod.metadata).to_owned()).filter(|uid| !released.contains(uid)).collect();
    let (status, _) = status::close(&tracked, &kept, now());
    let conditions = status.conditions.unwrap_or_default();
    let conditions: Vec<_> = conditions.iter().map(|condition| condition.type_.as_str()).collect();
    let said = format!(
        "{}/{} {}{} ({}) {}; let go {}",
        status.succeeded.unwrap_or(0),
        status.failed.unwrap_or(0),
        status.completed_indexes.unwrap_or_default(),
        status.failed_indexes.map(|text| format!("!{text}")).unwrap_or_default(),
        named.join(",").replace("uid-", ""),
        conditions.join(","),
        names(&tracked.release),
    );
    assert_eq!(said, expected, "{text}");
}

#[test]
fn what_is_counted() {
    check_status("completions=3", &["a ok", "b"], "1/0  (a) ; let go a");
    check_status("completions=3 uncounted=a", &["a ok"], "1/0  (a) ; let go a");
    check_status("completions=3 succeeded=1 uncounted=a", &["a ok counted"], "2/0  () ; let go ");
    check_status("completions=3 succeeded=1", &["a ok counted"], "1/0  () ; let go ");
    check_status("completions=3 succeeded=1 uncounted=gone", &[], "2/0  () ; let go ");
    check_status("completions=3", &["a bad", "b going"], "0/2  (a,b) ; let go a,b");
    check_status("completions=1", &["a ok"], "1/0  (a) SuccessCriteriaMet,Complete; let go a");
    check_status("completions=1", &["a ok", "b going"], "1/1  (a,b) SuccessCriteriaMet; let go a,b");
    check_status(
        "completions=2 parallelism=2 limit=0",
        &["a bad", "b"],
        "0/2  (a,b) FailureTarget; let go a,b",
    );
    check_status("completions=1 limit=0", &["a bad"], "0/1  (a) FailureTarget,Failed; let go a");
    check_status("completions=9 policy=Ignore@42", &["a bad=42"], "0/0  () ; let go a");
    check_status(
        "completions=3 indexed done=0",
        &["a ok at=1", "b ok at=0", "c bad at=7"],
        "2/0 0,1 () ; let go b,a,c",
    );
    check_status("completions=3 indexed per-index=0", &["a bad at=1"], "0/1 !1 (a) ; let go a");
    check_status("completions=3 indexed per-index=1", &["a bad at=1"], "0/0 ! () ; let go ");
    check_status(
        "completions=3 indexed per-index=1 parallelism=3",
        &["a bad at=1", "b at=1 fails=1"],
        "0/1 ! (a) ; let go a",
    );
    check_status("completions=1 going", &["a"], "0/0  () ; let go a");
    check_status("completions=1 suspend", &["a"], "0/0  () Suspended; let go ");
}

fn created(bench: &Bench) -> Vec<Pod> {
    bench.api.list::<Pod>().into_iter().filter(pods::is_active).collect()
}

/// Ends a pod.
fn end(api: &FakeApi, name: &str, code: i32) {
    api.edit("ns", name, |pod: &mut Pod| {
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        let terminated = ContainerStateTerminated {
            exit_code: code,
            finished_at: Some(clock::time()),
            ..ContainerStateTerminated::default()
        };
        let state = Some(ContainerState { terminated: Some(terminated), ..ContainerState::default() });
        let container = ContainerStatus { name: "main".to_owned(), state, ..ContainerStatus::default() };
        let status = pod.status.get_or_insert_default();
        status.phase = Some(phase.to_owned());
        status.container_statuses = Some(vec![container]);
    });
}

fn status_of(api: &FakeApi) -> JobStatus {
    api.get::<Job>("ns", "work").and_then(|job| job.status).unwrap_or_default()
}

fn is(api: &FakeApi, type_: &str) -> Option<JobCondition> {
    let conditions = status_of(api).conditions?;
    conditions.into_iter().find(|condition| condition.type_ == type_ && condition.status == "True")
}

fn reasons(api: &FakeApi) -> BTreeSet<String> {
    api.list::<Event>().into_iter().filter_map(|event| event.reason).collect()
}

fn fresh(text: &str) -> Job {
    let mut job = job(text);
    job.metadata.uid = None;
    job.status = None;
    job
}

#[tokio::test(start_paused = true)]
async fn an_indexed_job_runs_to_its_end() {
    let bench = Bench::start(ONLY);
    bench.api.create(&fresh("completions=3 parallelism=2 indexed"));
    for index in 0..3 {
        let at = |pod: &Pod| view::index(pod) == Some(index);
        let pod = eventually("the pod", || created(&bench).into_iter().find(at)).await;
        let spec = pod.spec.clone().expect("has one");
        assert_eq!(spec.hostname.as_deref(), Some(format!("work-{index}").as_str()));
        assert_eq!(
            spec.containers[0].env.as_ref().map(|env| env[0].name.as_str()),
            Some("JOB_COMPLETION_INDEX")
        );
        assert!(pod.name_any().starts_with(&format!("work-{index}-")), "{}", pod.name_any());
        assert_eq!(pod.labels().get(view::INDEX), Some(&index.to_string()));
        end(&bench.api, &pod.name_any(), 0);
    }
    let complete = eventually("the end", || is(&bench.api, "Complete")).await;
    assert_eq!(complete.reason.as_deref(), Some("CompletionsReached"));
    bench.quiet().await;
    bench.handle.shutdown().await;
    let status = status_of(&bench.api);
    assert_eq!((status.succeeded, status.completed_indexes.as_deref()), (Some(3), Some("0-2")));
    assert!(status.completion_time.is_some() && status.start_time.is_some());
    assert_eq!((status.active, status.ready, status.terminating), (None, Some(0), Some(0)));
    assert!(bench.api.list::<Pod>().iter().all(|pod| !view::is_tracked(&pod.metadata)));
    assert_eq!(reasons(&bench.api), ["Completed", "SuccessfulCreate"].map(str::to_owned).into());
}

#[tokio::test(start_paused = true)]
async fn failures_back_off_and_end_the_job() {
    let bench = Bench::start(ONLY);
    bench.api.create(&fresh("completions=1 limit=2"));
    let mut waited = Vec::new();
    let start = tokio::time::Instant::now();
    for _ in 0..3 {
        let pod = eventually("a pod", || created(&bench).pop()).await;
        waited.push(start.elapsed().as_secs());
        end(&bench.api, &pod.name_any(), 1);
    }
    let failed = eventually("the end", || is(&bench.api, "Failed")).await;
    assert_eq!(failed.reason.as_deref(), Some("BackoffLimitExceeded"));
    assert_eq!(failed.message.as_deref(), Some("Job has reached the specified backoff limit"));
    assert_eq!(status_of(&bench.api).failed, Some(3));
    let (first, second) = (waited[1] - waited[0], waited[2] - waited[1]);
    assert!((9..=11).contains(&first) && (19..=21).contains(&second), "{waited:?}");
    bench.quiet().await;
    bench.handle.shutdown().await;
    assert!(reasons(&bench.api).contains("BackoffLimitExceeded"));
}

#[tokio::test(start_paused = true)]
async fn a_job_is_suspended_and_resumed() {
    let bench = Bench::start(ONLY);
    bench.api.create(&fresh("completions=2 parallelism=2 deadline=100"));
    eventually("pods", || (created(&bench).len() == 2).then_some(())).await;
    let suspend = |value| {
        bench
            .api
            .edit("ns", "work", |job: &mut Job| job.spec.as_mut().expect("has one").suspend = Some(value));
    };
    suspend(true);
    eventually("suspended", || is(&bench.api, "Suspended")).await;
    eventually("no pods", || bench.api.list::<Pod>().is_empty().then_some(())).await;
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(status_of(&bench.api).failed, None, "pods of a suspended job have not failed");
    suspend(false);
    eventually("pods", || (created(&bench).len() == 2).then_some(())).await;
    eventually("resumed", || is(&bench.api, "Suspended").is_none().then_some(())).await;
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert!(is(&bench.api, "FailureTarget").is_none(), "the deadline counts from the resumption");
    let failed = eventually("the deadline", || is(&bench.api, "Failed")).await;
    assert_eq!(failed.reason.as_deref(), Some("DeadlineExceeded"));
    bench.quiet().await;
    bench.handle.shutdown().await;
    let told = reasons(&bench.api);
    for reason in ["Suspended", "Resumed", "DeadlineExceeded", "SuccessfulDelete"] {
        assert!(told.contains(reason), "{told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn pods_that_a_success_ends_have_not_failed() {
    let bench = Bench::start(ONLY);
    bench.api.create(&fresh("completions=4 parallelism=4 indexed success=0:1"));
    let pods = eventually("pods", || Some(created(&bench)).filter(|pods| pods.len() == 4)).await;
    let first = pods.iter().find(|pod| view::index(pod) == Some(0)).expect("each index has a pod");
    end(&bench.api, &first.name_any(), 0);
    eventually("the end", || is(&bench.api, "Complete")).await;
    bench.quiet().await;
    assert!(bench.api.list::<Pod>().iter().all(|pod| !view::is_tracked(&pod.metadata)));
    let status = status_of(&bench.api);
    assert_eq!((status.succeeded, status.failed), (Some(1), None));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_beyond_all_time_does_no_harm() {
    let bench = Bench::start(ONLY);
    let mut job = fresh("completions=1");
    job.spec.as_mut().expect("has one").active_deadline_seconds = Some(i64::MAX);
    bench.api.create(&job);
    let pod = eventually("a pod", || created(&bench).pop()).await;
    bench.quiet().await;
    end(&bench.api, &pod.name_any(), 0);
    eventually("the end", || is(&bench.api, "Complete")).await;
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_job_that_is_gone_are_let_go() {
    let bench = Bench::start(ONLY);
    bench.api.create(&fresh("completions=5 parallelism=5"));
    eventually("pods", || (created(&bench).len() == 5).then_some(())).await;
    bench.api.remove::<Job>("ns", "work");
    let pods: Api<Pod> = Api::namespaced(bench.api.client(), "ns");
    for pod in created(&bench) {
        pods.delete(&pod.name_any(), &DeleteParams::default()).await.expect("deleted");
    }
    eventually("none left", || bench.api.list::<Pod>().is_empty().then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn jobs_of_others_and_unknown_modes_are_left_alone() {
    let bench = Bench::start(ONLY);
    bench.api.create(&fresh("completions=1 managed=example.com/own"));
    let mut strange = fresh("completions=1");
    strange.metadata.name = Some("strange".to_owned());
    strange.spec.as_mut().expect("has one").completion_mode = Some("Sideways".to_owned());
    bench.api.create(&strange);
    bench.quiet().await;
    bench.handle.shutdown().await;
    assert!(bench.api.list::<Pod>().is_empty());
    assert_eq!(reasons(&bench.api), ["UnknownCompletionMode".to_owned()].into());
}

/// Under faults of every kind, and a process that is killed at any point between two calls: never more
/// pods than may run, each pod that ended is counted once, and exactly as many completions as asked for.
#[tokio::test(start_paused = true)]
async fn under_faults_and_crashes_every_pod_is_counted_once() {
    for seed in 0..10 {
        random::seed(seed);
        let indexed = seed % 2 == 1;
        let api = FakeApi::new();
        let mode = if indexed { "indexed" } else { "" };
        api.create(&fresh(&format!("completions=8 parallelism=3 limit=1000 {mode}")));
        let mut bench = Bench::start_on(api.clone(), ONLY);
        chaos(&api, 5);
        let (mut succeeded, mut failed) = (0, 0);
        for step in 0..4000 {
            if is(&api, "Complete").is_some() {
                break;
            }
            let active: Vec<Pod> = api.list::<Pod>().into_iter().filter(pods::is_active).collect();
            assert!(active.len() <= 3, "seed {seed}: {} pods run", active.len());
            match random::below(16) {
                0 => api.cut_watches(),
                1 => api.compact(),
                2 => {
                    // Killed: from here on nothing that it does has any effect.
                    api.set_faults(|_| Some(Fault::Refuse(500, "InternalError")));
                    bench.handle.shutdown().await;
                    bench = Bench::start_on(api.clone(), ONLY);
                    chaos(&api, 5);
                }
                3..=6 => {
                    let at = usize::try_from(random::below(3)).expect("small");
                    if let Some(pod) = active.get(at) {
                        let code = i32::from(random::below(3) == 0);
                        end(&api, &pod.name_any(), code);
                        if code == 0 { succeeded += 1 } else { failed += 1 }
                    }
                }
                _ => {}
            }
            let pause = if step % 40 == 39 { 60_000 } else { random::below(200) };
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        api.clear_faults();
        eventually("the end", || is(&api, "Complete")).await;
        bench.quiet().await;
        let status = status_of(&api);
        assert_eq!((status.succeeded, succeeded), (Some(8), 8), "seed {seed}");
        assert_eq!(status.failed.unwrap_or(0), failed, "seed {seed}");
        assert_eq!(status.uncounted_terminated_pods, Some(UncountedTerminatedPods::default()), "seed {seed}");
        assert!(api.list::<Pod>().iter().all(|pod| !view::is_tracked(&pod.metadata)), "seed {seed}");
    }
}
