//! What is filled in, field by field.

use super::*;

/// `default` makes `want` of `object`'s field at `pointer`.
#[track_caller]
pub(super) fn check(name: &str, patch: Value, pointer: &str, want: Value) {
    let kind = kind(name);
    let mut object = changed(kind, &patch);
    schema::conform(kind, &mut object).unwrap();
    kind.hooks.default(&mut object);
    assert_eq!(object.pointer(pointer).unwrap_or(&Value::Null), &want, "{pointer} of {object:#}");
}

/// What `prepare_create` leaves in the field at `pointer`.
#[track_caller]
pub(super) fn check_prepared(name: &str, patch: Value, pointer: &str, want: Value) {
    let kind = kind(name);
    let object = created(kind, changed(kind, &patch));
    assert_eq!(object.pointer(pointer).unwrap_or(&Value::Null), &want, "{pointer} of {object:#}");
}

#[test]
fn a_minimal_pod() {
    check_prepared(
        "pods",
        json!({}),
        "/spec",
        json!({
            "containers": [{
                "name": "web",
                "image": "registry.local/web:1",
                "imagePullPolicy": "IfNotPresent",
                "resources": {},
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
            }],
            "dnsPolicy": "ClusterFirst",
            "enableServiceLinks": true,
            "restartPolicy": "Always",
            "schedulerName": "default-scheduler",
            "securityContext": {},
            "terminationGracePeriodSeconds": 30,
        }),
    );
    check_prepared(
        "pods",
        json!({"status": {"phase": "Running", "podIP": "1.2.3.4"}}),
        "/status",
        json!({
            "phase": "Pending", "qosClass": "BestEffort",
        }),
    );
    let gated = json!({"spec": {"schedulingGates": [{"name": "a/b"}]}});
    check_prepared("pods", gated, "/status/conditions/0/reason", "SchedulingGated".into());
}

#[test]
fn label_keys_of_pod_affinity() {
    let term = |selector: Value| {
        json!({
            "topologyKey": "zone", "labelSelector": selector,
            "matchLabelKeys": ["rev", "absent"], "mismatchLabelKeys": ["tenant"],
        })
    };
    let pod = |affinity: Value| {
        let labels = json!({"rev": "a1", "tenant": "x"});
        json!({"metadata": {"labels": labels}, "spec": {"affinity": affinity}})
    };
    let own = json!({"key": "app", "operator": "Exists"});
    let merged = [
        json!({"key": "rev", "operator": "In", "values": ["a1"]}),
        json!({"key": "tenant", "operator": "NotIn", "values": ["x"]}),
    ];
    let required = term(json!({"matchExpressions": [own]}));
    let affinity = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [required]}});
    let at = "/spec/affinity/podAffinity/requiredDuringSchedulingIgnoredDuringExecution/0/labelSelector";
    let all = json!({"matchExpressions": [own, merged[0], merged[1]]});
    check_prepared("pods", pod(affinity), at, all);
    let preferred = json!({"weight": 1, "podAffinityTerm": term(json!({"matchLabels": {"app": "web"}}))});
    let affinity =
        json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preferred]}});
    let at = "/spec/affinity/podAntiAffinity/preferredDuringSchedulingIgnoredDuringExecution/0/podAffinityTerm/labelSelector";
    let all = json!({"matchLabels": {"app": "web"}, "matchExpressions": merged});
    check_prepared("pods", pod(affinity), at, all);
}

#[test]
fn parts_of_pods() {
    let container = |extra: Value| {
        let mut container = json!({"name": "web", "image": "web"});
        json_patch::merge(&mut container, &extra);
        json!({"spec": {"containers": [container]}})
    };
    let at = |rest: &str| format!("/spec/containers/0/{rest}");
    check("pods", container(json!({})), &at("imagePullPolicy"), "Always".into());
    check(
        "pods",
        container(json!({"ports": [{"containerPort": 80}]})),
        &at("ports/0/protocol"),
        "TCP".into(),
    );
    check(
        "pods",
        container(json!({"readinessProbe": {"httpGet": {"port": 80}}})),
        &at("readinessProbe"),
        json!({
            "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
            "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
        }),
    );
    check(
        "pods",
        container(json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]})),
        &at("env/0/valueFrom/fieldRef/apiVersion"),
        "v1".into(),
    );
    check(
        "pods",
        container(
            json!({"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}}),
        ),
        &at("resources/requests"),
        json!({"cpu": "500m", "memory": "1Gi"}),
    );
    check(
        "pods",
        container(json!({"lifecycle": {"preStop": {"httpGet": {"port": "http"}}}})),
        &at("lifecycle/preStop/httpGet/scheme"),
        "HTTP".into(),
    );
    let host_network = json!({"spec": {"hostNetwork": true, "containers": [
        {"name": "web", "image": "web", "ports": [{"containerPort": 80}]}
    ]}});
    check("pods", host_network, &at("ports/0/hostPort"), 80.into());
    check("pods", json!({"spec": {"serviceAccount": "x"}}), "/spec/serviceAccountName", "x".into());
    check("pods", json!({"spec": {"serviceAccountName": "x"}}), "/spec/serviceAccount", "x".into());
}

#[test]
fn volumes() {
    #[track_caller]
    fn volume(source: Value, want: Value) {
        let (mut given, mut wanted) = (json!({"name": "v"}), json!({"name": "v"}));
        json_patch::merge(&mut given, &source);
        json_patch::merge(&mut wanted, &want);
        check("pods", json!({"spec": {"volumes": [given]}}), "/spec/volumes/0", wanted);
    }
    volume(json!({}), json!({"emptyDir": {}}));
    volume(json!({"emptyDir": {"medium": "Memory"}}), json!({"emptyDir": {"medium": "Memory"}}));
    volume(json!({"configMap": {"name": "c"}}), json!({"configMap": {"name": "c", "defaultMode": 420}}));
    volume(
        json!({"secret": {"secretName": "c"}}),
        json!({"secret": {"secretName": "c", "defaultMode": 420}}),
    );
    volume(json!({"secret": {"defaultMode": 256}}), json!({"secret": {"defaultMode": 256}}));
    volume(json!({"hostPath": {"path": "/x"}}), json!({"hostPath": {"path": "/x", "type": ""}}));
    volume(
        json!({"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}),
        json!({"projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}
        ]}}),
    );
}

#[test]
fn quality_of_service() {
    #[track_caller]
    fn class(resources: Value, want: &str) {
        let containers = json!([{"name": "web", "image": "web", "resources": resources}]);
        let patch = json!({"spec": {"containers": containers}});
        check_prepared("pods", patch, "/status/qosClass", want.into());
    }
    class(json!({}), "BestEffort");
    class(json!({"requests": {"example.com/gpu": "1"}, "limits": {"example.com/gpu": "1"}}), "BestEffort");
    class(json!({"requests": {"cpu": "1"}}), "Burstable");
    class(json!({"limits": {"cpu": "1"}}), "Burstable");
    class(json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed");
    class(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m"}}), "Guaranteed");
    class(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}), "Burstable");
}

#[test]
fn replication_controllers() {
    let rc = "replicationcontrollers";
    check(rc, json!({}), "/spec/replicas", 1.into());
    check(rc, json!({"spec": {"replicas": 0}}), "/spec/replicas", 0.into());
    check(rc, json!({}), "/spec/selector", json!({"app": "web"}));
    check(rc, json!({}), "/metadata/labels", json!({"app": "web"}));
    check(rc, json!({"metadata": {"labels": {"x": "y"}}}), "/metadata/labels", json!({"x": "y"}));
    check(rc, json!({}), "/spec/template/spec/restartPolicy", "Always".into());
    // What only pods get.
    check(rc, json!({}), "/spec/template/spec/enableServiceLinks", Value::Null);
    check_prepared(rc, json!({"status": {"replicas": 7}}), "/status", json!({"replicas": 0}));
}

#[test]
fn services() {
    let spec = |patch: Value, pointer: &str, want: Value| {
        check_prepared("services", json!({"spec": patch}), &format!("/spec/{pointer}"), want);
    };
    check_prepared(
        "services",
        json!({}),
        "/spec",
        json!({
            "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
            "selector": {"app": "web"},
            "sessionAffinity": "None",
            "type": "ClusterIP",
        }),
    );
    check_prepared("services", json!({}), "/status", json!({"loadBalancer": {}}));
    spec(json!({"ports": [{"port": 80, "targetPort": "http"}]}), "ports/0/targetPort", "http".into());
    spec(json!({"type": "NodePort"}), "externalTrafficPolicy", "Cluster".into());
    spec(json!({"type": "ClusterIP"}), "externalTrafficPolicy", Value::Null);
    spec(json!({"externalIPs": ["1.2.3.4"]}), "externalTrafficPolicy", "Cluster".into());
    spec(json!({"type": "LoadBalancer"}), "allocateLoadBalancerNodePorts", true.into());
    spec(
        json!({"sessionAffinity": "ClientIP"}),
        "sessionAffinityConfig/clientIP/timeoutSeconds",
        10800.into(),
    );
    spec(json!({"clusterIP": "None"}), "clusterIPs", json!(["None"]));
    spec(json!({"clusterIP": "10.96.0.9"}), "clusterIPs", json!(["10.96.0.9"]));
    let external = json!({"type": "ExternalName", "externalName": "example.com"});
    spec(external.clone(), "ipFamilies", Value::Null);
    spec(external, "internalTrafficPolicy", Value::Null);
}

#[test]
fn services_keep_what_was_allocated() {
    #[track_caller]
    fn update(old: Value, request: Value, pointer: &str, want: Value) {
        let kind = kind("services");
        let mut before = created(kind, changed(kind, &json!({"spec": old})));
        if before["spec"]["clusterIP"].is_null() && before["spec"]["type"] != "ExternalName" {
            before["spec"]["clusterIP"] = "10.96.0.7".into();
            before["spec"]["clusterIPs"] = json!(["10.96.0.7"]);
        }
        let after = updated(kind, changed(kind, &json!({"spec": request})), &before);
        let got = after.pointer(&format!("/spec/{pointer}")).unwrap_or(&Value::Null);
        assert_eq!(got, &want, "{pointer} of {after:#}");
    }
    let port = |node_port: i64| json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": node_port}]});
    update(json!({}), json!({}), "clusterIP", "10.96.0.7".into());
    update(json!({}), json!({}), "clusterIPs", json!(["10.96.0.7"]));
    update(json!({}), json!({"clusterIP": "10.96.0.8"}), "clusterIPs", json!(["10.96.0.8"]));
    update(port(30080), json!({"type": "NodePort"}), "ports/0/nodePort", 30080.into());
    update(
        port(30080),
        json!({"type": "NodePort", "ports": [{"port": 81}]}),
        "ports/0/nodePort",
        30080.into(),
    );
    // Only the type changes: what the new type lacks goes.
    let mut plain = port(30080);
    plain["type"] = "ClusterIP".into();
    update(port(30080), plain.clone(), "ports/0/nodePort", Value::Null);
    plain["externalTrafficPolicy"] = "Cluster".into();
    update(port(30080), plain, "externalTrafficPolicy", Value::Null);
    let external = json!({"type": "ExternalName", "externalName": "example.com", "clusterIP": "10.96.0.7",
        "clusterIPs": ["10.96.0.7"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"});
    for gone in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        update(json!({}), external.clone(), gone, Value::Null);
    }
}

#[test]
fn namespaces() {
    check("namespaces", json!({}), "/metadata/labels", json!({"kubernetes.io/metadata.name": "web"}));
    check_prepared("namespaces", json!({}), "/spec/finalizers", json!(["kubernetes"]));
    check_prepared(
        "namespaces",
        json!({"spec": {"finalizers": ["a/b"]}}),
        "/spec/finalizers",
        json!(["a/b", "kubernetes"]),
    );
    check_prepared(
        "namespaces",
        json!({"status": {"phase": "Terminating"}}),
        "/status",
        json!({"phase": "Active"}),
    );
    let kind = kind("namespaces");
    let old = created(kind, valid(kind));
    let new = updated(kind, changed(kind, &json!({"spec": {"finalizers": []}})), &old);
    assert_eq!(new["spec"]["finalizers"], json!(["kubernetes"]), "only `finalize` may empty the list");
}

#[test]
fn the_rest() {
    check("secrets", json!({}), "/type", "Opaque".into());
    check(
        "secrets",
        json!({"data": {"password": "AAAA", "k": "AAAA"}}),
        "/data",
        json!({"password": "eA==", "k": "AAAA"}),
    );
    check("secrets", json!({}), "/stringData", Value::Null);
    check("endpoints", json!({}), "/subsets/0/ports/0/protocol", "TCP".into());
    check(
        "discovery.k8s.io/endpointslices",
        json!({}),
        "/ports/0",
        json!({"name": "", "port": 80, "protocol": "TCP"}),
    );
    check("nodes", json!({}), "/spec/podCIDRs", json!(["10.128.0.0/18"]));
    check(
        "nodes",
        json!({"spec": {"podCIDR": null, "podCIDRs": ["10.0.0.0/8"]}}),
        "/spec/podCIDR",
        "10.0.0.0/8".into(),
    );
    check("nodes", json!({}), "/status/allocatable", json!({"cpu": "2"}));
}
