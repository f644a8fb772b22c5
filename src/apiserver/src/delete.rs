//! Deletes: decided by a pure plan, then carried out.
//!
//! ```text
//!            finalizers or content left, or grace > 0           nothing keeps it
//!  live ───────────────────────────────► terminating ─────────────────────────► gone
//!    └──────────────────────────────────────────────────────────────────────────►┘
//! ```

use std::sync::Arc;

use coracle_api::{Kind, status::Status};
use coracle_store::{Entry, Op, WriteError};
use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    admission::{Holds, Operation},
    core::seconds_text,
    facts::Selection,
    object,
    options::{DeleteOptions, Propagation},
    pipeline::{Call, Saved, write_status},
};

/// The finalizer that makes the garbage collector delete dependents first.
const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer that makes the garbage collector take itself out of dependents' owners first.
const ORPHAN: &str = "orphan";
/// Deletes of a collection under way at once.
const PARALLEL: usize = 16;
/// Races that a delete without a pinned version may lose.
const ATTEMPTS: u32 = 200;

/// True for the Namespace kind, whose objects hold content that a controller removes.
pub(crate) fn is_namespace(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.plural == "namespaces"
}

/// True if it is a namespace that still has finalizers in its spec: there may be objects in it.
pub(crate) fn holds_content(kind: &Kind, object: &Value) -> bool {
    let finalizers = object.pointer("/spec/finalizers").and_then(Value::as_array);
    is_namespace(kind) && finalizers.is_some_and(|list| !list.is_empty())
}

/// What came of a delete.
pub(crate) enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Saved),
    /// It is marked, and goes when nothing keeps it any more.
    Pending(Saved),
}

/// Deletes the object of the call, or marks it.
pub(crate) async fn delete(call: &Call, options: &DeleteOptions) -> Result<Deleted, Status> {
    let mut entry = call.entry()?;
    for _ in 0..ATTEMPTS {
        match attempt(call, &entry, options).await? {
            Attempt::Done(deleted) => return Ok(deleted),
            Attempt::Lost(newer) => entry = newer,
        }
    }
    Err(Status::conflict(call.kind(), &call.name, coracle_api::status::OPTIMISTIC_LOCK))
}

enum Attempt {
    Done(Deleted),
    Lost(Arc<Entry>),
}

async fn attempt(call: &Call, entry: &Arc<Entry>, options: &DeleteOptions) -> Result<Attempt, Status> {
    let core = &call.core;
    let old = call.object(entry);
    let attributes = call.attributes(Operation::Delete);
    core.admission.validate(&attributes, None, Some(&old)).await?;
    let (key, expect) = (call.key(), entry.revision());
    let (op, gone) = match plan(call.kind(), &old, options, core.now())? {
        Plan::Wait => return Ok(Attempt::Done(Deleted::Pending(Saved::Stored(entry.clone())))),
        Plan::Mark(object) if call.dry_run => {
            return Ok(Attempt::Done(Deleted::Pending(Saved::DryRun(object))));
        }
        Plan::Remove if call.dry_run => return Ok(Attempt::Done(Deleted::Gone(Saved::DryRun(old)))),
        Plan::Mark(object) => (Op::Update { key, payload: call.payload(&object), expect }, false),
        Plan::Remove => (Op::Delete { key, expect, last: call.payload(&old) }, true),
    };
    match core.store.write(op).await {
        Ok(written) if gone => {
            core.admission.committed(&attributes, Holds::default(), Some(&old), None);
            Ok(Attempt::Done(Deleted::Gone(Saved::Stored(written))))
        }
        Ok(written) => Ok(Attempt::Done(Deleted::Pending(Saved::Stored(written)))),
        Err(WriteError::Conflict { current }) => Ok(Attempt::Lost(current)),
        Err(error) => Err(write_status(&error, call)),
    }
}

/// What a delete does to an object.
#[derive(Debug, PartialEq)]
enum Plan {
    /// Nothing: it is on its way out already.
    Wait,
    /// Write this version, which says that the object is on its way out.
    Mark(Value),
    /// Remove it.
    Remove,
}

fn plan(kind: &Kind, old: &Value, options: &DeleteOptions, now: Timestamp) -> Result<Plan, Status> {
    check_preconditions(kind, old, options)?;
    let finalizers = finalizers_after(kind, old, options);
    let kept = !finalizers.is_empty() || holds_content(kind, old);
    let grace = kind.hooks.deletion_grace(old, options.grace);
    let changed = || {
        let mut object = old.clone();
        set_finalizers(&mut object, &finalizers);
        object
    };

    if object::is_terminating(old) {
        let current = object::integer(old, "/metadata/deletionGracePeriodSeconds").unwrap_or(0);
        if grace.is_some() && current > 0 {
            // Graceful deletion is under way: its time can only be shortened.
            let Some(period) = options.grace.filter(|period| *period < current) else {
                return Ok(Plan::Wait);
            };
            if period == 0 && !kept {
                return Ok(Plan::Remove);
            }
            let due = object::text(old, "/metadata/deletionTimestamp").parse().unwrap_or(now);
            // Where the end of time was due, the beginning is lost.
            let began = due.checked_sub(SignedDuration::from_secs(current)).unwrap_or(now);
            let mut object = changed();
            mark(&mut object, began, Some(period));
            return Ok(Plan::Mark(object));
        }
        if current > 0 && kept {
            // Nothing is waited for any more but those who keep it: the last of them lets it go.
            let due = object::text(old, "/metadata/deletionTimestamp").parse().unwrap_or(now);
            let began = due.checked_sub(SignedDuration::from_secs(current)).unwrap_or(now);
            let mut object = changed();
            mark(&mut object, began, Some(0));
            return Ok(Plan::Mark(object));
        }
        if !kept {
            return Ok(Plan::Remove);
        }
        let object = changed();
        return Ok(if object == *old { Plan::Wait } else { Plan::Mark(object) });
    }
    if !kept && grace.unwrap_or(0) == 0 {
        return Ok(Plan::Remove);
    }
    let mut object = changed();
    if is_namespace(kind) {
        object::child_mut(&mut object, "status").insert("phase".into(), json!("Terminating"));
        mark(&mut object, now, None);
    } else {
        mark(&mut object, now, Some(grace.unwrap_or(0)));
    }
    let generation = object::integer(old, "/metadata/generation").unwrap_or(0);
    if generation > 0 {
        object::metadata_mut(&mut object).insert("generation".into(), json!(generation + 1));
    }
    Ok(Plan::Mark(object))
}

/// Writes when the object is due: `began` plus the grace period.
fn mark(object: &mut Value, began: Timestamp, grace: Option<i64>) {
    // A grace period beyond the end of time is the end of time.
    let due = began.saturating_add(SignedDuration::from_secs(grace.unwrap_or(0))).unwrap_or(Timestamp::MAX);
    let metadata = object::metadata_mut(object);
    metadata.insert("deletionTimestamp".into(), json!(seconds_text(due)));
    if let Some(seconds) = grace {
        metadata.insert("deletionGracePeriodSeconds".into(), json!(seconds));
    }
}

fn check_preconditions(kind: &Kind, old: &Value, options: &DeleteOptions) -> Result<(), Status> {
    let conflict = |what: &str, wanted: &str, found: &str, hint: &str| {
        let why = format!(
            "the {what} in the precondition ({wanted}) does not match the {what} in record ({found}). {hint}"
        );
        Err(Status::conflict(kind, object::name(old), &why))
    };
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != object::uid(old)) {
        return conflict(
            "UID",
            uid,
            object::uid(old),
            "The object might have been deleted and then recreated",
        );
    }
    let found = object::resource_version(old);
    if let Some(version) = options.resource_version.as_deref().filter(|version| *version != found) {
        return conflict("ResourceVersion", version, found, "The object might have been modified");
    }
    Ok(())
}

/// True for jobs, of which Kubernetes warns that they leave their pods.
pub(crate) fn is_job(kind: &Kind) -> bool {
    kind.group == "batch" && kind.plural == "jobs"
}

/// The finalizers an object has after a delete with these options: its own, and those that tell the
/// garbage collector what to do with dependents.
fn finalizers_after(kind: &Kind, old: &Value, options: &DeleteOptions) -> Vec<String> {
    let existing = object::finalizers(old);
    let propagation = options.propagation.unwrap_or_else(|| {
        if existing.contains(&ORPHAN) {
            Propagation::Orphan
        } else if existing.contains(&FOREGROUND) {
            Propagation::Foreground
        } else if is_job(kind) || (kind.group.is_empty() && kind.plural == "replicationcontrollers") {
            // The kinds whose dependents are left alone unless asked: Kubernetes keeps it that way for
            // clients older than garbage collection.
            Propagation::Orphan
        } else {
            Propagation::Background
        }
    });
    let own = existing.iter().filter(|f| **f != ORPHAN && **f != FOREGROUND).map(|f| (*f).to_owned());
    own.chain(match propagation {
        Propagation::Orphan => Some(ORPHAN.to_owned()),
        Propagation::Foreground => Some(FOREGROUND.to_owned()),
        Propagation::Background => None,
    })
    .collect()
}

fn set_finalizers(object: &mut Value, finalizers: &[String]) {
    if finalizers.is_empty() {
        object::metadata_mut(object).remove("finalizers");
    } else {
        object::metadata_mut(object).insert("finalizers".into(), json!(finalizers));
    }
}

/// Deletes every object of the call's collection that is selected, several at once. Returns what they
/// were. Objects that somebody else deletes meanwhile do not count.
pub(crate) async fn delete_collection(
    call: &Call,
    selection: &Selection,
    options: &DeleteOptions,
) -> Result<Vec<Value>, Status> {
    let prefix = call.resource.prefix(&call.namespace);
    let listing = call.core.store.list(&prefix, coracle_store::ListOptions::default());
    let entries = listing.map_err(|e| Status::expired(e.to_string()))?.entries;
    let selected = entries.into_iter().filter(|entry| selection.selects(entry, &call.resource));
    let mut deletes = stream::iter(selected)
        .map(|entry| {
            let object = call.object(&entry);
            let mut call = call.clone();
            call.name = object::name(&object).to_owned();
            async move { delete(&call, options).await.map(|_| object) }
        })
        .buffered(PARALLEL);
    let mut deleted = Vec::new();
    while let Some(result) = deletes.next().await {
        match result {
            Ok(object) => deleted.push(object),
            Err(status) if matches!(status.code(), 404 | 409) => {}
            Err(status) => return Err(status),
        }
    }
    Ok(deleted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    /// Says what a delete with these options does to an object of the kind.
    #[track_caller]
    fn check(kind: &str, metadata: &Value, options: &DeleteOptions, expected: &str) {
        let kind = coracle_api::kinds::find("", "v1", kind).expect("a kind of the core group");
        let mut old =
            json!({"metadata": metadata, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}});
        if is_namespace(kind) {
            old["spec"] = json!({"finalizers": ["kubernetes"]});
        }
        let said = match plan(kind, &old, options, now()) {
            Ok(Plan::Wait) => "wait".to_owned(),
            Ok(Plan::Remove) => "remove".to_owned(),
            Ok(Plan::Mark(object)) => format!(
                "mark {} grace={} generation={} {:?}",
                object::meta_str(&object, "deletionTimestamp"),
                object["metadata"]["deletionGracePeriodSeconds"],
                object["metadata"]["generation"],
                object::finalizers(&object)
            ),
            Err(status) => format!("{} {}", status.code(), status.message()),
        };
        assert_eq!(said, expected);
    }

    #[test]
    fn plain_objects_go_at_once_unless_something_keeps_them() {
        let none = DeleteOptions::default;
        check("configmaps", &json!({}), &none(), "remove");
        check(
            "configmaps",
            &json!({"finalizers": ["a/b"], "generation": 3}),
            &none(),
            r#"mark 2026-01-01T00:00:00Z grace=0 generation=4 ["a/b"]"#,
        );
        let foreground = DeleteOptions { propagation: Some(Propagation::Foreground), ..none() };
        check(
            "configmaps",
            &json!({}),
            &foreground,
            r#"mark 2026-01-01T00:00:00Z grace=0 generation=null ["foregroundDeletion"]"#,
        );
        check(
            "replicationcontrollers",
            &json!({}),
            &none(),
            r#"mark 2026-01-01T00:00:00Z grace=0 generation=null ["orphan"]"#,
        );
        let terminating = json!({
            "finalizers": ["a/b"], "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0,
        });
        check("configmaps", &terminating, &none(), "wait");
        check("namespaces", &json!({}), &none(), "mark 2026-01-01T00:00:00Z grace=null generation=null []");
    }

    #[test]
    fn pods_get_their_grace_and_a_second_delete_shortens_it() {
        let grace = |seconds| DeleteOptions { grace: Some(seconds), ..DeleteOptions::default() };
        check(
            "pods",
            &json!({}),
            &DeleteOptions::default(),
            "mark 2026-01-01T00:00:30Z grace=30 generation=null []",
        );
        check("pods", &json!({}), &grace(5), "mark 2026-01-01T00:00:05Z grace=5 generation=null []");
        check("pods", &json!({}), &grace(0), "remove");
        let going = || json!({"deletionTimestamp": "2026-01-01T00:00:30Z", "deletionGracePeriodSeconds": 30});
        check("pods", &going(), &grace(10), "mark 2026-01-01T00:00:10Z grace=10 generation=null []");
        check("pods", &going(), &grace(60), "wait");
        check("pods", &going(), &DeleteOptions::default(), "wait");
        check("pods", &going(), &grace(0), "remove");
        let mut kept = going();
        kept["finalizers"] = json!(["a/b"]);
        check("pods", &kept, &grace(0), r#"mark 2026-01-01T00:00:00Z grace=0 generation=null ["a/b"]"#);
        let never =
            json!({"deletionTimestamp": "9999-12-30T22:00:00Z", "deletionGracePeriodSeconds": i64::MAX});
        check("pods", &never, &grace(10), "mark 2026-01-01T00:00:10Z grace=10 generation=null []");
    }

    #[test]
    fn preconditions_are_checked() {
        let uid = DeleteOptions { uid: Some("other".into()), ..DeleteOptions::default() };
        check(
            "configmaps",
            &json!({"name": "a", "uid": "u"}),
            &uid,
            "409 Operation cannot be fulfilled on configmaps \"a\": the UID in the precondition (other) does not match the UID in record (u). The object might have been deleted and then recreated",
        );
    }
}
