//! Images without HTTP, and what a restart keeps.

use std::fs;

use super::*;
use crate::{FormatError, ImageError, PullError};

#[tokio::test]
async fn a_pushed_module_is_found_under_all_its_names() {
    let (_dir, images) = images();
    let bytes = module("one");
    let pushed = images.push_local(&reference("registry.local/team/web:1"), bytes.clone()).await.unwrap();
    images.push_local(&reference("registry.local/team/web:latest"), bytes.clone()).await.unwrap();
    assert_eq!(pushed.digest, manifest_for(&bytes).unwrap().manifest_digest);
    assert_eq!((pushed.size, fs::read(&pushed.path).unwrap()), (bytes.len() as u64, bytes.clone()));

    let by_digest = format!("registry.local/team/web@{}", pushed.digest);
    for name in ["registry.local/team/web:1", "registry.local/team/web", &by_digest] {
        assert_eq!(images.find(&reference(name)).as_ref(), Some(&pushed), "{name}");
        assert_eq!(images.pull(&reference(name), None, "team").await.unwrap(), pushed, "{name}");
    }
    for name in
        ["registry.local/team/web:2", "registry.local/web:1", "team/web:1", "registry.local/x:1@sha256:0"]
    {
        let Ok(reference) = Reference::parse(name) else { continue };
        assert_eq!(images.find(&reference), None, "{name}");
    }
    let error = images.pull(&reference("registry.local/none:1"), None, "team").await.unwrap_err();
    assert_eq!(error.to_string(), "registry.local/none:1: not found");

    let listed = images.list();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        listed[0].names,
        [by_digest, "registry.local/team/web:1".into(), "registry.local/team/web:latest".into()]
    );

    // A tag moves; the old content stays for who knows its digest.
    let moved = images.push_local(&reference("registry.local/team/web:1"), module("two")).await.unwrap();
    assert_ne!(moved.module_digest, pushed.module_digest);
    assert_eq!(images.find(&reference("registry.local/team/web:1")), Some(moved));
    assert_eq!(images.list().len(), 2);
}

#[tokio::test]
async fn only_modules_for_the_embedded_registry_are_taken() {
    let (_dir, images) = images();
    let error = images.push_local(&reference("docker.io/web"), module("m")).await.unwrap_err();
    assert!(matches!(error, ImageError::NotLocal { .. }), "{error}");
    let error =
        images.push_local(&reference("registry.local/web"), b"#!/bin/sh -x".to_vec()).await.unwrap_err();
    assert!(matches!(error, ImageError::Format(FormatError::Binary { .. })), "{error}");
    assert!(images.list().is_empty());
}

#[tokio::test]
async fn a_restart_keeps_images_and_forgets_the_unfinished() {
    let (dir, images) = images();
    let name = reference("registry.local/a/b:1");
    let pushed = images.push_local(&name, module("one")).await.unwrap();
    let gone = images.push_local(&reference("registry.local/gone:1"), module("two")).await.unwrap();
    drop(images);
    fs::write(dir.path().join("uploads").join("left-over"), "x").unwrap();
    fs::write(dir.path().join("repositories/registry.local/a/b/_tags/.new"), "x").unwrap();
    fs::remove_file(&gone.path).unwrap();

    let images = open(dir.path());
    assert_eq!(images.find(&name), Some(pushed));
    assert_eq!(images.find(&reference("registry.local/gone:1")), None, "its module is missing");
    assert_eq!(images.list().len(), 1);
    assert_eq!(fs::read_dir(dir.path().join("uploads")).unwrap().count(), 0);
    // It can be pushed again.
    images.push_local(&reference("registry.local/gone:1"), module("two")).await.unwrap();
    assert_eq!(images.list().len(), 2);
}

#[tokio::test]
async fn what_cannot_run_says_why_when_it_is_pulled() {
    let (_dir, images) = images();
    let tool = Tool { router: images.registry_router() };
    let digest = tool.push_blob("odd", b"not wasm").await;
    let config = tool.push_blob("odd", b"{}").await;
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "config": {"mediaType": "application/vnd.wasm.config.v0+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "application/wasm", "digest": digest, "size": 8}],
    });
    tool.push_manifest("odd", "1", manifest.to_string().as_bytes()).await.expect(StatusCode::CREATED);
    assert_eq!(images.find(&reference("registry.local/odd:1")), None);
    let error = images.pull(&reference("registry.local/odd:1"), None, "team").await.unwrap_err();
    let PullError::Format(error) = error else { panic!("{error:?}") };
    let message =
        "image is not WebAssembly: it is not a Wasm binary: it begins with the bytes [6e, 6f, 74, 20]";
    assert_eq!(error.to_string(), message);
}

#[test]
fn a_folder_that_cannot_be_made_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let error = Images::open(Config::new(dir.path().join("file"))).err().unwrap();
    assert!(error.to_string().starts_with("cannot create "), "{error}");
}
