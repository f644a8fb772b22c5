//! The distribution API, request by request.

use axum::http::Method;
use serde_json::json;

use super::*;
use crate::digest::Digest;
use crate::registry::uploads::{MAX_SESSIONS, SESSION_IDLE, SESSION_SILENT};

const POST: Method = Method::POST;
const PATCH: Method = Method::PATCH;
const PUT: Method = Method::PUT;
const DELETE: Method = Method::DELETE;
const HEAD: Method = Method::HEAD;

fn tool() -> (tempfile::TempDir, Arc<Images>, Tool) {
    let (dir, images) = images();
    let router = images.registry_router();
    (dir, images, Tool { router })
}

impl Tool {
    /// Begins an upload; gives its path.
    async fn begin(&self, name: &str) -> String {
        let answer = self.send(POST, &format!("/v2/{name}/blobs/uploads/"), &[], "").await;
        let answer = answer.expect(StatusCode::ACCEPTED);
        assert_eq!(answer.header("range"), "0-0");
        answer.header("location").to_owned()
    }
}

#[tokio::test]
async fn it_says_that_it_is_a_registry() {
    let (_dir, _images, tool) = tool();
    for path in ["/v2", "/v2/"] {
        let answer = tool.get(path).await.expect(StatusCode::OK);
        assert_eq!(answer.header("docker-distribution-api-version"), "registry/2.0");
    }
}

#[tokio::test]
async fn a_whole_blob_in_one_request_or_two() {
    let (_dir, _images, tool) = tool();
    let digest = tool.push_blob("a/b", b"content").await;
    let again = tool.begin("a/c").await;
    let answer = tool.send(PUT, &format!("{again}?digest={digest}"), &[], "content").await;
    let answer = answer.expect(StatusCode::CREATED);
    assert_eq!(answer.header("location"), format!("/v2/a/c/blobs/{digest}"));
    assert_eq!(answer.header("docker-content-digest"), digest);

    for name in ["a/b", "a/c"] {
        let path = format!("/v2/{name}/blobs/{digest}");
        let answer = tool.get(&path).await.expect(StatusCode::OK);
        assert_eq!(answer.body, b"content");
        assert_eq!(
            (answer.header("content-length"), answer.header("docker-content-digest")),
            ("7", &*digest)
        );
        let head = tool.send(HEAD, &path, &[], "").await.expect(StatusCode::OK);
        assert_eq!((head.header("content-length"), head.body.len()), ("7", 0));
    }
    let path = format!("/v2/a/b/blobs/{}", digest.replace(':', "%3A"));
    tool.get(&path).await.expect(StatusCode::OK);
    tool.get(&format!("/v2/other/blobs/{digest}")).await.expect_error(StatusCode::NOT_FOUND, "BLOB_UNKNOWN");
}

#[tokio::test]
async fn a_blob_in_chunks() {
    let (_dir, _images, tool) = tool();
    let path = tool.begin("web").await;
    let answer =
        tool.send(PATCH, &path, &[("content-range", "0-3")], "0123").await.expect(StatusCode::ACCEPTED);
    assert_eq!((answer.header("range"), answer.header("location")), ("0-3", &*path));
    // Out of order, or twice.
    for range in ["0-3", "5-8", "x"] {
        let answer = tool.send(PATCH, &path, &[("content-range", range)], "0123").await;
        answer.expect_error(StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID");
    }
    tool.send(PATCH, &path, &[], "45").await.expect(StatusCode::ACCEPTED);
    let status = tool.get(&path).await.expect(StatusCode::NO_CONTENT);
    assert_eq!(status.header("range"), "0-5");
    let digest = Digest::of(b"012345678").to_string();
    let end = format!("{path}?digest={digest}");
    tool.send(PUT, &end, &[("content-range", "6-8")], "678").await.expect(StatusCode::CREATED);
    assert_eq!(tool.get(&format!("/v2/web/blobs/{digest}")).await.body, b"012345678");
    tool.get(&path).await.expect_error(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn content_must_have_its_digest() {
    let (dir, _images, tool) = tool();
    let other = Digest::of(b"other").to_string();
    let path = format!("/v2/web/blobs/uploads/?digest={other}");
    tool.send(POST, &path, &[], "content").await.expect_error(StatusCode::BAD_REQUEST, "DIGEST_INVALID");
    let path = tool.begin("web").await;
    tool.send(PUT, &path, &[], "content").await.expect_error(StatusCode::BAD_REQUEST, "DIGEST_INVALID");
    let end = format!("{path}?digest={other}");
    tool.send(PUT, &end, &[], "content").await.expect_error(StatusCode::BAD_REQUEST, "DIGEST_INVALID");
    tool.send(PUT, &end, &[], "").await.expect_error(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN");
    tool.get(&format!("/v2/web/blobs/{other}")).await.expect_error(StatusCode::NOT_FOUND, "BLOB_UNKNOWN");
    for folder in ["uploads", "blobs/sha256"] {
        assert_eq!(std::fs::read_dir(dir.path().join(folder)).unwrap().count(), 0, "{folder} is clean");
    }
}

#[tokio::test]
async fn too_large_is_too_large() {
    let (dir, _images, tool) = tool();
    let large = vec![0; 1024 * 1024 + 1];
    let path = tool.begin("web").await;
    let answer = tool.send(PATCH, &path, &[], large.clone()).await;
    answer.expect_error(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID");
    tool.get(&path).await.expect_error(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN");
    let path = format!("/v2/web/blobs/uploads/?digest={}", Digest::of(&large));
    tool.send(POST, &path, &[], large).await.expect_error(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID");
    let manifest = vec![b' '; 4 * 1024 * 1024 + 1];
    tool.push_manifest("web", "1", &manifest)
        .await
        .expect_error(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID");
    assert_eq!(std::fs::read_dir(dir.path().join("uploads")).unwrap().count(), 0);
}

#[tokio::test]
async fn uploads_are_bounded_and_expire() {
    let (dir, _images, tool) = tool();
    let first = tool.begin("web").await;
    tool.send(DELETE, &first, &[], "").await.expect(StatusCode::NO_CONTENT);
    tool.get(&first).await.expect_error(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN");

    let mut uploads = Vec::new();
    for _ in 0..MAX_SESSIONS {
        uploads.push(tool.begin("web").await);
    }
    let full = tool.send(POST, "/v2/web/blobs/uploads/", &[], "").await;
    full.expect_error(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS");
    tool.get(&uploads[0].replace("/web/", "/other/"))
        .await
        .expect_error(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN");

    tokio::time::pause();
    tokio::time::advance(SESSION_IDLE / 2).await;
    tokio::time::resume();
    tool.send(PATCH, &uploads[0], &[], "x").await.expect(StatusCode::ACCEPTED);
    tokio::time::pause();
    tokio::time::advance(SESSION_IDLE / 2).await;
    tokio::time::resume();
    tool.begin("web").await;
    tool.get(&uploads[0]).await.expect(StatusCode::NO_CONTENT);
    tool.get(&uploads[1]).await.expect_error(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(std::fs::read_dir(dir.path().join("uploads")).unwrap().count(), 2);
}

#[tokio::test]
async fn the_upload_that_is_silent_the_longest_gives_way() {
    let (dir, _images, tool) = tool();
    let mut uploads = Vec::new();
    for _ in 0..MAX_SESSIONS {
        uploads.push(tool.begin("web").await);
    }
    tokio::time::pause();
    tokio::time::advance(SESSION_SILENT).await;
    tokio::time::resume();
    tool.send(PATCH, &uploads[0], &[], "x").await.expect(StatusCode::ACCEPTED);
    tool.begin("web").await;
    tool.push_blob("web", b"whole").await;
    let mut left = 0;
    for upload in &uploads {
        left += usize::from(tool.get(upload).await.status == StatusCode::NO_CONTENT);
    }
    assert_eq!(left, MAX_SESSIONS - 2);
    tool.get(&uploads[0]).await.expect(StatusCode::NO_CONTENT);
    assert_eq!(std::fs::read_dir(dir.path().join("uploads")).unwrap().count(), MAX_SESSIONS - 1);
}

#[tokio::test]
async fn blobs_are_mounted_from_other_repositories() {
    let (_dir, _images, tool) = tool();
    let digest = tool.push_blob("from", b"content").await;
    let mount = |to: &str, query: &str| format!("/v2/{to}/blobs/uploads/?mount={digest}{query}");
    let answer = tool.send(POST, &mount("to", "&from=from"), &[], "").await.expect(StatusCode::CREATED);
    assert_eq!(answer.header("location"), format!("/v2/to/blobs/{digest}"));
    assert_eq!(tool.get(&format!("/v2/to/blobs/{digest}")).await.body, b"content");
    tool.send(POST, &mount("third", ""), &[], "").await.expect(StatusCode::CREATED);
    // Not there: an ordinary upload begins.
    let answer =
        tool.send(POST, &mount("fourth", "&from=nowhere"), &[], "").await.expect(StatusCode::ACCEPTED);
    assert!(answer.header("location").starts_with("/v2/fourth/blobs/uploads/"));
    // It stays as long as one of them has it.
    for (name, left) in [("from", true), ("to", true), ("third", false)] {
        tool.send(DELETE, &format!("/v2/{name}/blobs/{digest}"), &[], "").await.expect(StatusCode::ACCEPTED);
        let path = tool.begin("probe").await;
        tool.send(DELETE, &path, &[], "").await.expect(StatusCode::NO_CONTENT);
        let there = tool.get(&format!("/v2/third/blobs/{digest}")).await.status == StatusCode::OK;
        assert_eq!(there, left, "after {name}");
    }
}

#[tokio::test]
async fn parts_of_blobs() {
    let (_dir, _images, tool) = tool();
    let digest = tool.push_blob("web", b"0123456789").await;
    let path = format!("/v2/web/blobs/{digest}");
    for (range, part, told) in [
        ("bytes=2-4", "234", "bytes 2-4/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=7-100", "789", "bytes 7-9/10"),
        ("bytes=-2", "89", "bytes 8-9/10"),
        ("bytes=-100", "0123456789", "bytes 0-9/10"),
    ] {
        let answer = tool.send(Method::GET, &path, &[("range", range)], "").await;
        let answer = answer.expect(StatusCode::PARTIAL_CONTENT);
        assert_eq!(
            (String::from_utf8_lossy(&answer.body).as_ref(), answer.header("content-range")),
            (part, told)
        );
    }
    for range in ["bytes=10-", "bytes=11-12", "bytes=-0", "bytes=4-2"] {
        let answer = tool.send(Method::GET, &path, &[("range", range)], "").await;
        answer.expect_error(StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID");
    }
    for range in ["bytes=x-y", "lines=1-2", "bytes=0-1,3-4", "bytes="] {
        let answer = tool.send(Method::GET, &path, &[("range", range)], "").await.expect(StatusCode::OK);
        assert_eq!(answer.body.len(), 10, "{range}");
    }
    let empty = tool.push_blob("web", b"").await;
    let path = format!("/v2/web/blobs/{empty}");
    tool.get(&path).await.expect(StatusCode::OK);
    tool.send(Method::GET, &path, &[("range", "bytes=0-")], "")
        .await
        .expect(StatusCode::RANGE_NOT_SATISFIABLE);
}

#[tokio::test]
async fn manifests_by_tag_and_by_digest() {
    let (_dir, images, tool) = tool();
    let package = tool.push("team/web", "1", &module("m")).await;
    for reference in ["1", &*package.manifest_digest] {
        let path = format!("/v2/team/web/manifests/{reference}");
        let answer = tool.get(&path).await.expect(StatusCode::OK);
        assert_eq!(answer.body, package.manifest);
        assert_eq!(answer.header("content-type"), Package::MANIFEST_TYPE);
        assert_eq!(answer.header("docker-content-digest"), package.manifest_digest);
        let head = tool.send(HEAD, &path, &[], "").await.expect(StatusCode::OK);
        assert_eq!(head.header("content-length"), package.manifest.len().to_string());
        assert!(head.body.is_empty());
    }
    let found = images.find(&reference("registry.local/team/web:1")).unwrap();
    assert_eq!(found.digest, package.manifest_digest);

    tool.get("/v2/team/web/manifests/2").await.expect_error(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN");
    tool.get("/v2/none/manifests/1").await.expect_error(StatusCode::NOT_FOUND, "NAME_UNKNOWN");
    let path = format!("/v2/team/web/manifests/{}", Digest::of(b""));
    tool.get(&path).await.expect_error(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn only_complete_manifests_are_taken() {
    let (_dir, _images, tool) = tool();
    let package = tool.push("web", "1", &module("m")).await;
    let answer = tool.push_manifest("other", "1", &package.manifest).await;
    answer.expect_error(StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN");
    let wrong = Digest::of(b"").to_string();
    let answer = tool.push_manifest("web", &wrong, &package.manifest).await;
    answer.expect_error(StatusCode::BAD_REQUEST, "DIGEST_INVALID");
    let answer = tool.push_manifest("web", &package.manifest_digest, &package.manifest).await;
    answer.expect(StatusCode::CREATED);
    for body in ["", "x", "{}", "[]", r#"{"schemaVersion":1}"#] {
        let answer = tool.push_manifest("web", "2", body.as_bytes()).await;
        answer.expect_error(StatusCode::BAD_REQUEST, "MANIFEST_INVALID");
    }
    let path = "/v2/web/manifests/2";
    let answer = tool.send(PUT, path, &[("content-type", "text/plain")], package.manifest.clone()).await;
    answer.expect_error(StatusCode::BAD_REQUEST, "MANIFEST_INVALID");

    let index = json!({"schemaVersion": 2, "mediaType": crate::manifest::OCI_INDEX, "manifests": [
        {"mediaType": Package::MANIFEST_TYPE, "digest": package.manifest_digest, "size": package.manifest.len(),
         "platform": {"architecture": "wasm", "os": "wasip1"}}]});
    let headers = [("content-type", crate::manifest::OCI_INDEX)];
    tool.send(PUT, path, &headers, index.to_string()).await.expect(StatusCode::CREATED);
    let answer = tool.get(path).await.expect(StatusCode::OK);
    assert_eq!(answer.header("content-type"), crate::manifest::OCI_INDEX);
}

#[tokio::test]
async fn deleting_manifests_and_tags() {
    let (_dir, images, tool) = tool();
    let package = tool.push("web", "1", &module("m")).await;
    tool.push("web", "2", &module("m")).await;
    let delete =
        async |reference: &str| tool.send(DELETE, &format!("/v2/web/manifests/{reference}"), &[], "").await;
    delete("1").await.expect(StatusCode::ACCEPTED);
    delete("1").await.expect_error(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN");
    assert_eq!(tool.get("/v2/web/tags/list").await.json(), json!({"name": "web", "tags": ["2"]}));
    assert!(images.find(&reference("registry.local/web:2")).is_some());
    delete(&package.manifest_digest).await.expect(StatusCode::ACCEPTED);
    delete(&package.manifest_digest).await.expect_error(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN");
    assert!(images.find(&reference("registry.local/web:2")).is_none());
    assert!(images.list().is_empty());
    let module = format!("/v2/web/blobs/{}", package.module_digest);
    tool.send(DELETE, &module, &[], "").await.expect(StatusCode::ACCEPTED);
    tool.send(DELETE, &module, &[], "").await.expect_error(StatusCode::NOT_FOUND, "BLOB_UNKNOWN");
    tool.send(DELETE, &format!("/v2/web/blobs/{}", package.config_digest), &[], "").await;
    tool.get("/v2/web/tags/list").await.expect_error(StatusCode::NOT_FOUND, "NAME_UNKNOWN");
    assert_eq!(tool.get("/v2/_catalog").await.json(), json!({"repositories": []}));
}

#[tokio::test]
async fn tags_and_repositories_in_pages() {
    let (_dir, _images, tool) = tool();
    for (name, tag) in [("b/web", "1"), ("b/web", "3"), ("b/web", "2"), ("a", "1"), ("c", "1")] {
        tool.push(name, tag, &module("m")).await;
    }
    assert_eq!(
        tool.get("/v2/b/web/tags/list").await.json(),
        json!({"name": "b/web", "tags": ["1", "2", "3"]})
    );
    let mut path = "/v2/_catalog?n=2".to_owned();
    let mut pages = Vec::new();
    loop {
        let answer = tool.get(&path).await.expect(StatusCode::OK);
        pages.push(answer.json()["repositories"].clone());
        let Some(next) =
            answer.header("link").strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""))
        else {
            break;
        };
        path = next.to_owned();
    }
    assert_eq!(pages, [json!(["a", "b/web"]), json!(["c"])]);
    assert_eq!(tool.get("/v2/b/web/tags/list?n=0").await.json()["tags"], json!([]));
    tool.get("/v2/b/web/tags/list?n=x").await.expect_error(StatusCode::BAD_REQUEST, "UNSUPPORTED");
}

/// What the distribution specification's own tests ask for, where no other test here does.
#[tokio::test]
async fn the_rest_of_the_specification() {
    let (_dir, _images, tool) = tool();
    let nothing = Digest::of(b"nothing").to_string();
    // Of what is not there nothing is said but that.
    tool.push_blob("web", b"{}").await;
    for path in [format!("blobs/{nothing}"), format!("manifests/{nothing}"), "manifests/none".to_owned()] {
        let code = if path.starts_with('b') { "BLOB_UNKNOWN" } else { "MANIFEST_UNKNOWN" };
        tool.get(&format!("/v2/web/{path}")).await.expect_error(StatusCode::NOT_FOUND, code);
        let head = tool.send(HEAD, &format!("/v2/web/{path}"), &[], "").await;
        head.expect(StatusCode::NOT_FOUND);
    }
    // A mount of what nobody has begins an upload.
    for from in ["", "&from=web"] {
        let answer = tool.send(POST, &format!("/v2/to/blobs/uploads/?mount={nothing}{from}"), &[], "").await;
        let path = answer.expect(StatusCode::ACCEPTED).header("location").to_owned();
        tool.send(DELETE, &path, &[], "").await.expect(StatusCode::NO_CONTENT);
    }
    // A manifest without layers, and one of a type that we know nothing of.
    let config = tool.push_blob("web", b"{}").await;
    for artifact_type in [None, Some("application/vnd.example")] {
        let mut manifest = json!({"schemaVersion": 2, "mediaType": Package::MANIFEST_TYPE, "layers": [],
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2}});
        if let Some(artifact_type) = artifact_type {
            manifest["artifactType"] = json!(artifact_type);
        }
        let manifest = manifest.to_string();
        let answer = tool.push_manifest("web", "bare", manifest.as_bytes()).await.expect(StatusCode::CREATED);
        let digest = Digest::of(manifest.as_bytes()).to_string();
        assert_eq!(answer.header("location"), format!("/v2/web/manifests/{digest}"));
        let answer = tool.get("/v2/web/manifests/bare").await.expect(StatusCode::OK);
        assert_eq!((answer.header("docker-content-digest"), &*answer.body), (&*digest, manifest.as_bytes()));
    }
    // Chunks, with the first one again, and the end without content.
    let path = tool.begin("web").await;
    tool.send(PATCH, &path, &[("content-range", "2-4")], "cde")
        .await
        .expect(StatusCode::RANGE_NOT_SATISFIABLE);
    for (range, chunk, status) in [("0-2", "abc", 202), ("0-2", "abc", 416), ("3-5", "def", 202)] {
        let answer = tool.send(PATCH, &path, &[("content-range", range)], chunk).await;
        assert_eq!(answer.status.as_u16(), status, "{range}");
    }
    let end = format!("{path}?digest={}", Digest::of(b"abcdef"));
    tool.send(PUT, &end, &[("content-length", "0")], "").await.expect(StatusCode::CREATED);
    // Tags from one on, so many.
    for tag in ["test1", "test0", "test3", "test2"] {
        let manifest = tool.get("/v2/web/manifests/bare").await.body;
        tool.push_manifest("web", tag, &manifest).await.expect(StatusCode::CREATED);
    }
    let tags =
        async |query: &str| tool.get(&format!("/v2/web/tags/list{query}")).await.json()["tags"].clone();
    assert_eq!(tags("").await, json!(["bare", "test0", "test1", "test2", "test3"]));
    assert_eq!(tags("?n=2&last=test0").await, json!(["test1", "test2"]));
    assert_eq!(tags("?last=test2").await, json!(["test3"]));
}

#[tokio::test]
async fn what_refers_to_a_manifest_is_listed() {
    let (dir, images, tool) = tool();
    let empty = Digest::of(b"{}").to_string();
    tool.push_blob("web", b"{}").await;
    let subject = Digest::of(b"not here yet").to_string();
    let artifact = |name: &str, artifact_type: Option<&str>, config: &str| {
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": Package::MANIFEST_TYPE,
            "config": {"mediaType": config, "digest": empty, "size": 2}, "layers": [],
            "subject": {"mediaType": Package::MANIFEST_TYPE, "digest": subject, "size": 7},
            "annotations": {"name": name}});
        if let Some(artifact_type) = artifact_type {
            manifest["artifactType"] = json!(artifact_type);
        }
        manifest.to_string().into_bytes()
    };
    let list = format!("/v2/web/referrers/{subject}");
    let nothing = tool.get(&list).await.expect(StatusCode::OK);
    assert_eq!(nothing.header("content-type"), crate::manifest::OCI_INDEX);
    assert_eq!(
        nothing.json(),
        json!({"schemaVersion": 2, "mediaType": crate::manifest::OCI_INDEX, "manifests": []})
    );
    tool.get(&list.replace("web", "none")).await.expect(StatusCode::OK);

    let mut digests = Vec::new();
    for (name, artifact_type, config) in [
        ("a", Some("application/x.sbom"), "application/vnd.oci.empty.v1+json"),
        ("b", Some("application/x.sig+json"), "application/vnd.oci.empty.v1+json"),
        ("c", None, "application/x.sig+json"),
    ] {
        let bytes = artifact(name, artifact_type, config);
        let digest = Digest::of(&bytes).to_string();
        let answer = tool.push_manifest("web", &digest, &bytes).await.expect(StatusCode::CREATED);
        assert_eq!(answer.header("oci-subject"), subject);
        digests.push((digest, bytes.len()));
    }
    let index = json!({"schemaVersion": 2, "mediaType": crate::manifest::OCI_INDEX, "manifests": [],
        "artifactType": "application/x.index", "subject": {"mediaType": "x", "digest": subject, "size": 7}});
    let headers = [("content-type", crate::manifest::OCI_INDEX)];
    let answer = tool.send(PUT, "/v2/web/manifests/index", &headers, index.to_string()).await;
    assert_eq!(answer.expect(StatusCode::CREATED).header("oci-subject"), subject);

    let all = tool.get(&list).await.json();
    assert_eq!(all["manifests"].as_array().unwrap().len(), 4);
    let sbom =
        all["manifests"].as_array().unwrap().iter().find(|said| said["digest"] == digests[0].0).unwrap();
    let expected = json!({"mediaType": Package::MANIFEST_TYPE, "digest": digests[0].0, "size": digests[0].1,
                          "artifactType": "application/x.sbom", "annotations": {"name": "a"}});
    assert_eq!(*sbom, expected);
    let filtered = tool.get(&format!("{list}?artifactType=application%2Fx.sig%2Bjson")).await;
    assert_eq!(filtered.header("oci-filters-applied"), "artifactType");
    assert_eq!(filtered.json()["manifests"].as_array().unwrap().len(), 2);
    let after = all["manifests"][1]["digest"].as_str().unwrap();
    let rest = tool.get(&format!("{list}?last={after}")).await.json();
    assert_eq!(rest["manifests"], json!([all["manifests"][2], all["manifests"][3]]));

    // A restart keeps it, a removal does not.
    drop((images, tool));
    let images = open(dir.path());
    let tool = Tool { router: images.registry_router() };
    assert_eq!(tool.get(&list).await.json(), all);
    let path = format!("/v2/web/manifests/{}", digests[0].0);
    tool.send(DELETE, &path, &[], "").await.expect(StatusCode::ACCEPTED);
    assert_eq!(tool.get(&list).await.json()["manifests"].as_array().unwrap().len(), 3);
    assert_eq!(
        std::fs::read_dir(dir.path().join("repositories/registry.local/web/_referrers")).unwrap().count(),
        3
    );
    tool.get("/v2/web/referrers/latest").await.expect_error(StatusCode::BAD_REQUEST, "DIGEST_INVALID");
    tool.send(PUT, &list, &[], "").await.expect_error(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED");
}

#[tokio::test]
async fn long_lists_of_referrers_come_in_pages() {
    let (_dir, _images, tool) = tool();
    let empty = tool.push_blob("web", b"{}").await;
    let subject = Digest::of(b"subject").to_string();
    for number in 0..5 {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": Package::MANIFEST_TYPE, "artifactType": "a/b+c",
            "config": {"mediaType": "x", "digest": empty, "size": 2}, "layers": [],
            "subject": {"mediaType": "x", "digest": subject, "size": 7},
            "annotations": {"number": number.to_string(), "long": "x".repeat(1 << 20)}});
        let answer = tool.push_manifest("web", &number.to_string(), manifest.to_string().as_bytes()).await;
        answer.expect(StatusCode::CREATED);
    }
    let mut path = format!("/v2/web/referrers/{subject}?artifactType=a%2Fb%2Bc");
    let (mut pages, mut numbers) = (0, std::collections::BTreeSet::new());
    loop {
        let answer = tool.get(&path).await.expect(StatusCode::OK);
        assert!(answer.body.len() as u64 <= crate::manifest::MAX_MANIFEST);
        for said in answer.json()["manifests"].as_array().unwrap() {
            assert!(numbers.insert(said["annotations"]["number"].as_str().unwrap().to_owned()));
        }
        pages += 1;
        let link =
            answer.header("link").strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
        let Some(next) = link else { break };
        path = next.to_owned();
    }
    assert_eq!((pages, numbers.len()), (2, 5));
}

#[tokio::test]
async fn other_requests_are_refused() {
    let (_dir, _images, tool) = tool();
    let digest = Digest::of(b"").to_string();
    for (method, path, status, code) in [
        (PUT, "/v2/_catalog", 405, "UNSUPPORTED"),
        (DELETE, "/v2/web/tags/list", 405, "UNSUPPORTED"),
        (PATCH, "/v2/web/manifests/1", 405, "UNSUPPORTED"),
        (PUT, &*format!("/v2/web/blobs/{digest}"), 405, "UNSUPPORTED"),
        (Method::GET, "/v2/web/blobs/uploads/", 405, "UNSUPPORTED"),
        (Method::GET, "/v2/web", 404, "UNSUPPORTED"),
        (Method::GET, "/v2/web/", 404, "UNSUPPORTED"),
        (Method::GET, "/v2/web/blobs/sha256:12", 400, "DIGEST_INVALID"),
        (Method::GET, "/v2/Web/manifests/1", 400, "NAME_INVALID"),
        (Method::GET, "/v2/manifests/1", 400, "NAME_INVALID"),
        (POST, "/v2/a/%2e%2e/b/blobs/uploads/", 400, "NAME_INVALID"),
        (POST, "/v2/a%2F..%2Fb/blobs/uploads/", 400, "NAME_INVALID"),
        (PUT, "/v2/web/manifests/..", 404, "MANIFEST_UNKNOWN"),
        (POST, "/v2/web/blobs/uploads/?mount=x", 400, "DIGEST_INVALID"),
        (PATCH, "/v2/web/blobs/uploads/no-such-id", 404, "BLOB_UPLOAD_UNKNOWN"),
    ] {
        let answer = tool.send(method.clone(), path, &[], "").await;
        assert_eq!(answer.status.as_u16(), status, "{method} {path}");
        answer.expect_error(StatusCode::from_u16(status).unwrap(), code);
    }
}
