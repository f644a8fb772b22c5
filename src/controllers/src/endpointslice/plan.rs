//! What the slices of a service should be, with as few writes as possible.
//!
//! Endpoints stay in the slice that they are in. New ones go where something changes anyway, then where
//! there is room, then into new slices.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::{
    api::{
        core::v1::{Pod, Service, ServiceSpec},
        discovery::v1::{Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForZone},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::Resource;

use super::hints::{self, Capacity};
use crate::{
    pods,
    services::{self, HEADLESS, MANAGED_BY, Port, SERVICE_NAME},
};

pub(super) const US: &str = "endpointslice-controller.k8s.io";

/// The `trafficDistribution` by which each endpoint is meant for clients of its own zone, unless the service goes by
/// the zones' CPU.
const PREFER_CLOSE: &str = "PreferClose";

/// Endpoints in one slice. Kubernetes' default.
const CAPACITY: usize = 100;

pub(super) struct Observed<'a> {
    pub(super) service: Option<&'a Service>,
    /// Pods of the namespace.
    pub(super) pods: &'a [Arc<Pod>],
    /// The service's slices that this controller made.
    pub(super) slices: &'a [Arc<EndpointSlice>],
    /// The zone that a node is in, by its name.
    pub(super) zone: &'a dyn Fn(&str) -> Option<String>,
    /// What the zones have, for services that go by it.
    pub(super) capacity: Option<&'a Capacity>,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<EndpointSlice>,
    /// Slices that are as they should be.
    pub(super) unchanged: Vec<EndpointSlice>,
    /// For each kind of address of a service that wants hints by its zones' CPU: whether it has some, or why not.
    pub(super) hints: BTreeMap<&'static str, Result<(), String>>,
}

/// Slices of one kind of address and one set of ports belong together.
type Group = (&'static str, Vec<EndpointPort>);

/// What an endpoint is known by: the pod's uid and the address.
type Identity = (String, String);

pub(super) fn plan(observed: &Observed<'_>) -> Plan {
    let mut plan = Plan::default();
    let going = |service: &&Service| service.metadata.deletion_timestamp.is_none();
    let Some(service) = observed.service.filter(going) else {
        plan.delete = observed.slices.iter().map(|slice| (**slice).clone()).collect();
        return plan;
    };
    let Some(spec) = services::selecting(service) else {
        plan.delete = observed.slices.iter().map(|slice| (**slice).clone()).collect();
        return plan;
    };
    let mut wanted = wanted(service, spec, observed);
    if wanted.is_empty() {
        // A service without endpoints says so in a slice of its own.
        let families = families(spec);
        wanted.extend(families.into_iter().map(|family| ((family, Vec::new()), BTreeMap::new())));
    }
    let wanted: Vec<(Group, BTreeMap<Identity, Endpoint>)> = sorted(wanted);
    let mut left: Vec<&Arc<EndpointSlice>> = observed.slices.iter().collect();
    for (group, endpoints) in wanted {
        let (own, others) = left.into_iter().partition(|slice| belongs(slice, &group));
        left = others;
        fill(service, spec, &group, endpoints, own, &mut plan);
    }
    plan.delete.extend(left.into_iter().map(|slice| (**slice).clone()));
    if let Some(capacity) = observed.capacity {
        for family in families(spec) {
            let outcome = hints::give(&mut plan, family, capacity);
            plan.hints.insert(family, outcome);
        }
        // Some were only looked at again.
        let is_known = |slice: &EndpointSlice| observed.slices.iter().any(|known| **known == *slice);
        plan.update.retain(|slice| !is_known(slice));
    }
    plan
}

/// A fixed order, because plans must not depend on how a map iterates.
fn sorted(groups: Vec<(Group, BTreeMap<Identity, Endpoint>)>) -> Vec<(Group, BTreeMap<Identity, Endpoint>)> {
    let mut groups = groups;
    groups.sort_by_cached_key(|((family, ports), _)| {
        let ports: Vec<_> =
            ports.iter().map(|port| (port.name.clone(), port.port, port.protocol.clone())).collect();
        (*family, ports)
    });
    groups
}

fn belongs(slice: &EndpointSlice, (family, ports): &Group) -> bool {
    slice.address_type == *family && slice.ports.as_deref().unwrap_or_default() == ports
}

/// Distributes `endpoints` over the group's slices.
fn fill(
    service: &Service,
    spec: &ServiceSpec,
    group: &Group,
    mut endpoints: BTreeMap<Identity, Endpoint>,
    slices: Vec<&Arc<EndpointSlice>>,
    plan: &mut Plan,
) {
    let labels = labels(service, spec);
    let by_capacity = hints::is_auto(service);
    // Slice after slice, with what stays in it and whether it has to be written.
    let mut kept: Vec<(EndpointSlice, bool)> = Vec::new();
    for slice in slices {
        let mut new = (**slice).clone();
        let stays = |old: &Endpoint| {
            let new = endpoints.remove(&identity(old))?;
            // Hints by the zones' CPU come later; until then those of before hold.
            let hints = old.hints.clone().filter(|_| by_capacity && hints::is_ready(&new));
            Some(Endpoint { hints: new.hints.clone().or(hints), ..new })
        };
        new.endpoints = slice.endpoints.iter().filter_map(stays).collect();
        new.metadata.labels = Some(labels.clone());
        new.metadata.owner_references = Some(vec![owner(service)]);
        let changed = new != **slice;
        kept.push((new, changed));
    }
    let mut rest: Vec<Endpoint> = endpoints.into_values().collect();
    // First where something is written anyway, then into the fullest that has room.
    kept.sort_by_key(|(slice, changed)| (!changed, std::cmp::Reverse(slice.endpoints.len())));
    for (slice, changed) in &mut kept {
        let room = CAPACITY.saturating_sub(slice.endpoints.len()).min(rest.len());
        if room > 0 {
            slice.endpoints.extend(rest.drain(..room));
            *changed = true;
        }
    }
    while !rest.is_empty() {
        let portion = rest.drain(..rest.len().min(CAPACITY)).collect();
        plan.create.push(new_slice(service, group, labels.clone(), portion));
    }
    // One slice stays even if it is empty, as long as there is no other.
    let is_filled = |(slice, _): &(EndpointSlice, bool)| !slice.endpoints.is_empty();
    let mut spare = plan.create.iter().any(|new| belongs(new, group)) || kept.iter().any(is_filled);
    for (slice, changed) in kept {
        if slice.endpoints.is_empty() && spare {
            plan.delete.push(slice);
            continue;
        }
        spare = true;
        if changed { &mut plan.update } else { &mut plan.unchanged }.push(slice);
    }
    if !spare {
        plan.create.push(new_slice(service, group, labels, Vec::new()));
    }
}

fn identity(endpoint: &Endpoint) -> Identity {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone()).unwrap_or_default();
    (uid, endpoint.addresses.first().cloned().unwrap_or_default())
}

fn new_slice(
    service: &Service,
    (family, ports): &Group,
    labels: BTreeMap<String, String>,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", pods::name(&service.metadata))),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![owner(service)]),
            ..ObjectMeta::default()
        },
        address_type: (*family).to_owned(),
        endpoints,
        ports: (!ports.is_empty()).then(|| ports.clone()),
    }
}

fn owner(service: &Service) -> OwnerReference {
    let owner = service.controller_owner_ref(&()).unwrap_or_default();
    OwnerReference { block_owner_deletion: Some(true), ..owner }
}

/// The service's labels, except where ours mean something else.
fn labels(service: &Service, spec: &ServiceSpec) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if services::is_headless(spec) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME.to_owned(), pods::name(&service.metadata).to_owned());
    labels.insert(MANAGED_BY.to_owned(), US.to_owned());
    labels
}

/// The kinds of addresses that the service has.
fn families(spec: &ServiceSpec) -> BTreeSet<&'static str> {
    let named = spec.ip_families.iter().flatten().filter_map(|family| match family.as_str() {
        "IPv4" => Some("IPv4"),
        "IPv6" => Some("IPv6"),
        _ => None,
    });
    let families: BTreeSet<_> = named.collect();
    if families.is_empty() { BTreeSet::from(["IPv4"]) } else { families }
}

fn wanted(
    service: &Service,
    spec: &ServiceSpec,
    observed: &Observed<'_>,
) -> Vec<(Group, BTreeMap<Identity, Endpoint>)> {
    let families = families(spec);
    let portless = services::is_headless(spec) && spec.ports.as_ref().is_none_or(Vec::is_empty);
    let mut groups: BTreeMap<(&'static str, BTreeSet<Port>), BTreeMap<Identity, Endpoint>> = BTreeMap::new();
    for pod in observed.pods {
        let selected = pods::selects(spec.selector.as_ref(), pod.metadata.labels.as_ref());
        if !selected || pods::is_terminal(pod) {
            continue;
        }
        let ports = services::ports(spec, pod);
        if ports.is_empty() && !portless {
            continue;
        }
        for (family, address) in addresses(pod).filter(|(family, _)| families.contains(family)) {
            let zone = pods::node_name(pod).and_then(observed.zone);
            let endpoint = endpoint(service, spec, pod, address, zone);
            let group = groups.entry((family, ports.clone())).or_default();
            group.insert(identity(&endpoint), endpoint);
        }
    }
    groups.into_iter().map(|((family, ports), endpoints)| ((family, api_ports(ports)), endpoints)).collect()
}

fn api_ports(ports: BTreeSet<Port>) -> Vec<EndpointPort> {
    let port = |port: Port| EndpointPort {
        name: Some(port.name),
        port: Some(port.port),
        protocol: Some(port.protocol),
        app_protocol: port.app_protocol,
    };
    ports.into_iter().map(port).collect()
}

/// A pod's addresses by kind.
fn addresses(pod: &Pod) -> impl Iterator<Item = (&'static str, &str)> {
    let status = pod.status.as_ref();
    let one = status.and_then(|status| status.pod_ip.as_deref());
    let more = status.and_then(|status| status.pod_ips.as_ref());
    let all: BTreeSet<&str> =
        one.into_iter().chain(more.into_iter().flatten().map(|address| address.ip.as_str())).collect();
    all.into_iter().filter_map(|text| match text.parse() {
        Ok(IpAddr::V4(_)) => Some(("IPv4", text)),
        Ok(IpAddr::V6(_)) => Some(("IPv6", text)),
        Err(_) => None,
    })
}

fn endpoint(
    service: &Service,
    spec: &ServiceSpec,
    pod: &Pod,
    address: &str,
    zone: Option<String>,
) -> Endpoint {
    let near = spec.traffic_distribution.as_deref() == Some(PREFER_CLOSE) && !hints::is_auto(service);
    let for_zones = zone.clone().filter(|_| near).map(|name| vec![ForZone { name }]);
    let serving = pods::is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let not_ready_too = spec.publish_not_ready_addresses == Some(true);
    Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(not_ready_too || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: services::hostname(pod, service),
        node_name: pods::node_name(pod).map(str::to_owned),
        target_ref: Some(services::target(pod)),
        hints: for_zones.map(|zones| EndpointHints { for_zones: Some(zones), ..EndpointHints::default() }),
        zone,
        ..Endpoint::default()
    }
}
