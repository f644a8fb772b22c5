//! Which nodes have the labels that a pod or a volume asks for.

use std::collections::{BTreeMap, BTreeSet};

use coracle_api::placement::matches;
use k8s_openapi::api::core::v1::{NodeSelectorTerm, PodSpec};

pub(super) type Labels = BTreeMap<String, String>;

/// What a pod requires and prefers of the labels of nodes.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeAffinity {
    selector: Labels,
    required: Option<Vec<NodeSelectorTerm>>,
    preferred: Vec<(i32, NodeSelectorTerm)>,
}

/// The only nodes, by name, that a pod may be placed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Any,
    Only(BTreeSet<String>),
    /// The terms contradict themselves.
    Conflict,
}

impl NodeAffinity {
    pub(super) fn of(spec: &PodSpec) -> Self {
        let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let required =
            affinity.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_ref());
        let preferred =
            affinity.and_then(|it| it.preferred_during_scheduling_ignored_during_execution.as_deref());
        NodeAffinity {
            selector: spec.node_selector.clone().unwrap_or_default(),
            required: required.map(|required| required.node_selector_terms.clone()),
            preferred: preferred
                .into_iter()
                .flatten()
                .map(|term| (term.weight, term.preference.clone()))
                .collect(),
        }
    }

    /// True if every node matches.
    pub(super) fn is_empty(&self) -> bool {
        self.selector.is_empty() && self.required.is_none()
    }

    /// Without the preferences.
    pub(super) fn required_only(&self) -> NodeAffinity {
        NodeAffinity { preferred: Vec::new(), ..self.clone() }
    }

    pub(super) fn prefers_none(&self) -> bool {
        self.preferred.is_empty()
    }

    /// True if the node matches `nodeSelector` and the required node affinity.
    pub(super) fn matches(&self, labels: &Labels, name: &str) -> bool {
        self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.required.as_ref().is_none_or(|terms| any_term_matches(terms, labels, name))
    }

    /// The sum of the weights of the preferences that the node satisfies. An empty term satisfies nothing.
    pub(super) fn preference(&self, labels: &Labels, name: &str) -> i64 {
        let satisfied = self.preferred.iter().filter(|(_, term)| matches(term, labels, name));
        satisfied.map(|(weight, _)| i64::from(*weight)).sum()
    }

    /// The nodes that the terms name, if every term names some.
    pub(super) fn named(&self) -> Named {
        let Some(terms) = self.required.as_ref().filter(|terms| !terms.is_empty()) else {
            return Named::Any;
        };
        let mut names = BTreeSet::new();
        for term in terms {
            let fields = term.match_fields.iter().flatten();
            let mut of_term: Option<BTreeSet<String>> = None;
            for field in fields.filter(|field| field.key == "metadata.name" && field.operator == "In") {
                let values: BTreeSet<String> = field.values.iter().flatten().cloned().collect();
                of_term = Some(match of_term {
                    Some(known) => known.intersection(&values).cloned().collect(),
                    None => values,
                });
            }
            // A term that names no node may match any.
            let Some(of_term) = of_term else { return Named::Any };
            names.extend(of_term);
        }
        if names.is_empty() { Named::Conflict } else { Named::Only(names) }
    }
}

/// True if one of the terms matches; without terms nothing does.
pub(super) fn any_term_matches(terms: &[NodeSelectorTerm], labels: &Labels, name: &str) -> bool {
    terms.iter().any(|term| matches(term, labels, name))
}
