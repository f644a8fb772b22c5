//! What can be said of a class before any node is looked at, kept from one of its pods to the next.

use super::{
    class::Class,
    counts::{Counts, Eligibility, Kind, World},
    filter::Fail,
    nodes::NodeState,
    profile::Profile,
    table::slot,
    taints,
    terms::{Constraint, Scope},
};

/// Label of the name of a node.
const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// Kubernetes' default constraints: label and skew.
const SYSTEM_DEFAULTS: [(&str, i64); 2] = [(HOSTNAME, 3), (ZONE, 5)];

/// Whether a node will do, as far as it does not depend on the pods on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Verdict {
    #[default]
    Fine,
    Unschedulable,
    Taint,
    NodeAffinity,
}

impl Verdict {
    pub(super) fn fine(self) -> Result<(), Fail> {
        match self {
            Verdict::Fine => Ok(()),
            Verdict::Unschedulable => Err(Fail::Unschedulable),
            Verdict::Taint => Err(Fail::Taint),
            Verdict::NodeAffinity => Err(Fail::NodeAffinity),
        }
    }
}

/// What a class finds of a node, whatever pods are on it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fixed {
    /// The version of the node that this was found of; 0 is none.
    version: u32,
    pub(super) verdict: Verdict,
    /// Taints that would rather not have the pod.
    pub(super) disliked: u8,
    /// The score of its images.
    pub(super) images: u8,
    /// The sum of the preferences that it satisfies.
    pub(super) preference: i32,
}

/// A constraint that forbids.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hard {
    pub(super) tally: u32,
    pub(super) max_skew: i64,
    pub(super) min_domains: u32,
    /// The pod is one of those that are counted.
    pub(super) counts_itself: bool,
}

/// A constraint that prefers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Soft {
    pub(super) tally: u32,
    pub(super) max_skew: i64,
    /// Each node is a domain.
    pub(super) by_node: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Prepared {
    fixed: Vec<Fixed>,
    images_epoch: u64,
    owned_epoch: Option<u64>,
    pub(super) required: Vec<u32>,
    /// The class matches its own required terms.
    pub(super) wants_itself: bool,
    pub(super) anti: Vec<u32>,
    pub(super) preferred: Vec<(i64, u32)>,
    pub(super) hard: Vec<Hard>,
    pub(super) soft: Vec<Soft>,
    /// Nodes without all labels of the soft constraints are not scored by them.
    pub(super) all_labels: bool,
    /// Terms of existing pods that forbid this one.
    pub(super) blocking: Vec<u32>,
    /// Terms of existing pods that weigh for or against this one.
    pub(super) weighing: Vec<(i64, u32)>,
    /// When it was used last.
    pub(super) used: u64,
}

/// How many nodes have an image, and how many nodes there are.
pub(super) struct Images<'a> {
    pub(super) nodes: usize,
    pub(super) with: &'a dyn Fn(&str) -> u32,
}

impl Prepared {
    /// `services` are the selectors of the services that select the class's pods.
    pub(super) fn new(
        class: &Class,
        profile: &Profile,
        services: Option<Scope>,
        counts: &mut Counts,
        world: &World<'_>,
    ) -> Self {
        let mut prepared = Prepared::default();
        let terms = &class.terms;
        let all: Vec<&Scope> = terms.required.iter().map(|term| &term.scope).collect();
        for term in &terms.required {
            prepared.required.push(counts.tally(&all, false, &term.topology, Eligibility::default(), world));
        }
        prepared.wants_itself = all.iter().all(|scope| scope.matches(class, world.namespaces));
        let mut tally = |term: &super::terms::Term| {
            counts.tally(&[&term.scope], false, &term.topology, Eligibility::default(), world)
        };
        prepared.anti = terms.anti.iter().map(&mut tally).collect();
        prepared.preferred = terms.preferred.iter().map(|(weight, term)| (*weight, tally(term))).collect();
        prepared.spread(class, profile, services, counts, world);
        prepared
    }

    fn spread(
        &mut self,
        class: &Class,
        profile: &Profile,
        services: Option<Scope>,
        counts: &mut Counts,
        world: &World<'_>,
    ) {
        let (mut hard, mut soft) = (class.hard.clone(), class.soft.clone());
        self.all_labels = class.constrained || profile.default_constraints.is_some();
        let by_owner = class
            .owner
            .as_ref()
            .map(|uid| Scope::Owner { namespace: class.namespace.clone(), uid: uid.clone() });
        if let Some(scope) = by_owner.or(services).filter(|_| !class.constrained) {
            (hard, soft) = defaults(profile, class, &scope);
        }
        let labels = |constraints: &[Constraint]| -> Vec<String> {
            constraints.iter().map(|constraint| constraint.topology.clone()).collect()
        };
        let eligible = |constraint: &Constraint, labels: &[String]| Eligibility {
            labels: labels.to_vec(),
            affinity: (constraint.honors_affinity && !class.affinity.is_empty())
                .then(|| class.affinity.required_only()),
            tolerations: constraint.honors_taints.then(|| class.tolerations.clone()),
        };
        let of_hard = labels(&hard);
        for constraint in &hard {
            let scope = [&constraint.scope];
            let eligibility = eligible(constraint, &of_hard);
            self.hard.push(Hard {
                tally: counts.tally(&scope, true, &constraint.topology, eligibility, world),
                max_skew: constraint.max_skew,
                min_domains: constraint.min_domains,
                counts_itself: constraint.scope.matches(class, world.namespaces),
            });
        }
        let of_soft = if self.all_labels { labels(&soft) } else { Vec::new() };
        for constraint in &soft {
            let scope = [&constraint.scope];
            let eligibility = eligible(constraint, &of_soft);
            self.soft.push(Soft {
                tally: counts.tally(&scope, true, &constraint.topology, eligibility, world),
                max_skew: constraint.max_skew,
                by_node: constraint.topology == HOSTNAME,
            });
        }
    }

    /// All tallies that it holds.
    pub(super) fn tallies(&self) -> impl Iterator<Item = u32> {
        let hard = self.hard.iter().map(|hard| hard.tally);
        let soft = self.soft.iter().map(|soft| soft.tally);
        let preferred = self.preferred.iter().map(|(_, tally)| *tally);
        let listed = self.required.iter().chain(&self.anti).copied();
        listed.chain(preferred).chain(hard).chain(soft)
    }

    /// Looks again at what may have changed since it was used last.
    pub(super) fn refresh(
        &mut self,
        class: &Class,
        counts: &Counts,
        namespaces: &super::terms::Namespaces,
        images_epoch: u64,
    ) {
        if self.owned_epoch != Some(counts.owned_epoch()) {
            self.owned_epoch = Some(counts.owned_epoch());
            self.blocking.clear();
            self.weighing.clear();
            for (kind, number) in counts.owned_matching(class, namespaces) {
                match kind {
                    Kind::Forbids => self.blocking.push(number),
                    Kind::Weighs(weight) => self.weighing.push((weight, number)),
                }
            }
        }
        if self.images_epoch != images_epoch {
            self.images_epoch = images_epoch;
            if !class.images.is_empty() {
                self.fixed.clear();
            }
        }
    }

    /// What the class finds of the node, from what is known if possible.
    pub(super) fn look(
        &self,
        class: &Class,
        number: u32,
        version: u32,
        nodes: &[NodeState],
        images: &Images<'_>,
    ) -> Fixed {
        match self.fixed.get(number as usize) {
            Some(known) if known.version == version => *known,
            _ => find(class, version, &nodes[number as usize], images),
        }
    }

    /// What the class finds of the node.
    pub(super) fn fixed(
        &mut self,
        class: &Class,
        number: u32,
        version: u32,
        nodes: &[NodeState],
        images: &Images<'_>,
    ) -> Fixed {
        match self.fixed.get(number as usize) {
            Some(known) if known.version == version => *known,
            _ => {
                let found = find(class, version, &nodes[number as usize], images);
                *slot(&mut self.fixed, number) = found;
                found
            }
        }
    }
}

#[cold]
fn find(class: &Class, version: u32, node: &NodeState, images: &Images<'_>) -> Fixed {
    let verdict = if node.is_cordoned() && !taints::tolerates_cordon(&class.tolerations) {
        Verdict::Unschedulable
    } else if taints::untolerated(node.taints(), &class.tolerations).is_some() {
        Verdict::Taint
    } else if !class.affinity.matches(node.labels(), node.name()) {
        Verdict::NodeAffinity
    } else {
        Verdict::Fine
    };
    let disliked = u8::try_from(taints::disliked(node.taints(), &class.tolerations)).unwrap_or(u8::MAX);
    let preference = class.affinity.preference(node.labels(), node.name());
    Fixed {
        version,
        verdict,
        disliked,
        images: image_score(class, node, images),
        preference: i32::try_from(preference).unwrap_or(i32::MAX),
    }
}

/// Images smaller than the first make no difference, larger than the second for each container no more.
/// Kubernetes' numbers.
const SMALL: i64 = 23 << 20;
const LARGE: i64 = 1000 << 20;

/// How much of the pod's images the node has, where an image counts by how many nodes have it: otherwise
/// the first node with an image would attract all pods.
fn image_score(class: &Class, node: &NodeState, images: &Images<'_>) -> u8 {
    let total = i128::try_from(images.nodes.max(1)).unwrap_or(i128::MAX);
    let present = class.images.iter().filter_map(|image| Some((image, *node.images().get(image)?)));
    let sum: i64 = present
        .map(|(image, size)| {
            let scaled = i128::from(size) * i128::from((images.with)(image)) / total;
            i64::try_from(scaled).unwrap_or(i64::MAX)
        })
        .fold(0, i64::saturating_add);
    let large = LARGE.saturating_mul(i64::try_from(class.images.len().max(1)).unwrap_or(i64::MAX));
    let score = 100 * (sum.clamp(SMALL, large) - SMALL) / (large - SMALL);
    u8::try_from(score).unwrap_or(100)
}

/// The constraints of the profile, for the pods of `scope`.
fn defaults(profile: &Profile, class: &Class, scope: &Scope) -> (Vec<Constraint>, Vec<Constraint>) {
    let Some(constraints) = &profile.default_constraints else {
        let soft = SYSTEM_DEFAULTS.map(|(topology, max_skew)| Constraint {
            scope: scope.clone(),
            topology: topology.to_owned(),
            max_skew,
            min_domains: 1,
            honors_affinity: true,
            honors_taints: false,
        });
        return (Vec::new(), soft.into());
    };
    let of = |action: &str| {
        let chosen = constraints.iter().filter(|constraint| constraint.when_unsatisfiable == action);
        let constraint = chosen.map(|constraint| Constraint {
            scope: scope.clone(),
            ..Constraint::of(constraint, &class.namespace, &class.labels)
        });
        constraint.collect()
    };
    (of("DoNotSchedule"), of("ScheduleAnyway"))
}
