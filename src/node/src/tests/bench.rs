//! A node in front of the real API server, with the real runtime; only the store is in memory. The test
//! plays scheduler and node IPAM.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    sync::{Arc, mpsc},
    time::Duration,
};

use coracle_apiserver::{ApiServer, User};
use coracle_client::{Informers, Key, clock};
use coracle_image::{Images, Reference, SignatureMode, SignaturePolicy, SignatureRule, SignedIdentity};
use coracle_runtime::Runtime;
use coracle_store::Embedded;
use http_body_util::BodyExt;
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{
    ConfigMap, ContainerStatus, Event, Node as NodeObject, PersistentVolume, PersistentVolumeClaim, Pod,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{Config, Deps, Node, instances::Places, local_volumes::DRIVER};

/// How long a state may take to come: far more than it needs on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const SERVICES: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16);

pub(super) struct Bench {
    _server: ApiServer,
    dir: tempfile::TempDir,
    pub(super) client: Client,
    informers: Informers,
    runtime: Arc<Runtime>,
    images: Arc<Images>,
    node: Option<Node>,
    pub(super) shutdown_grace: Duration,
}

impl Bench {
    /// A cluster with one node that is Ready.
    pub(super) async fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let config = coracle_apiserver::Config {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            pki_dir: dir.path().join("pki"),
            service_cidr: SERVICES,
            node_ports: 30_000..=32_767,
            extra_routes: axum::Router::new(),
            now: clock::now,
        };
        let server = ApiServer::build(config, Embedded::memory()).await.unwrap();
        let user = User::new("test", &["system:masters"]);
        let client = coracle_client::in_process(server.service_as(user));
        let informers = Informers::new(client.clone(), CancellationToken::new());
        let runtime = Runtime::build(coracle_runtime::Config {
            threads: 2,
            max_containers: 16,
            default_memory_limit: 16 << 20,
            ..coracle_runtime::Config::new(dir.path().join("compiled"))
        })
        .unwrap();
        let refused = SignatureRule {
            prefix: "registry.local/refused".to_owned(),
            keys: Vec::new(),
            mode: SignatureMode::Reject,
            identity: SignedIdentity::default(),
        };
        let images = Images::open(coracle_image::Config {
            policy: SignaturePolicy::build(vec![refused], dir.path()).unwrap(),
            ..coracle_image::Config::new(dir.path().join("images"))
        })
        .unwrap();
        let mut bench = Bench {
            _server: server,
            dir,
            client,
            informers,
            runtime,
            images,
            node: None,
            shutdown_grace: Duration::ZERO,
        };
        bench.start_node().await;
        bench
    }

    pub(super) async fn start_node(&mut self) {
        let node = Node::build(
            Config {
                name: "n".into(),
                address: Ipv4Addr::LOCALHOST.into(),
                listen: Ipv4Addr::LOCALHOST.into(),
                data_dir: self.dir.path().to_owned(),
                max_pods: 10,
                version: "v1.33.0".into(),
                service_cidr: SERVICES,
                api_server: None,
                egress: crate::Egress::Allow,
                static_pods: Some(self.dir.path().join("manifests")),
                shutdown_grace: self.shutdown_grace,
                toolbox: None,
                log_limits: crate::LogLimits::default(),
            },
            Deps {
                client: self.client.clone(),
                informers: self.informers.clone(),
                runtime: self.runtime.clone(),
                images: self.images.clone(),
            },
        )
        .unwrap();
        let nodes = Api::<NodeObject>::all(self.client.clone());
        self.state("the Node object", async || nodes.get_opt("n").await.unwrap()).await;
        let cidr = json!({"spec": {"podCIDR": "10.128.0.0/18", "podCIDRs": ["10.128.0.0/18"]}});
        nodes.patch("n", &PatchParams::default(), &Patch::Merge(cidr)).await.unwrap();
        tokio::time::timeout(PATIENCE, node.ready()).await.expect("the node is ready in time");
        self.node = Some(node);
    }

    /// Ends the node's process, as far as the API can see.
    pub(super) async fn stop_node(&mut self) {
        if let Some(node) = self.node.take() {
            node.shutdown(PATIENCE).await;
        }
    }

    pub(super) async fn push(&self, name: &str, module: Vec<u8>) {
        self.images.push_local(&Reference::parse(name).unwrap(), module).await.unwrap();
    }

    pub(super) fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.client.clone())
    }

    /// Creates a pod that is bound to the node.
    pub(super) async fn create(&self, name: &str, mut spec: Value) {
        spec["nodeName"] = "n".into();
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        let pod = serde_json::from_value(pod).unwrap();
        self.pods().create(&PostParams::default(), &pod).await.unwrap();
    }

    /// `kubectl set image`, for the container of all tests.
    pub(super) async fn set_image(&self, name: &str, image: &str) {
        let patch = json!({"spec": {"containers": [{"name": "c", "image": image}]}});
        self.pods().patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
    }

    /// `kubectl patch --subresource resize`, for the container of all tests.
    pub(super) async fn resize(&self, name: &str, requests: Value) {
        let patch = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}});
        let (params, patch) = (PatchParams::default(), Patch::Strategic(patch));
        self.pods().patch_subresource("resize", name, &params, &patch).await.unwrap();
    }

    /// Waits until a file of the container of all tests says this.
    pub(super) async fn file(&self, pod: &str, path: &str, text: &str) {
        let uid = self.pod(pod, |_| true).await.metadata.uid.unwrap();
        let table = &self.node.as_ref().unwrap().context().table;
        let root = table.get(&uid).unwrap().running("c").unwrap().mounts.root();
        let says = async || root.read(path, 1024).is_ok_and(|is| is == text.as_bytes()).then_some(());
        self.state("a file", says).await;
    }

    pub(super) async fn create_config_map(&self, name: &str, data: Value) {
        let map: ConfigMap =
            serde_json::from_value(json!({"metadata": {"name": name}, "data": data})).unwrap();
        Api::default_namespaced(self.client.clone()).create(&PostParams::default(), &map).await.unwrap();
    }

    /// The Node object.
    pub(super) async fn node(&self) -> NodeObject {
        Api::all(self.client.clone()).get("n").await.unwrap()
    }

    /// Deletes the Node object and waits until there is another.
    pub(super) async fn delete_node(&self) {
        let nodes = Api::<NodeObject>::all(self.client.clone());
        let known = self.node().await.metadata.uid;
        nodes.delete("n", &DeleteParams::default()).await.unwrap();
        let other = async || nodes.get_opt("n").await.unwrap().filter(|node| node.metadata.uid != known);
        self.state("another Node", other).await;
    }

    /// Status and message of a condition of the node.
    pub(super) async fn node_condition(&self, name: &str) -> (String, String) {
        let conditions = self.node().await.status.unwrap().conditions.unwrap();
        let condition = conditions.into_iter().find(|condition| condition.type_ == name).unwrap();
        (condition.status, condition.message.unwrap_or_default())
    }

    /// Keeps a deleted pod's object until [`Bench::release`].
    pub(super) async fn hold(&self, name: &str) {
        self.set_finalizers(name, json!(["test.example/hold"])).await;
    }

    pub(super) async fn release(&self, name: &str) {
        self.set_finalizers(name, json!(null)).await;
    }

    async fn set_finalizers(&self, name: &str, list: Value) {
        let patch = json!({"metadata": {"finalizers": list}});
        self.pods().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// `kubectl debug`.
    pub(super) async fn join(&self, name: &str, container: Value) {
        let patch = json!({"spec": {"ephemeralContainers": [container]}});
        let patch = Patch::Strategic(patch);
        self.pods().patch_ephemeral_containers(name, &PatchParams::default(), &patch).await.unwrap();
    }

    pub(super) async fn delete(&self, name: &str) {
        self.pods().delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// The pod, as soon as it is as `wanted` and the agent knows it too.
    pub(super) async fn pod(&self, name: &str, wanted: impl Fn(&Pod) -> bool) -> Pod {
        let what = format!("pod {name}");
        let pods = self.pods();
        let pod = self.state(&what, async || pods.get_opt(name).await.unwrap().filter(&wanted)).await;
        let revision = pod.metadata.resource_version.as_ref().unwrap().parse().unwrap();
        self.informers.get::<Pod>().reached(revision).await;
        pod
    }

    pub(super) async fn gone(&self, name: &str) {
        let pods = self.pods();
        self.state("a deleted pod", async || pods.get_opt(name).await.unwrap().is_none().then_some(())).await;
    }

    /// The messages of a pod's events with this reason, as soon as there are any.
    pub(super) async fn events(&self, pod: &str, reason: &str) -> Vec<String> {
        let events = Api::<Event>::default_namespaced(self.client.clone());
        self.state(reason, async || {
            let list = events.list(&ListParams::default()).await.unwrap().items.into_iter();
            let of_pod = list.filter(|event| event.involved_object.name.as_deref() == Some(pod));
            let of_reason = of_pod.filter(|event| event.reason.as_deref() == Some(reason));
            let messages: Vec<_> = of_reason.filter_map(|event| event.message).collect();
            (!messages.is_empty()).then_some(messages)
        })
        .await
    }

    /// The kubelet API.
    pub(super) fn router(&self) -> axum::Router {
        self.node.as_ref().unwrap().router()
    }

    /// What the kubelet API answers, up to its end.
    pub(super) async fn get(&self, path: &str) -> (u16, String) {
        let router = self.router();
        let request = http::Request::get(path).body(axum::body::Body::empty()).unwrap();
        let answer = router.oneshot(request).await.unwrap();
        let code = answer.status().as_u16();
        let body =
            tokio::time::timeout(PATIENCE, answer.into_body().collect()).await.expect("an end in time");
        (code, String::from_utf8(body.unwrap().to_bytes().to_vec()).unwrap())
    }

    /// Waits until a container's log is `text`.
    pub(super) async fn log(&self, pod: &str, text: &str) {
        let path = format!("/containerLogs/default/{pod}/c");
        self.state("a log", async || (self.get(&path).await.1 == text).then_some(())).await;
    }

    /// The network of a pod that runs.
    pub(super) async fn stack(&self, name: &str) -> coracle_network::PodStack {
        let uid = self.pod(name, |_| true).await.metadata.uid.unwrap();
        self.node.as_ref().unwrap().context().table.get(&uid).unwrap().guests.stack().unwrap()
    }

    /// What the container `c` of a pod that runs was given.
    pub(super) async fn running(&self, name: &str) -> Arc<crate::exec::Running> {
        let uid = self.pod(name, |_| true).await.metadata.uid.unwrap();
        self.node.as_ref().unwrap().context().table.get(&uid).unwrap().running("c").unwrap()
    }

    /// Waits until a pod has no worker.
    pub(super) async fn retired(&self, name: &str) {
        let uid = self.pod(name, |_| true).await.metadata.uid.unwrap();
        let table = &self.node.as_ref().unwrap().context().table;
        self.state("a pod without a worker", async || table.get(&uid).is_none().then_some(())).await;
    }

    /// Waits until no pod has anything on disk, and what was said of pods until then is written.
    pub(super) async fn cleaned_up(&self) {
        self.state("nothing on disk", async || self.folders().is_empty().then_some(())).await;
        self.node.as_ref().unwrap().context().statuses.idle().await;
    }

    /// Waits until the runs of before are told to whom they are about, and forgotten.
    pub(super) async fn nothing_recalled(&self) {
        let logs = &self.node.as_ref().unwrap().context().logs;
        self.state("no run of before", async || (logs.recalled() == 0).then_some(())).await;
    }

    /// Keeps whoever opens this volume waiting, until the sender is dropped.
    pub(super) async fn keep_waiting(&self, volume: &str) -> mpsc::Sender<()> {
        let opening = self.node.as_ref().unwrap().context().sources.local_volumes().opening(volume);
        let (release, released) = mpsc::channel();
        let (tell_held, held) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let _held = opening.lock();
            let _ = tell_held.send(());
            let _ = released.recv();
        });
        held.await.unwrap();
        release
    }

    /// The embedded registry, as other machines see it.
    pub(super) fn registry(&self) -> axum::Router {
        self.images.registry_router()
    }

    /// A claim that has a folder of this node, with the same name.
    pub(super) async fn create_claim(&self, name: &str) {
        let modes = json!(["ReadWriteOnce"]);
        let storage = json!({"storage": "1Mi"});
        let claim = json!({
            "metadata": {"name": name},
            "spec": {"accessModes": modes, "resources": {"requests": storage}, "volumeName": name},
        });
        let claims = Api::<PersistentVolumeClaim>::default_namespaced(self.client.clone());
        let claim = serde_json::from_value(claim).unwrap();
        let claim = claims.create(&PostParams::default(), &claim).await.unwrap();
        let here = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": ["n"]});
        let volume = json!({
            "metadata": {"name": name},
            "spec": {
                "accessModes": modes,
                "capacity": storage,
                "claimRef": {"namespace": "default", "name": name, "uid": claim.metadata.uid},
                "csi": {"driver": DRIVER, "volumeHandle": name},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
            },
        });
        let volumes = Api::<PersistentVolume>::all(self.client.clone());
        let volume = serde_json::from_value(volume).unwrap();
        volumes.create(&PostParams::default(), &volume).await.unwrap();
        let bound = Patch::Merge(json!({"status": {"phase": "Bound"}}));
        claims.patch_status(name, &PatchParams::default(), &bound).await.unwrap();
    }

    /// Waits until no object is watched for any pod.
    pub(super) async fn unwatched(&self) {
        let sources = &self.node.as_ref().unwrap().context().sources;
        self.state("nothing to watch", async || (sources.watched() == 0).then_some(())).await;
    }

    /// Looks for pods that keep more on disk than they may.
    pub(super) fn look_at_disk(&self) {
        let context = self.node.as_ref().unwrap().context();
        context.evictor.evict_beyond_limits(context);
    }

    /// As if the machine were short of disk, and this pod ranked first; whether it is ended.
    pub(super) fn evict_for_disk(&self, name: &str, uid: &str) -> bool {
        let context = self.node.as_ref().unwrap().context();
        context.evictor.evict_for_disk(context, &Key::new("default", name), uid)
    }

    /// As if the runtime had been short of places for long; whether a pod is ended for it.
    pub(super) fn evict_for_places(&self) -> bool {
        let context = self.node.as_ref().unwrap().context();
        let places = Places { free: 0, reserve: 1 };
        let node = Default::default();
        !context.evictor.evict_for_places(context, &context.stats, &node, places).is_empty()
    }

    pub(super) fn is_short_of_places(&self) -> bool {
        self.node.as_ref().unwrap().context().evictor.instances.is_short()
    }

    /// Waits until so many of the runtime's places are free.
    pub(super) async fn free_places(&self, free: u32) {
        self.state("places", async || (self.runtime.free() == free).then_some(())).await;
    }

    /// What all pods of the node hold together.
    pub(super) fn memory(&self) -> &crate::memory::Memory {
        &self.node.as_ref().unwrap().context().memory
    }

    /// Has a pod hold so many bytes beside its containers, as in its volumes.
    pub(super) fn holds_beside(&self, name: &str, bytes: u64) -> coracle_budget::Charge {
        let pods = self.node.as_ref().unwrap().context().table.all();
        let pod = pods.iter().find(|pod| pod.key().name == name).unwrap();
        pod.budget.charge(bytes).unwrap()
    }

    /// Waits until pods have drawn so many bytes of the node's.
    pub(super) async fn drawn(&self, bytes: u64) {
        let budget = self.memory().budget();
        self.state("memory", async || (budget.used() == bytes).then_some(())).await;
    }

    /// The digests of the images that must stay.
    pub(super) fn images_in_use(&self) -> BTreeSet<String> {
        let context = self.node.as_ref().unwrap().context();
        context.evictor.images_in_use(context)
    }

    /// The folders that pods have on disk.
    pub(super) fn pod_folders(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("pods")).unwrap().count()
    }

    /// What pods have on disk: folders and logs.
    pub(super) fn folders(&self) -> Vec<String> {
        ["pods", "logs"]
            .into_iter()
            .flat_map(|dir| std::fs::read_dir(self.dir.path().join(dir)).unwrap())
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    pub(super) fn data_dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub(super) async fn state<T>(&self, what: &str, look: impl AsyncFn() -> Option<T>) -> T {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(state) = look().await {
                return state;
            }
            if tokio::time::Instant::now() > deadline {
                let pods = self.pods().list(&ListParams::default()).await.unwrap();
                let pods = serde_json::to_string_pretty(&pods.items).unwrap();
                panic!("{what} did not come to the state that the test waits for; pods: {pods}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub(super) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

pub(super) fn container(pod: &Pod) -> ContainerStatus {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.clone());
    statuses.and_then(|statuses| statuses.into_iter().next()).unwrap_or_default()
}

pub(super) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Reason and message of a condition that holds; empty if it does not.
pub(super) fn condition(pod: &Pod, name: &str) -> (String, String) {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let holding = conditions.iter().find(|condition| condition.type_ == name && condition.status == "True");
    holding
        .map(|it| (it.reason.clone().unwrap_or_default(), it.message.clone().unwrap_or_default()))
        .unwrap_or_default()
}

/// Why a container waits, `""` if it does not.
pub(super) fn waiting(pod: &Pod) -> String {
    let state = container(pod).state.unwrap_or_default();
    state.waiting.and_then(|waiting| waiting.reason).unwrap_or_default()
}
