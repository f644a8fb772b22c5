//! Images that are let in or not, by signatures as cosign makes them.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use super::remote::{World, world};
use super::*;
use crate::digest::Digest;
use crate::{PolicyError, PullError, SignatureMode, SignaturePolicy, SignatureRule, SignedIdentity};

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";

/// A key, and its public half as cosign writes it.
enum Signer {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Signer {
    fn ecdsa() -> Signer {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref(), &random);
        Signer::Ecdsa(pair.unwrap())
    }

    fn ed25519() -> Signer {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Signer::Ed25519(Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap())
    }

    fn pem(&self) -> String {
        let (prefix, key): (&[u8], &[u8]) = match self {
            Signer::Ecdsa(pair) => (
                &[
                    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08,
                    0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
                ],
                pair.public_key().as_ref(),
            ),
            Signer::Ed25519(pair) => (
                &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00],
                pair.public_key().as_ref(),
            ),
        };
        let text = STANDARD.encode([prefix, key].concat());
        let lines: Vec<_> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    fn sign(&self, message: &[u8]) -> String {
        match self {
            Signer::Ecdsa(pair) => STANDARD.encode(pair.sign(&SystemRandom::new(), message).unwrap()),
            Signer::Ed25519(pair) => STANDARD.encode(pair.sign(message)),
        }
    }
}

fn rule(prefix: &str, keys: &[&Signer]) -> SignatureRule {
    SignatureRule {
        prefix: prefix.to_owned(),
        keys: keys.iter().map(|key| key.pem()).collect(),
        mode: SignatureMode::Require,
        identity: SignedIdentity::MatchRepository,
    }
}

/// A store whose policy this is, in a folder of its own.
fn guarded(rules: Vec<SignatureRule>) -> (tempfile::TempDir, Arc<Images>) {
    let dir = tempfile::tempdir().unwrap();
    let policy = SignaturePolicy::build(rules, dir.path()).unwrap();
    let images = Images::open(Config { policy, ..Config::new(dir.path()) }).unwrap();
    (dir, images)
}

fn payload(identity: &str, digest: &str) -> Value {
    json!({"critical": {"identity": {"docker-reference": identity},
                        "image": {"docker-manifest-digest": digest},
                        "type": "cosign container image signature"}, "optional": null})
}

impl Tool {
    /// Pushes a manifest with one signature in it, under a tag or as a referrer.
    async fn push_signature(
        &self,
        name: &str,
        image: &str,
        media_type: &str,
        bytes: &[u8],
        signature: &str,
        tag: bool,
    ) {
        let blob = self.push_blob(name, bytes).await;
        let config = self.push_blob(name, b"{}").await;
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": Package::MANIFEST_TYPE,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
            "layers": [{"mediaType": media_type, "digest": blob, "size": bytes.len(),
                        "annotations": {"dev.cosignproject.cosign/signature": signature}}],
        });
        let reference = if tag {
            image.replace(':', "-") + ".sig"
        } else {
            manifest["artifactType"] = json!(if media_type == PAYLOAD { ARTIFACT } else { media_type });
            manifest["subject"] = json!({"mediaType": Package::MANIFEST_TYPE, "digest": image, "size": 7});
            Digest::of(manifest.to_string().as_bytes()).to_string()
        };
        let answer = self.push_manifest(name, &reference, manifest.to_string().as_bytes()).await;
        answer.expect(StatusCode::CREATED);
    }

    async fn sign(&self, name: &str, image: &str, signer: &Signer, payload: &Value) {
        let payload = payload.to_string();
        let signature = signer.sign(payload.as_bytes());
        self.push_signature(name, image, PAYLOAD, payload.as_bytes(), &signature, true).await;
    }
}

async fn refusal(world: &World, images: &Arc<Images>, name: &str) -> String {
    let reference = reference(&format!("{}/{name}", world.host));
    let error = images.pull(&reference, None, "team").await.unwrap_err();
    let PullError::Signature { source, .. } = &error else { panic!("{error:?}") };
    assert_eq!(error.to_string(), format!("Source image {}/{name} rejected", world.host));
    assert_eq!(images.find(&reference), None);
    source.to_string()
}

#[tokio::test]
async fn only_images_signed_with_a_key_of_the_policy_are_let_in() {
    let world = world(|router| router).await;
    let (ours, other, edwards) = (Signer::ecdsa(), Signer::ecdsa(), Signer::ed25519());
    let (_dir, images) = guarded(vec![rule(&world.host, &[&ours, &edwards])]);
    let tool = &world.tool;
    let identity = |name: &str| format!("{}/{name}", world.host);
    let push = async |name: &str| tool.push(name, "1", &module(name)).await.manifest_digest;
    let prefix = format!("A signature was required for {:?}, but ", world.host);

    push("unsigned").await;
    assert_eq!(refusal(&world, &images, "unsigned:1").await, format!("{prefix}no signature exists"));
    for folder in ["blobs/sha256", "files", "uploads"] {
        assert_eq!(
            std::fs::read_dir(_dir.path().join(folder)).unwrap().count(),
            0,
            "{folder}: nothing is fetched"
        );
    }

    let digest = push("signed").await;
    tool.sign("signed", &digest, &ours, &payload(&identity("signed"), &digest)).await;
    let name = reference(&identity("signed:1"));
    let image = images.pull(&name, None, "team").await.unwrap();
    assert_eq!(images.find(&name), Some(image.clone()));
    for signature in images.pulled().iter().filter(|digest| **digest != image.digest) {
        assert_eq!(images.remove_pulled(signature, &[].into()).await.unwrap(), 0, "the image is here");
    }
    // Removed with it.
    images.remove_pulled(&image.digest, &[].into()).await.unwrap();
    assert_eq!(std::fs::read_dir(_dir.path().join("blobs/sha256")).unwrap().count(), 0);

    let digest = push("edwards").await;
    tool.sign("edwards", &digest, &edwards, &payload(&identity("edwards"), &digest)).await;
    images.pull(&reference(&identity("edwards:1")), None, "team").await.unwrap();

    let digest = push("other").await;
    tool.sign("other", &digest, &other, &payload(&identity("other"), &digest)).await;
    let expected = format!("{prefix}none of 1 is valid: it is not of a key that the policy names");
    let before = images.pulled();
    assert_eq!(refusal(&world, &images, "other:1").await, expected);
    assert_eq!(images.pulled(), before, "a signature of nothing here goes");

    let digest = push("replayed").await;
    let of_another = Digest::of(b"another").to_string();
    tool.sign("replayed", &digest, &ours, &payload(&identity("replayed"), &of_another)).await;
    let expected = format!("{prefix}none of 1 is valid: it is of the image {of_another:?}");
    assert_eq!(refusal(&world, &images, "replayed:1").await, expected);

    let digest = push("copied").await;
    tool.sign("copied", &digest, &ours, &payload("registry.example.org/a/b", &digest)).await;
    let expected =
        format!("{prefix}none of 1 is valid: it is of the repository \"registry.example.org/a/b\"");
    assert_eq!(refusal(&world, &images, "copied:1").await, expected);
    let (_other, copies) =
        guarded(vec![SignatureRule { identity: SignedIdentity::Any, ..rule(&world.host, &[&ours]) }]);
    copies.pull(&reference(&identity("copied:1")), None, "team").await.unwrap();

    let digest = push("typed").await;
    let mut typed = payload(&identity("typed"), &digest);
    typed["critical"]["type"] = json!("something else");
    tool.sign("typed", &digest, &ours, &typed).await;
    assert!(refusal(&world, &images, "typed:1").await.ends_with("is of the type \"something else\""));

    // Another signature, of the right key, comes later: under the same tag, and as a referrer.
    let digest = push("late").await;
    tool.sign("late", &digest, &other, &payload(&identity("late"), &digest)).await;
    refusal(&world, &images, "late:1").await;
    let right = payload(&identity("late"), &digest).to_string();
    let signature = ours.sign(right.as_bytes());
    tool.push_signature("late", &digest, PAYLOAD, right.as_bytes(), &signature, false).await;
    images.pull(&reference(&identity("late:1")), None, "team").await.unwrap();
}

/// Who signs once more with a tag replaces the signature; what another pull needs of the former one stays.
#[tokio::test]
async fn a_replaced_signature_goes_unless_a_pull_needs_it() {
    let world = world(|router| router).await;
    let ours = Signer::ecdsa();
    let (_dir, images) = guarded(vec![rule(&world.host, &[&ours])]);
    let name = format!("{}/web", world.host);
    let image = world.tool.push("web", "1", &module("web")).await.manifest_digest;
    let tag = crate::signature::signature_tag(&Digest::parse(&image).unwrap());
    let sign = async || {
        world.tool.sign("web", &image, &ours, &payload(&name, &image)).await;
        images.pull(&reference(&format!("{name}:1")), None, "team").await.unwrap();
        images.shared().index.tag(&name, &tag).unwrap()
    };
    let first = sign().await;
    let claim = images.shared().claims.begin(name.clone());
    claim.add(&first).await;
    let second = sign().await;
    assert_ne!(first, second);
    assert!(images.pulled().contains(&first.to_string()));
    drop(claim);
    let third = sign().await;
    let pulled = [&*image, &first.to_string(), &third.to_string()].map(str::to_owned);
    assert_eq!(images.pulled(), pulled.into(), "{second} is gone");
}

/// What is of no use when an image is refused, or when its pull breaks off and nobody asks again.
#[tokio::test]
async fn signatures_go_with_the_pull_that_failed() {
    // Of the repository `broken` content is not given out, but for what is small.
    let world = world(|router| {
        router.layer(from_fn(async |request: Request, next: Next| {
            let of_broken = request.uri().path().starts_with("/v2/broken/blobs/");
            let response = next.run(request).await;
            let length = response.headers().get("content-length").and_then(|value| value.to_str().ok());
            match of_broken && length.is_some_and(|length| length.parse::<u64>().unwrap() > 2_000) {
                true => StatusCode::FORBIDDEN.into_response(),
                false => response,
            }
        }))
    })
    .await;
    let (ours, other) = (Signer::ecdsa(), Signer::ecdsa());
    let (dir, images) = guarded(vec![rule(&world.host, &[&ours])]);
    let content = || std::fs::read_dir(dir.path().join("blobs/sha256")).unwrap().count();
    let sign = async |name: &str, digest: &str, signer: &Signer| {
        let said = payload(&format!("{}/{name}", world.host), digest);
        world.tool.sign(name, digest, signer, &said).await;
        let (said, signature) = (said.to_string(), signer.sign(said.to_string().as_bytes()));
        world.tool.push_signature(name, digest, PAYLOAD, said.as_bytes(), &signature, false).await;
    };

    let refused = world.tool.push("web", "1", &module("refused")).await.manifest_digest;
    sign("web", &refused, &other).await;
    refusal(&world, &images, "web:1").await;
    assert_eq!((content(), images.pulled().len()), (0, 0));

    // Those of an image that is here stay, and so does what they share with others.
    let good = world.tool.push("web", "2", &module("good")).await.manifest_digest;
    sign("web", &good, &ours).await;
    images.pull(&reference(&format!("{}/web:2", world.host)), None, "team").await.unwrap();
    let (all, pulled) = (content(), images.pulled());
    assert_eq!(pulled.len(), 3, "the image and two signatures");
    refusal(&world, &images, "web:1").await;
    assert_eq!((content(), images.pulled()), (all, pulled.clone()));
    // What another pull needs stays until that is over.
    let shared = images.shared();
    let name = format!("{}/web", world.host);
    let tag = crate::signature::signature_tag(&Digest::parse(&refused).unwrap());
    let signature = Digest::of(&world.tool.get(&format!("/v2/web/manifests/{tag}")).await.body);
    let claim = shared.claims.begin(name);
    claim.add(&signature).await;
    refusal(&world, &images, "web:1").await;
    assert_eq!(images.pulled().len(), 4);
    drop(claim);
    refusal(&world, &images, "web:1").await;
    assert_eq!((content(), images.pulled()), (all, pulled.clone()));

    // Who may be let in another time finds what was brought, until the disk is short.
    let mut large = module("large");
    large.extend([0, 0x80 | 0x39, 0x17, 0]);
    large.resize(large.len() + 0x17 * 128 + 0x38, 0);
    let denied = world.tool.push("broken", "1", &large).await.manifest_digest;
    sign("broken", &denied, &ours).await;
    let error = images.pull(&reference(&format!("{}/broken:1", world.host)), None, "team").await.unwrap_err();
    assert!(matches!(error, PullError::Denied { .. }), "{error:?}");
    assert_eq!(images.pulled().len(), 5);
    assert!(images.remove_unfinished().await.unwrap() > 0);
    assert_eq!((content(), images.pulled()), (all, pulled));
}

/// A registry of an older version.
async fn no_referrers(request: Request, next: Next) -> Response {
    match request.uri().path().contains("/referrers/") {
        true => StatusCode::NOT_FOUND.into_response(),
        false => next.run(request).await,
    }
}

/// A bundle as cosign attaches it, with a statement of this kind.
fn bundle(signer: &Signer, predicate: &str, digest: &str) -> Vec<u8> {
    let statement = json!({"_type": "https://in-toto.io/Statement/v1", "predicateType": predicate, "predicate": {},
                           "subject": [{"digest": {"sha256": digest.strip_prefix("sha256:").unwrap()}}]});
    let (statement, kind) = (statement.to_string(), "application/vnd.in-toto+json");
    let message = format!("DSSEv1 {} {kind} {} {statement}", kind.len(), statement.len());
    let envelope = json!({"payload": STANDARD.encode(&statement), "payloadType": kind,
                          "signatures": [{"sig": signer.sign(message.as_bytes())}]});
    json!({"mediaType": BUNDLE, "verificationMaterial": {"publicKey": {"hint": ""}}, "dsseEnvelope": envelope})
        .to_string()
        .into_bytes()
}

#[tokio::test]
async fn bundles_are_found_by_the_api_and_by_its_tag() {
    // The second registry has no referrers.
    for with_api in [true, false] {
        let world =
            world(move |router| if with_api { router } else { router.layer(from_fn(no_referrers)) }).await;
        let signer = Signer::ecdsa();
        let (_dir, images) = guarded(vec![rule(&world.host, &[&signer])]);
        let sign = "https://sigstore.dev/cosign/sign/v1";
        let other = Digest::of(b"other").to_string();
        for (name, predicate, of_another, good) in [
            ("good", sign, false, true),
            ("attested", "https://slsa.dev/provenance/v1", false, false),
            ("another", sign, true, false),
        ] {
            let digest = world.tool.push(name, "1", &module(name)).await.manifest_digest;
            let bundle = bundle(&signer, predicate, if of_another { &other } else { &digest });
            world.tool.push_signature(name, &digest, BUNDLE, &bundle, "", false).await;
            // What tools write for registries without the API.
            let list = world.tool.get(&format!("/v2/{name}/referrers/{digest}")).await.body;
            let path = format!("/v2/{name}/manifests/{}", digest.replace(':', "-"));
            let headers = [("content-type", crate::manifest::OCI_INDEX)];
            world.tool.send(Method::PUT, &path, &headers, list).await.expect(StatusCode::CREATED);
            let pulled = images.pull(&reference(&format!("{}/{name}:1", world.host)), None, "team").await;
            assert_eq!(pulled.is_ok(), good, "{name} {pulled:?}");
        }
    }
}

/// Long lists of referrers come in pages, and what signs an image may be on any of them.
#[tokio::test]
async fn signatures_are_found_on_later_pages() {
    let pages = Arc::new(AtomicUsize::new(0));
    let counted = pages.clone();
    // Pages of one; the name says on which one the signature is.
    let world = world(move |router| {
        router.layer(from_fn(move |mut request: Request, next: Next| {
            let counted = counted.clone();
            async move {
                if !request.uri().path().contains("/referrers/") {
                    return next.run(request).await;
                }
                counted.fetch_add(1, Ordering::SeqCst);
                let (path, query) =
                    (request.uri().path().to_owned(), request.uri().query().map(str::to_owned));
                let page =
                    query.map_or(0, |query| query.trim_start_matches("page=").parse::<usize>().unwrap());
                let last =
                    path.split('/').nth(2).unwrap().trim_start_matches("page").parse::<usize>().unwrap();
                if page == last {
                    *request.uri_mut() = path.parse().unwrap();
                    return next.run(request).await;
                }
                let link = format!("<http://elsewhere.example{path}?page={}>; rel=\"next\"", page + 1);
                ([("link", link)], r#"{"schemaVersion": 2, "manifests": []}"#).into_response()
            }
        }))
    })
    .await;
    let signer = Signer::ecdsa();
    let (_dir, images) = guarded(vec![rule(&world.host, &[&signer])]);
    for (page, good) in [(0, true), (1, true), (15, true), (16, false)] {
        let name = format!("page{page}");
        let digest = world.tool.push(&name, "1", &module(&name)).await.manifest_digest;
        let bundle = bundle(&signer, "https://sigstore.dev/cosign/sign/v1", &digest);
        world.tool.push_signature(&name, &digest, BUNDLE, &bundle, "", false).await;
        pages.store(0, Ordering::SeqCst);
        let pulled = images.pull(&reference(&format!("{}/{name}:1", world.host)), None, "team").await;
        assert_eq!(pulled.is_ok(), good, "{page} {pulled:?}");
        assert_eq!(pages.load(Ordering::SeqCst), usize::min(page + 1, 16));
    }
}

#[tokio::test]
async fn an_index_is_signed_or_what_runs_of_it() {
    let world = world(|router| router).await;
    let signer = Signer::ecdsa();
    let (_dir, images) = guarded(vec![rule(&format!("{}/team", world.host), &[&signer])]);
    for (name, sign_index, sign_inner) in
        [("team/index", true, false), ("team/inner", false, true), ("team/none", false, false)]
    {
        let package = world.tool.push(name, "inner", &module(name)).await;
        let index = json!({"schemaVersion": 2, "mediaType": crate::manifest::OCI_INDEX, "manifests": [
            {"mediaType": Package::MANIFEST_TYPE, "digest": package.manifest_digest, "size": package.manifest.len(),
             "platform": {"architecture": "wasm", "os": "wasip1"}}]});
        let headers = [("content-type", crate::manifest::OCI_INDEX)];
        let path = format!("/v2/{name}/manifests/1");
        let answer = world.tool.send(Method::PUT, &path, &headers, index.to_string()).await;
        let index = answer.expect(StatusCode::CREATED).header("docker-content-digest").to_owned();
        for (signed, digest) in [(sign_index, &index), (sign_inner, &package.manifest_digest)] {
            if signed {
                let identity = format!("{}/{name}", world.host);
                world.tool.sign(name, digest, &signer, &payload(&identity, digest)).await;
            }
        }
        let pulled = images.pull(&reference(&format!("{}/{name}:1", world.host)), None, "team").await;
        assert_eq!(pulled.is_ok(), sign_index || sign_inner, "{name} {pulled:?}");
    }
    // Other prefixes are not concerned, not even those that begin alike.
    world.tool.push("teammate", "1", &module("m")).await;
    images.pull(&reference(&format!("{}/teammate:1", world.host)), None, "team").await.unwrap();
}

#[tokio::test]
async fn the_longest_prefix_counts_and_its_mode() {
    let world = world(|router| router).await;
    let signer = Signer::ecdsa();
    let with = |prefix: String, mode: SignatureMode| SignatureRule { mode, ..rule(&prefix, &[&signer]) };
    let (_dir, images) = guarded(vec![
        rule("*", &[&signer]),
        with(format!("{}/open/", world.host), SignatureMode::Allow),
        with(format!("{}/open/bad", world.host), SignatureMode::Reject),
        with(format!("{}/soon", world.host), SignatureMode::Warn),
    ]);
    for (name, message) in [
        ("open/web", None),
        ("soon", None),
        ("open/bad", Some("Running images of \"HOST/open/bad\" is rejected by policy")),
        ("other", Some("A signature was required for \"*\", but no signature exists")),
    ] {
        world.tool.push(name, "1", &module("m")).await;
        match message {
            None => drop(
                images.pull(&reference(&format!("{}/{name}:1", world.host)), None, "team").await.unwrap(),
            ),
            Some(message) => {
                let refusal = refusal(&world, &images, &format!("{name}:1")).await;
                assert_eq!(refusal, message.replace("HOST", &world.host));
            }
        }
    }
}

#[tokio::test]
async fn another_spelling_of_a_registry_is_under_the_same_rule() {
    let world = world(|router| router).await;
    let signer = Signer::ecdsa();
    let port = world.host.rsplit_once(':').unwrap().1;
    let digest = world.tool.push("team/signed", "1", &module("signed")).await.manifest_digest;
    let identity = format!("{}/team/signed", world.host);
    world.tool.sign("team/signed", &digest, &signer, &payload(&identity, &digest)).await;
    world.tool.push("team/unsigned", "1", &module("unsigned")).await;
    for prefix in ["127.0.0.1", "LocalHost", "127.1"] {
        let (_dir, images) = guarded(vec![rule(&format!("{prefix}:{port}/team"), &[&signer])]);
        for host in ["127.0.0.1", "127.1", "0177.0.1", "LOCALHOST", "localhost"] {
            let pull = async |name: &str| {
                images.pull(&reference(&format!("{host}:0{port}/team/{name}")), None, "team").await
            };
            let error = pull("unsigned:1").await.unwrap_err();
            assert!(matches!(error, PullError::Signature { .. }), "{prefix} {host}: {error:?}");
            pull("signed:1").await.unwrap();
        }
    }
}

#[test]
fn a_rule_is_found_by_every_name_of_its_registry() {
    let signer = Signer::ecdsa();
    #[track_caller]
    fn check(signer: &Signer, prefix: &str, image: &str, expected: bool) {
        let policy = SignaturePolicy::build(vec![rule(prefix, &[signer])], Path::new("/")).unwrap();
        let policy = policy.with_plain_http(&["plain.test".to_owned(), "other.test:80".to_owned()]);
        assert_eq!(policy.rule(&reference(image)).is_some(), expected, "{prefix} {image}");
    }
    let check = |prefix: &str, image: &str, expected: bool| check(&signer, prefix, image, expected);
    check("hub.test/team", "HUB.test:443/team/web", true);
    check("HUB.test:443/team/", "hub.test/team", true);
    check("hub.test", "hub.test:80/team/web", false);
    check("hub.test", "hub.test:5000/web", false);
    check("plain.test", "plain.test:80/web", true);
    check("plain.test:80/team", "plain.test/team/web", true);
    check("other.test", "other.test:080/web", true);
    check("docker.io/library", "registry-1.docker.io/library/web", true);
    check("registry.local/prod", "REGISTRY.LOCAL/prod/web", true);
}

#[tokio::test]
async fn images_of_the_embedded_registry_are_under_the_same_policy() {
    let signer = Signer::ecdsa();
    let (_dir, images) = guarded(vec![rule("registry.local/prod", &[&signer])]);
    let tool = Tool { router: images.registry_router() };
    let digest = tool.push("prod/web", "1", &module("m")).await.manifest_digest;
    let name = reference("registry.local/prod/web:1");
    assert_eq!(images.find(&name), None);
    let error = images.pull(&name, None, "team").await.unwrap_err();
    assert!(matches!(error, PullError::Signature { .. }), "{error:?}");
    // Whoever signs knows the registry by an address.
    tool.sign("prod/web", &digest, &signer, &payload("127.0.0.1:6443/prod/web", &digest)).await;
    assert!(images.pull(&name, None, "team").await.is_ok());
    assert!(images.find(&name).is_some());
    tool.push("web", "1", &module("m")).await;
    assert!(images.find(&reference("registry.local/web:1")).is_some());
}

#[tokio::test]
async fn what_comes_with_the_program_needs_no_signature() {
    let signer = Signer::ecdsa();
    let shipped: &'static [u8] = Box::leak(module("shipped").into_boxed_slice());
    let name = reference("registry.local/coracle/toolbox:latest");
    let (_dir, images) = guarded(vec![rule("*", &[&signer])]);
    images.ship(&name, shipped).await.unwrap();
    let image = images.pull(&name, None, "team").await.unwrap();
    assert_eq!(image.module_digest, Digest::of(shipped).to_string());
    // It is let in for what it is: not by its name, and not under another.
    let tool = Tool { router: images.registry_router() };
    tool.push("coracle/toolbox", "latest", &module("other")).await;
    tool.push("other", "1", shipped).await;
    for refused in [&name, &reference("registry.local/other:1")] {
        let error = images.pull(refused, None, "team").await.unwrap_err();
        assert!(matches!(error, PullError::Signature { .. }), "{error:?}");
    }
    images.ship(&name, shipped).await.unwrap();
    assert_eq!(images.find(&name), Some(image));

    let reject = SignatureRule { mode: SignatureMode::Reject, ..rule("registry.local/coracle", &[]) };
    let (_dir, images) = guarded(vec![reject]);
    images.ship(&name, shipped).await.unwrap();
    assert_eq!(images.find(&name), None, "who says no means it");
}

#[test]
fn policies_are_checked_when_they_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let build = |rules| SignaturePolicy::build(rules, dir.path()).err().map(|error| error.to_string());
    let signer = Signer::ecdsa();
    std::fs::write(dir.path().join("cosign.pub"), signer.pem()).unwrap();
    let with = |key: &str| SignatureRule { keys: vec![key.to_owned()], ..rule("registry.example.org", &[]) };
    assert_eq!(build(vec![with("cosign.pub")]), None);
    assert_eq!(
        build(vec![rule("registry.example.org", &[])]).unwrap(),
        "the prefix \"registry.example.org\" has no keys"
    );
    assert_eq!(
        build(vec![with("cosign.pub"), with("cosign.pub")]).unwrap(),
        "the prefix \"registry.example.org\" has two rules"
    );
    assert_eq!(
        build(vec![with("cosign.pub"), rule("Registry.example.org:443/", &[&signer])]).unwrap(),
        "the prefix \"Registry.example.org:443\" has two rules"
    );
    for prefix in ["", "team", "*.example.org", "https://registry.example.org", "a.test/b:1", "a.test/Web"] {
        let text = format!("the prefix {prefix:?} is neither a registry nor one with a repository");
        assert_eq!(build(vec![rule(prefix, &[&signer])]), Some(text));
    }
    let missing = SignaturePolicy::build(vec![with("none.pub")], dir.path()).unwrap_err();
    assert!(matches!(missing, PolicyError::Read { .. }), "{missing}");
    for other in
        ["-----BEGIN PUBLIC KEY-----", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"]
    {
        assert!(
            build(vec![with(other)])
                .unwrap()
                .starts_with("a key of the prefix \"registry.example.org\" cannot be used")
        );
    }
    let private = signer.pem().replace("PUBLIC", "PRIVATE");
    assert!(build(vec![with(&private)]).unwrap().ends_with("it is a \"PRIVATE KEY\", not a \"PUBLIC KEY\""));
}

/// A signature that cosign made, of an image that others use for their tests, too.
#[tokio::test]
async fn a_signature_that_cosign_made_is_good() {
    let payload = r#"{"critical":{"identity":{"docker-reference":"registry-testing.svc.lan/busybox"},"image":{"docker-manifest-digest":"sha256:f3cfc9d0dbf931d3db4685ec659b7ac68e2a578219da4aae65427886e649b06b"},"type":"cosign container image signature"},"optional":null}"#;
    let signature =
        "MEUCIQD6q/COgzOyW0YH1Dk+CCYSt4uAhm3FDHUwvPI55zwnlwIgE0ZK58ZOWpZw8YVmBapJhBqCfdPekIknimuO0xH8Jh8=";
    let key = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAENptdY/l3nB0yqkXLBWkZWQwo6+cu
OSWS1X9vPavpiQOoTTGC0xX57OojUadxF1cdQmrsiReWg2Wn4FneJfa8xw==
-----END PUBLIC KEY-----";
    let image = "sha256:f3cfc9d0dbf931d3db4685ec659b7ac68e2a578219da4aae65427886e649b06b";
    let (_dir, images) = images();
    let tool = Tool { router: images.registry_router() };
    tool.push_signature("busybox", image, PAYLOAD, payload.as_bytes(), signature, true).await;
    let rules = vec![SignatureRule { keys: vec![key.to_owned()], ..rule("*", &[]) }];
    let policy = SignaturePolicy::build(rules, _dir.path()).unwrap();
    let name = reference("registry.local/busybox:1");
    let verify = |digest: &Digest| {
        let (content, index) = (&images.shared().content, &images.shared().index);
        crate::signature::verify(policy.rule(&name).unwrap(), &name, &[digest], content, index)
    };
    assert_eq!(verify(&Digest::parse(image).unwrap()), Ok(()));
    assert!(verify(&Digest::of(b"another")).is_err());
}
