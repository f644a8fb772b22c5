//! ResourceQuotas: what the objects of a namespace may ask for together.
//!
//! A quota is charged before the object is stored, by a conditional write of `status.used`, so that two requests
//! cannot both take the last of it; if the object is not stored after all, the charge is given back. What is
//! freed by deletes and by pods that end is counted anew by the quota's controller.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use coracle_api::{
    Kind, Quantity,
    amounts::{self, Amounts},
    quota::{covers, usage},
    status::Status,
};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::{Attributes, Operation, stored};
use crate::{
    object,
    pipeline::{self, Call, Part, Update},
};

/// Namespaces that can be charged at the same time. Within one, charges take turns: they would only lose races
/// against one another.
const TURNS: usize = 64;

pub(super) struct Quotas {
    turns: [Mutex<()>; TURNS],
}

impl Default for Quotas {
    fn default() -> Quotas {
        Quotas { turns: std::array::from_fn(|_| Mutex::default()) }
    }
}

/// What was charged for an object that is not stored yet.
#[derive(Default)]
#[must_use = "what is not stored is given back"]
pub(crate) struct Charges(Vec<Charge>);

struct Charge {
    quota: Call,
    amounts: Amounts,
}

impl Quotas {
    /// Charges the quotas of the namespace for what `object` asks for beyond `old`.
    pub(super) async fn charge(
        &self,
        request: &Attributes<'_>,
        object: &Value,
        old: Option<&Value>,
    ) -> Result<Charges, Status> {
        let call = request.call;
        if !handles(request) {
            return Ok(Charges::default());
        }
        let listed = || stored(call, ("", "v1", "resourcequotas"), &call.namespace);
        if listed().is_empty() {
            return Ok(Charges::default());
        }
        let kind = call.kind();
        let (group, plural) = (&*kind.group, &*kind.plural);
        let mut delta = usage(group, plural, object);
        for (name, before) in old.map(|old| usage(group, plural, old)).unwrap_or_default() {
            let entry = delta.entry(name).or_insert(Quantity::ZERO);
            *entry = *entry - before;
        }
        let forbid = |why: String| Status::forbidden(kind, &call.name, &why);
        let mut hasher = DefaultHasher::new();
        call.namespace.hash(&mut hasher);
        let turn = usize::try_from(hasher.finish() % TURNS as u64).unwrap_or(0);
        let _turn = self.turns[turn].lock().await;

        let creates = request.operation == Operation::Create;
        let mut planned = Vec::new();
        for quota in listed().iter().filter(|quota| covers(quota, group, plural, object)) {
            let asked = asked_of(quota, &delta);
            if creates && is_pods(kind) {
                check_constraints(quota, object).map_err(forbid)?;
            }
            if asked.values().all(Quantity::is_zero) {
                continue;
            }
            check(quota, &asked).map_err(forbid)?;
            planned.push((object::name(quota).to_owned(), asked));
        }
        let mut charges = Charges::default();
        if call.dry_run {
            return Ok(charges);
        }
        for (name, amounts) in planned {
            let Some(quota) = quota_call(call, name) else { continue };
            let mut change = |quota: &Value| {
                check(quota, &amounts).map_err(forbid)?;
                Ok(charged(quota, &amounts, true))
            };
            let update = Update { part: Part::Status, change: &mut change };
            match Box::pin(pipeline::update(&quota, update)).await {
                Ok(_) => charges.0.push(Charge { quota, amounts }),
                // A quota that has just gone limits nothing.
                Err(status) if status.code() == 404 => {}
                Err(status) => {
                    refund(charges).await;
                    return Err(status);
                }
            }
        }
        Ok(charges)
    }
}

/// Gives back what was charged for an object that was not stored.
pub(super) async fn refund(charges: Charges) {
    for Charge { quota, amounts } in charges.0 {
        let mut change = |quota: &Value| Ok(charged(quota, &amounts, false));
        let update = Update { part: Part::Status, change: &mut change };
        if let Err(error) = Box::pin(pipeline::update(&quota, update)).await {
            // The quota's controller counts anew sooner or later.
            tracing::debug!(%error, quota = quota.name, "a charge could not be given back");
        }
    }
}

/// A call about a quota's status.
fn quota_call(call: &Call, name: String) -> Option<Call> {
    let resource = call.catalogue.find("", "v1", "resourcequotas")?.clone();
    Some(Call { resource, name, subresource: "status".to_owned(), ..call.clone() })
}

fn is_pods(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.plural == "pods"
}

/// True if the write can ask for more than before.
fn handles(request: &Attributes<'_>) -> bool {
    let call = request.call;
    if !call.resource.namespaced() || call.kind().plural == "events" {
        return false;
    }
    match (request.operation, call.subresource.as_str()) {
        (Operation::Create, "") => true,
        (Operation::Update, "") => request.is_core("services") || request.is_core("persistentvolumeclaims"),
        (Operation::Update, "resize") => is_pods(call.kind()),
        _ => false,
    }
}

/// What of a change the quota is about.
fn asked_of(quota: &Value, delta: &Amounts) -> Amounts {
    let hard = quota.pointer("/spec/hard").and_then(Value::as_object);
    let about = |name: &String| hard.is_some_and(|hard| hard.contains_key(name));
    delta.iter().filter(|(name, _)| about(name)).map(|(name, amount)| (name.clone(), *amount)).collect()
}

/// What a quota that limits a resource has every container say.
fn check_constraints(quota: &Value, pod: &Value) -> Result<(), String> {
    const CONSTRAINED: &[&str] =
        &["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];
    let hard = amounts::amounts(quota.pointer("/spec/hard"));
    let mut missing: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for container in ["containers", "initContainers"].iter().flat_map(|list| amounts::containers(pod, list)) {
        for name in CONSTRAINED.iter().filter(|name| hard.contains_key(**name)) {
            let (list, resource) = name.split_once('.').unwrap_or(("requests", name));
            let given = container.pointer(&format!("/resources/{list}/{resource}")).and_then(amounts::amount);
            if given.is_none() {
                missing.entry(name).or_default().insert(object::text(container, "/name").to_owned());
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let texts = missing.iter().map(|(resource, containers)| {
        let containers: Vec<&str> = containers.iter().map(String::as_str).collect();
        format!("{resource} for: {}", containers.join(","))
    });
    let texts = texts.collect::<Vec<_>>().join("; ");
    Err(format!("failed quota: {}: must specify {texts}", object::name(quota)))
}

/// Whether what is asked for fits beside what is used.
fn check(quota: &Value, asked: &Amounts) -> Result<(), String> {
    let name = object::name(quota);
    let used = amounts::amounts(quota.pointer("/status/used"));
    let hard = amounts::amounts(quota.pointer("/status/hard"));
    let unknown: Vec<&str> = asked
        .keys()
        .filter(|name| !used.contains_key(*name) || !hard.contains_key(*name))
        .map(String::as_str)
        .collect();
    if !unknown.is_empty() {
        return Err(format!("status unknown for quota: {name}, resources: {}", unknown.join(",")));
    }
    let exceeds = |(name, amount): &(&String, &Quantity)| {
        let zero = Quantity::ZERO;
        let limit = hard.get(*name).copied().unwrap_or(zero);
        **amount > zero && used.get(*name).copied().unwrap_or(zero) + **amount > limit
    };
    let over: Vec<(&String, &Quantity)> = asked.iter().filter(exceeds).collect();
    if over.is_empty() {
        return Ok(());
    }
    let of = |from: &Amounts| {
        let named = over.iter().filter_map(|(name, _)| from.get_key_value(*name));
        amounts::text(named)
    };
    Err(format!(
        "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
        of(asked),
        of(&used),
        of(&hard)
    ))
}

/// The quota with more used, or with less.
fn charged(quota: &Value, amounts: &Amounts, more: bool) -> Value {
    let mut used = amounts::amounts(quota.pointer("/status/used"));
    for (name, amount) in amounts {
        let entry = used.entry(name.clone()).or_insert(Quantity::ZERO);
        *entry = if more { *entry + *amount } else { *entry - *amount };
        if entry.is_negative() {
            *entry = Quantity::ZERO;
        }
    }
    let mut quota = quota.clone();
    let used: serde_json::Map<String, Value> =
        used.into_iter().map(|(name, amount)| (name, json!(amount.to_string()))).collect();
    object::child_mut(&mut quota, "status").insert("used".into(), Value::Object(used));
    quota
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(hard: &Value, used: &Value) -> Value {
        json!({"metadata": {"name": "q"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}})
    }

    fn pod() -> Value {
        let resources = json!({"requests": {"cpu": "500m", "x.io/gpu": "2"}, "limits": {"memory": "1Gi"}});
        json!({"spec": {"containers": [{"name": "a", "resources": resources}]}, "status": {"qosClass": "Burstable"}})
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let quota =
            quota(&json!({"pods": "2", "cpu": "1", "memory": "1Gi"}), &json!({"pods": "1", "cpu": "600m"}));
        let asked = asked_of(&quota, &usage("", "pods", &pod()));
        assert_eq!(amounts::text(asked.iter()), "cpu=500m,pods=1");
        assert_eq!(
            check(&quota, &asked),
            Err("exceeded quota: q, requested: cpu=500m, used: cpu=600m, limited: cpu=1".into())
        );
        let less = Amounts::from([("cpu".to_owned(), "400m".parse().unwrap())]);
        assert_eq!(check(&quota, &less), Ok(()));
        assert_eq!(charged(&quota, &less, true)["status"]["used"], json!({"pods": "1", "cpu": "1"}));
        assert_eq!(charged(&quota, &less, false)["status"]["used"], json!({"pods": "1", "cpu": "200m"}));
        let memory = Amounts::from([("memory".to_owned(), "1".parse().unwrap())]);
        assert_eq!(check(&quota, &memory), Err("status unknown for quota: q, resources: memory".into()));
    }

    #[test]
    fn a_limited_resource_has_to_be_said() {
        let quota =
            quota(&json!({"limits.cpu": "1", "requests.memory": "1", "limits.memory": "1"}), &json!({}));
        assert_eq!(
            check_constraints(&quota, &pod()),
            Err("failed quota: q: must specify limits.cpu for: a; requests.memory for: a".into())
        );
    }
}
