//! The objects that pods refer to (ConfigMaps, Secrets, claims and their volumes, tokens, images of volumes): read
//! from the shared informers, with a word to the pods that use one when it changes.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Weak},
};

use bytes::Bytes;
use coracle_client::{Delta, Deltas, Informer, Informers, Key};
use coracle_image::{Images, Reference as ImageReference};
use coracle_vfs::{VfsError, Volume};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, PersistentVolume, PersistentVolumeClaim, Pod, PodSpec, Secret,
    ServiceAccountTokenProjection,
};
use parking_lot::Mutex;

use crate::{
    env,
    handle::PodHandle,
    local_volumes::{self, LocalVolumes},
    tokens::Tokens,
    volumes::{self, ImageContent, VolumeSources},
};

/// What the module of an image is called in an image volume, if the image gives it no name.
const MODULE: &str = "module.wasm";

/// The kind of a referenced object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum SourceKind {
    ConfigMap,
    Secret,
    Claim,
}

/// An object that a pod refers to, in the pod's namespace.
pub(crate) type Reference = (SourceKind, String);

/// Live copies of the objects, and who uses them.
pub(crate) struct Sources {
    config_maps: Informer<ConfigMap>,
    secrets: Informer<Secret>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    local: Arc<LocalVolumes>,
    tokens: Arc<Tokens>,
    images: Arc<Images>,
    /// The name of this node.
    node: String,
    users: Mutex<Users>,
}

/// Who uses an object.
type Users = HashMap<(SourceKind, Key), Vec<Weak<PodHandle>>>;

impl Sources {
    pub(crate) fn new(
        informers: &Informers,
        node: &str,
        local: Arc<LocalVolumes>,
        tokens: Arc<Tokens>,
        images: Arc<Images>,
    ) -> Sources {
        Sources {
            config_maps: informers.get(),
            secrets: informers.get(),
            claims: informers.get(),
            volumes: informers.get(),
            local,
            tokens,
            images,
            node: node.to_owned(),
            users: Mutex::default(),
        }
    }

    /// Waits until the copies are complete: before that, "not found" means nothing.
    pub(crate) async fn synced(&self) {
        tokio::join!(
            self.config_maps.synced(),
            self.secrets.synced(),
            self.claims.synced(),
            self.volumes.synced(),
        );
    }

    /// Tells `handle` from now on when an object it refers to changes.
    pub(crate) fn watch(&self, handle: &Arc<PodHandle>, references: &BTreeSet<Reference>) {
        if references.is_empty() {
            return;
        }
        let mut users = self.users.lock();
        for (kind, name) in references {
            let key = (*kind, Key::new(handle.key().namespace.clone(), name.clone()));
            users.entry(key).or_default().push(Arc::downgrade(handle));
        }
    }

    /// The end of [`Sources::watch`].
    pub(crate) fn unwatch(&self, handle: &Arc<PodHandle>, references: &BTreeSet<Reference>) {
        if references.is_empty() {
            return;
        }
        let mut users = self.users.lock();
        for (kind, name) in references {
            let key = (*kind, Key::new(handle.key().namespace.clone(), name.clone()));
            let Some(list) = users.get_mut(&key) else { continue };
            list.retain(|user| !std::ptr::eq(user.as_ptr(), Arc::as_ptr(handle)));
            if list.is_empty() {
                users.remove(&key);
            }
        }
    }

    /// The volumes that are folders of this node.
    #[cfg(test)]
    pub(crate) fn local_volumes(&self) -> &LocalVolumes {
        &self.local
    }

    /// How many objects are watched for somebody.
    #[cfg(test)]
    pub(crate) fn watched(&self) -> usize {
        self.users.lock().len()
    }

    /// Passes changes on until the informers end.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut maps = self.config_maps.subscribe();
        let mut secrets = self.secrets.subscribe();
        let mut claims = self.claims.subscribe();
        loop {
            let (kind, key) = tokio::select! {
                change = changed(&mut maps) => match change {
                    Some(key) => (SourceKind::ConfigMap, key),
                    None => return,
                },
                change = changed(&mut secrets) => match change {
                    Some(key) => (SourceKind::Secret, key),
                    None => return,
                },
                change = changed(&mut claims) => match change {
                    Some(key) => (SourceKind::Claim, key),
                    None => return,
                },
            };
            self.tell(kind, key);
        }
    }

    fn tell(&self, kind: SourceKind, key: Key) {
        let mut users = self.users.lock();
        let entry = (kind, key);
        let Some(list) = users.get_mut(&entry) else { return };
        list.retain(|user| {
            user.upgrade().is_some_and(|handle| {
                handle.sources_changed();
                true
            })
        });
        if list.is_empty() {
            users.remove(&entry);
        }
    }
}

async fn changed<K: coracle_client::Object>(deltas: &mut Deltas<K>) -> Option<Key> {
    let delta: Delta<K> = deltas.next().await?;
    Some(Key::of(delta.object().meta()))
}

impl env::Sources for Sources {
    fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<ConfigMap>> {
        self.config_maps.get(&Key::new(namespace, name))
    }

    fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Secret>> {
        self.secrets.get(&Key::new(namespace, name))
    }
}

impl VolumeSources for Sources {
    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        self.claims.get(&Key::new(namespace, name))
    }

    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.volumes.get(&Key::cluster(name))
    }

    fn local_volume(&self, volume: &PersistentVolume, handle: &str) -> Result<Volume, VfsError> {
        self.local.open(volume, handle)
    }

    fn is_here(&self, volume: &PersistentVolume) -> bool {
        local_volumes::is_here(volume, &self.node)
    }

    fn token(&self, pod_uid: &str, projection: &ServiceAccountTokenProjection) -> Option<Bytes> {
        self.tokens.get(pod_uid, projection)
    }

    fn image(&self, reference: &str) -> Option<ImageContent> {
        let image = self.images.find(&ImageReference::parse(reference).ok()?)?;
        if let Some(files) = image.files {
            return Some(ImageContent::Files { path: files.path, digest: image.digest });
        }
        let named = image.entrypoint.first().and_then(|path| path.rsplit('/').next());
        let named = named.filter(|name| !name.is_empty() && *name != "." && *name != "..");
        Some(ImageContent::Module { path: image.path, name: named.unwrap_or(MODULE).to_owned() })
    }
}

/// Everything that a pod's volumes and environments refer to.
pub(crate) fn references(pod: &Pod) -> BTreeSet<Reference> {
    let mut out = BTreeSet::new();
    let Some(spec) = &pod.spec else { return out };
    of_volumes(pod, spec, &mut out);
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        of_container(container, &mut out);
    }
    let pull = spec.image_pull_secrets.iter().flatten();
    out.extend(pull.map(|reference| (SourceKind::Secret, reference.name.clone())));
    out.retain(|(_, name)| !name.is_empty());
    out
}

fn of_volumes(pod: &Pod, spec: &PodSpec, out: &mut BTreeSet<Reference>) {
    for volume in spec.volumes.iter().flatten() {
        if let Some(source) = &volume.config_map {
            out.insert((SourceKind::ConfigMap, source.name.clone()));
        }
        if let Some(name) = volume.secret.as_ref().and_then(|source| source.secret_name.clone()) {
            out.insert((SourceKind::Secret, name));
        }
        if let Some(name) = volumes::claim_name(pod, volume) {
            out.insert((SourceKind::Claim, name));
        }
        let parts = volume.projected.as_ref().and_then(|source| source.sources.as_ref());
        for part in parts.into_iter().flatten() {
            if let Some(source) = &part.config_map {
                out.insert((SourceKind::ConfigMap, source.name.clone()));
            }
            if let Some(source) = &part.secret {
                out.insert((SourceKind::Secret, source.name.clone()));
            }
        }
    }
}

fn of_container(container: &Container, out: &mut BTreeSet<Reference>) {
    for from in container.env_from.iter().flatten() {
        if let Some(reference) = &from.config_map_ref {
            out.insert((SourceKind::ConfigMap, reference.name.clone()));
        }
        if let Some(reference) = &from.secret_ref {
            out.insert((SourceKind::Secret, reference.name.clone()));
        }
    }
    for from in container.env.iter().flatten().filter_map(|var| var.value_from.as_ref()) {
        if let Some(reference) = &from.config_map_key_ref {
            out.insert((SourceKind::ConfigMap, reference.name.clone()));
        }
        if let Some(reference) = &from.secret_key_ref {
            out.insert((SourceKind::Secret, reference.name.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_way_to_refer_is_found() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "volumes": [
                {"name": "a", "configMap": {"name": "m1"}},
                {"name": "b", "secret": {"secretName": "s1"}},
                {"name": "c", "projected": {"sources": [{"configMap": {"name": "m2"}}, {"secret": {"name": "s2"}}]}},
                {"name": "d", "emptyDir": {}},
                {"name": "e", "persistentVolumeClaim": {"claimName": "c1"}},
                {"name": "f", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
            ],
            "imagePullSecrets": [{"name": "s0"}],
            "initContainers": [{"name": "i", "envFrom": [{"configMapRef": {"name": "m3"}}]}],
            "containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "s3"}}], "env": [
                {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "m1", "key": "k"}}},
                {"name": "Y", "valueFrom": {"secretKeyRef": {"name": "s4", "key": "k"}}},
            ]}],
        }}))
        .unwrap();
        let found: Vec<_> =
            references(&pod).into_iter().map(|(kind, name)| format!("{kind:?} {name}")).collect();
        assert_eq!(
            found,
            [
                "ConfigMap m1",
                "ConfigMap m2",
                "ConfigMap m3",
                "Secret s0",
                "Secret s1",
                "Secret s2",
                "Secret s3",
                "Secret s4",
                "Claim c1",
                "Claim p-f"
            ]
        );
    }
}
