//! The decision: pure, and the same again for the same cluster, pod and random numbers.
//!
//! [`Cluster`] is what is known: nodes, and what the pods on them ask for. [`Candidate`] is a pod as the
//! decision needs it. [`place`] filters the nodes, scores those that are left, and picks the best.

mod affinity;
mod cluster;
mod filter;
mod resources;
mod score;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, sync::Arc};

use rand::{RngExt, rngs::StdRng};

pub use cluster::{Candidate, Cluster, NodeState};
pub use filter::Reason;
pub use resources::Resources;

/// Why no node takes a pod. `Display` is the message of the `FailedScheduling` event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unplaced {
    nodes: usize,
    reasons: BTreeMap<String, usize>,
    /// On how many nodes other pods are in the way, rather than something that never changes by their
    /// going.
    crowded: usize,
    /// The pod may not push others out.
    never_preempts: bool,
}

impl Unplaced {
    /// True if the pod could fit once other pods are gone.
    pub fn is_crowded(&self) -> bool {
        self.crowded > 0
    }
}

/// The node that suits `pod` best. Among equals `random` decides.
pub fn place(cluster: &Cluster, pod: &Candidate, random: &mut StdRng) -> Result<Arc<str>, Unplaced> {
    let mut fitting = Vec::new();
    let mut unplaced =
        Unplaced { nodes: 0, reasons: BTreeMap::new(), crowded: 0, never_preempts: pod.never_preempts() };
    for node in cluster.nodes() {
        unplaced.nodes += 1;
        match filter::filter(pod, node) {
            Ok(()) => fitting.push(node),
            Err(reasons) => {
                unplaced.crowded += usize::from(reasons.iter().all(|reason| reason.is_by_others()));
                for reason in reasons {
                    *unplaced.reasons.entry(reason.to_string()).or_default() += 1;
                }
            }
        }
    }
    let scores = score::score(pod, &fitting);
    let mut best: Option<(&NodeState, i64)> = None;
    let mut equals = 0_u32;
    for (node, score) in fitting.into_iter().zip(scores) {
        match best {
            Some((_, most)) if score < most => {}
            Some((_, most)) if score == most => {
                // Each of the equals is taken with the same chance, without collecting them.
                equals += 1;
                if random.random_range(0..equals) == 0 {
                    best = Some((node, score));
                }
            }
            _ => {
                equals = 1;
                best = Some((node, score));
            }
        }
    }
    best.map(|(node, _)| node.name().clone()).ok_or(unplaced)
}

impl fmt::Display for Unplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = self.nodes;
        if nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let mut reasons: Vec<_> =
            self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort();
        write!(f, "0/{nodes} nodes are available: {}. preemption: ", reasons.join(", "))?;
        if self.never_preempts {
            return f.write_str("not eligible due to preemptionPolicy=Never.");
        }
        let hopeless = nodes - self.crowded;
        let outcomes = [
            (self.crowded, "No preemption victims found for incoming pod"),
            (hopeless, "Preemption is not helpful for scheduling"),
        ];
        let mut outcomes: Vec<_> = outcomes
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, outcome)| format!("{count} {outcome}"))
            .collect();
        outcomes.sort();
        write!(f, "0/{nodes} nodes are available: {}.", outcomes.join(", "))
    }
}
