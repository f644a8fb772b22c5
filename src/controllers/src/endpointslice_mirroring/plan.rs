//! The slices that say what an Endpoints object says.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{
    api::{
        core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::Resource;

use crate::{
    pods,
    services::{MANAGED_BY, SERVICE_NAME},
};

pub(super) const US: &str = "endpointslicemirroring-controller.k8s.io";

/// Who writes Endpoints and slices both says so with this label.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

/// Addresses of one subset that are mirrored. Kubernetes' limit.
const ADDRESSES: usize = 1_000;

/// The slices that there should be, by name. Only for a service that has no selector: the others' slices are made
/// from pods.
pub(super) fn wanted(
    service: Option<&Service>,
    endpoints: Option<&Endpoints>,
) -> BTreeMap<String, EndpointSlice> {
    let (Some(service), Some(endpoints)) = (service, endpoints) else { return BTreeMap::new() };
    let selects =
        service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).is_some_and(|map| !map.is_empty());
    let labels = endpoints.metadata.labels.as_ref();
    let skips = labels.and_then(|labels| labels.get(SKIP)).is_some_and(|value| value == "true");
    let elects = endpoints.metadata.annotations.as_ref().is_some_and(|map| map.contains_key(LEADER));
    let going = endpoints.metadata.deletion_timestamp.is_some();
    if selects || skips || elects || going {
        return BTreeMap::new();
    }
    let subsets = endpoints.subsets.iter().flatten().enumerate();
    subsets
        .flat_map(|(number, subset)| ["IPv4", "IPv6"].map(|family| (number, subset, family)))
        .filter_map(|(number, subset, family)| slice(endpoints, number, subset, family))
        .map(|slice| (pods::name(&slice.metadata).to_owned(), slice))
        .collect()
}

fn slice(
    endpoints: &Endpoints,
    number: usize,
    subset: &EndpointSubset,
    family: &str,
) -> Option<EndpointSlice> {
    let ready = subset.addresses.iter().flatten().map(|address| (address, true));
    let not_ready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
    let addresses: Vec<Endpoint> = ready
        .chain(not_ready)
        .take(ADDRESSES)
        .filter(|(address, _)| family_of(&address.ip) == Some(family))
        .map(|(address, ready)| endpoint(address, ready))
        .collect();
    if addresses.is_empty() {
        return None;
    }
    let meta = &endpoints.metadata;
    let name = pods::name(meta);
    let mut labels = meta.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name.to_owned());
    labels.insert(MANAGED_BY.to_owned(), US.to_owned());
    let mut annotations = meta.annotations.clone().unwrap_or_default();
    annotations.remove(LAST_APPLIED);
    let port = |port: &k8s_openapi::api::core::v1::EndpointPort| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    };
    Some(EndpointSlice {
        metadata: ObjectMeta {
            name: Some(format!("{name}-mirror-{number}-{}", family.to_lowercase())),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: endpoints.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: addresses,
        ports: subset.ports.as_ref().map(|ports| ports.iter().map(port).collect()),
    })
}

fn family_of(address: &str) -> Option<&'static str> {
    match address.parse() {
        Ok(IpAddr::V4(_)) => Some("IPv4"),
        Ok(IpAddr::V6(_)) => Some("IPv6"),
        Err(_) => None,
    }
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

/// True if the slice says what it should.
pub(super) fn same(is: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    let meta = |slice: &EndpointSlice| {
        let meta = &slice.metadata;
        (meta.labels.clone(), meta.annotations.clone(), meta.owner_references.clone())
    };
    is.endpoints == wanted.endpoints
        && is.ports.as_deref().unwrap_or_default() == wanted.ports.as_deref().unwrap_or_default()
        && meta(is) == meta(wanted)
}
