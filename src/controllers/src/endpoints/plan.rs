//! What the Endpoints of a service should be.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::{
    api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service, ServiceSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::{
    pods,
    services::{self, HEADLESS, Port},
};

/// Addresses in one object. Kubernetes' number: more belong into slices.
const CAPACITY: usize = 1000;

const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const US: &str = "endpoint-controller";

pub(super) struct Observed<'a> {
    pub(super) service: Option<&'a Service>,
    /// Pods of the namespace.
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) current: Option<&'a Endpoints>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Plan {
    Nothing,
    Create(Endpoints),
    Update(Endpoints),
    Delete { uid: Option<String> },
}

/// True for Endpoints that this controller made.
pub(super) fn is_ours(endpoints: &Endpoints) -> bool {
    endpoints.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|by| by == US)
}

pub(super) fn plan(observed: &Observed<'_>) -> Plan {
    let Some(service) = observed.service else {
        // Endpoints that somebody made by hand are none of our business.
        return match observed.current {
            Some(current) if is_ours(current) => Plan::Delete { uid: current.metadata.uid.clone() },
            _ => Plan::Nothing,
        };
    };
    let Some(spec) = services::selecting(service) else { return Plan::Nothing };
    if service.metadata.deletion_timestamp.is_some() {
        return Plan::Nothing;
    }
    let (subsets, truncated) = subsets(service, spec, observed.pods);
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.to_owned(), US.to_owned());
    if services::is_headless(spec) {
        labels.insert(HEADLESS.to_owned(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    let mut new = observed.current.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    new.metadata.labels = Some(labels);
    let annotations = new.metadata.annotations.get_or_insert_default();
    if truncated {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    if annotations.is_empty() {
        new.metadata.annotations = None;
    }
    new.subsets = (!subsets.is_empty()).then_some(subsets);
    match observed.current {
        None => Plan::Create(new),
        Some(current) if is_same(current, &new) => Plan::Nothing,
        Some(_) => Plan::Update(new),
    }
}

/// Absent and empty mean the same.
fn is_same(a: &Endpoints, b: &Endpoints) -> bool {
    a.subsets.as_deref().unwrap_or_default() == b.subsets.as_deref().unwrap_or_default()
        && a.metadata.labels == b.metadata.labels
        && a.metadata.annotations.iter().flatten().eq(b.metadata.annotations.iter().flatten())
}

/// One subset for each set of ports, and whether some addresses were left out.
fn subsets(service: &Service, spec: &ServiceSpec, all: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let not_ready_too = spec.publish_not_ready_addresses == Some(true);
    let counts = |pod: &Pod| {
        !pods::is_terminal(pod)
            && (not_ready_too || pod.metadata.deletion_timestamp.is_none())
            && pods::selects(spec.selector.as_ref(), pod.metadata.labels.as_ref())
    };
    let mut groups: BTreeMap<BTreeSet<Port>, Addresses> = BTreeMap::new();
    let portless = services::is_headless(spec) && spec.ports.as_ref().is_none_or(Vec::is_empty);
    for pod in all.iter().filter(|pod| counts(pod)) {
        let Some(address) = address(service, spec, pod) else { continue };
        let ports = services::ports(spec, pod);
        if ports.is_empty() && !portless {
            continue;
        }
        let group = groups.entry(ports).or_default();
        if not_ready_too || pods::is_ready(pod) {
            group.ready.push(address);
        } else {
            group.not_ready.push(address);
        }
    }
    let truncated = truncate(&mut groups);
    let subsets = groups
        .into_iter()
        .filter(|(_, group)| !group.ready.is_empty() || !group.not_ready.is_empty())
        .map(|(ports, group)| subset(ports, group))
        .collect();
    (subsets, truncated)
}

#[derive(Default)]
struct Addresses {
    ready: Vec<EndpointAddress>,
    not_ready: Vec<EndpointAddress>,
}

/// Leaves out what is too much: those that are not ready first. True if there was any.
fn truncate(groups: &mut BTreeMap<BTreeSet<Port>, Addresses>) -> bool {
    let mut room = CAPACITY;
    let mut truncated = false;
    let mut cut = |list: &mut Vec<EndpointAddress>| {
        truncated |= list.len() > room;
        list.truncate(room);
        room -= list.len();
    };
    groups.values_mut().for_each(|group| cut(&mut group.ready));
    groups.values_mut().for_each(|group| cut(&mut group.not_ready));
    truncated
}

fn subset(ports: BTreeSet<Port>, group: Addresses) -> EndpointSubset {
    let some = |mut list: Vec<EndpointAddress>| {
        list.sort_by(|a, b| a.ip.cmp(&b.ip));
        (!list.is_empty()).then_some(list)
    };
    let ports: Vec<_> = ports
        .into_iter()
        .map(|port| EndpointPort {
            name: Some(port.name).filter(|name| !name.is_empty()),
            port: port.port,
            protocol: Some(port.protocol),
            app_protocol: port.app_protocol,
        })
        .collect();
    EndpointSubset {
        addresses: some(group.ready),
        not_ready_addresses: some(group.not_ready),
        ports: (!ports.is_empty()).then_some(ports),
    }
}

fn address(service: &Service, spec: &ServiceSpec, pod: &Pod) -> Option<EndpointAddress> {
    let ip = pod.status.as_ref()?.pod_ip.clone().filter(|ip| !ip.is_empty())?;
    let hostname = services::is_headless(spec).then(|| services::hostname(pod, service)).flatten();
    Some(EndpointAddress {
        ip,
        hostname,
        node_name: pods::node_name(pod).map(str::to_owned),
        target_ref: Some(services::target(pod)),
    })
}
