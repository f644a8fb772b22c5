//! Sets of pods that others count: by namespaces and labels, or by their controller.

use std::{collections::BTreeMap, fmt::Write as _};

use coracle_api::selector::LabelSelector;
use k8s_openapi::{
    api::core::v1::{PodAffinityTerm, PodSpec, TopologySpreadConstraint},
    apimachinery::pkg::apis::meta::v1::{self as meta, LabelSelectorRequirement},
};

use super::{affinity::Labels, class::Class};

/// A set of pods.
#[derive(Clone, Debug)]
pub(super) enum Scope {
    /// Pods of these namespaces whose labels match; no selector matches no pod.
    Labels { namespaces: Vec<String>, namespace_selector: Option<LabelSelector>, pods: Option<LabelSelector> },
    /// Pods of one controller.
    Owner { namespace: String, uid: String },
}

/// The labels of the namespaces.
pub(super) type Namespaces = BTreeMap<String, Labels>;

impl Scope {
    /// A text that is equal for equal sets.
    pub(super) fn key(&self) -> String {
        let mut key = String::new();
        // Writing to a string does not fail.
        let _ = match self {
            Scope::Labels { namespaces, namespace_selector, pods } => {
                let namespaces = namespaces.join(",");
                let mut part = |selector: &Option<LabelSelector>| match selector {
                    Some(selector) => write!(key, "[{selector}]"),
                    None => write!(key, "-"),
                };
                part(namespace_selector).and_then(|()| part(pods)).and_then(|()| write!(key, "@{namespaces}"))
            }
            Scope::Owner { namespace, uid } => write!(key, "!{uid}@{namespace}"),
        };
        key
    }

    pub(super) fn selects_namespaces(&self) -> bool {
        matches!(self, Scope::Labels { namespace_selector: Some(_), .. })
    }

    pub(super) fn matches(&self, class: &Class, namespaces: &Namespaces) -> bool {
        match self {
            Scope::Owner { namespace, uid } => {
                class.owner.as_deref() == Some(uid.as_str()) && *namespace == class.namespace
            }
            Scope::Labels { namespaces: names, namespace_selector, pods } => {
                let Some(pods) = pods else { return false };
                let none = Labels::new();
                let inside = names.contains(&class.namespace)
                    || namespace_selector.as_ref().is_some_and(|selector| {
                        selector.matches(namespaces.get(&class.namespace).unwrap_or(&none))
                    });
                inside && pods.matches(&class.labels)
            }
        }
    }
}

/// A term of pod affinity or anti-affinity.
#[derive(Clone, Debug)]
pub(super) struct Term {
    pub(super) scope: Scope,
    pub(super) topology: String,
}

/// All terms of a pod's affinity to others.
#[derive(Clone, Debug, Default)]
pub(super) struct Terms {
    pub(super) required: Vec<Term>,
    pub(super) anti: Vec<Term>,
    /// Weight and term; a weight below zero keeps away.
    pub(super) preferred: Vec<(i64, Term)>,
}

/// A topology spread constraint.
#[derive(Clone, Debug)]
pub(super) struct Constraint {
    pub(super) scope: Scope,
    pub(super) topology: String,
    pub(super) max_skew: i64,
    pub(super) min_domains: u32,
    pub(super) honors_affinity: bool,
    pub(super) honors_taints: bool,
}

impl Terms {
    pub(super) fn of(spec: &PodSpec, namespace: &str, labels: &Labels) -> Self {
        let Some(affinity) = &spec.affinity else { return Terms::default() };
        let term = |term: &PodAffinityTerm| Term::of(term, namespace, labels);
        let mut terms = Terms::default();
        if let Some(pods) = &affinity.pod_affinity {
            let required = pods.required_during_scheduling_ignored_during_execution.iter().flatten();
            terms.required.extend(required.map(term));
            for weighted in pods.preferred_during_scheduling_ignored_during_execution.iter().flatten() {
                terms.preferred.push((i64::from(weighted.weight), term(&weighted.pod_affinity_term)));
            }
        }
        if let Some(pods) = &affinity.pod_anti_affinity {
            let required = pods.required_during_scheduling_ignored_during_execution.iter().flatten();
            terms.anti.extend(required.map(term));
            for weighted in pods.preferred_during_scheduling_ignored_during_execution.iter().flatten() {
                terms.preferred.push((-i64::from(weighted.weight), term(&weighted.pod_affinity_term)));
            }
        }
        terms
    }

    pub(super) fn is_empty(&self) -> bool {
        self.required.is_empty() && self.anti.is_empty() && self.preferred.is_empty()
    }
}

impl Term {
    fn of(term: &PodAffinityTerm, namespace: &str, labels: &Labels) -> Self {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(namespace.to_owned());
        }
        namespaces.sort_unstable();
        let keys = |keys: &Option<Vec<String>>, operator: &'static str| -> Vec<LabelSelectorRequirement> {
            let own = term.label_selector.as_ref().and_then(|selector| selector.match_expressions.as_deref());
            // The API has written them into the selector already, with the labels that the pod was created with.
            let written = |key: &str| {
                own.unwrap_or_default().iter().any(|one| one.key == key && one.operator == operator)
            };
            let open = keys.iter().flatten().filter(|key| !written(key));
            let present = open.filter_map(|key| Some((key, labels.get(key)?)));
            present.map(|(key, value)| requirement(key, operator, value)).collect()
        };
        let mut more = keys(&term.match_label_keys, "In");
        more.extend(keys(&term.mismatch_label_keys, "NotIn"));
        let scope = Scope::Labels {
            namespaces,
            // One that is not valid selects nothing.
            namespace_selector: term
                .namespace_selector
                .as_ref()
                .and_then(|selector| LabelSelector::from_api(selector).ok()),
            pods: term.label_selector.as_ref().and_then(|selector| extended(selector, more)),
        };
        Term { scope, topology: term.topology_key.clone() }
    }
}

impl Constraint {
    pub(super) fn of(constraint: &TopologySpreadConstraint, namespace: &str, labels: &Labels) -> Self {
        let keys = constraint.match_label_keys.iter().flatten();
        let more = keys.filter_map(|key| Some(requirement(key, "In", labels.get(key)?))).collect();
        Constraint {
            scope: Scope::Labels {
                namespaces: vec![namespace.to_owned()],
                namespace_selector: None,
                pods: constraint.label_selector.as_ref().and_then(|selector| extended(selector, more)),
            },
            topology: constraint.topology_key.clone(),
            max_skew: i64::from(constraint.max_skew),
            min_domains: constraint.min_domains.and_then(|least| u32::try_from(least).ok()).unwrap_or(1),
            honors_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honors_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
        }
    }
}

fn requirement(key: &str, operator: &str, value: &str) -> LabelSelectorRequirement {
    LabelSelectorRequirement {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values: Some(vec![value.to_owned()]),
    }
}

/// The selector with more requirements; `None` if it is not valid.
fn extended(selector: &meta::LabelSelector, more: Vec<LabelSelectorRequirement>) -> Option<LabelSelector> {
    if more.is_empty() {
        return LabelSelector::from_api(selector).ok();
    }
    let mut selector = selector.clone();
    selector.match_expressions.get_or_insert_default().extend(more);
    LabelSelector::from_api(&selector).ok()
}
