//! What is to be done about an object, given what is known of its owners and dependents.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::graph::{FOREGROUND, Graph, ORPHAN, Object};

/// How an object is deleted: what becomes of its own dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    Background,
    Foreground,
    Orphan,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Plan {
    Nothing,
    /// These owners are not in the graph: the API must say whether they exist.
    Ask(Vec<OwnerReference>),
    /// Nobody owns the object any more.
    Delete(Policy),
    /// The object is still owned by others: it loses the owners with these uids.
    DropOwners(Vec<String>),
    /// These dependents lose the object as their owner; then it loses its finalizer.
    Orphan(Vec<Object>),
    /// These dependents have to be looked at, because the object waits for them to go.
    LookAt(Vec<String>),
    /// Every dependent that blocked the object has gone: it loses its finalizer.
    Finish,
}

/// What is known of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Solid,
    Waiting,
    Absent,
    Unknown,
}

/// The plan for `object`; `is_absent` and `is_present` tell what the API said about owners that are not in
/// the graph.
pub(super) fn plan(
    object: &Object,
    graph: &Graph,
    is_absent: impl Fn(&OwnerReference) -> bool,
    is_present: impl Fn(&str) -> bool,
) -> Plan {
    if object.orphans() {
        return Plan::Orphan(graph.dependents(&object.uid).cloned().collect());
    }
    if object.waits_for_dependents() {
        return finish(object, graph);
    }
    if object.deleting || object.owners.is_empty() {
        return Plan::Nothing;
    }
    let classify = |reference: &OwnerReference| match graph.get(&reference.uid) {
        Some(owner) if owner.is_named_by(reference, object) => {
            if owner.waits_for_dependents() {
                Owner::Waiting
            } else {
                Owner::Solid
            }
        }
        _ if is_absent(reference) => Owner::Absent,
        _ if is_present(&reference.uid) => Owner::Solid,
        _ => Owner::Unknown,
    };
    let owners: Vec<_> = object.owners.iter().map(|reference| (reference, classify(reference))).collect();
    let of = |wanted: Owner| {
        owners.iter().filter(move |(_, owner)| *owner == wanted).map(|(reference, _)| *reference)
    };
    if of(Owner::Unknown).next().is_some() {
        return Plan::Ask(of(Owner::Unknown).cloned().collect());
    }
    if of(Owner::Solid).next().is_some() {
        let gone: Vec<_> =
            of(Owner::Absent).chain(of(Owner::Waiting)).map(|reference| reference.uid.clone()).collect();
        return if gone.is_empty() { Plan::Nothing } else { Plan::DropOwners(gone) };
    }
    let has_dependents = graph.dependents(&object.uid).next().is_some();
    Plan::Delete(if of(Owner::Waiting).next().is_some() && has_dependents {
        // The owner waits for everything below it.
        Policy::Foreground
    } else if object.has_finalizer(ORPHAN) {
        Policy::Orphan
    } else if object.has_finalizer(FOREGROUND) {
        Policy::Foreground
    } else {
        Policy::Background
    })
}

fn finish(object: &Object, graph: &Graph) -> Plan {
    let blocks = |dependent: &&Object| {
        let mut references = dependent.owners.iter().filter(|reference| reference.uid == object.uid);
        references.any(|reference| reference.block_owner_deletion == Some(true))
    };
    // An object that owns itself, or what owns it in a circle, waits for nobody who waits for it.
    let circular = |dependent: &&Object| {
        dependent.uid == object.uid || dependent.waits_for_dependents() && owns(graph, dependent, object)
    };
    let dependents: Vec<_> = graph.dependents(&object.uid).filter(|dependent| !circular(dependent)).collect();
    if dependents.iter().any(blocks) {
        let going = |dependent: &&&Object| !dependent.deleting;
        Plan::LookAt(dependents.iter().filter(going).map(|dependent| dependent.uid.clone()).collect())
    } else {
        Plan::Finish
    }
}

/// True if `owner` is named as an owner of `object`.
fn owns(graph: &Graph, owner: &Object, object: &Object) -> bool {
    graph.dependents(&owner.uid).any(|dependent| dependent.uid == object.uid)
}
