//! Which pods have to go for a more important one: the fewest and least important, on the node where it
//! hurts least.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use coracle_api::selector::LabelSelector;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use rand::{RngExt, rngs::StdRng};

use super::{attempt::Attempt, class::Candidate, cluster::Cluster, filter::Fail};

/// Of the nodes that come into question, this share, in per cent, is looked at...
const SHARE: usize = 10;
/// ... and at least so many. Kubernetes' numbers.
const LEAST: usize = 100;

/// Words for nodes where nobody can be asked to go.
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
/// Words for nodes where it would not help if they went.
const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";

/// A disruption budget as decisions need it.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    namespace: String,
    selector: LabelSelector,
    allowed: i32,
    /// Pods that were let go already.
    disrupted: BTreeSet<String>,
}

/// A node is promised to a pod, once others have gone.
#[derive(Clone, Debug)]
pub struct Nomination {
    /// The node.
    pub node: String,
    /// The pods that have to go.
    pub victims: Vec<Candidate>,
    /// Less important pods that were promised the node.
    pub demoted: Vec<Candidate>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Nominated(Nomination),
    /// Why nobody goes. `clear`: what the pod was promised is void.
    Nobody {
        message: String,
        clear: bool,
    },
}

struct Victims {
    node: u32,
    /// The most important first.
    pods: Vec<Candidate>,
    /// How many go although a budget forbids it.
    violations: usize,
}

impl Budget {
    /// One without a selector protects nobody.
    pub(super) fn of(budget: &PodDisruptionBudget) -> Option<Budget> {
        let selector = LabelSelector::from_api(budget.spec.as_ref()?.selector.as_ref()?).ok()?;
        let status = budget.status.as_ref();
        let disrupted = status.and_then(|status| status.disrupted_pods.as_ref());
        (!selector.is_empty()).then(|| Budget {
            namespace: budget.metadata.namespace.clone().unwrap_or_default(),
            selector,
            allowed: status.map_or(0, |status| status.disruptions_allowed),
            disrupted: disrupted.into_iter().flatten().map(|(name, _)| name.clone()).collect(),
        })
    }

    fn protects(&self, pod: &Candidate) -> bool {
        self.namespace == pod.key().namespace
            && !pod.class.labels.is_empty()
            && self.selector.matches(&pod.class.labels)
            && !self.disrupted.contains(&pod.key().name)
    }
}

/// Looks for a node on which others can make room. `fails` says why each node that was looked at cannot take
/// the pod.
pub(super) fn preempt(
    cluster: &mut Cluster,
    attempt: &Attempt<'_>,
    fails: &[(u32, Fail)],
    random: &mut StdRng,
) -> Outcome {
    let pod = attempt.pod;
    if pod.class.never_preempts {
        let message = "not eligible due to preemptionPolicy=Never.".to_owned();
        return Outcome::Nobody { message, clear: false };
    }
    if waits_for_victims(cluster, pod, fails) {
        let message = "not eligible due to a terminating pod on the nominated node.".to_owned();
        return Outcome::Nobody { message, clear: false };
    }
    let possible: Vec<u32> =
        fails.iter().filter(|(_, fail)| fail.is_by_others()).map(|(node, _)| *node).collect();
    let mut candidates: Vec<Victims> = Vec::new();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut looked_at = 0;
    if !possible.is_empty() {
        let enough = (possible.len() * SHARE / 100).max(LEAST).min(possible.len());
        let offset = random.random_range(0..possible.len());
        for turn in 0..possible.len() {
            let node = possible[(offset + turn) % possible.len()];
            match victims(cluster, attempt, node) {
                Ok(victims) => candidates.push(victims),
                Err(why) => {
                    looked_at += 1;
                    for reason in why {
                        *reasons.entry(reason).or_default() += 1;
                    }
                }
            }
            if candidates.len() >= enough && candidates.iter().any(|it| it.violations == 0) {
                break;
            }
        }
    }
    // Nodes in the order in which they are looked at, so that chance decides no more than where it starts.
    let Some(best) = candidates.into_iter().min_by_key(price) else {
        let nodes = cluster.len();
        if nodes > looked_at {
            *reasons.entry(NOT_HELPFUL.to_owned()).or_default() += nodes - looked_at;
        }
        let message = format!("0/{nodes} nodes are available: {}.", histogram(&reasons));
        return Outcome::Nobody { message, clear: true };
    };
    let node = cluster.nodes[best.node as usize].name().to_owned();
    let demoted = cluster.nominated_to(&node);
    let demoted = demoted.filter(|other| other.priority() < pod.priority()).cloned().collect();
    Outcome::Nominated(Nomination { node, victims: best.pods, demoted })
}

/// `2 this, 1 that`, sorted as texts.
pub(super) fn histogram(reasons: &BTreeMap<String, usize>) -> String {
    let mut reasons: Vec<_> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    reasons.sort();
    reasons.join(", ")
}

/// True if pods still end on the node that was promised, unless it will not do anyway.
fn waits_for_victims(cluster: &Cluster, pod: &Candidate, fails: &[(u32, Fail)]) -> bool {
    let Some(name) = cluster.nominated(pod.uid()).or_else(|| pod.nominated()) else { return false };
    let Some(node) = cluster.number(name) else { return false };
    if fails.iter().any(|(other, fail)| *other == node && !fail.is_by_others()) {
        return false;
    }
    cluster.on_node(node).any(|other| other.priority() < pod.priority() && cluster.makes_room(other))
}

/// Who has to go from the node; an error is why it would not help.
fn victims(cluster: &mut Cluster, attempt: &Attempt<'_>, node: u32) -> Result<Victims, Vec<String>> {
    let priority = attempt.pod.priority();
    let mut possible: Vec<Candidate> =
        cluster.on_node(node).filter(|pod| pod.priority() < priority).cloned().collect();
    if possible.is_empty() {
        return Err(vec![NO_VICTIMS.to_owned()]);
    }
    possible.sort_by_cached_key(importance);
    for pod in &possible {
        cluster.account(pod, node, false);
    }
    let outcome = attempt.admits(cluster, node);
    if let Err(refusal) = outcome {
        for pod in &possible {
            cluster.account(pod, node, true);
        }
        return Err(refusal.reasons);
    }
    // Whoever can stay stays: first those that a budget protects, the most important first.
    let (protected, others) = by_budgets(cluster, possible);
    let mut pods = Vec::new();
    let mut violations = 0;
    for (pod, is_protected) in
        protected.into_iter().map(|pod| (pod, true)).chain(others.into_iter().map(|pod| (pod, false)))
    {
        cluster.account(&pod, node, true);
        if attempt.admits(cluster, node).is_err() {
            cluster.account(&pod, node, false);
            violations += usize::from(is_protected);
            pods.push(pod);
        }
    }
    for pod in &pods {
        cluster.account(pod, node, true);
    }
    if pods.is_empty() {
        return Err(vec![NO_VICTIMS.to_owned()]);
    }
    pods.sort_by_cached_key(importance);
    Ok(Victims { node, pods, violations })
}

/// Those whose going a budget forbids, and the others; both in the given order.
fn by_budgets(cluster: &Cluster, pods: Vec<Candidate>) -> (Vec<Candidate>, Vec<Candidate>) {
    let mut budgets: Vec<(&Budget, i32)> = cluster.budgets.values().map(|it| (it, it.allowed)).collect();
    pods.into_iter().partition(|pod| {
        let mut violated = false;
        for (_, allowed) in budgets.iter_mut().filter(|(budget, _)| budget.protects(pod)) {
            *allowed -= 1;
            violated |= *allowed < 0;
        }
        violated
    })
}

/// Sorts the most important first: by priority, then the longest running.
fn importance(pod: &Candidate) -> (Reverse<i32>, i128, String) {
    (Reverse(pod.priority()), started(pod), pod.uid().to_string())
}

/// When the pod was started, in nanoseconds; one that has not been starts last.
fn started(pod: &Candidate) -> i128 {
    let status = pod.pod().status.as_ref();
    status.and_then(|status| status.start_time.as_ref()).map_or(i128::MAX, |time| time.0.as_nanosecond())
}

/// What it costs if the victims go. Kubernetes' criteria, in this order: broken budgets, the most important
/// victim, the sum of priorities, the number of victims, and how long the most important ones have run.
fn price(victims: &Victims) -> (usize, i32, i64, usize, Reverse<i128>) {
    let highest = victims.pods.first().map_or(i32::MIN, Candidate::priority);
    let sum = victims.pods.iter().map(|pod| i64::from(pod.priority()) + (1 << 31)).sum();
    let most_important = victims.pods.iter().filter(|pod| pod.priority() == highest);
    let earliest = most_important.map(started).min().unwrap_or(i128::MAX);
    (victims.violations, highest, sum, victims.pods.len(), Reverse(earliest))
}
