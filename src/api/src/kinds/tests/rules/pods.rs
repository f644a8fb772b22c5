//! What is refused of pods.

use super::*;

/// A pod whose only container is changed by `patch`.
fn container(patch: Value) -> Value {
    let mut container = json!({"name": "web", "image": "web"});
    json_patch::merge(&mut container, &patch);
    json!({"spec": {"containers": [container]}})
}

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
    start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
#[test]
fn containers() {
    create("pods", json!({"spec": {"containers": []}}), &["spec.containers: Required value"]);
    create("pods", container(json!({"name": null})), &["spec.containers[0].name: Required value"]);
    create(
        "pods",
        container(json!({"name": "A"})),
        &[&format!("spec.containers[0].name: Invalid value: \"A\": {LABEL}")],
    );
    create("pods", container(json!({"image": null})), &["spec.containers[0].image: Required value"]);
    create(
        "pods",
        container(json!({"image": " web"})),
        &["spec.containers[0].image: Invalid value: \" web\": must not have leading or trailing whitespace"],
    );
    create(
        "pods",
        container(json!({"imagePullPolicy": "Often"})),
        &["spec.containers[0].imagePullPolicy: Unsupported value: \"Often\": supported values: \"Always\", \
         \"IfNotPresent\", \"Never\""],
    );
    create(
        "pods",
        container(json!({"restartPolicy": "Always"})),
        &["spec.containers[0].restartPolicy: Forbidden: may not be set for non-init containers"],
    );
    let twice = json!([{"name": "a", "image": "a"}, {"name": "a", "image": "a"}]);
    create(
        "pods",
        json!({"spec": {"containers": twice}}),
        &["spec.containers[1].name: Duplicate value: \"a\""],
    );
    create(
        "pods",
        json!({"spec": {"initContainers": [{"name": "web", "image": "a", "readinessProbe": {}}]}}),
        &[
            "spec.initContainers[0].name: Duplicate value: \"web\"",
            "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        ],
    );
    create(
        "pods",
        json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "e"}]}}),
        &["spec.ephemeralContainers: Forbidden: cannot be set on create"],
    );
}

#[test]
fn ports() {
    let ports = |ports: Value, want: &[&str]| create("pods", container(json!({"ports": ports})), want);
    let at = "spec.containers[0].ports[0]";
    ports(json!([{"containerPort": 80, "protocol": "SCTP", "name": "http"}]), &[]);
    ports(json!([{}]), &[&format!("{at}.containerPort: Required value")]);
    ports(
        json!([{"containerPort": 70000}]),
        &[&format!("{at}.containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive")],
    );
    ports(
        json!([{"containerPort": 80, "name": "80"}]),
        &[&format!("{at}.name: Invalid value: \"80\": must contain at least one letter (a-z)")],
    );
    ports(
        json!([{"containerPort": 80, "protocol": "HTTP"}]),
        &[&format!(
            "{at}.protocol: Unsupported value: \"HTTP\": supported values: \"SCTP\", \"TCP\", \"UDP\""
        )],
    );
    ports(
        json!([{"containerPort": 80, "name": "a"}, {"containerPort": 81, "name": "a"}]),
        &["spec.containers[0].ports[1].name: Duplicate value: \"a\""],
    );
    ports(
        json!([{"containerPort": 80, "hostPort": 80}, {"containerPort": 81, "hostPort": 80}]),
        &["spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//80\""],
    );
}

#[test]
fn environment() {
    let env = |env: Value, want: &[&str]| create("pods", container(json!({"env": env})), want);
    let from = |from: Value, want: &[&str]| env(json!([{"name": "A", "valueFrom": from}]), want);
    let at = "spec.containers[0].env[0]";
    env(json!([{"name": "any.NAME 1", "value": ""}]), &[]);
    env(json!([{"value": "x"}]), &[&format!("{at}.name: Required value")]);
    env(
        json!([{"name": "a=b"}]),
        &[&format!(
            "{at}.name: Invalid value: \"a=b\": a valid environment variable name must consist only of printable ASCII \
         characters other than '='"
        )],
    );
    from(
        json!({}),
        &[&format!(
            "{at}.valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or \
         `secretKeyRef`"
        )],
    );
    from(json!({"fieldRef": {"fieldPath": "metadata.labels['app']"}}), &[]);
    from(
        json!({"fieldRef": {"fieldPath": "status.phase"}}),
        &[&format!(
            "{at}.valueFrom.fieldRef.fieldPath: Unsupported value: \"status.phase\": supported values: \"metadata.name\", \
         \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \
         \"status.hostIPs\", \"status.podIP\", \"status.podIPs\""
        )],
    );
    from(
        json!({"fieldRef": {"fieldPath": "spec.x"}}),
        &[&format!(
            "{at}.valueFrom.fieldRef.fieldPath: Invalid value: \"spec.x\": error converting fieldPath: field label not \
         supported: spec.x"
        )],
    );
    from(json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}), &[]);
    from(
        json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}}),
        &[&format!(
            "{at}.valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are \
         supported with the cpu resource"
        )],
    );
    from(
        json!({"configMapKeyRef": {"name": "a"}}),
        &[&format!("{at}.valueFrom.configMapKeyRef.key: Required value")],
    );
    let both = json!([{"name": "A", "value": "x", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}]);
    env(
        both,
        &[&format!("{at}.valueFrom: Invalid value: \"\": may not be specified when `value` is not empty")],
    );
    create(
        "pods",
        container(json!({"envFrom": [{}]})),
        &[
            "spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
        ],
    );
}

#[test]
fn probes() {
    let probe =
        |probe: Value, want: &[&str]| create("pods", container(json!({"livenessProbe": probe})), want);
    let at = "spec.containers[0].livenessProbe";
    probe(json!({"httpGet": {"port": "http"}}), &[]);
    probe(json!({}), &[&format!("{at}: Required value: must specify a handler type")]);
    probe(json!({"exec": {}}), &[&format!("{at}.exec.command: Required value")]);
    probe(
        json!({"tcpSocket": {"port": 0}}),
        &[&format!("{at}.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive")],
    );
    probe(
        json!({"tcpSocket": {"port": 1}, "grpc": {"port": 1}}),
        &[&format!("{at}.grpc: Forbidden: may not specify more than 1 handler type")],
    );
    probe(
        json!({"httpGet": {"port": 1, "scheme": "ftp"}}),
        &[&format!("{at}.httpGet.scheme: Unsupported value: \"ftp\": supported values: \"HTTP\", \"HTTPS\"")],
    );
    probe(
        json!({"tcpSocket": {"port": 1}, "successThreshold": 2, "periodSeconds": -1}),
        &[
            &format!("{at}.periodSeconds: Invalid value: -1: must be greater than or equal to 0"),
            &format!("{at}.successThreshold: Invalid value: 2: must be 1"),
        ],
    );
    create(
        "pods",
        container(json!({"readinessProbe": {"tcpSocket": {"port": 1}, "terminationGracePeriodSeconds": 3}})),
        &[
            "spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 3: must not be set for readinessProbes",
        ],
    );
    create(
        "pods",
        container(json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}})),
        &[
            "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than \
         terminationGracePeriodSeconds (30)",
        ],
    );
}

#[test]
fn resources() {
    let resources =
        |resources: Value, want: &[&str]| create("pods", container(json!({"resources": resources})), want);
    let at = "spec.containers[0].resources";
    resources(
        json!({"limits": {"cpu": "1", "example.com/gpu": "2"}, "requests": {"example.com/gpu": "2"}}),
        &[],
    );
    resources(
        json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1500m"}}),
        &[&format!("{at}.requests: Invalid value: \"1500m\": must be less than or equal to cpu limit of 1")],
    );
    resources(
        json!({"requests": {"memory": "-1"}}),
        &[&format!("{at}.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0")],
    );
    resources(
        json!({"requests": {"disk": "1"}}),
        &[
            &format!(
                "{at}.requests[disk]: Invalid value: \"disk\": must be a standard resource type or fully qualified"
            ),
            &format!(
                "{at}.requests[disk]: Invalid value: \"disk\": must be a standard resource for containers"
            ),
        ],
    );
    resources(
        json!({"requests": {"example.com/gpu": "1"}}),
        &[&format!("{at}.limits: Required value: Limit must be set for non overcommitable resources")],
    );
    resources(
        json!({"limits": {"example.com/gpu": "500m"}}),
        &[
            &format!("{at}.limits[example.com/gpu]: Invalid value: \"500m\": must be an integer"),
            // Requests come from limits.
            &format!("{at}.requests[example.com/gpu]: Invalid value: \"500m\": must be an integer"),
        ],
    );
    resources(
        json!({"claims": [{"name": "x"}]}),
        &[&format!(
            "{at}.claims[0]: Not found: \"x\": must be one of the names in pod.spec.resourceClaims which is empty"
        )],
    );
}

#[test]
fn volumes() {
    let volumes = |volumes: Value, want: &[&str]| create("pods", json!({"spec": {"volumes": volumes}}), want);
    let at = "spec.volumes[0]";
    volumes(json!([{"name": "a"}, {"name": "b", "configMap": {"name": "c"}}]), &[]);
    volumes(json!([{"emptyDir": {}}]), &[&format!("{at}.name: Required value")]);
    volumes(json!([{"name": "a"}, {"name": "a"}]), &["spec.volumes[1].name: Duplicate value: \"a\""]);
    volumes(
        json!([{"name": "a", "emptyDir": {}, "secret": {"secretName": "s"}}]),
        &[&format!("{at}.secret: Forbidden: may not specify more than 1 volume type")],
    );
    volumes(json!([{"name": "a", "configMap": {}}]), &[&format!("{at}.configMap.name: Required value")]);
    volumes(
        json!([{"name": "a", "hostPath": {"path": "/a/../b"}}]),
        &[&format!("{at}.hostPath.path: Invalid value: \"/a/../b\": must not contain '..'")],
    );
    volumes(
        json!([{"name": "a", "secret": {"secretName": "s", "defaultMode": 512}}]),
        &[&format!(
            "{at}.secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive"
        )],
    );
    volumes(
        json!([{"name": "a", "configMap": {"name": "c", "items": [{"key": "k", "path": "/x"}]}}]),
        &[&format!("{at}.configMap.items[0].path: Invalid value: \"/x\": must be a relative path")],
    );
    volumes(
        json!([{"name": "a", "emptyDir": {"sizeLimit": "-1"}}]),
        &[&format!("{at}.emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity")],
    );
    volumes(
        json!([{"name": "a", "downwardAPI": {"items": [{"path": "x"}]}}]),
        &[&format!("{at}.downwardAPI: Required value: one of fieldRef and resourceFieldRef is required")],
    );
    let colliding = json!([
        {"configMap": {"name": "c", "items": [{"key": "k", "path": "x"}]}},
        {"secret": {"name": "s", "items": [{"key": "k", "path": "x"}]}},
    ]);
    volumes(
        json!([{"name": "a", "projected": {"sources": colliding}}]),
        &[&format!("{at}.projected: Invalid value: \"s\": conflicting duplicate paths")],
    );
    let token = json!([{"name": "a", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 5}}]}}]);
    volumes(
        token,
        &[
            &format!(
                "{at}.projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 5: may not specify a duration \
             less than 10 minutes"
            ),
            &format!(
                "{at}.projected.sources[0].serviceAccountToken: Forbidden: must not be specified when serviceAccountName is not set"
            ),
        ],
    );
}

#[test]
fn mounts() {
    let mounts = |mounts: Value, want: &[&str]| {
        let mut pod = container(json!({"volumeMounts": mounts}));
        pod["spec"]["volumes"] = json!([{"name": "v"}]);
        create("pods", pod, want);
    };
    let at = "spec.containers[0].volumeMounts";
    mounts(json!([{"name": "v", "mountPath": "/a", "subPath": "b"}]), &[]);
    mounts(json!([{"name": "x", "mountPath": "/a"}]), &[&format!("{at}[0].name: Not found: \"x\"")]);
    mounts(json!([{"name": "v"}]), &[&format!("{at}[0].mountPath: Required value")]);
    mounts(
        json!([{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/a"}]),
        &[&format!("{at}[1].mountPath: Invalid value: \"/a\": must be unique")],
    );
    mounts(
        json!([{"name": "v", "mountPath": "/a", "subPath": "../b"}]),
        &[&format!("{at}.subPath: Invalid value: \"../b\": must not contain '..'")],
    );
    mounts(
        json!([{"name": "v", "mountPath": "/a", "mountPropagation": "Bidirectional"}]),
        &[&format!(
            "{at}.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers"
        )],
    );
}

#[test]
fn pod_specs() {
    let spec = |patch: Value, want: &[&str]| create("pods", json!({"spec": patch}), want);
    spec(
        json!({"restartPolicy": "Sometimes"}),
        &[
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ],
    );
    spec(
        json!({"dnsPolicy": "None"}),
        &["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
    );
    spec(
        json!({"activeDeadlineSeconds": 0}),
        &["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"],
    );
    spec(json!({"hostname": "a.b"}), &["spec.hostname: Invalid value: \"a.b\": must not contain dots"]);
    spec(json!({"nodeName": "A"}), &[&format!("spec.nodeName: Invalid value: \"A\": {SUBDOMAIN}")]);
    spec(
        json!({"nodeName": "n1", "schedulingGates": [{"name": "a/b"}]}),
        &["spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"],
    );
    spec(
        json!({"tolerations": [{"operator": "Equal"}]}),
        &[
            "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \
         \"match all values and all keys\"",
        ],
    );
    spec(
        json!({"tolerations": [{"key": "a", "effect": "NoSchedule", "tolerationSeconds": 1}]}),
        &[
            "spec.tolerations[0].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when `tolerationSeconds` is set",
        ],
    );
    spec(
        json!({"hostAliases": [{"ip": "x", "hostnames": ["a"]}]}),
        &[
            "spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ],
    );
    spec(
        json!({"securityContext": {"runAsUser": -1, "sysctls": [{"name": "net.ipv4.ip_forward"}]}}),
        &["spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive"],
    );
    // Fields of Linux mean nothing to modules and are welcome.
    spec(
        json!({
            "hostPID": true, "shareProcessNamespace": false, "os": {"name": "linux"},
            "securityContext": {"fsGroup": 1, "seLinuxOptions": {"level": "s0"}, "seccompProfile": {"type": "RuntimeDefault"}},
        }),
        &[],
    );
    let term = json!({"labelSelector": {"matchLabels": {"a": "b"}}});
    spec(
        json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}),
        &[
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: can not be empty",
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid value: \"\": \
         name part must be non-empty",
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid value: \"\": \
         name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
         character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
         '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
        ],
    );
    let node = json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In"}]}]});
    spec(
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": node}}}),
        &[
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: \
         Required value: must be specified when `operator` is 'In' or 'NotIn'",
        ],
    );
    spec(
        json!({"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "Never"}]}),
        &[
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
            "spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \"Never\": supported values: \
         \"DoNotSchedule\", \"ScheduleAnyway\"",
        ],
    );
}

#[test]
fn of_a_pod_that_exists_little_may_change() {
    let image = |image: &str| container(json!({"image": image}));
    update("pods", image("web:1"), image("web:2"), &[]);
    update(
        "pods",
        image("web:1"),
        json!({"spec": {"containers": []}}),
        &[
            "spec.containers: Required value",
            "spec.containers: Forbidden: pod updates may not add or remove containers",
        ],
    );
    update(
        "pods",
        json!({}),
        json!({"spec": {"hostname": "x"}}),
        &["spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,\
         `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
         tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n\
         -\tspec.hostname: null\n+\tspec.hostname: \"x\""],
    );
    update("pods", json!({}), json!({"spec": {"activeDeadlineSeconds": 5}}), &[]);
    update(
        "pods",
        json!({"spec": {"activeDeadlineSeconds": 5}}),
        json!({"spec": {"activeDeadlineSeconds": 6}}),
        &["spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value"],
    );
    update(
        "pods",
        json!({"spec": {"activeDeadlineSeconds": 5}}),
        json!({}),
        &[
            "spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value",
        ],
    );
    let tolerations = |list: Value| json!({"spec": {"tolerations": list}});
    let one = json!({"key": "a", "operator": "Exists", "effect": "NoExecute"});
    let timed = json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3});
    update("pods", tolerations(json!([one])), tolerations(json!([timed, {"key": "b"}])), &[]);
    update(
        "pods",
        tolerations(json!([one])),
        tolerations(json!([])),
        &[
            "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds",
        ],
    );
    let grace = |seconds: i64| json!({"spec": {"terminationGracePeriodSeconds": seconds}});
    update("pods", grace(-1), grace(1), &[]);
    let gates = |gates: Value| json!({"spec": {"schedulingGates": gates}});
    update("pods", gates(json!([{"name": "a/b"}])), gates(json!([])), &[]);
    update(
        "pods",
        gates(json!([])),
        gates(json!([{"name": "a/b"}])),
        &[
            "spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'a/b'",
        ],
    );
    let mut narrowed = gates(json!([{"name": "a/b"}]));
    narrowed["spec"]["nodeSelector"] = json!({"zone": "a"});
    update("pods", gates(json!([{"name": "a/b"}])), narrowed, &[]);
}

#[test]
fn only_a_binding_sets_the_node() {
    let kind = kind("pods");
    let old = created(kind, valid(kind));
    let mut bound = old.clone();
    bound["spec"]["nodeName"] = "n1".into();
    let refused = lines(&kind.validate_update(&bound, &old));
    assert!(refused[0].ends_with("-\tspec.nodeName: null\n+\tspec.nodeName: \"n1\""), "{refused:?}");
    bound["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "True"}]);
    expect(&kind.validate_update(&bound, &old), &[]);
    let mut moved = bound.clone();
    moved["spec"]["nodeName"] = "n2".into();
    moved["status"]["conditions"] = json!([]);
    assert_eq!(kind.validate_update(&moved, &bound).len(), 1);
}

#[test]
fn pod_statuses() {
    let never = json!({"spec": {"restartPolicy": "Never"}});
    let ended = json!({"containerStatuses": [{"name": "web", "state": {"terminated": {"exitCode": 0}}}]});
    let runs = json!({"containerStatuses": [{"name": "web", "state": {"running": {}}}]});
    status(
        "pods",
        never,
        ended.clone(),
        runs.clone(),
        &["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"],
    );
    status("pods", json!({}), ended, runs, &[]);
    status(
        "pods",
        json!({}),
        json!({}),
        json!({"qosClass": "Guaranteed"}),
        &["status.qosClass: Invalid value: \"Guaranteed\": field is immutable"],
    );
    status(
        "pods",
        json!({}),
        json!({}),
        json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]}),
        &[
            "status.podIPs: Invalid value: [{\"ip\":\"10.0.0.1\"},{\"ip\":\"10.0.0.2\"}]: may specify no more than one IP for \
         each IP family",
        ],
    );
    status(
        "pods",
        json!({}),
        json!({}),
        json!({"podIPs": [{"ip": "x"}]}),
        &[
            "status.podIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ],
    );
}

#[test]
fn pods_are_deleted_gracefully_while_a_node_has_them() {
    #[track_caller]
    fn check(patch: Value, requested: Option<i64>, want: Option<i64>) {
        let kind = kind("pods");
        let mut pod = created(kind, changed(kind, &patch));
        json_patch::merge(&mut pod, &patch);
        assert_eq!(kind.hooks.deletion_grace(&pod, requested), want);
    }
    let bound = json!({"spec": {"nodeName": "n1"}});
    check(json!({}), None, None);
    check(bound.clone(), None, Some(30));
    check(bound.clone(), Some(5), Some(5));
    check(bound.clone(), Some(0), None);
    check(bound, Some(-1), Some(1));
    check(json!({"spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 0}}), None, None);
    check(json!({"spec": {"nodeName": "n1"}, "status": {"phase": "Succeeded"}}), None, None);
}
