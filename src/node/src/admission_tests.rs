//! Tables of what the node takes.

use serde_json::{Value, json};

use super::*;

fn pod(spec: &Value) -> Pod {
    let metadata = json!({"name": "p", "namespace": "n", "uid": "new"});
    serde_json::from_value(
        json!({"metadata": metadata, "spec": spec, "status": {"qosClass": spec["qosClass"]}}),
    )
    .unwrap()
}

fn requesting(requests: &Value) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": requests}}]})
}

/// A node of two CPUs, 1000 bytes and three pods; `fields` are put over its object.
fn node(fields: &Value) -> Node {
    let mut object = json!({
        "metadata": {"labels": {"disk": "hdd"}}, "spec": {},
        "status": {
            "allocatable": {
                "cpu": "2", "memory": "1000", "ephemeral-storage": "500", "pods": "3", "example.com/lamp": "1",
            },
            "conditions": [],
        },
    });
    for (pointer, value) in fields.as_object().into_iter().flatten() {
        *object.pointer_mut(pointer).unwrap() = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

/// One pod runs already: half a CPU, 400 bytes, the lamp, port 80 of one address.
fn admissions() -> Admissions {
    let admissions = Admissions::default();
    let mut there = requesting(&json!({"cpu": "500m", "memory": "400", "example.com/lamp": "1"}));
    there["containers"][0]["ports"] = json!([{"containerPort": 1, "hostPort": 80, "hostIP": "127.0.0.1"}]);
    admissions.keep("there", &pod(&there));
    admissions
}

#[track_caller]
fn check_on(fields: &Value, spec: &Value, expected: &str) {
    let node = node(fields);
    let facts = NodeFacts::new("n1", Some(&node), &Allocatable::default(), 0);
    let said = match admissions().admit("new", &pod(spec), &facts) {
        Ok(()) => "runs".to_owned(),
        Err(refusal) => format!("{}: {}", refusal.reason, refusal.message),
    };
    assert_eq!(said, expected);
}

#[track_caller]
fn check(spec: &Value, expected: &str) {
    check_on(&json!({}), spec, expected);
}

#[test]
fn a_pod_that_asks_for_more_than_is_left_is_refused() {
    check(&requesting(&json!({"cpu": "1500m", "memory": "600", "ephemeral-storage": "500"})), "runs");
    check(
        &requesting(&json!({"cpu": "1000"})),
        "OutOfcpu: Node didn't have enough resource: cpu, requested: 1000000, used: 500, capacity: 2000",
    );
    check(
        &requesting(&json!({"memory": "601"})),
        "OutOfmemory: Node didn't have enough resource: memory, requested: 601, used: 400, capacity: 1000",
    );
    check(
        &requesting(&json!({"ephemeral-storage": "501"})),
        "OutOfephemeral-storage: Node didn't have enough resource: ephemeral-storage, requested: 501, used: 0, \
         capacity: 500",
    );
    check(
        &requesting(&json!({"example.com/lamp": "1"})),
        "OutOfexample.com/lamp: Node didn't have enough resource: example.com/lamp, requested: 1, used: 1, capacity: 1",
    );
    check(&requesting(&json!({"example.com/unknown": "1"})), "runs");
    check_on(
        &json!({"/status/allocatable/pods": "1"}),
        &requesting(&json!({})),
        "OutOfpods: Node didn't have enough resource: pods, requested: 1, used: 1, capacity: 1",
    );
}

#[test]
fn a_pod_that_asks_for_another_node_is_refused() {
    const NO: &str =
        "NodeAffinity: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
    check(&json!({"containers": [], "nodeSelector": {"disk": "hdd"}}), "runs");
    check(&json!({"containers": [], "nodeSelector": {"disk": "ssd"}}), NO);
    let term = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]});
    let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}});
    check(&json!({"containers": [], "affinity": {"nodeAffinity": required}}), NO);
}

#[test]
fn a_port_of_the_node_is_one_pods() {
    let wanting = |port: Value| json!({"containers": [{"name": "c", "ports": [port]}]});
    const NO: &str =
        "NodePorts: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
    check(&wanting(json!({"containerPort": 1, "hostPort": 81})), "runs");
    check(&wanting(json!({"containerPort": 1, "hostPort": 80})), NO);
    check(&wanting(json!({"containerPort": 1, "hostPort": 80, "protocol": "UDP"})), "runs");
    check(&wanting(json!({"containerPort": 1, "hostPort": 80, "hostIP": "127.0.0.2"})), "runs");
}

#[test]
fn taints_that_drive_pods_out_keep_them_out() {
    let tainted = |effect: &str| json!({"/spec": {"taints": [{"key": "k", "effect": effect}]}});
    let tolerant = json!({"containers": [], "tolerations": [{"operator": "Exists"}]});
    check_on(
        &tainted("NoExecute"),
        &json!({"containers": []}),
        "TaintToleration: Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
    );
    check_on(&tainted("NoExecute"), &tolerant, "runs");
    check_on(&tainted("NoSchedule"), &json!({"containers": []}), "runs");
}

#[test]
fn a_node_under_pressure_takes_what_matters() {
    let short = |name: &str| json!({"/status/conditions": [{"type": name, "status": "True"}]});
    let best_effort = json!({"containers": [], "qosClass": "BestEffort"});
    let burstable = json!({"containers": [], "qosClass": "Burstable"});
    let critical = json!({"containers": [], "priority": CRITICAL});
    check_on(&short("DiskPressure"), &burstable, "Evicted: The node had condition: [DiskPressure]. ");
    check_on(&short("DiskPressure"), &critical, "runs");
    check_on(&short("MemoryPressure"), &best_effort, "Evicted: The node had condition: [MemoryPressure]. ");
    check_on(&short("MemoryPressure"), &burstable, "runs");
    let mut tolerant = best_effort;
    tolerant["tolerations"] = json!([{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}]);
    check_on(&short("MemoryPressure"), &tolerant, "runs");
    check_on(&short("DiskPressure"), &tolerant, "Evicted: The node had condition: [DiskPressure]. ");
}

#[test]
fn without_an_object_the_machine_counts() {
    let own = Allocatable { cpu_milli: 500, memory: 1, ephemeral_storage: 1 };
    let facts = NodeFacts::new("n1", None, &own, 1);
    let selecting = json!({"containers": [], "nodeSelector": {"disk": "ssd"}});
    let admissions = Admissions::default();
    assert!(admissions.admit("a", &pod(&requesting(&json!({"cpu": "501m"}))), &facts).is_err());
    assert_eq!(admissions.admit("b", &pod(&selecting), &facts), Ok(()));
    assert!(admissions.admit("c", &pod(&json!({"containers": []})), &facts).is_err(), "one pod is all");
}

#[test]
fn a_resize_is_granted_deferred_or_never_to_be() {
    #[track_caller]
    fn check(requests: &Value, expected: &str) {
        let node = node(&json!({}));
        let facts = NodeFacts::new("n1", Some(&node), &Allocatable::default(), 0);
        let admissions = admissions();
        admissions.admit("new", &pod(&requesting(&json!({"cpu": "100m"}))), &facts).unwrap();
        let said = match admissions.resize("new", &pod(&requesting(requests)), &facts) {
            Ok(()) => "granted".to_owned(),
            Err(denial) => format!("{}: {}", denial.reason, denial.message),
        };
        assert_eq!(said, expected);
        let granted = if said == "granted" { 1500 } else { 100 };
        assert_eq!(admissions.book.lock().sum.cpu, 500 + granted, "what it has is its own");
    }
    check(&json!({"cpu": "1500m"}), "granted");
    check(
        &json!({"cpu": "1501m"}),
        "Deferred: Node didn't have enough resource: cpu, requested: 1501, used: 500, capacity: 2000",
    );
    check(
        &json!({"cpu": "1000"}),
        "Infeasible: Node didn't have enough capacity: cpu, requested: 1000000, capacity: 2000",
    );
    check(
        &json!({"cpu": "1000", "memory": "1001"}),
        "Infeasible: Node didn't have enough capacity: memory, requested: 1001, capacity: 1000",
    );
}

#[test]
fn what_is_given_back_is_told_and_free() {
    let node = node(&json!({}));
    let facts = NodeFacts::new("n1", Some(&node), &Allocatable::default(), 0);
    let admissions = admissions();
    let whole = pod(&requesting(&json!({"cpu": "2"})));
    assert!(admissions.admit("new", &whole, &facts).is_err());
    let freed = admissions.freed();
    admissions.release("unknown");
    assert!(!freed.has_changed().unwrap());
    admissions.release("there");
    assert!(freed.has_changed().unwrap());
    assert_eq!(admissions.admit("new", &whole, &facts), Ok(()));
}

/// A node on which pods run (priority, class, CPU in thousandths, host port), and a new one of this priority that wants
/// 1.5 CPUs and port 80: what becomes of it, and who goes.
#[track_caller]
fn check_preemption(there: &[(i32, &str, i64, u16)], fields: &Value, priority: i32, expected: &str) {
    let spec = |priority: i32, class: &str, cpu: i64, port: u16| {
        let mut spec = requesting(&json!({"cpu": format!("{cpu}m")}));
        (spec["priority"], spec["qosClass"]) = (priority.into(), class.into());
        spec["containers"][0]["ports"] = json!([{"containerPort": 1, "hostPort": port}]);
        pod(&spec)
    };
    let admissions = Admissions::default();
    for (number, (priority, class, cpu, port)) in there.iter().enumerate() {
        admissions.keep(&number.to_string(), &spec(*priority, class, *cpu, *port));
    }
    let before = admissions.book.lock().sum.cpu;
    let object = node(fields);
    let facts = NodeFacts::new("n1", Some(&object), &Allocatable::default(), 0);
    let new = spec(priority, "Burstable", 1_500, 80);
    let said = match admissions.admit_or_preempt("new", &new, &facts) {
        Ok(victims) => {
            assert!(
                admissions.admit("late", &spec(0, "Burstable", 1_500, 90), &facts).is_err(),
                "it is given"
            );
            format!("for {}", victims.join(", "))
        }
        Err(refusal) => {
            assert_eq!(admissions.book.lock().sum.cpu, before, "nobody goes in vain");
            format!("{}: {}", refusal.reason, refusal.message)
        }
    };
    assert_eq!(said, expected);
}

#[test]
fn others_go_for_a_critical_pod() {
    let none = json!({});
    let two = [(0, "Burstable", 500, 1), (0, "Guaranteed", 1_000, 2)];
    check_preemption(&two, &none, CRITICAL, "for 1");
    check_preemption(&[(0, "Burstable", 500, 1)], &none, CRITICAL, "for ");
    check_preemption(
        &two,
        &none,
        CRITICAL - 1,
        "OutOfcpu: Node didn't have enough resource: cpu, requested: 1500, used: 1500, capacity: 2000",
    );
    check_preemption(&[(CRITICAL, "Guaranteed", 1_500, 1)], &none, CRITICAL + 1, "for 0");
    check_preemption(
        &[(CRITICAL, "Guaranteed", 1_500, 1), (0, "BestEffort", 0, 2)],
        &none,
        CRITICAL,
        "UnexpectedAdmissionError: Unexpected error while attempting to recover from admission failure: preemption: \
         error finding a set of pods to preempt: no set of running pods found to reclaim resources: [(res: cpu, q: 1000), ]",
    );
    // Of pods there may be three.
    let three = [(0, "BestEffort", 0, 1), (5, "BestEffort", 0, 2), (CRITICAL, "BestEffort", 0, 3)];
    check_preemption(&three, &none, CRITICAL, "for 0");
    // Only resources are taken from others.
    check_preemption(
        &[(0, "Guaranteed", 1_500, 80)],
        &none,
        CRITICAL,
        "NodePorts: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
    );
    check_preemption(
        &two,
        &json!({"/spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}}),
        CRITICAL,
        "TaintToleration: Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
    );
}
