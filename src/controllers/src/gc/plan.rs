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
    /// Its dependents lose the object as their owner; then it loses its finalizer.
    Orphan,
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
        return Plan::Orphan;
    }
    if object.waits_for_dependents() {
        return match blocked_by(object, graph.dependents(&object.uid)) {
            Some(dependents) => Plan::LookAt(dependents),
            None => Plan::Finish,
        };
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

/// If `object` has to wait for any of its dependents: those of them that are not going yet.
pub(super) fn blocked_by<'a>(
    object: &Object,
    dependents: impl Iterator<Item = &'a Object>,
) -> Option<Vec<String>> {
    let blocks = |dependent: &&Object| {
        let mut references = dependent.owners.iter().filter(|reference| reference.uid == object.uid);
        references.any(|reference| reference.block_owner_deletion == Some(true))
    };
    let is_owned_by = |dependent: &Object| object.owners.iter().any(|owner| owner.uid == dependent.uid);
    // An object that owns itself, or what owns it in a circle, waits for nobody who waits for it.
    let circular = |dependent: &&Object| {
        dependent.uid == object.uid || dependent.waits_for_dependents() && is_owned_by(dependent)
    };
    let dependents: Vec<_> = dependents.filter(|dependent| !circular(dependent)).collect();
    dependents.iter().any(blocks).then(|| {
        let stay = dependents.iter().filter(|dependent| !dependent.deleting);
        stay.map(|dependent| dependent.uid.clone()).collect()
    })
}

/// Owners of `object` that are in another namespace than it: an owner must be in the same, or in none.
pub(super) fn foreign<'a>(object: &'a Object, graph: &Graph) -> Vec<&'a OwnerReference> {
    let is_foreign = |reference: &&OwnerReference| {
        let owner = graph.get(&reference.uid).filter(|owner| owner.served.namespaced);
        owner.is_some_and(|owner| owner.key.namespace != object.key.namespace)
    };
    object.owners.iter().filter(is_foreign).collect()
}
