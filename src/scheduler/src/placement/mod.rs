//! The decision: pure, and the same again for the same cluster, pod and random numbers.
//!
//! [`Cluster`] is what is known: nodes, and what the pods on them ask for. [`Candidate`] is a pod as the
//! decision needs it; all that ask for the same share a class. [`place`] filters the nodes, scores those that
//! are left, and picks the best by a [`Profile`]; if none is left, it looks for pods that could make room.
//!
//! ```text
//!   class ──▶ prepared (once a class): tallies, what it finds of each node
//!                │
//!   pod ──▶ filter: row of numbers + looked up counts ──▶ score ──▶ Placement
//!                │ none
//!                └──▶ preempt ──▶ Unplaced (message, which changes may help, nomination)
//! ```
//! It is fast because nothing is counted twice: [`Cluster`] keeps, for every set of pods that somebody counts,
//! how many are on each node and in each domain, and changes them by one when a pod comes or goes.
//!
//! Release build, two cores of an AMD EPYC that were busy otherwise, pods of applications of 500 replicas
//! (`cargo bench -p coracle-scheduler`, or `coracle bench scheduler`), placements a second on 100, 1,000 and
//! 5,000 nodes, 30 pods a node: 88,000, 18,000 and 13,000 with the default plugins; 82,000, 17,000 and 13,000 with
//! required anti-affinity and spread as well.

mod affinity;
mod attempt;
mod class;
mod cluster;
mod counts;
mod filter;
mod hints;
mod nodes;
mod preempt;
mod prepared;
mod profile;
mod score;
mod table;
mod taints;
mod terms;
#[cfg(test)]
mod tests;
mod volumes;

use std::{collections::BTreeMap, fmt};

use rand::{RngExt, rngs::StdRng};

use attempt::{Attempt, Refusal};
use cluster::Failure;
use filter::{Fail, Sources, View};
use preempt::Outcome;
use prepared::{Fixed, Prepared};
use score::{Scoring, Work};

pub use class::Candidate;
pub use cluster::Cluster;
pub use filter::Plugins;
pub use hints::Happening;
pub use nodes::{NodeChange, NodeState};
pub use preempt::Nomination;
pub use profile::{Profile, Strategy};
pub use volumes::{SELECTED_NODE, VolumeAction, is_bound};

/// Where a pod goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The node.
    pub node: String,
    /// What has to be done for its claims first.
    pub volumes: Vec<VolumeAction>,
}

/// Why no node takes a pod, and what comes of it.
#[derive(Clone, Debug)]
pub struct Unplaced {
    /// The message of the `FailedScheduling` event.
    pub message: String,
    /// The checks that failed.
    pub plugins: Plugins,
    /// The node that the pod gets when others have made room.
    pub nomination: Option<Box<Nomination>>,
    /// What the pod was promised before is void.
    pub clear: bool,
}

impl fmt::Display for Unplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The node that suits `pod` best. Among equals `random` decides.
///
/// # Errors
/// No node takes the pod. Nothing has changed then; who makes room has still to be told to go.
pub fn place(
    cluster: &mut Cluster,
    profile: &Profile,
    pod: &Candidate,
    random: &mut StdRng,
) -> Result<Placement, Unplaced> {
    let class = pod.class.clone();
    if cluster.is_empty() {
        return Err(Unplaced {
            message: "no nodes available to schedule pods".to_owned(),
            plugins: Plugins::ALL,
            nomination: None,
            clear: false,
        });
    }
    let promised = pod.nominated().is_some() || cluster.nominated(pod.uid()).is_some();
    // Own claims and a node by name are the pod's, not its class's.
    let typical = !promised && pod.node_name().is_none() && !class.claims.iter().any(|claim| claim.ephemeral);
    if typical && let Some(failure) = known_failure(cluster, profile, pod) {
        return Err(failure);
    }
    let mut prepared = cluster.take_prepared(&class, profile);
    let outcome = decide(cluster, profile, pod, &mut prepared, random);
    cluster.give_prepared(&class, profile, prepared);
    if let Err(unplaced) = &outcome
        && typical
        && unplaced.nomination.is_none()
    {
        cluster.last_failure = Some(Failure {
            class: class.index,
            profile: profile.name.clone(),
            generation: cluster.generation(),
            unplaced: unplaced.clone(),
        });
    }
    outcome
}

fn known_failure(cluster: &Cluster, profile: &Profile, pod: &Candidate) -> Option<Unplaced> {
    let failure = cluster.last_failure.as_ref()?;
    let same = failure.class == pod.class()
        && failure.generation == cluster.generation()
        && failure.profile == profile.name;
    same.then(|| failure.unplaced.clone())
}

fn decide(
    cluster: &mut Cluster,
    profile: &Profile,
    pod: &Candidate,
    prepared: &mut Prepared,
    random: &mut StdRng,
) -> Result<Placement, Unplaced> {
    let volumes = cluster.volumes.check(&pod.class, pod.pod());
    let none = volumes::Check::default();
    let check = volumes.as_ref().unwrap_or(&none);
    let attempt = Attempt { pod, prepared, check };
    let named = match attempt.named(cluster) {
        Ok(named) => named,
        Err(message) => return Err(rejected(cluster, &attempt, (message, Plugins::NODE_AFFINITY), random)),
    };
    if let Err(message) = volumes.as_ref() {
        return Err(rejected(cluster, &attempt, (message, Plugins::BINDING), random));
    }
    let placement = |cluster: &Cluster, node: u32| {
        let node = &cluster.nodes[node as usize];
        Placement { node: node.name().to_owned(), volumes: check.actions(node) }
    };
    // A promised node first: it is likely the only one.
    let promised = cluster.nominated(pod.uid()).or_else(|| pod.nominated());
    if let Some(node) = promised.and_then(|name| cluster.number(name))
        && named.as_ref().is_none_or(|named| named.contains(&node))
        && attempt.admits(cluster, node).is_ok()
    {
        return Ok(placement(cluster, node));
    }
    // Nodes that are promised to others have to have room for them too.
    let promised = cluster.promised_nodes();
    let taken: BTreeMap<u32, Refusal> =
        promised.into_iter().filter_map(|node| Some((node, attempt.admits(cluster, node).err()?))).collect();

    let order = cluster.take_order();
    let nodes = named.as_ref().unwrap_or(&order);
    let mut scratch = std::mem::take(&mut cluster.scratch);
    let search = Search { cluster, profile, pod, check, taken: &taken, nodes };
    let looked_at = search.feasible(prepared, &mut scratch.feasible);
    let start = (cluster.start + looked_at) % cluster.len().max(1);
    let chosen = match scratch.feasible.as_slice() {
        [] => None,
        [(node, _)] => Some(*node),
        feasible => {
            let scoring = Scoring {
                class: &pod.class,
                profile,
                prepared,
                rows: &cluster.rows,
                counts: &cluster.counts,
            };
            let (totals, raw) = (&mut scratch.totals, &mut scratch.raw);
            scoring.score(feasible, &mut Work { totals, raw, seen: &mut scratch.seen });
            best(feasible, &scratch.totals, random)
        }
    };
    let fails = if chosen.is_none() {
        Search { cluster, profile, pod, check, taken: &taken, nodes }.fails(prepared)
    } else {
        Vec::new()
    };
    cluster.scratch = scratch;
    cluster.start = start;
    cluster.give_order(order);
    match chosen {
        Some(node) => Ok(placement(cluster, node)),
        None => {
            let attempt = Attempt { pod, prepared, check };
            Err(unplaced(cluster, &attempt, (&fails, &taken), named.is_some(), random))
        }
    }
}

/// One of the nodes with the highest score, each with the same chance.
fn best(feasible: &[(u32, Fixed)], totals: &[i64], random: &mut StdRng) -> Option<u32> {
    let mut best: Option<(u32, i64)> = None;
    let mut equals = 0_u32;
    for ((node, _), score) in feasible.iter().zip(totals) {
        match best {
            Some((_, most)) if *score < most => {}
            Some((_, most)) if *score == most => {
                // Each of the equals is taken with the same chance, without collecting them.
                equals += 1;
                if random.random_range(0..equals) == 0 {
                    best = Some((*node, *score));
                }
            }
            _ => {
                equals = 1;
                best = Some((*node, *score));
            }
        }
    }
    best.map(|(node, _)| node)
}

/// A look at the nodes, one after the other.
struct Search<'a> {
    cluster: &'a Cluster,
    profile: &'a Profile,
    pod: &'a Candidate,
    check: &'a volumes::Check,
    /// Nodes that those who were promised them leave no room on.
    taken: &'a BTreeMap<u32, Refusal>,
    nodes: &'a [u32],
}

impl Search<'_> {
    /// Collects nodes that can take the pod until there are enough; says how many were looked at.
    fn feasible(&self, prepared: &mut Prepared, feasible: &mut Vec<(u32, Fixed)>) -> usize {
        feasible.clear();
        let enough = self.profile.enough(self.nodes.len());
        let mut looked_at = 0;
        self.each(prepared, |node, fixed, outcome| {
            looked_at += 1;
            if outcome.is_ok() {
                feasible.push((node, fixed));
            }
            feasible.len() < enough
        });
        looked_at
    }

    /// Why each node cannot take the pod.
    fn fails(&self, prepared: &mut Prepared) -> Vec<(u32, Fail)> {
        let mut fails = Vec::new();
        self.each(prepared, |node, _, outcome| {
            fails.extend(outcome.err().map(|fail| (node, fail)));
            true
        });
        fails
    }

    fn each(&self, prepared: &mut Prepared, mut found: impl FnMut(u32, Fixed, Result<(), Fail>) -> bool) {
        let cluster = self.cluster;
        let class = &self.pod.class;
        let view = View::new(class, prepared, &Sources::of(cluster, self.pod, self.check));
        let start = cluster.start % self.nodes.len().max(1);
        let (first, last) = self.nodes.split_at(start);
        Cluster::with_images(cluster.images(), cluster.len(), |images| {
            for node in last.iter().chain(first) {
                let row = &cluster.rows[*node as usize];
                let fixed = prepared.fixed(class, *node, row.version, &cluster.nodes, images);
                let taken = if row.nominated > 0 { self.taken.get(node) } else { None };
                let outcome = match taken {
                    Some(refusal) => Err(refusal.fail),
                    None => view.check(*node, row, fixed),
                };
                if !found(*node, fixed, outcome) {
                    break;
                }
            }
        });
    }
}

/// No node was looked at: the pod itself is not ready.
fn rejected(
    cluster: &mut Cluster,
    attempt: &Attempt<'_>,
    (message, plugins): (&str, Plugins),
    random: &mut StdRng,
) -> Unplaced {
    let summary = format!("0/{} nodes are available: {message}.", cluster.len());
    finish(cluster, attempt, summary, plugins, &[], random)
}

fn unplaced(
    cluster: &mut Cluster,
    attempt: &Attempt<'_>,
    (fails, taken): (&[(u32, Fail)], &BTreeMap<u32, Refusal>),
    named: bool,
    random: &mut StdRng,
) -> Unplaced {
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut plugins = Plugins::default();
    for (node, fail) in fails {
        plugins.insert(fail.plugin());
        let now = || fail.reasons(&attempt.pod.class, &cluster.nodes[*node as usize]);
        for reason in taken.get(node).map_or_else(now, |refusal| refusal.reasons.clone()) {
            *reasons.entry(reason).or_default() += 1;
        }
    }
    let others = cluster.len().saturating_sub(fails.len());
    if named {
        plugins.insert(Plugins::NODE_AFFINITY);
        if others > 0 {
            *reasons.entry("node(s) didn't satisfy plugin(s) [NodeAffinity]".to_owned()).or_default() +=
                others;
        }
    }
    let summary = format!("0/{} nodes are available: {}.", cluster.len(), preempt::histogram(&reasons));
    finish(cluster, attempt, summary, plugins, fails, random)
}

fn finish(
    cluster: &mut Cluster,
    attempt: &Attempt<'_>,
    summary: String,
    plugins: Plugins,
    fails: &[(u32, Fail)],
    random: &mut StdRng,
) -> Unplaced {
    let before = cluster.generation();
    let outcome = preempt::preempt(cluster, attempt, fails, random);
    cluster.restore_generation(before);
    match outcome {
        Outcome::Nominated(nomination) => {
            Unplaced { message: summary, plugins, nomination: Some(Box::new(nomination)), clear: false }
        }
        Outcome::Nobody { message, clear } => {
            Unplaced { message: format!("{summary} preemption: {message}"), plugins, nomination: None, clear }
        }
    }
}
