//! The control loops: each brings one part of the cluster from what is to what was asked for.
//!
//! A controller is a client of the API like any other. It observes informers, plans by a pure function
//! (`plan(&Observed, now) -> Plan`) and applies the plan; it may be stopped anywhere and started again,
//! because the next look at the world tells it what is left to do. It never touches the store, and it
//! never blocks another controller.
//!
//! Read first: [`start`] and [`Config`], then `CONTROLLERS` in this file, and `replicaset` as
//! the pattern that the others follow.

mod claim;
mod context;
mod cronjob;
mod daemonset;
mod deployment;
mod discovery;
mod disruption;
mod disruption_target;
mod endpoints;
mod endpointslice;
mod endpointslice_mirroring;
mod ephemeral_volume;
mod expectations;
mod gc;
mod hash;
mod hpa;
mod intstr;
mod job;
mod load_balancer;
mod namespace;
mod namespaces;
mod node_ipam;
mod node_lifecycle;
mod node_ttl;
mod nodes;
mod pace;
mod placement;
mod pod_gc;
mod podcontrol;
mod pods;
mod replicaset;
mod resource_quota;
mod revisions;
mod root_ca;
mod scale;
mod serviceaccount;
mod services;
mod slow_start;
mod statefulset;
mod taint_eviction;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod ttl_after_finished;
mod volume_binder;
mod volume_protection;
mod wake;

use std::time::Duration;

use coracle_client::{Election, Informers, LeaderElection};
use futures::future::BoxFuture;
use ipnet::{Ipv4Net, Ipv6Net};
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::ReplicationController};
use kube::Client;
use tokio::task::JoinSet;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, info_span, warn};

use context::Context;

/// How long the controllers may take to end: time for what is under way, not for what is queued.
const SHUTDOWN: Duration = Duration::from_secs(3);

/// What the controllers need to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// All pods' addresses; every node gets a part of it.
    pub cluster_cidr: Ipv4Net,
    /// The prefix length of a node's part, longer than the one of `cluster_cidr`.
    pub node_mask: u8,
    /// The same for IPv6, where every node gets a /64; without it pods have IPv4 only.
    pub cluster_cidr_v6: Option<Ipv6Net>,
    /// The certificate of the cluster's CA in PEM, published in every namespace.
    pub ca_pem: String,
    /// A node that did not renew its Lease for so long is no longer trusted to be alive. Kubernetes
    /// waits 40 s.
    pub node_grace: Duration,
    /// With a lease the controllers run only while this process holds it; without one always.
    pub lease: Option<Election>,
}

impl Config {
    /// The usual settings: a /18 per node, a unique local IPv6 range of the cluster's own, 40 s of grace.
    pub fn new(cluster_cidr: Ipv4Net, ca_pem: String) -> Self {
        Config {
            cluster_cidr,
            node_mask: 18,
            cluster_cidr_v6: Some(coracle_api::addresses::cluster_v6(&ca_pem)),
            ca_pem,
            node_grace: Duration::from_secs(40),
            lease: None,
        }
    }
}

/// A control loop: its name and what runs it until the context's shutdown.
#[derive(Clone, Copy)]
struct Controller {
    name: &'static str,
    run: fn(Context) -> BoxFuture<'static, ()>,
}

/// Every controller, in the order in which they are started.
const CONTROLLERS: &[Controller] = &[
    Controller { name: node_ipam::NAME, run: node_ipam::run },
    Controller { name: serviceaccount::NAME, run: serviceaccount::run },
    Controller { name: root_ca::NAME, run: root_ca::run },
    Controller { name: replicaset::CONTROLLERS, run: replicaset::run::<ReplicationController> },
    Controller { name: replicaset::SETS, run: replicaset::run::<ReplicaSet> },
    Controller { name: job::NAME, run: job::run },
    Controller { name: deployment::NAME, run: deployment::run },
    Controller { name: cronjob::NAME, run: cronjob::run },
    Controller { name: disruption::NAME, run: disruption::run },
    Controller { name: hpa::NAME, run: hpa::run },
    Controller { name: ttl_after_finished::NAME, run: ttl_after_finished::run },
    Controller { name: statefulset::NAME, run: statefulset::run },
    Controller { name: daemonset::NAME, run: daemonset::run },
    Controller { name: endpoints::NAME, run: endpoints::run },
    Controller { name: endpointslice::NAME, run: endpointslice::run },
    Controller { name: endpointslice_mirroring::NAME, run: endpointslice_mirroring::run },
    Controller { name: load_balancer::NAME, run: load_balancer::run },
    Controller { name: node_lifecycle::NAME, run: node_lifecycle::run },
    Controller { name: node_ttl::NAME, run: node_ttl::run },
    Controller { name: taint_eviction::NAME, run: taint_eviction::run },
    Controller { name: pod_gc::NAME, run: pod_gc::run },
    Controller { name: resource_quota::NAME, run: resource_quota::run },
    Controller { name: ephemeral_volume::NAME, run: ephemeral_volume::run },
    Controller { name: volume_binder::NAME, run: volume_binder::run },
    Controller { name: volume_protection::NAME, run: volume_protection::run },
    Controller { name: namespace::NAME, run: namespace::run },
    Controller { name: gc::NAME, run: gc::run },
];

/// The running controllers. They are stopped by [`Handle::shutdown`], or when the handle is dropped.
#[derive(Debug)]
pub struct Handle {
    stop: CancellationToken,
    tasks: TaskTracker,
    recorders: context::Recorders,
}

/// Starts all controllers. Must be called inside a tokio runtime.
pub fn start(client: Client, informers: &Informers, config: Config) -> Handle {
    start_some(CONTROLLERS, client, informers, config)
}

fn start_some(controllers: &[Controller], client: Client, informers: &Informers, config: Config) -> Handle {
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let context = Context::new(client, informers.clone(), config, stop.clone());
    match context.config.lease.clone() {
        None => {
            for controller in controllers {
                tasks.spawn(controller.start(context.clone()));
            }
        }
        Some(election) => {
            let election = LeaderElection::new(context.client.clone(), election);
            let (all, context) = (controllers.to_vec(), context.clone());
            let work = move |stop| run_all(all.clone(), Context { stop, ..context.clone() });
            tasks.spawn(election.lead(stop.clone(), work).instrument(info_span!("election")));
        }
    }
    tasks.close();
    Handle { stop, tasks, recorders: context.recorders }
}

/// Runs controllers until the context's shutdown; dropping the future ends them at once.
async fn run_all(controllers: Vec<Controller>, context: Context) {
    let mut running = JoinSet::new();
    for controller in controllers {
        running.spawn(controller.start(context.clone()));
    }
    while running.join_next().await.is_some() {}
}

impl Controller {
    fn start(&self, context: Context) -> impl Future<Output = ()> + Send + use<> {
        (self.run)(context).instrument(info_span!("controller", name = self.name))
    }
}

impl Handle {
    /// Ends the controllers: no new work, what is under way is finished, then the last events are
    /// written. Takes a few seconds at most; what is late is left behind and ends with the runtime.
    pub async fn shutdown(self) {
        self.stop.cancel();
        if tokio::time::timeout(SHUTDOWN, self.tasks.wait()).await.is_err() {
            warn!(left = self.tasks.len(), "controllers are late to end");
        }
        if tokio::time::timeout(SHUTDOWN, self.recorders.shutdown()).await.is_err() {
            warn!("some events could not be written before the end");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
