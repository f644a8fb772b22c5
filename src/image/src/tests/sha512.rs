//! Content that is named by SHA-512, in the registry and in pulls.

use std::fs;

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::remote::world;
use super::*;
use crate::PullError;
use crate::digest::{Algorithm, Digest, Digester};

const CNCF: &str = "application/vnd.wasm.config.v0+json";

fn sha512(bytes: &[u8]) -> String {
    let mut digester = Digester::new(Algorithm::Sha512);
    digester.update(bytes);
    digester.digest().to_string()
}

impl Tool {
    /// Pushes a module, and everything that leads to it, by digests of SHA-512; gives that of the manifest.
    async fn push_as_sha512(&self, name: &str, module: &[u8], more: Value) -> String {
        let layer = self.push_blob_as(name, module, sha512(module)).await;
        let config = self.push_blob_as(name, b"{}", sha512(b"{}")).await;
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": Package::MANIFEST_TYPE,
            "config": {"mediaType": CNCF, "digest": config, "size": 2},
            "layers": [{"mediaType": "application/wasm", "digest": layer, "size": module.len()}]});
        manifest.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        let manifest = manifest.to_string();
        let digest = sha512(manifest.as_bytes());
        let answer = self.push_manifest(name, &digest, manifest.as_bytes()).await.expect(StatusCode::CREATED);
        assert_eq!(answer.header("docker-content-digest"), digest);
        assert_eq!(answer.header("location"), format!("/v2/{name}/manifests/{digest}"));
        digest
    }
}

#[tokio::test]
async fn the_registry_takes_and_gives_it() {
    let (dir, images) = images();
    let tool = Tool { router: images.registry_router() };
    let content = b"content";
    let digest = sha512(content);
    // In one request, in a session, and in one that says so before.
    for (session, wrong) in
        [("", true), ("?digest-algorithm=sha512", true), ("?digest-algorithm=sha256", false)]
    {
        let begin = async || {
            let path = format!("/v2/web/blobs/uploads/{session}");
            let answer = tool.send(Method::POST, &path, &[], "").await.expect(StatusCode::ACCEPTED);
            let path = answer.header("location").to_owned();
            tool.send(Method::PATCH, &path, &[], "cont").await.expect(StatusCode::ACCEPTED);
            path
        };
        let path = begin().await;
        let end = format!("{path}?digest={digest}");
        tool.send(Method::PUT, &end, &[], "ent").await.expect(StatusCode::CREATED);
        if wrong {
            let end = format!("{}?digest={digest}", begin().await);
            let answer = tool.send(Method::PUT, &end, &[], "other").await;
            answer.expect_error(StatusCode::BAD_REQUEST, "DIGEST_INVALID");
        }
        let blob = format!("/v2/web/blobs/{digest}");
        let answer = tool.get(&blob).await.expect(StatusCode::OK);
        assert_eq!((&*answer.body, answer.header("docker-content-digest")), (&content[..], &*digest));
        tool.send(Method::DELETE, &blob, &[], "").await.expect(StatusCode::ACCEPTED);
        tool.get(&blob).await.expect_error(StatusCode::NOT_FOUND, "BLOB_UNKNOWN");
    }
    let answer = tool.send(Method::POST, "/v2/web/blobs/uploads/?digest-algorithm=md5", &[], "").await;
    answer.expect_error(StatusCode::BAD_REQUEST, "DIGEST_INVALID");
    let path = format!("/v2/web/blobs/uploads/?digest={digest}");
    tool.send(Method::POST, &path, &[], "other")
        .await
        .expect_error(StatusCode::BAD_REQUEST, "DIGEST_INVALID");

    let image = tool.push_as_sha512("web", &module("m"), json!({})).await;
    let subject = json!({"subject": {"mediaType": Package::MANIFEST_TYPE, "digest": image, "size": 7},
                         "artifactType": "application/x.sbom"});
    let about = tool.push_as_sha512("web", &module("about"), subject).await;
    let other = json!({"schemaVersion": 2, "layers": []}).to_string();
    let answer = tool.push_manifest("web", &image, other.as_bytes()).await;
    answer.expect_error(StatusCode::BAD_REQUEST, "DIGEST_INVALID");
    // A restart keeps it all.
    drop((images, tool));
    let images = open(dir.path());
    let tool = Tool { router: images.registry_router() };
    let answer = tool.get(&format!("/v2/web/manifests/{image}")).await.expect(StatusCode::OK);
    assert_eq!(sha512(&answer.body), image);
    let said = tool.get(&format!("/v2/web/referrers/{image}")).await.json();
    assert_eq!(said["manifests"][0]["digest"], about);
    let found = images.find(&reference(&format!("registry.local/web@{image}"))).unwrap();
    assert_eq!((found.digest, found.module_digest), (image.clone(), sha512(&module("m"))));
    for manifest in [&about, &image] {
        let path = format!("/v2/web/manifests/{manifest}");
        tool.send(Method::DELETE, &path, &[], "").await.expect(StatusCode::ACCEPTED);
    }
    assert_eq!(tool.get(&format!("/v2/web/referrers/{image}")).await.json()["manifests"], json!([]));
}

#[tokio::test]
async fn images_are_pulled_by_it() {
    let world = world(|router| router).await;
    let digest = world.tool.push_as_sha512("web", &module("m"), json!({})).await;
    let name = format!("web@{digest}");
    let image = world.pull(&name).await.unwrap();
    assert_eq!((&image.digest, &image.module_digest), (&digest, &sha512(&module("m"))));
    assert_eq!(fs::read(&image.path).unwrap(), module("m"));
    let blobs = |kind: &str| fs::read_dir(world.dir.path().join("blobs").join(kind)).unwrap().count();
    assert_eq!((blobs("sha256"), blobs("sha512")), (0, 3));
    let full = reference(&format!("{}/{name}", world.host));
    assert_eq!(world.reopened().find(&full), Some(image.clone()));
    // An index of the other kind leads to it.
    let index = json!({"schemaVersion": 2, "mediaType": crate::manifest::OCI_INDEX, "manifests": [
        {"mediaType": Package::MANIFEST_TYPE, "digest": digest, "size": 7,
         "platform": {"architecture": "wasm", "os": "wasip1"}}]});
    let headers = [("content-type", crate::manifest::OCI_INDEX)];
    world.tool.send(Method::PUT, "/v2/web/manifests/1", &headers, index.to_string()).await;
    let by_index = world.pull("web:1").await.unwrap();
    assert_eq!(by_index.digest, Digest::of(index.to_string().as_bytes()).to_string());
    assert_eq!(by_index.module_digest, image.module_digest);
    for digest in [by_index.digest, digest] {
        world.images.remove_pulled(&digest, &[].into()).await.unwrap();
    }
    assert_eq!((blobs("sha256"), blobs("sha512")), (0, 0));
}

#[tokio::test]
async fn it_is_not_believed_either() {
    // Of `changed` the content is another, of `other` the manifest is.
    let world = world(|router| {
        router.layer(from_fn(async |request: Request, next: Next| {
            let path = request.uri().path().to_owned();
            let response = next.run(request).await;
            let wrong = (path.contains("changed") && path.contains("/blobs/"))
                || (path.contains("other") && path.contains("/manifests/"));
            let (parts, body) = response.into_parts();
            let mut bytes = body.collect().await.unwrap().to_bytes().to_vec();
            if wrong && bytes.len() > 9 {
                let last = bytes.len() - 1;
                bytes[last] ^= 1;
            }
            (parts, bytes).into_response()
        }))
    })
    .await;
    for name in ["changed", "other"] {
        let digest = world.tool.push_as_sha512(name, &module("m"), json!({})).await;
        let error = world.pull(&format!("{name}@{digest}")).await.unwrap_err();
        let PullError::Digest { expected, .. } = &error else { panic!("{error:?}") };
        assert!(expected.starts_with("sha512:"), "{expected}");
    }
}

/// What broke off goes on, and what is damaged is fetched again.
#[tokio::test]
async fn beginnings_are_kept_by_it() {
    let (_dir, images) = images();
    let content = &images.shared().content;
    let digest = Digest::parse(&sha512(b"content")).unwrap();
    let mut draft = content.resume(&digest, 100).await.unwrap();
    draft.append(b"cont").await.map_err(|_| ()).unwrap();
    draft.finish().await.unwrap();
    drop(draft);
    let mut draft = content.resume(&digest, 100).await.unwrap();
    assert_eq!(draft.size(), 4);
    draft.append(b"ent").await.map_err(|_| ()).unwrap();
    assert_eq!(draft.digest(), digest);
    draft.restart().await.unwrap();
    draft.append(b"content").await.map_err(|_| ()).unwrap();
    assert_eq!(draft.digest(), digest);
    assert!(draft.is_of(&Digest::of(b"content")).await.unwrap());
}
