//! Updates and patches: read the newest version, change it, run the pipeline, write it if nobody else
//! wrote meanwhile; otherwise again.

use coracle_api::status::{OPTIMISTIC_LOCK, Status};
use coracle_store::{Entry, Op, WriteError};
use serde_json::{Map, Value, json};
use std::sync::Arc;

use super::{Call, Saved, counts_generation, spec_differs, write_status};
use crate::{admission::Operation, object};

/// Which part of the object a write may touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Everything but `status` (all of it, if the kind has no status subresource).
    Whole,
    /// `status`, and of metadata labels, annotations and finalizers, as Kubernetes' own kinds allow.
    Status,
    /// The part of `spec` that the call's subresource is about: the change touches nothing else.
    Subresource,
    /// Everything: what the server itself writes and answers for (bindings, namespace finalizers).
    Server,
}

/// A change: from the newest version to the one wanted. It may run several times.
pub(crate) type Change<'a> = dyn FnMut(&Value) -> Result<Value, Status> + Send + 'a;

/// An update to be done.
pub(crate) struct Update<'a> {
    pub(crate) part: Part,
    pub(crate) change: &'a mut Change<'a>,
}

/// Attempts before a write that loses every race is answered with a conflict. Each lost race is somebody
/// else's success, so this many in a row means that the object is written in a storm.
const ATTEMPTS: u32 = 200;

/// Runs a change through the pipeline until it is written, refused, or makes no difference.
pub(crate) async fn update(call: &Call, update: Update<'_>) -> Result<Saved, Status> {
    let mut entry = call.entry()?;
    for _ in 0..ATTEMPTS {
        match attempt(call, &entry, update.part, update.change).await? {
            Attempt::Done(saved) => return Ok(saved),
            Attempt::Lost(Some(newer)) => entry = newer,
            Attempt::Lost(None) => return Err(call.not_found()),
        }
    }
    Err(Status::conflict(call.kind(), &call.name, OPTIMISTIC_LOCK))
}

enum Attempt {
    Done(Saved),
    /// Somebody else wrote first: this is the newest version, if the object is still there.
    Lost(Option<Arc<Entry>>),
}

async fn attempt(
    call: &Call,
    entry: &Arc<Entry>,
    part: Part,
    change: &mut Change<'_>,
) -> Result<Attempt, Status> {
    let kind = call.kind();
    let core = &call.core;
    let old = call.object(entry);
    let mut object = change(&old)?;

    // A version in the request means: this one or none.
    let wanted = object::resource_version(&object);
    let pinned = !matches!(wanted, "" | "0");
    if pinned && wanted != object::resource_version(&old) {
        return Err(Status::conflict(kind, &call.name, OPTIMISTIC_LOCK));
    }
    carry_over(&mut object, &old);
    match part {
        Part::Whole if kind.has_status() => restore(&mut object, &old, "status"),
        Part::Status => only_status(&mut object, &old),
        Part::Whole | Part::Subresource | Part::Server => {}
    }
    kind.hooks.default(&mut object);
    let attributes = call.attributes(Operation::Update);
    core.admission.mutate(&attributes, &mut object, Some(&old)).await?;
    if part == Part::Whole {
        kind.hooks.prepare_update(&mut object, &old);
    }
    if counts_generation(kind)
        && matches!(part, Part::Whole | Part::Subresource)
        && spec_differs(&object, &old)
    {
        let generation = object::integer(&old, "/metadata/generation").unwrap_or(0) + 1;
        object::metadata_mut(&mut object).insert("generation".into(), json!(generation));
    }
    let causes = match part {
        Part::Status => kind.validate_status(&object, &old),
        Part::Whole => kind.validate_update(&object, &old),
        Part::Subresource => kind.validate_subresource(&call.subresource, &object, &old),
        // Rules of updates are about what users may change; whoever writes as the server has checked.
        Part::Server => Vec::new(),
    };
    if !causes.is_empty() {
        return Err(Status::invalid(kind, &call.name, causes));
    }
    core.admission.validate(&attributes, Some(&object), Some(&old)).await?;
    let holds = core.admission.allocate(&attributes, &mut object)?;

    let removed = is_emptied(call, &object, &old);
    if !removed && object == old {
        return Ok(Attempt::Done(Saved::Stored(entry.clone())));
    }
    let charges = core.admission.charge(&attributes, &object, Some(&old)).await?;
    if call.dry_run {
        return Ok(Attempt::Done(Saved::DryRun(object)));
    }
    let payload = call.payload(&object);
    let (key, expect) = (call.key(), entry.revision());
    let op =
        if removed { Op::Delete { key, expect, last: payload } } else { Op::Update { key, payload, expect } };
    let written = core.store.write(op).await;
    if written.is_err() {
        core.admission.refund(charges).await;
    }
    match written {
        Ok(entry) => {
            core.admission.committed(&attributes, holds, Some(&old), (!removed).then_some(&object));
            Ok(Attempt::Done(Saved::Stored(entry)))
        }
        // The client saw the version that it named; a newer one makes its change a conflict. Unless the
        // version was in the object because a patch left it alone: then the patch applies anew.
        Err(WriteError::Conflict { current }) => Ok(Attempt::Lost(Some(current))),
        Err(WriteError::NotFound) => Ok(Attempt::Lost(None)),
        Err(error) => Err(write_status(&error, call)),
    }
}

/// Takes from the old version what only the server writes, where the request left it out. What a request
/// changes instead is refused by validation. The deletion of an object cannot be taken back.
fn carry_over(object: &mut Value, old: &Value) {
    let nothing = Map::new();
    let old = object::metadata(old).unwrap_or(&nothing);
    let metadata = object::metadata_mut(object);
    metadata.remove("managedFields");
    metadata.remove("selfLink");
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        let absent = metadata.get(field).is_none_or(|v| v.is_null() || v.as_str() == Some(""));
        if let Some(value) = old.get(field).filter(|_| absent) {
            metadata.insert(field.into(), value.clone());
        } else if absent {
            metadata.remove(field);
        }
    }
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
        let absent = metadata.get(field).is_none_or(Value::is_null);
        if let Some(value) = old.get(field) {
            metadata.insert(field.into(), value.clone());
        } else if absent {
            metadata.remove(field);
        }
    }
    for field in ["generation", "resourceVersion"] {
        match old.get(field) {
            Some(value) => drop(metadata.insert(field.into(), value.clone())),
            None => drop(metadata.remove(field)),
        }
    }
}

/// Puts a top-level field back to what it was.
fn restore(object: &mut Value, old: &Value, field: &str) {
    let Some(map) = object.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => drop(map.insert(field.to_owned(), value.clone())),
        None => drop(map.remove(field)),
    }
}

/// Puts everything back to what it was but the status, and the parts of metadata that a status update may carry.
fn only_status(object: &mut Value, old: &Value) {
    const CARRIED: &[&str] = &["labels", "annotations", "finalizers", "name", "namespace", "uid"];
    let nothing = Map::new();
    put_back(object::metadata_mut(object), object::metadata(old).unwrap_or(&nothing), CARRIED);
    if let Some(map) = object.as_object_mut() {
        put_back(map, old.as_object().unwrap_or(&nothing), &["metadata", "status"]);
    }
}

/// Puts all fields back to what they were but those that are free. Most are as they were: nothing is copied.
fn put_back(new: &mut Map<String, Value>, old: &Map<String, Value>, free: &[&str]) {
    new.retain(|field, _| free.contains(&field.as_str()) || old.contains_key(field));
    for (field, value) in old.iter().filter(|(field, _)| !free.contains(&field.as_str())) {
        if new.get(field) != Some(value) {
            new.insert(field.clone(), value.clone());
        }
    }
}

/// True if the write takes away the last thing that kept a deleted object.
fn is_emptied(call: &Call, object: &Value, old: &Value) -> bool {
    if !object::is_terminating(old) || !object::finalizers(object).is_empty() {
        return false;
    }
    if crate::delete::holds_content(call.kind(), object) {
        return false;
    }
    if crate::delete::is_namespace(call.kind()) {
        return true;
    }
    object::integer(old, "/metadata/deletionGracePeriodSeconds") == Some(0)
}
