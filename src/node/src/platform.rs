//! Fields of a pod's spec that speak of Linux: processes, users, kernels, devices. A module has none of
//! them. Where that changes nothing that the author could notice, the field is accepted; where silence
//! would be a lie, the pod or the container is refused and says why; who writes such a spec is warned by the API server
//! ([`coracle_api::platform`]). Pure.
//!
//! | field | here |
//! | --- | --- |
//! | `runAsUser`, `runAsGroup`, `fsGroup`, `supplementalGroups`, `hostUsers` | accepted: files have no owners, a module is no user of the host; `status.containerStatuses[].user` stays empty, for WASI has no word for one |
//! | `runAsNonRoot` | accepted; refused with `runAsUser: 0`, as the kubelet does |
//! | `seccompProfile`, `appArmorProfile`, `seLinuxOptions`, `procMount`, `allowPrivilegeEscalation` | accepted: a module makes no system call that could be filtered |
//! | `capabilities.drop`, and `add` of what ordinary containers have and `kubectl debug` adds | accepted: there is nothing to take away, and any port may be bound |
//! | `capabilities.add` of more | refused: `NET_ADMIN` and its like give nothing here |
//! | `privileged`, `volumeDevices` | refused: no device of the host can be reached |
//! | `readOnlyRootFilesystem` | enforced |
//! | `hostNetwork` | refused: a pod's network is virtual |
//! | `hostPort` | opened for TCP and UDP, on the address of node ports or on loopback |
//! | `hostPID` | refused: no process of the host can be seen |
//! | `hostIPC`, `shareProcessNamespace` | accepted: there are neither processes nor means of IPC to share |
//! | `sysctls` | accepted if Kubernetes calls them safe, else `SysctlForbidden` |
//! | `os` | `windows` is refused with `PodOSNotSupported` |
//! | `runtimeClassName` | accepted with a warning: there is one runtime, and manifests for Wasm on other clusters name theirs |
//! | `windowsOptions` | accepted: there is one runtime |
//! | `oomScoreAdj`, cgroups | not there: a memory limit ends the container that exceeds it and no other |

use std::collections::BTreeMap;

use coracle_api::platform::{CAPABILITY, DEVICES, HOST_NETWORK, HOST_PID, is_ordinary, without_prefix};
use coracle_network::{HostPort, Protocol};
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::{
    admission::Refusal,
    state::{self, Role},
};

/// Kernel settings that concern the pod alone. Kubernetes' list; they tune what the virtual network does
/// without them.
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// Whether the node takes a new pod at all.
pub(crate) fn admit(pod: &Pod) -> Result<(), Refusal> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        let message = "Failed to admit pod as the OS field doesn't match node OS";
        return Err(Refusal::new("PodOSNotSupported", message));
    }
    let sysctls = spec.security_context.as_ref().and_then(|context| context.sysctls.as_deref());
    for sysctl in sysctls.unwrap_or_default() {
        let name = sysctl.name.replace('/', ".");
        if !SAFE_SYSCTLS.contains(&name.as_str()) {
            let message = format!("forbidden sysctl: {:?} not allowlisted", sysctl.name);
            return Err(Refusal::new("SysctlForbidden", message));
        }
    }
    Ok(())
}

/// Whether a container gets what its pod's author believes it gets.
pub(crate) fn check(pod: &Pod, container: &Container) -> Result<(), String> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    if spec.host_network == Some(true) {
        return Err(format!("hostNetwork is {HOST_NETWORK}"));
    }
    if spec.host_pid == Some(true) {
        return Err(format!("hostPID is {HOST_PID}"));
    }
    if container.volume_devices.as_ref().is_some_and(|devices| !devices.is_empty()) {
        return Err(format!("volumeDevices are {DEVICES}"));
    }
    let own = container.security_context.as_ref();
    if own.and_then(|own| own.privileged) == Some(true) {
        return Err(format!("privileged containers are {DEVICES}"));
    }
    let capabilities = own.and_then(|own| own.capabilities.as_ref());
    for capability in capabilities.and_then(|list| list.add.as_deref()).unwrap_or_default() {
        if !is_ordinary(capability) {
            return Err(format!("capability {} is {CAPABILITY}", without_prefix(capability)));
        }
    }
    let shared = spec.security_context.as_ref();
    let user = own.and_then(|own| own.run_as_user).or_else(|| shared.and_then(|shared| shared.run_as_user));
    let non_root =
        own.and_then(|own| own.run_as_non_root).or_else(|| shared.and_then(|shared| shared.run_as_non_root));
    if non_root == Some(true) && user == Some(0) {
        let meta = &pod.metadata;
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        return Err(format!(
            "container's runAsUser breaks non-root policy (pod: \"{}_{}({})\", container: {})",
            text(&meta.name),
            text(&meta.namespace),
            text(&meta.uid),
            container.name
        ));
    }
    Ok(())
}

/// `readOnlyRootFilesystem`.
pub(crate) fn read_only_root(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|context| context.read_only_root_filesystem) == Some(true)
}

/// The ports of the host that the pod asks for, each once: of containers and sidecars, not of init containers.
pub(crate) fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let mut found = BTreeMap::new();
    for (container, role) in state::containers(pod) {
        if !matches!(role, Role::Main | Role::Sidecar) {
            continue;
        }
        for port in container.ports.iter().flatten() {
            let number = port.host_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
            let (Some(number), Ok(target)) = (number, u16::try_from(port.container_port)) else { continue };
            let protocol = match port.protocol.as_deref() {
                None | Some("TCP") => Protocol::Tcp,
                Some("UDP") => Protocol::Udp,
                Some(_) => continue,
            };
            let ip = port.host_ip.as_deref().and_then(|ip| ip.parse().ok());
            let host = HostPort { ip, port: number, target, protocol };
            found.entry((number, ip, protocol)).or_insert(host);
        }
    }
    found.into_values().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check_all(spec: &Value, expected: &str) {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}),
        )
        .unwrap();
        let said = match admit(&pod) {
            Err(refusal) => format!("{}: {}", refusal.reason, refusal.message),
            Ok(()) => {
                let container = &pod.spec.as_ref().unwrap().containers[0];
                check(&pod, container).err().unwrap_or_else(|| "runs".into())
            }
        };
        assert_eq!(said, expected);
    }

    #[track_caller]
    fn check_pod(mut fields: Value, expected: &str) {
        fields["containers"] = json!([{"name": "c"}]);
        check_all(&fields, expected);
    }

    #[track_caller]
    fn check_container(context: &Value, expected: &str) {
        check_all(&json!({"containers": [{"name": "c", "securityContext": context}]}), expected);
    }

    #[test]
    fn what_is_refused_and_why() {
        check_pod(json!({}), "runs");
        check_pod(json!({"hostIPC": true, "shareProcessNamespace": true, "hostUsers": false}), "runs");
        check_pod(
            json!({"hostNetwork": true}),
            "hostNetwork is not supported: the network of a pod is virtual, apart from the host's",
        );
        check_pod(
            json!({"hostPID": true}),
            "hostPID is not supported: a module sees no processes of the host",
        );
        check_pod(json!({"os": {"name": "linux"}}), "runs");
        check_pod(
            json!({"os": {"name": "windows"}}),
            "PodOSNotSupported: Failed to admit pod as the OS field doesn't match node OS",
        );
        let sysctl = |name: &str| json!({"securityContext": {"sysctls": [{"name": name, "value": "0"}]}});
        check_pod(sysctl("net.ipv4.ip_unprivileged_port_start"), "runs");
        check_pod(
            sysctl("kernel.msgmax"),
            "SysctlForbidden: forbidden sysctl: \"kernel.msgmax\" not allowlisted",
        );
        let root = json!({"securityContext": {"runAsNonRoot": true, "runAsUser": 0}});
        check_pod(root, "container's runAsUser breaks non-root policy (pod: \"p_n(u)\", container: c)");

        check_container(&json!({"runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}), "runs");
        check_container(&json!({"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}), "runs");
        check_container(&json!({"capabilities": {"add": ["SYS_PTRACE"]}}), "runs");
        check_container(
            &json!({"capabilities": {"add": ["CAP_NET_ADMIN"]}}),
            "capability NET_ADMIN is not supported: a module has no kernel to use it on",
        );
        check_container(
            &json!({"privileged": true}),
            "privileged containers are not supported: a module reaches no device of the host",
        );
    }

    #[test]
    fn host_ports_are_those_of_containers_that_stay() {
        let ports = |ports: Value| json!([{"name": "c", "ports": ports}]);
        let mut spec = json!({
            "containers": ports(json!([
                {"containerPort": 80, "hostPort": 8080, "protocol": "TCP"},
                {"containerPort": 81, "hostPort": 8080},
                {"containerPort": 82, "hostPort": 8080, "hostIP": "127.0.0.1"},
                {"containerPort": 53, "hostPort": 53, "protocol": "UDP"},
                {"containerPort": 90},
            ])),
            "initContainers": ports(json!([{"containerPort": 1, "hostPort": 1}])),
        });
        let found = |spec: &Value| {
            let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
            let ports = host_ports(&pod).into_iter();
            let text = |port: HostPort| {
                format!(
                    "{}:{}→{}{}",
                    port.ip.map(|ip| ip.to_string()).unwrap_or_default(),
                    port.port,
                    port.target,
                    if port.protocol == Protocol::Udp { "/udp" } else { "" }
                )
            };
            ports.map(text).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(found(&spec), ":53→53/udp :8080→80 127.0.0.1:8080→82");
        spec["initContainers"][0]["restartPolicy"] = json!("Always");
        assert_eq!(found(&spec), ":1→1 :53→53/udp :8080→80 127.0.0.1:8080→82");
    }
}
