//! Which artifacts and binaries run here, and what our own look like.

use std::io::Cursor;

use serde_json::{Value, json};

use super::*;
use crate::FormatError;
use crate::digest::Digest;
use crate::format::{self, Choice};
use crate::wasm::{self, Wasm};

const CNCF: &str = "application/vnd.wasm.config.v0+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
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
        Choice::Image(plan) => plan.layers()[0].digest.clone(),
        Choice::Index(digest) => digest,
    })
}

#[test]
fn artifacts_with_a_wasm_layer_run() {
    #[track_caller]
    fn check(manifest: &Value, layer: &str) {
        assert_eq!(decide(manifest), Ok(Digest::of(layer.as_bytes())));
    }
    #[track_caller]
    fn only(config: &str, layer: &str) {
        check(&manifest(config, &[layer]), layer);
    }
    // CNCF, wkg
    only(CNCF, "application/wasm");
    // wasm-to-oci, Krustlet
    only("application/vnd.wasm.config.v1+json", "application/vnd.wasm.content.layer.v1+wasm");
    // Istio, wasmCloud
    only("application/vnd.module.wasm.config.v1+json", "application/vnd.module.wasm.content.layer.v1+wasm");
    // runwasi
    only(OCI_CONFIG, "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm");
    only(OCI_CONFIG, "application/wasm");
    // ZLayer, Molt
    only(EMPTY, "application/wasm");
    only(EMPTY, "application/octet-stream");
    let mut typed = manifest(EMPTY, &["text/plain+gzip"]);
    typed["artifactType"] = json!("application/vnd.wasm.component.v1+wasm");
    check(&typed, "text/plain+gzip");
    // Wassette, with its policy on either side
    let (component, policy) = ("application/vnd.wasm.component.v1", "application/vnd.wasm.policy.v1+yaml");
    check(&manifest(CNCF, &[component, policy]), component);
    check(&manifest(CNCF, &[policy, "application/wasm"]), "application/wasm");
    // Istio's configuration beside the module
    let istio = "application/vnd.module.wasm.content.layer.v1+wasm";
    let config = "application/vnd.module.wasm.config.v1+json";
    check(&manifest(config, &[istio, config]), istio);
    // Spin, new and old
    let (wasm, app) =
        ("application/vnd.wasm.content.layer.v1+wasm", "application/vnd.fermyon.spin.application.v1+config");
    let data = "application/vnd.wasm.content.layer.v1+data";
    check(&manifest(OCI_CONFIG, &[wasm, data, app]), wasm);
    check(&manifest(app, &[data, wasm]), wasm);
    // Container images
    for layer in [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ] {
        only(OCI_CONFIG, layer);
    }
    let mut null = manifest(CNCF, &["application/wasm"]);
    null["annotations"] = Value::Null;
    null["manifests"] = Value::Null;
    check(&null, "application/wasm");
}

#[test]
fn other_artifacts_are_refused_by_name() {
    #[track_caller]
    fn check(manifest: &Value, message: &str) {
        let error = decide(manifest).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
    check(&manifest(CNCF, &["application/wasm", "application/wasm"]), "2 layers");
    check(&manifest(CNCF, &["application/wasm", "application/vnd.future"]), "2 layers");
    check(&manifest(CNCF, &[]), "0 layers");
    let spin = "application/vnd.wasm.content.layer.v1+wasm";
    let app = "application/vnd.fermyon.spin.application.v1+config";
    check(&manifest(OCI_CONFIG, &[spin, spin, app]), "an application of 2 components");
    for other in [
        "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
        "application/vnd.in-toto+json",
        "application/vnd.dev.cosign.simplesigning.v1+json",
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
    ] {
        let message = format!("image is not WebAssembly: its layer has the media type {other:?}");
        check(&manifest(OCI_CONFIG, &[other]), &message);
    }
    check(&manifest(OCI_CONFIG, &vec!["application/vnd.oci.image.layer.v1.tar"; 513]), "513 layers");
    check(&json!({"schemaVersion": 1, "layers": []}), "schemaVersion is 1");
    check(&json!({"layers": []}), "not an OCI or Docker image manifest");
    check(&json!([]), "not an OCI or Docker image manifest");
    let mut other = manifest(CNCF, &["application/wasm"]);
    other["layers"][0]["digest"] = json!("sha512:00");
    check(&other, "only sha256");
}

#[test]
fn an_index_leads_to_its_wasm_platform() {
    let entry = |name: &str, platform: &str| {
        let mut entry = json!({"mediaType": crate::manifest::OCI_MANIFEST,
                               "digest": Digest::of(name.as_bytes()).to_string(), "size": 7});
        if let Some((os, architecture)) = platform.split_once('/') {
            entry["platform"] = json!({"os": os, "architecture": architecture});
        }
        entry
    };
    let index = |entries: &[Value]| json!({"schemaVersion": 2, "mediaType": crate::manifest::OCI_INDEX, "manifests": entries});
    let (linux, arm) = (entry("linux", "linux/amd64"), entry("arm", "linux/arm64"));
    for platform in ["wasip1/wasm", "wasip2/wasm", "wasi/wasm", "wasi/wasm32", "Wasip1/wasm", "linux/wasm32"]
    {
        let wasi = entry("wasi", platform);
        assert_eq!(
            decide(&index(&[linux.clone(), arm.clone(), wasi])),
            Ok(Digest::of(b"wasi")),
            "{platform}"
        );
    }
    assert_eq!(decide(&index(&[entry("only", "")])), Ok(Digest::of(b"only")));
    // What builders add says nothing about the image.
    let attestation = entry("attestation", "unknown/unknown");
    assert_eq!(decide(&index(&[linux.clone(), attestation.clone()])), Ok(Digest::of(b"linux")));
    let refused = decide(&index(&[linux, arm, attestation])).unwrap_err();
    assert_eq!(refused.to_string(), "image is not WebAssembly: its platforms are linux/amd64, linux/arm64");
    let none = decide(&index(&[])).unwrap_err();
    assert_eq!(none.to_string(), "image is not WebAssembly: it has no platforms");
    let many: Vec<_> = (0..20).map(|i| entry("x", &format!("os{i}/\u{1b}[31m"))).collect();
    let refused = decide(&index(&many)).unwrap_err().to_string();
    assert!(refused.ends_with("os7/[31m, 12 more") && !refused.contains('\u{1b}'), "{refused}");
}

#[test]
fn a_container_image_says_for_whom_it_is() {
    #[track_caller]
    fn check(annotations: &Value, config: &Value, fits: bool) {
        let mut manifest = manifest(OCI_CONFIG, &["application/vnd.oci.image.layer.v1.tar+gzip"]);
        manifest["annotations"] = annotations.clone();
        let manifest = format::parse(manifest.to_string().as_bytes()).unwrap();
        let Choice::Image(plan) = format::choose(&manifest).unwrap() else { panic!("no index") };
        let decided = plan.execution(config.to_string().as_bytes()).map(|_| ());
        let refused = FormatError::Platform { platforms: vec!["linux/amd64".to_owned()] };
        assert_eq!(decided, if fits { Ok(()) } else { Err(refused) }, "{annotations} {config}");
    }
    let config = |os: &str, architecture: &str, entrypoint: Value, cmd: Value| json!({"os": os, "architecture": architecture, "config": {"Entrypoint": entrypoint, "Cmd": cmd}});
    let none = json!({});
    check(&none, &config("linux", "amd64", json!(["/docker-entrypoint.sh"]), json!(["nginx"])), false);
    check(&none, &config("linux", "amd64", Value::Null, json!(["bash"])), false);
    check(&none, &config("wasi", "wasm", json!(["run"]), Value::Null), true);
    check(&none, &config("wasip1", "wasm32", json!(["/a"]), Value::Null), true);
    check(&none, &config("linux", "amd64", json!(["/app/A.WASM"]), Value::Null), true);
    check(&none, &config("linux", "amd64", Value::Null, json!(["/a.wasm"])), true);
    check(&none, &config("linux", "amd64", json!([]), Value::Null), true);
    check(&none, &json!({"config": {"Entrypoint": ["/a"]}}), true);
    check(&none, &json!({"os": "linux", "architecture": "amd64", "config": null}), true);
    let shell = config("linux", "amd64", json!(["/a"]), Value::Null);
    check(&json!({"module.wasm.image/variant": "compat"}), &shell, true);
    check(&json!({"module.wasm.image/variant": "compat-smart"}), &shell, true);
    check(&json!({"run.oci.handler": "wasm-smart"}), &shell, true);
    check(&json!({"run.oci.handler": "krun", "other": 7}), &shell, false);
}

fn inspect(bytes: &[u8]) -> Result<Wasm, FormatError> {
    wasm::inspect(&mut Cursor::new(bytes))
}

pub(super) fn component() -> Vec<u8> {
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
