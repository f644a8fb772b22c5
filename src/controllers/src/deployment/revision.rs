//! Which replica set has the deployment's template, and the numbers of its versions.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::bounds::Bounds;
use crate::{claim, hash::hash, pods};

pub(super) const HASH: &str = "pod-template-hash";
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const ROLLBACK: &str = "deprecated.deployment.rollback.to";

/// Annotations of a deployment that are not its replica sets'.
const NOT_COPIED: [&str; 6] = [LAST_APPLIED, REVISION, HISTORY, DESIRED, MAX, ROLLBACK];

/// A history of old revision numbers does not grow beyond this many bytes. Kubernetes' number.
const HISTORY_LIMIT: usize = 2000;

/// True if the replica set has the deployment's template, apart from the label with the hash.
pub(super) fn has_template(set: &ReplicaSet, deployment: &Deployment) -> bool {
    let Some(spec) = &deployment.spec else { return false };
    let template = set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
    without_hash(template) == without_hash(spec.template.clone())
}

fn without_hash(mut template: PodTemplateSpec) -> PodTemplateSpec {
    let meta = template.metadata.get_or_insert_default();
    meta.creation_timestamp = None;
    meta.annotations = meta.annotations.take().filter(|annotations| !annotations.is_empty());
    if let Some(labels) = &mut meta.labels {
        labels.remove(HASH);
        meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
    }
    template
}

/// The revision that a replica set last served; 0 if it says none.
pub(super) fn revision(set: &ReplicaSet) -> i64 {
    annotation(&set.metadata, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

pub(super) fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

/// A number that the deployment left in an annotation of a replica set.
pub(super) fn number(set: &ReplicaSet, name: &str) -> Option<i32> {
    annotation(&set.metadata, name).and_then(|text| text.parse().ok())
}

/// The most pods that the deployment could have when it last scaled this replica set.
pub(super) fn max_replicas(set: &ReplicaSet) -> Option<i32> {
    number(set, MAX)
}

/// Notes how many pods the deployment wants and may have. False if it was noted already.
pub(super) fn note_size(set: &mut ReplicaSet, bounds: &Bounds) -> bool {
    let desired = note(set, DESIRED, bounds.replicas.to_string());
    let most = note(set, MAX, bounds.most().to_string());
    desired || most
}

fn note(set: &mut ReplicaSet, name: &str, value: String) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(name.to_owned(), value.clone()) != Some(value)
}

/// Brings the replica set of the current template up to date: the deployment's annotations, and a
/// revision that is higher than those of all others. A replica set that was rolled back to remembers
/// its older revisions.
pub(super) fn refresh(set: &mut ReplicaSet, deployment: &Deployment, newest_other: i64) {
    copy_annotations(set, deployment);
    let next = newest_other.saturating_add(1);
    let old = revision(set);
    let known = annotation(&set.metadata, REVISION).is_some();
    if old < next {
        note(set, REVISION, next.to_string());
        if known {
            let history = annotation(&set.metadata, HISTORY).unwrap_or_default();
            let mut all: Vec<&str> = history.split(',').filter(|text| !text.is_empty()).collect();
            let old = old.to_string();
            all.push(&old);
            while all.len() > 1 && all.iter().map(|text| text.len() + 1).sum::<usize>() > HISTORY_LIMIT {
                all.remove(0);
            }
            let history = all.join(",");
            note(set, HISTORY, history);
        }
    }
    if let (Some(set), Some(spec)) = (&mut set.spec, &deployment.spec)
        && set.min_ready_seconds.unwrap_or(0) != spec.min_ready_seconds.unwrap_or(0)
    {
        set.min_ready_seconds = spec.min_ready_seconds;
    }
}

fn copy_annotations(set: &mut ReplicaSet, deployment: &Deployment) {
    for (name, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&name.as_str()) {
            note(set, name, value.clone());
        }
    }
}

/// The replica set for the deployment's template, of no size yet.
pub(super) fn replica_set(deployment: &Deployment, newest_other: i64) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let mut template = spec.template;
    let name = hash(&template, collisions);
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH.to_owned(), name.clone());
    let labels = labels.clone();
    let mut selector = spec.selector;
    let selected: &mut BTreeMap<_, _> = selector.match_labels.get_or_insert_default();
    selected.insert(HASH.to_owned(), name.clone());
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{name}", pods::name(&deployment.metadata))),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: claim::owner_reference(deployment).map(|reference| vec![reference]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    refresh(&mut set, deployment, newest_other);
    set
}
