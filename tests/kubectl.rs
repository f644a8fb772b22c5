//! The commands of a Kubernetes engineer's first hour, with unmodified kubectl.

use crate::support::{Cluster, eventually, have_kubectl};

/// A controller of `hello`-like pods that stay: the web server on an empty folder.
const CONTROLLER: &str = "
apiVersion: v1
kind: ReplicationController
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {app: web}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: 'registry.local/web:1', ports: [{containerPort: 8080, name: http}]}
";

/// Each of the words is in the text; any run of white space counts as one space.
#[track_caller]
fn has(text: &str, words: &[&str]) {
    let squeezed = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for word in words {
        assert!(squeezed.contains(word), "no {word:?} in\n{text}");
    }
}

#[test]
fn a_first_hour_with_kubectl() {
    if !have_kubectl() {
        return;
    }
    let cluster = Cluster::start();
    cluster.push(&["web", "hello"]);
    let k = |args: &str| cluster.kubectl(args);

    // The cluster.
    has(&k("get nodes -o wide"), &["boat", "Ready", "INTERNAL-IP", cluster.host(), "wasmtime://"]);
    has(&k("version"), &["Server Version: v1.33"]);
    has(
        &k("api-resources"),
        &["pods", "po", "replicationcontrollers", "rc", "endpointslices", "leases", "events.k8s.io/v1"],
    );
    has(&k("get namespaces"), &["default", "kube-system", "kube-public", "kube-node-lease", "Active"]);
    has(&k("get service kubernetes"), &["ClusterIP", "10.96.0.1", "443/TCP"]);

    // Apply, twice; scale.
    has(&cluster.kubectl_input("apply -f -", CONTROLLER), &["replicationcontroller/web created"]);
    k("wait --for=jsonpath='{.status.readyReplicas}'=2 rc/web --timeout=60s");
    let more = CONTROLLER.replace("replicas: 2", "replicas: 3");
    has(&cluster.kubectl_input("apply -f -", &more), &["replicationcontroller/web configured"]);
    k("wait --for=jsonpath='{.status.readyReplicas}'=3 rc/web --timeout=60s");
    k("scale rc web --replicas=2");
    eventually("two pods", || match k("get pods -l app=web -o name").lines().count() {
        2 => Ok(()),
        n => Err(format!("{n} pods")),
    });
    k("wait --for=condition=Ready pod -l app=web --timeout=60s");

    // Look at it.
    let listed = k("get pods -A -o wide");
    has(&listed, &["NAMESPACE", "1/1", "Running", "10.128.", "boat"]);
    let selected = k("get pods -l 'app in (web)' --field-selector status.phase=Running -o name");
    assert_eq!(selected.lines().count(), 2, "{selected}");
    let pod = selected.lines().next().unwrap().trim_start_matches("pod/").to_owned();
    has(
        &k(&format!("get pod {pod} -o yaml")),
        &["kind: Pod", "ownerReferences:", "phase: Running", "qosClass: BestEffort"],
    );
    has(&k(&format!("get pod {pod} -o json")), &["\"kind\": \"Pod\""]);
    assert!(k(&format!("get pod {pod} -o 'jsonpath={{.status.podIP}}'")).starts_with("10.128."));
    let described = k(&format!("describe pod {pod}"));
    has(
        &described,
        &[
            "Controlled By: ReplicationController/web",
            "Image: registry.local/web:1",
            "Ready True",
            "Successfully assigned default/",
            "Pulled",
            "Started container web",
        ],
    );
    has(&k("get events"), &["SuccessfulCreate", "Scheduled", "Started"]);
    has(&k("events --for rc/web"), &["SuccessfulCreate"]);
    has(&k(&format!("logs {pod}")), &["serves /www on port 8080"]);
    has(&k(&format!("logs {pod} -c web --tail=1 --timestamps")), &["Z ", "serves /www"]);
    has(&k("describe rc web"), &["2 current / 2 desired", "2 Running / 0 Waiting"]);
    has(&k("describe node boat"), &["Ready", "KubeletReady", "Allocatable:", &pod]);

    // Services.
    has(&k("expose rc web --port=80 --target-port=http"), &["service/web exposed"]);
    eventually("two endpoints", || {
        let slices = k("get endpoints,endpointslices -l kubernetes.io/service-name!=kubernetes");
        match slices.matches("10.128.").count() {
            n if n >= 2 => Ok(()),
            _ => Err(slices),
        }
    });
    has(&k("describe service web"), &["Endpoints:", "10.128.", ":8080"]);

    // Change it.
    has(&k(&format!("label pod {pod} tier=front")), &["labeled"]);
    has(&k(&format!("annotate pod {pod} note=kept")), &["annotated"]);
    has(&k(&format!("get pod {pod} -L tier")), &["front"]);
    has(&k("patch rc web -p '{\"metadata\":{\"labels\":{\"patched\":\"yes\"}}}'"), &["patched"]);
    has(
        &k("patch rc web --type=json -p '[{\"op\":\"remove\",\"path\":\"/metadata/labels/patched\"}]'"),
        &["patched"],
    );
    has(&k("patch rc web --type=merge -p '{\"spec\":{\"minReadySeconds\":0}}'"), &["patched"]);
    has(
        &cluster.kubectl_env("edit rc web", &[("KUBE_EDITOR", "sed -i s/replicas:.2/replicas:\\ 3/")]),
        &["edited"],
    );
    k("wait --for=jsonpath='{.status.readyReplicas}'=3 rc/web --timeout=60s");

    // Deleted pods are replaced; the watch tells.
    let mut watch = cluster.kubectl_follow("get pods -l app=web -w --output-watch-events");
    watch.until(|line| line.contains("ADDED"));
    k(&format!("delete pod {pod} --timeout=60s"));
    watch.until(|line| line.starts_with("DELETED") && line.contains(&pod));
    k("wait --for=jsonpath='{.status.readyReplicas}'=3 rc/web --timeout=60s");
    assert!(!k("get pods -o name").contains(&pod));

    // Run to completion; follow the log.
    has(&k("run hello --image=registry.local/hello:1 --restart=Never -- kubectl"), &["pod/hello created"]);
    k("wait --for=jsonpath='{.status.phase}'=Succeeded pod/hello --timeout=60s");
    assert_eq!(k("logs hello -f"), "Hello, kubectl, from hello.\n");
    has(&k("get pod hello"), &["Completed", "0/1"]);

    // Namespaces.
    has(&k("create namespace harbour"), &["namespace/harbour created"]);
    has(&cluster.kubectl_input("apply -n harbour -f -", CONTROLLER), &["created"]);
    k("create configmap chart -n harbour --from-literal=depth=3");
    k("create secret generic key -n harbour --from-literal=key=value");
    k("wait -n harbour --for=jsonpath='{.status.readyReplicas}'=2 rc/web --timeout=60s");
    has(
        &k("get configmaps,serviceaccounts -n harbour"),
        &["kube-root-ca.crt", "chart", "serviceaccount/default"],
    );
    has(&k("delete namespace harbour --timeout=60s"), &["deleted"]);
    has(&cluster.kubectl_fails("get namespace harbour", ""), &["NotFound"]);
    assert_eq!(k("get pods -n harbour -o name"), "");

    // And away.
    cluster.kubectl_input("delete -f - --timeout=60s", CONTROLLER);
    k("delete pod/hello service/web");
    eventually("no pods", || match k("get pods -o name") {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    });
}

#[test]
fn pods_that_cannot_run_say_why() {
    if !have_kubectl() {
        return;
    }
    let cluster = Cluster::start();
    cluster.push(&["web", "handler", "hostile"]);
    let pod = |name: &str, image: &str, more: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers: [{{name: main, image: '{image}'{more}}}]\n"
        )
    };
    cluster.kubectl_input("apply -f -", &pod("absent", "registry.local/none:1", ""));
    cluster.kubectl_input(
        "apply -f -",
        &pod("greedy", "registry.local/web:1", ", resources: {requests: {cpu: 5000}}"),
    );
    cluster.kubectl_input("apply -f -", &pod("looping", "registry.local/hostile:1", ", args: [exit, '3']"));
    let handler = pod("handler", "registry.local/handler:1", "")
        .replace("{name: handler}", "{name: handler, annotations: {coracle.dev/http-reuse: often}}");
    cluster.kubectl_input("apply -f -", &handler);
    let describes = |name: &str, words: &[&str]| {
        eventually(name, || {
            let described = cluster.kubectl(&format!("describe pod {name}"));
            match words.iter().find(|word| !described.contains(**word)) {
                None => Ok(()),
                Some(word) => Err(format!("no {word:?} in\n{described}")),
            }
        });
    };
    describes("absent", &["ErrImagePull", "registry.local/none:1", "Failed"]);
    describes("greedy", &["FailedScheduling", "0/1 nodes are available: 1 Insufficient cpu."]);
    describes("looping", &["CrashLoopBackOff", "Exit Code:    ", "Back-off restarting failed container"]);
    let problem = "annotation coracle.dev/http-reuse: Invalid value: \"often\": must be a whole number";
    describes("handler", &["CreateContainerConfigError", problem]);
    let listed = cluster.kubectl("get pods");
    has(&listed, &["Pending", "CrashLoopBackOff"]);
}
