//! What is refused, in Kubernetes' words: one line per cause, `field: message`.

use super::*;

#[track_caller]
fn expect(causes: &[FieldCause], want: &[&str]) {
    assert_eq!(lines(causes), want);
}

/// What is wrong with creating the valid object changed by `patch`.
#[track_caller]
fn create(name: &str, patch: Value, want: &[&str]) {
    let kind = kind(name);
    expect(&kind.validate_create(&created(kind, changed(kind, &patch))), want);
}

/// What is wrong with replacing the valid object changed by `old` by the same changed by `new`.
#[track_caller]
fn update(name: &str, old: Value, new: Value, want: &[&str]) {
    let kind = kind(name);
    let before = created(kind, changed(kind, &old));
    let after = updated(kind, changed(kind, &new), &before);
    expect(&kind.validate_update(&after, &before), want);
}

/// What is wrong with the status `new` where it was `old`.
#[track_caller]
fn status(name: &str, patch: Value, old: Value, new: Value, want: &[&str]) {
    let kind = kind(name);
    let mut before = created(kind, changed(kind, &patch));
    json_patch::merge(&mut before["status"], &old);
    let mut after = before.clone();
    json_patch::merge(&mut after["status"], &new);
    expect(&kind.validate_status(&after, &before), want);
}

/// A pod whose only container is changed by `patch`.
fn container(patch: Value) -> Value {
    let mut container = json!({"name": "web", "image": "web"});
    json_patch::merge(&mut container, &patch);
    json!({"spec": {"containers": [container]}})
}

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
    start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
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
        update("configmaps", json!({"metadata": {"uid": "1"}}), json!({"metadata": patch}), want)
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
    check(bound.clone(), Some(-1), Some(1));
    check(json!({"spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 0}}), None, None);
    check(json!({"spec": {"nodeName": "n1"}, "status": {"phase": "Succeeded"}}), None, None);
}
