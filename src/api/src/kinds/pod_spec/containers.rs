//! Containers of every sort: regular, init (with sidecars) and ephemeral.

use std::collections::HashSet;

use serde_json::Value;

use super::{env, handlers, resources, security, spec::Context, volumes};
use crate::{
    FieldCause,
    field::{self, Path},
    kinds::common::*,
    names,
};

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const ONLY_SIDECARS: &str = "may not be set for init containers without restartPolicy=Always";
const NOT_EPHEMERAL: &str = "cannot be set for an Ephemeral Container";

/// An init container that keeps running beside the others.
pub(in crate::kinds) fn is_sidecar(init_container: &Value) -> bool {
    text(&init_container["restartPolicy"]) == "Always"
}

pub(super) fn check_containers(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    spec: &Value,
    context: &Context<'_>,
) {
    check_regular(errors, &path.child("containers"), &spec["containers"], context);
    let mut names: HashSet<&str> = names_of(&spec["containers"]);
    check_init(errors, &path.child("initContainers"), &spec["initContainers"], &mut names, context);
    check_ephemeral(
        errors,
        &path.child("ephemeralContainers"),
        &spec["ephemeralContainers"],
        &names,
        context,
    );
}

fn names_of(containers: &Value) -> HashSet<&str> {
    items(containers).iter().map(|container| text(&container["name"])).collect()
}

fn check_regular(errors: &mut Vec<FieldCause>, path: &Path<'_>, containers: &Value, context: &Context<'_>) {
    let containers = items(containers);
    if containers.is_empty() {
        errors.push(field::required(path, ""));
        return;
    }
    let mut names = HashSet::new();
    for (index, container) in containers.iter().enumerate() {
        let path = path.index(index);
        check_common(errors, &path, container, context);
        if !names.insert(text(&container["name"])) {
            errors.push(field::duplicate(&path.child("name"), text(&container["name"])));
        }
        handlers::check_lifecycle(errors, &path.child("lifecycle"), &container["lifecycle"], context);
        handlers::check_probes(errors, &path, container, context);
        if is_set(&container["restartPolicy"]) {
            errors.push(field::forbidden(
                &path.child("restartPolicy"),
                "may not be set for non-init containers",
            ));
        }
    }
    check_host_ports(errors, path, containers);
}

fn check_init<'a>(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    containers: &'a Value,
    names: &mut HashSet<&'a str>,
    context: &Context<'_>,
) {
    for (index, container) in items(containers).iter().enumerate() {
        let item = path.index(index);
        check_common(errors, &item, container, context);
        let policy = &container["restartPolicy"];
        check_optional_one_of(errors, &item.child("restartPolicy"), policy, &["Always"]);
        let name = text(&container["name"]);
        if !name.is_empty() && !names.insert(name) {
            errors.push(field::duplicate(&item.child("name"), name));
        }
        // One by one, since init containers run one by one.
        check_host_ports(errors, path, std::slice::from_ref(container));
        if is_sidecar(container) {
            handlers::check_lifecycle(errors, &item.child("lifecycle"), &container["lifecycle"], context);
            handlers::check_probes(errors, &item, container, context);
        } else {
            for name in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if is_set(&container[name]) {
                    errors.push(field::forbidden(&item.child(name), ONLY_SIDECARS));
                }
            }
        }
    }
}

fn check_ephemeral<'a>(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    containers: &'a Value,
    others: &HashSet<&'a str>,
    context: &Context<'_>,
) {
    let mut names = others.clone();
    for (index, container) in items(containers).iter().enumerate() {
        let path = path.index(index);
        check_common(errors, &path, container, context);
        let name = text(&container["name"]);
        if !names.insert(name) {
            errors.push(field::duplicate(&path.child("name"), name));
        }
        let target = text(&container["targetContainerName"]);
        if !target.is_empty() && !others.contains(target) {
            errors.push(field::not_found(&path.child("targetContainerName"), target));
        }
        for name in [
            "ports",
            "resources",
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
            "lifecycle",
            "resizePolicy",
        ] {
            if !is_empty(&container[name]) {
                errors.push(field::forbidden(&path.child(name), NOT_EPHEMERAL));
            }
        }
        let mounts = path.child("volumeMounts");
        for (index, mount) in items(&container["volumeMounts"]).iter().enumerate() {
            for name in ["subPath", "subPathExpr"] {
                if !is_empty(&mount[name]) {
                    errors.push(field::forbidden(&mounts.index(index).child(name), NOT_EPHEMERAL));
                }
            }
        }
    }
}

/// The rules that hold for every sort of container.
fn check_common(errors: &mut Vec<FieldCause>, path: &Path<'_>, container: &Value, context: &Context<'_>) {
    check_required_text(errors, &path.child("name"), &container["name"], names::dns_label);
    let image = text(&container["image"]);
    if image.is_empty() {
        errors.push(field::required(&path.child("image"), ""));
    } else if context.is_pod && image.trim() != image {
        errors.push(field::invalid(
            &path.child("image"),
            image,
            "must not have leading or trailing whitespace",
        ));
    }
    check_one_of(
        errors,
        &path.child("terminationMessagePolicy"),
        &container["terminationMessagePolicy"],
        &["File", "FallbackToLogsOnError"],
    );
    check_ports(errors, &path.child("ports"), &container["ports"]);
    env::check_env(errors, &path.child("env"), &container["env"]);
    env::check_env_from(errors, &path.child("envFrom"), &container["envFrom"]);
    volumes::check_mounts(errors, path, container, context);
    check_one_of(errors, &path.child("imagePullPolicy"), &container["imagePullPolicy"], PULL_POLICIES);
    resources::check_requirements(errors, &path.child("resources"), &container["resources"], &context.claims);
    check_resize_policy(errors, &path.child("resizePolicy"), &container["resizePolicy"], context);
    let security = path.child("securityContext");
    security::check_container_context(errors, &security, &container["securityContext"], context);
}

fn check_ports(errors: &mut Vec<FieldCause>, path: &Path<'_>, ports: &Value) {
    let mut seen = HashSet::new();
    for (index, port) in items(ports).iter().enumerate() {
        let path = path.index(index);
        let name = text(&port["name"]);
        if !name.is_empty() {
            let before = errors.len();
            check_text(errors, &path.child("name"), name, names::port_name);
            if errors.len() == before && !seen.insert(name) {
                errors.push(field::duplicate(&path.child("name"), name));
            }
        }
        match int(&port["containerPort"]) {
            0 => errors.push(field::required(&path.child("containerPort"), "")),
            number => check_port(errors, &path.child("containerPort"), number),
        }
        if int(&port["hostPort"]) != 0 {
            check_port(errors, &path.child("hostPort"), int(&port["hostPort"]));
        }
        check_one_of(errors, &path.child("protocol"), &port["protocol"], PROTOCOLS);
    }
}

/// No two ports of these containers may claim the same port of the host.
fn check_host_ports(errors: &mut Vec<FieldCause>, path: &Path<'_>, containers: &[Value]) {
    let mut seen = HashSet::new();
    for (index, container) in containers.iter().enumerate() {
        let container_path = path.index(index);
        let path = container_path.child("ports");
        for (index, port) in items(&container["ports"]).iter().enumerate() {
            let number = int(&port["hostPort"]);
            if number == 0 {
                continue;
            }
            let claim = format!("{}/{}/{number}", text(&port["protocol"]), text(&port["hostIP"]));
            if seen.contains(&claim) {
                errors.push(field::duplicate(&path.index(index).child("hostPort"), &claim));
            }
            seen.insert(claim);
        }
    }
}

fn check_resize_policy(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    policies: &Value,
    context: &Context<'_>,
) {
    let mut seen = HashSet::new();
    for (index, policy) in items(policies).iter().enumerate() {
        let name = text(&policy["resourceName"]);
        if !seen.insert(name) {
            errors.push(field::duplicate(&path.index(index), name));
        }
        check_one_of(errors, path, &policy["resourceName"], &["cpu", "memory"]);
        check_one_of(errors, path, &policy["restartPolicy"], &["NotRequired", "RestartContainer"]);
        let restart = text(&policy["restartPolicy"]);
        if context.restart_policy == "Never" && restart != "NotRequired" {
            errors.push(field::invalid(
                path,
                restart,
                "must be 'NotRequired' when `restartPolicy` is 'Never'",
            ));
        }
    }
}
