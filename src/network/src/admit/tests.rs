//! Who has an address, as policies know the pods of other nodes.

use serde_json::json;

use super::*;

fn pod(namespace: &str, name: &str, ip: &str, labels: Option<&str>) -> Pod {
    let labels = labels.map(|app| json!({ "app": app }));
    let object = json!({
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"containers": []},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    });
    serde_json::from_value(object).expect("a pod")
}

/// The label of whoever has the address.
fn app(policies: &Policies, ip: &str) -> Option<String> {
    let identity = policies.elsewhere(ip.parse().expect("an address"))?;
    Some(identity.labels.get("app").cloned().unwrap_or_default())
}

#[test]
fn labels_that_go_are_gone() {
    let policies = Policies::default();
    policies.apply_pod(&pod("ns", "p", "10.128.64.2", Some("web")));
    assert_eq!(app(&policies, "10.128.64.2").as_deref(), Some("web"));
    policies.apply_pod(&pod("ns", "p", "10.128.64.2", None));
    assert_eq!(app(&policies, "10.128.64.2").as_deref(), Some(""));
    policies.remove_pod("ns", "p");
    assert_eq!(app(&policies, "10.128.64.2"), None);
}

#[test]
fn what_is_heard_late_of_a_pod_leaves_the_next_one_with_its_address() {
    let ip = "10.128.64.2";
    let policies = Policies::default();
    policies.apply_pod(&pod("ns", "old", ip, Some("old")));
    policies.apply_pod(&pod("ns", "new", ip, Some("new")));
    policies.apply_pod(&pod("ns", "old", ip, Some("old and changed")));
    assert_eq!(app(&policies, ip).as_deref(), Some("new"));
    policies.apply_pod(&pod("ns", "old", ip, None));
    assert_eq!(app(&policies, ip).as_deref(), Some("new"));
    policies.remove_pod("ns", "old");
    assert_eq!(app(&policies, ip).as_deref(), Some("new"));
    policies.remove_pod("ns", "new");
    assert_eq!(app(&policies, ip), None);
}

#[test]
fn a_pod_that_ended_has_no_address() {
    let policies = Policies::default();
    let mut ended = pod("ns", "p", "10.128.64.2", Some("web"));
    policies.apply_pod(&ended);
    ended.status.as_mut().expect("it has one").phase = Some("Succeeded".to_owned());
    policies.apply_pod(&ended);
    assert_eq!(app(&policies, "10.128.64.2"), None);
    policies.apply_pod(&pod("ns", "q", "10.128.64.2", Some("other")));
    assert_eq!(app(&policies, "10.128.64.2").as_deref(), Some("other"));
}
