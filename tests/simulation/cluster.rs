//! A whole cluster in one task set: server, controllers, scheduler, nodes; each part can be killed and comes
//! back with empty caches.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use axum::Router;
use coracle_apiserver::{ApiServer, User};
use coracle_client::{Informers, clock, random};
use coracle_store::{Embedded, Store};
use ipnet::Ipv4Net;
use kube::Client;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{chaos::Chaos, metrics::Load, node::SimNode, observer::Truth};

const SERVICES: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16);
const PODS: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 128, 0, 0), 9);

/// A part that runs with informers of its own.
struct Running<T> {
    _handle: T,
    _informers: DropGuard,
}

pub(crate) struct Cluster {
    pub(crate) store: Arc<Embedded>,
    server: ApiServer,
    /// The server's certificates; dropped after it.
    _dir: tempfile::TempDir,
    /// Never fails.
    pub(crate) user: Client,
    controllers: Option<Running<coracle_controllers::Handle>>,
    controllers_way: Chaos,
    scheduler: Option<Running<coracle_scheduler::Handle>>,
    scheduler_way: Chaos,
    pub(crate) nodes: BTreeMap<String, SimNode>,
    pub(crate) truth: Truth,
    pub(crate) load: Load,
}

impl Cluster {
    pub(crate) async fn start(nodes: usize) -> Cluster {
        let store = Embedded::memory();
        let (truth, load) = (Truth::default(), Load::default());
        let dir = tempfile::tempdir().unwrap();
        let config = coracle_apiserver::Config {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            pki_dir: dir.path().join("pki"),
            service_cidr: SERVICES,
            node_ports: 30_000..=32_767,
            extra_routes: load.routes(truth.clone()),
            now: clock::now,
        };
        let server = ApiServer::build(config, store.clone()).await.unwrap();
        let admin = server.service_as(User::new("admin", &["system:masters"]));
        let mut cluster = Cluster {
            store,
            server,
            _dir: dir,
            user: coracle_client::in_process(admin),
            controllers: None,
            controllers_way: Chaos::new(),
            scheduler: None,
            scheduler_way: Chaos::new(),
            nodes: BTreeMap::new(),
            truth,
            load,
        };
        cluster.start_controllers();
        cluster.start_scheduler();
        for number in 0..nodes {
            cluster.add_node(&format!("node-{number}"));
        }
        cluster
    }

    fn door(&self, user: &str) -> Router {
        self.server.service_as(User::new(user, &["system:masters"]))
    }

    pub(crate) fn start_controllers(&mut self) {
        let client = self.controllers_way.client(self.door("system:kube-controller-manager"));
        let stop = CancellationToken::new();
        let informers = Informers::new(client.clone(), stop.clone());
        let config = coracle_controllers::Config::new(PODS, self.server.admin().ca_pem.clone());
        let handle = coracle_controllers::start(client, &informers, config);
        self.controllers = Some(Running { _handle: handle, _informers: stop.drop_guard() });
    }

    pub(crate) fn start_scheduler(&mut self) {
        let client = self.scheduler_way.client(self.door("system:kube-scheduler"));
        let stop = CancellationToken::new();
        let informers = Informers::new(client.clone(), stop.clone());
        let config = coracle_scheduler::Config { seed: Some(random::number()), ..Default::default() };
        let handle = coracle_scheduler::start(client, &informers, config);
        self.scheduler = Some(Running { _handle: handle, _informers: stop.drop_guard() });
    }

    /// What was under way does not arrive any more, as when a process dies.
    pub(crate) fn kill_controllers(&mut self) {
        self.controllers = None;
        self.controllers_way = self.controllers_way.replace();
    }

    pub(crate) fn kill_scheduler(&mut self) {
        self.scheduler = None;
        self.scheduler_way = self.scheduler_way.replace();
    }

    /// Starts a node for the first time, or again after [`Cluster::kill_node`].
    pub(crate) fn add_node(&mut self, name: &str) {
        let number = self.nodes.len();
        let door = self.door(&format!("system:node:{name}"));
        let truth = self.truth.clone();
        let node = self.nodes.entry(name.to_owned()).or_insert_with(|| SimNode::new(name, number, truth));
        node.start(door);
    }

    pub(crate) fn kill_node(&mut self, name: &str) {
        self.nodes.get_mut(name).unwrap().kill();
    }

    /// All ways get faults from now on; 0: none.
    pub(crate) fn set_rarity(&self, rarity: u64) {
        self.ways().for_each(|way| way.set_rarity(rarity));
    }

    pub(crate) fn cut_watches(&self) {
        self.ways().for_each(Chaos::cut_watches);
    }

    fn ways(&self) -> impl Iterator<Item = &Chaos> {
        [&self.controllers_way, &self.scheduler_way].into_iter().chain(self.nodes.values().map(SimNode::way))
    }

    /// Forgets the store's history, so that watches from older versions end with 410.
    pub(crate) fn compact(&self) {
        self.store.compact(self.store.revision());
    }

    /// Everything is alive again and nothing fails any more.
    pub(crate) fn heal(&mut self) {
        self.set_rarity(0);
        if self.controllers.is_none() {
            self.start_controllers();
        }
        if self.scheduler.is_none() {
            self.start_scheduler();
        }
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        for name in names {
            self.nodes[&name].way().set_cut_off(false);
            if !self.nodes[&name].is_alive() {
                self.add_node(&name);
            }
        }
    }
}
