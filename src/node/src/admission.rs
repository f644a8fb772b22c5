//! Whether the node takes a pod that is bound to it, as the kubelet decides: the scheduler has looked before it bound
//! the pod, but whoever names a node in a spec has asked nobody. The decision is pure; the book of what the node has
//! given to its pods is a lock around it.
//!
//! A critical pod for which nothing but resources is lacking is taken all the same, and other pods go for it
//! ([`preemption`]).
//!
//! A pod that this node ran before is never refused: what it has is its own, even where the node has less by now.

use std::{borrow::Cow, collections::HashMap};

use coracle_api::{
    Quantity, Resources,
    placement::{Port, host_ports, is_asked_for, tolerates},
};
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    env::Allocatable,
    platform,
    preemption::{self, Candidate, Class, Lacking},
    static_pods,
};

/// Pods from this priority on are critical: they are taken under pressure, never evicted, and end last. Kubernetes'
/// number, that of `system-cluster-critical`.
pub(crate) const CRITICAL: i32 = 2_000_000_000;

/// Why a pod is refused for good, in the kubelet's words: `status.reason` and the message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: Cow<'static, str>,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Refusal {
        Refusal { reason: reason.into(), message: message.into() }
    }
}

/// Why a pod that runs does not get other resources: now, or ever. Reason and message of a condition.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Denial {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// True for pods that the cluster cannot do without: those of this priority, and those of the node's own files.
pub(crate) fn is_critical(pod: &Pod, node: &str) -> bool {
    priority_of(pod).unwrap_or(0) >= CRITICAL || static_pods::is_mirror(pod, node)
}

/// The priority that a pod has on its node, where those of its own files are critical.
pub(crate) fn importance(pod: &Pod, node: &str) -> i32 {
    let own = priority_of(pod).unwrap_or(0);
    if is_critical(pod, node) { own.max(CRITICAL) } else { own }
}

fn priority_of(pod: &Pod) -> Option<i32> {
    pod.spec.as_ref()?.priority
}

/// The node, as it decides what it takes.
pub(crate) struct NodeFacts<'a> {
    name: &'a str,
    /// What the API knows of it; nothing for a moment when its object was deleted.
    node: Option<&'a Node>,
    has: Resources,
    max_pods: i64,
}

impl<'a> NodeFacts<'a> {
    /// What the node's object says counts, since others may have added to it; the machine's own where it says nothing.
    pub(crate) fn new(name: &'a str, node: Option<&'a Node>, own: &Allocatable, max_pods: u32) -> Self {
        let said = node.and_then(|node| node.status.as_ref()?.allocatable.as_ref());
        let pods = said.and_then(|said| Quantity::parse(&said.get("pods")?.0).ok());
        let own = || Resources {
            cpu: own.cpu_milli,
            memory: own.memory,
            storage: own.ephemeral_storage,
            ..Resources::default()
        };
        NodeFacts {
            name,
            node,
            has: said.map_or_else(own, |said| Resources::of(Some(said))),
            max_pods: pods.map_or(i64::from(max_pods), |pods| pods.value()),
        }
    }

    /// The names of the conditions that say that the node is short of something.
    fn pressures(&self) -> Vec<&'static str> {
        let conditions = self.node.and_then(|node| node.status.as_ref()?.conditions.as_deref());
        let holds = |name: &&str| {
            let mut all = conditions.unwrap_or_default().iter();
            all.any(|condition| condition.type_ == *name && condition.status == "True")
        };
        ["MemoryPressure", "DiskPressure", "PIDPressure"].into_iter().filter(|name| holds(name)).collect()
    }
}

/// What a pod takes of the node, and what it counts there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    requests: Resources,
    ports: Vec<Port>,
    critical: bool,
    priority: Option<i32>,
    class: Class,
}

impl Claim {
    fn of(pod: &Pod) -> Claim {
        let ports = pod.spec.as_ref().map(host_ports).unwrap_or_default();
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        let class = match pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
            Some("Guaranteed") => Class::Guaranteed,
            Some("Burstable") => Class::Burstable,
            _ => Class::BestEffort,
        };
        let (critical, priority) = (is_critical(pod, node), priority_of(pod));
        Claim { requests: Resources::requested_by(pod), ports, critical, priority, class }
    }

    /// Whether it may have to go for another.
    fn yields_to(&self, other: &Claim) -> bool {
        let matters_less = self.priority.zip(other.priority).is_some_and(|(own, other)| own < other);
        other.critical && !self.critical || matters_less
    }
}

/// What the pods of the node take, by uid.
#[derive(Debug, Default)]
struct Book {
    claims: HashMap<Box<str>, Claim>,
    sum: Resources,
}

impl Book {
    fn insert(&mut self, uid: &str, claim: Claim) {
        self.remove(uid);
        self.sum.add(&claim.requests);
        self.claims.insert(uid.into(), claim);
    }

    fn remove(&mut self, uid: &str) -> Option<Claim> {
        let claim = self.claims.remove(uid)?;
        self.sum.subtract(&claim.requests);
        Some(claim)
    }

    fn is_taken(&self, port: &Port) -> bool {
        self.claims.values().flat_map(|claim| &claim.ports).any(|taken| taken.conflicts_with(port))
    }
}

/// What the node has given to its pods, and whether it takes another.
#[derive(Debug)]
pub(crate) struct Admissions {
    book: Mutex<Book>,
    freed: watch::Sender<()>,
}

impl Default for Admissions {
    fn default() -> Self {
        Admissions { book: Mutex::default(), freed: watch::Sender::new(()) }
    }
}

impl Admissions {
    /// Takes a new pod, or says why not.
    pub(crate) fn admit(&self, uid: &str, pod: &Pod, node: &NodeFacts<'_>) -> Result<(), Refusal> {
        let claim = Claim::of(pod);
        let mut book = self.book.lock();
        judge(pod, &claim, node, &book)?;
        book.insert(uid, claim);
        Ok(())
    }

    /// Takes a new pod, or says why not. A critical one has its resources from others, if those are all that is
    /// lacking: what those had is its own from now on, and they must go, whose uids these are.
    pub(crate) fn admit_or_preempt(
        &self,
        uid: &str,
        pod: &Pod,
        node: &NodeFacts<'_>,
    ) -> Result<Vec<Box<str>>, Refusal> {
        if !is_critical(pod, node.name) {
            return self.admit(uid, pod, node).map(|()| Vec::new());
        }
        let claim = Claim::of(pod);
        withstands(pod, node)?;
        platform::admit(pod)?;
        let mut book = self.book.lock();
        suits(pod, &claim, node, &book)?;
        let lacking = shortages(&claim, node, &book).map(|one| (one.name.into(), one.lacking())).collect();
        let candidates = book.claims.iter().filter(|(_, known)| known.yields_to(&claim));
        let candidates: Vec<_> = candidates
            .map(|(uid, known)| Candidate { uid, class: known.class, requests: &known.requests })
            .collect();
        let victims = preemption::choose(&Lacking(lacking), &candidates).map_err(|why| {
            let message = format!(
                "Unexpected error while attempting to recover from admission failure: preemption: error finding a set \
                 of pods to preempt: {why}"
            );
            Refusal::new("UnexpectedAdmissionError", message)
        })?;
        victims.iter().for_each(|victim| drop(book.remove(victim)));
        book.insert(uid, claim);
        Ok(victims)
    }

    /// Keeps what a pod has that the node ran before.
    pub(crate) fn keep(&self, uid: &str, pod: &Pod) {
        self.book.lock().insert(uid, Claim::of(pod));
    }

    /// Gives a pod that runs what it asks for, or says why not. What it has meanwhile stays its own.
    pub(crate) fn resize(&self, uid: &str, pod: &Pod, node: &NodeFacts<'_>) -> Result<(), Denial> {
        let claim = Claim::of(pod);
        let (wants, has) = (&claim.requests, &node.has);
        let never = |name: &str, wanted: i64, has: i64| {
            let message =
                format!("Node didn't have enough capacity: {name}, requested: {wanted}, capacity: {has}");
            Err(Denial { reason: "Infeasible", message })
        };
        if wants.memory > has.memory {
            return never("memory", wants.memory, has.memory);
        }
        if wants.cpu > has.cpu {
            return never("cpu", wants.cpu, has.cpu);
        }
        let mut book = self.book.lock();
        let Some(before) = book.remove(uid) else { return Ok(()) };
        if let Err(refusal) = judge(pod, &claim, node, &book) {
            book.insert(uid, before);
            return Err(Denial { reason: "Deferred", message: refusal.message });
        }
        book.insert(uid, claim);
        drop(book);
        self.freed.send_replace(());
        Ok(())
    }

    /// A pod is over, or gone.
    pub(crate) fn release(&self, uid: &str) {
        if self.book.lock().remove(uid).is_some() {
            self.freed.send_replace(());
        }
    }

    /// Changes whenever pods may have given something back.
    pub(crate) fn freed(&self) -> watch::Receiver<()> {
        self.freed.subscribe()
    }
}

/// Whether a node on which `book` runs takes a pod; if more than one thing is wrong, the first is said.
fn judge(pod: &Pod, claim: &Claim, node: &NodeFacts<'_>, book: &Book) -> Result<(), Refusal> {
    withstands(pod, node)?;
    platform::admit(pod)?;
    fits(claim, node, book)?;
    suits(pod, claim, node, book)
}

/// A node that is short of something takes critical pods alone; one that is short of memory also takes those that say
/// what they need.
fn withstands(pod: &Pod, node: &NodeFacts<'_>) -> Result<(), Refusal> {
    let pressures = node.pressures();
    if pressures.is_empty() || is_critical(pod, node.name) {
        return Ok(());
    }
    if pressures == ["MemoryPressure"] {
        let class = pod.status.as_ref().and_then(|status| status.qos_class.as_deref());
        let taint = Taint {
            key: "node.kubernetes.io/memory-pressure".into(),
            effect: "NoSchedule".into(),
            ..Taint::default()
        };
        if class.is_some_and(|class| class != "BestEffort") || is_tolerated(pod, &taint) {
            return Ok(());
        }
    }
    Err(Refusal::new("Evicted", format!("The node had condition: [{}]. ", pressures.join(" "))))
}

/// Whether enough is left.
fn fits(claim: &Claim, node: &NodeFacts<'_>, book: &Book) -> Result<(), Refusal> {
    let Some(Shortage { name, wanted, used, has }) = shortages(claim, node, book).next() else {
        return Ok(());
    };
    let message = format!(
        "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {has}"
    );
    Err(Refusal::new(format!("OutOf{name}"), message))
}

/// A resource of which not enough is left.
struct Shortage<'a> {
    name: &'a str,
    wanted: i64,
    used: i64,
    has: i64,
}

impl Shortage<'_> {
    fn lacking(&self) -> i64 {
        self.wanted.saturating_sub(self.has.saturating_sub(self.used))
    }
}

/// Everything of which not enough is left.
fn shortages<'a>(
    claim: &'a Claim,
    node: &'a NodeFacts<'_>,
    book: &'a Book,
) -> impl Iterator<Item = Shortage<'a>> {
    let (wants, used, has) = (&claim.requests, &book.sum, &node.has);
    let pods = i64::try_from(book.claims.len()).unwrap_or(i64::MAX);
    let main = [
        ("pods", 1, pods, node.max_pods),
        ("cpu", wants.cpu, used.cpu, has.cpu),
        ("memory", wants.memory, used.memory, has.memory),
        ("ephemeral-storage", wants.storage, used.storage, has.storage),
    ];
    // What the node knows nothing of is somebody else's to count.
    let other = wants.other.iter().filter_map(|(name, wanted)| {
        Some((name.as_str(), *wanted, used.amount(name), *has.other.get(name)?))
    });
    main.into_iter()
        .chain(other)
        .map(|(name, wanted, used, has)| Shortage { name, wanted, used, has })
        .filter(|one| one.wanted > 0 && one.lacking() > 0)
}

/// Whether pod and node want each other.
fn suits(pod: &Pod, claim: &Claim, node: &NodeFacts<'_>, book: &Book) -> Result<(), Refusal> {
    let failed = |predicate: &'static str, why: &str| {
        Err(Refusal::new(predicate, format!("Predicate {predicate} failed: {why}")))
    };
    let object = node.node;
    if let (Some(spec), Some(object)) = (&pod.spec, object) {
        let labels = object.metadata.labels.as_ref();
        if !is_asked_for(spec, labels.unwrap_or(&Default::default()), node.name) {
            return failed("NodeAffinity", "node(s) didn't match Pod's node affinity/selector");
        }
    }
    if claim.ports.iter().any(|port| book.is_taken(port)) {
        return failed("NodePorts", "node(s) didn't have free ports for the requested pod ports");
    }
    let taints = object.and_then(|node| node.spec.as_ref()?.taints.as_deref()).unwrap_or_default();
    let mut hard = taints.iter().filter(|taint| taint.effect == "NoExecute");
    if !static_pods::is_mirror(pod, node.name) && hard.any(|taint| !is_tolerated(pod, taint)) {
        return failed("TaintToleration", "node(s) had taints that the pod didn't tolerate");
    }
    Ok(())
}

fn is_tolerated(pod: &Pod, taint: &Taint) -> bool {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    tolerations.iter().any(|toleration| tolerates(toleration, taint))
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
