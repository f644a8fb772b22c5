//! Which part of the pods' addresses a node gets.

use std::{collections::BTreeMap, sync::Arc};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;

use crate::pods;

pub(super) struct Observed<'a> {
    /// All nodes.
    pub(super) nodes: &'a [Arc<Node>],
    /// Parts given to nodes, by uid, that the nodes above do not show yet.
    pub(super) given: &'a BTreeMap<String, Vec<IpNet>>,
    /// The node in question.
    pub(super) node: &'a Node,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// The node has its part.
    Nothing,
    /// The node gets these parts, one of each range.
    Give(Vec<IpNet>),
    /// Every part of a range is taken.
    NoRoom,
}

/// The first part of every range with that prefix length that nobody has; the same ones again for a node
/// that was given some already.
pub(super) fn plan(observed: &Observed<'_>, ranges: &[(IpNet, u8)]) -> Plan {
    if cidrs(observed.node).next().is_some() {
        return Plan::Nothing;
    }
    if let Some(parts) = observed.given.get(pods::uid(&observed.node.metadata)) {
        return Plan::Give(parts.clone());
    }
    let taken: Vec<IpNet> = observed
        .nodes
        .iter()
        .flat_map(|node| cidrs(node))
        .filter_map(|text| text.parse().ok())
        .chain(observed.given.values().flatten().copied())
        .collect();
    let overlaps = |part: &IpNet| taken.iter().any(|other| other.contains(part) || part.contains(other));
    // A mask that does not fit the range's has no parts.
    let free = |(range, mask): &(IpNet, u8)| range.subnets(*mask).ok()?.find(|part| !overlaps(part));
    ranges.iter().map(free).collect::<Option<_>>().map_or(Plan::NoRoom, Plan::Give)
}

/// What a node has.
pub(super) fn cidrs(node: &Node) -> impl Iterator<Item = &str> {
    let spec = node.spec.as_ref();
    let one = spec.and_then(|spec| spec.pod_cidr.as_deref());
    let more = spec.and_then(|spec| spec.pod_cidrs.as_ref());
    one.into_iter().chain(more.into_iter().flatten().map(String::as_str)).filter(|cidr| !cidr.is_empty())
}
