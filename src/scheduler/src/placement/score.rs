//! Which of the nodes that can take a pod suits it best.

use super::cluster::{Candidate, NodeState};

/// The best score of one aspect.
const MOST: i64 = 100;

/// Spreading counts twice, as in Kubernetes: a node that fails should take few pods of a group with it.
const SPREAD_WEIGHT: i64 = 2;

/// The scores of `nodes`, in their order.
pub(super) fn score(pod: &Candidate, nodes: &[&NodeState]) -> Vec<i64> {
    let crowd = nodes.iter().map(|node| i64::from(node.group(pod.group()))).max().unwrap_or(0);
    nodes.iter().map(|node| SPREAD_WEIGHT * spread(pod, node, crowd) + least_allocated(pod, node)).collect()
}

/// Most for a node without pods of the group, nothing for the one with the most.
fn spread(pod: &Candidate, node: &NodeState, crowd: i64) -> i64 {
    if crowd == 0 { MOST } else { (crowd - i64::from(node.group(pod.group()))) * MOST / crowd }
}

/// The mean of what stays free of CPU and memory, as a share of what there is.
fn least_allocated(pod: &Candidate, node: &NodeState) -> i64 {
    let (has, used, more) = (node.allocatable(), node.weight(), pod.weight());
    let free = |has: i64, used: i64| {
        if has <= 0 || used >= has {
            return 0;
        }
        // In 128 bits, because memory times a hundred may not fit.
        i64::try_from(i128::from(has - used) * i128::from(MOST) / i128::from(has)).unwrap_or(0)
    };
    let cpu = free(has.cpu, used.cpu.saturating_add(more.cpu));
    let memory = free(has.memory, used.memory.saturating_add(more.memory));
    i64::midpoint(cpu, memory)
}
