//! Images of every packaging, pushed into one registry and pulled into another store.

use std::fs;

use serde_json::{Value, json};

use super::remote::{World, world};
use super::*;
use crate::PullError;
use crate::slots::Turn;
use crate::unpacking::BRIEF;

const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

impl Tool {
    /// Pushes an image of these parts, of which `other` are further fields of the manifest.
    async fn push_image(
        &self,
        name: &str,
        config: (&str, &[u8]),
        layers: &[(&str, &[u8])],
        other: Value,
    ) -> String {
        let mut descriptors = Vec::new();
        for (media_type, bytes) in std::iter::once(&config).chain(layers) {
            let digest = self.push_blob(name, bytes).await;
            descriptors.push(json!({"mediaType": media_type, "digest": digest, "size": bytes.len()}));
        }
        let mut manifest =
            json!({"schemaVersion": 2, "config": descriptors.remove(0), "layers": descriptors});
        if let Value::Object(other) = other {
            manifest.as_object_mut().unwrap().extend(other);
        }
        let media_type = manifest["mediaType"].as_str().unwrap_or(Package::MANIFEST_TYPE);
        let answer = self.push_manifest_as(name, "1", media_type, manifest.to_string().as_bytes()).await;
        answer.expect(StatusCode::CREATED).header("docker-content-digest").to_owned()
    }
}

fn config(os: &str, config: &Value) -> Vec<u8> {
    json!({"architecture": "wasm", "os": os, "config": config}).to_string().into_bytes()
}

/// One of each packaging that is in use, as its tools write it: what runs is the module, or `-`: refused with this.
#[tokio::test]
async fn what_each_tool_writes_runs() {
    const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    const EMPTY: (&str, &[u8]) = ("application/vnd.oci.empty.v1+json", b"{}");
    const CONTENT: &str = "application/vnd.wasm.content.layer.v1+wasm";
    let world = world(|router| router).await;
    let digest = |bytes: &[u8]| crate::digest::Digest::of(bytes).to_string();
    let (core, component) = (module("m"), formats::component());
    let bytes = |value: Value| value.to_string().into_bytes();
    let check = async |name: &str,
                       config: (&str, &[u8]),
                       layers: &[(&str, &[u8])],
                       other: Value,
                       expected: Result<&[u8], &str>| {
        world.tool.push_image(name, config, layers, other).await;
        let pulled = world.pull(&format!("{name}:1")).await;
        match (&pulled, expected) {
            (Ok(image), Ok(expected)) => assert_eq!(fs::read(&image.path).unwrap(), expected, "{name}"),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{name}: {error}"),
            (Ok(_), Err(expected)) => panic!("{name}: {pulled:?} is not {expected:?}"),
            (Err(error), Ok(_)) => panic!("{name}: {error}"),
        }
        pulled.ok()
    };

    // The layout of the CNCF, as wkg and cargo-component write it.
    let cncf = "application/vnd.wasm.config.v0+json";
    let described = |os: &str, layer: &[u8], component: Value| {
        bytes(json!({"created": "2025-03-04T05:06:07.890Z", "author": null, "architecture": "wasm", "os": os,
                     "layerDigests": [digest(layer)], "component": component}))
    };
    let world_of =
        json!({"exports": ["wasi:cli/run@0.2.0"], "imports": ["wasi:cli/environment@0.2.0"], "target": null});
    let wkg = json!({"mediaType": Package::MANIFEST_TYPE, "annotations": {
        "org.opencontainers.image.version": "0.1.0", "org.opencontainers.image.description": "Says hello"}});
    let of_core = described("wasip1", &core, Value::Null);
    let of_component = described("wasip2", &component, world_of);
    check("cncf/module", (cncf, &of_core), &[("application/wasm", &core)], json!({}), Ok(&core)).await;
    let layers: &[(&str, &[u8])] = &[("application/wasm", &component)];
    check("cncf/component", (cncf, &of_component), layers, wkg, Ok(&component)).await;
    let two: &[(&str, &[u8])] = &[("application/wasm", &core), ("application/wasm", &component)];
    check("cncf/two", (cncf, &of_core), two, json!({}), Err("it has 2 layers")).await;

    // Those of one layer that its media type or the artifact's says.
    let istio =
        bytes(json!({"type": "envoy_proxy", "abiVersions": ["v0-97e2d1e"], "config": {"rootIds": ["add"]}}));
    let bytecode = "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm";
    let rootfs = json!({"type": "layers", "diff_ids": [digest(&component)]});
    let runwasi = bytes(json!({"architecture": "wasm", "os": "wasip1", "rootfs": rootfs, "config": {}}));
    let policy: (&str, &[u8]) =
        ("application/vnd.wasm.policy.v1+yaml", b"version: \"1.0\"\npermissions: {}\n");
    let typed = |kind: &str| json!({"mediaType": Package::MANIFEST_TYPE, "artifactType": format!("application/vnd.wasm.{kind}.v1+wasm")});
    for (name, config, layer, other) in [
        ("wasm-to-oci", ("application/vnd.wasm.config.v1+json", &b"{}"[..]), (CONTENT, &core), json!({})),
        (
            "istio",
            ("application/vnd.module.wasm.config.v1+json", &istio),
            ("application/vnd.module.wasm.content.layer.v1+wasm", &core),
            json!({}),
        ),
        ("wasmcloud", EMPTY, ("application/vnd.module.wasm.content.layer.v1+wasm", &component), json!({})),
        ("runwasi", (OCI_CONFIG, &runwasi), (bytecode, &component), json!({})),
        ("runwasi/plain", (OCI_CONFIG, &runwasi), ("application/wasm", &component), json!({})),
        ("zlayer/component", EMPTY, ("application/wasm", &component), typed("component")),
        ("zlayer/module", (cncf, &of_core), ("application/wasm", &core), typed("module")),
        ("molt", EMPTY, ("application/octet-stream", &component), typed("component")),
    ] {
        check(name, config, &[(layer.0, layer.1)], other, Ok(layer.1)).await;
    }
    let layers = [("application/vnd.wasm.component.v1", &*component), policy];
    check("wassette", (cncf, &of_component), &layers, json!({}), Ok(&component)).await;

    // Spin: two components, and one that wkg wrote.
    let app = |count: usize| {
        let component = json!({"id": "web", "metadata": {}, "source": {"content_type": "application/wasm", "digest": digest(&component)},
                               "files": [], "env": {}});
        bytes(json!({"spin_lock_version": 1, "metadata": {"name": "hello", "origin": "file:///spin.toml"},
                     "triggers": [{"id": "trigger--web", "trigger_type": "http", "trigger_config": {"component": "web", "route": "/..."}}],
                     "components": vec![component; count]}))
    };
    let spin =
        bytes(json!({"architecture": "wasm", "os": "Wasip1", "rootfs": {"type": "layers", "diff_ids": []},
                            "config": {"Labels": {"com.fermyon.spin.lockedAppDigest": digest(&app(1))}}}));
    let locked = "application/vnd.fermyon.spin.application.v1+config";
    let (one, several) = (app(1), app(2));
    for (name, layer) in [("spin/own", CONTENT), ("spin/wkg", "application/wasm")] {
        check(name, (OCI_CONFIG, &spin), &[(layer, &component), (locked, &one)], json!({}), Ok(&component))
            .await;
    }
    let layers: &[(&str, &[u8])] = &[(CONTENT, &component), (CONTENT, &core), (locked, &several)];
    check("spin/several", (OCI_CONFIG, &spin), layers, json!({}), Err("an application of 2 components"))
        .await;

    // Container images of one file: what `docker build` makes of `FROM scratch`, and Envoy's compatible ones.
    let linux = bytes(
        json!({"architecture": "amd64", "os": "linux", "created": "2025-03-04T05:06:07Z", "config": {},
                             "rootfs": {"type": "layers", "diff_ids": [digest(b"")]}, "history": [{"created_by": "COPY plugin.wasm ./"}]}),
    );
    let plugin = tar(&[("plugin.wasm", &core), ("other.wasm", &component), ("runtime-config.json", b"{}")]);
    let compat =
        json!({"mediaType": Package::MANIFEST_TYPE, "annotations": {"module.wasm.image/variant": "compat"}});
    let docker = json!({"mediaType": crate::manifest::DOCKER_MANIFEST});
    let (gz, zst) = (gzip(&plugin), zstd(&plugin));
    for (name, config, layer, other) in [
        ("compat/oci", OCI_CONFIG, ("application/vnd.oci.image.layer.v1.tar+gzip", &gz), compat),
        (
            "compat/docker",
            DOCKER_CONFIG,
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", &gz),
            docker.clone(),
        ),
        ("compat/zstd", OCI_CONFIG, ("application/vnd.oci.image.layer.v1.tar+zstd", &zst), json!({})),
        ("compat/tar", OCI_CONFIG, (TAR, &plugin), json!({})),
    ] {
        check(name, (config, &linux), &[(layer.0, layer.1)], other, Ok(&core)).await;
    }
    let layer = gzip(&tar(&[("app.wasm", &core), ("www/index.html", b"<p>")]));
    let crun = json!({"annotations": {"run.oci.handler": "wasm"}});
    for (name, os, execution, other) in [
        ("docker/entrypoint", "wasi", json!({"Entrypoint": ["/app.wasm"], "Env": ["PATH=/"]}), docker),
        (
            "docker/command",
            "wasip1",
            json!({"Cmd": ["app.wasm", "--port", "80"], "Entrypoint": null}),
            json!({}),
        ),
        ("docker/crun", "linux", json!({"Entrypoint": ["/app.wasm"]}), crun),
    ] {
        let config = config(os, &execution);
        let layer = ("application/vnd.docker.image.rootfs.diff.tar.gzip", &*layer);
        let image = check(name, (DOCKER_CONFIG, &config), &[layer], other, Ok(&core)).await.unwrap();
        assert_eq!(files_of(&image).last().unwrap(), &("www/index.html".to_owned(), "<p>".to_owned()));
    }

    // An index of such images, with the attestation that buildx adds.
    for (media_type, manifest, platform, fits) in [
        (
            crate::manifest::OCI_INDEX,
            Package::MANIFEST_TYPE,
            json!({"architecture": "wasm", "os": "wasi"}),
            true,
        ),
        (
            crate::manifest::DOCKER_LIST,
            crate::manifest::DOCKER_MANIFEST,
            json!({"architecture": "wasm32", "os": "wasi"}),
            true,
        ),
        (
            crate::manifest::OCI_INDEX,
            Package::MANIFEST_TYPE,
            json!({"architecture": "arm64", "os": "linux", "variant": "v8"}),
            false,
        ),
    ] {
        let layer = ("application/vnd.docker.image.rootfs.diff.tar.gzip", &*layer);
        let kind = json!({"mediaType": manifest});
        let of_wasm = config("wasi", &json!({"Entrypoint": ["/app.wasm"]}));
        let wasm = world.tool.push_image("index", (DOCKER_CONFIG, &of_wasm), &[layer], kind.clone()).await;
        let amd = world.tool.push_image("index", (DOCKER_CONFIG, &linux), &[layer], kind).await;
        let statement: (&str, &[u8]) = ("application/vnd.in-toto+json", b"{}");
        let attestation = world.tool.push_image("index", (OCI_CONFIG, b"{}"), &[statement], json!({})).await;
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": [
            {"mediaType": manifest, "digest": amd, "size": 7, "platform": {"architecture": "amd64", "os": "linux"}},
            {"mediaType": manifest, "digest": wasm, "size": 7, "platform": platform},
            {"mediaType": Package::MANIFEST_TYPE, "digest": attestation, "size": 7,
             "annotations": {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": wasm},
             "platform": {"architecture": "unknown", "os": "unknown"}}]});
        let answer =
            world.tool.push_manifest_as("index", "1", media_type, index.to_string().as_bytes()).await;
        answer.expect(StatusCode::CREATED);
        let pulled = world.pull("index:1").await.map(|image| fs::read(image.path).unwrap());
        let pulled = pulled.map_err(|error| error.to_string());
        let refusal = "image is not WebAssembly: its platforms are linux/amd64, linux/arm64".to_owned();
        assert_eq!(pulled, if fits { Ok(core.clone()) } else { Err(refusal) });
    }
}

fn files_of(image: &crate::Image) -> Vec<(String, String)> {
    let root = &image.files.as_ref().expect("it has files").path;
    let (mut found, mut left) = (Vec::new(), vec![root.clone()]);
    while let Some(dir) = left.pop() {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                left.push(path);
            } else {
                found.push((name, String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()));
            }
        }
    }
    found.sort();
    found
}

async fn docker_image(world: &World) -> String {
    let base = tar(&[("web.wasm", &module("old")), ("etc/motd", b"hello"), ("etc/gone", b"x")]);
    let top = tar(&[("web.wasm", &module("m")), ("etc/.wh.gone", b"")]);
    let execution = json!({"Entrypoint": ["/web.wasm"], "Cmd": ["--port", "80"], "Env": ["A=1"],
                           "WorkingDir": "/etc", "User": "1000", "Labels": null});
    let docker = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    let config = ("application/vnd.docker.container.image.v1+json", &*config("wasi", &execution));
    world.tool.push_image("docker", config, &[(docker, &base), (docker, &top)], json!({})).await
}

#[tokio::test]
async fn a_container_image_brings_its_files() {
    let world = world(|router| router).await;
    docker_image(&world).await;
    let image = world.pull("docker:1").await.unwrap();
    assert_eq!(fs::read(&image.path).unwrap(), module("m"));
    assert_eq!(image.module_digest, crate::digest::Digest::of(&module("m")).to_string());
    assert_eq!((image.entrypoint.join(" "), image.cmd.join(" ")), ("/web.wasm".into(), "--port 80".into()));
    assert_eq!(
        (image.env.clone(), image.working_dir.as_deref()),
        (vec![("A".into(), "1".into())], Some("/etc"))
    );
    let module = String::from_utf8_lossy(&module("m")).into_owned();
    assert_eq!(files_of(&image), [("etc/motd".into(), "hello".into()), ("web.wasm".into(), module.clone())]);
    assert_eq!(image.size, module.len() as u64 + 5);

    // After a restart it is simply there.
    let name = reference(&format!("{}/docker:1", world.host));
    assert_eq!(world.reopened().find(&name), Some(image.clone()));

    // In the embedded registry itself it is unpacked by the first pull, and there after that.
    let local = reference("registry.local/docker:1");
    assert_eq!(world.server.find(&local), None);
    let served = world.server.pull(&local, None, "team").await.unwrap();
    assert_eq!(files_of(&served), files_of(&image));
    assert_eq!(world.server.find(&local), Some(served));
}

#[tokio::test]
async fn a_spin_application_of_one_component_brings_its_files() {
    let world = world(|router| router).await;
    let (data, app) =
        ("application/vnd.wasm.content.layer.v1+data", "application/vnd.fermyon.spin.application.v1+config");
    let module = module("m");
    let digest = |bytes: &[u8]| crate::digest::Digest::of(bytes).to_string();
    let component = |files: Value| {
        json!({"spin_lock_version": 1, "triggers": [], "components": [
            {"id": "web", "source": {"content_type": "application/wasm", "digest": digest(&module)},
             "env": {"A": "1"}, "files": files}]})
        .to_string()
        .into_bytes()
    };
    let wasm = ("application/vnd.wasm.content.layer.v1+wasm", &*module);
    let spin_config = config("Wasip1", &json!({"Labels": {"com.fermyon.spin.lockedAppDigest": ""}}));
    let files = component(json!([{"path": "static/a.txt", "digest": digest(b"content of a")},
                                 {"path": "b", "inline": "Yg=="}]));
    let layers = [wasm, (data, &b"content of a"[..]), (app, &*files)];
    world.tool.push_image("spin", (OCI_CONFIG, &spin_config), &layers, json!({})).await;
    let image = world.pull("spin:1").await.unwrap();
    assert_eq!(fs::read(&image.path).unwrap(), module);
    assert_eq!(image.env, [("A".to_owned(), "1".to_owned())]);
    assert_eq!(files_of(&image), [("b".into(), "b".into()), ("static/a.txt".into(), "content of a".into())]);
    assert_eq!(image.size, module.len() as u64 + 13);

    // With its files in an archive.
    let archive = tar(&[("c/d", b"in the archive")]);
    let bundle = ("application/vnd.wasm.content.bundle.v1.tar+gzip", &*archive);
    let files = component(json!([{"path": "c/d", "digest": digest(b"in the archive")}]));
    world
        .tool
        .push_image("bundle", (OCI_CONFIG, &spin_config), &[wasm, bundle, (app, &files)], json!({}))
        .await;
    assert_eq!(files_of(&world.pull("bundle:1").await.unwrap()), [("c/d".into(), "in the archive".into())]);

    // Without any files.
    let files = component(json!([]));
    world.tool.push_image("bare", (OCI_CONFIG, &spin_config), &[wasm, (app, &files)], json!({})).await;
    assert_eq!(world.pull("bare:1").await.unwrap().files, None);

    let files = component(json!([{"path": "../b", "inline": "Yg=="}]));
    world.tool.push_image("bad", (OCI_CONFIG, &spin_config), &[wasm, (app, &files)], json!({})).await;
    let error = world.pull("bad:1").await.unwrap_err();
    assert!(error.to_string().ends_with("the path \"../b\" leads out of the image"), "{error}");
}

#[tokio::test]
async fn images_for_other_machines_are_refused_before_they_are_fetched() {
    let world = world(|router| router).await;
    let linux = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["bash"]}}).to_string();
    let layer = tar(&[("bin/bash", b"\x7fELF")]);
    world.tool.push_image("linux", (OCI_CONFIG, linux.as_bytes()), &[(TAR, &layer)], json!({})).await;
    let error = world.pull("linux:1").await.unwrap_err();
    assert!(matches!(error, PullError::Format(_)), "{error:?}");
    assert_eq!(error.to_string(), "image is not WebAssembly: its platform is linux/amd64");
    let digest = crate::digest::Digest::of(&layer);
    assert!(!world.dir.path().join("blobs/sha256").join(digest.hex()).exists());

    // One that is made for Wasm, but by a builder that does not know the platform.
    let linux =
        json!({"architecture": "amd64", "os": "linux", "config": {"Entrypoint": ["/app"]}}).to_string();
    let layer = tar(&[("app", &module("m"))]);
    let annotations = json!({"annotations": {"module.wasm.image/variant": "compat"}});
    world.tool.push_image("compat", (OCI_CONFIG, linux.as_bytes()), &[(TAR, &layer)], annotations).await;
    assert_eq!(fs::read(world.pull("compat:1").await.unwrap().path).unwrap(), module("m"));

    // WIT without code.
    let wit = wat::parse_str(r#"(component (type $t (component)) (export "a:b/c" (type $t)))"#).unwrap();
    let cncf = "application/vnd.wasm.config.v0+json";
    world.tool.push_image("wit", (cncf, b"{}"), &[("application/wasm", &wit)], json!({})).await;
    let error = world.pull("wit:1").await.unwrap_err();
    assert_eq!(error.to_string(), "it is a package of WIT interfaces without code, which cannot run");
}

#[tokio::test]
async fn removing_an_image_removes_its_files_and_what_only_it_needs() {
    let world = world(|router| router).await;
    let digest = docker_image(&world).await;
    // The same image behind an index.
    let manifest = world.tool.get("/v2/docker/manifests/1").await.body;
    let index = json!({"schemaVersion": 2, "mediaType": crate::manifest::OCI_INDEX, "manifests": [
        {"mediaType": Package::MANIFEST_TYPE, "digest": digest, "size": manifest.len(),
         "platform": {"architecture": "wasm", "os": "wasi"}}]});
    let headers = [("content-type", crate::manifest::OCI_INDEX)];
    world.tool.send(Method::PUT, "/v2/docker/manifests/multi", &headers, index.to_string()).await;
    let image = world.pull("docker:multi").await.unwrap();
    let count = |folder: &str| fs::read_dir(world.dir.path().join(folder)).unwrap().count();
    assert_eq!((count("blobs/sha256"), count("files")), (5, 1), "two manifests, a configuration, two layers");

    let on_disk = || {
        let files = fs::read_dir(world.dir.path().join("blobs/sha256")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>()
    };
    let in_use = [digest.clone()].into();
    let before = on_disk();
    assert_eq!(world.images.remove_pulled(&digest, &[].into()).await.unwrap(), 0, "the index leads to it");
    let freed = world.images.remove_pulled(&image.digest, &in_use).await.unwrap();
    assert_eq!(freed, before - on_disk(), "the index alone");
    assert_eq!((count("blobs/sha256"), count("files")), (4, 1), "somebody uses what the index led to");
    assert!(world.images.find(&reference(&format!("{}/docker@{digest}", world.host))).is_some());
    let before = on_disk();
    let freed = world.images.remove_pulled(&digest, &[].into()).await.unwrap();
    assert_eq!(freed, before + image.size, "layers and what was unpacked of them");
    assert_eq!((count("blobs/sha256"), count("files"), count("uploads")), (0, 0, 0));

    world.pull("docker:multi").await.unwrap();
    world.images.remove_pulled(&image.digest, &[].into()).await.unwrap();
    assert_eq!((count("blobs/sha256"), count("files"), count("uploads")), (0, 0, 0), "all of it at once");

    // What an interrupted removal leaves of the files goes at the next start.
    world.pull("docker:1").await.unwrap();
    let repository = world.dir.path().join("repositories").join(&world.host).join("docker/_manifests");
    fs::remove_dir_all(repository).unwrap();
    world.reopened();
    assert_eq!(count("files"), 0);
}

#[tokio::test]
async fn an_image_of_few_files_waits_for_no_large_one() {
    let world = world(|router| router).await;
    let core = module("m");
    let names: Vec<String> = (0..BRIEF.entries).map(|number| number.to_string()).collect();
    let many = names.iter().map(|name| (name.as_str(), &b""[..])).chain([("m.wasm", &*core)]);
    let (few, many) = (tar(&[("m.wasm", &core)]), tar(&many.collect::<Vec<_>>()));
    let config = config("wasi", &json!({}));
    for (name, layer) in [("few", few), ("many", many)] {
        world.tool.push_image(name, (OCI_CONFIG, &config), &[(TAR, &layer)], json!({})).await;
    }
    // Somebody else's is being unpacked.
    let lanes = &world.images.shared().unpacking;
    let slot = lanes.long.acquire(&Turn::new("host", "other")).await;
    let mut large = Box::pin(world.pull("many:1"));
    tokio::select! {
        biased;
        pulled = &mut large => panic!("there was no room: {pulled:?}"),
        pulled = world.pull("few:1") => assert!(pulled.unwrap().files.is_some()),
    }
    drop(slot);
    let files = large.await.unwrap().files.unwrap().path;
    assert_eq!(fs::read_dir(files).unwrap().count(), names.len() + 1);
}
