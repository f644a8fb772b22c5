//! EndpointSlice: a bounded part of the addresses behind a service.

use std::{collections::HashSet, net::IpAddr};

use jiff::Timestamp;
use serde_json::Value;

use super::{common::*, endpoints::first_of, meta::check_labels};
use crate::{
    Cell, Column, FieldCause, Hooks, Kind, Scope,
    field::{self, Path},
    names,
};

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
/// More than services may have ports, so that one slice always holds them all.
const MAX_PORTS: usize = 20000;
const MAX_TOPOLOGY: usize = 16;
const MAX_ZONE_HINTS: usize = 8;

pub(super) fn kind() -> Kind {
    define("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", Scope::Namespaced, EndpointSlice)
}

struct EndpointSlice;

static COLUMNS: [Column; 5] = [
    Column::object_name(),
    column("AddressType", "IPv4, IPv6 or FQDN."),
    column("Ports", "Ports of the endpoints, the first few."),
    column("Endpoints", "Addresses, the first few."),
    AGE,
];

impl Hooks for EndpointSlice {
    fn default(&self, object: &mut Value) {
        for port in items_mut(object, "ports") {
            fill_absent(port, "name", "");
            fill_absent(port, "protocol", "TCP");
        }
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        check_one_of(
            &mut errors,
            &Path::new("addressType"),
            &object["addressType"],
            &["FQDN", "IPv4", "IPv6"],
        );
        check_endpoints(
            &mut errors,
            &Path::new("endpoints"),
            &object["endpoints"],
            text(&object["addressType"]),
        );
        check_ports(&mut errors, &Path::new("ports"), &object["ports"]);
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldCause> {
        let mut errors = self.validate_create(object);
        check_immutable(&mut errors, &Path::new("addressType"), &object["addressType"], &old["addressType"]);
        errors
    }

    fn columns(&self) -> &[Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let ports: Vec<String> = items(&object["ports"])
            .iter()
            .map(|port| match (port["port"].as_i64(), port["name"].as_str()) {
                (Some(number), _) => number.to_string(),
                (None, Some(name)) => name.to_owned(),
                (None, None) => "*".to_owned(),
            })
            .collect();
        let addresses: Vec<String> = items(&object["endpoints"])
            .iter()
            .flat_map(|endpoint| strings(&endpoint["addresses"]))
            .map(str::to_owned)
            .collect();
        let show = |list: &[String]| Cell::from(or(&first_of(list), "<unset>"));
        vec![
            name(object),
            text(&object["addressType"]).into(),
            show(&ports),
            show(&addresses),
            age(object, now),
        ]
    }
}

fn check_endpoints(errors: &mut Vec<FieldCause>, path: &Path<'_>, endpoints: &Value, address_type: &str) {
    let endpoints = items(endpoints);
    if endpoints.len() > MAX_ENDPOINTS {
        errors.push(field::too_many(path, endpoints.len(), MAX_ENDPOINTS));
        return;
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        let path = path.index(index);
        let addresses = items(&endpoint["addresses"]);
        let list = path.child("addresses");
        if addresses.is_empty() {
            errors.push(field::required(&list, "must contain at least 1 address"));
        } else if addresses.len() > MAX_ADDRESSES {
            errors.push(field::too_many(&list, addresses.len(), MAX_ADDRESSES));
        }
        for (index, address) in addresses.iter().map(text).enumerate() {
            check_address(errors, &list.index(index), address, address_type);
        }
        let topology = path.child("deprecatedTopology");
        let count = entries(&endpoint["deprecatedTopology"]).count();
        if count > MAX_TOPOLOGY {
            errors.push(field::too_many(&topology, count, MAX_TOPOLOGY));
        }
        check_labels(errors, &topology, &endpoint["deprecatedTopology"]);
        if let Some(hostname) = endpoint["hostname"].as_str() {
            check_text(errors, &path.child("hostname"), hostname, names::dns_label);
        }
        if let Some(node) = endpoint["nodeName"].as_str() {
            check_text(errors, &path.child("nodeName"), node, names::dns_subdomain);
        }
        check_zone_hints(errors, &path.child("hints").child("forZones"), &endpoint["hints"]["forZones"]);
    }
}

fn check_address(errors: &mut Vec<FieldCause>, path: &Path<'_>, address: &str, address_type: &str) {
    let ip = address.parse::<IpAddr>();
    match address_type {
        "IPv4" => {
            if !matches!(ip, Ok(IpAddr::V4(_))) {
                errors.push(field::invalid(path, address, "must be a valid IPv4 address"));
            }
            check_not_special(errors, path, address);
        }
        "IPv6" => {
            if !matches!(ip, Ok(IpAddr::V6(_))) {
                errors.push(field::invalid(path, address, "must be a valid IPv6 address"));
            }
            check_not_special(errors, path, address);
        }
        "FQDN" => {
            let name = address.strip_suffix('.').unwrap_or(address);
            if name.is_empty() {
                errors.push(field::required(path, ""));
            } else if !names::dns_subdomain(name).is_empty() {
                check_text(errors, path, name, names::dns_subdomain);
            } else if !name.contains('.') {
                errors.push(field::invalid(
                    path,
                    address,
                    "should be a domain with at least two segments separated by dots",
                ));
            }
        }
        _ => {}
    }
}

fn check_zone_hints(errors: &mut Vec<FieldCause>, path: &Path<'_>, zones: &Value) {
    let zones = items(zones);
    if zones.len() > MAX_ZONE_HINTS {
        errors.push(field::too_many(path, zones.len(), MAX_ZONE_HINTS));
        return;
    }
    let mut seen = HashSet::new();
    for (index, zone) in zones.iter().map(|zone| text(&zone["name"])).enumerate() {
        let item = path.index(index);
        if !seen.insert(zone) {
            errors.push(field::duplicate(&item.child("name"), zone));
        }
        check_text(errors, &item.child("name"), zone, names::label_value);
    }
}

fn check_ports(errors: &mut Vec<FieldCause>, path: &Path<'_>, ports: &Value) {
    let ports = items(ports);
    if ports.len() > MAX_PORTS {
        errors.push(field::too_many(path, ports.len(), MAX_PORTS));
        return;
    }
    let mut seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = text(&port["name"]);
        check_optional_text(errors, &path.child("name"), &port["name"], names::dns_label);
        if !seen.insert(name) {
            errors.push(field::duplicate(&path.child("name"), name));
        }
        check_one_of(errors, &path.child("protocol"), &port["protocol"], PROTOCOLS);
        if let Some(protocol) = port["appProtocol"].as_str() {
            check_text(errors, &path.child("appProtocol"), protocol, names::qualified_name);
        }
    }
}
