//! What is wrong with a pod's new status: mostly that finished containers come to life again.

use std::{collections::HashSet, net::IpAddr};

use serde_json::Value;

use crate::{
    FieldCause,
    field::{self, Path},
    kinds::{common::*, pod_spec::is_sidecar},
    names,
};

/// Conditions that are Kubernetes' own and need no domain.
const SYSTEM_CONDITIONS: &[&str] = &["PodScheduled", "Ready", "Initialized"];

pub(super) fn check(object: &Value, old: &Value) -> Vec<FieldCause> {
    let mut errors = Vec::new();
    let path = Path::new("status");
    let (status, before) = (&object["status"], &old["status"]);
    check_conditions(&mut errors, &status["conditions"]);
    if object["spec"]["nodeName"] != old["spec"]["nodeName"] {
        errors.push(field::forbidden(&path.child("nodeName"), "may not be changed directly"));
    }
    let nominated = &status["nominatedNodeName"];
    if *nominated != before["nominatedNodeName"] {
        check_optional_text(&mut errors, &path.child("nominatedNodeName"), nominated, names::dns_subdomain);
    }
    if is_set(&before["qosClass"]) {
        check_immutable(&mut errors, &path.child("qosClass"), &status["qosClass"], &before["qosClass"]);
    }
    let spec = &old["spec"];
    for (list, policy) in [
        ("containerStatuses", text(&spec["restartPolicy"])),
        ("initContainerStatuses", text(&spec["restartPolicy"])),
        ("ephemeralContainerStatuses", "Never"),
    ] {
        check_transitions(&mut errors, &path.child(list), &status[list], &before[list], policy, spec);
    }
    check_ips(&mut errors, &path.child("podIPs"), &status["podIPs"]);
    let host_ips = path.child("hostIPs");
    if let Some(first) = items(&status["hostIPs"]).first()
        && first["ip"] != status["hostIP"]
    {
        errors.push(field::invalid(
            &host_ips.index(0).child("ip"),
            text(&first["ip"]),
            "must be equal to `hostIP`",
        ));
    }
    check_ips(&mut errors, &host_ips, &status["hostIPs"]);
    errors
}

fn check_conditions(errors: &mut Vec<FieldCause>, conditions: &Value) {
    // Kubernetes names the path so, though conditions stand in the status.
    let path = Path::new("metadata.conditions");
    for (index, condition) in items(conditions).iter().enumerate() {
        let kind = text(&condition["type"]);
        if !SYSTEM_CONDITIONS.contains(&kind) {
            check_text(errors, &path.index(index).child("Type"), kind, names::qualified_name);
        }
    }
}

/// A container that is not to be restarted stays terminated.
fn check_transitions(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    new: &Value,
    old: &Value,
    policy: &str,
    spec: &Value,
) {
    if policy == "Always" {
        return;
    }
    for (index, before) in items(old).iter().enumerate() {
        let terminated = &before["state"]["terminated"];
        let may_restart = int(&terminated["exitCode"]) != 0 && policy == "OnFailure";
        let is_of_sidecar = items(&spec["initContainers"])
            .iter()
            .any(|other| other["name"] == before["name"] && is_sidecar(other));
        if !is_set(terminated) || may_restart || is_of_sidecar {
            continue;
        }
        let revived = items(new)
            .iter()
            .any(|after| after["name"] == before["name"] && !is_set(&after["state"]["terminated"]));
        if revived {
            errors.push(field::forbidden(
                &path.index(index).child("state"),
                "may not be transitioned to non-terminated state",
            ));
        }
    }
}

/// At most one address per family.
fn check_ips(errors: &mut Vec<FieldCause>, path: &Path<'_>, list: &Value) {
    let mut seen = HashSet::new();
    let mut families = HashSet::new();
    for (index, entry) in items(list).iter().enumerate() {
        let ip = text(&entry["ip"]);
        if let Some(ip) = check_ip(errors, &path.index(index), ip) {
            families.insert(matches!(ip, IpAddr::V6(_)));
        }
        if !seen.insert(ip) {
            errors.push(field::duplicate(&path.index(index), entry));
        }
    }
    let count = items(list).len();
    if count > 1 && families.len() != count {
        errors.push(field::invalid(path, list, "may specify no more than one IP for each IP family"));
    }
}
