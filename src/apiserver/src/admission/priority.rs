//! Priority classes: the number behind a pod's class, and at most one default class.

use async_trait::async_trait;
use coracle_api::status::Status;
use coracle_store::Entry;
use serde_json::{Value, json};

use super::{Attributes, Operation, Plugin, entries};
use crate::object;

/// The classes that every cluster has, with what they are for.
pub(crate) const SYSTEM: &[(&str, i64, &str)] = &[
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
];
/// What pods without a class do if nobody says otherwise.
const PREEMPTS: &str = "PreemptLowerPriority";

pub(super) struct Priority;

/// What a pod gets from its class.
struct Given {
    /// Empty if there is none.
    class: String,
    priority: i64,
    policy: String,
}

#[async_trait]
impl Plugin for Priority {
    async fn mutate(
        &self,
        request: &Attributes<'_>,
        pod: &mut Value,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        if !request.is_core("pods") {
            return Ok(());
        }
        if request.operation != Operation::Create {
            keep(pod, old);
            return Ok(());
        }
        let forbid = |why: String| Status::forbidden(request.call.kind(), &request.call.name, &why);
        let given = given(request, object::text(pod, "/spec/priorityClassName")).map_err(forbid)?;
        let priority = object::integer(pod, "/spec/priority");
        if let Some(asked) = priority.filter(|asked| *asked != given.priority) {
            return Err(forbid(format!(
                "the integer value of priority ({asked}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
                given.priority
            )));
        }
        let policy = object::text(pod, "/spec/preemptionPolicy");
        if !policy.is_empty() && policy != given.policy {
            return Err(forbid(format!(
                "the string value of PreemptionPolicy ({policy}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
                given.policy
            )));
        }
        let spec = object::child_mut(pod, "spec");
        spec.insert("priority".into(), json!(given.priority));
        spec.insert("preemptionPolicy".into(), json!(given.policy));
        if !given.class.is_empty() {
            spec.insert("priorityClassName".into(), json!(given.class));
        }
        Ok(())
    }

    async fn validate(
        &self,
        request: &Attributes<'_>,
        class: Option<&Value>,
        _: Option<&Value>,
    ) -> Result<(), Status> {
        let call = request.call;
        let is_class = call.kind().group == "scheduling.k8s.io" && call.kind().plural == "priorityclasses";
        let Some(class) = class.filter(|class| is_class && is_default(class)) else { return Ok(()) };
        match default_class(request) {
            Some(other) if object::name(&other) != object::name(class) => {
                let name = object::name(&other);
                let why =
                    format!("PriorityClass {name} is already marked as default. Only one default can exist");
                Err(Status::forbidden(call.kind(), &call.name, &why))
            }
            _ => Ok(()),
        }
    }
}

/// What the class of that name gives; without a name, the default class.
fn given(request: &Attributes<'_>, name: &str) -> Result<Given, String> {
    let found = if name.is_empty() {
        default_class(request)
    } else {
        let call = request.call;
        let classes = call.catalogue.find("scheduling.k8s.io", "v1", "priorityclasses");
        let entry = classes.and_then(|classes| call.core.store.get(&classes.key("", name)));
        entry.map(|entry| object::parse_stored(entry.value()))
    };
    if let Some(class) = found {
        let policy = object::text(&class, "/preemptionPolicy");
        return Ok(Given {
            class: object::name(&class).to_owned(),
            priority: object::integer(&class, "/value").unwrap_or(0),
            policy: if policy.is_empty() { PREEMPTS.to_owned() } else { policy.to_owned() },
        });
    }
    let system = SYSTEM.iter().find(|(system, ..)| *system == name);
    let priority = match system {
        Some((_, priority, _)) => *priority,
        None if name.is_empty() => 0,
        None => return Err(format!("no PriorityClass with name {name} was found")),
    };
    Ok(Given { class: name.to_owned(), priority, policy: PREEMPTS.to_owned() })
}

fn is_default(class: &Value) -> bool {
    class.get("globalDefault").and_then(Value::as_bool) == Some(true)
}

/// The default class; of several, which only a race can make, the lowest.
fn default_class(request: &Attributes<'_>) -> Option<Value> {
    /// Whether a version of a class is the default: every pod asks, and classes hardly change.
    struct Default(bool);
    let classes = entries(request.call, ("scheduling.k8s.io", "v1", "priorityclasses"), "");
    let parse = |entry: &Entry| object::parse_stored(entry.value());
    let defaults = classes.iter().filter(|entry| entry.memo(|entry| Default(is_default(&parse(entry)))).0);
    defaults.map(|entry| parse(entry)).min_by_key(|class| object::integer(class, "/value").unwrap_or(0))
}

/// What a pod was given at its creation stays when an update leaves it out.
fn keep(pod: &mut Value, old: Option<&Value>) {
    let Some(old) = old.and_then(|old| old.get("spec")) else { return };
    let spec = object::child_mut(pod, "spec");
    for field in ["priority", "preemptionPolicy"] {
        let absent = spec.get(field).is_none_or(Value::is_null);
        if let Some(value) = old.get(field).filter(|_| absent) {
            spec.insert(field.to_owned(), value.clone());
        }
    }
}
