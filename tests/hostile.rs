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

/// A module of these functions, each with so many local variables: small to read, endless to compile. `tail` makes it
/// another one.
fn bomb(functions: u32, locals: u32, tail: u8) -> Vec<u8> {
    let number = |mut value: u32| {
        let mut bytes = Vec::new();
        loop {
            let byte = (value & 0x7f) as u8;
            value >>= 7;
            if value == 0 {
                bytes.push(byte);
                return bytes;
            }
            bytes.push(byte | 0x80);
        }
    };
    let section = |id: u8, content: &[u8]| {
        [&[id][..], &number(u32::try_from(content.len()).unwrap()), content].concat()
    };
    let body = [&[1][..], &number(locals), &[0x7e, 0x0b]].concat();
    let body = [number(u32::try_from(body.len()).unwrap()), body].concat();
    let many = |item: &[u8]| [number(functions), item.repeat(functions as usize)].concat();
    let exports = b"\x02\x06memory\x02\x00\x06_start\x00\x00";
    [
        &b"\0asm\x01\0\0\0"[..],
        &section(1, &[1, 0x60, 0, 0]),
        &section(3, &many(&[0])),
        &section(5, &[1, 0, 1]),
        &section(7, exports),
        &section(10, &many(&body)),
        &section(0, &[1, b't', tail]),
    ]
    .concat()
}

/// Modules that take for ever to compile: each says so, is not tried again at once, and another namespace's module
/// is compiled meanwhile.
#[test]
fn compile_bombs_end_and_hold_nobody_up() {
    if !have_kubectl() {
        return;
    }
    let cluster = Cluster::start_with(&["--compile-seconds", "1"]);
    cluster.push(&["hello"]);
    cluster.kubectl("create namespace quiet");
    let file = cluster.dir().join("bomb.wasm");
    for number in 0..4 {
        std::fs::write(&file, bomb(4_000, 49_000, number)).unwrap();
        cluster.push_file(&file, &format!("bomb{number}:1"));
        cluster.kubectl(&format!("run bomb{number} --image=registry.local/bomb{number}:1"));
    }
    cluster.kubectl("run quiet -n quiet --image=registry.local/hello:1 --restart=Never");
    let succeeded = "wait -n quiet --for=jsonpath='{.status.phase}'=Succeeded pod/quiet --timeout=60s";
    cluster.kubectl(succeeded);
    for number in 0..4 {
        let path = "{.status.containerStatuses[0].state.waiting}";
        let waiting = eventually("the bomb", || {
            let waiting = cluster.kubectl(&format!("get pod bomb{number} -o 'jsonpath={path}'"));
            if waiting.contains("CreateContainerError") { Ok(waiting) } else { Err(waiting) }
        });
        // On a busy machine the clock on the wall is first.
        let limits = ["compiling took more than 1s of CPU time", "compiling took more than 6s"];
        assert!(limits.iter().any(|limit| waiting.contains(limit)), "{waiting}");
    }
}
