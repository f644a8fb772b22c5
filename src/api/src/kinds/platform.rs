//! What of a pod's spec asks for Linux, which a module does not have: what a node refuses for that, and what is told
//! to who writes such a spec. A pod that is refused waits with a reason; a warning says so at once, for few look there.
//!
//! What changes nothing that its author could notice is accepted without a word.

use serde_json::Value;

use super::common::{is_set, items, text};
use crate::Kind;

/// Why there is no `hostNetwork`.
pub const HOST_NETWORK: &str = "not supported: the network of a pod is virtual, apart from the host's";
/// Why there is no `hostPID`.
pub const HOST_PID: &str = "not supported: a module sees no processes of the host";
/// Why there is neither `privileged` nor a device.
pub const DEVICES: &str = "not supported: a module reaches no device of the host";
/// Why there are no capabilities but those that make no difference.
pub const CAPABILITY: &str = "not supported: a module has no kernel to use it on";
/// What becomes of `runtimeClassName`.
const RUNTIME_CLASS: &str = "ignored: there is one runtime, and it runs Wasm modules";
/// Why neither the root of the host nor what its kernel shows there can be a volume.
const HOST_PATH: &str =
    "not supported: no pod may see the cluster's own data, nor the files by which the kernel shows itself";

/// What container runtimes give by default, as far as a module does not miss it.
const ORDINARY_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    // What `kubectl debug` asks for by its general profile; there are no other processes to look into.
    "SYS_PTRACE",
];

/// Whether a module that is given a capability does not notice that it means nothing here.
#[must_use]
pub fn is_ordinary(capability: &str) -> bool {
    ORDINARY_CAPABILITIES.contains(&without_prefix(capability))
}

/// A capability's name as Kubernetes has it; Linux puts `CAP_` before it.
#[must_use]
pub fn without_prefix(capability: &str) -> &str {
    capability.strip_prefix("CAP_").unwrap_or(capability)
}

/// What is to be said to who writes this object, if it is a pod or makes pods: fields that are ignored, or for which no
/// node will run it.
#[must_use]
pub fn warnings(kind: &Kind, object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(path) = spec_path(kind)
        && let Some(spec) = path.split('.').try_fold(object, |value, name| value.get(name))
    {
        let mut warn = |field: &str, why: &str| found.push(format!("{path}.{field}: {why}"));
        look_at_spec(spec, &mut warn);
    }
    found
}

/// Where an object of this kind has a pod's spec.
fn spec_path(kind: &Kind) -> Option<&'static str> {
    match (&*kind.group, &*kind.kind) {
        ("", "Pod") => Some("spec"),
        ("", "PodTemplate") => Some("template.spec"),
        ("batch", "CronJob") => Some("spec.jobTemplate.spec.template.spec"),
        ("", "ReplicationController")
        | ("apps", "DaemonSet" | "Deployment" | "ReplicaSet" | "StatefulSet")
        | ("batch", "Job") => Some("spec.template.spec"),
        _ => None,
    }
}

fn look_at_spec(spec: &Value, warn: &mut impl FnMut(&str, &str)) {
    if !text(&spec["runtimeClassName"]).is_empty() {
        warn("runtimeClassName", RUNTIME_CLASS);
    }
    for (field, why) in [("hostNetwork", HOST_NETWORK), ("hostPID", HOST_PID)] {
        if spec[field] == true {
            warn(field, why);
        }
    }
    for (index, volume) in items(&spec["volumes"]).iter().enumerate() {
        let path = text(&volume["hostPath"]["path"]).trim_end_matches('/');
        let below =
            |top: &str| path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if is_set(&volume["hostPath"]) && (path.is_empty() || below("/proc") || below("/sys")) {
            warn(&format!("volumes[{index}].hostPath.path"), HOST_PATH);
        }
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (index, container) in items(&spec[list]).iter().enumerate() {
            let context = &container["securityContext"];
            if context["privileged"] == true {
                warn(&format!("{list}[{index}].securityContext.privileged"), DEVICES);
            }
            for (number, capability) in items(&context["capabilities"]["add"]).iter().enumerate() {
                if !is_ordinary(text(capability)) {
                    warn(&format!("{list}[{index}].securityContext.capabilities.add[{number}]"), CAPABILITY);
                }
            }
            if !items(&container["volumeDevices"]).is_empty() {
                warn(&format!("{list}[{index}].volumeDevices"), DEVICES);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(kind: &str, object: &Value, expected: &[&str]) {
        let kind = crate::kinds::builtin().iter().find(|known| known.kind == kind).unwrap();
        assert_eq!(warnings(kind, object), expected);
    }

    #[test]
    fn who_asks_for_linux_hears_of_it() {
        let plain = json!({
            "hostIPC": true, "volumes": [{"name": "v", "hostPath": {"path": "/srv/data"}}, {"name": "w", "emptyDir": {}}],
            "containers": [{"securityContext": {"privileged": false, "capabilities": {"add": ["CAP_SYS_PTRACE"]}}}],
        });
        check("Pod", &json!({"spec": plain}), &[]);
        let spec = json!({"runtimeClassName": "wasmtime-spin-v2"});
        let why = "ignored: there is one runtime, and it runs Wasm modules";
        check("Pod", &json!({"spec": spec}), &[&format!("spec.runtimeClassName: {why}")]);
        let template = json!({"template": {"spec": spec}});
        let of_template = format!("spec.template.spec.runtimeClassName: {why}");
        check("Deployment", &json!({"spec": template}), &[&of_template]);
        let cron = format!("spec.jobTemplate.{of_template}");
        check("CronJob", &json!({"spec": {"jobTemplate": {"spec": template}}}), &[&cron]);
        check("ConfigMap", &json!({"spec": spec}), &[]);
        check("Pod", &json!({"spec": {"runtimeClassName": null}}), &[]);
    }

    /// What `kubectl debug` makes, of a node and by its profiles for those who administer one.
    #[test]
    fn who_debugs_a_node_is_told_what_it_waits_for() {
        let privileged = json!({"securityContext": {"privileged": true}});
        let node = json!({
            "hostIPC": true, "hostNetwork": true, "hostPID": true, "containers": [privileged],
            "volumes": [{"name": "host-root", "hostPath": {"path": "/"}}],
        });
        check(
            "Pod",
            &json!({"spec": node}),
            &[
                "spec.hostNetwork: not supported: the network of a pod is virtual, apart from the host's",
                "spec.hostPID: not supported: a module sees no processes of the host",
                "spec.volumes[0].hostPath.path: not supported: no pod may see the cluster's own data, nor the files \
                 by which the kernel shows itself",
                "spec.containers[0].securityContext.privileged: not supported: a module reaches no device of the host",
            ],
        );
        let netadmin = json!({"securityContext": {"capabilities": {"add": ["NET_ADMIN", "KILL"]}}});
        check(
            "Pod",
            &json!({"spec": {"ephemeralContainers": [netadmin]}}),
            &[
                "spec.ephemeralContainers[0].securityContext.capabilities.add[0]: not supported: a module has no \
               kernel to use it on",
            ],
        );
    }
}
