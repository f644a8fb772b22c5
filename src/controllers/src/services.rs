//! What the two controllers of endpoints share: which services a change concerns, which pods are behind
//! a service, and on which ports.

use std::collections::BTreeSet;

use coracle_client::{Delta, Deltas, Informer, Key, WorkQueue};
use k8s_openapi::{
    api::{
        core::v1::{ObjectReference, Pod, Service, ServicePort, ServiceSpec},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::{pace::Pace, pods};

/// The label of services without an address of their own.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// The label of an endpoint slice with the name of its service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The label of an endpoint slice that says which controller made it.
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// The service of a slice that the controller called `manager` made.
pub(crate) fn slice_owner(slice: &EndpointSlice, manager: &str) -> Option<Key> {
    let labels = slice.metadata.labels.as_ref()?;
    let ours = labels.get(MANAGED_BY).is_some_and(|by| by == manager);
    let service = labels.get(SERVICE_NAME).filter(|_| ours)?;
    Some(Key::new(pods::namespace(&slice.metadata), service.clone()))
}

/// Queues services whose pods change.
pub(crate) struct Waker<'a> {
    pub(crate) services: &'a Informer<Service>,
    pub(crate) queue: &'a WorkQueue<Key>,
    pub(crate) pace: &'a Pace,
}

impl Waker<'_> {
    pub(crate) async fn feed_pods(&self, mut deltas: Deltas<Pod>) {
        while let Some(delta) = deltas.next().await {
            match &delta {
                Delta::Updated { old, new } if matters(old, new) => self.wake(&[old, new]),
                Delta::Updated { .. } => {}
                Delta::Added(pod) | Delta::Deleted(pod) => self.wake(&[pod]),
            }
        }
    }

    /// Queues the services that select the pod as it was or as it is.
    fn wake(&self, states: &[&Pod]) {
        let Some(pod) = states.first() else { return };
        for service in self.services.list_namespace(pods::namespace(&pod.metadata)) {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            if states.iter().any(|pod| pods::selects(selector, pod.metadata.labels.as_ref())) {
                self.pace.wake(self.queue, Key::of(&service.metadata));
            }
        }
    }
}

/// True if an endpoint may look otherwise now.
fn matters(old: &Pod, new: &Pod) -> bool {
    let status = |pod: &Pod| {
        let status = pod.status.as_ref();
        (status.and_then(|status| status.pod_ip.clone()), status.and_then(|status| status.pod_ips.clone()))
    };
    old.metadata.labels != new.metadata.labels
        || old.metadata.deletion_timestamp.is_some() != new.metadata.deletion_timestamp.is_some()
        || pods::is_ready(old) != pods::is_ready(new)
        || pods::is_terminal(old) != pods::is_terminal(new)
        || pods::node_name(old) != pods::node_name(new)
        || status(old) != status(new)
}

/// The spec of a service whose endpoints are made from pods: it has a selector and is no alias.
pub(crate) fn selecting(service: &Service) -> Option<&ServiceSpec> {
    let spec = service.spec.as_ref()?;
    let has_selector = spec.selector.as_ref().is_some_and(|selector| !selector.is_empty());
    (has_selector && spec.type_.as_deref() != Some("ExternalName")).then_some(spec)
}

/// True for a service without an address of its own.
pub(crate) fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

/// The host name under which a pod is found in the service's domain.
pub(crate) fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let subdomain = spec.subdomain.as_deref() == service.metadata.name.as_deref();
    spec.hostname.clone().filter(|name| subdomain && !name.is_empty())
}

/// The reference to a pod in an endpoint.
pub(crate) fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// A port of a service on a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) port: i32,
    pub(crate) protocol: String,
    pub(crate) app_protocol: Option<String>,
}

/// The service's ports on a pod. A port whose name the pod does not have is left out.
pub(crate) fn ports(spec: &ServiceSpec, pod: &Pod) -> BTreeSet<Port> {
    let ports = spec.ports.as_deref().unwrap_or_default();
    ports
        .iter()
        .filter_map(|port| {
            Some(Port {
                name: port.name.clone().unwrap_or_default(),
                port: resolve(port, pod)?,
                protocol: protocol(port.protocol.as_deref()).to_owned(),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

fn resolve(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => Some(port.port),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
            let wanted = protocol(port.protocol.as_deref());
            spec.containers
                .iter()
                .chain(sidecars)
                .flat_map(|container| container.ports.iter().flatten())
                .find(|own| own.name.as_ref() == Some(name) && protocol(own.protocol.as_deref()) == wanted)
                .map(|own| own.container_port)
        }
    }
}

fn protocol(protocol: Option<&str>) -> &str {
    protocol.filter(|protocol| !protocol.is_empty()).unwrap_or("TCP")
}
