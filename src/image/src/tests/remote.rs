//! Pulls and pushes over a real connection, with `oci-client` on one side or on both.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use oci_client::client::{ClientConfig, ClientProtocol, Config as BlobConfig, ImageLayer};
use oci_client::secrets::RegistryAuth;
use serde_json::json;
use tokio::sync::Notify;

use super::*;
use crate::digest::Digest;
use crate::{Credentials, PullError};

/// A registry with something in it, and a store to pull into.
pub(super) struct World {
    pub(super) host: String,
    pub(super) tool: Tool,
    pub(super) server: Arc<Images>,
    pub(super) images: Arc<Images>,
    pub(super) dir: tempfile::TempDir,
    _guards: (tempfile::TempDir, DropGuard),
}

pub(super) async fn world(wrap: impl FnOnce(Router) -> Router) -> World {
    let (server_dir, server) = images();
    let (dir, images) = images();
    let (host, guard) = serve(wrap(server.registry_router())).await;
    let tool = Tool { router: server.registry_router() };
    World { host, tool, server, images, dir, _guards: (server_dir, guard) }
}

impl World {
    pub(super) async fn pull(&self, name: &str) -> Result<crate::Image, PullError> {
        self.images.pull(&reference(&format!("{}/{name}", self.host)), None, "team").await
    }

    /// The store as the next start finds it.
    pub(super) fn reopened(&self) -> Arc<Images> {
        open(self.dir.path())
    }
}

#[tokio::test]
async fn oci_client_pushes_and_we_pull() {
    let world = world(|router| router).await;
    let client =
        oci_client::Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
    let target = oci_client::Reference::try_from(format!("{}/team/web:1", world.host)).unwrap();
    let bytes = module("m");
    let layer = ImageLayer::new(bytes.clone(), "application/wasm".to_owned(), None);
    let config = BlobConfig::new(&b"{}"[..], "application/vnd.wasm.config.v0+json".to_owned(), None);
    client.push(&target, &[layer], config, &RegistryAuth::Anonymous, None).await.unwrap();

    let source = reference(&target.to_string());
    assert_eq!(world.images.find(&source), None);
    let image = world.images.pull(&source, None, "team").await.unwrap();
    assert_eq!(image.module_digest, Digest::of(&bytes).to_string());
    assert_eq!(std::fs::read(&image.path).unwrap(), bytes);
    assert_eq!(world.images.find(&source), Some(image.clone()));
    let by_digest = format!("{}/team/web@{}", world.host, image.digest);
    assert_eq!(world.images.find(&reference(&by_digest)), Some(image.clone()));

    // And back out of our registry with its client.
    let accepted = vec!["application/wasm"];
    let data = client.pull(&target, &RegistryAuth::Anonymous, accepted).await.unwrap();
    assert_eq!(data.layers[0].data, bytes);
    assert_eq!(data.digest, Some(image.digest));
    let tags = client.list_tags(&target, &RegistryAuth::Anonymous, None, None).await.unwrap();
    assert_eq!((tags.name.as_str(), tags.tags), ("team/web", vec!["1".to_owned()]));
    let mounted = oci_client::Reference::try_from(format!("{}/other:1", world.host)).unwrap();
    client.mount_blob(&mounted, &target, &image.module_digest).await.unwrap();
    assert!(client.blob_exists(&mounted, &image.module_digest).await.unwrap());
}

#[tokio::test]
async fn a_large_module_goes_in_chunks_and_monolithically() {
    let world = world(|router| router).await;
    let mut bytes = module("m");
    // A custom section of half a megabyte.
    let padding = 500_000_u32;
    bytes.extend([
        0,
        0x80 | (padding & 0x7f) as u8,
        0x80 | (padding >> 7 & 0x7f) as u8,
        (padding >> 14) as u8,
        0,
    ]);
    bytes.resize(bytes.len() + padding as usize - 1, b'x');
    for (tag, use_monolithic_push) in [("chunked", false), ("whole", true)] {
        let config =
            ClientConfig { protocol: ClientProtocol::Http, use_monolithic_push, ..ClientConfig::default() };
        let client = oci_client::Client::new(config);
        let target = oci_client::Reference::try_from(format!("{}/{tag}:1", world.host)).unwrap();
        let layer = ImageLayer::new(bytes.clone(), "application/wasm".to_owned(), None);
        let config = BlobConfig::new(&b"{}"[..], "application/vnd.wasm.config.v0+json".to_owned(), None);
        client.push(&target, &[layer], config, &RegistryAuth::Anonymous, None).await.unwrap();
        assert_eq!(world.pull(&format!("{tag}:1")).await.unwrap().size, bytes.len() as u64);
    }
}

#[tokio::test]
async fn older_formats_and_container_configurations() {
    let world = world(|router| router).await;
    let layer = world.tool.push_blob("old", &module("m")).await;
    let config = json!({"architecture": "wasm", "os": "wasi", "config": {
        "Entrypoint": ["/web.wasm"], "Cmd": ["--port", "80"], "Env": ["A=1", "B=x=y"], "WorkingDir": "/srv"}});
    let config_digest = world.tool.push_blob("old", config.to_string().as_bytes()).await;
    let manifest = json!({
        "schemaVersion": 2,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest,
                   "size": config.to_string().len()},
        "layers": [{"mediaType": "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
                    "digest": layer, "size": module("m").len()}],
    });
    let manifest = manifest.to_string();
    world.tool.push_manifest("old", "1", manifest.as_bytes()).await.expect(StatusCode::CREATED);
    let image = world.pull("old:1").await.unwrap();
    assert_eq!(
        (image.entrypoint, image.cmd),
        (vec!["/web.wasm".to_owned()], vec!["--port".into(), "80".into()])
    );
    assert_eq!(image.env, [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "x=y".to_owned())]);
    assert_eq!(image.working_dir.as_deref(), Some("/srv"));

    // The same behind an index, by tag and by the digest of the index.
    let digest = Digest::of(manifest.as_bytes()).to_string();
    let index = json!({"schemaVersion": 2, "mediaType": crate::manifest::OCI_INDEX, "manifests": [
        {"mediaType": Package::MANIFEST_TYPE, "digest": digest, "size": manifest.len(),
         "platform": {"architecture": "wasm", "os": "wasi"}}]});
    let headers = [("content-type", crate::manifest::OCI_INDEX)];
    let answer = world.tool.send(Method::PUT, "/v2/old/manifests/multi", &headers, index.to_string()).await;
    let index_digest = answer.expect(StatusCode::CREATED).header("docker-content-digest").to_owned();
    let image = world.pull("old:multi").await.unwrap();
    assert_eq!((&image.digest, &image.module_digest), (&index_digest, &layer));
    let by_digest = reference(&format!("{}/old@{index_digest}", world.host));
    assert_eq!(world.images.find(&by_digest), Some(image));
}

#[tokio::test]
async fn pulls_of_the_same_image_are_one() {
    let manifests = Arc::new(AtomicUsize::new(0));
    let (asked, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let world = {
        let (manifests, asked, gate) = (manifests.clone(), asked.clone(), gate.clone());
        world(move |router| {
            router.layer(from_fn(move |request: Request, next: Next| {
                let (manifests, asked, gate) = (manifests.clone(), asked.clone(), gate.clone());
                async move {
                    if request.uri().path().contains("/manifests/") {
                        manifests.fetch_add(1, Ordering::SeqCst);
                        asked.notify_one();
                        gate.notified().await;
                    }
                    next.run(request).await
                }
            }))
        })
        .await
    };
    world.tool.push("web", "1", &module("m")).await;
    let name = reference(&format!("{}/web:1", world.host));
    let pulls: Vec<_> = (0..8)
        .map(|_| {
            let (images, name) = (world.images.clone(), name.clone());
            tokio::spawn(async move { images.pull(&name, None, "team").await })
        })
        .collect();
    asked.notified().await;
    // The first one goes away; the others still get their image.
    pulls[0].abort();
    gate.notify_one();
    for pull in pulls.into_iter().skip(1) {
        pull.await.unwrap().unwrap();
    }
    assert_eq!(manifests.load(Ordering::SeqCst), 1);
    gate.notify_one();
    world.images.pull(&name, None, "team").await.unwrap();
    assert_eq!(manifests.load(Ordering::SeqCst), 2, "a later pull asks again");
}

#[tokio::test]
async fn failures_say_what_failed() {
    let world = world(|router| router).await;
    world.tool.push("web", "1", &module("m")).await;
    let missing = world.pull("web:2").await.unwrap_err();
    assert!(matches!(missing, PullError::NotFound { .. }), "{missing:?}");
    assert!(missing.to_string().ends_with("/web:2: not found"), "{missing}");
    let missing = world.pull("none:1").await.unwrap_err();
    assert!(matches!(missing, PullError::NotFound { .. }), "{missing:?}");

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = listener.local_addr().unwrap();
    drop(listener);
    let error = world.images.pull(&reference(&format!("{closed}/web:1")), None, "team").await.unwrap_err();
    assert!(matches!(error, PullError::Registry { .. }), "{error:?}");
    assert!(std::error::Error::source(&error).is_some());
}

/// Lets in who knows the password.
async fn guarded(request: Request, next: Next) -> Response {
    // user:secret
    if request.headers().get("authorization").is_some_and(|value| value == "Basic dXNlcjpzZWNyZXQ=") {
        return next.run(request).await;
    }
    (StatusCode::UNAUTHORIZED, [("www-authenticate", "Basic realm=\"test\"")]).into_response()
}

#[tokio::test]
async fn credentials_open_a_registry_only_for_who_has_them() {
    let world = world(|router| router.layer(from_fn(guarded))).await;
    world.tool.push("web", "1", &module("m")).await;
    let name = reference(&format!("{}/web:1", world.host));
    let credentials =
        |password: &str| Some(Credentials { username: "user".to_owned(), password: password.to_owned() });
    for other in [None, credentials("wrong")] {
        let error = world.images.pull(&name, other, "team").await.unwrap_err();
        assert!(matches!(error, PullError::Denied { .. }), "{error:?}");
    }
    world.images.pull(&name, credentials("secret"), "team").await.unwrap();
    let error = world.images.pull(&name, None, "team").await.unwrap_err();
    assert!(matches!(error, PullError::Denied { .. }), "the credentials of one do not serve another");
    assert!(!format!("{:?}", credentials("secret")).contains("secret"));
}

#[tokio::test]
async fn a_registry_that_lies_is_not_believed() {
    // What it says instead of a blob depends on the repository.
    let world = world(|router| {
        router.layer(from_fn(async |request: Request, next: Next| {
            let path = request.uri().path().to_owned();
            let response = next.run(request).await;
            if !path.contains("/blobs/") {
                return response;
            }
            let mut bytes = response.into_body().collect().await.unwrap().to_bytes().to_vec();
            match path.split('/').nth(2) {
                Some("changed") => bytes[9] ^= 1,
                Some("longer") => bytes.extend([b'x'; 1000]),
                _ => bytes.truncate(2),
            }
            bytes.into_response()
        }))
    })
    .await;
    for name in ["changed", "longer", "shorter"] {
        world.tool.push(name, "1", &module("m")).await;
        let error = world.pull(&format!("{name}:1")).await.unwrap_err();
        let expected = match name {
            "longer" => matches!(error, PullError::TooLarge { .. }),
            "changed" => matches!(error, PullError::Digest { .. }),
            _ => matches!(error, PullError::Registry { .. }),
        };
        assert!(expected, "{name}: {error:?}");
        assert_eq!(world.images.find(&reference(&format!("{}/{name}:1", world.host))), None);
    }

    let manifest = json!({"schemaVersion": 2, "layers": [
        {"mediaType": "application/wasm", "digest": Digest::of(b"").to_string(), "size": 1_u64 << 40}]});
    world.tool.push_blob("huge", b"").await;
    let answer = world.tool.push_manifest("huge", "1", manifest.to_string().as_bytes()).await;
    answer.expect(StatusCode::CREATED);
    let error = world.pull("huge:1").await.unwrap_err();
    assert!(matches!(error, PullError::TooLarge { limit: 1_048_576, .. }), "{error:?}");
}

#[tokio::test]
async fn a_pull_ends_with_its_store_or_its_time() {
    let world = world(|router| {
        router.layer(from_fn(async |_: Request, _: Next| std::future::pending::<Response>().await))
    })
    .await;
    let name = reference(&format!("{}/web:1", world.host));
    let dir = tempfile::tempdir().unwrap();
    let short = std::time::Duration::from_millis(50);
    let hasty = Images::open(Config { pull_timeout: short, ..Config::new(dir.path()) }).unwrap();
    let error = hasty.pull(&name, None, "team").await.unwrap_err();
    assert!(matches!(error, PullError::Timeout { .. }), "{error:?}");
}
