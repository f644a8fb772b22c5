//! What a quota's status is to say, and what of it may be said already.

use std::collections::{BTreeMap, BTreeSet};

use coracle_api::{
    Quantity,
    amounts::{self, Amounts},
    quota,
};
use k8s_openapi::{
    api::core::v1::{ResourceQuota, ResourceQuotaStatus},
    apimachinery::pkg::api::resource::Quantity as Text,
};
use serde_json::Value;

/// A kind by its group and its plural name.
pub(super) type KindName = (String, String);

/// What there is of one kind in the quota's namespace.
#[derive(Debug)]
pub(super) enum Found {
    /// So many.
    Count(usize),
    /// These, as the API shows them.
    Objects(Vec<Value>),
}

/// The names of what is limited, by the kind that counts for them. What nothing counts for is left out.
pub(super) fn wanted(quota: &ResourceQuota) -> BTreeMap<KindName, BTreeSet<String>> {
    let mut wanted: BTreeMap<KindName, BTreeSet<String>> = BTreeMap::new();
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    for name in hard.into_iter().flat_map(BTreeMap::keys) {
        if let Some((group, plural)) = quota::counted_by(name) {
            wanted.entry((group.to_owned(), plural.to_owned())).or_default().insert(name.clone());
        }
    }
    wanted
}

/// True if it is not enough to know how many objects there are.
pub(super) fn needs_objects(quota: &ResourceQuota, names: &BTreeSet<String>) -> bool {
    let spec = quota.spec.as_ref();
    let scoped = spec.is_some_and(|spec| spec.scopes.is_some() || spec.scope_selector.is_some());
    let plain = |name: &String| {
        name.starts_with("count/")
            || matches!(name.as_str(), "configmaps" | "replicationcontrollers" | "resourcequotas" | "secrets")
    };
    scoped || !names.iter().all(plain)
}

/// What is used of the `names` that a kind counts for.
pub(super) fn used(quota: &Value, kind: &KindName, names: &BTreeSet<String>, found: &Found) -> Amounts {
    let mut used: Amounts = names.iter().map(|name| (name.clone(), Quantity::ZERO)).collect();
    let (group, plural) = (kind.0.as_str(), kind.1.as_str());
    match found {
        // Scopes, which are about pods alone, leave the other kinds out whatever their objects are.
        Found::Count(count) if quota::covers(quota, group, plural, &Value::Null) => {
            used.values_mut().for_each(|amount| *amount = quota::count(*count));
        }
        Found::Count(_) => {}
        Found::Objects(objects) => {
            for object in objects.iter().filter(|object| quota::covers(quota, group, plural, object)) {
                for (name, more) in quota::usage(group, plural, object) {
                    if let Some(amount) = used.get_mut(&name) {
                        *amount = *amount + more;
                    }
                }
            }
        }
    }
    used
}

/// The status that a quota is to have.
#[derive(Debug)]
pub(super) struct Plan {
    /// What is to be written; `None` if that is what it says already.
    pub(super) status: Option<ResourceQuotaStatus>,
    /// Something is freed that may not be said yet.
    pub(super) later: bool,
}

/// What to write, given what was counted.
///
/// Admission charges a quota shortly before the object is stored, and caches show the object a little later
/// still. Until it is `settled` that everything charged by a name was counted, its amount does not go down.
pub(super) fn plan(quota: &ResourceQuota, counted: &Amounts, settled: impl Fn(&str) -> bool) -> Plan {
    let told = quota.status.as_ref().and_then(|status| status.used.clone()).unwrap_or_default();
    let parse = |text: &Text| text.0.parse::<Quantity>().ok();
    let mut later = false;
    let mut used = BTreeMap::new();
    for (name, amount) in counted {
        let before = told.get(name);
        let text = match before.and_then(parse) {
            Some(known) if known == *amount => before.cloned(),
            Some(known) if known > *amount && !settled(name) => {
                later = true;
                before.cloned()
            }
            _ => None,
        };
        used.insert(name.clone(), text.unwrap_or_else(|| Text(amount.to_string())));
    }
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default();
    let same = quota.status.as_ref().is_some_and(|status| {
        status.hard.as_ref().is_some_and(|known| same_amounts(known, &hard)) && told == used
    });
    let status = (!same).then_some(ResourceQuotaStatus { hard: Some(hard), used: Some(used) });
    Plan { status, later }
}

/// True if the API says the same by both, whatever the notation.
fn same_amounts(one: &BTreeMap<String, Text>, other: &BTreeMap<String, Text>) -> bool {
    let amounts = |list: &BTreeMap<String, Text>| {
        let texts = list.iter().map(|(name, text)| (name.clone(), Value::String(text.0.clone())));
        amounts::amounts(Some(&Value::Object(texts.collect())))
    };
    one.len() == other.len() && amounts(one) == amounts(other)
}
