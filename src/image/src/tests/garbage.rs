//! What pulls bring that nobody can use, and how it goes.

use std::fs;

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use parking_lot::Mutex;
use serde_json::json;

use super::remote::{World, world};
use super::*;
use crate::PullError;
use crate::digest::Digest;

fn blobs(world: &World) -> usize {
    fs::read_dir(world.dir.path().join("blobs/sha256")).unwrap().count()
}

#[tokio::test]
async fn what_a_pull_brought_in_vain_is_removed_unless_another_needs_it() {
    let missing: Arc<Mutex<Vec<String>>> = Arc::default();
    let refused = missing.clone();
    let world = world(|router| {
        router.layer(from_fn(move |request: Request, next: Next| {
            let refused = refused.lock().iter().any(|digest| request.uri().path().ends_with(digest.as_str()));
            async move {
                if refused { StatusCode::NOT_FOUND.into_response() } else { next.run(request).await }
            }
        }))
    })
    .await;
    let package = world.tool.push("web", "1", &module("gone")).await;
    missing.lock().push(Digest::of(&module("gone")).to_string());
    let error = world.pull("web:1").await.unwrap_err();
    assert!(matches!(error, PullError::NotFound { .. }), "{error:?}");
    assert_eq!(blobs(&world), 0, "its configuration came before");
    let names = || fs::read_dir(world.dir.path().join("repositories")).unwrap().count();
    assert_eq!(names(), 0, "nor is its name left");

    // Another pull that runs needs the same.
    let shared = world.images.shared();
    let claim = shared.claims.begin(format!("{}/web", world.host));
    claim.add(&Digest::of(&package.config)).await;
    world.pull("web:1").await.unwrap_err();
    assert_eq!((blobs(&world), world.images.remove_unfinished().await.unwrap()), (1, 0));
    drop(claim);
    assert_eq!(world.images.remove_unfinished().await.unwrap(), package.config.len() as u64);
    assert_eq!(blobs(&world), 0);

    // An image that is here keeps what it needs.
    world.tool.push("web", "2", &module("here")).await;
    let image = world.pull("web:2").await.unwrap();
    world.pull("web:1").await.unwrap_err();
    assert_eq!((blobs(&world), world.images.remove_unfinished().await.unwrap()), (3, 0));
    assert_eq!(fs::read(&image.path).unwrap(), module("here"));
}

#[tokio::test]
async fn images_that_cannot_run_are_removed_like_others() {
    let world = world(|router| router).await;
    let layer = world.tool.push_blob("odd", b"not wasm").await;
    let config = world.tool.push_blob("odd", b"{}").await;
    let manifest = json!({
        "schemaVersion": 2,
        "config": {"mediaType": "application/vnd.wasm.config.v0+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "application/wasm", "digest": layer, "size": 8}],
    });
    let manifest = manifest.to_string();
    world.tool.push_manifest("odd", "1", manifest.as_bytes()).await.expect(StatusCode::CREATED);
    world.images.push_local(&reference("registry.local/own:1"), module("own")).await.unwrap();
    let own = blobs(&world);
    world.pull("odd:1").await.unwrap_err();
    assert_eq!((blobs(&world), world.images.list().len()), (own + 3, 1));
    let digest = Digest::of(manifest.as_bytes()).to_string();
    assert_eq!(world.images.pulled(), [digest.clone()].into());
    let freed = world.images.remove_pulled(&digest, &[].into()).await.unwrap();
    assert_eq!((freed, blobs(&world)), (manifest.len() as u64 + 10, own));
    // A start removes the folders of names that an earlier one left, and no others.
    let repositories = world.dir.path().join("repositories");
    fs::create_dir_all(repositories.join("host/a/b/_blobs")).unwrap();
    fs::write(repositories.join("host/a/b/_blobs/.new"), "").unwrap();
    fs::create_dir_all(repositories.join("host/c/_tags")).unwrap();
    let reopened = world.reopened();
    let left: Vec<_> = fs::read_dir(&repositories).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["registry.local"]);
    assert!(reopened.find(&reference("registry.local/own:1")).is_some());
}
