//! Which changes may help a pod that found no place: only those can that undo what failed.

use coracle_client::Key;

use super::{
    affinity::Labels,
    class::{Candidate, Class},
    cluster::Cluster,
    filter::Plugins,
    nodes::{NodeChange, NodeState},
    taints,
};

/// Something happened in the cluster.
#[derive(Clone, Debug)]
pub enum Happening {
    /// A node came or changed.
    Node {
        /// Its name.
        name: String,
        /// What of it.
        change: NodeChange,
    },
    /// A node went: domains went with it.
    NodeRemoved,
    /// A pod is on a node now.
    PodAdded(Candidate),
    /// A pod on a node is another now: labels or requests.
    PodChanged {
        /// As it was.
        old: Candidate,
        /// As it is.
        new: Candidate,
    },
    /// A pod is on its node no longer.
    PodRemoved(Candidate),
    /// A claim came or changed.
    Claim(Key),
    /// A volume or a storage class came or changed.
    Volume,
    /// Labels of a namespace changed.
    Namespace,
}

impl Cluster {
    /// Whether what happened may help a pod like `pod` that failed these checks.
    pub fn may_help(&self, happening: &Happening, pod: &Candidate, failed: Plugins) -> bool {
        let class = &*pod.class;
        match happening {
            Happening::Node { name, change } => {
                self.node(name).is_some_and(|node| node_helps(node, *change, class, failed))
            }
            Happening::NodeRemoved => failed.has(Plugins::SPREAD),
            Happening::PodAdded(other) => self.coming_helps(other, class, failed),
            Happening::PodChanged { old, new } => {
                self.coming_helps(new, class, failed)
                    || self.going_helps(old, class, failed) && differs(old, new)
            }
            Happening::PodRemoved(other) => self.going_helps(other, class, failed),
            Happening::Claim(key) => {
                let mine = key.namespace == class.namespace
                    && class.claims.iter().any(|claim| claim.name == key.name);
                mine && (failed.has(Plugins::BINDING)
                    || failed.has(Plugins::ZONE)
                    || failed.has(Plugins::RESTRICTIONS))
            }
            Happening::Volume => failed.has(Plugins::BINDING) || failed.has(Plugins::ZONE),
            Happening::Namespace => failed.has(Plugins::INTER_POD),
        }
    }

    /// Pods that are wanted nearby come, or those that even out a spread.
    fn coming_helps(&self, other: &Candidate, class: &Class, failed: Plugins) -> bool {
        let other = &*other.class;
        let wanted = || class.terms.required.iter().any(|term| term.scope.matches(other, &self.namespaces));
        failed.has(Plugins::SPREAD) && spread_counts(class, other, self)
            || failed.has(Plugins::INTER_POD) && wanted()
    }

    fn going_helps(&self, other: &Candidate, class: &Class, failed: Plugins) -> bool {
        let gone = &*other.class;
        let port =
            || class.ports.iter().any(|port| gone.ports.iter().any(|other| port.conflicts_with(other)));
        let claim = || {
            gone.namespace == class.namespace
                && class.claims.iter().any(|claim| gone.claims.iter().any(|other| other.name == claim.name))
        };
        let near = || {
            let unwanted = class.terms.anti.iter().any(|term| term.scope.matches(gone, &self.namespaces));
            unwanted || gone.terms.anti.iter().any(|term| term.scope.matches(class, &self.namespaces))
        };
        failed.has(Plugins::FIT)
            || failed.has(Plugins::PORTS) && port()
            || failed.has(Plugins::RESTRICTIONS) && claim()
            || failed.has(Plugins::SPREAD) && spread_counts(class, gone, self)
            || failed.has(Plugins::INTER_POD) && near()
    }
}

/// True if the other is one of those that a constraint of the class counts.
fn spread_counts(class: &Class, other: &Class, cluster: &Cluster) -> bool {
    let own = class.hard.iter().any(|constraint| constraint.scope.matches(other, &cluster.namespaces));
    // Without constraints of its own it was one of the profile's that it failed.
    own || !class.constrained && class.namespace == other.namespace
}

fn differs(old: &Candidate, new: &Candidate) -> bool {
    let less = old.class.requests.exceeds(&new.class.requests);
    less || old.class.labels != new.class.labels || old.is_terminating() != new.is_terminating()
}

fn node_helps(node: &NodeState, change: NodeChange, class: &Class, failed: Plugins) -> bool {
    let labels: &Labels = node.labels();
    let schedulable = || !node.is_cordoned() || taints::tolerates_cordon(&class.tolerations);
    let tolerated = || taints::untolerated(node.taints(), &class.tolerations).is_none();
    let matches = || class.affinity.matches(labels, node.name());
    let fits = || !class.requests.exceeds(node.allocatable()) && node.max_pods() > 0;
    let near = || {
        let mut terms = class.terms.required.iter().chain(&class.terms.anti);
        // Somebody else's terms may be in the way: where, only they know.
        class.terms.is_empty() || terms.any(|term| labels.contains_key(&term.topology))
    };
    let (new, relabelled, retainted) = (change.added, change.labels, change.taints);
    failed.has(Plugins::UNSCHEDULABLE) && (new || retainted) && schedulable()
        || failed.has(Plugins::NODE_NAME) && new
        || failed.has(Plugins::TAINTS) && (new || retainted) && tolerated()
        || failed.has(Plugins::NODE_AFFINITY) && (new || relabelled) && matches()
        || failed.has(Plugins::PORTS) && new
        || failed.has(Plugins::FIT) && (new || change.room) && fits()
        || failed.has(Plugins::BINDING) && (new || relabelled)
        || failed.has(Plugins::ZONE) && (new || relabelled)
        || failed.has(Plugins::SPREAD) && (new || relabelled || retainted)
        || failed.has(Plugins::INTER_POD) && (new || relabelled) && near()
}
