//! One seed: what the user does, what goes wrong meanwhile, and how it must end.

use std::time::Duration;

use coracle_client::{clock, random};
use coracle_store::Store;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client,
    api::{DynamicObject, EvictParams, ListParams, Patch, PatchParams, PostParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    cluster::Cluster,
    converged,
    garbage::{self, Families},
    objects::{self, NAMESPACE},
    observer::{Observer, Promises},
};

/// How long the cluster may take to get over the faults: back-offs, lost nodes' grace and tolerations, and the
/// rollouts that waited for them.
const PATIENCE: Duration = Duration::from_mins(60);
/// How long nothing may change once all is as it should be.
const QUIET: Duration = Duration::from_mins(3);
/// The pods of the budget that must stay.
const GUARDED: usize = 2;

/// A workload of the run.
struct Workload {
    kind: &'static str,
    app: &'static str,
}

pub(crate) async fn run(seed: u64) {
    // Every third run has no trouble with nodes, and stricter promises.
    let calm = seed.is_multiple_of(3);
    let promises = Promises { availability: calm, guarded: GUARDED };
    let mut cluster = Cluster::start(3).await;
    let mut observer = Observer::new(&cluster.store, promises, cluster.truth.clone());
    namespace(&cluster.user).await;

    let workloads = begin(&cluster.user, calm).await;
    cluster.set_rarity(4 + random::below(30));
    let mut families = Families::default();
    for _ in 0..30 + random::below(20) {
        match random::below(15) {
            0..=3 => user_acts(&cluster.user, &workloads).await,
            4 if calm => evict(&cluster.user, Some("guarded")).await,
            4 => evict(&cluster.user, None).await,
            5 => trouble(&mut cluster),
            6 if !calm => node_trouble(&mut cluster),
            13 => clock_jumps(),
            14 => cluster.load.set(random::below(400)),
            10 | 11 => families.found(&cluster.user).await,
            12 => {
                families.leave(&cluster.user).await;
                if random::below(2) == 0 {
                    // Soon enough that the collector has just begun.
                    tokio::time::sleep(Duration::from_millis(random::below(100))).await;
                    cluster.kill_controllers();
                    cluster.start_controllers();
                }
            }
            _ => {}
        }
        let until = Instant::now() + Duration::from_millis(random::below(8_000));
        while Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(500)).await;
            observer.look();
        }
        if random::below(12) == 0 {
            // The wait above may have been none at all.
            observer.look();
            cluster.compact();
        }
    }
    cluster.heal();
    settle(&cluster, &mut observer).await;
    quiet(&cluster, &mut observer, seed).await;
}

async fn begin(user: &Client, calm: bool) -> Vec<Workload> {
    let mut workloads = Vec::new();
    let mut add = async |kind: &'static str, app: &'static str, object: Value| {
        create(user, object).await;
        workloads.push(Workload { kind, app });
    };
    let number = |most: u64| i32::try_from(random::below(most)).unwrap();
    if random::below(3) > 0 {
        let surge = number(3);
        let unavailable = if surge == 0 { 1 } else { number(2) };
        add("Deployment", "web", objects::deployment("web", 2 + number(6), surge, unavailable)).await;
        create(user, objects::service("web")).await;
        if random::below(2) == 0 {
            create(user, objects::autoscaler("web")).await;
        }
    }
    if random::below(2) == 0 {
        let (parallel, claims) = (random::below(2) == 0, random::below(2) == 0);
        add("StatefulSet", "db", objects::stateful_set("db", 1 + number(4), parallel, claims)).await;
    }
    if random::below(2) == 0 {
        let (completions, indexed) = (3 + number(8), random::below(2) == 0);
        add("Job", "work", objects::job("work", completions, 1 + number(4), indexed)).await;
    }
    if random::below(3) == 0 {
        add("DaemonSet", "agent", objects::daemon_set("agent")).await;
    }
    if random::below(3) == 0 {
        let policy = ["Allow", "Forbid", "Replace"][usize::try_from(random::below(3)).unwrap()];
        add("CronJob", "tick", objects::cron_job("tick", policy)).await;
    }
    if calm || workloads.is_empty() {
        create(user, objects::replica_set("guarded", 4)).await;
        create(user, objects::budget("guarded", i32::try_from(GUARDED).unwrap())).await;
    }
    workloads
}

/// The user changes a mind.
async fn user_acts(user: &Client, workloads: &[Workload]) {
    if workloads.is_empty() {
        return;
    }
    let workload = &workloads[usize::try_from(random::below(workloads.len() as u64)).unwrap()];
    let replicas = json!({ "spec": { "replicas": random::below(8) } });
    let image = format!("v{}", 1 + random::below(3));
    let update =
        json!({ "spec": { "template": { "spec": { "containers": [{ "name": "main", "image": image }] } } } });
    let patch = match (workload.kind, random::below(5)) {
        ("Deployment" | "StatefulSet", 0 | 1) => replicas,
        ("Deployment", 2) => json!({ "spec": { "paused": random::below(2) == 0 } }),
        ("Job", 0) => json!({ "spec": { "suspend": random::below(2) == 0 } }),
        ("Job", 1) => json!({ "spec": { "parallelism": 1 + random::below(4) } }),
        ("CronJob", 0 | 1) => json!({ "spec": { "suspend": random::below(2) == 0 } }),
        ("Job" | "CronJob", _) => return,
        _ => update,
    };
    let api = api(user, workload.kind);
    api.patch(workload.app, &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
}

/// Asks a pod to leave; the budget may refuse.
async fn evict(user: &Client, app: Option<&str>) {
    let pods: Api<Pod> = Api::namespaced(user.clone(), NAMESPACE);
    let params =
        app.map_or_else(ListParams::default, |app| ListParams::default().labels(&format!("app={app}")));
    let list = pods.list(&params).await.unwrap().items;
    if list.is_empty() {
        return;
    }
    let pod = &list[usize::try_from(random::below(list.len() as u64)).unwrap()];
    let _ = pods.evict(objects::name(&pod.metadata), &EvictParams::default()).await;
}

/// The wall time of all machines is set: up to a quarter of an hour to either side of what it was at first.
/// It stays so, also when the other faults end.
fn clock_jumps() {
    const FARTHEST: i64 = 15 * 60;
    let seconds = i64::try_from(random::below(2 * FARTHEST.unsigned_abs() + 1)).unwrap() - FARTHEST;
    clock::shift(k8s_openapi::jiff::SignedDuration::from_secs(seconds));
}

/// Something happens to the control plane.
fn trouble(cluster: &mut Cluster) {
    match random::below(5) {
        0 => cluster.kill_controllers(),
        1 => cluster.kill_scheduler(),
        2 => {
            cluster.kill_controllers();
            cluster.start_controllers();
        }
        3 => {
            cluster.kill_scheduler();
            cluster.start_scheduler();
        }
        _ => cluster.cut_watches(),
    }
}

fn node_trouble(cluster: &mut Cluster) {
    let name = format!("node-{}", random::below(cluster.nodes.len() as u64));
    let alive = cluster.nodes[&name].is_alive();
    match random::below(4) {
        0 if alive => cluster.kill_node(&name),
        1 if alive => cluster.nodes[&name].way().set_cut_off(true),
        _ if alive => cluster.nodes[&name].way().set_cut_off(false),
        _ => cluster.add_node(&name),
    }
}

/// Waits until the cluster is as its objects ask for.
async fn settle(cluster: &Cluster, observer: &mut Observer) {
    // A pause is the user's wish, not a fault; here it ends.
    for kind in ["Deployment", "Job"] {
        let field = if kind == "Job" { "suspend" } else { "paused" };
        for object in api(&cluster.user, kind).list(&ListParams::default()).await.unwrap() {
            let over = kind == "Job" && converged::job_is_over(&object.data);
            if !over && object.data["spec"][field] == true {
                let patch = Patch::Merge(json!({ "spec": { field: false } }));
                let name = objects::name(&object.metadata);
                api(&cluster.user, kind).patch(name, &PatchParams::default(), &patch).await.unwrap();
            }
        }
    }
    // Otherwise it would never be quiet.
    for cron in api(&cluster.user, "CronJob").list(&ListParams::default()).await.unwrap() {
        let patch = Patch::Merge(json!({ "spec": { "suspend": true } }));
        let name = objects::name(&cron.metadata);
        api(&cluster.user, "CronJob").patch(name, &PatchParams::default(), &patch).await.unwrap();
    }
    garbage::let_go(&cluster.user).await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        observer.look();
        let open = converged::open(cluster).await;
        if open.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "not settled after {PATIENCE:?}: {open:#?}");
    }
}

/// Once all is well nobody writes, but for leases and events.
async fn quiet(cluster: &Cluster, observer: &mut Observer, seed: u64) {
    // Garbage, back-offs and the last statuses are allowed some time.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let from = cluster.store.revision();
        let kinds = [
            "pods",
            "replicasets.apps",
            "deployments.apps",
            "statefulsets.apps",
            "daemonsets.apps",
            "jobs.batch",
            "cronjobs.batch",
            "horizontalpodautoscalers.autoscaling",
            "endpointslices.discovery.k8s.io",
            "endpoints",
            "persistentvolumeclaims",
            "persistentvolumes",
            "poddisruptionbudgets.policy",
            "controllerrevisions.apps",
            "nodes",
            "configmaps",
            "secrets",
        ];
        let mut watchers = kinds.map(|kind| cluster.store.watch(kind, from).unwrap());
        let end = Instant::now() + QUIET;
        while Instant::now() < end {
            tokio::time::sleep(Duration::from_secs(10)).await;
            observer.look();
        }
        let writes: Vec<String> = watchers
            .iter_mut()
            .flat_map(|watcher| std::iter::from_fn(move || watcher.try_next().unwrap()))
            .map(|event| format!("{:?} {}", event.kind, event.entry.key()))
            .collect();
        if writes.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "seed {seed} is never quiet: {writes:#?}");
    }
    let open = converged::open(cluster).await;
    assert!(open.is_empty(), "it did not stay settled: {open:#?}");
}

/// Makes the namespace of the simulation.
pub(crate) async fn namespace(user: &Client) {
    let namespace: Namespace = objects::from(json!({ "metadata": { "name": NAMESPACE } }));
    let namespaces: Api<Namespace> = Api::all(user.clone());
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
}

pub(crate) async fn create(user: &Client, object: Value) {
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    let types = object.types.clone().unwrap();
    api(user, &types.kind).create(&PostParams::default(), &object).await.unwrap();
}

/// The API of a kind in the namespace of the simulation.
pub(crate) fn api(user: &Client, kind: &str) -> Api<DynamicObject> {
    let (group, plural) = match kind {
        "Deployment" => ("apps", "deployments"),
        "ReplicaSet" => ("apps", "replicasets"),
        "StatefulSet" => ("apps", "statefulsets"),
        "DaemonSet" => ("apps", "daemonsets"),
        "Job" => ("batch", "jobs"),
        "CronJob" => ("batch", "cronjobs"),
        "HorizontalPodAutoscaler" => ("autoscaling", "horizontalpodautoscalers"),
        "PodDisruptionBudget" => ("policy", "poddisruptionbudgets"),
        "PersistentVolumeClaim" => ("", "persistentvolumeclaims"),
        "Service" => ("", "services"),
        "Pod" => ("", "pods"),
        "ConfigMap" => ("", "configmaps"),
        "Secret" => ("", "secrets"),
        other => panic!("no {other} in the simulation"),
    };
    let kind = GroupVersionKind::gvk(group, "v1", kind);
    Api::namespaced_with(user.clone(), NAMESPACE, &ApiResource::from_gvk_with_plural(&kind, plural))
}
