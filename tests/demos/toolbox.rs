use std::fs;

use crate::support::{Cluster, have_kubectl};

/// A web server, which has no commands of its own, with a volume.
const POD: &str = r"
apiVersion: v1
kind: Pod
metadata:
  name: web
spec:
  containers:
    - name: web
      image: registry.local/web:1
      volumeMounts:
        - { name: www, mountPath: /www }
  volumes:
    - name: www
      emptyDir: {}
";

#[test]
fn commands_run_beside_a_module_that_has_none() {
    if !have_kubectl() {
        return;
    }
    let cluster = Cluster::start();
    cluster.push(&["web"]);
    cluster.kubectl_input("apply -f -", POD);
    cluster.kubectl("wait --for=condition=Ready pod/web --timeout=60s");

    assert_eq!(cluster.kubectl("exec web -- ls -d /www"), "/www\n");
    assert_eq!(cluster.kubectl("exec web -- sh -c 'echo $HOSTNAME | wc -c; true && hostname'"), "4\nweb\n");
    let failure = cluster.kubectl_fails("exec web -- sh -c 'ls /none; exit 7'", "");
    assert!(failure.contains("ls: /none: No such file or directory"), "{failure}");
    assert!(failure.contains("command terminated with exit code 7"), "{failure}");
    let counted =
        cluster.kubectl_input("exec -i web -- sh -c 'cat > /www/page; wc -l < /www/page'", "a\nb\n");
    assert_eq!(counted, "2\n");
    let typed = cluster.kubectl_input("exec -i web -- sh", "cd /www\npwd\ncat page |\nsort -r\n");
    assert_eq!(typed, "/www\nb\na\n");

    // The same network as the module's.
    assert_eq!(cluster.kubectl("exec web -- wget -qO- http://localhost:8080/page"), "a\nb\n");
    let request =
        "printf \"GET /none HTTP/1.1\\r\\nconnection: close\\r\\n\\r\\n\" | nc localhost 8080 | head -n1";
    assert_eq!(cluster.kubectl(&format!("exec web -- sh -c '{request}'")), "HTTP/1.1 404 Not Found\r\n");
    let talk = "HEAD /page HTTP/1.1\r\nconnection: close\r\n\r\n";
    assert!(
        cluster.kubectl_input("exec -i web -- nc localhost 8080", talk).starts_with("HTTP/1.1 200 OK\r\n")
    );
}

#[test]
fn trees_are_copied_both_ways() {
    if !have_kubectl() {
        return;
    }
    let cluster = Cluster::start();
    cluster.push(&["web"]);
    cluster.kubectl_input("apply -f -", POD);
    cluster.kubectl("wait --for=condition=Ready pod/web --timeout=60s");

    // Compiles the toolbox, which takes a busy machine longer than kubectl lets the first question of `cp` take.
    cluster.kubectl("exec web -- true");
    let (here, large) = (tempfile::tempdir().unwrap(), (0..=255).cycle().take(3 << 20).collect::<Vec<u8>>());
    let path = |name: &str| here.path().join(name);
    fs::create_dir_all(path("tree/deep/er")).unwrap();
    fs::write(path("tree/page"), "copied").unwrap();
    fs::write(path("tree/deep/er/large"), &large).unwrap();
    cluster.kubectl(&format!("cp {} web:/www/tree", path("tree").display()));
    assert_eq!(
        cluster.kubectl("exec web -- find /www/tree"),
        "/www/tree\n/www/tree/deep\n/www/tree/deep/er\n/www/tree/deep/er/large\n/www/tree/page\n"
    );
    assert_eq!(cluster.kubectl("exec web -- wget -qO- localhost:8080/tree/page"), "copied");
    cluster.kubectl(&format!("cp web:/www/tree {}", path("back").display()));
    assert_eq!(fs::read_to_string(path("back/page")).unwrap(), "copied");
    assert!(fs::read(path("back/deep/er/large")).unwrap() == large, "3 MiB are the same bytes");
}
