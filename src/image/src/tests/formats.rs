//! Which artifacts and binaries run here, and what our own look like.

use std::io::Cursor;

use serde_json::{Value, json};

use super::*;
use crate::FormatError;
use crate::digest::Digest;
use crate::format::{self, Choice};
use crate::wasm::{self, Wasm};

const CNCF: &str = "application/vnd.wasm.config.v0+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";

fn descriptor(media_type: &str) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(media_type.as_bytes()).to_string(), "size": 7})
}

fn manifest(config: &str, layers: &[&str]) -> Value {
    let layers: Vec<_> = layers.iter().map(|layer| descriptor(layer)).collect();
    json!({"schemaVersion": 2, "config": descriptor(config), "layers": layers})
}

/// What is decided for a manifest: the digest of the layer or of the next manifest.
fn decide(manifest: &Value) -> Result<Digest, FormatError> {
    let manifest = format::parse(manifest.to_string().as_bytes())?;
    Ok(match format::choose(&manifest)? {
        Choice::Module(plan) => plan.layer.digest,
        Choice::Index(digest) => digest,
    })
}

#[test]
fn artifacts_of_one_wasm_layer_run() {
    #[track_caller]
    fn check(config: &str, layer: &str) {
        assert_eq!(decide(&manifest(config, &[layer])), Ok(Digest::of(layer.as_bytes())));
    }
    check(CNCF, "application/wasm");
    check("application/vnd.wasm.config.v1+json", "application/vnd.wasm.content.layer.v1+wasm");
    check("application/vnd.module.wasm.config.v1+json", "application/vnd.module.wasm.content.layer.v1+wasm");
    check(OCI_CONFIG, "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm");
    check(CNCF, "application/vnd.wasm.component.v1");
    check("application/vnd.oci.empty.v1+json", "application/wasm");
    check("application/vnd.oci.empty.v1+json", "application/octet-stream");
}

#[test]
fn other_artifacts_are_refused_by_name() {
    #[track_caller]
    fn check(manifest: &Value, message: &str) {
        let error = decide(manifest).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
    check(&manifest(CNCF, &["application/wasm", "application/wasm"]), "2 layers");
    check(&manifest(CNCF, &[]), "0 layers");
    let tar = "application/vnd.oci.image.layer.v1.tar+gzip";
    check(&manifest(OCI_CONFIG, &[tar]), tar);
    check(&json!({"schemaVersion": 1, "layers": []}), "schemaVersion is 1");
    check(&json!({"layers": []}), "not an OCI or Docker image manifest");
    check(&json!([]), "not an OCI or Docker image manifest");
    let mut other = manifest(CNCF, &["application/wasm"]);
    other["layers"][0]["digest"] = json!("sha512:00");
    check(&other, "only sha256");
}

#[test]
fn an_index_leads_to_its_wasm_platform() {
    let entry = |name: &str, platform: Value| {
        json!({"mediaType": crate::manifest::OCI_MANIFEST, "digest": Digest::of(name.as_bytes()).to_string(),
               "size": 7, "platform": platform})
    };
    let index = |entries: &[Value]| json!({"schemaVersion": 2, "mediaType": crate::manifest::OCI_INDEX, "manifests": entries});
    let linux = entry("linux", json!({"architecture": "amd64", "os": "linux"}));
    let wasi = entry("wasi", json!({"architecture": "wasm", "os": "wasip1"}));
    assert_eq!(decide(&index(&[linux.clone(), wasi])), Ok(Digest::of(b"wasi")));
    assert_eq!(decide(&index(&[entry("only", Value::Null)])), Ok(Digest::of(b"only")));
    assert_eq!(decide(&index(&[linux])), Err(FormatError::Platform { count: 1 }));
    assert_eq!(decide(&index(&[])), Err(FormatError::Platform { count: 0 }));
}

fn inspect(bytes: &[u8]) -> Result<Wasm, FormatError> {
    wasm::inspect(&mut Cursor::new(bytes))
}

fn component() -> Vec<u8> {
    let text = r#"(component
        (import "wasi:cli/environment@0.2.0" (instance))
        (import "plain" (func (param "a" string)))
        (core module)
        (instance $i)
        (export "wasi:cli/run@0.2.0" (instance $i)))"#;
    wat::parse_str(text).unwrap()
}

#[test]
fn binaries_are_told_apart() {
    assert_eq!(inspect(&module("m")), Ok(Wasm::Module));
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let expected = Wasm::Component {
        imports: names(&["wasi:cli/environment@0.2.0", "plain"]),
        exports: names(&["wasi:cli/run@0.2.0"]),
    };
    assert_eq!(inspect(&component()), Ok(expected));
    let wit = wat::parse_str(r#"(component (type $t (component)) (export "a:b/c" (type $t)))"#).unwrap();
    assert_eq!(inspect(&wit), Err(FormatError::Interfaces));
    for other in [&b""[..], b"\x7fELF\x02\x01\x01\0", b"\0asm\x02\0\0\0", b"\0as"] {
        assert!(matches!(inspect(other), Err(FormatError::Binary { .. })), "{other:?}");
    }
}

#[test]
fn broken_binaries_are_errors() {
    let whole = component();
    for length in 0..whole.len() {
        // Some cuts fall between two sections, and leave a component.
        let _ = inspect(&whole[..length]);
        let mut changed = whole.clone();
        changed[length] = 0xff;
        let _ = inspect(&changed);
    }
    let long = [&whole[..8], &[0, 0xff, 0xff, 0xff, 0xff, 0x0f]].concat();
    assert!(matches!(inspect(&long), Err(FormatError::Binary { .. })));
    let endless = [&whole[..8], &[0, 0x80, 0x80, 0x80, 0x80, 0x80]].concat();
    assert!(matches!(inspect(&endless), Err(FormatError::Binary { .. })));
}

#[test]
fn our_own_artifacts_have_the_cncf_layout() {
    let module = module("m");
    let package = manifest_for(&module).unwrap();
    assert_eq!(manifest_for(&module).unwrap(), package, "the same module gives the same artifact");
    let manifest: Value = serde_json::from_slice(&package.manifest).unwrap();
    let expected = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": CNCF, "digest": package.config_digest, "size": package.config.len()},
        "layers": [{"mediaType": "application/wasm", "digest": package.module_digest, "size": module.len()}],
    });
    assert_eq!(manifest, expected);
    let config: Value = serde_json::from_slice(&package.config).unwrap();
    assert_eq!((&config["architecture"], &config["os"]), (&json!("wasm"), &json!("wasip1")));
    assert_eq!(config["layerDigests"], json!([package.module_digest]));
    assert_eq!(config["component"], Value::Null);

    let config: Value = serde_json::from_slice(&manifest_for(&component()).unwrap().config).unwrap();
    assert_eq!(config["os"], "wasip2");
    assert_eq!(config["component"]["imports"], json!(["wasi:cli/environment@0.2.0", "plain"]));
    assert_eq!(config["component"]["exports"], json!(["wasi:cli/run@0.2.0"]));

    assert!(manifest_for(b"#!/bin/sh").is_err());
}
