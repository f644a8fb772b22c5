//! NetworkPolicy: which connections the pods of a namespace may make and take.

use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{common::*, pod_spec, workload::selector_cell};
use crate::{
    Cell, Column, FieldCause, Hooks, Kind, Scope,
    field::{self, Path},
};

/// The directions that a policy may be about.
const TYPES: &[&str] = &["Ingress", "Egress"];
/// The protocols of a policy's ports, in the order in which Kubernetes lists them here.
const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];

pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["netpol"]),
        ..define(
            "networking.k8s.io",
            "v1",
            "NetworkPolicy",
            "networkpolicies",
            Scope::Namespaced,
            NetworkPolicy,
        )
    }
}

struct NetworkPolicy;

static COLUMNS: [Column; 3] =
    [Column::object_name(), column("Pod-Selector", "The pods that the policy is about."), AGE];

impl Hooks for NetworkPolicy {
    fn default(&self, object: &mut Value) {
        let Some(spec) = existing_mut(object, "spec") else { return };
        for rules in ["ingress", "egress"] {
            for rule in items_mut(spec, rules) {
                for port in items_mut(rule, "ports") {
                    fill_absent(port, "protocol", "TCP");
                }
            }
        }
        if is_empty(&spec["policyTypes"]) {
            // A policy that says nothing of egress is about ingress alone.
            let types = if is_empty(&spec["egress"]) { json!(["Ingress"]) } else { json!(TYPES) };
            set(spec, "policyTypes", types);
        }
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        let (path, spec) = (Path::new("spec"), &object["spec"]);
        pod_spec::check_label_selector(&mut errors, &path.child("podSelector"), &spec["podSelector"]);
        for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
            let path = path.child(rules);
            for (index, rule) in items(&spec[rules]).iter().enumerate() {
                let path = path.index(index);
                let ports = path.child("ports");
                for (index, port) in items(&rule["ports"]).iter().enumerate() {
                    check_policy_port(&mut errors, &ports.index(index), port);
                }
                let list = path.child(peers);
                for (index, peer) in items(&rule[peers]).iter().enumerate() {
                    check_peer(&mut errors, &list.index(index), peer);
                }
            }
        }
        let (path, types) = (path.child("policyTypes"), items(&spec["policyTypes"]));
        if types.len() > TYPES.len() {
            errors.push(field::invalid(
                &path,
                &spec["policyTypes"],
                "may not specify more than two policyTypes",
            ));
            return errors;
        }
        for (index, type_) in types.iter().enumerate() {
            check_optional_one_of(&mut errors, &path.index(index), type_, TYPES);
        }
        errors
    }

    fn columns(&self) -> &[Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        // The selector is a part of the spec, not a reference to one: left out means all pods.
        let selector = &object["spec"]["podSelector"];
        let cell = if is_empty(selector) { "<none>".into() } else { selector_cell(selector) };
        vec![name(object), cell, age(object, now)]
    }
}

fn check_policy_port(errors: &mut Vec<FieldCause>, path: &Path<'_>, rule: &Value) {
    check_optional_one_of(errors, &path.child("protocol"), &rule["protocol"], PROTOCOLS);
    let (port, end) = (&rule["port"], &rule["endPort"]);
    if is_set(port) {
        check_port_or_name(errors, &path.child("port"), port);
    }
    let path = path.child("endPort");
    match port {
        _ if !is_set(end) => {}
        Value::Null => {
            errors.push(field::invalid(&path, end, "may not be specified when `port` is not specified"));
        }
        Value::String(_) => {
            errors.push(field::invalid(&path, end, "may not be specified when `port` is non-numeric"));
        }
        port => {
            if int(end) < int(port) {
                // Kubernetes shows the port here, not its end.
                errors.push(field::invalid(&path, port, "must be greater than or equal to `port`"));
            }
            check_port(errors, &path, int(end));
        }
    }
}

fn check_peer(errors: &mut Vec<FieldCause>, path: &Path<'_>, peer: &Value) {
    let mut selectors = 0;
    for selector in ["podSelector", "namespaceSelector"] {
        if is_set(&peer[selector]) {
            selectors += 1;
            pod_spec::check_label_selector(errors, &path.child(selector), &peer[selector]);
        }
    }
    let block = &peer["ipBlock"];
    if is_set(block) {
        check_block(errors, &path.child("ipBlock"), block);
        if selectors > 0 {
            errors.push(field::forbidden(path, "may not specify both ipBlock and another peer"));
        }
    } else if selectors == 0 {
        errors.push(field::required(path, "must specify a peer"));
    }
}

fn check_block(errors: &mut Vec<FieldCause>, path: &Path<'_>, block: &Value) {
    let cidr = text(&block["cidr"]);
    if cidr.is_empty() {
        errors.push(field::required(&path.child("cidr"), ""));
        return;
    }
    check_cidr(errors, &path.child("cidr"), cidr);
    let Ok(whole) = cidr.parse::<IpNet>() else { return };
    let path = path.child("except");
    for (index, except) in strings(&block["except"]).enumerate() {
        let path = path.index(index);
        check_cidr(errors, &path, except);
        let Ok(part) = except.parse::<IpNet>() else { continue };
        if !whole.contains(&part.addr()) || part.prefix_len() <= whole.prefix_len() {
            errors.push(field::invalid(&path, except, "must be a strict subset of `cidr`"));
        }
    }
}
