//! How pods of one `schedulerName` are placed.

use k8s_openapi::api::core::v1::TopologySpreadConstraint;

/// How nodes compare by what is free on them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// The emptiest first: pods are spread.
    #[default]
    LeastAllocated,
    /// The fullest first: pods are packed.
    MostAllocated,
    /// By a curve: per cent in use, and the score from 0 to 10; the points in rising order.
    RequestedToCapacityRatio(Vec<(u8, u8)>),
}

/// A way of placing pods, chosen by their `schedulerName`.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The `schedulerName` of the pods.
    pub name: String,
    /// How nodes compare by their resources.
    pub strategy: Strategy,
    /// Of how many nodes in a hundred at least the best is chosen; `None` adapts it to how many there are.
    pub percentage_of_nodes_to_score: Option<u8>,
    /// Topology spread for pods without constraints of their own, without selectors; `None` means Kubernetes'
    /// defaults (over nodes and zones, as far as it goes).
    pub default_constraints: Option<Vec<TopologySpreadConstraint>>,
}

/// Fewer nodes than this are never left out.
const LEAST: usize = 100;
/// Nor is less than this share, in per cent.
const LEAST_SHARE: usize = 5;

impl Profile {
    /// Kubernetes' own way, for pods of this `schedulerName`.
    pub fn new(name: &str) -> Self {
        Profile {
            name: name.to_owned(),
            strategy: Strategy::LeastAllocated,
            percentage_of_nodes_to_score: None,
            default_constraints: None,
        }
    }

    /// Packs pods on few nodes, for pods of this `schedulerName`.
    pub fn packing(name: &str) -> Self {
        Profile {
            strategy: Strategy::MostAllocated,
            // Spreading would work against it.
            default_constraints: Some(Vec::new()),
            ..Profile::new(name)
        }
    }

    /// After how many nodes that fit, of so many, the search ends.
    pub(super) fn enough(&self, nodes: usize) -> usize {
        if nodes < LEAST {
            return nodes;
        }
        let share = match self.percentage_of_nodes_to_score {
            Some(share) if share > 0 => usize::from(share).min(100),
            _ => 50_usize.saturating_sub(nodes / 125).max(LEAST_SHARE),
        };
        (nodes * share / 100).max(LEAST)
    }
}
