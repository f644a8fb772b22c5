//! What is wrong with a service.

use std::{collections::HashSet, net::IpAddr};

use serde_json::{Value, json};

use super::{is_externally_accessible, is_headless, needs_health_check};
use crate::{
    FieldCause,
    field::{self, Path},
    kinds::{common::*, meta::check_labels},
    names,
};

const MAX_AFFINITY_SECONDS: i64 = 86400;
const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const POLICIES: &[&str] = &["Cluster", "Local"];
const ONLY_LOAD_BALANCER: &str = "may only be used when `type` is 'LoadBalancer'";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const UNCHANGEABLE: &str = "may not change once set";

pub(super) fn check(object: &Value) -> Vec<FieldCause> {
    let mut errors = Vec::new();
    let errors_ref = &mut errors;
    let spec = &object["spec"];
    let path = Path::new("spec");
    check_shape(errors_ref, &path, spec);
    check_ports(errors_ref, &path.child("ports"), spec);
    check_labels(errors_ref, &path.child("selector"), &spec["selector"]);
    check_affinity(errors_ref, &path, spec);
    check_cluster_ips(errors_ref, &path, spec);
    let external = path.child("externalIPs");
    for (index, ip) in strings(&spec["externalIPs"]).enumerate() {
        let path = external.index(index);
        if check_ip(errors_ref, &path, ip).is_some() {
            check_not_special(errors_ref, &path, ip);
        }
    }
    check_one_of(errors_ref, &path.child("type"), &spec["type"], TYPES);
    check_port_conflicts(errors_ref, &path.child("ports"), spec);
    check_load_balancer(errors_ref, &path, spec);
    check_source_ranges(errors_ref, &path, object);
    check_traffic(errors_ref, &path, spec);
    errors
}

pub(super) fn check_update(object: &Value, old: &Value) -> Vec<FieldCause> {
    let mut errors = Vec::new();
    let (spec, before) = (&object["spec"], &old["spec"]);
    let path = Path::new("spec");
    check_kept(&mut errors, &path, spec, before);
    if needs_health_check(before)
        && needs_health_check(spec)
        && int(&spec["healthCheckNodePort"]) != int(&before["healthCheckNodePort"])
    {
        errors.push(field::forbidden(&path.child("healthCheckNodePort"), "field is immutable"));
    }
    errors.extend(check(object));
    errors
}

/// What is wrong with `status`.
pub(super) fn check_status(object: &Value) -> Vec<FieldCause> {
    let mut errors = Vec::new();
    let path = Path::new("status.loadBalancer.ingress");
    let ingress = items(&object["status"]["loadBalancer"]["ingress"]);
    if text(&object["spec"]["type"]) != "LoadBalancer" && !ingress.is_empty() {
        errors.push(field::forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'"));
        return errors;
    }
    for (index, ingress) in ingress.iter().enumerate() {
        let path = path.index(index);
        let ip = text(&ingress["ip"]);
        if !ip.is_empty() {
            check_ip(&mut errors, &path.child("ip"), ip);
        }
        let mode = &ingress["ipMode"];
        match (is_set(mode), ip.is_empty()) {
            (false, false) => {
                errors.push(field::required(&path.child("ipMode"), "must be specified when `ip` is set"));
            }
            (true, true) => {
                errors.push(field::forbidden(
                    &path.child("ipMode"),
                    "may not be specified when `ip` is not set",
                ));
            }
            _ => check_optional_one_of(&mut errors, &path.child("ipMode"), mode, &["Proxy", "VIP"]),
        }
        let hostname = text(&ingress["hostname"]);
        if !hostname.is_empty() {
            check_text(&mut errors, &path.child("hostname"), hostname, names::dns_subdomain);
            if hostname.parse::<IpAddr>().is_ok() {
                errors.push(field::invalid(
                    &path.child("hostname"),
                    hostname,
                    "must be a DNS name, not an IP address",
                ));
            }
        }
    }
    errors
}

/// What the type demands of the other fields.
fn check_shape(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value) {
    let kind = text(&spec["type"]);
    if is_empty(&spec["ports"]) && !is_headless(spec) && kind != "ExternalName" {
        errors.push(field::required(&path.child("ports"), ""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(spec) => {
            errors.push(field::invalid(
                &path.child("clusterIPs").index(0),
                "None",
                &format!("may not be set to 'None' for {kind} services"),
            ));
        }
        "ExternalName" => {
            for name in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if !is_empty(&spec[name]) {
                    errors.push(field::forbidden(
                        &path.child(name),
                        "may not be set for ExternalName services",
                    ));
                }
            }
            let path = path.child("externalName");
            let name = text(&spec["externalName"]);
            match name.strip_suffix('.').unwrap_or(name) {
                "" => errors.push(field::required(&path, "")),
                name => check_text(errors, &path, name, names::dns_subdomain),
            }
        }
        _ => {}
    }
}

fn check_ports(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value) {
    let ports = items(&spec["ports"]);
    let mut seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = text(&port["name"]);
        if name.is_empty() && ports.len() > 1 {
            errors.push(field::required(&path.child("name"), ""));
        } else if !name.is_empty() {
            check_text(errors, &path.child("name"), name, names::dns_label);
            if !seen.insert(name) {
                errors.push(field::duplicate(&path.child("name"), name));
            }
        }
        check_port(errors, &path.child("port"), int(&port["port"]));
        check_one_of(errors, &path.child("protocol"), &port["protocol"], PROTOCOLS);
        check_port_or_name(errors, &path.child("targetPort"), &port["targetPort"]);
        if let Some(protocol) = port["appProtocol"].as_str() {
            check_text(errors, &path.child("appProtocol"), protocol, names::qualified_name);
        }
    }
}

/// Ports and node ports are unique per protocol; plain cluster IPs have no node ports.
fn check_port_conflicts(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value) {
    let ports = items(&spec["ports"]);
    if text(&spec["type"]) == "ClusterIP" {
        for (index, port) in ports.iter().enumerate() {
            if int(&port["nodePort"]) != 0 {
                errors.push(field::forbidden(
                    &path.index(index).child("nodePort"),
                    "may not be used when `type` is 'ClusterIP'",
                ));
            }
        }
    }
    let mut seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let number = int(&port["nodePort"]);
        if number != 0 && !seen.insert((text(&port["protocol"]), number)) {
            errors.push(field::duplicate(&path.index(index).child("nodePort"), number));
        }
    }
    let mut seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        if !seen.insert((text(&port["protocol"]), int(&port["port"]))) {
            // Kubernetes shows its internal struct here, with only these two fields set.
            let key = json!({
                "Name": "", "Protocol": port["protocol"], "AppProtocol": null,
                "Port": port["port"], "TargetPort": 0, "NodePort": 0,
            });
            errors.push(field::duplicate(&path.index(index), &key));
        }
    }
}

fn check_affinity(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value) {
    check_one_of(errors, &path.child("sessionAffinity"), &spec["sessionAffinity"], &["ClientIP", "None"]);
    let path = path.child("sessionAffinityConfig");
    let config = &spec["sessionAffinityConfig"];
    match text(&spec["sessionAffinity"]) {
        "ClientIP" => {
            const WHEN: &str = "when session affinity type is ClientIP";
            let timeout = &config["clientIP"]["timeoutSeconds"];
            let client = path.child("clientIP");
            if !is_set(config) {
                errors.push(field::required(&path, WHEN));
            } else if !is_set(&config["clientIP"]) {
                errors.push(field::required(&client, WHEN));
            } else if !is_set(timeout) {
                errors.push(field::required(&client.child("timeoutSeconds"), WHEN));
            } else if !(1..=MAX_AFFINITY_SECONDS).contains(&int(timeout)) {
                errors.push(field::invalid(
                    &client.child("timeoutSeconds"),
                    int(timeout),
                    &format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}"),
                ));
            }
        }
        "None" if is_set(config) => {
            errors.push(field::forbidden(&path, "must not be set when session affinity is None"));
        }
        _ => {}
    }
}

fn check_cluster_ips(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value) {
    if text(&spec["type"]) == "ExternalName" {
        return;
    }
    let list = &spec["clusterIPs"];
    let ips: Vec<&str> = strings(list).collect();
    let path_of_list = path.child("clusterIPs");
    match (text(&spec["clusterIP"]), ips.first()) {
        ("", None) => {}
        ("", Some(_)) => {
            errors.push(field::invalid(
                &path_of_list,
                list,
                "must be empty when `clusterIP` is not specified",
            ));
        }
        (_, None) => errors.push(field::required(&path_of_list, "")),
        (ip, Some(first)) if ip != *first => {
            errors.push(field::invalid(&path_of_list, list, "first value must match `clusterIP`"));
        }
        _ => {}
    }

    let mut seen = HashSet::new();
    let path_of_families = path.child("ipFamilies");
    for (index, family) in strings(&spec["ipFamilies"]).enumerate() {
        let path = path_of_families.index(index);
        if !["IPv4", "IPv6"].contains(&family) {
            errors.push(field::not_supported(&path, family, &["IPv4", "IPv6"]));
        }
        if !seen.insert(family) {
            errors.push(field::duplicate(&path, family));
        }
    }
    check_optional_one_of(
        errors,
        &path.child("ipFamilyPolicy"),
        &spec["ipFamilyPolicy"],
        &["PreferDualStack", "RequireDualStack", "SingleStack"],
    );

    let before = errors.len();
    let mut parsed: Vec<IpAddr> = Vec::new();
    for (index, ip) in ips.iter().enumerate() {
        if index == 0 && *ip == "None" {
            if ips.len() > 1 {
                errors.push(field::invalid(&path_of_list, list, "'None' must be the first and only value"));
            }
            continue;
        }
        parsed.extend(check_ip(errors, &path_of_list.index(index), ip));
    }
    let valid = errors.len() == before;
    if ips.len() > 2 {
        errors.push(field::invalid(&path_of_list, list, "may only hold up to 2 values"));
    }
    if !valid {
        return;
    }
    if ips.len() > 1 && !(parsed.iter().any(IpAddr::is_ipv4) && parsed.iter().any(IpAddr::is_ipv6)) {
        errors.push(field::invalid(
            &path_of_list,
            list,
            "may specify no more than one IP for each IP family",
        ));
    }
    if !is_headless(spec) {
        for (index, (ip, family)) in parsed.iter().zip(strings(&spec["ipFamilies"])).enumerate() {
            if matches!((family, ip.is_ipv6()), ("IPv4", true) | ("IPv6", false)) {
                errors.push(field::invalid(
                    &path_of_list.index(index),
                    ips[index],
                    &format!("expected an {family} value as indicated by `ipFamilies[{index}]`"),
                ));
            }
        }
    }
}

fn check_load_balancer(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value) {
    let is_load_balancer = text(&spec["type"]) == "LoadBalancer";
    if is_set(&spec["allocateLoadBalancerNodePorts"]) && !is_load_balancer {
        errors.push(field::forbidden(&path.child("allocateLoadBalancerNodePorts"), ONLY_LOAD_BALANCER));
    }
    if let Some(class) = spec["loadBalancerClass"].as_str() {
        let path = path.child("loadBalancerClass");
        if is_load_balancer {
            check_text(errors, &path, class, names::qualified_name);
        } else {
            errors.push(field::forbidden(&path, ONLY_LOAD_BALANCER));
        }
    }
}

/// Where the clients of a load balancer may come from: the field, or the annotation that was there before it.
fn check_source_ranges(errors: &mut Vec<FieldCause>, path: &Path<'_>, object: &Value) {
    let spec = &object["spec"];
    let is_load_balancer = text(&spec["type"]) == "LoadBalancer";
    if !is_empty(&spec["loadBalancerSourceRanges"]) {
        let ranges = path.child("LoadBalancerSourceRanges");
        if !is_load_balancer {
            errors.push(field::forbidden(&ranges, ONLY_LOAD_BALANCER));
        }
        for (index, range) in strings(&spec["loadBalancerSourceRanges"]).enumerate() {
            check_cidr(errors, &ranges.index(index), range.trim());
        }
    } else if let Some(annotation) = object["metadata"]["annotations"][SOURCE_RANGES].as_str() {
        let annotations = Path::new("metadata.annotations");
        let ranges = annotations.key(SOURCE_RANGES);
        if !is_load_balancer {
            errors.push(field::forbidden(&ranges, ONLY_LOAD_BALANCER));
        }
        let ranges_of = annotation.trim().split(',').filter(|_| !annotation.trim().is_empty());
        for range in ranges_of {
            check_cidr(errors, &ranges, range.trim());
        }
    }
}

fn check_traffic(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value) {
    let external = text(&spec["externalTrafficPolicy"]);
    let path_of_external = path.child("externalTrafficPolicy");
    if is_externally_accessible(spec) {
        check_one_of(errors, &path_of_external, &spec["externalTrafficPolicy"], POLICIES);
    } else if !external.is_empty() {
        errors.push(field::invalid(
            &path_of_external,
            external,
            "may only be set for externally-accessible services",
        ));
    }
    // A health check port that is needed and not given is allocated later, like node ports.
    let port = int(&spec["healthCheckNodePort"]);
    let path_of_port = path.child("healthCheckNodePort");
    if port != 0 && !needs_health_check(spec) {
        errors.push(field::invalid(
            &path_of_port,
            port,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        ));
    } else if port != 0 {
        check_port(errors, &path_of_port, port);
    }
    let internal = &spec["internalTrafficPolicy"];
    if !is_set(internal) && matches!(text(&spec["type"]), "ClusterIP" | "NodePort" | "LoadBalancer") {
        errors.push(field::required(&path.child("internalTrafficPolicy"), ""));
    }
    check_optional_one_of(errors, &path.child("internalTrafficPolicy"), internal, POLICIES);
    check_optional_one_of(
        errors,
        &path.child("trafficDistribution"),
        &spec["trafficDistribution"],
        &["PreferClose"],
    );
}

/// Addresses, their families and the load balancer's class stay once they are set.
fn check_kept(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value, before: &Value) {
    let is_external_name = |spec: &Value| text(&spec["type"]) == "ExternalName";
    if !is_external_name(spec) && !is_external_name(before) {
        let (headless, was_headless) = (is_headless(spec), is_headless(before));
        if !(headless && was_headless) {
            check_kept_list(
                errors,
                &path.child("clusterIPs"),
                path,
                &spec["clusterIPs"],
                &before["clusterIPs"],
                spec,
            );
        }
        if !headless && !was_headless {
            check_kept_list(
                errors,
                &path.child("ipFamilies"),
                path,
                &spec["ipFamilies"],
                &before["ipFamilies"],
                spec,
            );
        }
    }
    let is_load_balancer = |spec: &Value| text(&spec["type"]) == "LoadBalancer";
    if is_load_balancer(spec)
        && is_load_balancer(before)
        && !same(&spec["loadBalancerClass"], &before["loadBalancerClass"])
    {
        errors.push(field::invalid(
            &path.child("loadBalancerClass"),
            &spec["loadBalancerClass"],
            UNCHANGEABLE,
        ));
    }
}

/// The first element stays; a second one may come, and may go if the policy says single-stack.
fn check_kept_list(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    spec_path: &Path<'_>,
    list: &Value,
    before: &Value,
    spec: &Value,
) {
    let (new, old): (Vec<&str>, Vec<&str>) = (strings(list).collect(), strings(before).collect());
    if new.len() == old.len() {
        for (index, _) in new.iter().zip(&old).enumerate().filter(|(_, (new, old))| new != old) {
            errors.push(field::invalid(&path.index(index), list, UNCHANGEABLE));
        }
        return;
    }
    match (new.first(), old.first()) {
        (None, _) => errors.push(field::invalid(&path.index(0), list, "primary clusterIP can not be unset")),
        (Some(new), Some(old)) if new != old => {
            errors.push(field::invalid(&path.index(0), list, UNCHANGEABLE));
        }
        _ => {}
    }
    if new.len() == 1 && old.len() == 2 && text(&spec["ipFamilyPolicy"]) != "SingleStack" {
        errors.push(field::invalid(
            &spec_path.child("ipFamilyPolicy"),
            &spec["ipFamilyPolicy"],
            "must be set to 'SingleStack' when releasing the secondary clusterIP",
        ));
    }
}
