//! What is refused, in Kubernetes' words: one line per cause, `field: message`.

use super::*;

mod pods;

#[track_caller]
fn expect(causes: &[FieldCause], want: &[&str]) {
    assert_eq!(lines(causes), want);
}

/// What is wrong with creating the valid object changed by `patch`.
#[track_caller]
pub(super) fn create(name: &str, patch: Value, want: &[&str]) {
    let kind = kind(name);
    expect(&kind.validate_create(&created(kind, changed(kind, &patch))), want);
}

/// What is wrong with replacing the valid object changed by `old` by the same changed by `new`.
#[track_caller]
pub(super) fn update(name: &str, old: Value, new: Value, want: &[&str]) {
    let kind = kind(name);
    let before = created(kind, changed(kind, &old));
    let after = updated(kind, changed(kind, &new), &before);
    expect(&kind.validate_update(&after, &before), want);
}

/// What is wrong with the status `new` where it was `old`.
#[track_caller]
pub(super) fn status(name: &str, patch: Value, old: Value, new: Value, want: &[&str]) {
    let kind = kind(name);
    let mut before = created(kind, changed(kind, &patch));
    json_patch::merge(&mut before["status"], &old);
    let mut after = before.clone();
    json_patch::merge(&mut after["status"], &new);
    expect(&kind.validate_status(&after, &before), want);
}

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
    and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

#[test]
fn metadata() {
    let meta = |patch: Value, want: &[&str]| create("configmaps", json!({"metadata": patch}), want);
    meta(json!({"name": null}), &["metadata.name: Required value: name or generateName is required"]);
    meta(json!({"name": "A"}), &[&format!("metadata.name: Invalid value: \"A\": {SUBDOMAIN}")]);
    meta(json!({"generateName": "web-"}), &[]);
    meta(
        json!({"generateName": "A-"}),
        &[&format!("metadata.generateName: Invalid value: \"A-\": {SUBDOMAIN}")],
    );
    meta(json!({"namespace": null}), &["metadata.namespace: Required value"]);
    create(
        "nodes",
        json!({"metadata": {"namespace": "x"}}),
        &["metadata.namespace: Forbidden: not allowed on this type"],
    );
    create(
        "namespaces",
        json!({"metadata": {"name": "a.b"}}),
        &["metadata.name: Invalid value: \"a.b\": must not contain dots"],
    );
    meta(
        json!({"labels": {"a": "-"}}),
        &[
            "metadata.labels: Invalid value: \"-\": a valid label must be an empty string or consist of alphanumeric \
         characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or \
         'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
        ],
    );
    meta(json!({"annotations": {"Upper.Example/Case": "any"}}), &[]);
    let large = "x".repeat(256 * 1024);
    meta(
        json!({"annotations": {"a": large}}),
        &["metadata.annotations: Too long: may not be more than 262144 bytes"],
    );
    meta(
        json!({"finalizers": ["mine"]}),
        &[
            "metadata.finalizers[0]: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified",
        ],
    );
    meta(
        json!({"finalizers": ["orphan", "foregroundDeletion"]}),
        &["metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and \
         foregroundDeletion cannot be both set"],
    );
    meta(
        json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "a"}]}),
        &["metadata.ownerReferences[0].uid: Required value: must not be empty"],
    );
}

#[test]
fn metadata_stays() {
    let meta = |patch: Value, want: &[&str]| {
        update("configmaps", json!({"metadata": {"uid": "1"}}), json!({"metadata": patch}), want);
    };
    meta(json!({"uid": "1"}), &[]);
    meta(json!({"uid": "2"}), &["metadata.uid: Invalid value: \"2\": field is immutable"]);
    meta(
        json!({"uid": "1", "name": "other"}),
        &["metadata.name: Invalid value: \"other\": field is immutable"],
    );
    meta(json!({"uid": "1", "creationTimestamp": "2026-01-01T11:00:00+00:00"}), &[]);
    let leaving = json!({"deletionTimestamp": "2026-01-01T12:00:00Z", "finalizers": ["a/b"]});
    let mut more = leaving.clone();
    more["finalizers"] = json!(["a/b", "c/d"]);
    update(
        "configmaps",
        json!({"metadata": leaving}),
        json!({"metadata": more}),
        &[
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new \
         finalizers []string{\"c/d\"}",
        ],
    );
}

#[test]
fn replication_controllers() {
    let rc = |patch: Value, want: &[&str]| create("replicationcontrollers", json!({"spec": patch}), want);
    rc(json!({"replicas": -1}), &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]);
    rc(json!({"template": null}), &["spec.selector: Required value", "spec.template: Required value"]);
    rc(
        json!({"selector": {"app": "other"}}),
        &[
            "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
        ],
    );
    rc(
        json!({"template": {"spec": {"restartPolicy": "Never"}}}),
        &["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""],
    );
    rc(
        json!({"template": {"spec": {"containers": [{"name": "web"}]}}}),
        &["spec.template.spec.containers[0].image: Required value"],
    );
    // Templates may carry what a pod may not: it is checked again when the pod is made.
    rc(json!({"template": {"spec": {"containers": [{"name": "web", "image": " web"}]}}}), &[]);
    status(
        "replicationcontrollers",
        json!({}),
        json!({}),
        json!({"replicas": 1, "readyReplicas": 2}),
        &["status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas"],
    );
}

#[test]
fn services() {
    let spec = |patch: Value, want: &[&str]| create("services", json!({"spec": patch}), want);
    spec(json!({"ports": []}), &["spec.ports: Required value"]);
    spec(json!({"ports": [], "clusterIP": "None"}), &[]);
    spec(
        json!({"type": "Magic"}),
        &[
            "spec.type: Unsupported value: \"Magic\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
        ],
    );
    spec(
        json!({"ports": [{"port": 0, "targetPort": 1}]}),
        &["spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"],
    );
    spec(
        json!({"ports": [{"port": 80}, {"port": 80, "name": "b"}]}),
        &[
            "spec.ports[0].name: Required value",
            "spec.ports[1]: Duplicate value: {\"AppProtocol\":null,\"Name\":\"\",\"NodePort\":0,\"Port\":80,\"Protocol\":\"TCP\",\"TargetPort\":0}",
        ],
    );
    spec(
        json!({"ports": [{"port": 80, "nodePort": 30080}]}),
        &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
    );
    spec(
        json!({"type": "NodePort", "clusterIP": "None"}),
        &["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"],
    );
    spec(json!({"type": "ExternalName"}), &["spec.externalName: Required value"]);
    spec(
        json!({"clusterIP": "x"}),
        &[
            "spec.clusterIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ],
    );
    spec(
        json!({"externalIPs": ["127.0.0.1"]}),
        &[
            "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
        ],
    );
    spec(
        json!({"externalTrafficPolicy": "Local"}),
        &[
            "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
        ],
    );
    let annotated = |type_: &str, ranges: &str, want: &[&str]| {
        let key = "service.beta.kubernetes.io/load-balancer-source-ranges";
        create(
            "services",
            json!({"metadata": {"annotations": {key: ranges}}, "spec": {"type": type_}}),
            want,
        );
    };
    annotated("LoadBalancer", " 10.0.0.0/8, 2001:db8::/32 ", &[]);
    annotated("LoadBalancer", "", &[]);
    annotated(
        "LoadBalancer",
        "10.0.0.0",
        &[
            "metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]: Invalid value: \"10.0.0.0\": \
             must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        ],
    );
    annotated(
        "ClusterIP",
        "10.0.0.0/8",
        &[
            "metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]: Forbidden: may only be used when \
             `type` is 'LoadBalancer'",
        ],
    );
    create(
        "services",
        json!({"metadata": {"name": "1a"}}),
        &[
            "metadata.name: Invalid value: \"1a\": a DNS-1035 label must consist of lower case alphanumeric characters or '-', \
         start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex \
         used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
        ],
    );
    let ip = |ip: &str| json!({"spec": {"clusterIP": ip}});
    update("services", ip("10.96.0.1"), ip("10.96.0.1"), &[]);
    update(
        "services",
        ip("10.96.0.1"),
        ip("10.96.0.2"),
        &["spec.clusterIPs[0]: Invalid value: [\"10.96.0.2\"]: may not change once set"],
    );
    status(
        "services",
        json!({}),
        json!({}),
        json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}),
        &["status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"],
    );
}

#[test]
fn secrets_and_config_maps() {
    const KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
        'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
    create(
        "configmaps",
        json!({"data": {"a/b": ""}}),
        &[&format!("data[a/b]: Invalid value: \"a/b\": {KEY}")],
    );
    create(
        "configmaps",
        json!({"data": {"b": ""}}),
        &["data[b]: Invalid value: \"b\": duplicate of key present in binaryData"],
    );
    let large = "x".repeat(1024 * 1024 + 1);
    create(
        "configmaps",
        json!({"data": {"a.txt": large}}),
        &[": Too long: may not be more than 1048576 bytes"],
    );
    let frozen = json!({"immutable": true});
    update(
        "configmaps",
        frozen.clone(),
        json!({"immutable": true, "data": {"a.txt": "y"}}),
        &["data: Forbidden: field is immutable when `immutable` is set"],
    );
    update(
        "configmaps",
        frozen,
        json!({}),
        &["immutable: Forbidden: field is immutable when `immutable` is set"],
    );
    create(
        "secrets",
        json!({"stringData": {"a b": ""}}),
        &[&format!("data[a b]: Invalid value: \"a b\": {KEY}")],
    );
    create(
        "secrets",
        json!({"type": "kubernetes.io/tls"}),
        &["data[tls.crt]: Required value", "data[tls.key]: Required value"],
    );
    create("secrets", json!({"type": "kubernetes.io/basic-auth"}), &[]);
    create(
        "secrets",
        json!({"type": "kubernetes.io/service-account-token"}),
        &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
    );
    create(
        "secrets",
        json!({"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "{}"}}),
        &[],
    );
    update("secrets", json!({}), json!({"type": "x"}), &["type: Invalid value: \"x\": field is immutable"]);
}

#[test]
fn nodes() {
    let node = |patch: Value, want: &[&str]| update("nodes", json!({}), patch, want);
    node(json!({"spec": {"unschedulable": true, "taints": [{"key": "a", "effect": "NoSchedule"}]}}), &[]);
    node(
        json!({"spec": {"podCIDR": "10.192.0.0/18"}}),
        &["spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"],
    );
    node(
        json!({"spec": {"taints": [{"key": "a", "effect": "Later"}]}}),
        &[
            "metadata.taints[0].effect: Unsupported value: \"Later\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
        ],
    );
    let taint = json!({"key": "a", "effect": "NoSchedule"});
    node(
        json!({"spec": {"taints": [taint, taint]}}),
        &[
            "metadata.taints[1]: Duplicate value: {\"effect\":\"NoSchedule\",\"key\":\"a\"}: taints must be unique by key and effect pair",
        ],
    );
    create(
        "nodes",
        json!({"spec": {"podCIDR": "x"}}),
        &[
            "spec.podCIDRs[0]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        ],
    );
    status(
        "nodes",
        json!({}),
        json!({}),
        json!({"capacity": {"cpu": "-1"}}),
        &["status.capacity.cpu: Invalid value: \"-1\": must be greater than or equal to 0"],
    );
}

#[test]
fn endpoints() {
    let subset = |subset: Value, want: &[&str]| create("endpoints", json!({"subsets": [subset]}), want);
    subset(json!({}), &["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"]);
    subset(
        json!({"addresses": [{"ip": "169.254.1.1"}]}),
        &[
            "subsets[0].addresses[0].ip: Invalid value: \"169.254.1.1\": may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        ],
    );
    subset(
        json!({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 1}, {"port": 2, "name": "b"}]}),
        &["subsets[0].ports[0].name: Required value"],
    );
    let slices = "discovery.k8s.io/endpointslices";
    create(
        slices,
        json!({"addressType": "IP"}),
        &["addressType: Unsupported value: \"IP\": supported values: \"FQDN\", \"IPv4\", \"IPv6\""],
    );
    create(
        slices,
        json!({"endpoints": [{"addresses": []}]}),
        &["endpoints[0].addresses: Required value: must contain at least 1 address"],
    );
    create(
        slices,
        json!({"endpoints": [{"addresses": ["fd00::1"]}]}),
        &["endpoints[0].addresses[0]: Invalid value: \"fd00::1\": must be a valid IPv4 address"],
    );
    create(slices, json!({"ports": [{"port": 1}, {"port": 2}]}), &["ports[1].name: Duplicate value: \"\""]);
    update(
        slices,
        json!({}),
        json!({"addressType": "FQDN", "endpoints": [{"addresses": ["a.b"]}]}),
        &["addressType: Invalid value: \"FQDN\": field is immutable"],
    );
}

#[test]
fn events() {
    create(
        "events",
        json!({"involvedObject": {"namespace": "other"}}),
        &["involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"],
    );
    create("events", json!({"involvedObject": {"kind": "Node", "namespace": null}}), &[]);
    let view = "events.k8s.io/events";
    create(view, json!({"eventTime": null}), &["eventTime: Required value"]);
    create(
        view,
        json!({"action": null, "type": "Loud", "deprecatedCount": 3}),
        &[
            "action: Required value",
            "type: Invalid value: \"\": has invalid value: Loud",
            "count: Invalid value: \"\": needs to be unset",
        ],
    );
    update(
        view,
        json!({}),
        json!({"note": "other"}),
        &["message: Invalid value: \"other\": field is immutable"],
    );
    update(
        view,
        json!({}),
        json!({"series": {"count": 1, "lastObservedTime": "2026-01-01T11:59:00.000000Z"}}),
        &["series.count: Invalid value: \"\": should be at least 2"],
    );
}

#[test]
fn the_rest() {
    create(
        "coordination.k8s.io/leases",
        json!({"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1}}),
        &[
            "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
            "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
        ],
    );
    create(
        "namespaces",
        json!({"spec": {"finalizers": ["mine"]}}),
        &[
            "spec.finalizers: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified",
        ],
    );
    status(
        "namespaces",
        json!({}),
        json!({}),
        json!({"phase": "Terminating"}),
        &[
            "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty",
        ],
    );
}
