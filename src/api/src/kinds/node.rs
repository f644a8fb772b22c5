//! Node: a machine that runs pods.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{common::*, pod_spec};
use crate::{
    Cell, Column, FieldCause, Hooks, Kind, Scope, Subresource,
    field::{self, Path},
};

/// `node-role.kubernetes.io/<role>` labels name a node's roles.
const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
/// The older label, whose value is the role.
const ROLE_LABEL: &str = "kubernetes.io/role";

pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["no"]),
        subresources: vec![Subresource::Proxy, Subresource::Status],
        ..define("", "v1", "Node", "nodes", Scope::Cluster, Node)
    }
}

struct Node;

static COLUMNS: [Column; 10] = [
    Column::object_name(),
    column("Status", "Whether the node is ready and takes new pods."),
    column("Roles", "What the node's labels say it is for."),
    AGE,
    column("Version", "Version of the node agent."),
    wide("Internal-IP", "Address inside the cluster."),
    wide("External-IP", "Address outside the cluster."),
    wide("OS-Image", "Operating system."),
    wide("Kernel-Version", "Version of the kernel."),
    wide("Container-Runtime", "What runs the containers."),
];

impl Hooks for Node {
    fn default(&self, object: &mut Value) {
        object_mut(object, "spec");
        if let Some(spec) = existing_mut(object, "spec") {
            default_cidrs(spec);
        }
        if let Some(status) = existing_mut(object, "status") {
            let capacity = status["capacity"].clone();
            if is_set(&capacity) {
                fill_absent(status, "allocatable", capacity);
            }
        }
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        check_taints(&mut errors, &object["spec"]["taints"]);
        check_resources(&mut errors, &object["status"]);
        let cidrs = &object["spec"]["podCIDRs"];
        let path = Path::new("spec.podCIDRs");
        for (index, cidr) in strings(cidrs).enumerate() {
            check_cidr(&mut errors, &path.index(index), cidr);
        }
        let is_v6 = |cidr: &&str| cidr.contains(':');
        if strings(cidrs).filter(is_v6).count() > 1 || strings(cidrs).filter(|cidr| !is_v6(cidr)).count() > 1
        {
            errors.push(field::invalid(&path, cidrs, "may specify no more than one CIDR for each IP family"));
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldCause> {
        let mut errors = Vec::new();
        check_resources(&mut errors, &object["status"]);
        check_addresses(&mut errors, &object["status"]["addresses"]);
        let (spec, old) = (&object["spec"], &old["spec"]);
        if !is_empty(&old["podCIDRs"]) && !same(&old["podCIDRs"], &spec["podCIDRs"]) {
            errors.push(field::forbidden(
                &Path::new("spec.podCIDRs"),
                "node updates may not change podCIDR except from \"\" to valid",
            ));
        }
        if !is_empty(&old["providerID"]) && old["providerID"] != spec["providerID"] {
            errors.push(field::forbidden(
                &Path::new("spec.providerID"),
                "node updates may not change providerID except from \"\" to valid",
            ));
        }
        check_taints(&mut errors, &spec["taints"]);
        errors
    }

    fn validate_status(&self, object: &Value, old: &Value) -> Vec<FieldCause> {
        self.validate_update(object, old)
    }

    fn columns(&self) -> &[Column] {
        &COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let info = &object["status"]["nodeInfo"];
        let known = |name: &str| Cell::from(or(text(&info[name]), "<unknown>"));
        vec![
            name(object),
            status(object).into(),
            roles(&object["metadata"]["labels"]).into(),
            age(object, now),
            text(&info["kubeletVersion"]).into(),
            address(object, "InternalIP").into(),
            address(object, "ExternalIP").into(),
            known("osImage"),
            known("kernelVersion"),
            known("containerRuntimeVersion"),
        ]
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("spec.unschedulable", flag(&object["spec"]["unschedulable"]).to_string())]
    }
}

/// Keeps `podCIDR` and `podCIDRs`, two names for one thing, in step.
fn default_cidrs(spec: &mut Value) {
    let one = text(&spec["podCIDR"]).to_owned();
    let first = strings(&spec["podCIDRs"]).next().map(str::to_owned);
    match first {
        None if !one.is_empty() => set(spec, "podCIDRs", json!([one])),
        Some(first) if one != first => {
            if one.is_empty() {
                set(spec, "podCIDR", first);
            } else {
                // The singular is the older name and wins, as in Kubernetes' conversion.
                set(spec, "podCIDRs", json!([one]));
            }
        }
        _ => {}
    }
}

fn check_taints(errors: &mut Vec<FieldCause>, taints: &Value) {
    // Kubernetes names the path so, though taints stand in the spec.
    let path = Path::new("metadata.taints");
    pod_spec::check_taints(errors, &path, taints);
}

fn check_resources(errors: &mut Vec<FieldCause>, status: &Value) {
    let path = Path::new("status");
    for list in ["capacity", "allocatable"] {
        let path = path.child(list);
        for (name, amount) in entries(&status[list]) {
            pod_spec::check_amount(errors, &path.child(name), name, amount);
        }
    }
}

fn check_addresses(errors: &mut Vec<FieldCause>, addresses: &Value) {
    let path = Path::new("status.addresses");
    let addresses = items(addresses);
    for (index, address) in addresses.iter().enumerate() {
        if addresses[..index].contains(address) {
            errors.push(field::duplicate(&path.index(index), address));
        }
    }
}

/// `Ready`, `NotReady,SchedulingDisabled`, …
fn status(object: &Value) -> String {
    let ready =
        items(&object["status"]["conditions"]).iter().rfind(|condition| text(&condition["type"]) == "Ready");
    let mut status = match ready.map(|condition| text(&condition["status"])) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if flag(&object["spec"]["unschedulable"]) {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn roles(labels: &Value) -> String {
    let mut roles: Vec<&str> = entries(labels)
        .filter_map(|(key, value)| match key.strip_prefix(ROLE_PREFIX) {
            Some(role) => Some(role),
            None if key == ROLE_LABEL => Some(text(value)),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    or(&roles.join(","), "<none>").to_owned()
}

fn address<'a>(object: &'a Value, kind: &str) -> &'a str {
    items(&object["status"]["addresses"])
        .iter()
        .find(|address| text(&address["type"]) == kind)
        .map_or("<none>", |address| text(&address["address"]))
}
