//! Who may connect to whom: the one place where NetworkPolicies, the node's egress default and
//! `coracle.dev/egress-hosts` are asked.
//!
//! A connection is judged once, when it is made, by its last stop: after the address of a service has become
//! that of a backend. First by the policies about the pod that dials (egress), then by those about the pod that
//! is dialled (ingress). Connections that are open stay open, whatever changes; so do the answers to a datagram
//! that was let through, for [`ANSWER_TIME`]. What is refused fails at once with "access denied": Kubernetes
//! leaves open how, and whoever waits for a time-out learns nothing from it.
//!
//! ```text
//!  to a pod       itself, or from the node ── yes
//!                 egress of the dialler, then ingress of the dialled ── what their policies say
//!  to the outside no policy rule for it ── no        a rule names its block ── yes
//!                 otherwise: listed in egress-hosts, if the pod has a list; else the node's default
//! ```
//!
//! Which policies are about a pod is worked out when they or its labels have changed, and so is the verdict on
//! each of its recent partners: a connection usually costs one look into a table, and where there is no policy
//! one look at a counter.

mod denials;
mod hosts;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

pub(crate) use denials::{Counts, Denials, Told};
pub use denials::{Denial, DenyReason};
pub(crate) use hosts::{Bindings, Hosts};
use rules::{Direction, Door, Labels, Other, Policy, Reach, Verdict};

use crate::limits::{ANSWER_TIME, FLOWS_PER_POD, VERDICTS_PER_POD};
use crate::policy::canonical;
use crate::services::{Name, name_of};
use crate::stack::{Protocol, Stack};
use crate::{Egress, Fabric, NamedPort, NetworkError, PodConfig};

/// The label that every namespace has, with its name.
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Who dials.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// The node itself: probes, port-forward, the API server's proxy. It always reaches its pods.
    Node,
    /// A guest.
    Pod(Arc<Stack>),
    /// Somebody outside, through a port of the host.
    Visitor(IpAddr),
}

impl Origin {
    /// A client of one of the host's ports. One that comes from the host itself is the node.
    pub(crate) fn visitor(address: IpAddr) -> Origin {
        let address = canonical(address);
        if address.is_loopback() { Origin::Node } else { Origin::Visitor(address) }
    }

    pub(crate) fn pod(&self) -> Option<&Arc<Stack>> {
        match self {
            Origin::Pod(stack) => Some(stack),
            Origin::Node | Origin::Visitor(_) => None,
        }
    }
}

/// What rules go by, of one pod at one time. A change makes a new one with another number.
#[derive(Debug)]
pub(crate) struct Identity {
    number: u64,
    namespace: String,
    labels: Labels,
    ports: Box<[NamedPort]>,
    hosts: Option<Hosts>,
}

impl Identity {
    fn new(namespace: String, labels: Labels, ports: Box<[NamedPort]>, hosts: Option<Hosts>) -> Identity {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        Identity { number: NUMBER.fetch_add(1, Relaxed), namespace, labels, ports, hosts }
    }
}

/// What is kept for each pod: who it is, what was decided about it, what it was refused.
#[derive(Debug)]
pub(crate) struct Gate {
    identity: RwLock<Arc<Identity>>,
    /// Made with the first policy that the pod could fall under.
    cache: Mutex<Option<Box<Cache>>>,
    flows: Mutex<Flows>,
    bindings: Mutex<Option<Box<Bindings>>>,
    pub(crate) counts: Counts,
    told: Told,
}

/// The policies about one pod, and what they said of its partners.
#[derive(Debug, Default)]
struct Cache {
    /// For which identity and which policies the choice below was made.
    chosen_for: (u64, u64),
    policies: Vec<Arc<Policy>>,
    reach: Option<Reach>,
    /// For which state of policies and namespaces the verdicts hold.
    judged_at: u64,
    verdicts: HashMap<Asked, Verdict>,
}

/// One question about a pod's policies.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Asked {
    direction: Direction,
    /// The other side's identity, 0 if it is no pod.
    other: u64,
    address: IpAddr,
    protocol: Protocol,
    port: u16,
}

/// Datagrams that came to a pod and may be answered: its port, who sent them, and when the last one came or was
/// answered.
#[derive(Debug, Default)]
struct Flows(HashMap<(u16, SocketAddr), Instant>);

impl Flows {
    fn note(&mut self, port: u16, from: SocketAddr, now: Instant) {
        if self.0.len() >= FLOWS_PER_POD && !self.0.contains_key(&(port, from)) {
            self.0.retain(|_, at| now.duration_since(*at) < ANSWER_TIME);
            if self.0.len() >= FLOWS_PER_POD {
                // All are recent. Their answers are judged like any datagram from now on.
                self.0.clear();
            }
        }
        self.0.insert((port, from), now);
    }

    /// Whether a datagram from this port to `to` answers one that came. If so, it may be answered for longer, too:
    /// whoever is asked once and goes on telling is not cut off.
    fn answer(&mut self, port: u16, to: SocketAddr, now: Instant) -> bool {
        let Some(at) = self.0.get_mut(&(port, to)) else { return false };
        let is_recent = now.duration_since(*at) < ANSWER_TIME;
        if is_recent {
            *at = now;
        }
        is_recent
    }
}

impl Gate {
    pub(crate) fn new(pod: &mut PodConfig) -> Gate {
        let identity = Identity::new(
            pod.namespace.clone(),
            std::mem::take(&mut pod.labels),
            std::mem::take(&mut pod.ports).into(),
            pod.egress_hosts.as_deref().map(Hosts::parse),
        );
        Gate {
            identity: RwLock::new(Arc::new(identity)),
            cache: Mutex::default(),
            flows: Mutex::default(),
            bindings: Mutex::default(),
            counts: Counts::default(),
            told: Told::default(),
        }
    }

    fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.identity.read())
    }

    /// The pod has these labels and this list of hosts from now on.
    pub(crate) fn change(&self, labels: Labels, egress_hosts: Option<&str>) {
        let hosts = egress_hosts.map(Hosts::parse);
        let mut identity = self.identity.write();
        if identity.labels == labels && identity.hosts == hosts {
            return;
        }
        if identity.hosts != hosts {
            // What another list allowed.
            *self.bindings.lock() = None;
        }
        *identity =
            Arc::new(Identity::new(identity.namespace.clone(), labels, identity.ports.clone(), hosts));
    }
}

/// The policies of the cluster and what their selectors are about.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    tables: RwLock<Tables>,
    /// How many policies there are.
    count: AtomicUsize,
    /// Goes up with each change of a policy.
    policies: AtomicU64,
    /// Goes up with each change of a policy or of a namespace's labels.
    version: AtomicU64,
}

#[derive(Debug, Default)]
struct Tables {
    /// By namespace and name.
    policies: BTreeMap<String, BTreeMap<String, Arc<Policy>>>,
    namespaces: HashMap<String, Labels>,
    /// Pods of other nodes, by their addresses, and the addresses that each of them had when it was last seen.
    pods: HashMap<IpAddr, Arc<Identity>>,
    addresses: HashMap<Name, (Vec<IpAddr>, Arc<Identity>)>,
}

/// The other side of a connection.
struct Side {
    address: IpAddr,
    pod: Option<Arc<Identity>>,
}

impl Policies {
    fn changed(&self, tables: &Tables, policies: bool) {
        if policies {
            self.count.store(tables.policies.values().map(BTreeMap::len).sum(), Relaxed);
            self.policies.fetch_add(1, Relaxed);
        }
        self.version.fetch_add(1, Relaxed);
    }

    pub(crate) fn apply(&self, policy: &NetworkPolicy) {
        let (namespace, name) = name_of(&policy.metadata);
        let compiled = Arc::new(Policy::of(policy));
        let mut tables = self.tables.write();
        tables.policies.entry(namespace).or_default().insert(name, compiled);
        self.changed(&tables, true);
    }

    pub(crate) fn remove(&self, namespace: &str, name: &str) {
        let mut tables = self.tables.write();
        let Some(policies) = tables.policies.get_mut(namespace) else { return };
        policies.remove(name);
        if policies.is_empty() {
            tables.policies.remove(namespace);
        }
        self.changed(&tables, true);
    }

    pub(crate) fn apply_namespace(&self, namespace: &Namespace) {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let mut labels = namespace.metadata.labels.clone().unwrap_or_default();
        labels.entry(NAMESPACE_NAME_LABEL.to_owned()).or_insert_with(|| name.clone());
        let mut tables = self.tables.write();
        if tables.namespaces.get(&name) != Some(&labels) {
            tables.namespaces.insert(name, labels);
            self.changed(&tables, false);
        }
    }

    pub(crate) fn remove_namespace(&self, name: &str) {
        let mut tables = self.tables.write();
        if tables.namespaces.remove(name).is_some() {
            self.changed(&tables, false);
        }
    }

    /// Whether there may be a namespace of that name; any, as long as none is known.
    pub(crate) fn has_namespace(&self, name: &str) -> bool {
        let tables = self.tables.read();
        tables.namespaces.is_empty() || tables.namespaces.contains_key(name)
    }

    pub(crate) fn apply_pod(&self, pod: &Pod) {
        let name = name_of(&pod.metadata);
        let over = |phase: &str| matches!(phase, "Succeeded" | "Failed");
        let status = pod.status.as_ref();
        let alive = !status.and_then(|status| status.phase.as_deref()).is_some_and(over);
        let on_host = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
        let ips = status.iter().flat_map(|status| {
            let several = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
            status.pod_ip.as_deref().into_iter().chain(several)
        });
        let mut addresses: Vec<IpAddr> =
            if alive && !on_host { ips.filter_map(|ip| ip.parse().ok()).collect() } else { Vec::new() };
        addresses.sort();
        addresses.dedup();
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let ports: Box<[NamedPort]> = NamedPort::of_pod(pod).into();
        let mut tables = self.tables.write();
        let before = tables.addresses.get(&name);
        let same = before.is_some_and(|(known, identity)| {
            *known == addresses && (&identity.labels, &identity.ports) == (&labels, &ports)
        });
        if same {
            return;
        }
        // What another pod has by now stays with it, whatever is heard late of this one.
        let is_lost = |address: &&IpAddr| {
            before.filter(|(known, _)| known.contains(address)).is_some_and(|(_, identity)| {
                tables.pods.get(*address).is_some_and(|holder| !Arc::ptr_eq(holder, identity))
            })
        };
        let own: Vec<IpAddr> = addresses.iter().filter(|address| !is_lost(address)).copied().collect();
        tables.forget(&name);
        if addresses.is_empty() {
            return;
        }
        let identity = Arc::new(Identity::new(name.0.clone(), labels, ports, None));
        for address in own {
            tables.pods.insert(address, Arc::clone(&identity));
        }
        tables.addresses.insert(name, (addresses, identity));
    }

    pub(crate) fn remove_pod(&self, namespace: &str, name: &str) {
        self.tables.write().forget(&(namespace.to_owned(), name.to_owned()));
    }

    fn any(&self) -> bool {
        self.count.load(Relaxed) > 0
    }

    /// Runs `ask` with the policies about a pod, as they are now; `None` if there are none.
    fn about<T>(&self, stack: &Stack, ask: impl FnOnce(&mut Cache, &Identity) -> T) -> Option<T> {
        if !self.any() {
            return None;
        }
        let identity = stack.gate.identity();
        let mut cache = stack.gate.cache.lock();
        let cache = cache.get_or_insert_default();
        let now = (identity.number, self.policies.load(Relaxed));
        if cache.chosen_for != now {
            let tables = self.tables.read();
            // Read under the lock, so that the number is not newer than what is read.
            let now = (identity.number, self.policies.load(Relaxed));
            let all = tables.policies.get(&identity.namespace).into_iter().flat_map(BTreeMap::values);
            let chosen = all.filter(|policy| policy.selects(&identity.labels)).map(Arc::clone).collect();
            **cache = Cache { chosen_for: now, policies: chosen, ..Cache::default() };
        }
        (!cache.policies.is_empty()).then(|| ask(cache, &identity))
    }

    /// What the policies about `stack` say of a connection with `other`.
    fn verdict(
        &self,
        stack: &Stack,
        direction: Direction,
        other: &Side,
        protocol: Protocol,
        port: u16,
    ) -> Verdict {
        let verdict = self.about(stack, |cache, identity| {
            let version = self.version.load(Relaxed);
            if cache.judged_at != version || cache.verdicts.len() >= VERDICTS_PER_POD {
                cache.verdicts.clear();
                cache.judged_at = version;
            }
            let number = other.pod.as_ref().map_or(0, |pod| pod.number);
            let asked = Asked { direction, other: number, address: other.address, protocol, port };
            if let Some(verdict) = cache.verdicts.get(&asked) {
                return *verdict;
            }
            let at = match direction {
                Direction::Ingress => Some(identity),
                Direction::Egress => other.pod.as_deref(),
            };
            let door = Door { protocol, port, names: at.map_or(&[], |pod| &pod.ports) };
            let tables = self.tables.read();
            let unknown = Labels::new();
            let pod = other.pod.as_ref().map(|pod| {
                let of_namespace = tables.namespaces.get(&pod.namespace).unwrap_or(&unknown);
                (pod.namespace.as_str(), of_namespace, &pod.labels)
            });
            let policies = cache.policies.iter().map(Arc::as_ref);
            let other = Other { address: other.address, pod };
            let verdict = rules::judge(policies, direction, &identity.namespace, other, door);
            drop(tables);
            cache.verdicts.insert(asked, verdict);
            verdict
        });
        verdict.unwrap_or(Verdict::Free)
    }

    fn reach(&self, stack: &Stack) -> Reach {
        let reach = self.about(stack, |cache, _| {
            *cache.reach.get_or_insert_with(|| rules::reach(cache.policies.iter().map(Arc::as_ref)))
        });
        reach.unwrap_or(Reach::Everywhere)
    }

    /// The pod of another node that has an address.
    fn elsewhere(&self, address: IpAddr) -> Option<Arc<Identity>> {
        self.tables.read().pods.get(&address).cloned()
    }
}

impl Tables {
    fn forget(&mut self, name: &Name) {
        let Some((addresses, identity)) = self.addresses.remove(name) else { return };
        for address in addresses {
            // Another pod may have the address by now.
            if self.pods.get(&address).is_some_and(|pod| Arc::ptr_eq(pod, &identity)) {
                self.pods.remove(&address);
            }
        }
    }
}

impl Fabric {
    /// Takes in a NetworkPolicy as it is now. It holds for connections made from now on.
    pub fn apply_policy(&self, policy: &NetworkPolicy) {
        self.policies.apply(policy);
    }

    /// Forgets a NetworkPolicy.
    pub fn remove_policy(&self, namespace: &str, name: &str) {
        self.policies.remove(namespace, name);
    }

    /// Takes in a Namespace: policies select namespaces by their labels.
    pub fn apply_namespace(&self, namespace: &Namespace) {
        self.policies.apply_namespace(namespace);
    }

    /// Forgets a Namespace.
    pub fn remove_namespace(&self, name: &str) {
        self.policies.remove_namespace(name);
    }

    /// Takes in a pod of another node: policies know it by its addresses. Pods of this node say who they are when
    /// they are added.
    pub fn apply_remote_pod(&self, pod: &Pod) {
        self.policies.apply_pod(pod);
    }

    /// Forgets a pod of another node.
    pub fn remove_remote_pod(&self, namespace: &str, name: &str) {
        self.policies.remove_pod(namespace, name);
    }

    /// The next thing that was refused. Not every one is told: the same again is not for a while, and of one pod
    /// only so many.
    pub async fn denial(&self) -> Denial {
        self.denials.next().await
    }

    /// Whether policy lets `origin` connect to a port of a pod of this node.
    pub(crate) fn admit(
        &self,
        origin: &Origin,
        target: &Arc<Stack>,
        to: SocketAddr,
        protocol: Protocol,
    ) -> Result<(), DenyReason> {
        let policies = &self.policies;
        let other = match origin {
            _ if !policies.any() => return Ok(()),
            Origin::Node => return Ok(()),
            Origin::Pod(from) if Arc::ptr_eq(from, target) => return Ok(()),
            Origin::Pod(from) => {
                let other = Side { address: to.ip(), pod: Some(target.gate.identity()) };
                if policies.verdict(from, Direction::Egress, &other, protocol, to.port()) == Verdict::Denied {
                    return Err(DenyReason::Egress);
                }
                Side { address: from.source_for(to.ip()), pod: Some(from.gate.identity()) }
            }
            Origin::Visitor(address) => Side { address: *address, pod: policies.elsewhere(*address) },
        };
        match policies.verdict(target, Direction::Ingress, &other, protocol, to.port()) {
            Verdict::Denied => Err(DenyReason::Ingress),
            Verdict::Anybody | Verdict::Named | Verdict::Free => Ok(()),
        }
    }

    /// As [`Fabric::admit`] for a datagram from `source`, an address of `from`. The answer to one that came is let
    /// through as it was.
    pub(crate) fn admit_datagram(
        &self,
        from: &Arc<Stack>,
        source: SocketAddr,
        target: &Arc<Stack>,
        to: SocketAddr,
    ) -> Result<(), DenyReason> {
        let policies = &self.policies;
        let is_free = |stack: &Stack| policies.about(stack, |_, _| ()).is_none();
        if Arc::ptr_eq(from, target) || (is_free(from) && is_free(target)) {
            return Ok(());
        }
        let now = Instant::now();
        if from.gate.flows.lock().answer(source.port(), to, now) {
            return Ok(());
        }
        self.admit(&Origin::Pod(Arc::clone(from)), target, to, Protocol::Udp)?;
        target.gate.flows.lock().note(to.port(), source, now);
        Ok(())
    }

    /// Whether a pod may connect to an address outside the cluster, as far as it is not forbidden to all.
    pub(crate) fn admit_outside(
        &self,
        from: &Arc<Stack>,
        to: SocketAddr,
        protocol: Protocol,
    ) -> Result<(), DenyReason> {
        let other = Side { address: to.ip(), pod: None };
        match self.policies.verdict(from, Direction::Egress, &other, protocol, to.port()) {
            Verdict::Denied => return Err(DenyReason::Egress),
            Verdict::Named => return Ok(()),
            Verdict::Anybody | Verdict::Free => {}
        }
        let identity = from.gate.identity();
        match (&identity.hosts, self.config().egress) {
            (Some(_), _) => {
                let bindings = from.gate.bindings.lock();
                let bound = bindings.as_ref().is_some_and(|known| known.has(to.ip(), Instant::now()));
                if bound { Ok(()) } else { Err(DenyReason::EgressHosts) }
            }
            (None, Egress::Deny) => Err(DenyReason::EgressDefault),
            (None, Egress::Allow) => Ok(()),
        }
    }

    /// Whether a pod may connect to something of the cluster that is no pod: the API server, by the address that
    /// was dialled or by that which it has.
    pub(crate) fn admit_cluster(
        &self,
        from: &Arc<Stack>,
        dialled: SocketAddr,
        to: SocketAddr,
        protocol: Protocol,
    ) -> Result<(), DenyReason> {
        let denied = |address: SocketAddr| {
            let other = Side { address: address.ip(), pod: None };
            let verdict = self.policies.verdict(from, Direction::Egress, &other, protocol, address.port());
            verdict == Verdict::Denied
        };
        if denied(dialled) && denied(to) { Err(DenyReason::Egress) } else { Ok(()) }
    }

    /// Whether a pod may ask the world for a name. Whoever can reach nothing there has no use for one, and what he
    /// asks for would leave the cluster.
    pub(crate) fn admit_name(&self, from: &Stack, name: &str) -> Result<(), DenyReason> {
        let reach = self.policies.reach(from);
        let identity = from.gate.identity();
        match (reach, &identity.hosts, self.config().egress) {
            (Reach::Nowhere, _, _) => Err(DenyReason::Egress),
            (_, Some(hosts), _) if hosts.has(name) => Ok(()),
            (Reach::Everywhere, Some(_), _) => Err(DenyReason::EgressHosts),
            (Reach::Everywhere, None, Egress::Deny) => Err(DenyReason::EgressDefault),
            (Reach::Blocks, _, _) | (Reach::Everywhere, None, Egress::Allow) => Ok(()),
        }
    }

    /// Remembers what a name outside has answered to a pod, if its list of hosts has the name.
    pub(crate) fn learn_name(&self, from: &Stack, name: &str, addresses: &[IpAddr]) {
        let identity = from.gate.identity();
        if identity.hosts.as_ref().is_some_and(|hosts| hosts.has(name)) {
            from.gate.bindings.lock().get_or_insert_default().bind(addresses, Instant::now());
        }
    }

    /// Counts a denial and tells of it. It is the dialler's if that is a pod, else that of the pod dialled.
    pub(crate) fn note_denial(
        &self,
        origin: &Origin,
        target: Option<&Stack>,
        destination: &dyn Display,
        reason: DenyReason,
    ) {
        self.count_denial();
        let Some(stack) = origin.pod().map(Arc::as_ref).or(target) else { return };
        stack.meter.deny();
        stack.gate.counts.add(reason);
        let destination = destination.to_string();
        tracing::debug!(
            namespace = stack.pod.namespace,
            pod = stack.pod.name,
            destination,
            reason = reason.name(),
            "denied"
        );
        let denial = || Denial {
            namespace: stack.pod.namespace.clone(),
            pod: stack.pod.name.clone(),
            uid: stack.pod.uid.clone(),
            destination: destination.clone(),
            reason,
        };
        self.denials.tell(&stack.gate.told, denial, &destination, reason);
    }

    /// As [`Fabric::note_denial`], for a connection.
    pub(crate) fn deny(
        &self,
        origin: &Origin,
        target: Option<&Stack>,
        to: SocketAddr,
        reason: DenyReason,
    ) -> NetworkError {
        self.note_denial(origin, target, &to, reason);
        NetworkError::Denied(to)
    }
}
