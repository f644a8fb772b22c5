//! What pods may reach: NetworkPolicies by kubectl, the events of what was denied, and the names that programs find,
//! those that speak DNS themselves too.

use crate::support::{Cluster, eventually, have_kubectl};

const PODS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ipFamilyPolicy: PreferDualStack, selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers: [{name: web, image: 'registry.local/web:1', ports: [{containerPort: 8080, name: http}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec:
  hostAliases: [{ip: 192.0.2.7, hostnames: [example.test]}]
  containers: [{name: web, image: 'registry.local/web:1'}]
";

const DENY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: default-deny}
spec: {podSelector: {}, policyTypes: [Ingress]}
";

const ALLOW: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-client}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
    ports: [{port: http}]
";

#[test]
fn a_policy_shuts_a_pod_and_another_opens_it() {
    if !have_kubectl() {
        return;
    }
    let cluster = Cluster::start();
    cluster.push(&["web"]);
    let k = |args: &str| cluster.kubectl(args);
    cluster.kubectl_input("apply -f -", PODS);
    k("wait --for=condition=Ready pod/web pod/client --timeout=60s");
    let try_it = |host: &str| k(&format!("exec client -- sh -c 'nc -z {host} && echo open || echo shut'"));
    let becomes = |state: &str| {
        eventually("the policy to hold", || {
            let now = try_it("web 80");
            if now.trim() == state { Ok(()) } else { Err(now) }
        });
    };
    becomes("open");
    assert_eq!(try_it("kubernetes.default.svc 443").trim(), "open");

    cluster.kubectl_input("apply -f -", DENY);
    becomes("shut");
    let words = cluster.kubectl_fails("exec client -- nc -z web 80", "").to_lowercase();
    assert!(words.contains("denied"), "{words}");
    eventually("the event", || {
        let events = k("get events --field-selector reason=NetworkPolicyDenied,involvedObject.name=client");
        if events.contains("no NetworkPolicy of the destination allows it") { Ok(()) } else { Err(events) }
    });
    k("wait --for=condition=Ready pod/web --timeout=10s");

    cluster.kubectl_input("apply -f -", ALLOW);
    let table = k("get netpol");
    assert!(table.contains("POD-SELECTOR") && table.contains("app=web"), "{table}");
    becomes("open");

    let hosts = k("exec client -- cat /etc/hosts");
    assert!(hosts.contains("192.0.2.7\texample.test") && hosts.contains("\tclient\n"), "{hosts}");
    let resolv = k("exec client -- cat /etc/resolv.conf");
    assert!(
        resolv.contains("search default.svc.cluster.local svc.cluster.local cluster.local\n"),
        "{resolv}"
    );
    assert!(resolv.contains("nameserver 10.96.0.10\n"), "{resolv}");
    assert!(k("get service -n kube-system kube-dns").contains("53/UDP,53/TCP"));
    assert_eq!(k("exec client -- cat /etc/hostname"), "client\n");

    // To the server that the file names, by the names that it lists: over UDP, and over TCP.
    let ips = k("get service web -o jsonpath={.spec.clusterIPs[*]}");
    let ips: Vec<&str> = ips.split(' ').collect();
    let name = "web.default.svc.cluster.local";
    let address = format!("{} 10.96.0.10", ips[0]);
    let reverse: Vec<&str> = ips[0].rsplit('.').collect();
    let reverse = format!("{}.in-addr.arpa\tname = {name}.\n", reverse.join("."));
    for circuit in ["", "-vc "] {
        for (question, answer) in [
            ("-type=A web", format!("Name:\t{name}\nAddress: {}\n", ips[0])),
            ("-type=AAAA web.default", format!("Name:\t{name}\nAddress: {}\n", ips[1])),
            (address.as_str(), reverse.clone()),
            ("-type=SRV _http._tcp.web", format!("_http._tcp.{name}\tservice = 0 100 80 {name}.\n")),
        ] {
            let server = "Server:\t\t10.96.0.10\nAddress:\t10.96.0.10#53\n\n";
            assert_eq!(
                k(&format!("exec client -- nslookup {circuit}{question}")),
                format!("{server}{answer}")
            );
        }
        let nobody =
            format!("exec client -- nslookup {circuit}-type=A nobody.default.svc.cluster.local. 10.96.0.10");
        let words = cluster.kubectl_fails(&nobody, "");
        assert!(
            words.contains("** server can't find nobody.default.svc.cluster.local.: NXDOMAIN"),
            "{words}"
        );
    }
    let node = k("get nodes -o jsonpath={.items[0].metadata.name}");
    let metrics = k(&format!("get --raw /api/v1/nodes/{node}/proxy/metrics"));
    let counted = "coracle_network_denied_total{namespace=\"default\",pod=\"client\",reason=\"network-policy-ingress\"}";
    assert!(metrics.contains(counted), "{metrics}");
}
