//! What `kubectl get` prints: the row of an object, cells joined by ` | `.

use super::*;

#[track_caller]
pub(super) fn check(name: &str, patch: Value, want: &str) {
    let kind = kind(name);
    let object = changed(kind, &patch);
    let cells = kind.hooks.row(&object, now());
    let texts: Vec<String> = cells
        .iter()
        .map(|cell| match cell {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
        .collect();
    assert_eq!(texts.join(" | "), want);
}

/// The headings of the narrow table, and those that the wide one adds.
#[track_caller]
pub(super) fn check_headings(name: &str, narrow: &str, wide: &str) {
    let columns = kind(name).hooks.columns();
    let of = |priority: i32| -> String {
        let names: Vec<&str> =
            columns.iter().filter(|column| column.priority == priority).map(|column| &*column.name).collect();
        names.join(" | ")
    };
    assert_eq!((of(0).as_str(), of(1).as_str()), (narrow, wide));
}

#[test]
fn headings() {
    let check = check_headings;
    check("pods", "Name | Ready | Status | Restarts | Age", "IP | Node | Nominated Node | Readiness Gates");
    check(
        "nodes",
        "Name | Status | Roles | Age | Version",
        "Internal-IP | External-IP | OS-Image | Kernel-Version | Container-Runtime",
    );
    check("services", "Name | Type | Cluster-IP | External-IP | Port(s) | Age", "Selector");
    check(
        "replicationcontrollers",
        "Name | Desired | Current | Ready | Age",
        "Containers | Images | Selector",
    );
    check(
        "events",
        "Last Seen | Type | Reason | Object | Message",
        "Subobject | Source | First Seen | Count | Name",
    );
    check("endpoints", "Name | Endpoints | Age", "");
    check("discovery.k8s.io/endpointslices", "Name | AddressType | Ports | Endpoints | Age", "");
    check("configmaps", "Name | Data | Age", "");
    check("secrets", "Name | Type | Data | Age", "");
    check("serviceaccounts", "Name | Secrets | Age", "");
    check("namespaces", "Name | Status | Age", "");
    check("coordination.k8s.io/leases", "Name | Holder | Age", "");
}

/// Ready, status and restarts of a pod with one container, or as `spec` and `status` say.
#[track_caller]
fn check_pod(patch: Value, want: &str) {
    let kind = kind("pods");
    let row = kind.hooks.row(&changed(kind, &patch), now());
    let texts: Vec<&str> = row[1..4].iter().map(|cell| cell.as_str().unwrap()).collect();
    assert_eq!(texts.join(" | "), want);
}

fn one(container: Value) -> Value {
    json!({"status": {"phase": "Running", "containerStatuses": [container]}})
}

#[test]
fn pods_by_the_state_of_their_containers() {
    check_pod(json!({"status": {"phase": "Pending"}}), "0/1 | Pending | 0");
    check_pod(one(json!({"ready": true, "state": {"running": {}}})), "1/1 | Running | 0");
    check_pod(one(json!({"ready": false, "state": {"running": {}}})), "0/1 | Running | 0");
    check_pod(
        one(json!({"state": {"waiting": {"reason": "ContainerCreating"}}})),
        "0/1 | ContainerCreating | 0",
    );
    check_pod(one(json!({"state": {"waiting": {"reason": "ErrImagePull"}}})), "0/1 | ErrImagePull | 0");
    check_pod(one(json!({"state": {"terminated": {"reason": "Error", "exitCode": 1}}})), "0/1 | Error | 0");
    check_pod(one(json!({"state": {"terminated": {"exitCode": 3}}})), "0/1 | ExitCode:3 | 0");
    check_pod(one(json!({"state": {"terminated": {"exitCode": 137, "signal": 9}}})), "0/1 | Signal:9 | 0");
    check_pod(
        one(json!({"state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}})),
        "0/1 | OOMKilled | 0",
    );
    let restarted = json!({
        "ready": true, "restartCount": 3, "state": {"running": {}},
        "lastState": {"terminated": {"finishedAt": "2026-01-01T11:55:00Z"}},
    });
    check_pod(one(restarted), "1/1 | Running | 3 (5m ago)");
    let backing_off = json!({
        "restartCount": 5, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"finishedAt": "2026-01-01T11:59:30Z"}},
    });
    check_pod(one(backing_off), "0/1 | CrashLoopBackOff | 5 (30s ago)");
}

#[test]
fn pods_by_their_own_state() {
    check_pod(json!({"status": {"phase": "Failed", "reason": "Evicted"}}), "0/1 | Evicted | 0");
    let gated = json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]);
    check_pod(json!({"status": {"phase": "Pending", "conditions": gated}}), "0/1 | SchedulingGated | 0");
    let leaving = json!({"deletionTimestamp": "2026-01-01T12:00:30Z"});
    check_pod(json!({"metadata": leaving, "status": {"phase": "Running"}}), "0/1 | Terminating | 0");
    check_pod(
        json!({"metadata": leaving, "status": {"phase": "Running", "reason": "NodeLost"}}),
        "0/1 | Unknown | 0",
    );
    check_pod(json!({"metadata": leaving, "status": {"phase": "Succeeded"}}), "0/1 | Succeeded | 0");
    let done = json!({"name": "a", "state": {"terminated": {"reason": "Completed", "exitCode": 0}}});
    let running = json!({"name": "b", "ready": true, "state": {"running": {}}});
    let two = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    check_pod(
        json!({"spec": two, "status": {"phase": "Running", "containerStatuses": [done, running]}}),
        "1/2 | NotReady | 0",
    );
    let ready = json!([{"type": "Ready", "status": "True"}]);
    check_pod(
        json!({"spec": two, "status": {"phase": "Running", "conditions": ready, "containerStatuses": [done, running]}}),
        "1/2 | Running | 0",
    );
}

#[test]
fn pods_that_are_being_initialised() {
    let spec = json!({"initContainers": [{"name": "i"}, {"name": "j"}]});
    let check = |statuses: Value, want: &str| {
        check_pod(
            json!({"spec": spec, "status": {"phase": "Pending", "initContainerStatuses": statuses}}),
            want,
        );
    };
    let done = json!({"name": "i", "state": {"terminated": {"reason": "Completed", "exitCode": 0}}});
    check(json!([{"name": "i", "state": {"running": {}}}]), "0/1 | Init:0/2 | 0");
    check(
        json!([done, {"name": "j", "state": {"waiting": {"reason": "PodInitializing"}}}]),
        "0/1 | Init:1/2 | 0",
    );
    check(
        json!([done, {"name": "j", "state": {"waiting": {"reason": "ErrImagePull"}}}]),
        "0/1 | Init:ErrImagePull | 0",
    );
    check(
        json!([{"name": "i", "state": {"terminated": {"reason": "Error", "exitCode": 1}}}]),
        "0/1 | Init:Error | 0",
    );
    check(json!([{"name": "i", "state": {"terminated": {"exitCode": 2}}}]), "0/1 | Init:ExitCode:2 | 0");
    check(json!([{"name": "i", "restartCount": 2, "state": {"running": {}}}]), "0/1 | Init:0/2 | 2");

    let sidecar = json!({
        "spec": {"initContainers": [{"name": "i", "restartPolicy": "Always"}]},
        "status": {
            "phase": "Running",
            "initContainerStatuses": [
                {"name": "i", "started": true, "ready": true, "restartCount": 1, "state": {"running": {}}}
            ],
            "containerStatuses": [{"name": "web", "ready": true, "restartCount": 2, "state": {"running": {}}}],
        },
    });
    check_pod(sidecar, "2/2 | Running | 3");
}

#[test]
fn whole_pod_rows() {
    check("pods", json!({}), "web | 0/1 |  | 0 | 60m | <none> | <none> | <none> | <none>");
    let full = json!({
        "spec": {"nodeName": "n1", "readinessGates": [{"conditionType": "a/b"}, {"conditionType": "c/d"}]},
        "status": {
            "phase": "Running", "podIP": "10.128.0.5", "podIPs": [{"ip": "10.128.0.5"}], "nominatedNodeName": "n2",
            "conditions": [{"type": "a/b", "status": "True"}, {"type": "c/d", "status": "False"}],
        },
    });
    check("pods", full, "web | 0/1 | Running | 0 | 60m | 10.128.0.5 | n1 | n2 | 1/2");
    check(
        "pods",
        json!({"metadata": {"creationTimestamp": null}}),
        "web | 0/1 |  | 0 | <unknown> | <none> | <none> | <none> | <none>",
    );
}

#[test]
fn nodes() {
    let none = "<none> | <none> | <unknown> | <unknown> | <unknown>";
    check("nodes", json!({}), &format!("web | Unknown | <none> | 60m |  | {none}"));
    let ready = |status: &str| json!({"conditions": [{"type": "Ready", "status": status}]});
    check("nodes", json!({"status": ready("True")}), &format!("web | Ready | <none> | 60m |  | {none}"));
    check(
        "nodes",
        json!({"status": ready("Unknown")}),
        &format!("web | NotReady | <none> | 60m |  | {none}"),
    );
    let full = json!({
        "metadata": {"labels": {
            "node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "x",
        }},
        "spec": {"unschedulable": true},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "Hostname", "address": "h"}, {"type": "InternalIP", "address": "10.0.0.1"}],
            "nodeInfo": {
                "kubeletVersion": "v1.33.0", "osImage": "Debian", "kernelVersion": "6.1",
                "containerRuntimeVersion": "wasmtime://48",
            },
        },
    });
    check(
        "nodes",
        full,
        "web | Ready,SchedulingDisabled | control-plane,worker,x | 60m | v1.33.0 | 10.0.0.1 | <none> | Debian | 6.1 | wasmtime://48",
    );
}

#[test]
fn services() {
    let spec = |patch: Value, want: &str| check("services", json!({"spec": patch}), want);
    spec(
        json!({"type": "ClusterIP", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
            "ports": [{"port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}),
        "web | ClusterIP | 10.96.0.1 | <none> | 80/TCP,53/UDP | 60m | app=web",
    );
    spec(
        json!({"type": "NodePort", "clusterIPs": ["10.96.0.1"], "externalIPs": ["1.2.3.4", "1.2.3.5"],
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}], "selector": {"app": null}}),
        "web | NodePort | 10.96.0.1 | 1.2.3.4,1.2.3.5 | 80:30080/TCP | 60m | <none>",
    );
    spec(
        json!({"type": "LoadBalancer", "ports": []}),
        "web | LoadBalancer | <none> | <pending> | <none> | 60m | app=web",
    );
    spec(
        json!({"type": "ExternalName", "externalName": "example.com", "ports": []}),
        "web | ExternalName | <none> | example.com | <none> | 60m | app=web",
    );
    let ingress = json!([{"ip": "9.9.9.9"}, {"hostname": "lb.example.com"}]);
    check(
        "services",
        json!({"spec": {"type": "LoadBalancer", "externalIPs": ["1.2.3.4"], "ports": []},
            "status": {"loadBalancer": {"ingress": ingress}}}),
        "web | LoadBalancer | <none> | 9.9.9.9,lb.example.com,1.2.3.4 | <none> | 60m | app=web",
    );
}

#[test]
fn events() {
    let times = json!({
        "firstTimestamp": "2026-01-01T11:00:00Z", "lastTimestamp": "2026-01-01T11:58:00Z", "count": 4,
        "involvedObject": {"fieldPath": "spec.containers{web}"},
        "source": {"component": "kubelet", "host": "n1"}, "message": " Started container web \n",
    });
    check(
        "events",
        times,
        "2m | Normal | Started | pod/web | spec.containers{web} | kubelet, n1 | Started container web | 60m | 4 | web",
    );
    check(
        "events",
        json!({"involvedObject": {"name": null}}),
        "<unknown> | Normal | Started | pod |  |  | Started container web | <unknown> | 1 | web",
    );
    check(
        "events.k8s.io/events",
        json!({"series": {"count": 7, "lastObservedTime": "2026-01-01T11:59:50.000000Z"}}),
        "10s | Normal | Started | pod/web |  | kubelet, n1 | Started container web | 60s | 7 | web",
    );
}

#[test]
fn endpoints() {
    check("endpoints", json!({}), "web | 10.128.0.1:80 | 60m");
    check("endpoints", json!({"subsets": []}), "web | <none> | 60m");
    check(
        "endpoints",
        json!({"subsets": [{"notReadyAddresses": [{"ip": "1.2.3.4"}], "ports": [{"port": 1}]}]}),
        "web |  | 60m",
    );
    let addresses = json!([{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}, {"ip": "fd00::1"}, {"ip": "10.0.0.4"}]);
    check(
        "endpoints",
        json!({"subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]}),
        "web | 10.0.0.1:80,10.0.0.2:80,[fd00::1]:80 + 1 more... | 60m",
    );
    check("endpoints", json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}]}]}), "web | 10.0.0.1 | 60m");

    let slices = "discovery.k8s.io/endpointslices";
    check(slices, json!({}), "web | IPv4 | 80 | 10.128.0.1 | 60m");
    check(slices, json!({"ports": [], "endpoints": []}), "web | IPv4 | <unset> | <unset> | 60m");
    check(
        slices,
        json!({"ports": [{"name": "http"}, {}, {"port": 1}, {"port": 2}], "endpoints": [
            {"addresses": ["10.0.0.1", "10.0.0.2"]}, {"addresses": ["10.0.0.3"]}, {"addresses": ["10.0.0.4"]},
        ]}),
        "web | IPv4 | http,*,1 + 1 more... | 10.0.0.1,10.0.0.2,10.0.0.3 + 1 more... | 60m",
    );
}

#[test]
fn the_rest() {
    check(
        "replicationcontrollers",
        json!({"spec": {"replicas": 3, "selector": {"app": "web", "b": "c"}}, "status": {"replicas": 2, "readyReplicas": 1}}),
        "web | 3 | 2 | 1 | 60m | web | registry.local/web:1 | app=web,b=c",
    );
    check("configmaps", json!({}), "web | 2 | 60m");
    check("secrets", json!({"type": "Opaque", "data": {"a": "AAAA"}}), "web | Opaque | 1 | 60m");
    check("serviceaccounts", json!({"secrets": [{"name": "a"}]}), "web | 1 | 60m");
    check("namespaces", json!({"status": {"phase": "Active"}}), "web | Active | 60m");
    check("coordination.k8s.io/leases", json!({}), "web | n1 | 60m");
}
