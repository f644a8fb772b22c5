//! What pods and the node use: measured now and then, told as the kubelet's `/stats/summary` and to Prometheus.
//!
//! A container's rate of CPU is what it used since it was measured last, a few seconds ago; the measuring itself
//! reads a handful of counters per container.

mod known;
mod prometheus;
mod summary;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, time::Duration};

use coracle_runtime::HttpUsage;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{context::Context, host};

/// How often everything is measured. The kubelet's is 10 s; ours costs less, and autoscalers see more with it.
const PERIOD: Duration = Duration::from_secs(5);
/// A rate over less than this says more about the moment than about the container.
const SHORTEST: Duration = Duration::from_secs(1);

/// A counter with the rate at which it grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Meter {
    count: u64,
    at: Instant,
    /// Per second; `None` until it was measured twice.
    rate: Option<u64>,
}

impl Meter {
    fn first(count: u64, at: Instant) -> Meter {
        Meter { count, at, rate: None }
    }

    /// What was known of it, with a newer reading.
    fn of(known: Option<Meter>, count: u64, at: Instant) -> Meter {
        known.map_or(Meter::first(count, at), |meter| meter.next(count, at))
    }

    /// The meter with a newer reading. A counter that has gone back is that of another run.
    fn next(self, count: u64, at: Instant) -> Meter {
        let passed = at.saturating_duration_since(self.at);
        if count < self.count {
            return Meter::first(count, at);
        }
        if passed < SHORTEST {
            return self;
        }
        let rate = u128::from(count - self.count) * 1_000_000_000 / passed.as_nanos().max(1);
        Meter { count, at, rate: Some(u64::try_from(rate).unwrap_or(u64::MAX)) }
    }
}

/// What is remembered between measurements.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    node: Option<Meter>,
    /// By the pod's uid and the container's name.
    containers: HashMap<(Box<str>, Box<str>), Meters>,
}

/// What is remembered of a container.
#[derive(Clone, Copy, Debug)]
struct Meters {
    /// Nanoseconds of CPU time.
    cpu: Meter,
    /// Thousandths of HTTP requests.
    requests: Option<Meter>,
}

/// CPU time as it is counted.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What a container uses.
#[derive(Clone, Debug, Default)]
pub(crate) struct ContainerUsage {
    pub(crate) name: Box<str>,
    pub(crate) cpu: Duration,
    /// Billionths of a core.
    pub(crate) cpu_rate: Option<u64>,
    /// Bytes of linear memory, those of instances started beside it included, what it wrote into its root, and its part
    /// of what the pod holds as a whole.
    pub(crate) memory: u64,
    pub(crate) memory_limit: Option<u64>,
    /// Bytes that it wrote outside of its volumes.
    pub(crate) root_bytes: u64,
    /// Bytes of its logs on disk.
    pub(crate) log_bytes: u64,
    pub(crate) connections: u64,
    /// Places of the node that it takes, with what was started beside it.
    pub(crate) places: u64,
    /// What it answered, if it is a `wasi:http` handler.
    pub(crate) http: Option<HttpUsage>,
    /// HTTP requests in a thousand seconds.
    pub(crate) http_rate: Option<u64>,
}

/// What a pod uses.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodUsage {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: Box<str>,
    pub(crate) containers: Vec<ContainerUsage>,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// What counts as its ephemeral storage: volumes of its own on disk, roots, logs.
    pub(crate) storage: u64,
    /// Names in its volumes on disk.
    pub(crate) entries: u64,
    /// Bytes of all that counts as its memory: its containers', its volumes in memory, what waits in its streams.
    pub(crate) held: u64,
    /// What its volumes hold.
    pub(crate) volumes: Vec<(Box<str>, coracle_vfs::Usage)>,
}

impl PodUsage {
    pub(crate) fn memory(&self) -> u64 {
        self.of_containers().max(self.held)
    }

    /// Places of the node that it takes.
    pub(crate) fn places(&self) -> u64 {
        self.containers.iter().map(|container| container.places).sum()
    }

    fn of_containers(&self) -> u64 {
        self.containers.iter().map(|container| container.memory).sum()
    }

    /// Divides what is held beside the containers' own memory among those that run. Equally: volumes and streams are
    /// the pod's, and who filled them is not known.
    fn share_out(&mut self) {
        let rest = self.held.saturating_sub(self.of_containers());
        let count = self.containers.len() as u64;
        for (number, container) in (0..).zip(&mut self.containers) {
            container.memory += rest / count + u64::from(number < rest % count);
        }
    }
}

/// What the machine uses.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NodeUsage {
    pub(crate) cpu: Duration,
    pub(crate) cpu_rate: Option<u64>,
    pub(crate) memory: host::MemoryUse,
    pub(crate) disk: host::DiskUse,
}

/// A measurement of everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) node: NodeUsage,
    /// In the order of their names.
    pub(crate) pods: Vec<PodUsage>,
}

impl Stats {
    /// Measures everything that runs now.
    pub(crate) fn measure(&self, context: &Context) -> Usage {
        let now = Instant::now();
        let mut seen = self.seen.lock();
        let mut meters = HashMap::with_capacity(seen.containers.len());
        let mut pods = Vec::new();
        for handle in context.table.all() {
            let mut pod = PodUsage {
                namespace: handle.key().namespace.clone(),
                name: handle.key().name.clone(),
                uid: handle.uid().into(),
                storage: handle.share.usage().bytes + handle.log_bytes(),
                entries: handle.share.usage().entries,
                held: handle.budget.used(),
                ..PodUsage::default()
            };
            for (name, running, beside) in handle.guests.all() {
                let own = running.container.usage();
                let all = beside.iter().map(coracle_runtime::Container::usage).chain([own]);
                let (memory, connections, places) = all.fold((0, 0, 0), |sum, one| {
                    (sum.0 + one.memory, sum.1 + one.connections, sum.2 + one.places)
                });
                let key = (Box::from(handle.uid()), name.clone());
                let known = seen.containers.get(&key).copied();
                let cpu = Meter::of(known.map(|known| known.cpu), nanos(own.cpu), now);
                let known = known.and_then(|known| known.requests);
                let requests =
                    own.http.map(|http| Meter::of(known, http.requests.saturating_mul(1_000), now));
                meters.insert(key, Meters { cpu, requests });
                let network = running.stack.usage();
                (pod.sent, pod.received) = (network.sent, network.received);
                if pod.volumes.is_empty() {
                    pod.volumes = running.volumes.usage();
                }
                let root_bytes = running.mounts.root_usage().bytes;
                pod.storage += root_bytes;
                pod.containers.push(ContainerUsage {
                    name,
                    cpu: own.cpu,
                    cpu_rate: cpu.rate,
                    memory: memory + root_bytes,
                    memory_limit: running.memory_limit(),
                    root_bytes,
                    log_bytes: running.log.bytes(),
                    connections,
                    places,
                    http: own.http,
                    http_rate: requests.and_then(|requests| requests.rate),
                });
            }
            pod.share_out();
            pods.push(pod);
        }
        seen.containers = meters;
        let cpu = host::cpu_time();
        let meter = Meter::of(seen.node, nanos(cpu), now);
        seen.node = Some(meter);
        drop(seen);
        pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        let (memory, disk) = (host::memory_use(), host::disk_use(&context.pods_dir));
        Usage { node: NodeUsage { cpu, cpu_rate: meter.rate, memory, disk }, pods }
    }

    /// Measures again and again, so that rates are known when somebody asks.
    pub(crate) async fn run(&self, context: &Context) {
        loop {
            self.measure(context);
            tokio::time::sleep(PERIOD).await;
        }
    }
}

pub(crate) use known::known;
pub(crate) use prometheus::{cadvisor, denials, kubelet, resource, volumes};
pub(crate) use summary::summary;
