//! What an update of a service keeps, though the request does not say it, and what it loses, though
//! the request still says it: so that applying the same manifest twice changes nothing, and changing
//! only the type is enough to change the type.

use std::{collections::HashSet, net::Ipv6Addr};

use serde_json::{Value, json};

use super::{is_externally_accessible, needs_health_check};
use crate::kinds::common::*;

/// Types that have a cluster IP.
fn needs_cluster_ip(spec: &Value) -> bool {
    matches!(text(&spec["type"]), "ClusterIP" | "NodePort" | "LoadBalancer")
}

/// Types that have node ports.
fn needs_node_port(spec: &Value) -> bool {
    match text(&spec["type"]) {
        "NodePort" => true,
        "LoadBalancer" => spec["allocateLoadBalancerNodePorts"].as_bool().unwrap_or(true),
        _ => false,
    }
}

/// Fills in addresses and ports that the server allocated and the request left out.
pub(super) fn carry_over_allocated(object: &mut Value, old: &Value) {
    let before = &old["spec"];
    let Some(spec) = existing_mut(object, "spec") else { return };
    if needs_cluster_ip(before) && needs_cluster_ip(spec) {
        if is_empty(&spec["clusterIP"]) && is_empty(&spec["clusterIPs"]) {
            keep(spec, before, "clusterIP");
        }
        if is_empty(&spec["clusterIPs"]) && spec["clusterIP"] == before["clusterIP"] {
            keep(spec, before, "clusterIPs");
        }
        for name in ["ipFamilies", "ipFamilyPolicy"] {
            if is_empty(&spec[name]) {
                keep(spec, before, name);
            }
        }
    }
    if needs_node_port(before) && needs_node_port(spec) {
        carry_over_node_ports(spec, before);
    }
    if needs_health_check(before) && needs_health_check(spec) && int(&spec["healthCheckNodePort"]) == 0 {
        keep(spec, before, "healthCheckNodePort");
    }
}

/// Gives ports without a node port the one that the port of the same name had, if it is still free.
fn carry_over_node_ports(spec: &mut Value, before: &Value) {
    let used = |spec: &Value| -> HashSet<i64> {
        items(&spec["ports"]).iter().map(|port| int(&port["nodePort"])).filter(|port| *port != 0).collect()
    };
    let taken: HashSet<i64> = used(before).intersection(&used(spec)).copied().collect();
    for port in items_mut(spec, "ports") {
        if int(&port["nodePort"]) != 0 {
            continue;
        }
        let had = items(&before["ports"])
            .iter()
            .filter(|old| text(&old["name"]) == text(&port["name"]))
            .map(|old| int(&old["nodePort"]))
            .next_back()
            .unwrap_or_default();
        if had != 0 && !taken.contains(&had) {
            set(port, "nodePort", had);
        }
    }
}

/// Keeps `clusterIP` and `clusterIPs`, two names for one thing, in step.
pub(super) fn normalize_cluster_ips(object: &mut Value, old: &Value) {
    let before = &old["spec"];
    let Some(spec) = existing_mut(object, "spec") else { return };
    if is_empty(&spec["clusterIP"]) && is_empty(&spec["clusterIPs"]) {
        return;
    }
    if old.is_null() || is_empty(&before["clusterIPs"]) {
        if is_empty(&spec["clusterIPs"]) {
            spec["clusterIPs"] = json!([spec["clusterIP"]]);
        }
        return;
    }
    let list_unchanged = same(&spec["clusterIPs"], &before["clusterIPs"]);
    if is_empty(&spec["clusterIP"]) {
        // The one was cleared: so the client means the other too.
        if list_unchanged {
            clear(spec, "clusterIPs");
        }
    } else if spec["clusterIP"] != before["clusterIP"] && (is_empty(&spec["clusterIPs"]) || list_unchanged) {
        spec["clusterIPs"] = json!([spec["clusterIP"]]);
    }
}

/// Clears fields that the old type had, the new type has not, and the request merely repeats.
pub(super) fn drop_what_the_type_lost(object: &mut Value, old: &Value) {
    let before = &old["spec"];
    let mut lost_balancer = false;
    let Some(spec) = existing_mut(object, "spec") else { return };
    if needs_cluster_ip(before) && !needs_cluster_ip(spec) {
        drop_unchanged(spec, before, &["clusterIP", "clusterIPs"]);
        drop_unchanged(spec, before, &["ipFamilies", "ipFamilyPolicy"]);
    }
    if needs_node_port(before) && !needs_node_port(spec) {
        let node_ports = |spec: &Value| -> HashSet<i64> {
            items(&spec["ports"])
                .iter()
                .map(|port| int(&port["nodePort"]))
                .filter(|port| *port != 0)
                .collect()
        };
        if node_ports(spec).is_subset(&node_ports(before)) {
            for port in items_mut(spec, "ports") {
                clear(port, "nodePort");
            }
        }
    }
    if needs_health_check(before) && !needs_health_check(spec) {
        drop_unchanged(spec, before, &["healthCheckNodePort"]);
    }
    if text(&before["type"]) == "LoadBalancer" && text(&spec["type"]) != "LoadBalancer" {
        drop_unchanged(spec, before, &["allocateLoadBalancerNodePorts"]);
        drop_unchanged(spec, before, &["loadBalancerClass"]);
        lost_balancer = true;
    }
    if is_externally_accessible(before) && !is_externally_accessible(spec) {
        drop_unchanged(spec, before, &["externalTrafficPolicy"]);
    }
    if lost_balancer && let Some(status) = existing_mut(object, "status") {
        set(status, "loadBalancer", json!({}));
    }
}

fn drop_unchanged(spec: &mut Value, before: &Value, names: &[&str]) {
    if names.iter().all(|name| same(&spec[*name], &before[*name])) {
        for name in names {
            clear(spec, name);
        }
    }
}

/// States the address family of the service: clusters have one family, IPv4.
pub(super) fn fill_families(object: &mut Value) {
    let Some(spec) = existing_mut(object, "spec") else { return };
    if !needs_cluster_ip(spec) {
        return;
    }
    fill_absent(spec, "ipFamilyPolicy", "SingleStack");
    if is_empty(&spec["ipFamilies"]) {
        let family = if text(&spec["clusterIP"]).parse::<Ipv6Addr>().is_ok() { "IPv6" } else { "IPv4" };
        set(spec, "ipFamilies", json!([family]));
    }
}
