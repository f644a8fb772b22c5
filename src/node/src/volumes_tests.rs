//! Tables of what volumes show, and of what stands in the way.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::*;
use crate::{env::Allocatable, handle::PodHandle};

#[derive(Default)]
struct Objects(Mutex<BTreeMap<&'static str, Value>>);

impl Objects {
    fn get<T: serde::de::DeserializeOwned>(&self, name: &str) -> Option<Arc<T>> {
        let value = self.0.lock().unwrap().get(name)?.clone();
        Some(Arc::new(serde_json::from_value(value).unwrap()))
    }
}

impl Sources for Objects {
    fn config_map(&self, _: &str, name: &str) -> Option<Arc<ConfigMap>> {
        self.get(name)
    }

    fn secret(&self, _: &str, name: &str) -> Option<Arc<Secret>> {
        self.get(name)
    }
}

/// The folder that local volumes are in stands under the name `dir`.
impl VolumeSources for Objects {
    fn claim(&self, _: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        self.get(name)
    }

    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.get(name)
    }

    fn is_here(&self, volume: &PersistentVolume) -> bool {
        local_volumes::is_here(volume, "n")
    }

    fn local_volume(&self, _: &PersistentVolume, handle: &str) -> Result<Volume, VfsError> {
        let dir: Arc<PathBuf> = self.get("dir").ok_or(VfsError::NoEntry)?;
        std::fs::create_dir_all(dir.join(handle)).unwrap();
        Volume::host(&dir.join(handle), None)
    }

    fn token(&self, pod_uid: &str, _: &ServiceAccountTokenProjection) -> Option<Bytes> {
        self.get::<String>("token").map(|token| format!("{token} for {pod_uid}").into())
    }

    fn image(&self, reference: &str) -> Option<ImageContent> {
        let path = self.get::<PathBuf>(reference)?.to_path_buf();
        Some(if path.is_dir() {
            ImageContent::Files { path, digest: "sha256:f".to_owned() }
        } else {
            ImageContent::Module { path, name: "tool.wasm".to_owned() }
        })
    }
}

fn objects() -> Objects {
    Objects(Mutex::new(BTreeMap::from([
        ("map", json!({"data": {"a": "1", "b": "2"}, "binaryData": {"c": "Aw=="}})),
        ("secret", json!({"data": {"token": "aHVzaA=="}})),
    ])))
}

fn pod(volume: &Value) -> Pod {
    let mut volume = volume.clone();
    volume["name"] = "v".into();
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c"}], "volumes": [volume]},
    }))
    .unwrap()
}

/// What the agent gives to the pod.
fn means(pod: &Pod) -> Means {
    PodHandle::new(pod).means()
}

fn set_up(volume: &Value, sources: &Objects, dir: &Path) -> Result<PodVolumes, SetUpError> {
    let pod = pod(volume);
    PodVolumes::set_up(&facts(&pod), dir, sources, &means(&pod))
}

fn facts(pod: &Pod) -> PodFacts<'_> {
    let host_ip = "10.0.0.1".parse().unwrap();
    PodFacts {
        pod,
        pod_ip: None,
        pod_ip6: None,
        hostname: String::new(),
        host_ip,
        allocatable: Allocatable { memory: 1 << 30, ..Allocatable::default() },
    }
}

#[track_caller]
fn content(volumes: &PodVolumes, path: &str) -> Option<String> {
    let bytes = volumes.find("v").unwrap().volume.root().read(path, 1 << 20).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The files of a projected volume: `path=content mode`.
#[track_caller]
fn check(volume: &Value, expected: &[&str]) {
    let pod = pod(volume);
    let files = projection(&facts(&pod), &specs(&pod)[0], &objects()).unwrap();
    let seen: Vec<_> = files
        .iter()
        .map(|(path, file)| {
            format!("{path}={} {:o}", String::from_utf8_lossy(&file.data).escape_debug(), file.mode)
        })
        .collect();
    assert_eq!(seen, expected);
}

#[track_caller]
fn refused(volume: &Value, message: &str) {
    let dir = tempfile::tempdir().unwrap();
    let error = set_up(volume, &objects(), &dir.path().join("pods/uid")).unwrap_err();
    assert_eq!(error.to_string(), format!("MountVolume.SetUp failed for volume \"v\" : {message}"));
}

#[test]
fn projections() {
    check(&json!({"configMap": {"name": "map"}}), &["a=1 644", "b=2 644", "c=\\u{3} 644"]);
    check(
        &json!({"configMap": {"name": "map", "defaultMode": 0o600, "items": [
            {"key": "a", "path": "x/y"}, {"key": "b", "path": "z", "mode": 0o400},
        ]}}),
        &["x/y=1 600", "z=2 400"],
    );
    check(&json!({"secret": {"secretName": "secret"}}), &["token=hush 644"]);
    check(&json!({"configMap": {"name": "absent", "optional": true}}), &[]);
    check(
        &json!({"downwardAPI": {"items": [
            {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}},
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        ]}}),
        &["labels=app=\\\"web\\\" 644", "name=p 644"],
    );
    check(
        &json!({"projected": {"defaultMode": 0o440, "sources": [
            {"configMap": {"name": "map", "items": [{"key": "a", "path": "a"}]}},
            {"secret": {"name": "secret"}},
            {"downwardAPI": {"items": [{"path": "ns", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
        ]}}),
        &["a=1 440", "ns=n 440", "token=hush 440"],
    );
}

#[test]
fn obstacles_are_named() {
    refused(&json!({"configMap": {"name": "absent"}}), "configmap \"absent\" not found");
    refused(&json!({"secret": {"secretName": "absent"}}), "secret \"absent\" not found");
    refused(
        &json!({"configMap": {"name": "map", "items": [{"key": "k", "path": "p"}]}}),
        "references non-existent config key: k",
    );
    refused(
        &json!({"nfs": {"server": "s", "path": "/"}}),
        "volumes of type nfs are not supported by this node",
    );
    refused(
        &json!({"hostPath": {"path": "/no/such/folder", "type": "Directory"}}),
        "hostPath type check failed: /no/such/folder is not a directory",
    );
}

#[test]
fn the_cluster_s_own_data_is_no_host_path() {
    let host = tempfile::tempdir().unwrap();
    let (data, other) = (host.path().join("data"), host.path().join("other"));
    for dir in [data.join("pods"), data.join("pki"), other.clone()] {
        std::fs::create_dir_all(dir).unwrap();
    }
    std::os::unix::fs::symlink(&data, other.join("link")).unwrap();
    let mounted = |path: &Path| {
        let volume = json!({"hostPath": {"path": path, "type": "DirectoryOrCreate"}});
        set_up(&volume, &objects(), &data.join("pods").join("uid")).is_ok()
    };
    for path in [
        host.path().to_owned(),
        data.clone(),
        data.join("pki"),
        data.join("new"),
        other.join("link/pki"),
        "/".into(),
    ] {
        assert!(!mounted(&path), "{}", path.display());
    }
    assert!(!data.join("new").exists());
    assert!(mounted(&other) && mounted(&other.join("made")) && mounted(&host.path().join("beside")));
}

#[test]
fn a_projection_follows_its_source_and_outlives_it() {
    let (volume, sources) = (json!({"configMap": {"name": "map"}}), objects());
    let volumes = set_up(&volume, &sources, Path::new("/nowhere")).unwrap();
    let pod = pod(&volume);
    sources.0.lock().unwrap().insert("map", json!({"data": {"a": "new"}}));
    volumes.refresh(&facts(&pod), &sources);
    assert_eq!(content(&volumes, "a").as_deref(), Some("new"));
    assert_eq!(content(&volumes, "b"), None);
    sources.0.lock().unwrap().clear();
    volumes.refresh(&facts(&pod), &sources);
    assert_eq!(content(&volumes, "a").as_deref(), Some("new"));
}

#[test]
fn empty_dirs_lie_where_they_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let disk = set_up(&json!({"emptyDir": {}}), &objects(), dir.path()).unwrap();
    disk.find("v").unwrap().volume.root().write("f", b"kept").unwrap();
    assert!(dir.path().join("volumes/v/f").exists());
    let again = set_up(&json!({"emptyDir": {}}), &objects(), dir.path()).unwrap();
    assert_eq!(content(&again, "f").as_deref(), Some("kept"));

    let memory = json!({"emptyDir": {"medium": "Memory", "sizeLimit": "4"}});
    let memory = set_up(&memory, &objects(), Path::new("/nowhere")).unwrap();
    let root = memory.find("v").unwrap().volume.root();
    assert!(root.write("f", b"four").is_ok());
    assert!(matches!(root.write("g", b"five."), Err(VfsError::NoSpace)));
}

#[test]
fn a_root_is_the_image_and_what_is_written() {
    let files = tempfile::tempdir().unwrap();
    std::fs::create_dir(files.path().join("etc")).unwrap();
    std::fs::write(files.path().join("etc/config"), "of the image").unwrap();
    let image = |files: Option<&Path>| Image {
        digest: String::new(),
        module_digest: String::new(),
        size: 0,
        path: PathBuf::new(),
        entrypoint: Vec::new(),
        cmd: Vec::new(),
        env: Vec::new(),
        working_dir: None,
        files: files.map(|path| coracle_image::ImageFiles { path: path.to_owned(), size: 12 }),
    };
    let memory = Budget::new(Some(1 << 20));
    let volumes = PodVolumes::default();
    let pod = pod(&json!({}));
    let container = Container { name: "c".into(), ..Container::default() };
    let env = Environment::of(&facts(&pod), &container, &[], &BTreeMap::new(), &objects()).unwrap();
    let view = |files| {
        let means = Means { memory: memory.clone(), share: PodShare::new(None) };
        let root = container_root(&image(files), &means).unwrap();
        volumes.mounts(root, &container, &env).unwrap().root()
    };
    let (one, two) = (view(Some(files.path())), view(Some(files.path())));
    one.write("etc/config", b"changed").unwrap();
    one.write("etc/new", &[1; 4 << 10]).unwrap();
    assert!(memory.used() > 4 << 10);
    assert_eq!(two.read("etc/config", 99).unwrap(), b"of the image", "another container's is its own");
    assert!(one.write("large", &vec![1; 2 << 20]).is_err());
    assert!(view(None).read("etc/config", 99).is_err());
    drop((one, two));
    assert_eq!(memory.used(), 0);
    assert_eq!(std::fs::read(files.path().join("etc/config")).unwrap(), b"of the image");
}

/// What the pod writes to memory is its own, and so is what it costs to show it other objects.
#[test]
fn volumes_in_memory_are_the_pods_memory() {
    let memory = Budget::new(Some(8 << 10));
    let make = |volume: &Value| {
        let pod = pod(volume);
        let means = Means { memory: memory.clone(), ..means(&pod) };
        PodVolumes::set_up(&facts(&pod), Path::new("/nowhere"), &objects(), &means).unwrap()
    };
    let shown = make(&json!({"configMap": {"name": "map"}}));
    assert!(shown.list[0].1.read_only && (1..3 << 10).contains(&memory.used()), "{}", memory.used());
    drop(shown);
    assert_eq!(memory.used(), 0);
    let _shown = make(&json!({"configMap": {"name": "map"}}));
    let volumes = make(&json!({"emptyDir": {"medium": "Memory"}}));
    let root = volumes.find("v").unwrap().volume.root();
    root.write("f", &[1; 4 << 10]).unwrap();
    assert!(memory.used() > 4 << 10);
    assert!(matches!(root.write("g", &[1; 4 << 10]), Err(VfsError::NoSpace)));
    drop((root, volumes, _shown));
    assert_eq!(memory.used(), 0);
}

/// However many paths, volumes and pods show a key: the bytes are the object's, and there once.
#[test]
fn a_key_under_many_paths_is_one_in_memory() {
    let map = json!({"data": {"a": "x".repeat(1 << 20)}});
    let sources = Shared(Arc::new(serde_json::from_value(map).unwrap()));
    let items: Vec<_> = (0..1_000).map(|n| json!({"key": "a", "path": format!("p{n}")})).collect();
    let spec = json!({"configMap": {"name": "map", "items": items}});
    let pod = pod(&spec);
    let shown = || projection(&facts(&pod), &specs(&pod)[0], &sources).unwrap();
    let object = sources.0.data.as_ref().unwrap()["a"].as_ptr();
    assert!(shown().values().chain(shown().values()).all(|file| file.data.as_ptr() == object));
    let set_up = |limit: u64| {
        let memory = Budget::new(Some(limit));
        let means = Means { memory: memory.clone(), ..means(&pod) };
        let made = PodVolumes::set_up(&facts(&pod), Path::new("/nowhere"), &sources, &means);
        made.map(|made| (made, memory.used()))
    };
    let (made, used) = set_up(4 << 20).unwrap();
    assert!(used > 1 << 20 && used < 2 << 20, "{used}");
    made.refresh(&facts(&pod), &sources);
    let error = set_up(1 << 20).unwrap_err().to_string();
    assert!(error.ends_with("what it shows needs more memory than the pod may use"), "{error}");
}

/// A ConfigMap that is one object for all, as the agent's cache has it.
struct Shared(Arc<ConfigMap>);

impl Sources for Shared {
    fn config_map(&self, _: &str, _: &str) -> Option<Arc<ConfigMap>> {
        Some(Arc::clone(&self.0))
    }

    fn secret(&self, _: &str, _: &str) -> Option<Arc<Secret>> {
        None
    }
}

impl VolumeSources for Shared {
    fn claim(&self, _: &str, _: &str) -> Option<Arc<PersistentVolumeClaim>> {
        None
    }

    fn volume(&self, _: &str) -> Option<Arc<PersistentVolume>> {
        None
    }

    fn is_here(&self, _: &PersistentVolume) -> bool {
        false
    }

    fn local_volume(&self, _: &PersistentVolume, _: &str) -> Result<Volume, VfsError> {
        Err(VfsError::NoEntry)
    }

    fn token(&self, _: &str, _: &ServiceAccountTokenProjection) -> Option<Bytes> {
        None
    }

    fn image(&self, _: &str) -> Option<ImageContent> {
        None
    }
}

/// By procfs a pod would have the memory of this process, which is that of all pods.
#[test]
fn the_kernel_s_own_files_are_no_host_path() {
    let at = |path: &str, type_: &str| json!({"hostPath": {"path": path, "type": type_}});
    let shows = "is of a file system by which the kernel shows itself, which no pod may see";
    for (path, type_) in [
        ("/proc", "Directory"),
        ("/proc/self", ""),
        ("/proc/self/task", "Directory"),
        ("/proc/self/mem", "File"),
        ("/proc/new", "DirectoryOrCreate"),
        ("/proc/new", "FileOrCreate"),
        ("/dev/none", ""),
        ("/dev/none/new", "DirectoryOrCreate"),
        ("/dev/none", "FileOrCreate"),
        ("/sys/none", ""),
    ] {
        refused(&at(path, type_), &format!("hostPath {path} {shows}"));
    }
    assert!(!Path::new("/dev/none").exists());
    let local = json!({"hostPath": {"path": "/proc"}});
    let volume: PersistentVolume = serde_json::from_value(json!({"spec": local})).unwrap();
    let made = persistent_volume(&volume, Path::new("/data/pods/u"), &objects(), &PodShare::new(None));
    assert!(matches!(made, Err(VolumeError::Kernel(_))));
    let volume: PersistentVolume =
        serde_json::from_value(json!({"spec": {"local": {"path": "/no/such/folder"}}})).unwrap();
    let made = persistent_volume(&volume, Path::new("/data/pods/u"), &objects(), &PodShare::new(None));
    assert_eq!(made.unwrap_err().to_string(), "path \"/no/such/folder\" does not exist");
}

#[test]
fn volumes_on_disk_take_no_more_than_the_pod_may() {
    #[track_caller]
    fn check(size_limit: Option<&str>, containers: &[Option<&str>], expected: Option<u64>) {
        let dir = tempfile::tempdir().unwrap();
        let mut pod = pod(&json!({"emptyDir": {"sizeLimit": size_limit}}));
        let limits = containers.iter().map(|limit| match limit {
            Some(limit) => json!({"name": "c", "resources": {"limits": {"ephemeral-storage": limit}}}),
            None => json!({"name": "c"}),
        });
        pod.spec.as_mut().unwrap().containers = serde_json::from_value(limits.collect()).unwrap();
        let volumes = PodVolumes::set_up(&facts(&pod), dir.path(), &objects(), &means(&pod)).unwrap();
        assert_eq!(volumes.find("v").unwrap().volume.usage().limit, expected);
    }
    check(None, &[None], None);
    check(Some("1Mi"), &[None], Some(1 << 20));
    check(None, &[Some("1Mi"), None], Some(1 << 20));
    check(Some("4Mi"), &[Some("1Mi"), Some("2Mi")], Some(3 << 20));
    check(Some("2Mi"), &[Some("1Mi"), Some("2Mi")], Some(2 << 20));
}

#[test]
fn volumes_on_disk_have_one_limit_together() {
    let dir = tempfile::tempdir().unwrap();
    let mut pod = pod(&json!({}));
    let spec = pod.spec.as_mut().unwrap();
    spec.containers = serde_json::from_value(json!([
        {"name": "c", "resources": {"limits": {"ephemeral-storage": "1Mi"}}},
    ]))
    .unwrap();
    spec.volumes = serde_json::from_value(json!([
        {"name": "v", "emptyDir": {}}, {"name": "w", "emptyDir": {"sizeLimit": "1Gi"}},
        {"name": "m", "emptyDir": {"medium": "Memory"}},
    ]))
    .unwrap();
    let means = means(&pod);
    let volumes = PodVolumes::set_up(&facts(&pod), dir.path(), &objects(), &means).unwrap();
    let root = |name: &str| volumes.find(name).unwrap().volume.root();
    root("v").write("f", &[1; 600 << 10]).unwrap();
    assert!(matches!(root("w").write("f", &[1; 600 << 10]), Err(VfsError::NoSpace)));
    root("m").write("f", &[1; 600 << 10]).unwrap();
    assert_eq!(means.share.usage().bytes, 1 << 20, "what fitted stays, and memory is another matter");
    root("v").unlink("f").unwrap();
    root("w").write("f", &[1; 600 << 10]).unwrap();
}

#[test]
fn volumes_in_memory_have_a_size() {
    #[track_caller]
    fn check(size_limit: Option<&str>, containers: &[Option<&str>], expected: u64) {
        let containers: Vec<_> = containers
            .iter()
            .map(|limit| match limit {
                Some(limit) => json!({"name": "c", "resources": {"limits": {"memory": limit}}}),
                None => json!({"name": "c"}),
            })
            .collect();
        let mut pod = pod(&json!({"emptyDir": {"medium": "Memory", "sizeLimit": size_limit}}));
        pod.spec.as_mut().unwrap().containers = serde_json::from_value(containers.into()).unwrap();
        let volumes =
            PodVolumes::set_up(&facts(&pod), Path::new("/nowhere"), &objects(), &means(&pod)).unwrap();
        assert_eq!(volumes.find("v").unwrap().volume.usage().limit, Some(expected));
    }
    check(None, &[None], MEMORY_VOLUME_DEFAULT);
    check(None, &[Some("1Mi"), None], MEMORY_VOLUME_DEFAULT);
    check(None, &[Some("1Mi"), Some("2Mi")], 3 << 20);
    check(Some("4Mi"), &[Some("1Mi"), Some("2Mi")], 3 << 20);
    check(Some("2Mi"), &[Some("1Mi"), Some("2Mi")], 2 << 20);
    check(Some("512Mi"), &[None], 512 << 20);
    check(Some("1Ti"), &[None], 1 << 30);
}

#[test]
fn mounts_expand_and_protect() {
    let volumes =
        set_up(&json!({"emptyDir": {"medium": "Memory"}}), &objects(), Path::new("/nowhere")).unwrap();
    let container: Container = serde_json::from_value(json!({"name": "c", "volumeMounts": [
        {"name": "v", "mountPath": "/rw", "subPathExpr": "$(NAME)/x"},
        {"name": "v", "mountPath": "/ro", "readOnly": true},
    ]}))
    .unwrap();
    let env: Container = serde_json::from_value(json!({"name": "c", "env": [
        {"name": "NAME", "value": "p"}, {"name": "EMPTY", "value": ""}, {"name": "UP", "value": ".."},
    ]}))
    .unwrap();
    let pod = pod(&json!({}));
    let env = Environment::of(&facts(&pod), &env, &[], &BTreeMap::new(), &objects()).unwrap();
    let root = volumes.mounts(Volume::memory(None), &container, &env).unwrap().root();
    root.write("rw/f", b"1").unwrap();
    assert_eq!(root.read("ro/p/x/f", 10).unwrap(), b"1");
    assert!(matches!(root.write("ro/f", b"2"), Err(VfsError::ReadOnly)));

    for (name, path, error) in [
        ("subPathExpr", "$(NAME)/$(NONE)", "missing value for NONE"),
        ("subPathExpr", "$(EMPTY)$(B)$(A)", "missing value for A, B, EMPTY"),
        ("subPathExpr", "$(UP)/x", "unable to provision SubPath `../x`: must not contain '..'"),
        ("subPath", "/x", "error SubPath `/x` must not be an absolute path"),
    ] {
        let container = json!({"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v", name: path}]});
        let container = serde_json::from_value(container).unwrap();
        let refused = volumes.mounts(Volume::memory(None), &container, &env);
        assert_eq!(refused.unwrap_err().to_string(), error);
    }
    let stranger = json!({"name": "c", "volumeMounts": [{"name": "w", "mountPath": "/w"}]});
    let stranger = serde_json::from_value(stranger).unwrap();
    assert!(volumes.mounts(Volume::memory(None), &stranger, &env).is_err());
}

/// The affinity of a volume that is a folder of this node.
fn affinity(node: &str) -> Value {
    let expression = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [node]});
    json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}})
}

/// What is in the folder of a claim `c` that is bound to a volume `pv`, or why it cannot be had.
#[track_caller]
fn check_claim(change: impl FnOnce(&mut Value, &mut Value), expected: Result<(), &str>) {
    let dir = tempfile::tempdir().unwrap();
    let mut claim = json!({
        "metadata": {"name": "c", "uid": "uid-c"},
        "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"},
    });
    let mut volume = json!({
        "metadata": {"name": "pv"},
        "spec": {"claimRef": {"uid": "uid-c"}, "csi": {"driver": "local.coracle.dev", "volumeHandle": "pv"}},
    });
    volume["spec"]["nodeAffinity"] = affinity("n");
    change(&mut claim, &mut volume);
    let objects = Objects(Mutex::new(BTreeMap::from([
        ("dir", json!(dir.path().join("volumes"))),
        ("c", claim),
        ("pv", volume),
    ])));
    let made =
        set_up(&json!({"persistentVolumeClaim": {"claimName": "c"}}), &objects, &dir.path().join("pods/u"));
    let made = made.map(|_| ()).map_err(|error| error.to_string());
    let prefix = "MountVolume.SetUp failed for volume \"v\" : ";
    assert_eq!(made, expected.map_err(|text| format!("{prefix}{text}")));
}

#[test]
fn claims_lead_to_volumes() {
    check_claim(|_, _| {}, Ok(()));
    check_claim(|claim, _| claim["status"]["phase"] = "Pending".into(), Err("PVC n/c is not bound"));
    check_claim(
        |claim, _| claim["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into(),
        Err("PVC n/c is being deleted"),
    );
    let other = "persistentvolume \"pv\" is not bound to the claim or is gone";
    check_claim(|_, volume| volume["spec"]["claimRef"]["uid"] = "other".into(), Err(other));
    check_claim(
        |_, volume| volume["spec"]["nodeAffinity"] = affinity("other"),
        Err("persistentvolume \"pv\" cannot be reached from this node (node affinity)"),
    );
    check_claim(
        |_, volume| volume["spec"]["csi"]["driver"] = "x".into(),
        Err("volumes of type csi with a driver other than local.coracle.dev are not supported by this node"),
    );
    let missing =
        set_up(&json!({"persistentVolumeClaim": {"claimName": "none"}}), &objects(), Path::new("/d/pods/u"));
    assert!(missing.unwrap_err().to_string().ends_with("persistentvolumeclaim \"none\" not found"));
}

#[test]
fn a_claim_that_is_not_the_pods_own_is_not_its_ephemeral_volume() {
    let objects = Objects(Mutex::new(BTreeMap::from([("p-v", json!({"metadata": {"name": "p-v"}}))])));
    let volume = json!({"ephemeral": {"volumeClaimTemplate": {"spec": {}}}});
    let error = set_up(&volume, &objects, Path::new("/d/pods/u")).unwrap_err().to_string();
    assert!(error.ends_with("PVC n/p-v was not created for the pod (the pod is not owner)"), "{error}");
}

#[test]
fn tokens_are_projected_when_they_are_there() {
    let volume = json!({"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}});
    let objects = Objects::default();
    let error = set_up(&volume, &objects, Path::new("/d/pods/u")).unwrap_err().to_string();
    assert!(error.ends_with("the token of the service account is not there yet"), "{error}");
    objects.0.lock().unwrap().insert("token", json!("word"));
    let made = set_up(&volume, &objects, Path::new("/d/pods/u")).unwrap();
    assert_eq!(content(&made, "token").as_deref(), Some("word for u"));
}

#[test]
fn images_are_folders_to_read() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("blob"), "module").unwrap();
    let objects = Objects(Mutex::new(BTreeMap::from([("tools:1", json!(dir.path().join("blob")))])));
    let own = dir.path().join("pods/u");
    for _ in 0..2 {
        let made = set_up(&json!({"image": {"reference": "tools:1"}}), &objects, &own).unwrap();
        assert!(made.list[0].1.read_only && made.images().is_empty(), "the module is its own");
        assert_eq!(std::fs::read(own.join("volumes/v/tool.wasm")).unwrap(), b"module");
    }
    let files = dir.path().join("files");
    std::fs::create_dir(&files).unwrap();
    std::fs::write(files.join("f"), "of the image").unwrap();
    objects.0.lock().unwrap().insert("files:1", json!(files));
    let made = set_up(&json!({"image": {"reference": "files:1"}}), &objects, &own).unwrap();
    assert_eq!(content(&made, "f").as_deref(), Some("of the image"));
    assert_eq!(made.images(), ["sha256:f".into()]);
    assert!(matches!(made.list[0].1.volume.root().write("f", b""), Err(VfsError::ReadOnly)));
    let error = set_up(&json!({"image": {"reference": "none:1"}}), &objects, &own).unwrap_err().to_string();
    assert!(error.ends_with("image \"none:1\" is not there yet"), "{error}");
}

#[test]
fn host_paths_are_what_their_type_says() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("data/pods/u");
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let check = |name: &str, type_: &str, expected: Result<Option<&str>, &str>| {
        let path = dir.path().join(name);
        let volume = json!({"hostPath": {"path": path, "type": type_}});
        let made = set_up(&volume, &objects(), &own);
        let seen = made.as_ref().map(|made| made.list[0].1.file.as_deref());
        match (seen, expected) {
            (Ok(seen), Ok(expected)) => assert_eq!(seen, expected, "{name} {type_}"),
            (Err(error), Err(text)) => assert!(error.to_string().ends_with(text), "{name} {type_}: {error}"),
            (seen, _) => panic!("{name} {type_}: {seen:?}"),
        }
    };
    check("file", "File", Ok(Some("file")));
    check("file", "", Ok(Some("file")));
    check("new", "FileOrCreate", Ok(Some("new")));
    check("folder", "DirectoryOrCreate", Ok(None));
    check("folder", "", Ok(None));
    check("folder", "File", Err("is not a file"));
    check("file", "Directory", Err("is not a directory"));
    check("none/new", "", Ok(None));
    std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    check("socket", "", Err("is not a file or a directory"));
    check("file", "Socket", Err("a hostPath of type Socket is nothing that a guest could use"));
}
