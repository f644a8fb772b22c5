//! The objects that every cluster has: first namespaces, priority classes, a storage class, and the Service of
//! the API server itself.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use coracle_api::status::Status;
use ipnet::Ipv4Net;
use serde_json::{Value, json};
use thiserror::Error;

use crate::{
    admission::priority::SYSTEM,
    auth::User,
    core::Core,
    pipeline::{self, Call, Part, Update},
};

/// Namespaces that are there from the start.
const NAMESPACES: &[&str] = &["default", "kube-node-lease", "kube-public", "kube-system"];
/// Name of the Service of the API server, and of its Endpoints and EndpointSlice.
const NAME: &str = "kubernetes";

/// Name of the Service of the cluster's DNS server.
const DNS_NAME: &str = "kube-dns";

/// Name of the StorageClass of volumes on a node.
const LOCAL: &str = "local";

/// An object that could not be written.
#[derive(Debug, Error)]
#[error("cannot write {resource} {name:?}")]
pub struct BootstrapError {
    resource: &'static str,
    name: String,
    #[source]
    source: Status,
}

/// The address of the `kubernetes` Service: the first of the range.
pub(crate) fn first_address(cidr: Ipv4Net) -> Ipv4Addr {
    cidr.hosts().next().unwrap_or(cidr.network())
}

/// The address of the cluster's DNS server: the tenth of the range, as kubeadm has it.
fn dns_address(cidr: Ipv4Net) -> Ipv4Addr {
    cidr.hosts().nth(9).unwrap_or(cidr.network())
}

/// How often the Service of the API server is looked after. Kubernetes' number.
const EVERY: Duration = Duration::from_secs(10);

/// Writes the Service again that `kubectl delete all --all` has deleted, until shutdown.
pub(crate) async fn keep(core: Arc<Core>, address: SocketAddr) {
    loop {
        tokio::select! {
            () = core.shutdown.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        for written in [own_service(&core, address).await, dns_service(&core).await] {
            if let Err(error) = written {
                tracing::debug!(error = %error.source, "{error}");
            }
        }
    }
}

/// Writes what is missing and what changed since the last start.
pub(crate) async fn run(core: &Arc<Core>, address: SocketAddr) -> Result<(), BootstrapError> {
    for name in NAMESPACES {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        ensure(core, ("", "v1", "namespaces"), "", name, namespace).await?;
    }
    for (name, value, description) in SYSTEM {
        let class = json!({
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": value,
            "description": description,
            "preemptionPolicy": "PreemptLowerPriority",
        });
        ensure(core, ("scheduling.k8s.io", "v1", "priorityclasses"), "", name, class).await?;
    }
    local_class(core).await?;
    own_service(core, address).await?;
    if let Err(error) = dns_service(core).await {
        // In a store from before this Service another one may have its address.
        tracing::warn!(error = %error.source, "{error}");
    }
    Ok(())
}

/// The Service of the cluster's DNS server, by the names that Kubernetes has for it. It has no selector: every node
/// answers at its address, and a Service with endpoints there takes that over.
async fn dns_service(core: &Arc<Core>) -> Result<(), BootstrapError> {
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": DNS_NAME,
            "namespace": "kube-system",
            "labels": {"k8s-app": DNS_NAME, "kubernetes.io/name": "CoreDNS"},
        },
        "spec": {
            "clusterIP": dns_address(core.service_cidr).to_string(),
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            ],
        },
    });
    ensure(core, ("", "v1", "services"), "kube-system", DNS_NAME, service).await
}

/// The Service of the API server and where it leads to.
async fn own_service(core: &Arc<Core>, address: SocketAddr) -> Result<(), BootstrapError> {
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME, "namespace": "default", "labels": labels},
        "spec": {
            "clusterIP": first_address(core.service_cidr).to_string(),
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": address.port()}],
        },
    });
    ensure(core, ("", "v1", "services"), "default", NAME, service).await?;

    // A server that listens on the loopback only has no address that anybody else could use.
    let reachable = match address.ip() {
        IpAddr::V4(ip) if !ip.is_loopback() && !ip.is_unspecified() => Some(ip.to_string()),
        _ => None,
    };
    let port = json!([{"name": "https", "port": address.port(), "protocol": "TCP"}]);
    let mut endpoints = json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": NAME, "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
    });
    let mut slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": NAME, "namespace": "default", "labels": {"kubernetes.io/service-name": NAME}},
        "addressType": "IPv4",
        "endpoints": [],
        "ports": port,
    });
    if let Some(ip) = reachable {
        endpoints["subsets"] = json!([{"addresses": [{"ip": ip}], "ports": port}]);
        slice["endpoints"] = json!([{"addresses": [ip], "conditions": {"ready": true}}]);
    }
    ensure(core, ("", "v1", "endpoints"), "default", NAME, endpoints).await?;
    ensure(core, ("discovery.k8s.io", "v1", "endpointslices"), "default", NAME, slice).await
}

/// The class of the volumes that are folders of a node. It is made once: whoever makes another class the default
/// one keeps it so.
async fn local_class(core: &Arc<Core>) -> Result<(), BootstrapError> {
    const CLASSES: (&str, &str, &str) = ("storage.k8s.io", "v1", "storageclasses");
    let catalogue = core.registry.catalogue();
    let classes = catalogue.find(CLASSES.0, CLASSES.1, CLASSES.2);
    if classes.is_some_and(|classes| core.store.get(&classes.key("", LOCAL)).is_some()) {
        return Ok(());
    }
    let class = json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": LOCAL,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "coracle.dev/local",
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    });
    ensure(core, CLASSES, "", LOCAL, class).await
}

/// Creates the object, or gives the stored one these fields.
async fn ensure(
    core: &Arc<Core>,
    (group, version, plural): (&str, &str, &'static str),
    namespace: &str,
    name: &str,
    object: Value,
) -> Result<(), BootstrapError> {
    let catalogue = core.registry.catalogue();
    let Some(resource) = catalogue.find(group, version, plural).cloned() else {
        tracing::warn!(
            group,
            version,
            plural,
            "this kind is not registered; an object of the cluster is left out"
        );
        return Ok(());
    };
    let call = Call {
        core: core.clone(),
        catalogue,
        resource,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        subresource: String::new(),
        user: User::new("system:apiserver", &["system:masters"]),
        dry_run: false,
    };
    let result = if core.store.get(&call.key()).is_some() {
        let mut change = |old: &Value| {
            let mut new = old.clone();
            merge(&mut new, &object);
            Ok(new)
        };
        pipeline::update(&call, Update { part: Part::Whole, change: &mut change }).await
    } else {
        pipeline::create(&call, object).await
    };
    match result {
        Ok(_) => Ok(()),
        // Another server was faster, or somebody deletes it right now.
        Err(status) if matches!(status.code(), 404 | 409) => Ok(()),
        Err(source) => Err(BootstrapError { resource: plural, name: name.to_owned(), source }),
    }
}

/// Fields of `wanted` replace those of `object`; objects are merged, lists replaced.
fn merge(object: &mut Value, wanted: &Value) {
    match (object, wanted) {
        (Value::Object(object), Value::Object(wanted)) => {
            for (key, value) in wanted {
                merge(object.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (object, wanted) => *object = wanted.clone(),
    }
}
