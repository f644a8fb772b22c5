//! How many pods a metric asks for: the ratio of what is used to what is meant, times the pods that count.
//!
//! Values are in thousandths. Pods that have not begun to work in earnest, or of which nothing is known,
//! count as if they would calm what is to be done: as idle when more pods are asked for, as busy when fewer
//! are, and they never turn one into the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use coracle_api::Quantity;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use crate::pods;

/// So long after its start a pod may still be warming up. Kubernetes' time.
const CPU_INITIALISATION: SignedDuration = SignedDuration::from_mins(5);

/// A pod that was not ready since so shortly after its start has never been. Kubernetes' time.
const INITIAL_READINESS: SignedDuration = SignedDuration::from_secs(30);

/// A ratio so near to one changes nothing.
const TOLERANCE: f64 = 0.1;

/// What one pod used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) value: i64,
    pub(super) at: Timestamp,
    pub(super) window: SignedDuration,
}

pub(super) type Samples = BTreeMap<String, Sample>;

/// Ratios that change nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tolerance {
    pub(super) up: f64,
    pub(super) down: f64,
}

impl Tolerance {
    /// As the rules say for each direction.
    pub(super) fn new(up: Option<&str>, down: Option<&str>) -> Tolerance {
        let value = |text: Option<&str>| {
            text.and_then(|text| Quantity::parse(text).ok()).map_or(TOLERANCE, |quantity| quantity.as_f64())
        };
        Tolerance { up: value(up), down: value(down) }
    }

    fn covers(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// The target's numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scene<'a> {
    pub(super) current: i32,
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) tolerance: Tolerance,
    pub(super) now: Timestamp,
}

/// What a metric asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proposal {
    pub(super) replicas: i32,
    /// The average over the pods, or the value of the object.
    pub(super) value: i64,
    /// In percent of what was requested.
    pub(super) utilization: Option<i32>,
}

/// Which pods count.
#[derive(Debug, Default, PartialEq, Eq)]
struct Groups<'a> {
    ready: usize,
    unready: BTreeSet<&'a str>,
    missing: BTreeSet<&'a str>,
    ignored: BTreeSet<&'a str>,
}

/// From a resource in percent of the requests.
pub(super) fn utilization(
    scene: &Scene<'_>,
    resource: &str,
    container: Option<&str>,
    samples: &Samples,
    target: i32,
) -> Result<Proposal, String> {
    let (groups, mut used) = sort(scene, samples, resource == "cpu")?;
    let requests = requests(scene.pods, resource, container)?;
    let measure = |used: &BTreeMap<&str, i64>| {
        let known = used.iter().filter_map(|(name, value)| Some((*value, *requests.get(name)?)));
        let (count, total, requested) =
            known.fold((0_i64, 0_i64, 0_i64), |(count, total, all), (value, request)| {
                (count + 1, total.saturating_add(value), all.saturating_add(request))
            });
        if requested <= 0 {
            return Err("no metrics returned matched known pods".to_owned());
        }
        let percent = i32::try_from(total.saturating_mul(100) / requested).unwrap_or(i32::MAX);
        Ok((f64::from(percent) / f64::from(target.max(1)), percent, total / count.max(1)))
    };
    let (ratio, percent, average) = measure(&used)?;
    let proposal = |replicas| Proposal { replicas, value: average, utilization: Some(percent) };
    // A pod of which nothing is known may use what it requested, or more if that is the target.
    let full = i64::from(target.max(100));
    let assumed = |name: &str| requests.get(name).copied().unwrap_or(0).saturating_mul(full) / 100;
    if !assume(&groups, &mut used, ratio, assumed) {
        return Ok(proposal(settle(scene, ratio, groups.ready)));
    }
    let (corrected, ..) = measure(&used)?;
    Ok(proposal(corrected_settle(scene, ratio, corrected, used.len())))
}

/// From an average of a resource or of a metric of the pods.
pub(super) fn average(
    scene: &Scene<'_>,
    cpu: bool,
    samples: &Samples,
    target: i64,
) -> Result<Proposal, String> {
    let (groups, mut used) = sort(scene, samples, cpu)?;
    let measure = |used: &BTreeMap<&str, i64>| {
        let total = used.values().fold(0_i64, |sum, value| sum.saturating_add(*value));
        let average = total / i64::try_from(used.len().max(1)).unwrap_or(i64::MAX);
        (average as f64 / target.max(1) as f64, average)
    };
    let (ratio, value) = measure(&used);
    let proposal = |replicas| Proposal { replicas, value, utilization: None };
    if !assume(&groups, &mut used, ratio, |_| target) {
        return Ok(proposal(settle(scene, ratio, groups.ready)));
    }
    let (corrected, _) = measure(&used);
    Ok(proposal(corrected_settle(scene, ratio, corrected, used.len())))
}

/// From the value of one thing: an object, or something outside.
pub(super) fn value(scene: &Scene<'_>, value: i64, target: i64) -> Proposal {
    let ratio = value as f64 / target.max(1) as f64;
    let replicas = if scene.current == 0 {
        ceil(ratio)
    } else {
        let running = scene.pods.iter().filter(|pod| pods::phase(pod) == "Running" && pods::is_ready(pod));
        settle(scene, ratio, running.count())
    };
    Proposal { replicas, value, utilization: None }
}

/// From the value of one thing, shared by all pods.
pub(super) fn shared_value(scene: &Scene<'_>, replicas: i32, value: i64, target: i64) -> Proposal {
    let target = target.max(1) as f64;
    let ratio = value as f64 / (target * f64::from(replicas));
    let wanted = if scene.tolerance.covers(ratio) { replicas } else { ceil(value as f64 / target) };
    let share = value.checked_div(i64::from(replicas)).unwrap_or(value);
    Proposal { replicas: wanted, value: share, utilization: None }
}

/// Sorts the pods and keeps what the working ones use.
fn sort<'a>(
    scene: &Scene<'a>,
    samples: &Samples,
    cpu: bool,
) -> Result<(Groups<'a>, BTreeMap<&'a str, i64>), String> {
    if scene.pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let mut groups = Groups::default();
    let mut used = BTreeMap::new();
    for pod in scene.pods {
        let name = pods::name(&pod.metadata);
        if pod.metadata.deletion_timestamp.is_some() || pods::phase(pod) == "Failed" {
            groups.ignored.insert(name);
        } else if pods::phase(pod) == "Pending" {
            groups.unready.insert(name);
        } else if let Some(sample) = samples.get(name) {
            if cpu && is_warming_up(pod, sample, scene.now) {
                groups.unready.insert(name);
            } else {
                groups.ready += 1;
                used.insert(name, sample.value);
            }
        } else {
            groups.missing.insert(name);
        }
    }
    if used.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    Ok((groups, used))
}

/// True if what the pod uses says nothing about the load.
fn is_warming_up(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let ready = pods::condition(pod, "Ready");
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    let (Some(ready), Some(started)) = (ready, started) else { return true };
    let unready = ready.status == "False";
    let changed = ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    if now.duration_since(started.0) < CPU_INITIALISATION {
        unready || sample.at.duration_since(changed) < sample.window
    } else {
        unready && changed.duration_since(started.0) < INITIAL_READINESS
    }
}

/// Adds what is assumed of unready and missing pods; false if there is nothing to assume.
fn assume<'a>(
    groups: &Groups<'a>,
    used: &mut BTreeMap<&'a str, i64>,
    ratio: f64,
    busy: impl Fn(&str) -> i64,
) -> bool {
    let with_unready = !groups.unready.is_empty() && ratio > 1.0;
    if !with_unready && groups.missing.is_empty() {
        return false;
    }
    for name in &groups.missing {
        if ratio < 1.0 {
            used.insert(name, busy(name));
        } else if ratio > 1.0 {
            used.insert(name, 0);
        }
    }
    if with_unready {
        used.extend(groups.unready.iter().map(|name| (*name, 0)));
    }
    true
}

fn settle(scene: &Scene<'_>, ratio: f64, count: usize) -> i32 {
    if scene.tolerance.covers(ratio) { scene.current } else { ceil(ratio * count as f64) }
}

/// The same with assumptions, which must not turn more into less.
fn corrected_settle(scene: &Scene<'_>, before: f64, ratio: f64, count: usize) -> i32 {
    let turned = (before < 1.0 && ratio > 1.0) || (before > 1.0 && ratio < 1.0);
    if scene.tolerance.covers(ratio) || turned {
        return scene.current;
    }
    let replicas = ceil(ratio * count as f64);
    let odd = (ratio < 1.0 && replicas > scene.current) || (ratio > 1.0 && replicas < scene.current);
    if odd { scene.current } else { replicas }
}

/// Casting saturates, which is as far as anyone scales.
fn ceil(number: f64) -> i32 {
    number.ceil() as i32
}

/// What each pod requests of a resource: its containers and sidecars, or one container.
fn requests<'a>(
    all: &'a [Arc<Pod>],
    resource: &str,
    container: Option<&str>,
) -> Result<BTreeMap<&'a str, i64>, String> {
    let mut requests = BTreeMap::new();
    for pod in all {
        let name = pods::name(&pod.metadata);
        let Some(spec) = &pod.spec else { continue };
        let sidecars = spec.init_containers.iter().flatten();
        let sidecars = sidecars.filter(|init| init.restart_policy.as_deref() == Some("Always"));
        let mut sum = 0_i64;
        for each in spec.containers.iter().chain(sidecars) {
            if container.is_some_and(|container| container != each.name) {
                continue;
            }
            let requested = each
                .resources
                .as_ref()
                .and_then(|resources| resources.requests.as_ref()?.get(resource))
                .and_then(|quantity| Quantity::parse(&quantity.0).ok());
            let Some(requested) = requested else {
                let container = &each.name;
                return Err(format!("missing request for {resource} in container {container} of Pod {name}"));
            };
            sum = sum.saturating_add(requested.milli());
        }
        requests.insert(name, sum);
    }
    Ok(requests)
}
