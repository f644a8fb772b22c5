//! Autoscaling by what nodes measure, quotas that count, and what `kubectl top` shows.

use std::{io::Write, net::TcpStream};

use crate::support::{Cluster, eventually, have_kubectl, http_get};

/// A module that uses all the CPU it gets.
const BURNER: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: burner}
spec:
  selector: {matchLabels: {app: burner}}
  template:
    metadata: {labels: {app: burner}}
    spec:
      containers:
      - name: burner
        image: registry.local/burner:1
        resources: {requests: {cpu: 50m}}
";

/// A server behind a node port, of which there are more where its pods are busier than this on average.
const SERVER: &str = "
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME}
spec:
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}
    spec:
      containers:
      - name: NAME
        image: registry.local/NAME:1
---
apiVersion: v1
kind: Service
metadata: {name: NAME}
spec:
  type: NodePort
  selector: {app: NAME}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: NAME}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: NAME}
  maxReplicas: MOST
  metrics:
  - type: Pods
    pods:
      metric: {name: METRIC}
      target: {type: AverageValue, averageValue: BUSY}
";

fn server(name: &str, most: &str, metric: &str, busy: &str) -> String {
    let words = [("NAME", name), ("MOST", most), ("METRIC", metric), ("BUSY", busy)];
    words.iter().fold(SERVER.to_owned(), |text, (word, value)| text.replace(word, value))
}

#[test]
fn load_brings_pods() {
    if !have_kubectl() {
        return;
    }
    let cluster = Cluster::start();
    cluster.push(&["burner", "web", "handler"]);
    let loads = [
        BURNER.to_owned(),
        server("web", "3", "tcp_connections", "2"),
        server("handler", "2", "http_requests_per_second", "500m"),
    ];
    cluster.kubectl_input("apply -f -", &loads.concat());
    cluster.kubectl("wait --for=condition=Available deployment --all --timeout=60s");
    cluster.kubectl("autoscale deployment burner --cpu-percent=50 --min=1 --max=2");

    // Clients that never get to the end of what they ask.
    let address = cluster.node_port("web", "");
    let connect = || {
        let mut client = TcpStream::connect(&address).map_err(|error| error.to_string())?;
        client.write_all(b"GET / HTTP/1.1\r\nx-story: ").map_err(|error| error.to_string())?;
        Ok(client)
    };
    let mut clients: Vec<TcpStream> = (0..6).map(|_| eventually("a connection", connect)).collect();
    let handler = cluster.node_port("handler", "");
    let mut scaled = |name: &str, replicas: &str| {
        eventually("more pods", || {
            // Requests that come and go, each time this asks: some twenty a second.
            http_get(&handler, "/")?;
            for client in &mut clients {
                client.write_all(b"and ").unwrap();
            }
            match cluster.kubectl(&format!("get deployment {name} -o jsonpath={{.spec.replicas}}")) {
                now if now == replicas => Ok(()),
                now => Err(format!("{now} {name}; {}", cluster.kubectl(&format!("describe hpa {name}")))),
            }
        });
    };
    scaled("burner", "2");
    scaled("web", "3");
    scaled("handler", "2");
    drop(clients);

    let described = cluster.kubectl("describe hpa burner");
    assert!(described.contains("ScalingActive   True    ValidMetricFound"), "{described}");
    assert!(
        described
            .contains("New size: 2; reason: cpu resource utilization (percentage of request) above target"),
        "{described}"
    );
    let shown = cluster.kubectl("get hpa burner --no-headers");
    assert!(shown.contains("%/50%") && !shown.contains("<unknown>"), "{shown}");

    // What scaled it is shown, too.
    let shown = cluster.kubectl("top pod -l app=burner --no-headers");
    let cpu = shown.split_whitespace().nth(1).and_then(|cpu| cpu.strip_suffix('m')?.parse::<u64>().ok());
    assert!(cpu.is_some_and(|cpu| cpu > 50), "{shown}");
    let shown = cluster.kubectl("top node --no-headers");
    assert!(shown.starts_with("boat ") && shown.matches('%').count() == 2, "{shown}");
}

#[test]
fn a_quota_is_charged_and_freed() {
    if !have_kubectl() {
        return;
    }
    let cluster = Cluster::start();
    cluster.push(&["web"]);
    cluster.kubectl("create quota small --hard=pods=2,requests.cpu=1,count/deployments.apps=1,secrets=5");
    let used = || cluster.kubectl("get quota small -o 'jsonpath={.status.used}'");
    let shows = |expected: &str| {
        eventually(expected, || match used() {
            now if now == expected => Ok(()),
            now => Err(now),
        });
    };
    shows(r#"{"count/deployments.apps":"0","pods":"0","requests.cpu":"0","secrets":"0"}"#);
    let pod = |name: &str, cpu: &str| {
        format!(
            r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}"}}, "spec": {{"containers": [
                {{"name": "web", "image": "registry.local/web:1", "resources": {{"requests": {{"cpu": "{cpu}"}}}}}}]}}}}"#
        )
    };
    cluster.kubectl_input("create -f -", &pod("a", "100m"));
    cluster.kubectl_input("create -f -", &pod("b", "0.5"));
    let refused = cluster.kubectl_fails("create -f -", &pod("c", "1m"));
    assert!(
        refused
            .contains("forbidden: exceeded quota: small, requested: pods=1, used: pods=2, limited: pods=2"),
        "{refused}"
    );
    cluster.kubectl("create deployment web --image=registry.local/web:1 --replicas=0");
    let refused = cluster.kubectl_fails("create deployment more --image=registry.local/web:1", "");
    assert!(refused.contains("exceeded quota: small, requested: count/deployments.apps=1"), "{refused}");
    shows(r#"{"count/deployments.apps":"1","pods":"2","requests.cpu":"600m","secrets":"0"}"#);

    cluster.kubectl("delete pod/b deployment/web --now");
    shows(r#"{"count/deployments.apps":"0","pods":"1","requests.cpu":"100m","secrets":"0"}"#);
    cluster.kubectl_input("create -f -", &pod("c", "900m"));
    shows(r#"{"count/deployments.apps":"0","pods":"2","requests.cpu":"1","secrets":"0"}"#);
    let described = cluster.kubectl("describe quota small");
    assert!(described.contains("pods                    2     2"), "{described}");
}
