//! Claims get the default class and grow only where their class allows it, and claims and volumes stay until nothing uses them.

use async_trait::async_trait;
use coracle_api::{quantity::Quantity, status::Status};
use serde_json::{Value, json};

use super::{Attributes, Operation, Plugin, stored};
use crate::object;

/// What marks a class as the default one; the second is its old name.
const DEFAULT_CLASS: &[&str] =
    &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
/// How claims named their class before there was a field.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// Names the default class in claims that name none.
pub(super) struct DefaultStorageClass;

#[async_trait]
impl Plugin for DefaultStorageClass {
    async fn mutate(
        &self,
        request: &Attributes<'_>,
        claim: &mut Value,
        _: Option<&Value>,
    ) -> Result<(), Status> {
        if request.operation != Operation::Create || !request.is_core("persistentvolumeclaims") {
            return Ok(());
        }
        let named = claim.pointer("/spec/storageClassName").is_some_and(Value::is_string)
            || annotation(claim, CLASS).is_some();
        if named {
            return Ok(());
        }
        let mut classes = stored(request.call, ("storage.k8s.io", "v1", "storageclasses"), "");
        classes.retain(|class| DEFAULT_CLASS.iter().any(|key| annotation(class, key) == Some("true")));
        // Of several the newest counts, then the first by name.
        let age = |class: &Value| object::meta_str(class, "creationTimestamp").to_owned();
        classes.sort_by(|a, b| age(b).cmp(&age(a)).then_with(|| object::name(a).cmp(object::name(b))));
        if let Some(class) = classes.first() {
            let name = object::name(class);
            object::child_mut(claim, "spec").insert("storageClassName".into(), json!(name));
        }
        Ok(())
    }
}

/// Lets claims ask for more only if their class can give it.
pub(super) struct PersistentVolumeClaimResize;

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    async fn validate(
        &self,
        request: &Attributes<'_>,
        claim: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        let (Operation::Update, Some(new), Some(old)) = (request.operation, claim, old) else {
            return Ok(());
        };
        if !request.is_core("persistentvolumeclaims") || asked(new) <= asked(old) {
            return Ok(());
        }
        let refused = |why| Err(Status::forbidden(request.call.kind(), object::name(new), why));
        if old.pointer("/status/phase").and_then(Value::as_str) != Some("Bound") {
            return refused("Only bound persistent volume claims can be expanded");
        }
        let named = annotation(old, CLASS).or_else(|| old.pointer("/spec/storageClassName")?.as_str());
        let classes = stored(request.call, ("storage.k8s.io", "v1", "storageclasses"), "");
        let class = classes.iter().find(|class| Some(object::name(class)) == named);
        if class.is_some_and(|class| class["allowVolumeExpansion"] == true) {
            return Ok(());
        }
        refused(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        )
    }
}

/// The bytes that a claim asks for.
fn asked(claim: &Value) -> i128 {
    let storage = claim.pointer("/spec/resources/requests/storage").and_then(Value::as_str);
    storage.and_then(|text| Quantity::parse(text).ok()).map_or(0, |amount| amount.value().into())
}

fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object::metadata(object)?.get("annotations")?.get(key)?.as_str()
}

/// Puts the finalizers on that keep what is in use.
pub(super) struct StorageObjectInUseProtection;

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    async fn mutate(
        &self,
        request: &Attributes<'_>,
        object: &mut Value,
        _: Option<&Value>,
    ) -> Result<(), Status> {
        if request.operation != Operation::Create {
            return Ok(());
        }
        let finalizer = if request.is_core("persistentvolumeclaims") {
            "kubernetes.io/pvc-protection"
        } else if request.is_core("persistentvolumes") {
            "kubernetes.io/pv-protection"
        } else {
            return Ok(());
        };
        if object::finalizers(object).contains(&finalizer) {
            return Ok(());
        }
        let finalizers = object::metadata_mut(object).entry("finalizers").or_insert_with(|| json!([]));
        if finalizers.is_null() {
            *finalizers = json!([]);
        }
        if let Some(list) = finalizers.as_array_mut() {
            list.push(json!(finalizer));
        }
        Ok(())
    }
}
