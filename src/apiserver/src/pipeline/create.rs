//! Creates.

use coracle_api::{names, status::Status};
use coracle_store::{Op, WriteError};
use serde_json::{Value, json};

use super::{Call, Saved, counts_generation, write_status};
use crate::{admission::Operation, core, facts::Facts, object};

/// Names tried for a `generateName` before giving up, as many as Kubernetes tries.
const GENERATED_NAMES: u32 = 8;

/// Runs a decoded object through the pipeline and creates it.
pub(crate) async fn create(call: &Call, mut object: Value) -> Result<Saved, Status> {
    take_namespace(call, &mut object)?;
    if !matches!(object::resource_version(&object), "" | "0") {
        let message = "resourceVersion should not be set on objects to be created";
        return Err(Status::new(500, "", message.into()));
    }
    let prefix = object::meta_str(&object, "generateName").to_owned();
    if !object::name(&object).is_empty() || prefix.is_empty() {
        let mut call = call.clone();
        call.name = object::name(&object).to_owned();
        return attempt(&call, object).await.map_err(|refused| refused.into_status(&call));
    }
    for _ in 0..GENERATED_NAMES {
        let mut call = call.clone();
        call.name = names::generate(&prefix, core::random());
        let mut candidate = object.clone();
        object::metadata_mut(&mut candidate).insert("name".into(), json!(call.name));
        match attempt(&call, candidate).await {
            Ok(saved) => return Ok(saved),
            Err(Refused::Exists(_)) => {}
            Err(refused) => return Err(refused.into_status(&call)),
        }
    }
    Err(Status::generate_name_conflict(call.kind(), &prefix, 1))
}

/// Why one attempt failed.
enum Refused {
    /// The name is taken; the other object is on its way out or not.
    Exists(bool),
    Status(Status),
}

impl From<Status> for Refused {
    fn from(status: Status) -> Refused {
        Refused::Status(status)
    }
}

impl Refused {
    fn into_status(self, call: &Call) -> Status {
        match self {
            Refused::Status(status) => status,
            Refused::Exists(false) => Status::already_exists(call.kind(), &call.name),
            Refused::Exists(true) => {
                let plain = Status::already_exists(call.kind(), &call.name);
                let details = plain.details().cloned().unwrap_or_default();
                let message = format!("object is being deleted: {}", plain.message());
                Status::new(plain.code(), plain.reason().to_owned(), message).with_details(details)
            }
        }
    }
}

async fn attempt(call: &Call, mut object: Value) -> Result<Saved, Refused> {
    let kind = call.kind();
    let core = &call.core;
    let attributes = call.attributes(Operation::Create);
    own(call, &mut object);
    kind.hooks.default(&mut object);
    core.admission.mutate(&attributes, &mut object, None).await?;
    if counts_generation(kind) {
        object::metadata_mut(&mut object).insert("generation".into(), json!(1));
    }
    kind.hooks.prepare_create(&mut object, core.now());
    let causes = kind.validate_create(&object);
    if !causes.is_empty() {
        return Err(Status::invalid(kind, &call.name, causes).into());
    }
    core.admission.validate(&attributes, Some(&object), None).await?;
    let holds = core.admission.allocate(&attributes, &mut object)?;
    let charges = core.admission.charge(&attributes, &object, None).await?;
    if call.dry_run {
        if let Some(current) = core.store.get(&call.key()) {
            return Err(exists(call, &current));
        }
        return Ok(Saved::DryRun(object));
    }
    let op = Op::Create { key: call.key(), payload: call.payload(&object) };
    let written = core.store.write(op).await;
    if written.is_err() {
        core.admission.refund(charges).await;
    }
    match written {
        Ok(entry) => {
            core.admission.committed(&attributes, holds, None, Some(&object));
            Ok(Saved::Stored(entry))
        }
        Err(WriteError::Exists { current }) => Err(exists(call, &current)),
        Err(error) => Err(write_status(&error, call).into()),
    }
}

fn exists(call: &Call, current: &coracle_store::Entry) -> Refused {
    Refused::Exists(Facts::of(current, &call.resource.stored_as).terminating)
}

/// The namespace of the URL is the object's; a body that says otherwise is refused.
fn take_namespace(call: &Call, object: &mut Value) -> Result<(), Status> {
    let said = object::namespace(object);
    if said == call.namespace {
        return Ok(());
    }
    if !said.is_empty() {
        let message = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Status::bad_request(message));
    }
    object::metadata_mut(object).insert("namespace".into(), json!(call.namespace));
    Ok(())
}

/// What the server alone decides of a new object.
fn own(call: &Call, object: &mut Value) {
    let metadata = object::metadata_mut(object);
    for field in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "managedFields",
        "resourceVersion",
        "generation",
    ] {
        metadata.remove(field);
    }
    metadata.insert("uid".into(), json!(core::new_uid()));
    metadata.insert("creationTimestamp".into(), json!(call.core.now_text()));
}
