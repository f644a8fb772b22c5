//! Amounts of resources: what containers request and may use at most.

use serde_json::Value;

use crate::{
    FieldCause,
    field::{self, Path},
    kinds::common::*,
    names,
    quantity::Quantity,
};

const HUGE_PAGES: &str = "hugepages-";

/// Names without a domain that mean something, to containers or to quotas.
const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];

/// Names that count things: no halves.
const COUNTS: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// An amount as JSON has it: text, or a plain number.
pub(in crate::kinds) fn amount(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
}

/// Kubernetes' own resources: no domain, or one of `kubernetes.io`.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether requests may be lower than limits.
pub(in crate::kinds) fn may_overcommit(name: &str) -> bool {
    is_native(name) && !name.starts_with(HUGE_PAGES)
}

/// Whether `value` is a valid amount of the resource `name`.
pub(in crate::kinds) fn check_amount(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    name: &str,
    value: &Value,
) {
    let Some(amount) = amount(value) else { return };
    if amount < Quantity::default() {
        errors.push(field::invalid(path, &amount.to_string(), "must be greater than or equal to 0"));
    }
    if (COUNTS.contains(&name) || is_extended(name)) && amount.milli() % 1000 != 0 {
        errors.push(field::invalid(path, &amount.to_string(), "must be an integer"));
    }
}

/// Whether a name without a domain is that of a resource, in a container or a quota.
pub(in crate::kinds) fn is_standard_resource(name: &str) -> bool {
    let huge = name.strip_prefix("requests.").unwrap_or(name).starts_with(HUGE_PAGES);
    STANDARD.contains(&name) || huge
}

/// Names of resources anywhere. False if the name is none.
pub(in crate::kinds) fn check_resource_name(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    name: &str,
) -> bool {
    let before = errors.len();
    check_text(errors, path, name, names::qualified_name);
    if errors.len() == before && !name.contains('/') && !is_standard_resource(name) {
        errors.push(field::invalid(path, name, "must be a standard resource type or fully qualified"));
    }
    errors.len() == before
}

/// Names of resources that a container may ask for.
pub(in crate::kinds) fn check_container_resource(errors: &mut Vec<FieldCause>, path: &Path<'_>, name: &str) {
    check_resource_name(errors, path, name);
    if !name.contains('/') {
        if !["cpu", "memory", "ephemeral-storage"].contains(&name) && !name.starts_with(HUGE_PAGES) {
            errors.push(field::invalid(path, name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.push(field::invalid(path, name, "doesn't follow extended resource name standard"));
    }
}

fn check_huge_pages(errors: &mut Vec<FieldCause>, path: &Path<'_>, name: &str, value: &Value) {
    let Some(size) = name.strip_prefix(HUGE_PAGES).and_then(|size| Quantity::parse(size).ok()) else {
        return;
    };
    let Some(amount) = amount(value) else { return };
    let divides = size.value() > 0 && amount.value() % size.value() == 0;
    if !divides {
        let amount = amount.to_string();
        let words = format!("{amount} is not positive integer multiple of {name}");
        errors.push(field::invalid(path, &amount, &words));
    }
}

/// A container's `resources`. `claims` are the names of the pod's resource claims.
pub(super) fn check_requirements(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    resources: &Value,
    claims: &[&str],
) {
    let (limits, requests) = (&resources["limits"], &resources["requests"]);
    let (limits_path, requests_path) = (path.child("limits"), path.child("requests"));
    for (name, value) in entries(limits) {
        check_entry(errors, &limits_path.key(name), name, value);
    }
    for (name, value) in entries(requests) {
        check_entry(errors, &requests_path.key(name), name, value);
        let Some(request) = amount(value) else { continue };
        match amount(&limits[name]) {
            Some(limit) if request != limit && !may_overcommit(name) => {
                let words = format!("must be equal to {name} limit of {limit}");
                errors.push(field::invalid(&requests_path, &request.to_string(), &words));
            }
            Some(limit) if request > limit => {
                let words = format!("must be less than or equal to {name} limit of {limit}");
                errors.push(field::invalid(&requests_path, &request.to_string(), &words));
            }
            None if !may_overcommit(name) => {
                errors.push(field::required(
                    &limits_path,
                    "Limit must be set for non overcommitable resources",
                ));
            }
            _ => {}
        }
    }
    let any =
        |wanted: fn(&str) -> bool| entries(limits).chain(entries(requests)).any(|(name, _)| wanted(name));
    if any(|name| name.starts_with(HUGE_PAGES)) && !any(|name| name == "cpu" || name == "memory") {
        errors.push(field::forbidden(path, "HugePages require cpu or memory"));
    }
    check_claims(errors, &path.child("claims"), &resources["claims"], claims);
}

fn check_entry(errors: &mut Vec<FieldCause>, path: &Path<'_>, name: &str, value: &Value) {
    check_container_resource(errors, path, name);
    check_amount(errors, path, name, value);
    if name.starts_with(HUGE_PAGES) {
        check_huge_pages(errors, path, name, value);
    }
}

fn check_claims(errors: &mut Vec<FieldCause>, path: &Path<'_>, used: &Value, claims: &[&str]) {
    let used = items(used);
    for (index, claim) in used.iter().enumerate() {
        let path = path.index(index);
        let name = text(&claim["name"]);
        if name.is_empty() {
            errors.push(field::required(&path, ""));
            continue;
        }
        if used[..index].contains(claim) {
            errors.push(field::duplicate(&path, name));
        }
        if !claims.contains(&name) {
            let mut cause = field::not_found(&path, name);
            cause.message.push_str(": must be one of the names in pod.spec.resourceClaims");
            cause.message.push_str(&match claims {
                [] => " which is empty".to_owned(),
                claims => format!(": {}", claims.join(", ")),
            });
            errors.push(cause);
        }
    }
}

/// The quality-of-service class: `Guaranteed` if every container limits cpu and memory and requests
/// as much, `BestEffort` if none says anything, else `Burstable`.
pub(in crate::kinds) fn qos_class(spec: &Value) -> &'static str {
    let mut guaranteed = true;
    let mut any = false;
    for container in items(&spec["containers"]).iter().chain(items(&spec["initContainers"])) {
        let resources = &container["resources"];
        for name in ["cpu", "memory"] {
            let positive =
                |list: &str| amount(&resources[list][name]).filter(|amount| *amount > Quantity::default());
            let (request, limit) = (positive("requests"), positive("limits"));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
