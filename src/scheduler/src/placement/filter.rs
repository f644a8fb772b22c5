//! Which nodes can take a pod, and why others cannot. The order of the checks and the words are
//! Kubernetes'.

use super::{
    class::{Candidate, Class},
    cluster::Cluster,
    counts::{Counts, Lookup},
    nodes::{NodeState, Row},
    prepared::{Fixed, Prepared, Verdict},
    table::NONE,
    taints, volumes,
};

/// Why a node cannot take a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fail {
    /// The node is cordoned.
    Unschedulable,
    /// The pod asks for another node by name.
    NodeName,
    /// The pod does not tolerate a taint.
    Taint,
    /// The node's labels are not what the pod asks for.
    NodeAffinity,
    /// A port is taken.
    Ports,
    /// The node has too little left, or would even if it were empty.
    Fit { hopeless: bool },
    /// Another pod uses a claim that is for one pod only.
    Exclusive,
    /// Volumes cannot be reached from the node, claims cannot get one there, or a volume does not exist.
    Volume { conflict: bool, none: bool, lost: bool },
    /// A volume is in another zone.
    Zone,
    /// The node is in no domain of a spread constraint.
    SpreadLabel,
    /// The node's domain has too many of the pods already.
    Spread,
    /// The pods that the pod wants to be with are not there.
    Affinity,
    /// Pods that the pod does not want to be with are there.
    AntiAffinity,
    /// Pods that do not want to be with the pod are there.
    ExistingAntiAffinity,
}

/// A set of the checks that a pod failed: what decides which changes may help it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Plugins(u16);

impl Plugins {
    /// Volumes of claims.
    pub const BINDING: Plugins = Plugins(128);
    pub(super) const UNSCHEDULABLE: Plugins = Plugins(1);
    pub(super) const NODE_NAME: Plugins = Plugins(2);
    pub(super) const TAINTS: Plugins = Plugins(4);
    /// Labels of nodes.
    pub const NODE_AFFINITY: Plugins = Plugins(8);
    pub(super) const PORTS: Plugins = Plugins(16);
    /// Resources.
    pub const FIT: Plugins = Plugins(32);
    pub(super) const RESTRICTIONS: Plugins = Plugins(64);
    pub(super) const ZONE: Plugins = Plugins(256);
    pub(super) const SPREAD: Plugins = Plugins(512);
    pub(super) const INTER_POD: Plugins = Plugins(1024);
    /// Whatever happens may help.
    pub const ALL: Plugins = Plugins(2047);

    pub(super) fn insert(&mut self, more: Plugins) {
        self.0 |= more.0;
    }

    pub(super) fn has(self, some: Plugins) -> bool {
        self.0 & some.0 != 0
    }
}

impl Fail {
    pub(super) fn plugin(self) -> Plugins {
        match self {
            Fail::Unschedulable => Plugins::UNSCHEDULABLE,
            Fail::NodeName => Plugins::NODE_NAME,
            Fail::Taint => Plugins::TAINTS,
            Fail::NodeAffinity => Plugins::NODE_AFFINITY,
            Fail::Ports => Plugins::PORTS,
            Fail::Fit { .. } => Plugins::FIT,
            Fail::Exclusive => Plugins::RESTRICTIONS,
            Fail::Volume { .. } => Plugins::BINDING,
            Fail::Zone => Plugins::ZONE,
            Fail::SpreadLabel | Fail::Spread => Plugins::SPREAD,
            Fail::Affinity | Fail::AntiAffinity | Fail::ExistingAntiAffinity => Plugins::INTER_POD,
        }
    }

    /// True if it could go away with pods that are on the node.
    pub(super) fn is_by_others(self) -> bool {
        matches!(
            self,
            Fail::Ports
                | Fail::Fit { hopeless: false }
                | Fail::Exclusive
                | Fail::Spread
                | Fail::AntiAffinity
                | Fail::ExistingAntiAffinity
        )
    }

    /// Kubernetes' words for it, one for each thing that is wrong.
    pub(super) fn reasons(self, class: &Class, node: &NodeState) -> Vec<String> {
        let one = |text: &str| vec![text.to_owned()];
        match self {
            Fail::Unschedulable => one("node(s) were unschedulable"),
            Fail::NodeName => one("node(s) didn't match the requested node name"),
            Fail::Taint => {
                let taint = taints::untolerated(node.taints(), &class.tolerations);
                let (key, value) = taint.map_or(("", ""), |taint| {
                    (taint.key.as_str(), taint.value.as_deref().unwrap_or_default())
                });
                vec![format!("node(s) had untolerated taint {{{key}: {value}}}")]
            }
            Fail::NodeAffinity => one("node(s) didn't match Pod's node affinity/selector"),
            Fail::Ports => one("node(s) didn't have free ports for the requested pod ports"),
            Fail::Fit { .. } => lacking(class, node).into_iter().map(|(reason, _)| reason).collect(),
            Fail::Exclusive => one(
                "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode",
            ),
            Fail::Volume { conflict, none, lost } => {
                let reasons = [
                    (conflict, "node(s) had volume node affinity conflict"),
                    (none, "node(s) didn't find available persistent volumes to bind"),
                    (lost, "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"),
                ];
                reasons.iter().filter(|(is, _)| *is).map(|(_, text)| (*text).to_owned()).collect()
            }
            Fail::Zone => one("node(s) had no available volume zone"),
            Fail::SpreadLabel => {
                one("node(s) didn't match pod topology spread constraints (missing required label)")
            }
            Fail::Spread => one("node(s) didn't match pod topology spread constraints"),
            Fail::Affinity => one("node(s) didn't match pod affinity rules"),
            Fail::AntiAffinity => one("node(s) didn't match pod anti-affinity rules"),
            Fail::ExistingAntiAffinity => one("node(s) didn't satisfy existing pods anti-affinity rules"),
        }
    }
}

/// What the node has too little of, and whether it would even if it were empty.
fn lacking(class: &Class, node: &NodeState) -> Vec<(String, bool)> {
    let mut reasons = Vec::new();
    if node.pods() + 1 > node.max_pods() {
        reasons.push(("Too many pods".to_owned(), false));
    }
    let (wants, has, used) = (&class.requests, node.allocatable(), node.requested());
    let mut check = |resource: &str, wanted: i64, has: i64, used: i64| {
        if wanted > 0 && wanted > has.saturating_sub(used) {
            reasons.push((format!("Insufficient {resource}"), wanted > has));
        }
    };
    check("cpu", wants.cpu, has.cpu, used.cpu);
    check("memory", wants.memory, has.memory, used.memory);
    check("ephemeral-storage", wants.storage, has.storage, used.storage);
    for (name, wanted) in &wants.other {
        check(name, *wanted, has.amount(name), used.amount(name));
    }
    reasons
}

/// A pod held against the cluster as it is, ready to be checked node by node.
pub(super) struct View<'a> {
    class: &'a Class,
    nodes: &'a [NodeState],
    wants: [i64; 3],
    /// No more than the numbers has to be looked at.
    plain: bool,
    /// The one node that the pod asks for by name.
    named: Option<&'a str>,
    hard: Vec<(Lookup<'a>, i64)>,
    required: Vec<Lookup<'a>>,
    /// Nobody is there yet to be with, and the pod itself is one of those it wants to be with.
    first: bool,
    anti: Vec<Lookup<'a>>,
    blocking: Vec<Lookup<'a>>,
    volumes: Option<(&'a volumes::Check, &'a volumes::Volumes)>,
}

/// What a [`View`] is made from.
pub(super) struct Sources<'a> {
    pub(super) nodes: &'a [NodeState],
    pub(super) counts: &'a Counts,
    pub(super) volumes: &'a volumes::Volumes,
    pub(super) check: &'a volumes::Check,
    pub(super) named: Option<&'a str>,
}

impl<'a> Sources<'a> {
    pub(super) fn of(cluster: &'a Cluster, pod: &'a Candidate, check: &'a volumes::Check) -> Self {
        Sources {
            nodes: &cluster.nodes,
            counts: &cluster.counts,
            volumes: &cluster.volumes,
            check,
            named: pod.node_name(),
        }
    }
}

impl<'a> View<'a> {
    pub(super) fn new(class: &'a Class, prepared: &Prepared, sources: &Sources<'a>) -> Self {
        let counts = sources.counts;
        let lookups = |tallies: &[u32]| tallies.iter().map(|it| counts.lookup(*it)).collect::<Vec<_>>();
        let hard = prepared.hard.iter().map(|hard| {
            let fewest = counts.get(hard.tally).map_or(0, |tally| tally.fewest(hard.min_domains));
            let most = hard.max_skew + i64::from(fewest) - i64::from(hard.counts_itself);
            (counts.lookup(hard.tally), most)
        });
        let hard: Vec<_> = hard.collect();
        let nobody = prepared.required.iter().all(|it| counts.get(*it).is_none_or(|it| it.total() == 0));
        let blocking: Vec<_> =
            prepared.blocking.iter().filter_map(|number| counts.lookup_owned(*number)).collect();
        let volumes = (!sources.check.is_empty()).then_some((sources.check, sources.volumes));
        let plain = hard.is_empty()
            && prepared.required.is_empty()
            && prepared.anti.is_empty()
            && blocking.is_empty()
            && class.ports.is_empty()
            && class.requests.other.is_empty()
            && volumes.is_none()
            && sources.named.is_none();
        View {
            class,
            nodes: sources.nodes,
            wants: [class.requests.cpu, class.requests.memory, class.requests.storage],
            plain,
            named: sources.named,
            hard,
            required: lookups(&prepared.required),
            first: nobody && prepared.wants_itself,
            anti: lookups(&prepared.anti),
            blocking,
            volumes,
        }
    }

    /// Nothing if the node can take the pod; otherwise what the first failing check found.
    pub(super) fn check(&self, number: u32, row: &Row, fixed: Fixed) -> Result<(), Fail> {
        if fixed.verdict == Verdict::Unschedulable {
            return Err(Fail::Unschedulable);
        }
        if self.plain {
            fixed.verdict.fine()?;
            return if self.has_room(row) { Ok(()) } else { Err(self.fit(number)) };
        }
        let node = &self.nodes[number as usize];
        if self.named.is_some_and(|name| name != node.name()) {
            return Err(Fail::NodeName);
        }
        fixed.verdict.fine()?;
        if !self.class.ports.is_empty() && node.has_conflicting_port(&self.class.ports) {
            return Err(Fail::Ports);
        }
        let other = || {
            let (has, used) = (node.allocatable(), node.requested());
            let mut wanted = self.class.requests.other.iter();
            wanted.all(|(name, wanted)| *wanted <= 0 || *wanted <= has.amount(name) - used.amount(name))
        };
        if !self.has_room(row) || !other() {
            return Err(self.fit(number));
        }
        if let Some((check, volumes)) = self.volumes {
            check.node(volumes, node)?;
        }
        self.spread(number)?;
        self.inter_pod(number)
    }

    fn has_room(&self, row: &Row) -> bool {
        row.pods < row.max_pods
            && (0..3)
                .all(|it| self.wants[it] <= 0 || self.wants[it] <= row.has[it].saturating_sub(row.used[it]))
    }

    #[cold]
    fn fit(&self, number: u32) -> Fail {
        let lacking = lacking(self.class, &self.nodes[number as usize]);
        Fail::Fit { hopeless: lacking.iter().any(|(_, ever)| *ever) }
    }

    fn spread(&self, node: u32) -> Result<(), Fail> {
        for (lookup, most) in &self.hard {
            if lookup.domain(node) == NONE {
                return Err(Fail::SpreadLabel);
            }
            if i64::from(lookup.count(node)) > *most {
                return Err(Fail::Spread);
            }
        }
        Ok(())
    }

    fn inter_pod(&self, node: u32) -> Result<(), Fail> {
        if !self.required.is_empty() {
            if self.required.iter().any(|lookup| lookup.domain(node) == NONE) {
                return Err(Fail::Affinity);
            }
            if !self.first && self.required.iter().any(|lookup| lookup.count(node) == 0) {
                return Err(Fail::Affinity);
            }
        }
        if self.anti.iter().any(|lookup| lookup.count(node) > 0) {
            return Err(Fail::AntiAffinity);
        }
        if self.blocking.iter().any(|lookup| lookup.count(node) > 0) {
            return Err(Fail::ExistingAntiAffinity);
        }
        Ok(())
    }
}
