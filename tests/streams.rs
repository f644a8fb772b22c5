//! What kubectl carries into pods and out of them: exec, cp, attach, run, port-forward, proxy.

use std::fs;

use crate::support::{Cluster, eventually, have_kubectl, http_get};

/// A web server over an empty volume, behind a service.
const WEB: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers:
  - name: web
    image: registry.local/web:1
    env: [{name: GREETING, value: ahoy}]
    ports: [{name: http, containerPort: 8080}]
    volumeMounts: [{name: www, mountPath: /www}]
  volumes: [{name: www, emptyDir: {medium: Memory}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
";

/// The toolbox beside volumes that are soon full.
const SMALL: &str = "
apiVersion: v1
kind: Pod
metadata: {name: small}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: toolbox
    image: registry.local/coracle/toolbox:latest
    command: [sleep, infinity]
    volumeMounts: [{name: disk, mountPath: /disk}, {name: memory, mountPath: /memory}]
  volumes:
  - {name: disk, emptyDir: {sizeLimit: 64Ki}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 64Ki}}
";

/// The toolbox as a pod's own image.
const TOOLBOX: &str = "registry.local/coracle/toolbox:latest";

#[test]
fn kubectl_reaches_into_pods() {
    if !have_kubectl() {
        return;
    }
    let cluster = Cluster::start();
    cluster.push(&["web"]);
    cluster.kubectl_input("apply -f -", WEB);
    cluster.kubectl("wait --for=condition=Ready pod/web --timeout=60s");

    exec(&cluster);
    cp(&cluster);
    troubles(&cluster);
    proxy(&cluster);
    port_forward(&cluster);
    run_and_attach(&cluster);
}

fn exec(cluster: &Cluster) {
    let k = |args: &str| cluster.kubectl(args);
    assert_eq!(k("exec web -- echo one 'two  three'"), "one two  three\n");
    assert_eq!(k("exec web -c web -- sh -c 'echo $GREETING; ls -d /www'"), "ahoy\n/www\n");
    assert_eq!(cluster.kubectl_input("exec -i web -- cat", "through\nstdin"), "through\nstdin");
    let long = "0123456789abcdef".repeat(200_000);
    let counted = cluster.kubectl_input("exec -i web -- wc -c", &long);
    assert_eq!(counted.trim(), long.len().to_string());
    let failed = cluster.kubectl_fails("exec web -- sh -c 'echo oops >&2; exit 7'", "");
    assert_eq!(failed, "oops\ncommand terminated with exit code 7\n");
    let failed = cluster.kubectl_fails("exec web -c nobody -- true", "");
    assert!(failed.contains("container nobody is not valid for pod web"), "{failed}");
}

fn cp(cluster: &Cluster) {
    let dir = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
    fs::create_dir(dir.path().join("site")).unwrap();
    fs::write(dir.path().join("site/page.bin"), &content).unwrap();
    fs::write(dir.path().join("site/index.html"), "welcome").unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    cluster.kubectl(&format!("cp {} web:/www/", at("site")));
    assert_eq!(cluster.kubectl("exec web -- cat /www/site/index.html"), "welcome");
    cluster.kubectl(&format!("cp web:/www/site {}", at("back")));
    assert_eq!(fs::read(dir.path().join("back/index.html")).unwrap(), b"welcome");
    assert!(fs::read(dir.path().join("back/page.bin")).unwrap() == content);
    // Of what goes wrong kubectl says the code here, and what was said about it on its standard output.
    let failed = cluster.kubectl_fails(&format!("cp web:/www/none {}", at("none")), "");
    assert!(failed.ends_with("command terminated with exit code 1\n"), "{failed}");
    let failed = cluster.kubectl_fails("exec web -- tar cf - /www/none", "");
    assert!(failed.contains("tar: /www/none: No such file or directory\n"), "{failed}");
}

/// What a command says that the toolbox does not have, and that finds no room.
fn troubles(cluster: &Cluster) {
    cluster.kubectl_input("apply -f -", SMALL);
    cluster.kubectl("wait --for=condition=Ready pod/small --timeout=60s");
    let fails = |args: &str| cluster.kubectl_fails(args, "");
    assert_eq!(
        fails("exec small -- nonsense"),
        "nonsense: not found\ncommand terminated with exit code 127\n"
    );
    assert_eq!(
        fails("exec small -- nonsense -x y"),
        "nonsense: not found\ncommand terminated with exit code 127\n"
    );
    assert_eq!(
        fails("exec small -- sh -c 'nonsense'"),
        "sh: nonsense: not found\ncommand terminated with exit code 127\n"
    );
    for volume in ["disk", "memory"] {
        let full = fails(&format!("exec small -- sh -c 'seq 100000 > /{volume}/f'"));
        assert!(full.contains("No space left on device"), "{volume}: {full}");
    }
}

fn proxy(cluster: &Cluster) {
    let raw = |path: &str| cluster.kubectl(&format!("get --raw /api/v1/namespaces/default/{path}"));
    assert_eq!(raw("pods/web:8080/proxy/site/index.html"), "welcome");
    eventually("an endpoint of the service", || {
        match cluster
            .kubectl("get endpointslices -l kubernetes.io/service-name=web -o yaml")
            .contains("10.128.")
        {
            true => Ok(()),
            false => Err("none".into()),
        }
    });
    assert_eq!(raw("services/web:80/proxy/site/index.html"), "welcome");
}

fn port_forward(cluster: &Cluster) {
    for target in ["pod/web :8080", "service/web :80"] {
        let mut forward = cluster.kubectl_follow(&format!("port-forward {target}"));
        let line = forward.until(|line| line.contains("Forwarding from 127.0.0.1:"));
        let address = line.split_whitespace().find(|word| word.starts_with("127.0.0.1:")).unwrap();
        for _ in 0..5 {
            let (_, body) = http_get(address, "/site/index.html").unwrap();
            assert_eq!(body, "welcome");
        }
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let address = address.to_owned();
                std::thread::spawn(move || http_get(&address, "/site/index.html").unwrap().1)
            })
            .collect();
        for client in clients {
            assert_eq!(client.join().unwrap(), "welcome");
        }
    }
}

fn run_and_attach(cluster: &Cluster) {
    let run = format!("run typist -i --rm --quiet --restart=Never --image={TOOLBOX} -- cat");
    let shown = cluster.kubectl_input(&run, "typed\n");
    assert_eq!(shown, "typed\n");
    eventually("the pod is removed", || match cluster.kubectl("get pods -o name") {
        names if names.contains("pod/typist") => Err(names),
        _ => Ok(()),
    });

    // A container that speaks by itself.
    let script = "while true; do echo tick; sleep 0.2; done";
    cluster.kubectl(&format!("run ticker --image={TOOLBOX} --command -- sh -c '{script}'"));
    cluster.kubectl("wait --for=condition=Ready pod/ticker --timeout=60s");
    let mut attached = cluster.kubectl_follow("attach ticker");
    attached.until(|line| line == "tick");
    drop(attached);
    let mut followed = cluster.kubectl_follow("logs -f ticker --tail=1");
    followed.until(|line| line == "tick");
    // A kubectl that is killed takes with it what it ran, and nothing else.
    let mut sleeper = cluster.kubectl_follow("exec ticker -- sh -c 'echo up; sleep 3600'");
    sleeper.until(|line| line == "up");
    drop(sleeper);
    cluster.kubectl("exec ticker -- true");
    cluster.kubectl("delete pod ticker --now");
    while followed.line().is_some() {}
}
