//! Service: a name and an address for a set of pods.
//!
//! Cluster IPs and node ports are allocated by the API server, after validation; what the hooks do is
//! carry them over when a request leaves them out, and drop them when the type no longer has them.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::common::*;
use crate::{Cell, Column, FieldCause, Hooks, Kind, Scope, Subresource, names};

mod update;
mod validation;

/// How long a client sticks to an endpoint if the service wants affinity and says no more: 3 hours.
const DEFAULT_AFFINITY_SECONDS: i64 = 10800;

pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["svc"]),
        categories: texts(&["all"]),
        subresources: vec![Subresource::Proxy, Subresource::Status],
        ..define("", "v1", "Service", "services", Scope::Namespaced, Service)
    }
}

struct Service;

static COLUMNS: [Column; 7] = [
    Column::object_name(),
    column("Type", "ClusterIP, NodePort, LoadBalancer or ExternalName."),
    column("Cluster-IP", "Address inside the cluster."),
    column("External-IP", "Addresses outside the cluster."),
    column("Port(s)", "Ports, with the node ports they have."),
    AGE,
    wide("Selector", "Labels of the pods behind the service."),
];

impl Hooks for Service {
    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
        if let Some(spec) = existing_mut(object, "spec") {
            default_spec(spec);
        }
        object_mut(object, "status");
        if let Some(status) = existing_mut(object, "status") {
            object_mut(status, "loadBalancer");
        }
        let is_load_balancer = text(&object["spec"]["type"]) == "LoadBalancer";
        if is_load_balancer
            && let Some(status) = existing_mut(object, "status")
            && let Some(balancer) = existing_mut(status, "loadBalancer")
        {
            for ingress in items_mut(balancer, "ingress") {
                if !is_empty(&ingress["ip"]) {
                    fill_absent(ingress, "ipMode", "VIP");
                }
            }
        }
    }

    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        set(object, "status", json!({"loadBalancer": {}}));
        update::normalize_cluster_ips(object, &Value::Null);
        update::fill_families(object);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value) {
        update::carry_over_allocated(object, old);
        update::normalize_cluster_ips(object, old);
        update::drop_what_the_type_lost(object, old);
        update::fill_families(object);
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        validation::check(object)
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldCause> {
        validation::check_update(object, old)
    }

    fn validate_status(&self, object: &Value, _old: &Value) -> Vec<FieldCause> {
        validation::check_status(object)
    }

    fn validate_name(&self, name: &str) -> Option<String> {
        names::dns_1035_label(name).into_iter().next()
    }

    fn columns(&self) -> &[Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let spec = &object["spec"];
        let cluster_ip = strings(&spec["clusterIPs"]).next().unwrap_or(text(&spec["clusterIP"]));
        vec![
            name(object),
            text(&spec["type"]).into(),
            or(cluster_ip, "<none>").into(),
            external_ip(object).into(),
            ports(&spec["ports"]).into(),
            age(object, now),
            format_labels(&spec["selector"]).into(),
        ]
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let spec = &object["spec"];
        vec![
            ("spec.clusterIP", text(&spec["clusterIP"]).to_owned()),
            ("spec.type", text(&spec["type"]).to_owned()),
        ]
    }
}

fn default_spec(spec: &mut Value) {
    fill(spec, "sessionAffinity", "None");
    match text(&spec["sessionAffinity"]) {
        "None" => clear(spec, "sessionAffinityConfig"),
        "ClientIP" if !is_set(&spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"]) => {
            set(
                spec,
                "sessionAffinityConfig",
                json!({"clientIP": {"timeoutSeconds": DEFAULT_AFFINITY_SECONDS}}),
            );
        }
        _ => {}
    }
    fill(spec, "type", "ClusterIP");
    for port in items_mut(spec, "ports") {
        fill(port, "protocol", "TCP");
        let number = int(&port["port"]);
        if number != 0 && is_unset_port(&port["targetPort"]) {
            set(port, "targetPort", number);
        }
    }
    if is_externally_accessible(spec) {
        fill(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(text(&spec["type"]), "ClusterIP" | "NodePort" | "LoadBalancer") {
        fill_absent(spec, "internalTrafficPolicy", "Cluster");
    }
    if text(&spec["type"]) == "LoadBalancer" {
        fill_absent(spec, "allocateLoadBalancerNodePorts", true);
    }
}

fn is_unset_port(port: &Value) -> bool {
    port.is_null() || port.as_i64() == Some(0) || port.as_str() == Some("")
}

/// Whether traffic from outside the cluster can reach the service.
fn is_externally_accessible(spec: &Value) -> bool {
    match text(&spec["type"]) {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => !is_empty(&spec["externalIPs"]),
        _ => false,
    }
}

/// Whether the service has no address of its own.
fn is_headless(spec: &Value) -> bool {
    strings(&spec["clusterIPs"]).eq(["None"])
}

/// Whether the load balancer asks nodes for the service's health.
fn needs_health_check(spec: &Value) -> bool {
    text(&spec["type"]) == "LoadBalancer" && text(&spec["externalTrafficPolicy"]) == "Local"
}

fn external_ip(object: &Value) -> String {
    let spec = &object["spec"];
    let declared: Vec<&str> = strings(&spec["externalIPs"]).collect();
    match text(&spec["type"]) {
        "ClusterIP" | "NodePort" => or(&declared.join(","), "<none>").to_owned(),
        "LoadBalancer" => {
            let mut all: Vec<&str> = items(&object["status"]["loadBalancer"]["ingress"])
                .iter()
                .map(|ingress| or(text(&ingress["ip"]), text(&ingress["hostname"])))
                .filter(|address| !address.is_empty())
                .collect();
            all.sort_unstable();
            all.dedup();
            all.extend(declared);
            or(&all.join(","), "<pending>").to_owned()
        }
        "ExternalName" => text(&spec["externalName"]).to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

/// `80:30080/TCP,443/TCP`
fn ports(ports: &Value) -> String {
    let list: Vec<String> = items(ports)
        .iter()
        .map(|port| {
            let (number, protocol) = (int(&port["port"]), text(&port["protocol"]));
            match int(&port["nodePort"]) {
                0 => format!("{number}/{protocol}"),
                node_port => format!("{number}:{node_port}/{protocol}"),
            }
        })
        .collect();
    or(&list.join(","), "<none>").to_owned()
}
