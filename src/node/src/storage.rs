//! What pods keep on the node's disk for as long as they live: what it is limited to (`ephemeral-storage` of
//! containers, `sizeLimit` of their volumes), and what is said of a pod that keeps more. Pure, but for the reading of
//! counters: volumes and logs count what they hold, so that looking costs no walk through folders.

use coracle_api::quantity::Quantity;
use k8s_openapi::api::core::v1::Pod;

use crate::{
    eviction::Signal,
    handle::PodHandle,
    resources,
    state::{self, Role},
};

/// What a pod's spec allows it; only for pods whose specs say something.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct StorageLimits {
    /// What all of it may be.
    pod: Option<Quantity>,
    /// What containers may write beside volumes.
    containers: Vec<(Box<str>, Quantity)>,
    /// What volumes may hold.
    volumes: Vec<(Box<str>, Quantity)>,
}

/// What a pod keeps.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct StorageUsage {
    /// All of it: volumes of its own on disk, what containers wrote beside volumes, and their logs, those of containers
    /// that have ended included.
    pub(crate) total: u64,
    /// What the containers that run wrote into their roots and logs.
    pub(crate) containers: Vec<(Box<str>, u64)>,
    /// What volumes hold.
    pub(crate) volumes: Vec<(Box<str>, u64)>,
}

impl StorageLimits {
    /// Reads a pod's spec; `None` if it limits nothing.
    pub(crate) fn of(pod: &Pod) -> Option<StorageLimits> {
        let spec = pod.spec.as_ref()?;
        let container_limits = spec.containers.iter().filter_map(|container| {
            let limit = resources::limit(container.resources.as_ref(), RESOURCE).filter(is_some)?;
            Some((container.name.as_str().into(), limit))
        });
        let volume_limits = spec.volumes.iter().flatten().filter_map(|volume| {
            let limit = volume.empty_dir.as_ref()?.size_limit.as_ref()?;
            Some((volume.name.as_str().into(), Quantity::parse(&limit.0).ok().filter(is_some)?))
        });
        let limits = StorageLimits {
            pod: pod_limit(pod),
            containers: container_limits.collect(),
            volumes: volume_limits.collect(),
        };
        (limits != StorageLimits::default()).then_some(limits)
    }

    /// What the pod may keep in all, in bytes.
    pub(crate) fn of_pod(&self) -> Option<u64> {
        self.pod.map(|limit| bytes(&limit))
    }

    /// Which limit is exceeded, with the kubelet's message.
    pub(crate) fn exceeded(&self, usage: &StorageUsage) -> Option<(Signal, String)> {
        let over = |limits: &[(Box<str>, Quantity)], usages: &[(Box<str>, u64)]| {
            limits.iter().find_map(|(name, limit)| {
                let used = usages.iter().find(|(known, _)| known == name).map_or(0, |(_, used)| *used);
                (used > bytes(limit)).then(|| (name.clone(), *limit))
            })
        };
        if let Some((name, limit)) = over(&self.volumes, &usage.volumes) {
            let message = format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{limit}\". ");
            return Some((Signal::EmptyDir, message));
        }
        if let Some(limit) = self.pod.filter(|limit| usage.total > bytes(limit)) {
            let message =
                format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ");
            return Some((Signal::Pod, message));
        }
        let (name, limit) = over(&self.containers, &usage.containers)?;
        let message = format!("Container {name} exceeded its local ephemeral storage limit \"{limit}\". ");
        Some((Signal::Container, message))
    }
}

impl StorageUsage {
    /// What a pod keeps now.
    pub(crate) fn of(handle: &PodHandle) -> StorageUsage {
        let mut usage = StorageUsage {
            total: handle.share.usage().bytes + handle.log_bytes(),
            ..StorageUsage::default()
        };
        for (name, running, _) in handle.guests.all() {
            let root = running.mounts.root_usage().bytes;
            usage.total += root;
            usage.containers.push((name, root + running.log.bytes()));
            if usage.volumes.is_empty() {
                let volumes = running.volumes.usage().into_iter();
                usage.volumes = volumes.map(|(name, usage)| (name, usage.bytes)).collect();
            }
        }
        usage
    }
}

const RESOURCE: &str = "ephemeral-storage";

/// What the containers of a pod may keep at one time, by Kubernetes' rule: those without a limit add nothing.
fn pod_limit(pod: &Pod) -> Option<Quantity> {
    let [mut staying, mut most] = [Quantity::ZERO; 2];
    let mut running = Quantity::ZERO;
    for (container, role) in state::containers(pod) {
        let Some(limit) = resources::limit(container.resources.as_ref(), RESOURCE) else { continue };
        match role {
            Role::Main => running = running + limit,
            Role::Sidecar => {
                staying = staying + limit;
                most = most.max(staying);
            }
            Role::Init => most = most.max(staying + limit),
            Role::Ephemeral => {}
        }
    }
    Some((running + staying).max(most)).filter(is_some)
}

/// A limit of nothing is none.
fn is_some(limit: &Quantity) -> bool {
    *limit > Quantity::ZERO
}

fn bytes(limit: &Quantity) -> u64 {
    u64::try_from(limit.value()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn limits(spec: &Value) -> Option<StorageLimits> {
        StorageLimits::of(&serde_json::from_value(json!({ "spec": spec })).unwrap())
    }

    fn container(name: &str, limit: &str) -> Value {
        let limits = if limit.is_empty() { json!({}) } else { json!({ "ephemeral-storage": limit }) };
        json!({ "name": name, "resources": { "limits": limits } })
    }

    #[test]
    fn a_pod_may_keep_what_its_containers_may_at_one_time() {
        #[track_caller]
        fn check(init: &[Value], containers: &[Value], expected: &str) {
            let limits = limits(&json!({ "initContainers": init, "containers": containers }));
            let limit = limits.and_then(|limits| limits.pod).map(|limit| limit.to_string());
            assert_eq!(limit.unwrap_or_default(), expected);
        }
        let sidecar = |limit: &str| {
            let mut sidecar = container("s", limit);
            sidecar["restartPolicy"] = "Always".into();
            sidecar
        };
        check(&[], &[container("c", "")], "");
        check(&[], &[container("c", "0")], "");
        check(&[], &[container("c", "1Gi"), container("d", ""), container("e", "1024Mi")], "2Gi");
        check(&[container("i", "3Mi")], &[container("c", "2Mi")], "3Mi");
        check(&[sidecar("1Mi"), container("i", "3Mi")], &[container("c", "2Mi")], "4Mi");
        check(&[sidecar("2Mi"), container("i", "")], &[container("c", "2Mi")], "4Mi");
    }

    #[test]
    fn who_keeps_too_much_is_told_what_and_how_much() {
        let limits = limits(&json!({
            "containers": [container("a", "1Mi"), container("b", "2Mi"), container("c", "")],
            "volumes": [
                { "name": "small", "emptyDir": { "sizeLimit": "1024Ki" } },
                { "name": "free", "emptyDir": {} },
            ],
        }))
        .unwrap();
        #[track_caller]
        fn check(
            limits: &StorageLimits,
            total: u64,
            containers: [u64; 3],
            small: u64,
            expected: Option<(Signal, &str)>,
        ) {
            let names = ["a", "b", "c"].map(Into::into);
            let usage = StorageUsage {
                total,
                containers: names.into_iter().zip(containers).collect(),
                volumes: vec![("free".into(), 1 << 40), ("small".into(), small)],
            };
            let expected = expected.map(|(signal, message)| (signal, message.to_owned()));
            assert_eq!(limits.exceeded(&usage), expected);
        }
        const MI: u64 = 1 << 20;
        check(&limits, 3 * MI, [MI, 2 * MI, 9 * MI], MI, None);
        check(
            &limits,
            9 * MI,
            [9 * MI; 3],
            MI + 1,
            Some((Signal::EmptyDir, "Usage of EmptyDir volume \"small\" exceeds the limit \"1Mi\". ")),
        );
        check(
            &limits,
            3 * MI + 1,
            [9 * MI; 3],
            0,
            Some((
                Signal::Pod,
                "Pod ephemeral local storage usage exceeds the total limit of containers 3Mi. ",
            )),
        );
        check(
            &limits,
            0,
            [0, 2 * MI + 1, 0],
            0,
            Some((Signal::Container, "Container b exceeded its local ephemeral storage limit \"2Mi\". ")),
        );
    }

    #[test]
    fn most_pods_have_no_limits() {
        assert_eq!(
            limits(&json!({ "containers": [{ "name": "c" }], "volumes": [{ "name": "v", "emptyDir": {} }] })),
            None
        );
    }
}
