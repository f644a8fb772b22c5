//! What a pod's spec says about CPU and memory, in the runtime's terms.

use coracle_api::quantity::Quantity;
use coracle_runtime::Cpu;
use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as Spelled,
};

use crate::state::{self, Role};

/// A container's share of the CPUs. A limit without a request is also a request, as the API has it.
pub(crate) fn cpu(container: &Container) -> Cpu {
    let limit = limit(container.resources.as_ref(), "cpu").map(|cpu| millis(&cpu));
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let request = requests.and_then(|requests| Quantity::parse(&requests.get("cpu")?.0).ok());
    Cpu {
        request_millis: request.map(|cpu| millis(&cpu)).or(limit).unwrap_or(0),
        limit_millis: limit.filter(|limit| *limit > 0),
    }
}

/// The memory limit of a container in bytes, if it has one.
pub(crate) fn memory_limit(container: &Container) -> Option<u64> {
    bytes(spelled(container.resources.as_ref(), "memory"))
}

/// The memory limit of a container in the words of its spec.
pub(crate) fn spelled_memory(container: &Container) -> Option<Spelled> {
    spelled(container.resources.as_ref(), "memory").cloned()
}

/// A memory limit in bytes; one of nothing is none.
pub(crate) fn bytes(limit: Option<&Spelled>) -> Option<u64> {
    u64::try_from(Quantity::parse(&limit?.0).ok()?.value()).ok().filter(|bytes| *bytes > 0)
}

/// The memory in bytes that a container asks for; 0 if it asks for none.
pub(crate) fn memory_request(container: &Container) -> u64 {
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let memory = requests.and_then(|requests| Quantity::parse(&requests.get("memory")?.0).ok());
    memory.and_then(|memory| u64::try_from(memory.value()).ok()).unwrap_or(0)
}

/// What a pod may hold in memory, where a container without a limit has `default`: what its containers may use
/// together, or what an init container may use beside the sidecars that were started before it, if that is more.
pub(crate) fn pod_memory(pod: &Pod, default: u64) -> u64 {
    if let Some(limit) = bytes(spelled(pod.spec.as_ref().and_then(|spec| spec.resources.as_ref()), "memory"))
    {
        return limit;
    }
    let (mut sidecars, mut containers, mut most) = (0_u64, 0_u64, 0_u64);
    for (container, role) in state::containers(pod) {
        let limit = memory_limit(&container).unwrap_or(default);
        match role {
            Role::Init => most = most.max(sidecars.saturating_add(limit)),
            Role::Sidecar => {
                sidecars = sidecars.saturating_add(limit);
                most = most.max(sidecars);
            }
            // An ephemeral container has no resources in its spec; it may use what one without a limit may.
            Role::Main | Role::Ephemeral => containers = containers.saturating_add(limit),
        }
    }
    most.max(sidecars.saturating_add(containers))
}

/// One of a container's limits.
pub(crate) fn limit(resources: Option<&ResourceRequirements>, name: &str) -> Option<Quantity> {
    Quantity::parse(&spelled(resources, name)?.0).ok()
}

fn spelled<'a>(resources: Option<&'a ResourceRequirements>, name: &str) -> Option<&'a Spelled> {
    resources?.limits.as_ref()?.get(name)
}

fn millis(cpu: &Quantity) -> u32 {
    u32::try_from(cpu.milli().max(0)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: &Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "p" }, "spec": spec })).unwrap()
    }

    fn container(memory: &str) -> Value {
        let limits = if memory.is_empty() { json!({}) } else { json!({ "memory": memory }) };
        json!({ "name": format!("c{memory}"), "resources": { "limits": limits } })
    }

    fn sidecar(memory: &str) -> Value {
        let mut container = container(memory);
        container["restartPolicy"] = "Always".into();
        container
    }

    #[test]
    fn a_pod_may_hold_what_its_containers_may_at_one_time() {
        #[track_caller]
        fn check(init: &[Value], containers: &[Value], expected: u64) {
            let pod = pod(&json!({ "initContainers": init, "containers": containers }));
            assert_eq!(pod_memory(&pod, 7), expected);
        }
        check(&[], &[container("10")], 10);
        check(&[], &[container("10"), container("5"), container("")], 22);
        check(&[container("3")], &[container("10")], 10);
        check(&[container("30"), container("20")], &[container("10")], 30);
        check(&[sidecar("5"), container("30")], &[container("10")], 35);
        check(&[container("30"), sidecar("5"), sidecar("6")], &[container("10")], 30);
        check(&[container("3"), sidecar("5"), sidecar("6")], &[container("10")], 21);
        let whole = pod(&json!({
            "containers": [container("10")],
            "resources": { "limits": { "memory": "100" } },
        }));
        assert_eq!(pod_memory(&whole, 7), 100);
    }

    #[test]
    fn cpu_is_said_in_thousandths() {
        #[track_caller]
        fn check(resources: &Value, request_millis: u32, limit_millis: Option<u32>) {
            let container = serde_json::from_value(json!({ "name": "c", "resources": resources })).unwrap();
            assert_eq!(cpu(&container), Cpu { request_millis, limit_millis });
        }
        check(&json!({}), 0, None);
        check(&json!({ "requests": { "cpu": "250m" } }), 250, None);
        check(&json!({ "limits": { "cpu": "1.5" } }), 1_500, Some(1_500));
        check(&json!({ "requests": { "cpu": "0.1" }, "limits": { "cpu": 2 } }), 100, Some(2_000));
        check(&json!({ "requests": { "cpu": "0" }, "limits": { "cpu": "0" } }), 0, None);
    }
}
