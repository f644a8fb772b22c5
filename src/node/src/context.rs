//! What all pod workers of a node share.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use coracle_client::{EventType, Informer, Key, Recorder, clock};
use coracle_network::Fabric;
use coracle_runtime::Runtime;
use k8s_openapi::api::core::v1::{Container, Node, ObjectReference, Pod, Secret, Service};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::{Admissions, Denial, NodeFacts, Refusal},
    dirs,
    env::{self, Allocatable, PodFacts, Sources as _},
    eviction::Evictor,
    exec::Toolbox,
    handle::PodHandle,
    images::{Puller, Tell},
    logs::{LogBook, Runs},
    memory::Memory,
    probes::Prober,
    sources::Sources,
    state::{self, Now, Role},
    stats::Stats,
    status_writer::StatusWriter,
    table::PodTable,
    tokens::Tokens,
    volumes,
};

/// What all pod workers of a node share.
pub(crate) struct Context {
    pub(crate) node_name: String,
    pub(crate) host_ip: IpAddr,
    pub(crate) pods_dir: PathBuf,
    pub(crate) allocatable: Allocatable,
    pub(crate) max_pods: u32,
    /// What the node has given to its pods.
    pub(crate) admissions: Admissions,
    pub(crate) nodes: Informer<Node>,
    pub(crate) pods: Informer<Pod>,
    pub(crate) services: Informer<Service>,
    pub(crate) sources: Arc<Sources>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) puller: Puller,
    pub(crate) toolbox: Toolbox,
    pub(crate) recorder: Recorder,
    pub(crate) statuses: Arc<StatusWriter>,
    pub(crate) prober: Prober,
    pub(crate) stats: Stats,
    pub(crate) evictor: Evictor,
    pub(crate) memory: Arc<Memory>,
    pub(crate) logs: LogBook,
    pub(crate) table: PodTable,
    /// Set once the node knows its pod addresses; no worker runs before.
    pub(crate) fabric: OnceLock<Arc<Fabric>>,
    pub(crate) tasks: TaskTracker,
    /// The node shuts down: no worker is started any more.
    pub(crate) draining: CancellationToken,
    pub(crate) stop: CancellationToken,
}

impl Context {
    /// What references in a pod's spec resolve to.
    pub(crate) fn facts<'a>(&self, pod: &'a Pod, pod_ip: Option<IpAddr>) -> PodFacts<'a> {
        let pod_ip6 = pod_ip.and_then(|ip| self.ipv6_of(ip));
        let hostname = match self.fabric.get() {
            Some(fabric) => env::seen_hostname(pod, &fabric.cluster_names()),
            None => env::hostname(pod),
        };
        PodFacts { pod, pod_ip, pod_ip6, hostname, host_ip: self.host_ip, allocatable: self.allocatable }
    }

    /// Takes a new pod, or says why not; the uids of those that must go first.
    pub(crate) fn admit(&self, uid: &str, pod: &Pod) -> Result<Vec<Box<str>>, Refusal> {
        self.with_node(|node| self.admissions.admit_or_preempt(uid, pod, node))
    }

    /// Gives a pod that runs the resources of this spec, or says why not.
    pub(crate) fn resize(&self, uid: &str, pod: &Pod) -> Result<(), Denial> {
        self.with_node(|node| self.admissions.resize(uid, pod, node))
    }

    fn with_node<T>(&self, decide: impl FnOnce(&NodeFacts<'_>) -> T) -> T {
        let node = self.nodes.get(&Key::cluster(self.node_name.clone()));
        decide(&NodeFacts::new(&self.node_name, node.as_deref(), &self.allocatable, self.max_pods))
    }

    /// The second address of the pod with this address.
    pub(crate) fn ipv6_of(&self, ip: IpAddr) -> Option<Ipv6Addr> {
        let IpAddr::V4(ip) = ip else { return None };
        self.fabric.get()?.ipv6_of(ip)
    }

    /// The variables that tell a pod where services are.
    pub(crate) fn service_variables(&self, pod: &Pod) -> BTreeMap<String, String> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
        let mut services = if links { self.services.list_namespace(namespace) } else { Vec::new() };
        if !links || namespace != "default" {
            services.extend(self.services.get(&Key::new("default", "kubernetes")));
        }
        env::service_variables(namespace, links, services.iter().map(Arc::as_ref))
    }

    /// The secrets that the pod's images may be pulled with, as far as they exist.
    pub(crate) fn pull_secrets(&self, pod: &Pod, tell: Tell<'_>) -> Vec<Arc<Secret>> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let named = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for reference in named {
            match self.sources.secret(namespace, &reference.name) {
                Some(secret) => found.push(secret),
                None => missing.push(reference.name.as_str()),
            }
        }
        if !missing.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            tell(true, "FailedToRetrieveImagePullSecret", message);
        }
        found
    }

    /// What a pod's volumes show and takes time to get: tokens and images.
    pub(crate) async fn fetch_for_volumes(&self, handle: &Arc<PodHandle>, pod: &Pod) -> Result<(), String> {
        self.tokens.obtain(handle, pod).await?;
        let tell = |warning: bool, reason: &'static str, message: String| {
            self.tell(pod, None, warning, reason, &message);
        };
        for (image, policy) in volumes::images(pod) {
            let secrets = self.pull_secrets(pod, &tell);
            let pulled =
                self.puller.find_or_pull(image, policy, &handle.key().namespace, &secrets, &tell).await;
            pulled.map_err(|waiting| match waiting.message {
                Some(message) => format!("{}: {message}", waiting.reason),
                None => waiting.reason.to_owned(),
            })?;
        }
        Ok(())
    }

    /// True for a pod that is bound to this node.
    pub(crate) fn is_own(&self, pod: &Pod) -> bool {
        pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(&self.node_name)
    }

    /// Removes a pod's folder, which nobody needs any more when its last container has ended; `None` if it has none.
    pub(crate) fn free_disk(&self, pod: &Pod) -> Option<impl Future<Output = ()> + Send + use<>> {
        let folder = folder(&self.pods_dir, pod)?;
        Some(async move {
            // It only fails when the runtime ends; the next start removes what is left.
            let _ = tokio::task::spawn_blocking(move || dirs::remove_reporting(&folder)).await;
        })
    }

    /// Removes what a pod has left on disk: its folder, and the logs of containers, whose newest runs these are.
    pub(crate) fn clean_up(&self, pod: &Pod, runs: Runs) -> impl Future<Output = ()> + Send + use<> {
        let (folder, logs) = (folder(&self.pods_dir, pod), self.logs.pod(pod));
        // One that nobody asked for, because the pod was over before it had a worker.
        self.logs.earlier_runs(pod.metadata.uid.as_deref().unwrap_or_default());
        async move {
            if folder.is_none() && runs.is_empty() {
                return;
            }
            let blocking = move || {
                folder.iter().for_each(|folder| dirs::remove_reporting(folder));
                runs.iter().for_each(|(container, run)| logs.remove(container, *run));
            };
            // It only fails when the runtime ends; the next start removes what is left.
            let _ = tokio::task::spawn_blocking(blocking).await;
        }
    }

    /// Tells users about a pod, or about one of its containers (by its index in the machine's plan).
    pub(crate) fn tell(&self, pod: &Pod, index: Option<usize>, warning: bool, reason: &str, message: &str) {
        let type_ = if warning { EventType::Warning } else { EventType::Normal };
        self.recorder.event(&reference(pod, index), type_, reason, message);
    }
}

/// The folder that a pod may have on disk; none for a pod without a uid, whose folder would be that of all pods.
fn folder(pods_dir: &Path, pod: &Pod) -> Option<PathBuf> {
    let uid = pod.metadata.uid.as_deref().filter(|uid| !uid.is_empty())?;
    volumes::on_disk(pod).then(|| volumes::pod_dir(pods_dir, uid))
}

/// How events refer to a pod or one of its containers.
pub(crate) fn reference(pod: &Pod, index: Option<usize>) -> ObjectReference {
    let meta = &pod.metadata;
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: index.and_then(|index| field_path(pod, index)),
    }
}

/// How references name one of the containers.
pub(crate) fn field_path(pod: &Pod, index: usize) -> Option<String> {
    let (container, role) = state::containers(pod).nth(index)?;
    let list = match role {
        Role::Init | Role::Sidecar => "initContainers",
        Role::Main => "containers",
        Role::Ephemeral => "ephemeralContainers",
    };
    Some(format!("spec.{list}{{{}}}", container.name))
}

/// The container at an index of the machine's plan: init containers first, ephemeral ones last.
pub(crate) fn container_at(pod: &Pod, index: usize) -> Option<Cow<'_, Container>> {
    state::containers(pod).nth(index).map(|(container, _)| container)
}

/// Both clocks.
pub(crate) fn now() -> Now {
    Now { instant: Instant::now(), wall: clock::now() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_without_a_uid_or_a_volume_on_disk_owns_no_folder() {
        #[track_caller]
        fn check(uid: Option<&str>, volume: &serde_json::Value, expected: Option<&str>) {
            let spec = serde_json::json!({ "containers": [], "volumes": [volume] });
            let mut pod: Pod = serde_json::from_value(serde_json::json!({ "spec": spec })).unwrap();
            pod.metadata.uid = uid.map(Into::into);
            assert_eq!(folder(Path::new("/pods"), &pod), expected.map(PathBuf::from));
        }
        let disk = serde_json::json!({ "name": "v", "emptyDir": {} });
        check(Some("u"), &disk, Some("/pods/u"));
        check(Some("u"), &serde_json::json!({ "name": "v", "configMap": { "name": "c" } }), None);
        check(Some(""), &disk, None);
        check(None, &disk, None);
    }
}
