//! What a daemon set has to do, given what is.
//!
//! First every node gets what it should have (`manage`). Only when nothing is left to do there, pods of
//! an old template are replaced (`roll`), so that both never count on the same pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, DaemonSetStatus},
    core::v1::{Node, Pod},
};

use super::{
    pod::{self, Fit},
    status,
};
use crate::{
    intstr::{Round, scaled},
    pods,
};

/// Pods created or deleted in one go, before looking again. Kubernetes' number.
const BURST: usize = 250;

/// What is.
pub(super) struct Observed<'a> {
    pub(super) set: &'a DaemonSet,
    pub(super) nodes: &'a [Arc<Node>],
    /// The pods of the set.
    pub(super) pods: &'a [Arc<Pod>],
    /// The hash of the newest template.
    pub(super) hash: &'a str,
    /// The pods include what this controller did before; otherwise they must not be counted.
    pub(super) caught_up: bool,
    /// For how long a pod that failed on a node is left there.
    pub(super) back_off: &'a (dyn Fn(&str) -> Option<Duration> + Sync),
}

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    /// Nodes to create a pod for.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// Those of the pods to delete that have ended, with their nodes.
    pub(super) ended: Vec<(Arc<Pod>, String)>,
    pub(super) status: DaemonSetStatus,
    /// When to look again although nothing changes.
    pub(super) again: Option<Duration>,
}

/// A node and the set's pods on it, the oldest first.
pub(super) struct Place<'a> {
    pub(super) name: &'a str,
    pub(super) fit: Fit,
    pub(super) pods: Vec<&'a Arc<Pod>>,
}

/// How many pods may be too many or missing while the template changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    surge: usize,
    unavailable: usize,
}

pub(super) fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let set = observed.set;
    let generic = pod::generic(set, observed.hash);
    let spec = generic.spec.unwrap_or_default();
    let mut places: BTreeMap<&str, Place<'_>> = BTreeMap::new();
    for node in observed.nodes {
        let name = pods::name(&node.metadata);
        places.insert(name, Place { name, fit: pod::fit(&spec, node), pods: Vec::new() });
    }
    let mut stray = Vec::new();
    for pod in observed.pods {
        match pod::target(pod).and_then(|name| places.get_mut(name)) {
            Some(place) => place.pods.push(pod),
            // Made for a node that is gone, it would wait for ever.
            None if pods::node_name(pod).is_none() && pod.metadata.deletion_timestamp.is_none() => {
                stray.push(pod.clone());
            }
            None => {}
        }
    }
    for place in places.values_mut() {
        place.pods.sort_by_key(|pod| {
            let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (pods::node_name(pod).is_none(), created, pods::name(&pod.metadata))
        });
    }
    let min_ready = pods::min_ready(set.spec.as_ref().and_then(|spec| spec.min_ready_seconds));
    let places: Vec<Place<'_>> = places.into_values().collect();
    let mut planner = Planner {
        observed,
        places: &places,
        bounds: bounds(set, places.iter().filter(|place| place.fit.run).count()),
        min_ready,
        now,
        create: BTreeSet::new(),
        delete: stray,
        ended: Vec::new(),
        again: pods::next_available(observed.pods, min_ready, now),
    };
    if observed.caught_up {
        planner.manage();
        if planner.create.is_empty() && planner.delete.is_empty() && !is_on_delete(set) {
            planner.roll();
        }
    }
    let Planner { create, mut delete, mut ended, again, .. } = planner;
    delete.truncate(if observed.caught_up { BURST } else { 0 });
    let now_going: BTreeSet<&str> = delete.iter().map(|pod| pods::uid(&pod.metadata)).collect();
    ended.retain(|(pod, _)| now_going.contains(pods::uid(&pod.metadata)));
    Plan {
        create: create.into_iter().take(BURST).map(str::to_owned).collect(),
        ended,
        delete,
        status: status::status(set, &places, observed.hash, min_ready, now),
        again,
    }
}

struct Planner<'a> {
    observed: &'a Observed<'a>,
    places: &'a [Place<'a>],
    bounds: Bounds,
    min_ready: SignedDuration,
    now: Timestamp,
    create: BTreeSet<&'a str>,
    delete: Vec<Arc<Pod>>,
    ended: Vec<(Arc<Pod>, String)>,
    again: Option<Duration>,
}

impl Planner<'_> {
    fn is_available(&self, pod: &Pod) -> bool {
        pods::is_available(pod, self.min_ready, self.now)
    }

    fn is_updated(&self, pod: &Pod) -> bool {
        pod::is_updated(pod, self.observed.hash)
    }

    fn manage(&mut self) {
        let places = self.places;
        for place in places {
            let lives = |pod: &&&Arc<Pod>| pod.metadata.deletion_timestamp.is_none();
            if place.fit.run && place.pods.is_empty() {
                self.create.insert(place.name);
            } else if place.fit.stay {
                self.manage_place(place);
            } else {
                self.delete.extend(place.pods.iter().filter(lives).map(|pod| Arc::clone(pod)));
            }
        }
    }

    fn manage_place(&mut self, place: &Place<'_>) {
        let mut running = Vec::new();
        for pod in place.pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
            if !pods::is_terminal(pod) {
                running.push(*pod);
                continue;
            }
            // What ended well is replaced at once, what failed after a pause that grows.
            let failed = pods::phase(pod) == "Failed";
            match (self.observed.back_off)(place.name).filter(|_| failed) {
                Some(left) => self.again = Some(self.again.map_or(left, |again| again.min(left))),
                None => {
                    self.delete.push(Arc::clone(pod));
                    self.ended.push((Arc::clone(pod), place.name.to_owned()));
                }
            }
        }
        if self.bounds.surge == 0 {
            self.delete.extend(running.iter().skip(1).map(|pod| Arc::clone(pod)));
            return;
        }
        // Two may be there while the new one is not ready and the old one is.
        let (new, old): (Vec<_>, Vec<_>) = running.into_iter().partition(|pod| self.is_updated(pod));
        let extra = new.iter().skip(1).chain(old.iter().skip(1));
        self.delete.extend(extra.map(|pod| Arc::clone(pod)));
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!pods::is_ready(old) || self.is_available(new))
        {
            self.delete.push(Arc::clone(old));
        }
    }

    fn roll(&mut self) {
        if self.bounds.surge > 0 {
            self.roll_up_first();
        } else {
            self.roll_down_first();
        }
    }

    /// Old pods go, as many as may be missing; their nodes get new ones when they are gone.
    fn roll_down_first(&mut self) {
        let mut missing = 0;
        let mut broken = Vec::new();
        let mut candidates = Vec::new();
        for place in self.places.iter().filter(|place| place.fit.run || !place.pods.is_empty()) {
            match one_each(place, self.observed.hash) {
                Some(Pair { new: None, old: Some(old) }) if self.is_available(old) => candidates.push(old),
                // It is missed by nobody.
                Some(Pair { new: None, old: Some(old) }) => broken.push(old),
                Some(Pair { new: Some(new), old: None }) if self.is_available(new) => {}
                _ => missing += 1,
            }
        }
        let left = self.bounds.unavailable.saturating_sub(missing + broken.len());
        self.delete.extend(broken.into_iter().chain(candidates.into_iter().take(left)).cloned());
    }

    /// New pods come beside old ones, as many as may be too many.
    fn roll_up_first(&mut self) {
        let mut surging = 0;
        let mut broken = Vec::new();
        let mut candidates = Vec::new();
        let places = self.places;
        for place in places {
            match one_each(place, self.observed.hash) {
                Some(Pair { new: None, old: Some(_) }) if !place.fit.run => {}
                Some(Pair { new: None, old: Some(old) }) if self.is_available(old) => {
                    candidates.push(place.name);
                }
                Some(Pair { new: None, old: Some(_) }) => broken.push(place.name),
                Some(Pair { old: None, .. }) => {}
                // The old one goes when the new one is available, which `manage` sees to.
                Some(Pair { .. }) | None => surging += 1,
            }
        }
        let left = self.bounds.surge.saturating_sub(surging);
        self.create.extend(broken.into_iter().chain(candidates.into_iter().take(left)));
    }
}

/// The pods of a place that count while the template changes.
struct Pair<'a> {
    new: Option<&'a Arc<Pod>>,
    old: Option<&'a Arc<Pod>>,
}

/// The new and the old pod of a place; `None` if there are several of a sort.
fn one_each<'a>(place: &Place<'a>, hash: &str) -> Option<Pair<'a>> {
    let mut pair = Pair { new: None, old: None };
    for pod in place.pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let slot = if pod::is_updated(pod, hash) { &mut pair.new } else { &mut pair.old };
        if slot.replace(*pod).is_some() {
            return None;
        }
    }
    Some(pair)
}

fn bounds(set: &DaemonSet, desired: usize) -> Bounds {
    let total = i32::try_from(desired).unwrap_or(i32::MAX);
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    let rolling =
        strategy.filter(|_| !is_on_delete(set)).and_then(|strategy| strategy.rolling_update.as_ref());
    let number = |value: Option<_>| {
        let number = value.and_then(|value| scaled(value, total, Round::Up)).unwrap_or(0);
        usize::try_from(number).unwrap_or(0)
    };
    let surge = number(rolling.and_then(|rolling| rolling.max_surge.as_ref()));
    let unavailable = number(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()));
    // Nothing could ever move.
    let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
    Bounds { surge, unavailable }
}

fn is_on_delete(set: &DaemonSet) -> bool {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete")
}
