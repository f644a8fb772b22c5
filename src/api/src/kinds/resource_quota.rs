//! ResourceQuota: how much a namespace may have.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{common::*, pod_spec};
use crate::{
    Cell, Column, FieldCause, Hooks, Kind, Scope, Subresource,
    field::{self, Path},
};

const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
];
/// What a quota of pods of some sort can count: the pods, and what they compute with.
const POD_RESOURCES: &[&str] =
    &["pods", "cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
/// Scopes that leave nothing over together.
const CONFLICTS: [[&str; 2]; 2] = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];

pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["quota"]),
        subresources: vec![Subresource::Status],
        ..define("", "v1", "ResourceQuota", "resourcequotas", Scope::Namespaced, ResourceQuota)
    }
}

struct ResourceQuota;

static COLUMNS: [Column; 4] = [
    Column::object_name(),
    column("Request", "What is requested and counted, of how much that may be."),
    column("Limit", "What is set as limits, of how much that may be."),
    AGE,
];

impl Hooks for ResourceQuota {
    fn prepare_create(&self, object: &mut Value, _now: Timestamp) {
        set(object, "status", json!({}));
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        let (path, spec) = (Path::new("spec"), &object["spec"]);
        check_amounts(&mut errors, &path.child("hard"), &spec["hard"]);
        check_scopes(&mut errors, &path.child("scopes"), spec);
        check_scope_selector(&mut errors, &path.child("scopeSelector.matchExpressions"), spec);
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldCause> {
        let mut errors = self.validate_create(object);
        let scopes = |object: &Value| -> HashSet<String> {
            strings(&object["spec"]["scopes"]).map(str::to_owned).collect()
        };
        if scopes(object) != scopes(old) {
            errors.push(field::immutable(&Path::new("spec.scopes"), &object["spec"]["scopes"]));
        }
        errors
    }

    fn validate_status(&self, object: &Value, _old: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        let path = Path::new("status");
        for name in ["hard", "used"] {
            check_amounts(&mut errors, &path.child(name), &object["status"][name]);
        }
        errors
    }

    fn columns(&self) -> &[Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let status = &object["status"];
        let shown = |value: &Value| {
            pod_spec::amount(value).map_or_else(|| "0".to_owned(), |amount| amount.to_string())
        };
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        let mut hard: Vec<(&String, &Value)> = entries(&status["hard"]).collect();
        hard.sort_by_key(|(name, _)| *name);
        for (name, hard) in hard {
            let list = if name.starts_with("limits.") { &mut limits } else { &mut requests };
            list.push(format!("{name}: {}/{}", shown(&status["used"][name]), shown(hard)));
        }
        vec![name(object), requests.join(", ").into(), limits.join(", ").into(), age(object, now)]
    }
}

fn check_amounts(errors: &mut Vec<FieldCause>, path: &Path<'_>, amounts: &Value) {
    for (name, amount) in entries(amounts) {
        let path = path.key(name);
        if !pod_spec::check_resource_name(errors, &path, name) {
            continue;
        }
        if !name.contains('/') && !is_quota_resource(name) {
            errors.push(field::invalid(&path, name, "must be a standard resource for quota"));
            continue;
        }
        pod_spec::check_amount(errors, &path, name, amount);
    }
}

/// Resources without a domain that a quota can limit: all but the size of single claims.
fn is_quota_resource(name: &str) -> bool {
    pod_spec::is_standard_resource(name) && name != "storage"
}

/// Whether the sort of pods that a scope names has anything to do with a resource.
fn fits(scope: &str, resource: &str) -> bool {
    if !is_quota_resource(resource) {
        return true;
    }
    match scope {
        "BestEffort" => resource == "pods",
        scope if SCOPES.contains(&scope) => POD_RESOURCES.contains(&resource),
        _ => true,
    }
}

fn check_scopes(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value) {
    let scopes = &spec["scopes"];
    for scope in strings(scopes) {
        if !SCOPES.contains(&scope) {
            errors.push(field::invalid(path, scopes, "unsupported scope"));
        }
        for (resource, _) in entries(&spec["hard"]) {
            if !fits(scope, resource) {
                errors.push(field::invalid(path, scopes, "unsupported scope applied to resource"));
            }
        }
    }
    check_conflicts(errors, path, scopes, &strings(scopes).collect());
}

fn check_scope_selector(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value) {
    let selector = &spec["scopeSelector"];
    let mut seen = HashSet::new();
    for requirement in items(&selector["matchExpressions"]) {
        let scope = text(&requirement["scopeName"]);
        if !SCOPES.contains(&scope) {
            errors.push(field::invalid(&path.child("scopeName"), scope, "unsupported scope"));
        }
        for (resource, _) in entries(&spec["hard"]) {
            if !fits(scope, resource) {
                errors.push(field::invalid(path, selector, "unsupported scope applied to resource"));
            }
        }
        let operator = text(&requirement["operator"]);
        let path_of_operator = path.child("operator");
        if SCOPES.contains(&scope) && scope != "PriorityClass" && operator != "Exists" {
            let words = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, \
                         ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                         ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            errors.push(field::invalid(&path_of_operator, operator, words));
        }
        let values = &requirement["values"];
        let path_of_values = path.child("values");
        match operator {
            "In" | "NotIn" if is_empty(values) => {
                let words =
                    "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.push(field::required(&path_of_values, words));
            }
            "Exists" | "DoesNotExist" if !is_empty(values) => {
                let words =
                    "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.push(field::invalid(&path_of_values, values, words));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.push(field::invalid(&path_of_operator, operator, "not a valid selector operator")),
        }
        seen.insert(scope);
    }
    check_conflicts(errors, path, &spec["scopes"], &seen);
}

fn check_conflicts(errors: &mut Vec<FieldCause>, path: &Path<'_>, shown: &Value, scopes: &HashSet<&str>) {
    for pair in CONFLICTS {
        if pair.iter().all(|scope| scopes.contains(scope)) {
            errors.push(field::invalid(path, shown, "conflicting scopes"));
        }
    }
}
