//! Which part of the pods' addresses a node gets.

use std::{collections::BTreeMap, sync::Arc};

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;

use crate::pods;

pub(super) struct Observed<'a> {
    /// All nodes.
    pub(super) nodes: &'a [Arc<Node>],
    /// Parts given to nodes, by uid, that the nodes above do not show yet.
    pub(super) given: &'a BTreeMap<String, Ipv4Net>,
    /// The node in question.
    pub(super) node: &'a Node,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// The node has its part.
    Nothing,
    /// The node gets this part.
    Give(Ipv4Net),
    /// Every part is taken.
    NoRoom,
}

/// The first part of `cluster` with prefix length `mask` that nobody has; the same one again for a node
/// that was given one already.
pub(super) fn plan(observed: &Observed<'_>, cluster: Ipv4Net, mask: u8) -> Plan {
    if cidrs(observed.node).next().is_some() {
        return Plan::Nothing;
    }
    if let Some(part) = observed.given.get(pods::uid(&observed.node.metadata)) {
        return Plan::Give(*part);
    }
    let taken: Vec<Ipv4Net> = observed
        .nodes
        .iter()
        .flat_map(|node| cidrs(node))
        .filter_map(|text| text.parse().ok())
        .chain(observed.given.values().copied())
        .collect();
    let overlaps = |part: &Ipv4Net| taken.iter().any(|other| other.contains(part) || part.contains(other));
    // A mask that does not fit the cluster's has no parts.
    let free = cluster.subnets(mask).ok().and_then(|mut parts| parts.find(|part| !overlaps(part)));
    free.map_or(Plan::NoRoom, Plan::Give)
}

/// What a node has.
pub(super) fn cidrs(node: &Node) -> impl Iterator<Item = &str> {
    let spec = node.spec.as_ref();
    let one = spec.and_then(|spec| spec.pod_cidr.as_deref());
    let more = spec.and_then(|spec| spec.pod_cidrs.as_ref());
    one.into_iter().chain(more.into_iter().flatten().map(String::as_str)).filter(|cidr| !cidr.is_empty())
}
