//! Endpoints: the addresses behind a service, in the older form that many clients still read.

use jiff::Timestamp;
use serde_json::Value;

use super::common::*;
use crate::{
    Cell, Column, FieldCause, Hooks, Kind, Scope,
    field::{self, Path},
    names,
};

/// How many endpoints a table names before it counts the rest.
pub(super) const MAX_SHOWN: usize = 3;

pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["ep"]),
        ..define("", "v1", "Endpoints", "endpoints", Scope::Namespaced, Endpoints)
    }
}

struct Endpoints;

static COLUMNS: [Column; 3] =
    [Column::object_name(), column("Endpoints", "Ready addresses with their ports, the first few."), AGE];

impl Hooks for Endpoints {
    fn default(&self, object: &mut Value) {
        for subset in items_mut(object, "subsets") {
            for port in items_mut(subset, "ports") {
                fill(port, "protocol", "TCP");
            }
        }
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        let path = Path::new("subsets");
        for (index, subset) in items(&object["subsets"]).iter().enumerate() {
            check_subset(&mut errors, &path.index(index), subset);
        }
        errors
    }

    fn columns(&self) -> &[Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![name(object), format(&object["subsets"]).into(), age(object, now)]
    }
}

fn check_subset(errors: &mut Vec<FieldCause>, path: &Path<'_>, subset: &Value) {
    if is_empty(&subset["addresses"]) && is_empty(&subset["notReadyAddresses"]) {
        errors.push(field::required(path, "must specify `addresses` or `notReadyAddresses`"));
    }
    for list in ["addresses", "notReadyAddresses"] {
        let path = path.child(list);
        for (index, address) in items(&subset[list]).iter().enumerate() {
            let path = path.index(index);
            let ip = text(&address["ip"]);
            check_ip(errors, &path.child("ip"), ip);
            check_optional_text(errors, &path.child("hostname"), &address["hostname"], names::dns_label);
            check_optional_text(errors, &path.child("nodeName"), &address["nodeName"], names::dns_subdomain);
            check_not_special(errors, &path.child("ip"), ip);
        }
    }
    let ports = items(&subset["ports"]);
    let path = path.child("ports");
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        if ports.len() > 1 {
            check_required_text(errors, &path.child("name"), &port["name"], names::dns_label);
        } else {
            check_optional_text(errors, &path.child("name"), &port["name"], names::dns_label);
        }
        check_port(errors, &path.child("port"), int(&port["port"]));
        check_one_of(errors, &path.child("protocol"), &port["protocol"], PROTOCOLS);
        check_optional_text(errors, &path.child("appProtocol"), &port["appProtocol"], names::qualified_name);
    }
}

/// `10.0.0.1:80,10.0.0.2:80 + 3 more...`
fn format(subsets: &Value) -> String {
    if is_empty(subsets) {
        return "<none>".to_owned();
    }
    let mut all = Vec::new();
    for subset in items(subsets) {
        let addresses = || items(&subset["addresses"]).iter().map(|address| text(&address["ip"]));
        let ports = items(&subset["ports"]);
        if ports.is_empty() {
            // Headless services may have no ports.
            all.extend(addresses().map(str::to_owned));
        }
        for port in ports {
            let port = int(&port["port"]);
            all.extend(addresses().map(|ip| match ip.contains(':') {
                true => format!("[{ip}]:{port}"),
                false => format!("{ip}:{port}"),
            }));
        }
    }
    first_of(&all)
}

/// The first few of a list, and how many more there are.
pub(super) fn first_of(all: &[String]) -> String {
    let shown = all[..all.len().min(MAX_SHOWN)].join(",");
    match all.len().saturating_sub(MAX_SHOWN) {
        0 => shown,
        more => format!("{shown} + {more} more..."),
    }
}
