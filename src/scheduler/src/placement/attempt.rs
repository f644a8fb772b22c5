//! One pod held against the cluster.

use super::{
    affinity::Named,
    class::Candidate,
    cluster::Cluster,
    filter::{Fail, Sources, View},
    prepared::{Fixed, Prepared},
    table::NONE,
    volumes::Check,
};

/// A pod that looks for a place, with what was found out about it.
pub(super) struct Attempt<'a> {
    pub(super) pod: &'a Candidate,
    pub(super) prepared: &'a Prepared,
    pub(super) check: &'a Check,
}

/// Why a node cannot take the pod, in words while they are true.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) fail: Fail,
    pub(super) reasons: Vec<String>,
}

impl<'a> Attempt<'a> {
    pub(super) fn view<'b>(&self, cluster: &'b Cluster) -> View<'b>
    where
        'a: 'b,
    {
        View::new(&self.pod.class, self.prepared, &Sources::of(cluster, self.pod, self.check))
    }

    /// Whether the node can take the pod as it is now, and also once those of at least its priority that were
    /// promised the node are there.
    pub(super) fn admits(&self, cluster: &mut Cluster, node: u32) -> Result<(), Refusal> {
        let fixed = self.fixed(cluster, node);
        if cluster.rows[node as usize].nominated > 0 {
            let name = cluster.nodes[node as usize].name().to_owned();
            let others = cluster.nominated_to(&name);
            let others: Vec<Candidate> = others
                .filter(|other| other.priority() >= self.pod.priority() && other.uid() != self.pod.uid())
                .cloned()
                .collect();
            if !others.is_empty() {
                others.iter().for_each(|other| cluster.account(other, node, true));
                let outcome = self.check(cluster, node, fixed);
                others.iter().for_each(|other| cluster.account(other, node, false));
                outcome?;
            }
        }
        self.check(cluster, node, fixed)
    }

    fn check(&self, cluster: &Cluster, node: u32, fixed: Fixed) -> Result<(), Refusal> {
        let outcome = self.view(cluster).check(node, &cluster.rows[node as usize], fixed);
        outcome.map_err(|fail| {
            let reasons = fail.reasons(&self.pod.class, &cluster.nodes[node as usize]);
            Refusal { fail, reasons }
        })
    }

    /// What the class finds of the node, without keeping it.
    fn fixed(&self, cluster: &Cluster, node: u32) -> Fixed {
        let version = cluster.rows[node as usize].version;
        Cluster::with_images(cluster.images(), cluster.len(), |images| {
            self.prepared.look(&self.pod.class, node, version, &cluster.nodes, images)
        })
    }

    /// The nodes that the pod's affinity names; `None` if it names none, so that any may do.
    pub(super) fn named(&self, cluster: &Cluster) -> Result<Option<Vec<u32>>, &'static str> {
        match self.pod.class.affinity.named() {
            Named::Any => Ok(None),
            Named::Conflict => Err("pod affinity terms conflict"),
            Named::Only(names) => {
                let numbers = names.iter().map(|name| cluster.number(name).unwrap_or(NONE));
                Ok(Some(numbers.filter(|number| *number != NONE).collect()))
            }
        }
    }
}
