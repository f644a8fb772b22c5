//! Security contexts. Modules have no users, capabilities or profiles of a kernel; what a manifest
//! says of them is checked as Kubernetes checks it, so that it means the same elsewhere.

use std::collections::HashSet;

use serde_json::Value;

use super::{spec::Context, volumes};
use crate::{
    FieldCause,
    field::{self, Path},
    kinds::common::*,
    names,
};

/// Longest name of a sysctl.
const MAX_SYSCTL: usize = 253;
const SYSCTL_REGEX: &str = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

/// Ids of users and groups.
fn check_id(errors: &mut Vec<FieldCause>, path: &Path<'_>, id: &Value) {
    if let Some(id) = id.as_i64() {
        for message in names::in_range(id, 0, i32::MAX.into()) {
            errors.push(field::invalid(path, id, &message));
        }
    }
}

/// `spec.securityContext`.
pub(super) fn check_pod_context(errors: &mut Vec<FieldCause>, path: &Path<'_>, spec: &Value) {
    let context = &spec["securityContext"];
    if !is_set(context) {
        return;
    }
    for name in ["fsGroup", "runAsUser", "runAsGroup"] {
        check_id(errors, &path.child(name), &context[name]);
    }
    let groups = path.child("supplementalGroups");
    for (index, group) in items(&context["supplementalGroups"]).iter().enumerate() {
        check_id(errors, &groups.index(index), group);
    }
    if flag(&spec["shareProcessNamespace"]) && flag(&spec["hostPID"]) {
        errors.push(field::invalid(
            &path.child("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        ));
    }
    check_sysctls(errors, &path.child("sysctls"), &context["sysctls"]);
    for (name, allowed) in [
        ("fsGroupChangePolicy", ["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", ["Merge", "Strict"]),
        ("seLinuxChangePolicy", ["MountOption", "Recursive"]),
    ] {
        check_optional_one_of(errors, &path.child(name), &context[name], &allowed);
    }
    check_profiles(errors, path, context);
}

fn check_sysctls(errors: &mut Vec<FieldCause>, path: &Path<'_>, sysctls: &Value) {
    let mut seen = HashSet::new();
    for (index, sysctl) in items(sysctls).iter().enumerate() {
        let item = path.index(index);
        let path = item.child("name");
        let name = text(&sysctl["name"]);
        if name.is_empty() {
            errors.push(field::required(&path, ""));
        } else if !is_sysctl(name) {
            let words = format!("must have at most {MAX_SYSCTL} characters and match regex {SYSCTL_REGEX}");
            errors.push(field::invalid(&path, name, &words));
        } else if !seen.insert(name) {
            errors.push(field::duplicate(&path, name));
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let segment = |segment: &str| {
        edge(segment.bytes().next())
            && edge(segment.bytes().next_back())
            && segment.bytes().all(|byte| edge(Some(byte)) || byte == b'-' || byte == b'_')
    };
    name.len() <= MAX_SYSCTL && name.split(['.', '/']).all(segment)
}

fn check_profiles(errors: &mut Vec<FieldCause>, path: &Path<'_>, context: &Value) {
    for (name, words) in [("seccompProfile", "seccomp"), ("appArmorProfile", "AppArmor")] {
        let profile = &context[name];
        if !is_set(profile) {
            continue;
        }
        let path = path.child(name);
        let local = &profile["localhostProfile"];
        let path_of_local = path.child("localhostProfile");
        match text(&profile["type"]) {
            "Localhost" if is_empty(local) => {
                let words = format!("must be set when {words} type is Localhost");
                errors.push(field::required(&path_of_local, &words));
            }
            "Localhost" if name == "seccompProfile" => {
                volumes::check_descending(errors, &path_of_local, text(local));
            }
            "Localhost" if text(local).trim() != text(local) => {
                errors.push(field::invalid(
                    &path_of_local,
                    text(local),
                    "must not be padded with whitespace",
                ));
            }
            "Localhost" => {}
            "RuntimeDefault" | "Unconfined" => {
                if is_set(local) {
                    let words = format!("can only be set when {words} type is Localhost");
                    errors.push(field::invalid(&path_of_local, text(local), &words));
                }
            }
            "" => errors
                .push(field::required(&path.child("type"), &format!("type is required when {name} is set"))),
            other => errors.push(field::not_supported(
                &path.child("type"),
                other,
                &["Localhost", "RuntimeDefault", "Unconfined"],
            )),
        }
    }
}

/// A container's `securityContext`.
pub(super) fn check_container_context(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    context: &Value,
    pod: &Context<'_>,
) {
    if !is_set(context) {
        return;
    }
    for name in ["runAsUser", "runAsGroup"] {
        check_id(errors, &path.child(name), &context[name]);
    }
    let mount = &context["procMount"];
    check_optional_one_of(errors, &path.child("procMount"), mount, &["Default", "Unmasked"]);
    if pod.host_users && text(mount) == "Unmasked" {
        let words = "`hostUsers` must be false to use `Unmasked`";
        errors.push(field::invalid(&path.child("procMount"), text(mount), words));
    }
    if context["allowPrivilegeEscalation"].as_bool() == Some(false) {
        if flag(&context["privileged"]) {
            errors.push(field::invalid(
                path,
                context,
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            ));
        }
        if strings(&context["capabilities"]["add"]).any(|capability| capability == "CAP_SYS_ADMIN") {
            errors.push(field::invalid(
                path,
                context,
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            ));
        }
    }
    check_profiles(errors, path, context);
}

/// Own users exclude the host's namespaces.
pub(super) fn check_host_users(
    errors: &mut Vec<FieldCause>,
    path: &Path<'_>,
    spec: &Value,
    context: &Context<'_>,
) {
    if context.host_users {
        return;
    }
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if flag(&spec[field]) {
            errors.push(field::forbidden(&path.child(shown), "when `pod.Spec.HostUsers` is false"));
        }
    }
}
