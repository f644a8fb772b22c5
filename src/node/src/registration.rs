//! The Node object: registered once, kept up to date, and the Lease that says this node lives.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use coracle_client::{
    Delta, EventType, Informer, Key, Recorder, api_message, clock, is_already_exists, is_not_found,
};
use ipnet::{Ipv4Net, Ipv6Net};
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{
            ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec,
            NodeStatus, ObjectReference,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time},
    },
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    host::{self, Capacity, Pressure},
    instances::Instances,
    memory::Memory,
};

/// The namespace of the nodes' leases.
const LEASES: &str = "kube-node-lease";
/// How often the lease is renewed, and how long it holds. Kubernetes' numbers.
const RENEW: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
/// How often the status is written although nothing changed. Kubernetes' `nodeStatusReportFrequency`.
const REPORT: Duration = Duration::from_secs(300);
/// How often the machine is looked at for changes worth a write. Kubernetes' `nodeStatusUpdateFrequency`.
const LOOK: Duration = Duration::from_secs(10);
/// The port that a kubelet's API has by custom; it is served in process, and reported as Kubernetes does.
const KUBELET_PORT: i32 = 10250;
/// How many images the status lists. Kubernetes' `nodeStatusMaxImages`.
const MAX_IMAGES: usize = 50;
/// The wait between tries while the API is not there, which is brief.
const RETRY: Duration = Duration::from_millis(200);

/// What the node says of itself.
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    pub(crate) max_pods: u32,
    pub(crate) version: String,
    pub(crate) data_dir: std::path::PathBuf,
    pub(crate) capacity: Capacity,
}

impl Identity {
    /// How events refer to the node: Kubernetes puts its name where the uid is.
    pub(crate) fn reference(&self) -> ObjectReference {
        ObjectReference {
            kind: Some("Node".into()),
            name: Some(self.name.clone()),
            uid: Some(self.name.clone()),
            ..ObjectReference::default()
        }
    }
}

/// Keeps the Node object and its Lease.
pub(crate) struct Registration {
    identity: Identity,
    nodes: Api<Node>,
    leases: Api<Lease>,
    informer: Informer<Node>,
    images: Arc<coracle_image::Images>,
    instances: Arc<Instances>,
    memory: Arc<Memory>,
    shutting_down: AtomicBool,
    stop: CancellationToken,
}

impl Registration {
    pub(crate) fn new(
        identity: Identity,
        client: Client,
        informer: Informer<Node>,
        images: Arc<coracle_image::Images>,
        instances: Arc<Instances>,
        memory: Arc<Memory>,
        stop: CancellationToken,
    ) -> Registration {
        let nodes = Api::all(client.clone());
        let leases = Api::namespaced(client, LEASES);
        let shutting_down = AtomicBool::new(false);
        Registration { identity, nodes, leases, informer, images, instances, memory, shutting_down, stop }
    }

    /// The name of the node.
    pub(crate) fn name(&self) -> &str {
        &self.identity.name
    }

    /// How events refer to the node.
    pub(crate) fn reference(&self) -> ObjectReference {
        self.identity.reference()
    }

    /// Creates the Node object, or brings the one from before up to date. Returns when it is there.
    pub(crate) async fn register(&self) -> Node {
        loop {
            match self.try_register().await {
                Ok(node) => return node,
                Err(error) => tracing::debug!(error = api_message(&error), "the node is not registered yet"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn try_register(&self) -> Result<Node, kube::Error> {
        let node = Node {
            metadata: ObjectMeta {
                name: Some(self.identity.name.clone()),
                labels: Some(labels(&self.identity.name)),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec::default()),
            status: None,
        };
        match self.nodes.create(&PostParams::default(), &node).await {
            Err(error) if is_already_exists(&error) => {
                let patch = json!({ "metadata": { "labels": labels(&self.identity.name) } });
                self.nodes.patch(&self.identity.name, &PatchParams::default(), &Patch::Merge(patch)).await
            }
            answer => answer,
        }
    }

    /// Writes an annotation of the Node object, unless it is known to be so. None is the same as an empty one.
    pub(crate) async fn annotate(&self, name: &str, value: &str) -> Result<(), kube::Error> {
        let known = self.informer.get(&Key::cluster(self.identity.name.clone()));
        let known = known.as_ref().and_then(|node| node.metadata.annotations.as_ref()?.get(name));
        if known.map_or("", String::as_str) == value {
            return Ok(());
        }
        let patch = json!({ "metadata": { "annotations": { name: value } } });
        self.nodes.patch(&self.identity.name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
    }

    /// Waits until the node was given its ranges of pod addresses: one of IPv4, and one of IPv6 if its
    /// cluster has two families.
    pub(crate) async fn pod_cidrs(&self, node: &Node) -> Option<(Ipv4Net, Option<Ipv6Net>)> {
        if let Some(cidrs) = cidrs_of(node) {
            return Some(cidrs);
        }
        let mut deltas = self.informer.subscribe();
        while let Some(delta) = deltas.next().await {
            let object = delta.object();
            if object.metadata.name.as_deref() == Some(&self.identity.name)
                && let Some(cidrs) = cidrs_of(object)
            {
                return Some(cidrs);
            }
        }
        None
    }

    /// Writes the status until that succeeds.
    pub(crate) async fn report(&self) {
        while let Err(error) = self.try_report(self.pressure()).await {
            tracing::debug!(error = api_message(&error), "the node's status is not written yet");
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Says that the node shuts down. It is tried once: nobody waits for a node that goes.
    pub(crate) async fn report_shutdown(&self, recorder: &Recorder) {
        self.shutting_down.store(true, Ordering::Relaxed);
        self.tell_turn("NodeNotReady", recorder);
        if let Err(error) = self.try_report(self.pressure()).await {
            tracing::warn!(error = api_message(&error), "the node could not say that it shuts down");
        }
    }

    async fn try_report(&self, pressure: Pressure) -> Result<(), kube::Error> {
        let ready = !self.shutting_down.load(Ordering::Relaxed);
        let known = self.informer.get(&Key::cluster(self.identity.name.clone()));
        let known = known.as_ref().and_then(|node| node.status.as_ref());
        let status = node_status(&self.identity, known, (ready, pressure), self.image_list(), clock::now());
        let patch = Patch::Strategic(json!({ "status": status }));
        self.nodes.patch_status(&self.identity.name, &PatchParams::default(), &patch).await.map(|_| ())
    }

    fn pressure(&self) -> Pressure {
        Pressure::measure(&self.identity.data_dir, self.memory.is_short(), self.instances.is_short())
    }

    fn image_list(&self) -> Vec<ContainerImage> {
        crate::images::node_images(&self.images, MAX_IMAGES)
    }

    /// Keeps the status current: at once when the object was lost, soon when something changed, rarely
    /// otherwise. Until stopped.
    pub(crate) async fn keep_status(&self, recorder: &Recorder) {
        let mut unschedulable = None;
        let mut deltas = self.informer.subscribe();
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut written = self.pressure();
        turns(None, written).into_iter().for_each(|turn| self.tell_turn(turn, recorder));
        let mut reported = tokio::time::Instant::now();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                delta = deltas.next() => match delta {
                    None => return,
                    Some(Delta::Deleted(node)) if node.metadata.name.as_deref() == Some(&self.identity.name) => {
                        tracing::warn!("the Node object was deleted; it is registered again");
                        let again = async {
                            self.register().await;
                            self.report().await;
                        };
                        if self.stop.run_until_cancelled(again).await.is_none() {
                            return;
                        }
                    }
                    Some(delta) => self.tell_if_cordoned(delta.object(), &mut unschedulable, recorder),
                },
                _ = looks.tick() => {
                    let seen = self.pressure();
                    if seen != written || reported.elapsed() >= REPORT {
                        match self.try_report(seen).await {
                            Ok(()) => {
                                turns(Some(written), seen).into_iter().for_each(|turn| self.tell_turn(turn, recorder));
                                (written, reported) = (seen, tokio::time::Instant::now());
                            }
                            Err(error) => tracing::warn!(error = api_message(&error), "the node's status was not written"),
                        }
                    }
                }
            }
        }
    }

    /// An event for each turn of `spec.unschedulable`.
    fn tell_if_cordoned(&self, node: &Node, known: &mut Option<bool>, recorder: &Recorder) {
        if node.metadata.name.as_deref() != Some(&self.identity.name) {
            return;
        }
        let now = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
        if known.replace(now).is_some_and(|before| before != now) {
            self.tell_turn(if now { "NodeNotSchedulable" } else { "NodeSchedulable" }, recorder);
        }
    }

    /// Tells of a change of the node's state.
    pub(crate) fn tell_turn(&self, reason: &str, recorder: &Recorder) {
        let message = format!("Node {} status is now: {reason}", self.identity.name);
        recorder.event(&self.reference(), EventType::Normal, reason, &message);
    }

    /// Renews the lease until stopped.
    pub(crate) async fn keep_lease(&self, node: &Node) {
        let uid = node.metadata.uid.clone().unwrap_or_default();
        loop {
            let wait = match self.renew(&uid).await {
                Ok(()) => RENEW,
                Err(error) => {
                    tracing::debug!(error = api_message(&error), "the lease was not renewed");
                    RETRY * 5
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn renew(&self, node_uid: &str) -> Result<(), kube::Error> {
        let name = &self.identity.name;
        let now = clock::micro_time();
        let patch = json!({ "spec": { "holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now } });
        match self.leases.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(error) if is_not_found(&error) => {
                // The Node may have been made anew: a lease that names the old one would be collected.
                let known = self.informer.get(&Key::cluster(name.clone()));
                let known = known.as_ref().and_then(|node| node.metadata.uid.as_deref());
                let lease = lease(name, known.unwrap_or(node_uid), now);
                self.leases.create(&PostParams::default(), &lease).await.map(|_| ())
            }
            answer => answer.map(|_| ()),
        }
    }
}

fn lease(name: &str, node_uid: &str, now: MicroTime) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(LEASES.into()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: name.to_owned(),
                uid: node_uid.to_owned(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.to_owned()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    }
}

fn cidrs_of(node: &Node) -> Option<(Ipv4Net, Option<Ipv6Net>)> {
    let spec = node.spec.as_ref()?;
    let all = || spec.pod_cidr.iter().chain(spec.pod_cidrs.iter().flatten());
    let v4 = all().find_map(|cidr| cidr.parse().ok())?;
    Some((v4, all().find_map(|cidr| cidr.parse().ok())))
}

fn labels(name: &str) -> std::collections::BTreeMap<String, String> {
    let os = std::env::consts::OS;
    let arch = host::architecture();
    [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", os),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", os),
        ("beta.kubernetes.io/arch", arch),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

fn node_status(
    identity: &Identity,
    known: Option<&NodeStatus>,
    (ready, pressure): (bool, Pressure),
    images: Vec<ContainerImage>,
    now: Timestamp,
) -> NodeStatus {
    let capacity = &identity.capacity;
    let allocatable = capacity.allocatable();
    let amounts = |cpu: String, memory: String, disk: String| {
        [
            ("cpu", cpu),
            ("memory", memory),
            ("ephemeral-storage", disk),
            ("pods", identity.max_pods.to_string()),
        ]
        .map(|(name, amount)| (name.to_owned(), Quantity(amount)))
        .into()
    };
    let kibi = |bytes: u64| format!("{}Ki", bytes / 1024);
    let address = |type_: &str, address: String| NodeAddress { type_: type_.into(), address };
    NodeStatus {
        capacity: Some(amounts(capacity.cpus.to_string(), kibi(capacity.memory), kibi(capacity.disk))),
        allocatable: Some(amounts(
            capacity.cpus.to_string(),
            kibi(allocatable.memory.unsigned_abs()),
            allocatable.ephemeral_storage.to_string(),
        )),
        addresses: Some(vec![
            address("InternalIP", identity.address.to_string()),
            address("Hostname", identity.name.clone()),
        ]),
        conditions: Some(conditions(known, (ready, pressure), now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: KUBELET_PORT }),
        }),
        images: Some(images),
        node_info: Some(host::system_info(&identity.version)),
        ..NodeStatus::default()
    }
}

/// The reasons of the events for what has changed; for everything at the beginning.
fn turns(before: Option<Pressure>, now: Pressure) -> Vec<&'static str> {
    let pick = |is: bool, short: &'static str, fine: &'static str| if is { short } else { fine };
    let all = |it: Pressure| {
        [
            pick(it.memory, "NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
            pick(it.disk, "NodeHasDiskPressure", "NodeHasNoDiskPressure"),
            pick(it.instances, "NodeHasInsufficientPID", "NodeHasSufficientPID"),
        ]
    };
    let known = before.map(all);
    all(now).into_iter().filter(|turn| known.is_none_or(|known| !known.contains(turn))).collect()
}

fn conditions(
    known: Option<&NodeStatus>,
    (ready, pressure): (bool, Pressure),
    now: Timestamp,
) -> Vec<NodeCondition> {
    let known = known.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let (memory, disk) = (pressure.memory, pressure.disk);
    let all = [
        (
            "MemoryPressure",
            memory,
            if memory {
                ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available")
            } else {
                ("KubeletHasSufficientMemory", "kubelet has sufficient memory available")
            },
        ),
        (
            "DiskPressure",
            disk,
            if disk {
                ("KubeletHasDiskPressure", "kubelet has disk pressure")
            } else {
                ("KubeletHasNoDiskPressure", "kubelet has no disk pressure")
            },
        ),
        (
            "PIDPressure",
            pressure.instances,
            if pressure.instances {
                ("KubeletHasInsufficientPID", "the runtime has hardly any place left for another container")
            } else {
                ("KubeletHasSufficientPID", "kubelet has sufficient PID available")
            },
        ),
        (
            "Ready",
            ready,
            if ready {
                ("KubeletReady", "kubelet is posting ready status")
            } else {
                ("KubeletNotReady", "node is shutting down")
            },
        ),
    ];
    all.into_iter()
        .map(|(type_, value, (reason, message))| {
            let status = if value { "True" } else { "False" };
            let before =
                known.iter().find(|condition| condition.type_ == type_ && condition.status == status);
            let since = before.and_then(|condition| condition.last_transition_time.clone());
            NodeCondition {
                type_: type_.into(),
                status: status.into(),
                reason: Some(reason.into()),
                message: Some(message.into()),
                last_heartbeat_time: Some(Time(now)),
                last_transition_time: Some(since.unwrap_or(Time(now))),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            name: "n".into(),
            address: "10.0.0.1".parse().unwrap(),
            max_pods: 110,
            version: "v1.33.0".into(),
            data_dir: "/".into(),
            capacity: Capacity { cpus: 2, memory: 4 << 30, disk: 100 << 30 },
        }
    }

    #[test]
    fn a_status_says_what_the_machine_has() {
        let none = Pressure { memory: false, disk: false, instances: false };
        let status = node_status(&identity(), None, (true, none), Vec::new(), Timestamp::UNIX_EPOCH);
        let amount = |list: &Option<std::collections::BTreeMap<String, Quantity>>, name: &str| {
            list.as_ref().unwrap()[name].0.clone()
        };
        assert_eq!(amount(&status.capacity, "memory"), "4194304Ki");
        assert_eq!(amount(&status.allocatable, "memory"), "3829760Ki");
        assert_eq!(amount(&status.allocatable, "pods"), "110");
        let info = status.node_info.unwrap();
        assert!(info.container_runtime_version.starts_with("wasmtime://48"));
        assert_eq!(info.kubelet_version, "v1.33.0");
    }

    #[test]
    fn turns_of_the_node_are_told_once() {
        let none = Pressure { memory: false, disk: false, instances: false };
        let disk = Pressure { disk: true, ..none };
        let memory = Pressure { memory: true, ..none };
        assert_eq!(turns(Some(none), disk), ["NodeHasDiskPressure"]);
        assert_eq!(turns(Some(disk), memory), ["NodeHasInsufficientMemory", "NodeHasNoDiskPressure"]);
        assert_eq!(turns(Some(disk), disk), [""; 0]);
        assert_eq!(
            turns(None, none),
            ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID"]
        );
    }

    #[test]
    fn conditions_keep_the_time_of_their_last_change() {
        let none = Pressure { memory: false, disk: false, instances: false };
        let [early, late] =
            ["2025-01-01T00:00:00Z", "2025-01-02T00:00:00Z"].map(|time| time.parse().unwrap());
        let first =
            NodeStatus { conditions: Some(conditions(None, (true, none), early)), ..NodeStatus::default() };
        let second = conditions(Some(&first), (true, Pressure { memory: true, ..none }), late);
        let times: Vec<_> = second
            .iter()
            .map(|c| (c.type_.as_str(), c.status.as_str(), c.last_transition_time.clone().unwrap().0))
            .collect();
        assert_eq!(
            times,
            [
                ("MemoryPressure", "True", late),
                ("DiskPressure", "False", early),
                ("PIDPressure", "False", early),
                ("Ready", "True", early),
            ]
        );
    }
}
