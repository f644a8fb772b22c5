//! What is to be said about a namespace that is being deleted.

use std::collections::BTreeMap;

use coracle_client::clock;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

/// The finalizer in `spec.finalizers` that this controller removes.
pub(super) const FINALIZER: &str = "kubernetes";

/// What is left in a namespace after everything was told to go.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Groups of which it is not known what they serve.
    pub(super) undiscovered: Vec<String>,
    /// Kinds that could not be deleted, and why.
    pub(super) failed: BTreeMap<String, String>,
    /// How many objects are left of each kind.
    pub(super) left: BTreeMap<String, usize>,
    /// How many objects wait for each finalizer.
    pub(super) finalizers: BTreeMap<String, usize>,
}

impl Content {
    /// True if the namespace may go.
    pub(super) fn is_empty(&self) -> bool {
        self.undiscovered.is_empty() && self.failed.is_empty() && self.left.is_empty()
    }
}

/// Since when the namespace is being deleted, if it waits for this controller.
pub(super) fn deleting_since(home: &Namespace) -> Option<Timestamp> {
    let finalizers = home.spec.as_ref().and_then(|spec| spec.finalizers.as_ref());
    let ours = finalizers.into_iter().flatten().any(|finalizer| finalizer == FINALIZER);
    home.metadata.deletion_timestamp.as_ref().filter(|_| ours).map(|time| time.0)
}

/// The status to be written, if it says something new. The words are Kubernetes'.
pub(super) fn status(home: &Namespace, content: &Content, now: Timestamp) -> Option<NamespaceStatus> {
    let old = home.status.clone().unwrap_or_default();
    let mut conditions = old.conditions.clone().unwrap_or_default();
    for (type_, failure, fine) in said(content) {
        let (status, reason, message) = match failure {
            Some((reason, message)) => ("True", reason, message),
            None => ("False", fine.0, fine.1.to_owned()),
        };
        let found = conditions.iter().position(|condition| condition.type_ == type_);
        let since = found
            .map(|at| &conditions[at])
            .filter(|condition| condition.status == status)
            .and_then(|condition| condition.last_transition_time.clone());
        let condition = NamespaceCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(since.unwrap_or_else(|| Time(clock::seconds(now)))),
        };
        match found {
            Some(at) => conditions[at] = condition,
            None => conditions.push(condition),
        }
    }
    let new = NamespaceStatus { phase: Some("Terminating".to_owned()), conditions: Some(conditions) };
    (new != old).then_some(new)
}

type Said = (&'static str, Option<(&'static str, String)>, (&'static str, &'static str));

/// Each condition: what is wrong, if anything, and what is said otherwise.
fn said(content: &Content) -> [Said; 5] {
    let counted = |counts: &BTreeMap<String, usize>, between: &str| {
        let counts: Vec<_> = counts
            .iter()
            .map(|(name, count)| format!("{name} {between} {count} resource instances"))
            .collect();
        counts.join(", ")
    };
    let undiscovered = (!content.undiscovered.is_empty()).then(|| {
        let (count, groups) = (content.undiscovered.len(), content.undiscovered.join(", "));
        ("DiscoveryFailed", format!("Discovery failed for some groups, {count} failing: {groups}"))
    });
    let failed = (!content.failed.is_empty()).then(|| {
        let errors: Vec<_> = content.failed.values().map(String::as_str).collect();
        let count = errors.len();
        let message =
            format!("Failed to delete all resource types, {count} remaining: {}", errors.join(", "));
        ("ContentDeletionFailed", message)
    });
    let left = (!content.left.is_empty()).then(|| {
        ("SomeResourcesRemain", format!("Some resources are remaining: {}", counted(&content.left, "has")))
    });
    let finalizers = (!content.finalizers.is_empty()).then(|| {
        let names = counted(&content.finalizers, "in");
        ("SomeFinalizersRemain", format!("Some content in the namespace has finalizers remaining: {names}"))
    });
    [
        (
            "NamespaceDeletionDiscoveryFailure",
            undiscovered,
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        (
            "NamespaceDeletionContentFailure",
            failed,
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        ("NamespaceContentRemaining", left, ("ContentRemoved", "All content successfully removed")),
        (
            "NamespaceFinalizersRemaining",
            finalizers,
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ]
}
