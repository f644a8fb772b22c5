//! Proposals, rules and plans by tables, and the running controller on a fake API.

use std::collections::BTreeSet;

use coracle_client::test_support::eventually;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec},
        autoscaling::v2::{
            CrossVersionObjectReference, HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior,
            HorizontalPodAutoscalerSpec, MetricIdentifier, MetricSpec, MetricTarget, PodsMetricSource,
            ResourceMetricSource,
        },
        core::v1::{Event, PodCondition, ResourceRequirements},
    },
    apimachinery::pkg::{api::resource::Quantity as ApiQuantity, apis::meta::v1::Time},
};
use serde_json::json;

use super::{
    behavior::Rules,
    calculate::{Proposal, Sample, Samples, Scene, Tolerance},
    *,
};
use crate::{
    Controller as Registered,
    testing::{Bench, meta, pod, selector, template},
};

const ONLY: &[Registered] = &[Registered { name: NAME, run }];

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).expect("in range")
}

fn ago(seconds: i64) -> Timestamp {
    now() - SignedDuration::from_secs(seconds)
}

/// A pod of 100m by words: what it uses in thousandths, then `pending`, `failed`, `going`,
/// `unready` (long ago), `never` (ready), `new` (started a minute ago, ready since).
fn described(at: usize, text: &str) -> (Arc<Pod>, Option<Sample>) {
    let mut pod = pod(&format!("p{at}"));
    let requests = [("cpu".to_owned(), ApiQuantity("100m".to_owned()))].into();
    pod.spec.as_mut().expect("has one").containers[0].resources =
        Some(ResourceRequirements { requests: Some(requests), ..ResourceRequirements::default() });
    let (mut phase, mut ready, mut started, mut changed) = ("Running", true, 3600, 3000);
    let mut sample = None;
    for word in text.split_whitespace() {
        match word {
            "pending" => phase = "Pending",
            "failed" => phase = "Failed",
            "going" => pod.metadata.deletion_timestamp = Some(Time(now())),
            "unready" => ready = false,
            "never" => (ready, changed) = (false, 3590),
            "new" => (started, changed) = (60, 20),
            number => {
                let value = number.parse().expect("a number");
                sample = Some(Sample { value, at: now(), window: SignedDuration::from_secs(30) });
            }
        }
    }
    let status = pod.status.get_or_insert_default();
    status.phase = Some(phase.to_owned());
    status.start_time = Some(Time(ago(started)));
    status.conditions = Some(vec![PodCondition {
        type_: "Ready".to_owned(),
        status: if ready { "True" } else { "False" }.to_owned(),
        last_transition_time: Some(Time(ago(changed))),
        ..PodCondition::default()
    }]);
    (Arc::new(pod), sample)
}

fn scene(texts: &[&str]) -> (Vec<Arc<Pod>>, Samples) {
    let mut samples = Samples::new();
    let mut pods = Vec::new();
    for (at, text) in texts.iter().enumerate() {
        let (pod, sample) = described(at, text);
        samples.extend(sample.map(|sample| (pods::name(&pod.metadata).to_owned(), sample)));
        pods.push(pod);
    }
    (pods, samples)
}

/// Proposals at a target of 50 % of the CPU, and of 50 thousandths of a metric.
#[track_caller]
fn check(current: i32, texts: &[&str], by_cpu: &str, by_metric: &str) {
    let (pods, samples) = scene(texts);
    let scene = Scene { current, pods: &pods, tolerance: Tolerance::new(None, None), now: now() };
    let said = |proposal: Result<Proposal, String>| match proposal {
        Ok(Proposal { replicas, value, utilization }) => {
            let percent = utilization.map(|percent| format!(" {percent}%")).unwrap_or_default();
            format!("{replicas} at {value}{percent}")
        }
        Err(why) => why,
    };
    assert_eq!(said(calculate::utilization(&scene, "cpu", None, &samples, 50)), by_cpu, "{texts:?}");
    assert_eq!(said(calculate::average(&scene, false, &samples, 50)), by_metric, "{texts:?}");
}

#[test]
fn proposals() {
    check(2, &["100", "100"], "4 at 100 100%", "4 at 100");
    check(2, &["54", "54"], "2 at 54 54%", "2 at 54");
    check(2, &["56", "56"], "3 at 56 56%", "3 at 56");
    check(4, &["20", "20", "20", "20"], "2 at 20 20%", "2 at 20");
    // One is missing: idle when more are asked for, busy when fewer are.
    check(3, &["100", "100", ""], "4 at 100 100%", "4 at 100");
    check(3, &["10", "10", ""], "3 at 10 10%", "2 at 10");
    // Waiting pods count as idle when more are asked for.
    check(3, &["100", "100", "pending"], "4 at 100 100%", "4 at 100");
    check(4, &["60", "60", "pending", "pending"], "4 at 60 60%", "4 at 60");
    check(3, &["10", "10", "pending"], "1 at 10 10%", "1 at 10");
    // What warms up says nothing of the CPU.
    check(2, &["100", "900 new"], "2 at 100 100%", "20 at 500");
    check(2, &["100", "900 never"], "2 at 100 100%", "20 at 500");
    check(2, &["100", "100 unready"], "4 at 100 100%", "4 at 100");
    // What goes or failed does not count.
    check(2, &["100", "100", "900 going", "900 failed"], "4 at 100 100%", "4 at 100");
    let none = "did not receive metrics for targeted pods (pods might be unready)";
    check(1, &["pending"], none, none);
    let nobody = "no pods returned by selector while calculating replica count";
    check(1, &[], nobody, nobody);
}

#[test]
fn values_of_one_thing() {
    let (pods, samples) = scene(&["0", "0", "0 unready"]);
    let scene = |current| Scene {
        current,
        pods: &pods,
        tolerance: Tolerance::new(Some("500m"), Some("0")),
        now: now(),
    };
    assert_eq!(calculate::value(&scene(3), 400, 200).replicas, 4);
    assert_eq!(calculate::value(&scene(3), 290, 200).replicas, 3, "within the tolerance upwards");
    assert_eq!(calculate::value(&scene(3), 190, 200).replicas, 2, "no tolerance downwards");
    assert_eq!(calculate::value(&scene(0), 500, 200).replicas, 3);
    assert_eq!(calculate::shared_value(&scene(3), 3, 1000, 200).replicas, 5);
    assert_eq!(calculate::shared_value(&scene(0), 0, 0, 200).replicas, 0);
    let mut bare = pods.clone();
    bare.push(Arc::new(pod("bare")));
    let scene = Scene { pods: &bare, ..scene(3) };
    let error = calculate::utilization(&scene, "cpu", None, &samples, 50);
    assert_eq!(error, Err("missing request for cpu in container main of Pod bare".to_owned()));
}

/// A spec of 1 to 100 pods by words like `up:Pods=4/60` (value and period), `down-window=60`, `up-select=Min`.
fn spec(text: &str) -> HorizontalPodAutoscalerSpec {
    let mut behavior = HorizontalPodAutoscalerBehavior::default();
    for word in text.split_whitespace() {
        let (name, value) = word.split_once('=').expect("NAME=VALUE");
        let rules: &mut HPAScalingRules = if name.starts_with("up") {
            behavior.scale_up.get_or_insert_default()
        } else {
            behavior.scale_down.get_or_insert_default()
        };
        if name.ends_with("-window") {
            rules.stabilization_window_seconds = value.parse().ok();
        } else if name.ends_with("-select") {
            rules.select_policy = Some(value.to_owned());
        } else {
            let (_, type_) = name.split_once(':').expect("up:TYPE");
            let (value, period) = value.split_once('/').expect("VALUE/PERIOD");
            rules.policies.get_or_insert_default().push(HPAScalingPolicy {
                type_: type_.to_owned(),
                value: value.parse().expect("a number"),
                period_seconds: period.parse().expect("a number"),
            });
        }
    }
    HorizontalPodAutoscalerSpec {
        min_replicas: Some(1),
        max_replicas: 100,
        behavior: Some(behavior),
        ..HorizontalPodAutoscalerSpec::default()
    }
}

/// Follows recommendations that come every 15 seconds; says how many pods there are after each.
#[track_caller]
fn follow(text: &str, start: i32, recommended: &[i32], expected: &[i32]) {
    let rules = Rules::new(&spec(text));
    let mut memory = Memory::default();
    memory.begin(start, now());
    let mut current = start;
    let mut have = Vec::new();
    for (at, desired) in recommended.iter().enumerate() {
        let now = now() + SignedDuration::from_secs(15 * i64::try_from(at).expect("small") + 15);
        let (stable, ..) = rules.stabilise(&mut memory, current, *desired, now);
        let (next, ..) = rules.limit(&memory, current, stable, now);
        if next != current {
            memory.scaled(next - current, now);
        }
        current = next;
        have.push(current);
    }
    assert_eq!(have, expected, "{text}");
}

#[test]
fn rules_hold_back() {
    follow("", 1, &[50, 50, 50, 50], &[5, 10, 20, 40]);
    follow("", 60, &[500], &[100]);
    follow(
        "",
        10,
        &[2; 21],
        &[10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 2, 2],
    );
    follow("down-window=0", 10, &[2, 0], &[2, 1]);
    follow("down-window=30", 10, &[8, 9, 2, 2, 2], &[10, 9, 9, 2, 2]);
    follow("down-window=0 down:Percent=50/60", 16, &[1, 1, 1, 1, 1, 1], &[8, 8, 8, 8, 4, 4]);
    follow("down-window=0 down:Pods=1/15 down:Percent=50/15", 16, &[1, 1, 1], &[8, 4, 2]);
    follow("down-window=0 down:Pods=1/15 down:Percent=50/15 down-select=Min", 16, &[1, 1, 1], &[15, 14, 13]);
    follow("down-window=0 down-select=Disabled", 16, &[1, 1], &[16, 16]);
    follow("up:Pods=2/60", 1, &[50, 50, 50, 50, 50], &[3, 3, 3, 3, 5]);
    follow("up-window=60", 1, &[5, 5, 5, 5, 5], &[1, 1, 1, 5, 5]);
    follow("up-select=Disabled", 1, &[50], &[1]);
}

#[test]
fn without_behavior_twice_as_many_or_four_are_asked_for() {
    let rules = Rules::new(&HorizontalPodAutoscalerSpec { behavior: None, ..spec("") });
    let limited = |current, desired| rules.limit(&Memory::default(), current, desired, now()).0;
    assert_eq!([1, 2, 3, 4, 60].map(|current| limited(current, 500)), [4, 4, 6, 8, 100]);
    assert_eq!(limited(9, 0), 1);
}

#[test]
fn reasons_of_limits() {
    #[track_caller]
    fn check(text: &str, current: i32, desired: i32, stable: &str, limited: &str) {
        let rules = Rules::new(&spec(text));
        let mut memory = Memory::default();
        memory.begin(current, ago(15));
        let (number, reason, _) = rules.stabilise(&mut memory, current, desired, now());
        let (_, limit, _) = rules.limit(&memory, current, number, now());
        assert_eq!((reason, limit), (stable, limited));
    }
    check("", 2, 3, "ReadyForNewScale", "DesiredWithinRange");
    check("", 2, 50, "ReadyForNewScale", "ScaleUpLimit");
    check("", 60, 500, "ReadyForNewScale", "TooManyReplicas");
    check("", 10, 2, "ScaleDownStabilized", "DesiredWithinRange");
    check("up-window=60", 2, 9, "ScaleUpStabilized", "DesiredWithinRange");
    check("down-window=0", 10, 0, "ReadyForNewScale", "TooFewReplicas");
    check("down-window=0 down:Pods=1/60", 10, 2, "ReadyForNewScale", "ScaleDownLimit");
}

fn scaler(metrics: Vec<MetricSpec>) -> HorizontalPodAutoscaler {
    let target = CrossVersionObjectReference {
        api_version: Some("apps/v1".to_owned()),
        kind: "Deployment".to_owned(),
        name: "web".to_owned(),
    };
    let spec = HorizontalPodAutoscalerSpec {
        scale_target_ref: target,
        min_replicas: Some(1),
        max_replicas: 6,
        metrics: Some(metrics),
        behavior: None,
    };
    HorizontalPodAutoscaler { metadata: meta("scaler"), spec: Some(spec), status: None }
}

fn cpu() -> MetricSpec {
    let target = MetricTarget {
        type_: "Utilization".to_owned(),
        average_utilization: Some(50),
        ..MetricTarget::default()
    };
    MetricSpec {
        type_: "Resource".to_owned(),
        resource: Some(ResourceMetricSource { name: "cpu".to_owned(), target }),
        ..MetricSpec::default()
    }
}

fn rate() -> MetricSpec {
    let target = MetricTarget {
        type_: "AverageValue".to_owned(),
        average_value: Some(ApiQuantity("10".to_owned())),
        ..MetricTarget::default()
    };
    let metric = MetricIdentifier { name: "http_requests_per_second".to_owned(), selector: None };
    MetricSpec {
        type_: "Pods".to_owned(),
        pods: Some(PodsMetricSource { metric, target }),
        ..MetricSpec::default()
    }
}

/// A deployment of two pods, each with such a load.
fn stage(cpu: &str, rate: &str) -> Bench {
    let bench = Bench::start(ONLY);
    let deployment = Deployment {
        metadata: meta("web"),
        spec: Some(DeploymentSpec {
            replicas: Some(2),
            selector: selector(),
            template: template("v1"),
            ..DeploymentSpec::default()
        }),
        status: None,
    };
    bench.api.create(&deployment);
    for at in 0..2 {
        let (pod, _) = described(at, "0");
        let mut pod = (*pod).clone();
        let labels = template("v1").metadata.and_then(|meta| meta.labels);
        pod.metadata.labels = labels;
        let status = pod.status.as_mut().expect("has one");
        status.start_time = Some(Time(clock::now() - SignedDuration::from_hours(1)));
        let conditions = status.conditions.as_mut().expect("has one");
        conditions[0].last_transition_time = Some(Time(clock::now() - SignedDuration::from_mins(50)));
        bench.api.create(&pod);
    }
    load(&bench, cpu, rate);
    bench
}

fn load(bench: &Bench, cpu: &str, rate: &str) {
    let names = ["p0", "p1"];
    let usage = names.map(|name| {
        json!({"metadata": {"name": name}, "timestamp": clock::time(), "window": "30s",
            "containers": [{"name": "main", "usage": {"cpu": cpu, "memory": "1Mi"}}]})
    });
    let path = "/apis/metrics.k8s.io/v1beta1/namespaces/ns/pods";
    bench.api.answer(path, json!({"kind": "PodMetricsList", "items": usage}));
    let values = names.map(|name| {
        json!({"describedObject": {"kind": "Pod", "name": name}, "metric": {"name": "http_requests_per_second"},
            "timestamp": clock::time(), "value": rate})
    });
    let path = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/ns/pods/*/http_requests_per_second";
    bench.api.answer(path, json!({"kind": "MetricValueList", "items": values}));
}

#[test]
fn a_metric_without_a_sample_is_not_an_api_that_is_not_there() {
    #[track_caller]
    fn check(message: &str, expected: &str) {
        let status = kube::core::Status::failure(message, "NotFound").with_code(404);
        assert_eq!(metrics::told(&kube::Error::Api(Box::new(status))), expected);
    }
    let none = "the server could not find the metric http_requests_per_second for pods";
    check(none, none);
    check("404 page not found", "the server could not find the requested resource");
}

fn replicas_of(bench: &Bench) -> i32 {
    bench.api.get::<Deployment>("ns", "web").and_then(|web| web.spec?.replicas).unwrap_or(-1)
}

fn condition(bench: &Bench, type_: &str) -> Option<(String, String, String)> {
    let status = bench.api.get::<HorizontalPodAutoscaler>("ns", "scaler")?.status?;
    let found = status.conditions?.into_iter().find(|condition| condition.type_ == type_)?;
    Some((found.status, found.reason.unwrap_or_default(), found.message.unwrap_or_default()))
}

async fn events(bench: Bench) -> BTreeSet<String> {
    bench.handle.shutdown().await;
    let all = bench.api.list::<Event>().into_iter();
    all.map(|event| format!("{}: {}", event.reason.unwrap_or_default(), event.message.unwrap_or_default()))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn load_scales_up_and_its_end_down() {
    let bench = stage("100m", "5");
    bench.api.create(&scaler(vec![cpu(), rate()]));
    eventually("more pods", || (replicas_of(&bench) == 4).then_some(())).await;
    eventually("condition", || {
        condition(&bench, "AbleToScale").filter(|(_, reason, _)| reason == "SucceededRescale")
    })
    .await;
    let (status, reason, message) = condition(&bench, "ScalingActive").expect("set");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "ValidMetricFound"));
    assert_eq!(
        message,
        "the HPA was able to successfully calculate a replica count from cpu resource utilization (percentage of request)"
    );
    let current = bench
        .api
        .get::<HorizontalPodAutoscaler>("ns", "scaler")
        .and_then(|scaler| scaler.status?.current_metrics);
    let current = serde_json::to_value(current).expect("serialisable");
    assert_eq!(current[0]["resource"]["current"], json!({"averageUtilization": 100, "averageValue": "100m"}));
    assert_eq!(current[1]["pods"]["current"], json!({"averageValue": "5"}));
    load(&bench, "1m", "0");
    tokio::time::sleep(Duration::from_mins(4)).await;
    assert_eq!(replicas_of(&bench), 4, "not before the window is over");
    tokio::time::sleep(Duration::from_mins(3)).await;
    assert_eq!(replicas_of(&bench), 1);
    let told = events(bench).await;
    for text in [
        "SuccessfulRescale: New size: 4; reason: cpu resource utilization (percentage of request) above target",
        "SuccessfulRescale: New size: 1; reason: All metrics below target",
    ] {
        assert!(told.contains(text), "{told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_scale_too_and_bounds_hold() {
    let bench = stage("10m", "500");
    bench.api.create(&scaler(vec![cpu(), rate()]));
    eventually("the most", || (replicas_of(&bench) == 6).then_some(())).await;
    bench
        .api
        .edit("ns", "web", |web: &mut Deployment| web.spec.as_mut().expect("has one").replicas = Some(9));
    eventually("the most again", || (replicas_of(&bench) == 6).then_some(())).await;
    bench
        .api
        .edit("ns", "web", |web: &mut Deployment| web.spec.as_mut().expect("has one").replicas = Some(0));
    eventually("off", || {
        condition(&bench, "ScalingActive").filter(|(_, reason, _)| reason == "ScalingDisabled")
    })
    .await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(replicas_of(&bench), 0);
}

#[tokio::test(start_paused = true)]
async fn pods_of_two_autoscalers_follow_neither() {
    let bench = stage("100m", "5");
    bench.api.create(&scaler(vec![cpu()]));
    eventually("more pods", || (replicas_of(&bench) == 4).then_some(())).await;
    let mut second = scaler(vec![cpu()]);
    second.metadata = meta("second");
    bench.api.create(&second);
    let active = |wanted: &'static str| {
        let bench = &bench;
        move || condition(bench, "ScalingActive").filter(|(_, reason, _)| reason == wanted)
    };
    let (status, _, message) = eventually("told", active("AmbiguousSelector")).await;
    let said = "pods by selector app=web are controlled by multiple HPAs: [ns/scaler ns/second]";
    assert_eq!((status.as_str(), message.as_str()), ("False", said));
    load(&bench, "1m", "0");
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(replicas_of(&bench), 4);
    bench.api.remove::<HorizontalPodAutoscaler>("ns", "second");
    eventually("alone again", active("ValidMetricFound")).await;
    eventually("fewer pods", || (replicas_of(&bench) < 4).then_some(())).await;
    let told = events(bench).await;
    for reason in ["AmbiguousSelector", "FailedComputeMetricsReplicas"] {
        assert!(told.contains(&format!("{reason}: {said}")), "{told:?}");
    }
}

/// It has no pods, and not all there are.
#[tokio::test(start_paused = true)]
async fn a_target_without_a_selector_is_in_nobodys_way() {
    let bench = stage("100m", "5");
    let mut bare = bench.api.get::<Deployment>("ns", "web").expect("the stage has it");
    bare.metadata = meta("bare");
    bare.spec.as_mut().expect("has one").selector = Default::default();
    bench.api.create(&bare);
    let mut first = scaler(vec![cpu()]);
    first.metadata = meta("bare");
    first.spec.as_mut().expect("has one").scale_target_ref.name = "bare".to_owned();
    bench.api.create(&first);
    eventually("told", || {
        let first = bench.api.get::<HorizontalPodAutoscaler>("ns", "bare")?;
        let mut conditions = first.status?.conditions.into_iter().flatten();
        conditions.find(|one| one.reason.as_deref() == Some("InvalidSelector"))
    })
    .await;
    bench.api.create(&scaler(vec![cpu()]));
    eventually("more pods", || (replicas_of(&bench) == 4).then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn without_metrics_or_target_nothing_is_scaled() {
    let bench = stage("100m", "5");
    let mut unknown = rate();
    unknown.pods.as_mut().expect("has one").metric.name = "unheard".to_owned();
    bench.api.create(&scaler(vec![unknown]));
    let (status, reason, message) = eventually("failure", || condition(&bench, "ScalingActive")).await;
    assert_eq!((status.as_str(), reason.as_str()), ("False", "FailedGetPodsMetric"));
    let said = "the HPA was unable to compute the replica count: unable to get metric unheard: ";
    assert!(message.starts_with(said), "{message}");
    bench.api.remove::<Deployment>("ns", "web");
    let failed = || condition(&bench, "AbleToScale").filter(|(status, ..)| status == "False");
    let (_, reason, message) = eventually("no target", failed).await;
    assert_eq!(reason, "FailedGetScale");
    assert_eq!(
        message,
        "the HPA controller was unable to get the target's current scale: deployments.apps \"web\" not found"
    );
    let told = events(bench).await;
    for said in [
        "FailedGetPodsMetric: unable to get metric unheard: ",
        "FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 1), first error is: failed to get pods \
         metric value: unable to get metric unheard: ",
    ] {
        assert!(told.iter().any(|text| text.starts_with(said)), "{told:?}");
    }
}
