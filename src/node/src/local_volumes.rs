//! Persistent volumes that are folders of this node: `<data>/volumes/<volume handle>`, made when a pod uses one
//! first, removed with the object unless that says that its data is to be retained.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use coracle_api::quantity::Quantity;
use coracle_client::{Delta, During, Informer, Key, ReconcileError, WorkQueue, is_not_found, run_workers};
use coracle_vfs::{VfsError, Volume};
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, PersistentVolume};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use parking_lot::Mutex;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::dirs;

/// Who provides such volumes.
pub(crate) const DRIVER: &str = "local.coracle.dev";
/// What keeps the object until the folder is gone.
const FINALIZER: &str = "coracle.dev/local-volume";
const HOST_NAME: &str = "kubernetes.io/hostname";

/// The folders of this node that are volumes.
pub(crate) struct LocalVolumes {
    dir: PathBuf,
    /// By handle. Nothing is waited for under this lock.
    open: Mutex<BTreeMap<String, Open>>,
}

/// What pods that use the same volume share, so that they see the same files, locks and limit.
#[derive(Default)]
struct Open {
    /// Held while the folder is measured, which takes as long as the folder is large.
    opening: Arc<Mutex<()>>,
    volume: Option<Volume>,
    /// What its object said last that it may hold.
    limit: Option<u64>,
}

impl LocalVolumes {
    pub(crate) fn new(dir: PathBuf) -> LocalVolumes {
        LocalVolumes { dir, open: Mutex::default() }
    }

    /// The volume with this handle, made if it is not there. It holds at most what the object says. Blocking.
    pub(crate) fn open(&self, volume: &PersistentVolume, handle: &str) -> Result<Volume, VfsError> {
        let dir = self.folder(handle).ok_or(VfsError::Invalid)?;
        let limit = capacity(volume);
        let opening = self.opening(handle);
        let _one_at_a_time = opening.lock();
        if let Some(known) = self.tell(handle, limit)
            && (known.usage().limit == limit || limit.is_some_and(|limit| known.set_limit(limit).is_ok()))
        {
            return Ok(known);
        }
        std::fs::create_dir_all(&dir).map_err(VfsError::Io)?;
        let volume = Volume::host(&dir, limit)?;
        // If its object is gone meanwhile, nobody will share it.
        if let Some(entry) = self.open.lock().get_mut(handle) {
            if entry.limit != limit
                && let Some(grown) = entry.limit
            {
                volume.set_limit(grown)?;
            }
            entry.volume = Some(volume.clone());
        }
        Ok(volume)
    }

    /// Whoever opens the volume holds this.
    pub(crate) fn opening(&self, handle: &str) -> Arc<Mutex<()>> {
        self.open.lock().entry(handle.to_owned()).or_default().opening.clone()
    }

    /// Notes what a volume in use may hold; the volume, if it is open already.
    fn tell(&self, handle: &str, limit: Option<u64>) -> Option<Volume> {
        let mut open = self.open.lock();
        let entry = open.get_mut(handle)?;
        entry.limit = limit;
        entry.volume.clone()
    }

    /// A volume in use that has become larger takes more at once.
    fn grow(&self, volume: &PersistentVolume) {
        let Some(limit) = capacity(volume) else { return };
        if let Some(known) = handle_of(volume).and_then(|handle| self.tell(handle, Some(limit)))
            && known.usage().limit != Some(limit)
            && let Err(error) = known.set_limit(limit)
        {
            tracing::warn!(volume = volume.metadata.name, %error, "a volume cannot be given another size");
        }
    }

    /// Who opens it next has it anew.
    fn forget(&self, volume: &PersistentVolume) {
        if let Some(handle) = handle_of(volume) {
            self.open.lock().remove(handle);
        }
    }

    /// Removes folders whose objects are deleted and follows the sizes of the others, until the informer ends.
    pub(crate) async fn run(
        self: Arc<Self>,
        client: Client,
        volumes: Informer<PersistentVolume>,
        node: String,
        stop: CancellationToken,
    ) {
        let queue: WorkQueue<Key> = WorkQueue::new();
        let feed = async {
            let mut deltas = volumes.subscribe();
            while let Some(delta) = deltas.next().await {
                let volume = match &delta {
                    Delta::Added(volume) | Delta::Updated { new: volume, .. } => volume,
                    Delta::Deleted(volume) => {
                        self.forget(volume);
                        continue;
                    }
                };
                if !is_here(volume, &node) {
                    continue;
                }
                self.grow(volume);
                if waits(volume) {
                    queue.add(Key::of(&volume.metadata));
                }
            }
        };
        let feeding = async {
            stop.run_until_cancelled(feed).await;
            queue.shutdown();
        };
        let (this, known) = (self.clone(), volumes.clone());
        let reconcile = move |key: Key| {
            let (this, known, client) = (this.clone(), known.clone(), client.clone());
            async move { Box::pin(this.reclaim(&client, &known, &key)).await }
        };
        tokio::join!(feeding, run_workers("local-volumes", queue.clone(), 1, reconcile));
    }

    async fn reclaim(
        &self,
        client: &Client,
        volumes: &Informer<PersistentVolume>,
        key: &Key,
    ) -> Result<Option<Duration>, ReconcileError> {
        let Some(volume) = volumes.get(key).filter(|volume| waits(volume)) else { return Ok(None) };
        if let Some(dir) = handle_of(&volume).and_then(|handle| self.folder(handle)) {
            self.forget(&volume);
            if !retains(&volume) {
                remove(dir).await.map_err(ReconcileError::NotYet)?;
            }
        }
        let finalizers: Vec<&String> =
            volume.metadata.finalizers.iter().flatten().filter(|name| *name != FINALIZER).collect();
        let patch = json!({ "metadata": {
            "uid": volume.metadata.uid,
            "resourceVersion": volume.metadata.resource_version,
            "finalizers": finalizers,
        } });
        let api: Api<PersistentVolume> = Api::all(client.clone());
        match api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(error) if is_not_found(&error) => Ok(None),
            other => other.map(|_| None).during(|| format!("let volume {} go", key.name)),
        }
    }

    /// The folder of a handle; `None` for what is no name of a volume.
    fn folder(&self, handle: &str) -> Option<PathBuf> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let good = !handle.is_empty() && !handle.starts_with('.') && handle.chars().all(plain);
        good.then(|| self.dir.join(handle))
    }
}

/// Whether the data outlives the object: whoever makes another with the same handle has it again.
fn retains(volume: &PersistentVolume) -> bool {
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    policy.is_none_or(|policy| policy == "Retain")
}

async fn remove(dir: PathBuf) -> Result<(), String> {
    let removed = tokio::task::spawn_blocking(move || match dirs::remove(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("cannot remove the folder {}: {error}", dir.display()))
        }
        _ => Ok(()),
    });
    removed.await.unwrap_or_else(|error| Err(error.to_string()))
}

/// The name of the folder of such a volume.
fn handle_of(volume: &PersistentVolume) -> Option<&str> {
    let csi = volume.spec.as_ref()?.csi.as_ref()?;
    (csi.driver == DRIVER).then_some(csi.volume_handle.as_str())
}

fn capacity(volume: &PersistentVolume) -> Option<u64> {
    let storage = volume.spec.as_ref()?.capacity.as_ref()?.get("storage")?;
    u64::try_from(Quantity::parse(&storage.0).ok()?.value()).ok().filter(|bytes| *bytes > 0)
}

/// True for an object that only waits for its folder to be removed... or for others, too.
fn waits(volume: &PersistentVolume) -> bool {
    let local = handle_of(volume).is_some();
    let ours = volume.metadata.finalizers.iter().flatten().any(|name| name == FINALIZER);
    // Whoever still protects it has to let go first: the data may be in use.
    let protected =
        volume.metadata.finalizers.iter().flatten().any(|name| name == "kubernetes.io/pv-protection");
    local && ours && !protected && volume.metadata.deletion_timestamp.is_some()
}

/// True if the volume can be reached from this node: for a folder of a node, if its affinity names this one; for any
/// other, unless its affinity names others. What it asks of other labels the scheduler has seen to.
pub(crate) fn is_here(volume: &PersistentVolume, node: &str) -> bool {
    let spec = volume.spec.as_ref();
    let is_folder = spec.and_then(|spec| spec.csi.as_ref()).is_some_and(|csi| csi.driver == DRIVER);
    let affinity = spec.and_then(|spec| spec.node_affinity.as_ref());
    let Some(required) = affinity.and_then(|affinity| affinity.required.as_ref()) else { return !is_folder };
    required.node_selector_terms.iter().any(|term| {
        let expressions = term.match_expressions.as_deref().unwrap_or_default();
        let about_name = || expressions.iter().filter(|expression| expression.key == HOST_NAME);
        let named = |expression: &NodeSelectorRequirement| {
            expression.values.iter().flatten().any(|value| value == node)
        };
        let fits = about_name().all(|expression| match expression.operator.as_str() {
            "In" => named(expression),
            "NotIn" => !named(expression),
            "Exists" => true,
            _ => false,
        });
        let is_named = about_name().any(|expression| expression.operator == "In");
        !expressions.is_empty() && fits && (is_named || !is_folder)
    })
}

#[cfg(test)]
mod tests {
    use coracle_client::{Informers, test_support::FakeApi};

    use super::*;

    fn volume(size: &str) -> PersistentVolume {
        let value = json!({
            "metadata": { "name": "v" },
            "spec": {
                "capacity": { "storage": size },
                "csi": { "driver": DRIVER, "volumeHandle": "v" },
                "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                    { "key": HOST_NAME, "operator": "In", "values": ["n"] },
                ] }] } },
            },
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn handles_name_folders_and_nothing_else() {
        let volumes = LocalVolumes::new("/data/volumes".into());
        for (handle, folder) in [
            ("pvc-1", Some("/data/volumes/pvc-1")),
            ("", None),
            (".", None),
            ("..", None),
            ("a/b", None),
            ("../x", None),
        ] {
            assert_eq!(volumes.folder(handle), folder.map(PathBuf::from), "{handle:?}");
        }
    }

    #[test]
    fn pods_share_a_volume_and_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = LocalVolumes::new(dir.path().join("volumes"));
        let one = volumes.open(&volume("1Ki"), "v").unwrap();
        let two = volumes.open(&volume("1Ki"), "v").unwrap();
        one.root().create_directory("made").unwrap();
        assert_eq!(two.usage().entries, one.usage().entries);
        assert_eq!(two.usage().limit, Some(1024));
        assert_eq!(volumes.open(&volume("2Ki"), "v").unwrap().usage().limit, Some(2048), "it has grown");
        volumes.grow(&volume("3Ki"));
        assert_eq!([&one, &two].map(|volume| volume.usage().limit), [Some(3072); 2], "who has it has more");
        assert!(dir.path().join("volumes/v/made").is_dir());
    }

    #[test]
    fn nobody_else_waits_while_a_folder_is_measured() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = LocalVolumes::new(dir.path().join("volumes"));
        let opening = volumes.opening("v");
        let measured = opening.lock();
        volumes.grow(&volume("3Ki"));
        volumes.open(&volume("1Ki"), "other").unwrap();
        drop(measured);
        let one = volumes.open(&volume("3Ki"), "v").unwrap();
        assert_eq!(one.usage().limit, Some(3072));

        volumes.forget(&volume("3Ki"));
        assert!(!volumes.open.lock().contains_key("v"), "nothing stays of a volume whose object is gone");
    }

    #[test]
    fn a_volume_is_here_if_its_affinity_says_so() {
        assert!(is_here(&volume("1Ki"), "n"));
        assert!(!is_here(&volume("1Ki"), "other"));
        let mut anywhere = volume("1Ki");
        anywhere.spec.as_mut().unwrap().node_affinity = None;
        assert!(!is_here(&anywhere, "n"), "whose folder is it?");
        anywhere.spec.as_mut().unwrap().csi = None;
        assert!(is_here(&anywhere, "other"));
    }

    #[tokio::test]
    async fn the_folder_goes_with_the_object_unless_it_is_retained() {
        for (policy, stays) in [(None, true), (Some("Retain"), true), (Some("Delete"), false)] {
            let mut going = volume("1Ki");
            going.metadata.finalizers = Some(vec![FINALIZER.into()]);
            going.metadata.deletion_timestamp = Some(coracle_client::clock::time());
            going.spec.as_mut().unwrap().persistent_volume_reclaim_policy = policy.map(str::to_owned);
            let api = FakeApi::new();
            api.create(&going);
            let stop = CancellationToken::new();
            let informers = Informers::new(api.client(), stop.clone());
            let known = informers.get::<PersistentVolume>();
            known.synced().await;
            let dir = tempfile::tempdir().unwrap();
            let volumes = LocalVolumes::new(dir.path().to_owned());
            volumes.open(&going, "v").unwrap();
            volumes.reclaim(&api.client(), &known, &Key::new("", "v")).await.unwrap();
            assert_eq!(dir.path().join("v").exists(), stays, "{policy:?}");
            let held = api.get::<PersistentVolume>("", "v").and_then(|left| left.metadata.finalizers);
            assert!(held.is_none_or(|held| held.is_empty()), "{policy:?}: the object stays");
            stop.cancel();
        }
    }

    #[test]
    fn it_waits_until_nobody_protects_the_data() {
        let mut going = volume("1Ki");
        going.metadata.finalizers = Some(vec![FINALIZER.into()]);
        assert!(!waits(&going));
        going.metadata.deletion_timestamp = Some(coracle_client::clock::time());
        assert!(waits(&going));
        going.metadata.finalizers = Some(vec!["kubernetes.io/pv-protection".into(), FINALIZER.into()]);
        assert!(!waits(&going));
    }
}
