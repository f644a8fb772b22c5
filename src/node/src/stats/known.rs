//! What else is known of those that use something: the names by which dashboards tell them apart. Looked up when
//! somebody reads, so that it costs nothing in between.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::{PodUsage, Usage};
use crate::{context::Context, state::status_of, volumes};

/// What is known of a pod.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// The cgroup that it would have: programs that read metrics find pods by that.
    pub(super) cgroup: String,
    /// In the order of its measured containers.
    pub(super) containers: Vec<KnownContainer>,
    /// Its volumes that are claims: their names in the pod, and those of the claims.
    pub(super) claims: Vec<(String, String)>,
}

/// What is known of a container.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct KnownContainer {
    /// Without its scheme.
    pub(super) id: String,
    pub(super) image: String,
    /// Seconds since 1970.
    pub(super) started: Option<i64>,
}

/// What is known of each of the measured pods.
pub(crate) fn known(context: &Context, usage: &Usage) -> Vec<Known> {
    let of = |usage: &PodUsage| {
        let pod = context.pods.get(&coracle_client::Key::new(usage.namespace.clone(), usage.name.clone()));
        let pod = pod.filter(|pod| pod.metadata.uid.as_deref() == Some(&*usage.uid));
        pod.map(|pod| Known::of(&pod, usage)).unwrap_or_default()
    };
    usage.pods.iter().map(of).collect()
}

impl Known {
    pub(super) fn of(pod: &Pod, usage: &PodUsage) -> Known {
        let class = pod.status.as_ref().and_then(|status| status.qos_class.as_deref());
        let folder = match class {
            Some("Burstable") => "/burstable",
            Some("BestEffort") => "/besteffort",
            _ => "",
        };
        let status = |name: &str| pod.status.as_ref().and_then(|status| status_of(status, name));
        let containers = usage.containers.iter();
        let specs = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        Known {
            cgroup: format!("/kubepods{folder}/pod{}", usage.uid),
            containers: containers
                .map(|container| status(&container.name).map(KnownContainer::of).unwrap_or_default())
                .collect(),
            claims: specs
                .filter_map(|spec| Some((spec.name.clone(), volumes::claim_name(pod, spec)?)))
                .collect(),
        }
    }
}

impl KnownContainer {
    fn of(status: &ContainerStatus) -> KnownContainer {
        let id = status.container_id.as_deref().unwrap_or_default();
        let running = status.state.as_ref().and_then(|state| state.running.as_ref());
        KnownContainer {
            id: id.split_once("://").map_or(id, |(_, id)| id).to_owned(),
            image: status.image.clone(),
            started: running.and_then(|run| run.started_at.as_ref()).map(|time| time.0.as_second()),
        }
    }
}
