//! The rules of a pod spec as a whole; its parts are in the sibling modules.

use std::collections::HashMap;

use serde_json::Value;

use super::{containers, scheduling, security, volumes};
use crate::{
    FieldCause,
    field::{self, Path},
    kinds::{common::*, meta},
    names,
};

const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARACTERS: usize = 2048;
/// `activeDeadlineSeconds` is a 64-bit field with a 32-bit limit.
const MAX_DEADLINE: i64 = i32::MAX as i64;

/// What a pod spec belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kinds) enum Holder<'a> {
    /// A pod of this name: some rules hold for pods alone.
    Pod(&'a str),
    /// A template, from which pods are made later.
    Template,
}

/// What the rules of a spec's parts need to know of the rest of it.
pub(super) struct Context<'a> {
    pub(super) is_pod: bool,
    pub(super) grace: Option<i64>,
    pub(super) restart_policy: &'a str,
    /// Whether users in the pod are users of the host.
    pub(super) host_users: bool,
    /// Names of the pod's resource claims.
    pub(super) claims: Vec<&'a str>,
    /// Volumes that are well formed, by name.
    pub(super) volumes: HashMap<&'a str, &'a Value>,
}

/// What is wrong with a pod template.
pub(in crate::kinds) fn check_template(errors: &mut Vec<FieldCause>, path: &Path<'_>, template: &Value) {
    let metadata = &template["metadata"];
    meta::check_labels(errors, &path.child("labels"), &metadata["labels"]);
    let annotations = path.child("annotations");
    meta::check_annotations(errors, &annotations, &metadata["annotations"]);
    check_annotations(errors, &annotations, &metadata["annotations"]);
    let path = path.child("spec");
    check_spec(errors, &path, &template["spec"], Holder::Template);
    if !is_empty(&template["spec"]["ephemeralContainers"]) {
        errors.push(field::forbidden(
            &path.child("ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        ));
    }
}

/// What is wrong with annotations that mean something on pods.
pub(in crate::kinds) fn check_annotations(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    annotations: &Value,
) {
    const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
    if let Some(cost) = annotations[DELETION_COST].as_str() {
        // As Kubernetes reads it: no plus sign, no leading zeros.
        let canonical = cost.parse::<i32>().is_ok_and(|number| number.to_string() == cost);
        if !canonical {
            errors.push(field::invalid(&path.key(DELETION_COST), cost, "must be a 32bit integer"));
        }
    }
}

/// What is wrong with a pod spec.
pub(in crate::kinds) fn check_spec(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    spec: &Value,
    holder: Holder<'_>,
) {
    let grace = spec["terminationGracePeriodSeconds"].as_i64();
    if grace.is_none() {
        errors.push(field::required(&path.child("terminationGracePeriodSeconds"), ""));
    }
    let volumes = volumes::check_volumes(errors, &path.child("volumes"), &spec["volumes"], holder);
    let context = Context {
        is_pod: holder != Holder::Template,
        grace,
        restart_policy: text(&spec["restartPolicy"]),
        host_users: spec["hostUsers"].as_bool().unwrap_or(true),
        claims: items(&spec["resourceClaims"]).iter().map(|claim| text(&claim["name"])).collect(),
        volumes,
    };
    check_claims(errors, &path.child("resourceClaims"), &spec["resourceClaims"]);
    containers::check_containers(errors, path, spec, &context);
    check_host_network(errors, &path.child("containers"), spec, &context);
    check_one_of(
        errors,
        &path.child("restartPolicy"),
        &spec["restartPolicy"],
        &["Always", "OnFailure", "Never"],
    );
    check_one_of(
        errors,
        &path.child("dnsPolicy"),
        &spec["dnsPolicy"],
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    meta::check_labels(errors, &path.child("nodeSelector"), &spec["nodeSelector"]);
    security::check_pod_context(errors, &path.child("securityContext"), spec);
    scheduling::check_affinity(errors, &path.child("affinity"), &spec["affinity"]);
    check_dns(errors, &path.child("dnsConfig"), spec);
    let gates = path.child("readinessGates");
    for (index, gate) in items(&spec["readinessGates"]).iter().enumerate() {
        let path = gates.index(index);
        check_text(errors, &path.child("conditionType"), text(&gate["conditionType"]), names::qualified_name);
    }
    scheduling::check_gates(errors, &path.child("schedulingGates"), &spec["schedulingGates"]);
    let spread = path.child("topologySpreadConstraints");
    scheduling::check_topology_spread(errors, &spread, &spec["topologySpreadConstraints"]);
    security::check_host_users(errors, path, spec, &context);
    for (name, rule) in [
        ("serviceAccountName", names::dns_subdomain as Rule),
        ("nodeName", names::dns_subdomain),
        ("hostname", names::dns_label),
        ("subdomain", names::dns_label),
        ("priorityClassName", names::dns_subdomain),
    ] {
        check_optional_text(errors, &path.child(name), &spec[name], rule);
    }
    if let Some(deadline) = spec["activeDeadlineSeconds"].as_i64() {
        for message in names::in_range(deadline, 1, MAX_DEADLINE) {
            errors.push(field::invalid(&path.child("activeDeadlineSeconds"), deadline, &message));
        }
    }
    scheduling::check_tolerations(errors, &path.child("tolerations"), &spec["tolerations"]);
    check_host_aliases(errors, &path.child("hostAliases"), &spec["hostAliases"]);
    if let Some(class) = spec["runtimeClassName"].as_str() {
        check_text(errors, &path.child("runtimeClassName"), class, names::dns_subdomain);
    }
    if is_set(&spec["preemptionPolicy"]) {
        let allowed = &["PreemptLowerPriority", "Never"];
        check_one_of(errors, &path.child("preemptionPolicy"), &spec["preemptionPolicy"], allowed);
    }
    check_os(errors, &path.child("os"), &spec["os"]);
}

fn check_claims(errors: &mut Vec<FieldCause>, path: &Path<'_>, claims: &Value) {
    let claims = items(claims);
    for (index, claim) in claims.iter().enumerate() {
        let path = path.index(index);
        let name = text(&claim["name"]);
        let taken = claims[..index].iter().any(|other| text(&other["name"]) == name);
        match name {
            "" => errors.push(field::required(&path.child("name"), "")),
            name if taken => errors.push(field::duplicate(&path.child("name"), name)),
            name => check_text(errors, &path.child("name"), name, names::dns_label),
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"];
        match sources.iter().filter(|source| is_set(&claim[**source])).count() {
            0 => errors.push(field::invalid(
                &path,
                claim,
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            )),
            1 => {}
            _ => errors.push(field::invalid(
                &path,
                claim,
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            )),
        }
        for source in sources {
            check_optional_text(errors, &path.child(source), &claim[source], names::dns_subdomain);
        }
    }
}

/// On the host's network a container's ports are the host's.
fn check_host_network(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value, context: &Context<'_>) {
    if !flag(&spec["hostNetwork"]) {
        return;
    }
    for (index, container) in items(&spec["containers"]).iter().enumerate() {
        let container_path = path.index(index);
        let path = container_path.child("ports");
        for (index, port) in items(&container["ports"]).iter().enumerate() {
            let host = int(&port["hostPort"]);
            if (context.is_pod || host != 0) && host != int(&port["containerPort"]) {
                errors.push(field::invalid(
                    &path.index(index).child("hostPort"),
                    host,
                    "must match `containerPort` when `hostNetwork` is true",
                ));
            }
        }
    }
}

fn check_dns(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value) {
    let config = &spec["dnsConfig"];
    if text(&spec["dnsPolicy"]) == "None" {
        if !is_set(config) {
            errors.push(field::required(path, "must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if is_empty(&config["nameservers"]) {
            errors.push(field::required(
                &path.child("nameservers"),
                "must provide at least one DNS nameserver when `dnsPolicy` is None",
            ));
            return;
        }
    }
    let servers = path.child("nameservers");
    if items(&config["nameservers"]).len() > MAX_NAMESERVERS {
        let words = format!("must not have more than {MAX_NAMESERVERS} nameservers");
        errors.push(field::invalid(&servers, &config["nameservers"], &words));
    }
    for (index, server) in strings(&config["nameservers"]).enumerate() {
        check_ip(errors, &servers.index(index), server);
    }
    let searches = path.child("searches");
    let list: Vec<&str> = strings(&config["searches"]).collect();
    if list.len() > MAX_SEARCHES {
        let words = format!("must not have more than {MAX_SEARCHES} search paths");
        errors.push(field::invalid(&searches, &config["searches"], &words));
    }
    if list.join(" ").len() > MAX_SEARCH_CHARACTERS {
        let words = format!(
            "must not have more than {MAX_SEARCH_CHARACTERS} characters (including spaces) in the search list"
        );
        errors.push(field::invalid(&searches, &config["searches"], &words));
    }
    for (index, search) in list.iter().enumerate() {
        let search = search.strip_suffix('.').unwrap_or(search);
        check_text(errors, &searches.index(index), search, names::dns_subdomain);
    }
    let options = path.child("options");
    for (index, option) in items(&config["options"]).iter().enumerate() {
        if is_empty(&option["name"]) {
            errors.push(field::required(&options.index(index), "must not be empty"));
        }
    }
}

fn check_host_aliases(errors: &mut Vec<FieldCause>, path: &Path<'_>, aliases: &Value) {
    for (index, alias) in items(aliases).iter().enumerate() {
        let path = path.index(index);
        check_ip(errors, &path.child("ip"), text(&alias["ip"]));
        let path = path.child("hostnames");
        for (index, name) in strings(&alias["hostnames"]).enumerate() {
            check_text(errors, &path.index(index), name, names::dns_subdomain);
        }
    }
}

fn check_os(errors: &mut Vec<FieldCause>, path: &Path<'_>, os: &Value) {
    if !is_set(os) {
        return;
    }
    match text(&os["name"]) {
        "" => errors.push(field::required(&path.child("name"), "cannot be empty")),
        "linux" | "windows" => {}
        other => errors.push(field::not_supported(path, other, &["linux", "windows"])),
    }
}
