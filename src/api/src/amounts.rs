//! Lists of amounts, and what pods ask for, summed as the scheduler sums it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::Quantity;

/// Amounts by the name of their resource.
pub type Amounts = BTreeMap<String, Quantity>;

/// A list of amounts, e.g. `resources.requests`. What is no amount counts as none.
pub fn amounts(value: Option<&Value>) -> Amounts {
    let map = value.and_then(Value::as_object).into_iter().flatten();
    map.filter_map(|(name, value)| Some((name.clone(), amount(value)?))).collect()
}

/// One amount, as text or as a number.
pub fn amount(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

/// Adds `more` to `sum`.
pub fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let entry = sum.entry(name.clone()).or_insert(Quantity::ZERO);
        *entry = *entry + *amount;
    }
}

/// Raises `highest` to `other` where that is more.
fn raise(highest: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let entry = highest.entry(name.clone()).or_insert(*amount);
        *entry = (*entry).max(*amount);
    }
}

/// The containers of one list of a pod's spec.
pub fn containers<'a>(pod: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    pod.pointer(&format!("/spec/{list}")).and_then(Value::as_array).into_iter().flatten()
}

/// What a pod needs of everything in `list` (`requests` or `limits`): its containers and sidecars together, or
/// what its most demanding init container needs beside the sidecars that run by then, and its overhead.
pub fn of_pod(pod: &Value, list: &str) -> Amounts {
    let of = |container: &Value| amounts(container.pointer(&format!("/resources/{list}")));
    let mut sum = Amounts::new();
    for container in containers(pod, "containers") {
        add(&mut sum, &of(container));
    }
    let (mut sidecars, mut highest) = (Amounts::new(), Amounts::new());
    for container in containers(pod, "initContainers") {
        let own = of(container);
        let mut running = sidecars.clone();
        add(&mut running, &own);
        if container.get("restartPolicy").and_then(Value::as_str) == Some("Always") {
            sidecars.clone_from(&running);
        }
        raise(&mut highest, &running);
    }
    add(&mut sum, &sidecars);
    raise(&mut sum, &highest);
    for (name, overhead) in amounts(pod.pointer("/spec/overhead")) {
        if list == "requests" || sum.contains_key(&name) {
            add(&mut sum, &Amounts::from([(name, overhead)]));
        }
    }
    sum
}

/// `cpu=1,memory=2Gi`.
pub fn text<'a>(amounts: impl Iterator<Item = (&'a String, &'a Quantity)>) -> String {
    amounts.map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn init_containers_count_where_they_need_more() {
        let container = |cpu: &str, policy: &str| json!({"resources": {"requests": {"cpu": cpu}}, "restartPolicy": policy});
        let pod = json!({"spec": {
            "containers": [container("1", ""), container("500m", "")],
            "initContainers": [container("100m", "Always"), container("2", ""), container("200m", "Always")],
            "overhead": {"cpu": "10m", "memory": "1Mi"},
        }});
        let requests = of_pod(&pod, "requests");
        assert_eq!(text(requests.iter()), "cpu=2110m,memory=1Mi");
        assert_eq!(of_pod(&pod, "limits"), Amounts::new());
    }
}
