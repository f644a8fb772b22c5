//! Resources of a pod that change while it runs: what its spec asks for, what the node has granted, and what its
//! containers have, may be three things for a while. Pure.
//!
//! ```text
//!  spec ── granted? ──▶ the pod as the worker lives it ── containers follow ──▶ status.resources
//!            └─ no: PodResizePending (Infeasible, Deferred)  └─ not yet: PodResizeInProgress
//! ```

use std::{sync::Arc, time::Duration};

use coracle_api::resources;
use k8s_openapi::{
    api::core::v1::{Container, ContainerStatus, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};
use tokio::{sync::watch, time::timeout};

use crate::{
    admission::Denial,
    state::{self, Role},
};

/// How long what was denied waits to be asked for again, if no pod has given anything back meanwhile: the node may have
/// changed. The time after which the kubelet looks at a pod again.
const AGAIN: Duration = Duration::from_secs(60);

/// A resize that is not done.
#[derive(Debug, Default)]
pub(crate) struct Resize {
    pub(crate) denied: Option<Denied>,
    pub(crate) behind: Vec<Behind>,
}

/// What the node has not granted.
#[derive(Debug)]
pub(crate) struct Denied {
    /// The object with what it asks for.
    pub(crate) wanted: Arc<Pod>,
    pub(crate) denial: Denial,
    /// Changes when it is worth asking again.
    pub(crate) freed: watch::Receiver<()>,
}

/// A container that runs with the memory limit from before.
#[derive(Debug)]
pub(crate) struct Behind {
    pub(crate) index: usize,
    /// That limit, as its spec had it.
    pub(crate) memory: Option<Quantity>,
    /// It is restarting to get the new one; otherwise it goes on with the old one.
    pub(crate) restarts: bool,
}

impl Resize {
    pub(crate) fn is_done(&self) -> bool {
        self.denied.is_none() && self.behind.is_empty()
    }

    /// Ends when what was denied is worth asking for again, with what that was; never if nothing was.
    pub(crate) async fn chance(resize: &mut Option<Box<Resize>>) -> Arc<Pod> {
        let Some(denied) = resize.as_mut().and_then(|resize| resize.denied.as_mut()) else {
            return std::future::pending().await;
        };
        // Whether something was given back or the time has passed.
        let _ = timeout(AGAIN, denied.freed.changed()).await;
        denied.wanted.clone()
    }
}

/// The pod with the resources that its containers have in `before`; `None` if they have the same in both.
pub(crate) fn keeping(pod: &Pod, before: &Pod) -> Option<Pod> {
    if containers(pod).map(|one| &one.resources).eq(containers(before).map(|one| &one.resources)) {
        return None;
    }
    Some(with(pod, |container| {
        containers(before).find(|known| known.name == container.name).map(|known| known.resources.clone())
    }))
}

/// The pod with the resources that this node had granted it before it was restarted; `None` if they are those of its
/// spec.
pub(crate) fn recalled(pod: &Pod) -> Option<Pod> {
    if !resources::is_being_resized(pod) {
        return None;
    }
    let status = pod.status.as_ref()?;
    let main = status.container_statuses.iter().flatten();
    let known: Vec<&ContainerStatus> = main.chain(status.init_container_statuses.iter().flatten()).collect();
    Some(with(pod, |container| {
        let known = known.iter().find(|status| status.name == container.name)?;
        let requests = resources::allocated(known)?.cloned();
        let limits = known.resources.as_ref().and_then(|resources| resources.limits.clone());
        Some(Some(ResourceRequirements { limits, requests, claims: None }))
    }))
}

/// The containers that must restart for another share of the CPUs, by their index.
pub(crate) fn restarts_for_cpu(pod: &Pod, before: &Pod) -> Vec<usize> {
    let cpu = |container: &Container| {
        let resources = container.resources.clone().unwrap_or_default();
        [resources.requests, resources.limits].map(|list| list.and_then(|mut list| list.remove("cpu")))
    };
    let pairs = state::containers(pod).zip(state::containers(before)).enumerate();
    pairs
        .filter(|(_, ((new, role), (old, _)))| {
            matches!(role, Role::Main | Role::Sidecar) && cpu(new) != cpu(old) && restarts(new, "cpu")
        })
        .map(|(index, _)| index)
        .collect()
}

/// Whether a container's author wants it to restart for another amount of a resource.
pub(crate) fn restarts(container: &Container, resource: &str) -> bool {
    let mut policies = container.resize_policy.iter().flatten();
    policies.any(|policy| policy.resource_name == resource && policy.restart_policy == "RestartContainer")
}

/// Those whose resources may change.
fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    let main = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    init.iter().chain(main)
}

/// The pod with other resources for the containers for which `of` knows some.
fn with(pod: &Pod, of: impl Fn(&Container) -> Option<Option<ResourceRequirements>>) -> Pod {
    let mut pod = pod.clone();
    if let Some(spec) = pod.spec.as_mut() {
        for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
            if let Some(resources) = of(container) {
                container.resources = resources;
            }
        }
    }
    pod
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::time::Instant;

    use super::*;

    fn pod(cpu: &str, policy: &Value, status: &Value) -> Pod {
        let resources = json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu, "memory": "1Gi"}});
        let container = json!({"name": "c", "resources": resources, "resizePolicy": policy});
        let spec = json!({"containers": [container], "initContainers": [{"name": "i"}]});
        serde_json::from_value(json!({"metadata": {}, "spec": spec, "status": {"containerStatuses": status}}))
            .unwrap()
    }

    fn cpu(pod: &Pod) -> String {
        let resources = pod.spec.as_ref().unwrap().containers[0].resources.as_ref().unwrap();
        resources.requests.as_ref().unwrap()["cpu"].0.clone()
    }

    #[test]
    fn a_pod_keeps_what_it_has() {
        let none = Value::Null;
        let before = pod("1", &none, &none);
        assert!(keeping(&before, &before).is_none());
        let mut wanted = pod("2", &none, &none);
        wanted.metadata.name = Some("newer".into());
        let kept = keeping(&wanted, &before).unwrap();
        assert_eq!((cpu(&kept).as_str(), kept.metadata.name.as_deref()), ("1", Some("newer")));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_denied_is_asked_for_again() {
        let (free, freed) = watch::channel(());
        let wanted = Arc::new(Pod::default());
        let denial = Denial { reason: "Deferred", message: String::new() };
        let denied = Some(Denied { wanted: wanted.clone(), denial, freed });
        let mut resize = Some(Box::new(Resize { denied, behind: Vec::new() }));
        let begun = Instant::now();
        free.send_replace(());
        assert!(Arc::ptr_eq(&Resize::chance(&mut resize).await, &wanted));
        assert_eq!(begun.elapsed(), Duration::ZERO);
        Resize::chance(&mut resize).await;
        assert!((AGAIN..AGAIN + Duration::from_secs(1)).contains(&begun.elapsed()));
    }

    #[test]
    fn what_was_granted_is_read_from_the_status() {
        let status = |granted: &str| {
            json!([{
                "name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "allocatedResources": {"cpu": granted},
                "resources": {"requests": {"cpu": granted}, "limits": {"memory": "7Mi"}},
            }])
        };
        assert!(recalled(&pod("2", &Value::Null, &status("2"))).is_none());
        assert!(recalled(&pod("2", &Value::Null, &Value::Null)).is_none());
        let none = json!([{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0, "resources": {}}]);
        let nothing = recalled(&pod("2", &Value::Null, &none)).unwrap().spec.unwrap().containers.remove(0);
        assert_eq!(nothing.resources, Some(ResourceRequirements::default()));
        let recalled = recalled(&pod("2", &Value::Null, &status("1"))).unwrap();
        assert_eq!(cpu(&recalled), "1");
        let resources = recalled.spec.unwrap().containers.remove(0).resources.unwrap();
        assert_eq!(resources.limits.unwrap()["memory"].0, "7Mi");
    }

    #[test]
    fn only_who_wants_it_restarts_for_cpu() {
        let restart = json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
        let none = Value::Null;
        assert_eq!(restarts_for_cpu(&pod("2", &restart, &none), &pod("1", &restart, &none)), [1]);
        assert!(restarts_for_cpu(&pod("1", &restart, &none), &pod("1", &restart, &none)).is_empty());
        assert!(restarts_for_cpu(&pod("2", &none, &none), &pod("1", &none, &none)).is_empty());
    }
}
