//! A simulated node: registers, renews its lease, "runs" the pods that are bound to it and tells the truth
//! about them to the observer. What it runs survives a cut way to the API server, and dies with the node.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::Router;
use coracle_client::{Informer, Informers, Key, clock, random};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Node, core::v1::Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    chaos::Chaos,
    objects,
    observer::{Process, Truth},
};

/// How often the node looks at its pods.
const LOOK: Duration = Duration::from_millis(250);
const RENEW: Duration = Duration::from_secs(10);

pub(crate) struct SimNode {
    name: String,
    number: usize,
    way: Chaos,
    truth: Truth,
    life: Option<Life>,
}

struct Life {
    task: JoinHandle<()>,
    pods: Informer<Pod>,
    looked: Arc<Mutex<Instant>>,
    _informers: DropGuard,
}

impl SimNode {
    pub(crate) fn new(name: &str, number: usize, truth: Truth) -> SimNode {
        SimNode { name: name.to_owned(), number, way: Chaos::new(), truth, life: None }
    }

    pub(crate) fn way(&self) -> &Chaos {
        &self.way
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.life.is_some()
    }

    pub(crate) fn start(&mut self, door: Router) {
        let client = self.way.client(door);
        let stop = CancellationToken::new();
        let informers = Informers::new(client.clone(), stop.clone());
        let looked = Arc::new(Mutex::new(Instant::now()));
        let pods = informers.get::<Pod>();
        let agent = Agent {
            looked: looked.clone(),
            name: self.name.clone(),
            number: self.number,
            pods: pods.clone(),
            client,
            truth: self.truth.clone(),
            runs: BTreeMap::new(),
            addresses: 0,
        };
        let task = tokio::spawn(agent.live());
        self.life = Some(Life { task, pods, looked, _informers: stop.drop_guard() });
    }

    /// What the node believes of a pod, for messages.
    pub(crate) fn view(&self, key: &Key) -> String {
        let Some(life) = &self.life else { return "the node is dead".to_owned() };
        let pod = life.pods.get(key);
        let version = pod.as_ref().and_then(|pod| pod.metadata.resource_version.clone());
        let ready = pod.is_some_and(|pod| objects::is_ready(&pod));
        let ago = life.looked.lock().unwrap().elapsed();
        format!("node {} sees version {version:?}, ready {ready}, and looked {ago:?} ago", self.name)
    }

    /// The machine loses power.
    pub(crate) fn kill(&mut self) {
        if let Some(life) = self.life.take() {
            life.task.abort();
            self.way = self.way.replace();
            self.truth.power_cut(&self.name);
        }
    }
}

/// A pod as this node runs it.
struct Run {
    address: String,
    ready_at: Instant,
    /// When its program ends by itself, and how.
    ends: Option<(Instant, i32)>,
    /// Set when the pod is to end; the program is gone at this time.
    stops: Option<Instant>,
    ended: Option<i32>,
}

struct Agent {
    looked: Arc<Mutex<Instant>>,
    name: String,
    number: usize,
    client: Client,
    pods: Informer<Pod>,
    truth: Truth,
    /// By uid.
    runs: BTreeMap<String, Run>,
    addresses: usize,
}

impl Agent {
    async fn live(mut self) {
        while self.register().await.is_err() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.pods.synced().await;
        let heart = heart(self.client.clone(), self.name.clone());
        let work = async {
            loop {
                self.look().await;
                *self.looked.lock().unwrap() = Instant::now();
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::join!(heart, work);
    }

    async fn register(&self) -> Result<(), kube::Error> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = objects::node(&self.name);
        match nodes.create(&PostParams::default(), &node).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            answer => drop(answer?),
        }
        Ok(())
    }

    /// Looks at every pod of this node, and at everything that runs here.
    async fn look(&mut self) {
        let mine: Vec<_> =
            self.pods.list().into_iter().filter(|pod| objects::node_of(pod) == self.name).collect();
        let known: BTreeSet<&str> = mine.iter().map(|pod| objects::uid(&pod.metadata)).collect();
        let lost: Vec<String> =
            self.runs.keys().filter(|uid| !known.contains(uid.as_str())).cloned().collect();
        for uid in lost {
            // The object is gone: what moved while this node was away is killed.
            self.truth.ended(&uid);
            self.runs.remove(&uid);
        }
        for pod in &mine {
            // What goes wrong is tried again at the next look.
            if let Err(error) = self.look_at(pod).await {
                tracing::warn!(node = self.name, pod = pod.metadata.name, %error, "look");
            }
        }
    }

    async fn look_at(&mut self, pod: &Pod) -> Result<(), kube::Error> {
        let now = Instant::now();
        let uid = objects::uid(&pod.metadata).to_owned();
        let phase = objects::phase(pod);
        let deleting = pod.metadata.deletion_timestamp.is_some();
        let over = matches!(phase, "Succeeded" | "Failed");
        if !self.runs.contains_key(&uid) {
            if deleting {
                return self.finish(pod, if over { None } else { Some(137) }).await;
            }
            if over {
                return Ok(());
            }
            if phase == "Running" && objects::restart_policy(pod) == "Never" {
                // It ran before this node lost power.
                return self.tell(pod, objects::ended_status(pod, 137)).await;
            }
            self.run(pod, &uid, now);
        }
        let run = self.runs.get_mut(&uid).expect("just made");
        if deleting && run.stops.is_none() {
            run.stops = Some(now + Duration::from_millis(random::below(3_000)));
        }
        if run.ended.is_none() {
            if run.stops.is_some_and(|at| at <= now) {
                run.ended = Some(143);
            } else if let Some((at, code)) = run.ends
                && at <= now
            {
                run.ended = Some(code);
            }
            if let Some(code) = run.ended {
                self.truth.ended(&uid);
                if code == 0 {
                    self.truth.succeeded(pod);
                }
            }
        }
        let run = &self.runs[&uid];
        match run.ended {
            Some(code) if deleting => return self.finish(pod, if over { None } else { Some(code) }).await,
            Some(code) if !over => return self.tell(pod, objects::ended_status(pod, code)).await,
            Some(_) => {}
            None if run.ready_at <= now && !objects::is_ready(pod) => {
                let status = objects::ready_status(&run.address);
                return self.tell(pod, status).await;
            }
            None => {}
        }
        Ok(())
    }

    fn run(&mut self, pod: &Pod, uid: &str, now: Instant) {
        self.addresses += 1;
        let address =
            format!("10.{}.{}.{}", 128 + self.number, self.addresses / 250, 1 + self.addresses % 250);
        let ends = objects::ends_by_itself(pod).then(|| {
            let failed = random::below(6) == 0;
            (now + Duration::from_millis(500 + random::below(8_000)), i32::from(failed))
        });
        let ready_at = now + Duration::from_millis(random::below(3_000));
        self.runs.insert(uid.to_owned(), Run { address, ready_at, ends, stops: None, ended: None });
        self.truth.started(Process {
            uid: uid.to_owned(),
            pod: Key::of(&pod.metadata),
            node: self.name.clone(),
        });
    }

    async fn tell(&self, pod: &Pod, status: Value) -> Result<(), kube::Error> {
        let patch = json!({ "metadata": { "uid": pod.metadata.uid }, "status": status });
        let name = objects::name(&pod.metadata);
        self.api(pod).patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await.map(drop)
    }

    /// Says how a deleted pod ended, and lets the object go.
    async fn finish(&self, pod: &Pod, code: Option<i32>) -> Result<(), kube::Error> {
        if let Some(code) = code {
            self.tell(pod, objects::ended_status(pod, code)).await?;
        }
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(preconditions),
            ..Default::default()
        };
        self.api(pod).delete(objects::name(&pod.metadata), &params).await.map(drop)
    }

    fn api(&self, pod: &Pod) -> Api<Pod> {
        Api::namespaced(self.client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default())
    }
}

/// Renews the lease and says that the node is ready, for ever.
async fn heart(client: Client, name: String) {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let nodes: Api<Node> = Api::all(client);
    let mut told = false;
    loop {
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": name },
            "spec": { "holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": clock::micro_time() },
        });
        let renewed = match leases.patch(&name, &PatchParams::default(), &Patch::Merge(&lease)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                let lease = serde_json::from_value(lease).expect("a lease");
                leases.create(&PostParams::default(), &lease).await.map(drop)
            }
            answer => answer.map(drop),
        };
        let unready = async {
            let node = nodes.get(&name).await?;
            Ok::<_, kube::Error>(!objects::node_is_ready(&node))
        };
        // The node lifecycle controller says Unknown while it hears nothing; the node puts that right.
        if !told || unready.await.unwrap_or(true) {
            let status = Patch::Strategic(objects::node_status());
            told = nodes.patch_status(&name, &PatchParams::default(), &status).await.is_ok();
        }
        let wait = if renewed.is_ok() && told { RENEW } else { Duration::from_secs(1) };
        tokio::time::sleep(wait).await;
    }
}
