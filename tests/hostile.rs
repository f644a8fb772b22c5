//! Guests that misbehave: contained, and `kubectl describe pod` says what happened.

use crate::support::{Cluster, eventually, have_kubectl};

/// A pod that runs the `hostile` example with one misdeed.
fn misdeed(name: &str, args: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  containers:\n  \
         - name: hostile\n    image: registry.local/hostile:1\n    args: [{args}]\n    \
         resources: {{limits: {{memory: 64Mi}}}}\n"
    )
}

#[test]
fn misdeeds_end_inside_their_pod() {
    if !have_kubectl() {
        return;
    }
    let cluster = Cluster::start();
    cluster.push(&["hostile", "hello"]);
    let secret = cluster.dir().join("pki").join("ca.key");
    let api = cluster.kubectl("config view -o 'jsonpath={.clusters[0].cluster.server}'");
    let api = api.trim_start_matches("https://").to_owned();
    let cases: &[(&str, String, &str, &[&str])] = &[
        ("trap", "trap".into(), "Failed", &["Reason: Error", "unreachable"]),
        ("exits", "exit, \"7\"".into(), "Failed", &["Reason: Error", "Exit Code: "]),
        ("hoards", "hoard".into(), "Failed", &["OOMKilled", "Exit Code: 137"]),
        ("reads", format!("host-file, {}", secret.display()), "Succeeded", &["Completed"]),
        ("reads-etc", "host-file, /etc/passwd".into(), "Succeeded", &["Completed"]),
        ("climbs", "host-file, ../../../../../../etc/passwd".into(), "Succeeded", &["Completed"]),
        ("dials-api", format!("dial, \"{api}\""), "Succeeded", &["Completed"]),
        ("dials-metadata", "dial, \"169.254.169.254:80\"".into(), "Succeeded", &["Completed"]),
    ];
    for (name, args, _, _) in cases {
        cluster.kubectl_input("apply -f -", &misdeed(name, args));
    }
    cluster.kubectl_input("apply -f -", &misdeed("spins", "spin"));
    for (name, _, phase, words) in cases {
        let seen = eventually(name, || {
            let seen = cluster.kubectl(&format!("get pod {name} -o 'jsonpath={{.status.phase}}'"));
            if seen == "Pending" || seen == "Running" { Err(seen) } else { Ok(seen) }
        });
        let described = cluster.kubectl(&format!("describe pod {name}"));
        let described = described.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(&seen, phase, "{described}\n{}", cluster.kubectl(&format!("logs {name}")));
        for word in *words {
            assert!(described.contains(word), "{name}: no {word:?} in\n{described}");
        }
    }

    // The spinner still spins; its neighbours start, and it can be ended at once.
    cluster.kubectl("wait --for=condition=Ready pod/spins --timeout=60s");
    cluster.kubectl("run neighbour --image=registry.local/hello:1 --restart=Never");
    cluster.kubectl("wait --for=jsonpath='{.status.phase}'=Succeeded pod/neighbour --timeout=60s");
    cluster.kubectl("delete pod spins --timeout=30s");
}
