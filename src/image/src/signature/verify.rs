//! Whether one of the documents beside an image is a signature of it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::{
    MAX_SIGNATURE, MAX_SIGNATURES, PAYLOAD, Rule, SignatureError, is_bundle, is_signature, signature_tag,
};
use crate::content::Content;
use crate::digest::Digest;
use crate::index::Index;
use crate::manifest::{Descriptor, MAX_MANIFEST, Manifest};
use crate::{ImageError, Reference, format};

/// Where cosign puts the signature of a payload.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";

/// What cosign's payloads say they are.
const PAYLOAD_TYPE: &str = "cosign container image signature";

/// What a statement is that says no more than that somebody signed.
const SIGN_PREDICATE: &str = "https://sigstore.dev/cosign/sign/v1";

/// The payload that cosign signs.
#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    identity: Identity,
    image: ImageDigest,
    r#type: String,
}

#[derive(Deserialize)]
struct Identity {
    #[serde(rename = "docker-reference")]
    reference: String,
}

#[derive(Deserialize)]
struct ImageDigest {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

/// A Sigstore bundle.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    dsse_envelope: Envelope,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Deserialize)]
struct EnvelopeSignature {
    sig: String,
}

/// An in-toto statement.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    subject: Vec<Subject>,
    predicate_type: String,
}

#[derive(Deserialize)]
struct Subject {
    digest: std::collections::BTreeMap<String, String>,
}

/// Looks for a signature that counts, of any of `digests`: an index, and the image it leads to.
pub(crate) fn verify(
    rule: &Rule,
    image: &Reference,
    digests: &[&Digest],
    content: &Content,
    index: &Index,
) -> Result<(), SignatureError> {
    let (mut count, mut reason) = (0, None);
    for digest in digests {
        for layer in signatures(image, digest, content, index).map_err(unreadable)? {
            count += 1;
            match one(rule, image, digest, &layer, content) {
                Ok(()) => return Ok(()),
                Err(wrong) => reason = reason.or(Some(wrong)),
            }
        }
    }
    let prefix = rule.shown();
    Err(match reason {
        None => SignatureError::Missing { prefix },
        Some(reason) => SignatureError::Invalid { prefix, count, reason },
    })
}

#[expect(clippy::needless_pass_by_value, reason = "used as a function of the error in map_err")]
fn unreadable(error: ImageError) -> SignatureError {
    SignatureError::Unreadable { reason: error.to_string() }
}

/// The documents that may be signatures.
fn signatures(
    image: &Reference,
    digest: &Digest,
    content: &Content,
    index: &Index,
) -> Result<Vec<Descriptor>, ImageError> {
    let name = image.name();
    let mut manifests: Vec<Digest> = index.tag(&name, &signature_tag(digest)).into_iter().collect();
    let signs = |said: &serde_json::Value| said["artifactType"].as_str().is_some_and(is_signature);
    let referrers = index.referrers(&name, digest).into_iter().filter(|(_, said)| signs(said));
    manifests.extend(referrers.map(|(digest, _)| digest));
    let mut layers = Vec::new();
    for manifest in manifests.into_iter().take(MAX_SIGNATURES) {
        let manifest = content.read(&manifest, MAX_MANIFEST)?;
        let manifest: Manifest = serde_json::from_slice(&manifest).unwrap_or_default();
        let known = |layer: &Descriptor| layer.media_type == PAYLOAD || is_bundle(&layer.media_type);
        layers.extend(manifest.layers.into_iter().filter(known).take(MAX_SIGNATURES));
    }
    Ok(layers)
}

/// Whether one document is a signature of the image that the rule wants; what is wrong if it is not.
fn one(
    rule: &Rule,
    image: &Reference,
    digest: &Digest,
    layer: &Descriptor,
    content: &Content,
) -> Result<(), String> {
    let of = format::digest(layer).map_err(|error| error.to_string())?;
    let bytes = content.read(&of, MAX_SIGNATURE).map_err(|error| error.to_string())?;
    if is_bundle(&layer.media_type) {
        return bundle(rule, digest, &bytes);
    }
    let signature = layer.annotations.get(SIGNATURE).and_then(|value| value.as_str());
    let signature = decode(signature.ok_or("it has no signature")?)?;
    // Nothing of the payload is believed before this.
    if !rule.keys.iter().any(|key| key.signed(&bytes, &signature)) {
        return Err("it is not of a key that the policy names".to_owned());
    }
    let payload: Payload =
        serde_json::from_slice(&bytes).map_err(|error| format!("its payload is invalid: {error}"))?;
    let Critical { identity, image: signed, r#type } = payload.critical;
    if r#type != PAYLOAD_TYPE {
        return Err(format!("its payload is of the type {type:?}"));
    }
    if signed.digest != digest.to_string() {
        return Err(format!("it is of the image {:?}", signed.digest));
    }
    if !rule.identifies(image, &identity.reference) {
        return Err(format!("it is of the repository {:?}", identity.reference));
    }
    Ok(())
}

fn bundle(rule: &Rule, digest: &Digest, bytes: &[u8]) -> Result<(), String> {
    let invalid = |error: serde_json::Error| format!("its bundle is invalid: {error}");
    let Bundle { dsse_envelope } = serde_json::from_slice(bytes).map_err(invalid)?;
    let Envelope { payload, payload_type, signatures } = dsse_envelope;
    let payload = decode(&payload)?;
    // What is signed says what it is, so that it is never taken for something else.
    let mut message = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    message.extend(&payload);
    let signed = signatures.iter().take(MAX_SIGNATURES).filter_map(|signature| decode(&signature.sig).ok());
    if !signed.into_iter().any(|signature| rule.keys.iter().any(|key| key.signed(&message, &signature))) {
        return Err("it is not of a key that the policy names".to_owned());
    }
    let Statement { subject, predicate_type } = serde_json::from_slice(&payload).map_err(invalid)?;
    // The same key may have signed statements of other kinds: what an image is made of, say.
    if predicate_type != SIGN_PREDICATE {
        return Err(format!("it is a statement of the type {predicate_type:?}"));
    }
    match subject.iter().any(|subject| subject.digest.get(digest.algorithm().name()) == Some(&digest.hex())) {
        true => Ok(()),
        false => Err("it is of another image".to_owned()),
    }
}

fn decode(text: &str) -> Result<Vec<u8>, String> {
    // Cosign reads it in lines, too.
    let text: String = text.split_ascii_whitespace().collect();
    STANDARD.decode(text).map_err(|_| "it is not in base64".to_owned())
}
