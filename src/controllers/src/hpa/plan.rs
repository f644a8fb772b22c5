//! How many pods an autoscaler's target should have, given what is.

use std::sync::Arc;

use coracle_api::{Quantity, quantity::Format};
use coracle_client::{EventType, Key};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        autoscaling::{
            v1::Scale,
            v2::{
                ContainerResourceMetricStatus, ExternalMetricStatus, HorizontalPodAutoscaler,
                HorizontalPodAutoscalerSpec, HorizontalPodAutoscalerStatus, MetricSpec, MetricStatus,
                MetricTarget, MetricValueStatus, ObjectMetricStatus, PodsMetricStatus, ResourceMetricStatus,
            },
        },
        core::v1::Pod,
    },
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
};

use super::{
    behavior::{Memory, Rules},
    calculate::{self, Proposal, Scene, Tolerance},
    metrics::Reading,
    status,
};

/// What is.
pub(super) struct Observed<'a> {
    pub(super) scaler: &'a HorizontalPodAutoscaler,
    pub(super) spec: &'a HorizontalPodAutoscalerSpec,
    pub(super) scale: &'a Scale,
    pub(super) pods: &'a [Arc<Pod>],
    /// The autoscalers that have any of these pods for theirs.
    pub(super) owners: &'a [Key],
    /// What each metric of the spec was read as; none if the target need not be measured.
    pub(super) readings: &'a [Result<Reading, String>],
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) status: HorizontalPodAutoscalerStatus,
    pub(super) events: Vec<(EventType, &'static str, String)>,
    /// The new number of pods, and why.
    pub(super) rescale: Option<(i32, String)>,
}

impl Plan {
    fn warn(&mut self, reason: &'static str, message: impl Into<String>) {
        self.events.push((EventType::Warning, reason, message.into()));
    }
}

/// How many pods the target has.
pub(super) fn replicas(scale: &Scale) -> i32 {
    scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0)
}

/// True if the metrics decide; otherwise the bounds do.
pub(super) fn is_measured(spec: &HorizontalPodAutoscalerSpec, scale: &Scale) -> bool {
    let (current, least) = (replicas(scale), spec.min_replicas.unwrap_or(1));
    let disabled = current == 0 && least != 0;
    !disabled && (least..=spec.max_replicas).contains(&current)
}

pub(super) fn plan(observed: &Observed<'_>, memory: &mut Memory, now: Timestamp) -> Plan {
    let Observed { scaler, spec, scale, .. } = observed;
    let current = replicas(scale);
    let rules = Rules::new(spec);
    let mut plan = Plan { status: scaler.status.clone().unwrap_or_default(), ..Plan::default() };
    plan.status.observed_generation = scaler.metadata.generation;
    plan.status.current_replicas = Some(current);
    let got = "the HPA controller was able to get the target's current scale";
    status::set(&mut plan.status, "AbleToScale", true, "SucceededGetScale", got, now);
    memory.begin(current, now);
    let (desired, reason) = if current == 0 && rules.least != 0 {
        let message = "scaling is disabled since the replica count of the target is zero";
        status::set(&mut plan.status, "ScalingActive", false, "ScalingDisabled", message, now);
        (0, String::new())
    } else if current > rules.most {
        (rules.most, "Current number of replicas above Spec.MaxReplicas".to_owned())
    } else if current < rules.least {
        (rules.least, "Current number of replicas below Spec.MinReplicas".to_owned())
    } else {
        match measured(observed, &rules, &mut plan, now) {
            Some((proposed, metric)) => {
                let reason = if proposed > current {
                    format!("{metric} above target")
                } else {
                    "All metrics below target".to_owned()
                };
                (follow(&rules, memory, &mut plan.status, current, proposed, now), reason)
            }
            None => return plan,
        }
    };
    plan.status.desired_replicas = desired;
    if desired != current {
        plan.rescale = Some((desired, reason));
    }
    plan
}

/// As much of the proposal as is followed now.
fn follow(
    rules: &Rules,
    memory: &mut Memory,
    status: &mut HorizontalPodAutoscalerStatus,
    current: i32,
    proposed: i32,
    now: Timestamp,
) -> i32 {
    let (stable, reason, message) = rules.stabilise(memory, current, proposed, now);
    status::set(status, "AbleToScale", true, reason, message, now);
    let (desired, reason, message) = rules.limit(memory, current, stable, now);
    status::set(status, "ScalingLimited", desired != stable, reason, message, now);
    desired
}

/// The most that any metric asks for, and its name. `None` if the metrics say too little: all of them
/// failed, or some did and the others ask for less.
fn measured(
    observed: &Observed<'_>,
    rules: &Rules,
    plan: &mut Plan,
    now: Timestamp,
) -> Option<(i32, String)> {
    let (spec, scale) = (observed.spec, observed.scale);
    let current = replicas(scale);
    let selector = scale.status.as_ref().and_then(|status| status.selector.as_deref()).unwrap_or_default();
    if selector.is_empty() {
        plan.warn("SelectorRequired", "selector is required");
        let message = "the HPA target's scale is missing a selector";
        status::set(&mut plan.status, "ScalingActive", false, "InvalidSelector", message, now);
        return None;
    }
    if observed.owners.len() > 1 {
        let owners: Vec<String> = observed.owners.iter().map(Key::to_string).collect();
        let owners = owners.join(" ");
        let message = format!("pods by selector {selector} are controlled by multiple HPAs: [{owners}]");
        status::set(&mut plan.status, "ScalingActive", false, "AmbiguousSelector", &message, now);
        plan.warn("AmbiguousSelector", message.clone());
        plan.warn("FailedComputeMetricsReplicas", message);
        return None;
    }
    let (up, down) = rules.tolerances();
    let scene = Scene { current, pods: observed.pods, tolerance: Tolerance::new(up, down), now };
    let mut best: Option<(i32, String)> = None;
    let mut first_failure: Option<(&'static str, String, String)> = None;
    let mut failed = 0;
    let mut statuses = Vec::new();
    let all = spec.metrics.as_deref().unwrap_or_default();
    for (metric, reading) in all.iter().zip(observed.readings) {
        let asked = reading.clone().and_then(|reading| ask(&scene, scale, metric, &reading));
        match asked {
            Ok(proposal) => {
                statuses.push(metric_status(metric, proposal));
                if best.as_ref().is_none_or(|(most, _)| proposal.replicas > *most) {
                    best = Some((proposal.replicas, describe(metric)));
                }
            }
            Err(why) => {
                failed += 1;
                let reason = failure_reason(metric);
                let message = failure_message(metric, why);
                plan.warn(reason, message.clone());
                first_failure.get_or_insert_with(|| (reason, failure_context(metric, &message), message));
            }
        }
    }
    plan.status.current_metrics = Some(statuses).filter(|statuses| !statuses.is_empty());
    let proposed = best.as_ref().map_or(0, |(proposed, _)| *proposed);
    if let Some((reason, in_context, message)) = first_failure
        && (best.is_none() || proposed < current)
    {
        let told = format!("the HPA was unable to compute the replica count: {message}");
        status::set(&mut plan.status, "ScalingActive", false, reason, &told, now);
        let count = all.len();
        let told = format!("invalid metrics ({failed} invalid out of {count}), first error is: {in_context}");
        plan.warn("FailedComputeMetricsReplicas", told);
        return None;
    }
    let (proposed, metric) = best?;
    let message = format!("the HPA was able to successfully calculate a replica count from {metric}");
    status::set(&mut plan.status, "ScalingActive", true, "ValidMetricFound", &message, now);
    Some((proposed, metric))
}

/// What one metric asks for.
fn ask(scene: &Scene<'_>, scale: &Scale, metric: &MetricSpec, reading: &Reading) -> Result<Proposal, String> {
    let invalid = || "invalid metric source".to_owned();
    match reading {
        Reading::Pods(samples) => {
            if let Some(pods) = &metric.pods {
                let target = milli(pods.target.average_value.as_ref()).ok_or_else(invalid)?;
                return calculate::average(scene, false, samples, target);
            }
            let (name, container, target) = resource(metric).ok_or_else(invalid)?;
            match (milli(target.average_value.as_ref()), target.average_utilization) {
                (Some(target), _) => calculate::average(scene, name == "cpu", samples, target),
                (None, Some(target)) => calculate::utilization(scene, name, container, samples, target),
                (None, None) => {
                    let why = "invalid resource metric source: neither an average utilization target nor an average value (usage) target was set";
                    Err(why.to_owned())
                }
            }
        }
        Reading::One(value) => {
            let target = metric
                .object
                .as_ref()
                .map(|object| &object.target)
                .or_else(|| metric.external.as_ref().map(|external| &external.target))
                .ok_or_else(invalid)?;
            let have = scale.status.as_ref().map_or(0, |status| status.replicas);
            match (milli(target.value.as_ref()), milli(target.average_value.as_ref())) {
                (Some(target), _) => Ok(calculate::value(scene, *value, target)),
                (None, Some(target)) => Ok(calculate::shared_value(scene, have, *value, target)),
                (None, None) => {
                    let why =
                        "invalid metric source: neither a value target nor an average value target was set";
                    Err(why.to_owned())
                }
            }
        }
    }
}

/// Name, container and target of a metric of resources.
fn resource(metric: &MetricSpec) -> Option<(&str, Option<&str>, &MetricTarget)> {
    if let Some(resource) = &metric.resource {
        return Some((&resource.name, None, &resource.target));
    }
    let resource = metric.container_resource.as_ref()?;
    Some((&resource.name, Some(&resource.container), &resource.target))
}

fn milli(quantity: Option<&ApiQuantity>) -> Option<i64> {
    Quantity::parse(&quantity?.0).ok().map(|quantity| quantity.milli())
}

/// As conditions and the reasons of events name a metric.
fn describe(metric: &MetricSpec) -> String {
    if let Some((name, container, target)) = resource(metric) {
        let of = if container.is_some() { "container resource" } else { "resource" };
        return match target.average_value {
            Some(_) => format!("{name} {of}"),
            None => format!("{name} {of} utilization (percentage of request)"),
        };
    }
    if let Some(pods) = &metric.pods {
        return format!("pods metric {}", pods.metric.name);
    }
    if let Some(object) = &metric.object {
        return format!("{} metric {}", object.described_object.kind, object.metric.name);
    }
    let external = metric.external.as_ref().map(|external| external.metric.name.as_str());
    format!("external metric {}", external.unwrap_or_default())
}

fn failure_reason(metric: &MetricSpec) -> &'static str {
    match metric.type_.as_str() {
        "Resource" => "FailedGetResourceMetric",
        "ContainerResource" => "FailedGetContainerResourceMetric",
        "Pods" => "FailedGetPodsMetric",
        "Object" => "FailedGetObjectMetric",
        "External" => "FailedGetExternalMetric",
        _ => "InvalidMetricSourceType",
    }
}

/// What went wrong with a metric, as its own event and the condition tell it.
fn failure_message(metric: &MetricSpec, why: String) -> String {
    match resource(metric) {
        Some((name, _, target)) => {
            let what = if target.average_value.is_some() { "usage" } else { "utilization" };
            format!("failed to get {name} {what}: {why}")
        }
        None => why,
    }
}

/// The same as the event about all metrics tells it.
fn failure_context(metric: &MetricSpec, message: &str) -> String {
    let of = match metric.type_.as_str() {
        "Resource" => metric.resource.as_ref().map(|resource| format!("{} resource", resource.name)),
        "ContainerResource" => {
            metric.container_resource.as_ref().map(|resource| format!("{} container", resource.container))
        }
        "Pods" => Some("pods".to_owned()),
        "Object" => Some("object".to_owned()),
        "External" => metric.external.as_ref().map(|external| format!("{} external", external.metric.name)),
        _ => None,
    };
    match of {
        Some(of) => format!("failed to get {of} metric value: {message}"),
        None => message.to_owned(),
    }
}

fn metric_status(metric: &MetricSpec, proposal: Proposal) -> MetricStatus {
    let quantity = |milli| {
        let format = Format::DecimalSi;
        Some(ApiQuantity(Quantity::milli_units(milli, format).to_string()))
    };
    let average = MetricValueStatus {
        average_utilization: proposal.utilization,
        average_value: quantity(proposal.value),
        value: None,
    };
    let one = |target: &MetricTarget| match target.value {
        Some(_) => MetricValueStatus { value: quantity(proposal.value), ..MetricValueStatus::default() },
        None => average.clone(),
    };
    MetricStatus {
        type_: metric.type_.clone(),
        resource: metric
            .resource
            .as_ref()
            .map(|resource| ResourceMetricStatus { name: resource.name.clone(), current: average.clone() }),
        container_resource: metric.container_resource.as_ref().map(|resource| {
            ContainerResourceMetricStatus {
                name: resource.name.clone(),
                container: resource.container.clone(),
                current: average.clone(),
            }
        }),
        pods: metric
            .pods
            .as_ref()
            .map(|pods| PodsMetricStatus { metric: pods.metric.clone(), current: average.clone() }),
        object: metric.object.as_ref().map(|object| ObjectMetricStatus {
            metric: object.metric.clone(),
            described_object: object.described_object.clone(),
            current: one(&object.target),
        }),
        external: metric.external.as_ref().map(|external| ExternalMetricStatus {
            metric: external.metric.clone(),
            current: one(&external.target),
        }),
    }
}
