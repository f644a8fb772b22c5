//! A deployment under way: updated, rolled back and scaled at random while requests run through its service, and
//! while the whole process is killed.
//!
//! `CORACLE_SOAK_SECONDS` says for how long (300 is what the project is held to); CI takes less.

use std::{
    collections::BTreeSet,
    env,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Cluster, connection::Connection, eventually, get, http_get};

const SECONDS: u64 = 20;
const REPLICAS: u64 = 50;
/// Clients that ask one after another.
const CLIENTS: usize = 4;
const KILLS: u64 = 3;
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/default/deployments/web";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// A small generator of its own, so that a run can be done again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[test]
fn no_request_fails_while_a_deployment_is_changed_and_kills_are_got_over() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let seconds = env::var("CORACLE_SOAK_SECONDS").ok().map_or(SECONDS, |text| text.parse().unwrap());
    let mut cluster = Cluster::start();
    cluster.push(&["web"]);
    let connection = cluster.connection();
    for object in objects() {
        runtime.block_on(connection.apply(&object)).unwrap();
    }
    let wanted = settled(&runtime, &connection);
    assert_eq!(wanted, REPLICAS);
    let port = runtime.block_on(get(&connection, "/api/v1/namespaces/default/services/web")).unwrap();
    let address = format!("{}:{}", cluster.host(), port["spec"]["ports"][0]["nodePort"]);

    // As many changes as there is time for, each at another moment of the one before.
    let load = Load::start(&address);
    let mut dice = Dice(seconds);
    let end = tokio::time::Instant::now() + Duration::from_secs(seconds);
    let mut changes = 0;
    while tokio::time::Instant::now() < end {
        change(&runtime, &connection, &mut dice).unwrap();
        changes += 1;
        let pause = Duration::from_millis(200 + dice.below(1_500));
        runtime.block_on(async { tokio::time::sleep(pause).await });
    }
    settled(&runtime, &connection);
    let (served, failed) = load.stop();
    println!("{served} requests during {changes} changes");
    assert!(
        failed.is_empty(),
        "{} of {served} requests failed: {:?}",
        failed.len(),
        &failed[..failed.len().min(5)]
    );
    assert!(served > 100, "only {served} requests");

    // Requests go on, and fail while nobody is there.
    let load = Load::start(&address);
    for _ in 0..KILLS {
        let connection = cluster.connection();
        for _ in 0..3 {
            change(&runtime, &connection, &mut dice).unwrap();
        }
        let moment = Duration::from_millis(dice.below(700));
        runtime.block_on(async { tokio::time::sleep(moment).await });
        cluster.signal("KILL");
        cluster.up();
    }
    let connection = cluster.connection();
    let wanted = settled(&runtime, &connection);
    let pods = runtime.block_on(get(&connection, PODS)).unwrap();
    let pods = pods["items"].as_array().unwrap();
    let names: BTreeSet<_> = pods.iter().map(|pod| pod["metadata"]["name"].to_string()).collect();
    assert_eq!((pods.len() as u64, names.len() as u64), (wanted, wanted));
    eventually("the service answers again", || http_get(&address, "/counters"));
    let (served, failed) = load.stop();
    println!("{} of {served} requests failed during {KILLS} kills", failed.len());
}

fn objects() -> [Value; 2] {
    let container = json!({
        "name": "web", "image": "registry.local/web:1", "env": [{ "name": "VERSION", "value": "0" }],
        "ports": [{ "containerPort": 8080 }],
        "readinessProbe": { "httpGet": { "path": "/counters", "port": 8080 }, "periodSeconds": 1 },
    });
    let labels = json!({ "app": "web" });
    [
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web", "namespace": "default" },
            "spec": {
                "replicas": REPLICAS, "selector": { "matchLabels": labels }, "revisionHistoryLimit": 3,
                "strategy": { "rollingUpdate": { "maxSurge": "20%", "maxUnavailable": "10%" } },
                "template": { "metadata": { "labels": labels }, "spec": { "containers": [container] } },
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web", "namespace": "default" },
            "spec": { "type": "NodePort", "selector": labels, "ports": [{ "port": 80, "targetPort": 8080 }] },
        }),
    ]
}

/// Updates, rolls back (to a template that was there before) or scales.
fn change(runtime: &tokio::runtime::Runtime, connection: &Connection, dice: &mut Dice) -> Result<(), String> {
    let patch = match dice.below(3) {
        0 => json!({ "spec": { "replicas": REPLICAS - 10 + dice.below(20) } }),
        _ => {
            let version = json!({ "name": "VERSION", "value": dice.below(4).to_string() });
            let container = json!({ "name": "web", "env": [version] });
            json!({ "spec": { "template": { "spec": { "containers": [container] } } } })
        }
    };
    runtime.block_on(async {
        let request = connection.request(Method::PATCH, DEPLOYMENT);
        let request = request.header("content-type", "application/strategic-merge-patch+json");
        let answer = request.body(patch.to_string()).send().await.map_err(|error| error.to_string())?;
        if answer.status().is_success() { Ok(()) } else { Err(answer.text().await.unwrap_or_default()) }
    })
}

/// Waits until the rollout is over and nothing else is left of earlier ones; gives the number of replicas.
fn settled(runtime: &tokio::runtime::Runtime, connection: &Connection) -> u64 {
    eventually("the rollout is over", || {
        let deployment = runtime.block_on(get(connection, DEPLOYMENT))?;
        let pods = runtime.block_on(get(connection, PODS))?;
        let (spec, status) = (&deployment["spec"], &deployment["status"]);
        let wanted = spec["replicas"].as_u64().unwrap();
        let there = pods["items"].as_array().map_or(0, Vec::len) as u64;
        let numbers = ["replicas", "updatedReplicas", "availableReplicas"].map(|name| status[name].as_u64());
        let observed = status["observedGeneration"] == deployment["metadata"]["generation"];
        if observed && numbers == [Some(wanted); 3] && there == wanted {
            return Ok(wanted);
        }
        Err(format!("{there} pods; {status}"))
    })
}

/// Clients that ask all the time.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    failed: Arc<Mutex<Vec<String>>>,
    clients: Vec<thread::JoinHandle<()>>,
}

impl Load {
    fn start(address: &str) -> Load {
        let (stop, served): (Arc<AtomicBool>, Arc<AtomicU64>) = Default::default();
        let failed: Arc<Mutex<Vec<String>>> = Arc::default();
        let client = |_| {
            let (stop, served, failed) = (stop.clone(), served.clone(), failed.clone());
            let address = address.to_owned();
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let problem = match http_get(&address, "/counters") {
                        Ok((head, _)) if head.contains(" 200 ") => None,
                        Ok((head, _)) => Some(head),
                        Err(error) => Some(error),
                    };
                    served.fetch_add(1, Ordering::Relaxed);
                    failed.lock().unwrap().extend(problem);
                }
            })
        };
        let clients = (0..CLIENTS).map(client).collect();
        Load { stop, served, failed, clients }
    }

    /// How many were asked, and what went wrong.
    fn stop(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().for_each(|client| client.join().unwrap());
        let failed = std::mem::take(&mut *self.failed.lock().unwrap());
        (self.served.load(Ordering::Relaxed), failed)
    }
}
