//! What objects count for in the eyes of a ResourceQuota: the same for the admission that charges quotas and for
//! the controller that counts anew.

use serde_json::Value;

use crate::{
    Quantity,
    amounts::{self, Amounts},
    quantity::Format,
};

/// What ends the names of what claims of one storage class may have.
const CLASS: &str = "storageclass.storage.k8s.io";

/// The kind whose objects count for the resource `name`, as group and plural; `None` if no kind's do.
///
/// Guarantee: what [`usage`] says of an object has names of the object's kind only.
pub fn counted_by(name: &str) -> Option<(&str, &str)> {
    if let Some(resource) = name.strip_prefix("count/") {
        let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
        return Some((group, plural));
    }
    let plural = match name {
        "configmaps" | "replicationcontrollers" | "resourcequotas" | "secrets" => name,
        "services" | "services.nodeports" | "services.loadbalancers" => "services",
        "persistentvolumeclaims" | "requests.storage" => "persistentvolumeclaims",
        "pods" | "cpu" | "memory" | "ephemeral-storage" => "pods",
        _ if of_class(name).is_some() => "persistentvolumeclaims",
        _ if ["hugepages-", "requests.", "limits."].iter().any(|start| name.starts_with(start)) => "pods",
        _ => return None,
    };
    Some(("", plural))
}

/// The storage class in a name such as `fast.storageclass.storage.k8s.io/requests.storage`.
fn of_class(name: &str) -> Option<&str> {
    let (domain, resource) = name.split_once('/')?;
    let known = matches!(resource, "persistentvolumeclaims" | "requests.storage");
    domain.strip_suffix(CLASS)?.strip_suffix('.').filter(|_| known)
}

/// The name under which every object of a kind counts: `count/pods`, `count/jobs.batch`.
pub fn count_name(group: &str, plural: &str) -> String {
    if group.is_empty() { format!("count/{plural}") } else { format!("count/{plural}.{group}") }
}

fn one(name: impl Into<String>) -> (String, Quantity) {
    (name.into(), count(1))
}

/// So many things.
pub fn count(number: usize) -> Quantity {
    Quantity::units(i64::try_from(number).unwrap_or(i64::MAX), Format::DecimalSi)
}

/// What an object counts for, by the names that quotas know.
pub fn usage(group: &str, plural: &str, object: &Value) -> Amounts {
    let mut usage = Amounts::from([one(count_name(group, plural))]);
    if !group.is_empty() {
        return usage;
    }
    match plural {
        "pods" => usage.extend(pod_usage(object)),
        "services" => usage.extend(service_usage(object)),
        "persistentvolumeclaims" => usage.extend(claim_usage(object)),
        plural @ ("configmaps" | "replicationcontrollers" | "resourcequotas" | "secrets") => {
            usage.extend([one(plural)]);
        }
        _ => {}
    }
    usage
}

fn pod_usage(pod: &Value) -> Amounts {
    if matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
        return Amounts::new();
    }
    let mut usage = Amounts::from([one("pods")]);
    for (name, amount) in amounts::of_pod(pod, "requests") {
        let plain =
            matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
        if plain {
            usage.insert(name.clone(), amount);
        }
        usage.insert(format!("requests.{name}"), amount);
    }
    for (name, amount) in amounts::of_pod(pod, "limits") {
        usage.insert(format!("limits.{name}"), amount);
    }
    usage
}

fn service_usage(service: &Value) -> Amounts {
    let mut usage = Amounts::from([one("services")]);
    let ports = service.pointer("/spec/ports").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let given = ports.iter().filter(|port| integer(port, "/nodePort").unwrap_or(0) != 0).count();
    let allocates = service.pointer("/spec/allocateLoadBalancerNodePorts").and_then(Value::as_bool);
    let node_ports = match text(service, "/spec/type") {
        "NodePort" => ports.len(),
        "LoadBalancer" if allocates != Some(false) => ports.len(),
        "LoadBalancer" => given,
        _ => 0,
    };
    let balancers = usize::from(text(service, "/spec/type") == "LoadBalancer");
    usage.insert("services.nodeports".into(), count(node_ports));
    usage.insert("services.loadbalancers".into(), count(balancers));
    usage
}

fn claim_usage(claim: &Value) -> Amounts {
    let mut usage = Amounts::from([one("persistentvolumeclaims")]);
    let class = text(claim, "/spec/storageClassName");
    if !class.is_empty() {
        usage.extend([one(format!("{class}.{CLASS}/persistentvolumeclaims"))]);
    }
    if let Some(storage) = claim.pointer("/spec/resources/requests/storage").and_then(amounts::amount) {
        usage.insert("requests.storage".into(), storage);
        if !class.is_empty() {
            usage.insert(format!("{class}.{CLASS}/requests.storage"), storage);
        }
    }
    usage
}

/// The scopes of a quota: scope, operator, values.
fn scopes(quota: &Value) -> Vec<(&str, &str, Vec<&str>)> {
    let plain = quota.pointer("/spec/scopes").and_then(Value::as_array).into_iter().flatten();
    let plain = plain.filter_map(Value::as_str).map(|scope| (scope, "Exists", Vec::new()));
    let selected = quota.pointer("/spec/scopeSelector/matchExpressions").and_then(Value::as_array);
    let selected = selected.into_iter().flatten().map(|expression| {
        let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
        let values = values.filter_map(Value::as_str).collect();
        (text(expression, "/scopeName"), text(expression, "/operator"), values)
    });
    plain.chain(selected).collect()
}

/// True if the quota is about this object. Scopes are about pods.
pub fn covers(quota: &Value, group: &str, plural: &str, object: &Value) -> bool {
    let pods = group.is_empty() && plural == "pods";
    scopes(quota).iter().all(|(scope, operator, values)| pods && in_scope(object, scope, operator, values))
}

fn in_scope(pod: &Value, scope: &str, operator: &str, values: &[&str]) -> bool {
    let deadline = integer(pod, "/spec/activeDeadlineSeconds").is_some_and(|seconds| seconds >= 0);
    let best_effort = text(pod, "/status/qosClass") == "BestEffort";
    match scope {
        "Terminating" => deadline,
        "NotTerminating" => !deadline,
        "BestEffort" => best_effort,
        "NotBestEffort" => !best_effort,
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        "PriorityClass" => {
            let class = text(pod, "/spec/priorityClassName");
            match operator {
                "In" => values.contains(&class),
                "NotIn" => !values.contains(&class),
                "DoesNotExist" => class.is_empty(),
                _ => !class.is_empty(),
            }
        }
        _ => false,
    }
}

/// True if a term of the pod's affinity looks at other namespaces.
fn crosses_namespaces(pod: &Value) -> bool {
    const LISTS: &[&str] = &[
        "requiredDuringSchedulingIgnoredDuringExecution",
        "preferredDuringSchedulingIgnoredDuringExecution",
    ];
    ["podAffinity", "podAntiAffinity"].iter().any(|sort| {
        LISTS.iter().any(|list| {
            let terms = pod.pointer(&format!("/spec/affinity/{sort}/{list}")).and_then(Value::as_array);
            terms.into_iter().flatten().any(|term| {
                let term = term.get("podAffinityTerm").unwrap_or(term);
                let named = term.get("namespaces").and_then(Value::as_array);
                named.is_some_and(|list| !list.is_empty())
                    || term.get("namespaceSelector").is_some_and(|selector| !selector.is_null())
            })
        })
    })
}

/// A whole number somewhere in the object.
fn integer(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer).and_then(Value::as_i64)
}

/// A text somewhere in the object; empty if it is missing.
fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Value {
        let resources = json!({"requests": {"cpu": "500m", "x.io/gpu": "2"}, "limits": {"memory": "1Gi"}});
        json!({"spec": {"containers": [{"name": "a", "resources": resources}]}, "status": {"qosClass": "Burstable"}})
    }

    #[test]
    fn objects_count_by_the_names_of_quotas() {
        let text = |plural: &str, object: Value| {
            let usage = usage("", plural, &object);
            assert!(usage.keys().all(|name| counted_by(name) == Some(("", plural))), "{usage:?}");
            amounts::text(usage.iter())
        };
        assert_eq!(
            text("pods", pod()),
            "count/pods=1,cpu=500m,limits.memory=1Gi,pods=1,requests.cpu=500m,requests.x.io/gpu=2"
        );
        let mut over = pod();
        over["status"]["phase"] = json!("Succeeded");
        assert_eq!(text("pods", over), "count/pods=1");
        let service = |spec: Value| text("services", json!({"spec": spec}));
        let ports = json!([{"port": 1}, {"port": 2}]);
        assert_eq!(
            service(json!({"type": "LoadBalancer", "ports": ports})),
            "count/services=1,services=1,services.loadbalancers=1,services.nodeports=2"
        );
        assert_eq!(
            service(json!({"type": "ClusterIP", "ports": ports})),
            "count/services=1,services=1,services.loadbalancers=0,services.nodeports=0"
        );
        let claim =
            json!({"spec": {"storageClassName": "local", "resources": {"requests": {"storage": "1Gi"}}}});
        assert_eq!(
            text("persistentvolumeclaims", claim),
            "count/persistentvolumeclaims=1,local.storageclass.storage.k8s.io/persistentvolumeclaims=1,\
             local.storageclass.storage.k8s.io/requests.storage=1Gi,persistentvolumeclaims=1,requests.storage=1Gi"
        );
        assert_eq!(text("configmaps", json!({})), "configmaps=1,count/configmaps=1");
    }

    #[test]
    fn scopes_choose_pods() {
        let check = |spec: Value| covers(&json!({"spec": spec}), "", "pods", &pod());
        assert!(check(json!({})));
        assert!(check(json!({"scopes": ["NotTerminating", "NotBestEffort"]})));
        assert!(!check(json!({"scopes": ["BestEffort"]})));
        let class = |operator: &str| {
            let expression = json!({"scopeName": "PriorityClass", "operator": operator, "values": ["high"]});
            check(json!({"scopeSelector": {"matchExpressions": [expression]}}))
        };
        assert!(!class("In") && class("NotIn") && !class("Exists") && class("DoesNotExist"));
        assert!(!covers(&json!({"spec": {"scopes": ["NotTerminating"]}}), "", "secrets", &json!({})));
    }

    #[test]
    fn names_tell_what_counts() {
        #[track_caller]
        fn check(name: &str, expected: Option<(&str, &str)>) {
            assert_eq!(counted_by(name), expected, "{name}");
        }
        check("count/jobs.batch", Some(("batch", "jobs")));
        check("count/leases.coordination.k8s.io", Some(("coordination.k8s.io", "leases")));
        check("count/pods", Some(("", "pods")));
        check("requests.x.io/gpu", Some(("", "pods")));
        check("limits.cpu", Some(("", "pods")));
        check("hugepages-2Mi", Some(("", "pods")));
        check("services.nodeports", Some(("", "services")));
        check("requests.storage", Some(("", "persistentvolumeclaims")));
        check("fast.storageclass.storage.k8s.io/requests.storage", Some(("", "persistentvolumeclaims")));
        check("fast.storageclass.storage.k8s.io/limits.storage", None);
        check("secrets", Some(("", "secrets")));
        check("example.com/nothing", None);
    }
}
