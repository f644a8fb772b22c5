//! Static pods: pods from files in a folder of the node, which nobody schedules.
//!
//! The folder is looked at every few seconds. Each file holds one pod; it is created on the API as a mirror
//! pod (named after the node, with Kubernetes' annotations) and run as any other. A mirror pod that is
//! deleted is made again; one whose file has changed or gone is deleted. A file that cannot be read keeps
//! the pod that it stood for.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use coracle_client::{Informer, Key, api_message, clock, is_already_exists, is_not_found};
use coracle_runtime::digest;
use k8s_openapi::{
    api::core::v1::{Node, Pod, PodSpec, Toleration},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams, Preconditions},
};

use crate::context::Context;

/// How often the folder is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// The largest file that is read: objects of the API are not larger either.
const MAX_FILE: u64 = 3 << 20;
/// How many files are read.
const MAX_FILES: usize = 500;

const MIRROR: &str = "kubernetes.io/config.mirror";
const HASH: &str = "kubernetes.io/config.hash";
const SOURCE: &str = "kubernetes.io/config.source";
const SEEN: &str = "kubernetes.io/config.seen";

/// Keeps the pods of the files in `dir` on the API. Ends only by being dropped.
pub(crate) async fn run(context: Arc<Context>, client: Client, nodes: Informer<Node>, dir: PathBuf) {
    let mut folder = Folder { dir, node: context.node_name.clone(), files: HashMap::new() };
    loop {
        let looked = tokio::task::spawn_blocking(move || {
            folder.look();
            folder
        });
        // It only fails when the runtime ends.
        let Ok(seen) = looked.await else { return };
        folder = seen;
        for action in plan(&folder.pods(), &mirrors(&context)) {
            // The Node may have been made anew: what names the old one as its owner would be collected. While there
            // is none, there is nothing to run pods on.
            let Some(node) = nodes.get(&Key::cluster(context.node_name.clone())) else { break };
            if let Err(error) = act(&client, &node, &action).await {
                let error = api_message(&error);
                tracing::warn!(pod = %action.key(), error, "a static pod is not as its file says yet");
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The mirror pods of this node, as the API has them.
fn mirrors(context: &Context) -> Vec<Arc<Pod>> {
    let mut pods = context.pods.list();
    pods.retain(|pod| {
        let spec = pod.spec.as_ref();
        spec.and_then(|spec| spec.node_name.as_deref()) == Some(&context.node_name)
            && mirror_of(pod).is_some()
    });
    pods
}

/// True for a pod that this node made from a file of its own.
pub(crate) fn is_mirror(pod: &Pod, node: &str) -> bool {
    let mut owners = pod.metadata.owner_references.iter().flatten();
    mirror_of(pod).is_some() && owners.any(|owner| owner.kind == "Node" && owner.name == node)
}

/// The hash of the file that a pod mirrors.
fn mirror_of(pod: &Pod) -> Option<&str> {
    let annotations = pod.metadata.annotations.as_ref()?;
    annotations.get(SOURCE).filter(|source| *source == "file")?;
    annotations.get(MIRROR).map(String::as_str)
}

/// What is to be done about a pod.
#[derive(Debug)]
enum Action {
    Create(Arc<Pod>),
    Delete(Arc<Pod>),
}

impl Action {
    fn key(&self) -> Key {
        let (Action::Create(pod) | Action::Delete(pod)) = self;
        Key::of(&pod.metadata)
    }
}

/// Compares what the files want with what there is.
fn plan(wanted: &BTreeMap<Key, Arc<Pod>>, known: &[Arc<Pod>]) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut there = Vec::new();
    for pod in known {
        let key = Key::of(&pod.metadata);
        let same = wanted.get(&key).is_some_and(|wanted| mirror_of(wanted) == mirror_of(pod));
        if !same && pod.metadata.deletion_timestamp.is_none() {
            actions.push(Action::Delete(pod.clone()));
        }
        there.push(key);
    }
    let missing = wanted.iter().filter(|(key, _)| !there.contains(key));
    actions.extend(missing.map(|(_, pod)| Action::Create(pod.clone())));
    actions
}

async fn act(client: &Client, node: &Node, action: &Action) -> Result<(), kube::Error> {
    let key = action.key();
    let pods = Api::<Pod>::namespaced(client.clone(), &key.namespace);
    match action {
        Action::Create(pod) => match pods.create(&PostParams::default(), &owned(pod, node)).await {
            // The informer is not that far yet, or the name belongs to another pod, which keeps it.
            Err(error) if is_already_exists(&error) => Ok(()),
            answer => answer.map(|_| ()),
        },
        Action::Delete(pod) => {
            let preconditions = Preconditions { uid: pod.metadata.uid.clone(), ..Preconditions::default() };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            match pods.delete(&key.name, &params).await {
                Err(error) if is_not_found(&error) => Ok(()),
                answer => answer.map(|_| ()),
            }
        }
    }
}

/// The mirror pod as it is made: it belongs to its node.
fn owned(pod: &Pod, node: &Node) -> Pod {
    let mut pod = pod.clone();
    pod.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        ..OwnerReference::default()
    }]);
    pod
}

/// What is known of the folder.
struct Folder {
    dir: PathBuf,
    /// The node's name.
    node: String,
    files: HashMap<PathBuf, File>,
}

struct File {
    /// When it was changed, and its size: what tells that it must be read again.
    stamp: (Option<SystemTime>, u64),
    pod: Option<Arc<Pod>>,
}

impl Folder {
    /// Takes in what has changed. Blocking.
    fn look(&mut self) {
        let paths = match std::fs::read_dir(&self.dir).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
            Ok(entries) => entries.into_iter().map(|entry| entry.path()),
            Err(error) => {
                // A folder that cannot be read for a moment has not lost its pods.
                if error.kind() == std::io::ErrorKind::NotFound {
                    self.files.clear();
                }
                return;
            }
        };
        let mut paths: Vec<_> = paths.filter(|path| is_manifest(path)).collect();
        paths.sort();
        let mut seen = HashMap::new();
        for path in paths.into_iter().take(MAX_FILES) {
            let metadata = match std::fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() => metadata,
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    let known = self.files.remove(&path);
                    seen.extend(known.map(|file| (path, file)));
                    continue;
                }
                _ => continue,
            };
            let stamp = (metadata.modified().ok(), metadata.len());
            let file = match self.files.remove(&path) {
                Some(file) if file.stamp == stamp => file,
                before => {
                    let pod = match read(&path, metadata.len(), &self.node) {
                        Ok(pod) => Some(Arc::new(pod)),
                        Err(problem) => {
                            tracing::warn!(path = %path.display(), problem, "not a static pod");
                            before.and_then(|file| file.pod)
                        }
                    };
                    File { stamp, pod }
                }
            };
            seen.insert(path, file);
        }
        self.files = seen;
    }

    /// The pods by name; of two files with the same the one whose path comes first counts.
    fn pods(&self) -> BTreeMap<Key, Arc<Pod>> {
        let mut files: Vec<_> = self.files.iter().collect();
        files.sort_by_key(|(path, _)| *path);
        let mut pods = BTreeMap::new();
        for pod in files.into_iter().filter_map(|(_, file)| file.pod.as_ref()) {
            pods.entry(Key::of(&pod.metadata)).or_insert_with(|| pod.clone());
        }
        pods
    }
}

fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().and_then(|extension| extension.to_str());
    !hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}

fn read(path: &Path, size: u64, node: &str) -> Result<Pod, String> {
    if size > MAX_FILE {
        return Err(format!("larger than {MAX_FILE} bytes"));
    }
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    mirror(&text, node)
}

/// The mirror pod of a file, but for its owner.
fn mirror(text: &[u8], node: &str) -> Result<Pod, String> {
    let mut pod: Pod = if text.trim_ascii_start().starts_with(b"{") {
        serde_json::from_slice(text).map_err(|error| error.to_string())?
    } else {
        let value: serde_json::Value =
            serde_saphyr::from_slice(text).map_err(|error| error.without_snippet().to_string())?;
        serde_json::from_value(value).map_err(|error| error.to_string())?
    };
    let meta = &mut pod.metadata;
    let own_name = meta.name.as_deref().filter(|name| !name.is_empty()).ok_or("it has no name")?;
    meta.name = Some(format!("{own_name}-{}", node.to_lowercase()));
    meta.namespace.get_or_insert("default".into());
    meta.uid = None;
    meta.resource_version = None;
    meta.generate_name = None;
    meta.owner_references = None;
    let hash: String = digest(text).chars().skip("sha256:".len()).take(32).collect();
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(HASH.into(), hash.clone());
    annotations.insert(MIRROR.into(), hash);
    annotations.insert(SOURCE.into(), "file".into());
    annotations.insert(SEEN.into(), clock::now().to_string());
    let spec: &mut PodSpec = pod.spec.as_mut().ok_or("it has no spec")?;
    spec.node_name = Some(node.to_owned());
    // It belongs to the node whatever the node's state is.
    spec.tolerations.get_or_insert_default().push(Toleration {
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        ..Toleration::default()
    });
    pod.status = None;
    Ok(pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: i}]}\n";

    fn folder(dir: &Path) -> Folder {
        Folder { dir: dir.into(), node: "Edge".into(), files: HashMap::new() }
    }

    /// What is done about the folder if the API knows these pods.
    fn said(folder: &mut Folder, known: &[Arc<Pod>]) -> Vec<String> {
        folder.look();
        let say = |action: &Action| match action {
            Action::Create(pod) => format!("create {}", Key::of(&pod.metadata)),
            Action::Delete(pod) => format!("delete {}", Key::of(&pod.metadata)),
        };
        plan(&folder.pods(), known).iter().map(say).collect()
    }

    #[test]
    fn pods_follow_their_files() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = folder(dir.path());
        let file = dir.path().join("web.yaml");
        assert_eq!(said(&mut folder, &[]), Vec::<String>::new());
        std::fs::write(dir.path().join("notes.txt"), WEB).unwrap();
        std::fs::write(dir.path().join(".hidden.yaml"), WEB).unwrap();
        std::fs::write(&file, WEB).unwrap();
        assert_eq!(said(&mut folder, &[]), ["create default/web-edge"]);

        let made = folder.pods().into_values().next().unwrap();
        let annotations = made.metadata.annotations.as_ref().unwrap();
        assert_eq!(annotations[MIRROR], annotations[HASH]);
        assert_eq!(annotations[MIRROR].len(), 32);
        assert_eq!(made.spec.as_ref().unwrap().node_name.as_deref(), Some("Edge"));
        assert_eq!(said(&mut folder, std::slice::from_ref(&made)), Vec::<String>::new());
        assert_eq!(said(&mut folder, &[]), ["create default/web-edge"], "a mirror that was deleted");

        std::fs::write(&file, "metadata: {").unwrap();
        assert_eq!(
            said(&mut folder, std::slice::from_ref(&made)),
            Vec::<String>::new(),
            "half a file changes nothing"
        );
        std::fs::write(&file, format!("{WEB}# changed\n")).unwrap();
        assert_eq!(said(&mut folder, std::slice::from_ref(&made)), ["delete default/web-edge"]);
        let mut going = (*made).clone();
        going.metadata.deletion_timestamp = Some(clock::time());
        assert_eq!(said(&mut folder, &[Arc::new(going)]), Vec::<String>::new(), "it is on its way out");
        assert_eq!(said(&mut folder, &[]), ["create default/web-edge"]);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(said(&mut folder, &[made]), ["delete default/web-edge"]);
    }

    #[test]
    fn json_is_read_too_and_nonsense_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let node = folder(dir.path()).node;
        let json = r#" {"metadata": {"name": "a", "namespace": "n"}, "spec": {"containers": []}}"#;
        assert_eq!(Key::of(&mirror(json.as_bytes(), &node).unwrap().metadata), Key::new("n", "a-edge"));
        assert_eq!(mirror(b"{}", &node).unwrap_err(), "it has no name");
        assert_eq!(mirror(b"metadata: {name: a}", &node).unwrap_err(), "it has no spec");
    }
}
