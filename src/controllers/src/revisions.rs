//! Controller revisions: what the templates of a stateful set or a daemon set were, so that pods of an
//! older one can still be made and `kubectl rollout undo` finds the way back.
//!
//! The data of a revision is a strategic merge patch that puts the whole template back, as Kubernetes
//! stores it and kubectl reads it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use coracle_api::selector::LabelSelector as Selector;
use coracle_client::{During, Informer, Key, ReconcileError, is_already_exists, is_not_found};
use k8s_openapi::{
    api::{apps::v1::ControllerRevision, core::v1::PodTemplateSpec},
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, runtime::RawExtension},
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams, Preconditions},
};
use serde_json::{Value, json};

use crate::{
    claim::{self, Namespaced, claim, settle},
    context::Context,
    hash::hash,
    pods,
};

/// The revisions of a kind's objects.
pub(crate) struct Revisions {
    client: Client,
    informer: Informer<ControllerRevision>,
    /// The label that a revision's hash is under.
    label: &'static str,
}

/// The outcome of making sure that a template has a revision.
#[derive(Debug)]
pub(crate) enum Ensured {
    /// This one.
    Revision(Arc<ControllerRevision>),
    /// The name is taken by a revision of something else: count a collision and try again.
    Collision,
}

/// What is to be done so that a template has the newest revision.
#[derive(Debug, PartialEq)]
enum Newest {
    /// It has.
    Is(Arc<ControllerRevision>),
    /// It has an older one: back to that template.
    Renumber(Box<ControllerRevision>),
    /// It has none.
    Create(Box<ControllerRevision>),
}

/// The data of the revision of a template.
pub(crate) fn snapshot(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).expect("a template is serialisable");
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// The template that a revision keeps; `None` if it keeps none.
pub(crate) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// What a revision adds to the labels of its template: it tells it from others by a glance.
pub(crate) fn label<'a>(revision: &'a ControllerRevision, name: &str) -> &'a str {
    revision.metadata.labels.as_ref().and_then(|labels| labels.get(name)).map_or("", String::as_str)
}

/// What `template` needs; `known` are the owner's revisions, the oldest first.
fn newest<O: Namespaced>(
    owner: &O,
    template: &PodTemplateSpec,
    known: &[Arc<ControllerRevision>],
    label: &str,
    collisions: i32,
) -> Newest {
    let data = snapshot(template);
    let next = known.last().map_or(0, |last| last.revision).saturating_add(1);
    let same = |revision: &&Arc<ControllerRevision>| revision.data.as_ref().is_some_and(|old| old.0 == data);
    if let Some(found) = known.iter().rev().find(same) {
        if found.revision.saturating_add(1) == next {
            return Newest::Is(found.clone());
        }
        let mut revision = (**found).clone();
        revision.revision = next;
        return Newest::Renumber(Box::new(revision));
    }
    let name = hash(&data, Some(collisions));
    let mut labels: BTreeMap<_, _> =
        template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    labels.insert(label.to_owned(), name.clone());
    let meta = owner.meta();
    let mut annotations = meta.annotations.clone().unwrap_or_default();
    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    Newest::Create(Box::new(ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{name}", pods::name(meta))),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
            owner_references: claim::owner_reference(owner).map(|reference| vec![reference]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data)),
        revision: next,
    }))
}

/// The revisions beyond `limit` that no pod is of any more; `live` are the names of those in use.
fn outlived(
    known: &[Arc<ControllerRevision>],
    live: &BTreeSet<String>,
    limit: Option<i32>,
) -> Vec<Arc<ControllerRevision>> {
    let limit = usize::try_from(limit.unwrap_or(10)).unwrap_or(0);
    let unused: Vec<_> =
        known.iter().filter(|revision| !live.contains(pods::name(&revision.metadata))).collect();
    unused.iter().take(unused.len().saturating_sub(limit)).map(|revision| Arc::clone(revision)).collect()
}

impl Revisions {
    pub(crate) fn new(context: &Context, label: &'static str) -> Self {
        let informer: Informer<ControllerRevision> = context.informers.get();
        pods::add_indexes(&informer);
        Revisions { client: context.client.clone(), informer, label }
    }

    pub(crate) async fn synced(&self) {
        self.informer.synced().await;
    }

    /// The owner's revisions, the oldest first; adopts and releases what is to be.
    pub(crate) async fn claim<O: Namespaced>(
        &self,
        owner: &O,
        selector: &Selector,
    ) -> Result<Vec<Arc<ControllerRevision>>, ReconcileError> {
        let candidates = pods::candidates(&self.informer, owner.meta());
        let selects = |revision: &ControllerRevision| selector.matches(&revision.metadata.labels.as_ref());
        let claims = claim(owner.meta(), &candidates, selects);
        settle(&self.client, owner, &claims, None).await?;
        let mut known = claims.owned;
        known.sort_by_cached_key(|revision| {
            let created = revision.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (revision.revision, created, pods::name(&revision.metadata).to_owned())
        });
        Ok(known)
    }

    /// Makes sure that `template` has the newest of the `known` revisions.
    pub(crate) async fn ensure<O: Namespaced>(
        &self,
        owner: &O,
        template: &PodTemplateSpec,
        known: &[Arc<ControllerRevision>],
        collisions: i32,
    ) -> Result<Ensured, ReconcileError> {
        let api: Api<ControllerRevision> =
            Api::namespaced(self.client.clone(), pods::namespace(owner.meta()));
        match newest(owner, template, known, self.label, collisions) {
            Newest::Is(revision) => Ok(Ensured::Revision(revision)),
            Newest::Renumber(revision) => {
                let name = pods::name(&revision.metadata);
                let written = api
                    .replace(name, &PostParams::default(), &revision)
                    .await
                    .during(|| format!("renumber controller revision {name}"))?;
                Ok(Ensured::Revision(Arc::new(written)))
            }
            Newest::Create(revision) => {
                let name = pods::name(&revision.metadata);
                match api.create(&PostParams::default(), &revision).await {
                    Err(error) if is_already_exists(&error) => {
                        let there =
                            api.get(name).await.during(|| format!("read controller revision {name}"))?;
                        let owner = pods::controller_of(&there.metadata).map(|owner| owner.uid.as_str());
                        let same = there.data == revision.data
                            && owner
                                == revision.metadata.owner_references.as_ref().map(|o| o[0].uid.as_str());
                        Ok(if same { Ensured::Revision(Arc::new(there)) } else { Ensured::Collision })
                    }
                    other => other
                        .map(|created| Ensured::Revision(Arc::new(created)))
                        .during(|| format!("create controller revision {name}")),
                }
            }
        }
    }

    /// Deletes what is beyond `limit` and not in use.
    pub(crate) async fn truncate(
        &self,
        known: &[Arc<ControllerRevision>],
        live: &BTreeSet<String>,
        limit: Option<i32>,
    ) -> Result<(), ReconcileError> {
        for revision in outlived(known, live, limit) {
            let key = Key::of(&revision.metadata);
            let preconditions = Preconditions { uid: revision.metadata.uid.clone(), resource_version: None };
            let options = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            let api: Api<ControllerRevision> = Api::namespaced(self.client.clone(), &key.namespace);
            match api.delete(&key.name, &options).await {
                Err(error) if is_not_found(&error) => {}
                other => drop(other.during(|| format!("delete controller revision {key}"))?),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::StatefulSet;

    use super::*;
    use crate::testing;

    fn owner() -> StatefulSet {
        let mut owner = StatefulSet { metadata: testing::meta("web"), ..StatefulSet::default() };
        owner.metadata.uid = Some("u".to_owned());
        owner
    }

    fn revision(version: &str, number: i64) -> Arc<ControllerRevision> {
        match newest(&owner(), &testing::template(version), &[], "hash", 0) {
            Newest::Create(mut revision) => {
                revision.revision = number;
                Arc::from(revision)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn data_is_what_kubectl_reads() {
        let revision = revision("v1", 1);
        let data = &revision.data.as_ref().expect("has some").0;
        assert_eq!(data["spec"]["template"]["$patch"], "replace");
        assert_eq!(data["spec"]["template"]["spec"]["containers"][0]["image"], "v1");
        assert_eq!(template(&revision), Some(testing::template("v1")));
        assert_eq!(revision.metadata.name, Some(format!("web-{}", label(&revision, "hash"))));
        assert_eq!(revision.metadata.labels.as_ref().expect("has some")["app"], "web");
    }

    #[test]
    fn the_newest_is_found_renumbered_or_created() {
        let known = [revision("v1", 1), revision("v2", 2)];
        let newest = |version| newest(&owner(), &testing::template(version), &known, "hash", 0);
        assert_eq!(newest("v2"), Newest::Is(known[1].clone()));
        match newest("v1") {
            Newest::Renumber(back) => {
                assert_eq!((back.metadata.name.clone(), back.revision), (known[0].metadata.name.clone(), 3));
            }
            other => panic!("{other:?}"),
        }
        match newest("v3") {
            Newest::Create(next) => assert_eq!(next.revision, 3),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn history_is_limited_to_what_is_not_in_use() {
        let known = [revision("v1", 1), revision("v2", 2), revision("v3", 3), revision("v4", 4)];
        let live = [&known[0], &known[3]].map(|revision| pods::name(&revision.metadata).to_owned());
        let gone = outlived(&known, &live.into(), Some(1));
        assert_eq!(gone, [known[1].clone()]);
        assert!(outlived(&known, &BTreeSet::new(), None).is_empty());
    }
}
