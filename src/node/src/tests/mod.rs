//! The agent with everything real around it but the store.

mod bench;
mod guests;
mod room;
mod setup;
mod streams;

use std::time::Duration;

use bench::{Bench, condition, container, is_ready, phase, waiting};
use k8s_openapi::api::core::v1::ContainerState;
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_runs_to_success_and_its_log_stays() {
    let bench = Bench::new().await;
    bench.push("registry.local/hello:1", guests::prints("hello\nworld", 0)).await;
    bench
        .create(
            "hello",
            json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "registry.local/hello:1"}]}),
        )
        .await;
    let pod = bench.pod("hello", |pod| phase(pod) == "Succeeded").await;
    let end = container(&pod).state.unwrap().terminated.unwrap();
    assert_eq!((end.exit_code, end.reason.as_deref()), (0, Some("Completed")));
    assert!(end.started_at.is_some() && end.finished_at.is_some());
    assert!(container(&pod).image_id.starts_with("registry.local/hello@sha256:"));
    assert!(container(&pod).container_id.unwrap().starts_with("coracle://"));
    let status = pod.status.unwrap();
    assert!(status.pod_ip.unwrap().starts_with("10.128."));
    assert!(status.start_time.is_some());

    let log = "/containerLogs/default/hello/c";
    assert_eq!(bench.get(log).await, (200, "hello\nworld\n".into()));
    assert_eq!(bench.get(&format!("{log}?tailLines=1")).await, (200, "world\n".into()));
    assert_eq!(bench.get(&format!("{log}?follow=true&limitBytes=3")).await, (200, "hel".into()));
    assert_eq!(bench.get("/containerLogs/default/hello/x").await.0, 404);
    let (code, text) = bench.get(&format!("{log}?previous=true")).await;
    assert_eq!(
        (code, text.as_str()),
        (400, "previous terminated container \"c\" in pod \"hello\" not found")
    );

    let pulled = bench.events("hello", "Pulled").await;
    assert_eq!(pulled, ["Container image \"registry.local/hello:1\" already present on machine"]);
    assert_eq!(bench.events("hello", "Created").await, ["Created container: c"]);
    assert_eq!(bench.events("hello", "Started").await, ["Started container c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashes_are_restarted_and_explained() {
    let bench = Bench::new().await;
    bench.push("registry.local/fails:1", guests::prints("oops\n", 3)).await;
    bench.push("registry.local/traps:1", guests::traps()).await;
    bench.create("fails", json!({"containers": [{"name": "c", "image": "registry.local/fails:1"}]})).await;
    let spec =
        json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "registry.local/traps:1"}]});
    bench.create("traps", spec).await;

    let pod = bench.pod("fails", |pod| waiting(pod) == "CrashLoopBackOff").await;
    assert_eq!((phase(&pod), is_ready(&pod)), ("Running", false));
    let status = container(&pod);
    assert_eq!(status.restart_count, 1, "the first restart is immediate");
    assert_eq!(status.last_state.unwrap().terminated.unwrap().exit_code, 3);
    let message = status.state.unwrap().waiting.unwrap().message.unwrap();
    assert!(
        message.starts_with("back-off 10s restarting failed container=c pod=fails_default("),
        "{message}"
    );
    assert_eq!(bench.get("/containerLogs/default/fails/c?previous=true").await, (200, "oops\n".into()));
    assert_eq!(bench.events("fails", "BackOff").await.len(), 1);

    let pod = bench.pod("traps", |pod| phase(pod) == "Failed").await;
    let end = container(&pod).state.unwrap().terminated.unwrap();
    assert_eq!((end.exit_code, end.reason.as_deref()), (134, Some("Error")));
    assert!(end.message.unwrap().contains("unreachable"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_pod_leaves_nothing() {
    let bench = Bench::new().await;
    bench.push("registry.local/sleeps:1", guests::sleeps("up\n")).await;
    bench
        .create(
            "p",
            json!({
                "containers": [{
                    "name": "c", "image": "registry.local/sleeps:1",
                    "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                }],
                "volumes": [{"name": "v", "emptyDir": {}}],
            }),
        )
        .await;
    bench.pod("p", is_ready).await;
    bench.log("p", "up\n").await;
    assert_eq!(bench.folders().len(), 2);
    let follow = bench.get("/containerLogs/default/p/c?follow=true");
    let (log, ()) = tokio::join!(follow, async {
        bench.delete("p").await;
        bench.gone("p").await;
    });
    assert_eq!(log, (200, "up\n".into()), "a follower comes to its end with the container");
    assert_eq!(bench.events("p", "Killing").await, ["Stopping container c"]);
    assert_eq!(bench.folders(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_pod_lacks_is_named_and_waited_for() {
    let bench = Bench::new().await;
    bench.push("registry.local/sleeps:1", guests::sleeps("")).await;
    let container = json!({"name": "c", "image": "registry.local/sleeps:1"});
    let mut with_env = container.clone();
    with_env["envFrom"] = json!([{"configMapRef": {"name": "late"}}]);
    bench.create("env", json!({"containers": [with_env]})).await;
    let mut mounted = container.clone();
    mounted["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    let volume = json!({"name": "v", "configMap": {"name": "late"}});
    bench.create("mounts", json!({"containers": [mounted], "volumes": [volume]})).await;
    let mut absent = container.clone();
    absent["image"] = "registry.local/absent:1".into();
    bench.create("pulls", json!({"containers": [absent]})).await;
    bench.push("registry.local/refused:1", guests::sleeps("")).await;
    let mut refused = container.clone();
    refused["image"] = "registry.local/refused:1".into();
    bench.create("refused", json!({"containers": [refused]})).await;

    bench.pod("env", |pod| waiting(pod) == "CreateContainerConfigError").await;
    bench.pod("mounts", |pod| waiting(pod) == "ContainerCreating").await;
    let messages = bench.events("mounts", "FailedMount").await;
    assert_eq!(messages, ["MountVolume.SetUp failed for volume \"v\" : configmap \"late\" not found"]);
    bench.pod("refused", |pod| waiting(pod) == "SignatureValidationFailed").await;
    let refusal = "Failed to pull image \"registry.local/refused:1\": SignatureValidationFailed: Source image \
                   registry.local/refused:1 rejected: Running images of \"registry.local/refused\" is rejected by policy";
    let events = bench.events("refused", "Failed").await;
    assert!(events.contains(&refusal.to_owned()), "{events:?}");
    bench.pod("pulls", |pod| waiting(pod) == "ErrImagePull").await;
    bench.pod("pulls", |pod| waiting(pod) == "ImagePullBackOff").await;
    let (code, text) = bench.get("/containerLogs/default/pulls/c").await;
    assert_eq!(code, 400);
    assert_eq!(
        text,
        "container \"c\" in pod \"pulls\" is waiting to start: trying and failing to pull image"
    );

    bench.create_config_map("late", json!({"KEY": "value"})).await;
    bench.pod("env", is_ready).await;
    bench.pod("mounts", is_ready).await;
    for pod in ["env", "mounts", "pulls", "refused"] {
        bench.delete(pod).await;
        bench.gone(pod).await;
    }
    bench.unwatched().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_image_takes_over() {
    let bench = Bench::new().await;
    bench.push("registry.local/sleeps:1", guests::sleeps("one\n")).await;
    bench.push("registry.local/sleeps:2", guests::sleeps("two\n")).await;
    let spec = |image: &str| json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": image}]});
    bench.create("runs", spec("registry.local/sleeps:1")).await;
    bench.create("typo", spec("registry.local/slepes:1")).await;
    bench.create("invalid", spec("registry.local/Sleeps:1")).await;
    let before = bench.pod("runs", is_ready).await;
    bench.log("runs", "one\n").await;
    bench.set_image("runs", "registry.local/sleeps:2").await;
    let after = bench.pod("runs", |pod| is_ready(pod) && container(pod).restart_count == 1).await;
    let [before, after] = [before, after].map(|pod| container(&pod));
    let last = after.last_state.unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.container_id), (143, before.container_id));
    assert_ne!(after.image_id, before.image_id);
    assert_eq!(bench.events("runs", "Killing").await, ["Container c definition changed, will be restarted"]);
    bench.log("runs", "two\n").await;
    assert_eq!(bench.get("/containerLogs/default/runs/c?previous=true").await, (200, "one\n".into()));

    for (pod, reason) in [("typo", "ImagePullBackOff"), ("invalid", "InvalidImageName")] {
        bench.pod(pod, |pod| waiting(pod) == reason).await;
        bench.set_image(pod, "registry.local/sleeps:1").await;
        let repaired = bench.pod(pod, is_ready).await;
        assert_eq!(container(&repaired).restart_count, 0, "{pod}");
    }
    // What runs now fails to become something that does not exist, and comes back from there.
    bench.set_image("runs", "registry.local/absent:1").await;
    let pod = bench.pod("runs", |pod| waiting(pod) == "ImagePullBackOff").await;
    assert_eq!(phase(&pod), "Running");
    bench.set_image("runs", "registry.local/sleeps:1").await;
    bench.pod("runs", |pod| is_ready(pod) && container(pod).restart_count == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_survive_their_agent() {
    let mut bench = Bench::new().await;
    bench.push("registry.local/sleeps:1", guests::sleeps("up\n")).await;
    let containers = json!([{"name": "c", "image": "registry.local/sleeps:1"}]);
    bench.create("always", json!({"containers": containers})).await;
    bench.create("never", json!({"restartPolicy": "Never", "containers": containers})).await;
    bench.create("deleted", json!({"containers": containers})).await;
    // One whose first init container was through when the second was lost, and one with an end to come.
    bench.push("registry.local/hello:1", guests::prints("", 0)).await;
    let init = json!([
        {"name": "first", "image": "registry.local/hello:1"},
        {"name": "second", "image": "registry.local/sleeps:1"},
    ]);
    for (name, policy) in [("never-initialized", "Never"), ("deleted-meanwhile", "OnFailure")] {
        let spec = json!({"restartPolicy": policy, "initContainers": init, "containers": containers});
        bench.create(name, spec).await;
        bench.pod(name, |pod| init_states(pod) == ["terminated", "running"]).await;
    }
    let over = json!([{"name": "c", "image": "registry.local/hello:1"}]);
    bench.create("over", json!({"restartPolicy": "Never", "containers": over})).await;
    bench.pod("over", |pod| phase(pod) == "Succeeded").await;
    let before = bench.pod("always", is_ready).await;
    bench.pod("never", is_ready).await;
    bench.pod("deleted", is_ready).await;
    bench.log("always", "up\n").await;
    bench.stop_node().await;
    bench.delete("deleted").await;
    bench.delete("deleted-meanwhile").await;
    std::fs::create_dir_all(bench.data_dir().join("pods/of-a-pod-that-is-gone")).unwrap();
    bench.start_node().await;

    let after = bench.pod("always", |pod| is_ready(pod) && container(pod).restart_count == 1).await;
    assert_eq!(after.metadata.uid, before.metadata.uid);
    let ip = |pod: &k8s_openapi::api::core::v1::Pod| pod.status.clone().unwrap().pod_ip.unwrap();
    assert_eq!(ip(&after), ip(&before));
    let last = container(&after).last_state.unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (137, Some("ContainerStatusUnknown")));
    assert_eq!(bench.get("/containerLogs/default/always/c?previous=true").await, (200, "up\n".into()));

    let never = bench.pod("never", |pod| phase(pod) == "Failed").await;
    assert_eq!(container(&never).restart_count, 0);
    bench.gone("deleted").await;
    let never = bench.pod("never-initialized", |pod| phase(pod) == "Failed").await;
    assert_eq!(init_states(&never), ["terminated", "terminated"]);
    bench.gone("deleted-meanwhile").await;
    bench.nothing_recalled().await;
    assert!(!bench.data_dir().join("pods/of-a-pod-that-is-gone").exists());
}

/// What its init containers do.
fn init_states(pod: &k8s_openapi::api::core::v1::Pod) -> Vec<&'static str> {
    let init = pod.status.as_ref().and_then(|status| status.init_container_statuses.as_deref());
    let states = init.into_iter().flatten().filter_map(|status| status.state.as_ref());
    let name = |state: &ContainerState| match (&state.running, &state.terminated) {
        (Some(_), _) => "running",
        (_, Some(_)) => "terminated",
        _ => "waiting",
    };
    states.map(name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_was_over_stays_as_it_was_until_it_is_gone() {
    let bench = Bench::new().await;
    let container = json!({"name": "c", "image": "registry.local/sleeps:1"});
    let refused = json!({
        "containers": [container],
        "volumes": [{"name": "v", "emptyDir": {}}],
        "securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]},
    });
    bench.create("p", refused).await;
    bench.pod("p", |pod| phase(pod) == "Failed").await;
    bench.hold("p").await;
    bench.retired("p").await;
    let before = bench.pod("p", |_| true).await;
    // What it might have left tells when its last worker has come to the end.
    std::fs::create_dir(bench.data_dir().join("pods").join(before.metadata.uid.unwrap())).unwrap();
    bench.delete("p").await;
    bench.cleaned_up().await;
    assert_eq!(bench.pod("p", |_| true).await.status, before.status);
    bench.release("p").await;
    bench.gone("p").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_pod_has_its_grace_and_says_how_it_ended() {
    let bench = Bench::new().await;
    bench.push("registry.local/sleeps:1", guests::sleeps("up\n")).await;
    let container = |image: &str| json!([{"name": "c", "image": image}]);
    bench.create("plain", json!({"containers": container("registry.local/sleeps:1")})).await;
    let mut hooked = container("registry.local/sleeps:1");
    hooked[0]["lifecycle"] = json!({"preStop": {"tcpSocket": {"port": 1}}});
    bench.create("hooked", json!({"containers": hooked})).await;
    for pod in ["plain", "hooked"] {
        bench.pod(pod, is_ready).await;
        bench.hold(pod).await;
        let begun = tokio::time::Instant::now();
        bench.delete(pod).await;
        let ended = bench.pod(pod, |pod| phase(pod) == "Failed").await;
        assert_eq!(container_end(&ended), (143, "Error".into()), "{pod}");
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(20), "nothing is waited for: {took:?}");
        bench.release(pod).await;
        bench.gone(pod).await;
    }
    assert_eq!(bench.events("hooked", "FailedPreStopHook").await, ["PreStopHook failed"]);
}

fn container_end(pod: &k8s_openapi::api::core::v1::Pod) -> (i32, String) {
    let end = container(pod).state.unwrap().terminated.unwrap();
    (end.exit_code, end.reason.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn static_pods_come_and_go_with_their_files() {
    let bench = Bench::new().await;
    bench.push("registry.local/sleeps:1", guests::sleeps("up\n")).await;
    let dir = bench.data_dir().join("manifests");
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("web.yaml");
    std::fs::write(
        &file,
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: registry.local/sleeps:1}]}\n",
    )
    .unwrap();
    let first = bench.pod("web-n", is_ready).await;
    bench.delete("web-n").await;
    let again = bench.pod("web-n", |pod| is_ready(pod) && pod.metadata.uid != first.metadata.uid).await;
    assert!(again.metadata.annotations.as_ref().unwrap().contains_key("kubernetes.io/config.mirror"));
    let first = bench.node().await;
    bench.delete_node().await;
    bench.delete("web-n").await;
    let again = bench.pod("web-n", |pod| is_ready(pod) && pod.metadata.uid != again.metadata.uid).await;
    let owner = again.metadata.owner_references.unwrap().remove(0);
    assert_ne!(Some(&owner.uid), first.metadata.uid.as_ref());
    assert_eq!(Some(owner.uid), bench.node().await.metadata.uid, "it belongs to the Node of now");
    std::fs::remove_file(&file).unwrap();
    bench.gone("web-n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_shuts_down_lets_pods_end_and_runs_them_again() {
    let mut bench = Bench::new().await;
    bench.push("registry.local/sleeps:1", guests::sleeps("up\n")).await;
    bench.create("p", json!({"containers": [{"name": "c", "image": "registry.local/sleeps:1"}]})).await;
    bench.pod("p", is_ready).await;
    bench.stop_node().await;
    bench.shutdown_grace = Duration::from_secs(20);
    bench.start_node().await;
    bench.pod("p", |pod| is_ready(pod) && container(pod).restart_count == 1).await;
    let once = json!({
        "restartPolicy": "Never", "volumes": [{"name": "v", "emptyDir": {}}],
        "containers": [{"name": "c", "image": "registry.local/sleeps:1"}],
    });
    let mut job = once.clone();
    job["restartPolicy"] = "OnFailure".into();
    bench.create("once", once).await;
    bench.create("job", job).await;
    bench.pod("once", is_ready).await;
    bench.pod("job", is_ready).await;
    bench.stop_node().await;
    let once = bench.pod("once", |pod| phase(pod) == "Failed").await;
    let words = "Pod was terminated in response to imminent node shutdown.";
    assert_eq!(condition(&once, "DisruptionTarget"), ("TerminationByKubelet".into(), words.into()));
    let status = once.status.unwrap();
    assert_eq!((status.reason.as_deref(), status.message.as_deref()), (Some("Terminated"), Some(words)));
    let job = bench.pod("job", |pod| !is_ready(pod)).await;
    assert_eq!((phase(&job), condition(&job, "DisruptionTarget").1.as_str()), ("Running", words));
    assert_eq!(bench.pod_folders(), 2);
    assert_eq!(bench.node_condition("Ready").await, ("False".into(), "node is shutting down".into()));
    let pod = bench.pod("p", |pod| !is_ready(pod)).await;
    assert_eq!((phase(&pod), container_end(&pod)), ("Running", (143, "Error".into())));
    bench.start_node().await;
    assert_eq!(bench.pod_folders(), 1, "what was over at the start needs no folder");
    // A Job would count it as a failure.
    let job = bench.pod("job", is_ready).await;
    assert_eq!(container(&job).restart_count, 0);
    assert!(!job.status.unwrap().conditions.unwrap().iter().any(|one| one.type_ == "DisruptionTarget"));
    bench.log("job", "up\nup\n").await;
    let pod = bench.pod("p", |pod| is_ready(pod) && container(pod).restart_count == 2).await;
    let last = container(&pod).last_state.unwrap().terminated.unwrap();
    assert_eq!(last.exit_code, 143);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_words_are_found_in_the_file_or_in_the_log() {
    let bench = Bench::new().await;
    bench.push("registry.local/fails:1", guests::prints("why\n", 3)).await;
    bench.push("registry.local/writes:1", guests::writes("dev/termination-log", "because")).await;
    let spec = |image: &str| {
        json!({"restartPolicy": "Never", "containers": [
            {"name": "c", "image": image, "terminationMessagePolicy": "FallbackToLogsOnError"},
        ]})
    };
    bench.create("log", spec("registry.local/fails:1")).await;
    bench.create("file", spec("registry.local/writes:1")).await;
    for (name, end, words) in [("log", "Failed", "why\n"), ("file", "Succeeded", "because")] {
        let pod = bench.pod(name, |pod| phase(pod) == end).await;
        let message = container(&pod).state.unwrap().terminated.unwrap().message;
        assert_eq!(message.as_deref(), Some(words));
    }
    let mut hard = spec("registry.local/writes:1");
    hard["containers"][0]["securityContext"] = json!({"readOnlyRootFilesystem": true});
    bench.create("hard", hard).await;
    let pod = bench.pod("hard", |pod| phase(pod) == "Succeeded").await;
    assert_eq!(container(&pod).state.unwrap().terminated.unwrap().message.as_deref(), Some("because"));
    // Programs that log to a file of this name mean the log.
    bench.push("registry.local/logs:1", guests::writes("dev/stdout", "said")).await;
    bench.create("device", spec("registry.local/logs:1")).await;
    bench.log("device", "said\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_and_probes_run_commands_beside_the_container() {
    let bench = Bench::new().await;
    // Started with an argument it exits with 3, otherwise it sleeps.
    bench.push("registry.local/obeys:1", guests::fails_with_arguments("up\n", 3)).await;
    let container = |extra: serde_json::Value| {
        let mut container = json!({"name": "c", "image": "registry.local/obeys:1"});
        container.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 5, "containers": [container]})
    };
    let exec = |argv: &[&str]| json!({"exec": {"command": argv}});
    bench.create("failing-start", container(json!({"lifecycle": {"postStart": exec(&["c", "x"])}}))).await;
    let probe = json!({"livenessProbe": {
        "exec": {"command": ["c", "x"]}, "periodSeconds": 1, "failureThreshold": 1,
    }});
    bench.create("failing-probe", container(probe)).await;
    let pod = bench.pod("failing-start", |pod| phase(pod) == "Failed").await;
    assert_eq!(container_end(&pod), (143, "Error".into()));
    assert_eq!(bench.events("failing-start", "FailedPostStartHook").await, ["PostStartHook failed"]);
    assert_eq!(bench.events("failing-start", "Killing").await, ["FailedPostStartHook"]);
    bench.pod("failing-probe", |pod| phase(pod) == "Failed").await;
    assert_eq!(bench.events("failing-probe", "Unhealthy").await, ["Liveness probe failed: up\n"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_ports_lead_into_the_pod() {
    let bench = Bench::new().await;
    bench.push("registry.local/sleeps:1", guests::sleeps("")).await;
    // A port that nobody has, for both protocols.
    let port = loop {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        if std::net::UdpSocket::bind(address).is_ok() {
            break address.port();
        }
    };
    let ports = json!([
        {"containerPort": 53, "hostPort": port, "hostIP": "127.0.0.1", "protocol": "UDP"},
        {"containerPort": 54, "hostPort": port, "hostIP": "127.0.0.1", "protocol": "TCP"},
    ]);
    let container = json!({"name": "c", "image": "registry.local/sleeps:1", "ports": ports});
    bench.create("p", json!({"containers": [container]})).await;
    bench.pod("p", is_ready).await;
    let stack = bench.stack("p").await;
    let outside = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let inside = stack.bind_udp("0.0.0.0:53".parse().unwrap()).unwrap();
    outside.send_to(b"ping", ("127.0.0.1", port)).await.unwrap();
    let (data, from) = tokio::time::timeout(Duration::from_secs(10), inside.recv()).await.unwrap().unwrap();
    assert_eq!(&*data, b"ping");
    inside.send(bytes::Bytes::from_static(b"pong"), Some(from)).unwrap();
    let mut answer = [0; 8];
    let received = tokio::time::timeout(Duration::from_secs(10), outside.recv_from(&mut answer)).await;
    let (count, from) = received.unwrap().unwrap();
    assert_eq!((&answer[..count], from.port()), (&b"pong"[..], port));
    let listener = stack.listen("0.0.0.0:54".parse().unwrap(), 1).unwrap();
    let dialled = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
    assert!(dialled.is_ok());
    drop(listener);

    // The ports are the pod's, and free again when it is gone.
    bench.delete("p").await;
    bench.gone("p").await;
    tokio::net::UdpSocket::bind(("127.0.0.1", port)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_keeps_more_on_disk_than_it_may_is_evicted() {
    let bench = Bench::new().await;
    let line = "x".repeat(900) + "\n";
    bench.push("registry.local/talks:1", guests::sleeps(&line)).await;
    let container = |name: &str, limit: &str| {
        let resources = json!({"limits": {"ephemeral-storage": limit}});
        json!({"name": name, "image": "registry.local/talks:1", "resources": resources})
    };
    bench.create("modest", json!({"containers": [container("c", "16Ki")]})).await;
    bench.create("greedy", json!({"containers": [container("c", "500")]})).await;
    bench.create("part", json!({"containers": [container("c", "500"), container("d", "8Ki")]})).await;
    for pod in ["modest", "greedy", "part"] {
        bench.pod(pod, is_ready).await;
        bench.log(pod, &line).await;
    }
    bench.look_at_disk();
    for (pod, message) in [
        ("greedy", "Pod ephemeral local storage usage exceeds the total limit of containers 500. "),
        ("part", "Container c exceeded its local ephemeral storage limit \"500\". "),
    ] {
        let status = bench.pod(pod, |pod| phase(pod) == "Failed").await.status.unwrap();
        assert_eq!((status.reason.as_deref(), status.message.as_deref()), (Some("Evicted"), Some(message)));
        assert_eq!(bench.events(pod, "Evicted").await, [message]);
        let conditions = status.conditions.unwrap();
        assert!(conditions.iter().all(|condition| condition.type_ != "DisruptionTarget"), "its own doing");
    }
    assert!(is_ready(&bench.pod("modest", |_| true).await));
    let (_, page) = bench.get("/metrics").await;
    for line in
        ["{eviction_signal=\"ephemeralpodfs.limit\"} 1", "{eviction_signal=\"ephemeralcontainerfs.limit\"} 1"]
    {
        assert!(page.contains(line), "{line} in {page}");
    }
}

/// Pods within their own limits end for want of the node's memory, and not the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_exceeds_its_request_ends_when_the_node_is_out_of_memory() {
    let bench = Bench::new().await;
    let pages_of_mib = 16;
    bench.push("registry.local/six:1", guests::holds(6 * pages_of_mib)).await;
    bench.push("registry.local/eight:1", guests::holds(8 * pages_of_mib)).await;
    let spec = |image: &str, request: &str| {
        let resources = json!({"requests": {"memory": request}});
        let container = json!({"name": "c", "image": image, "resources": resources});
        json!({"restartPolicy": "Never", "containers": [container]})
    };
    let mib = 1 << 20;
    let budget = bench.memory().budget();
    assert!(budget.limit() > 64 * mib && !bench.memory().is_short());
    // Two of each pod's do not count; its few files are drawn as one.
    budget.set_limit(14 * mib);
    bench.create("modest", spec("registry.local/six:1", "8Mi")).await;
    bench.create("greedy", spec("registry.local/eight:1", "1Mi")).await;
    for pod in ["modest", "greedy"] {
        bench.pod(pod, is_ready).await;
    }
    bench.drawn(12 * mib).await;
    bench.create("late", spec("registry.local/six:1", "8Mi")).await;
    let pod = bench.pod("greedy", |pod| phase(pod) == "Failed").await;
    let end = container(&pod).state.unwrap().terminated.unwrap();
    assert_eq!((end.exit_code, end.reason.as_deref()), (137, Some("OOMKilled")));
    assert_eq!(end.message.as_deref(), Some("the node is out of memory"));
    let events = bench.events("n", "SystemOOM").await;
    assert_eq!(events, ["System OOM encountered, victim process: default/greedy/c"]);
    bench.drawn(10 * mib).await;
    for pod in ["modest", "late"] {
        assert!(is_ready(&bench.pod(pod, is_ready).await));
    }
    assert!(!bench.memory().is_short(), "there is room again");
    budget.set_limit(10 * mib);
    bench.state("pressure", async || bench.memory().is_short().then_some(())).await;
    budget.set_limit(14 * mib);
    assert!(bench.memory().is_short(), "it says so for a while");
}

/// A pod that wants more than it asked for does not get it of those within their requests, however many it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_within_its_request_ends_for_who_is_beyond_it() {
    let bench = Bench::new().await;
    let pages_of_mib = 16;
    bench.push("registry.local/six:1", guests::holds(6 * pages_of_mib)).await;
    bench.push("registry.local/twelve:1", guests::holds(12 * pages_of_mib)).await;
    let spec = |image: &str, requests: serde_json::Value| {
        let container = json!({"name": "c", "image": image, "resources": {"requests": requests}});
        json!({"restartPolicy": "Never", "containers": [container]})
    };
    let mib = 1 << 20;
    bench.memory().budget().set_limit(14 * mib);
    let good = ["good1", "good2"];
    for pod in good {
        bench.create(pod, spec("registry.local/six:1", json!({"memory": "8Mi"}))).await;
        bench.pod(pod, is_ready).await;
    }
    let others = ["evil", "best-effort1", "best-effort2"];
    bench.create(others[0], spec("registry.local/twelve:1", json!({"memory": "1Mi"}))).await;
    for pod in &others[1..] {
        bench.create(pod, spec("registry.local/twelve:1", json!({}))).await;
    }
    for pod in others {
        let pod = bench.pod(pod, |pod| phase(pod) == "Failed").await;
        let end = container(&pod).state.unwrap().terminated.unwrap();
        assert_eq!(end.reason.as_deref(), Some("OOMKilled"));
    }
    for pod in good {
        assert!(is_ready(&bench.pod(pod, |_| true).await), "{pod}");
    }
}

/// A pod whose volumes hold more than its containers is evicted, but not for them while it is within its request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_in_memory_count_against_the_request_of_their_pod() {
    let bench = Bench::new().await;
    let pages_of_mib = 16;
    bench.push("registry.local/one:1", guests::holds(pages_of_mib)).await;
    bench.push("registry.local/six:1", guests::holds(6 * pages_of_mib)).await;
    let spec = |image: &str, request: &str| {
        let resources = json!({"requests": {"memory": request}});
        let container = json!({"name": "c", "image": image, "resources": resources});
        json!({"restartPolicy": "Never", "containers": [container]})
    };
    let mib = 1 << 20;
    bench.memory().budget().set_limit(8 * mib);
    bench.create("cache", spec("registry.local/one:1", "9Mi")).await;
    bench.pod("cache", is_ready).await;
    let _volume = bench.holds_beside("cache", 6 * mib);
    bench.create("evil", spec("registry.local/six:1", "1Mi")).await;
    let pod = bench.pod("evil", |pod| phase(pod) == "Failed").await;
    assert_eq!(container(&pod).state.unwrap().terminated.unwrap().reason.as_deref(), Some("OOMKilled"));
    bench.memory().budget().set_limit(13 * mib);
    bench.create("hoarder", spec("registry.local/one:1", "1Mi")).await;
    bench.pod("hoarder", is_ready).await;
    let _hoard = bench.holds_beside("hoarder", 6 * mib);
    bench.create("late", spec("registry.local/six:1", "8Mi")).await;
    let pod = bench.pod("hoarder", |pod| phase(pod) == "Failed").await;
    assert_eq!(pod.status.unwrap().reason.as_deref(), Some("Evicted"));
    assert!(is_ready(&bench.pod("cache", |_| true).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_stays_in_use_when_its_tag_moves() {
    let bench = Bench::new().await;
    bench.push("registry.local/sleeps:1", guests::sleeps("one\n")).await;
    bench.create("p", json!({"containers": [{"name": "c", "image": "registry.local/sleeps:1"}]})).await;
    let image_id = container(&bench.pod("p", is_ready).await).image_id;
    let (_, given) = image_id.split_once('@').unwrap();
    bench.push("registry.local/sleeps:1", guests::sleeps("two\n")).await;
    let in_use = bench.images_in_use();
    assert!(in_use.contains(given) && in_use.len() == 2, "{given} of {in_use:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_not_evicted_for_another_of_its_name() {
    let bench = Bench::new().await;
    bench.push("registry.local/sleeps:1", guests::sleeps("")).await;
    bench.create("p", json!({"containers": [{"name": "c", "image": "registry.local/sleeps:1"}]})).await;
    let uid = bench.pod("p", is_ready).await.metadata.uid.unwrap();
    assert!(!bench.evict_for_disk("p", "its-predecessor"));
    assert!(bench.evict_for_disk("p", &uid));
    bench.pod("p", |pod| phase(pod) == "Failed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_linux_has_is_refused_and_not_feigned() {
    let bench = Bench::new().await;
    bench.push("registry.local/sleeps:1", guests::sleeps("")).await;
    let container = json!({"name": "c", "image": "registry.local/sleeps:1"});
    let mut privileged = container.clone();
    privileged["securityContext"] = json!({"privileged": true});
    bench.create("privileged", json!({"containers": [privileged]})).await;
    let sysctls = json!({"sysctls": [{"name": "kernel.msgmax", "value": "1"}]});
    bench.create("sysctls", json!({"containers": [container], "securityContext": sysctls})).await;
    let pod = bench.pod("privileged", |pod| waiting(pod) == "CreateContainerConfigError").await;
    assert_eq!(phase(&pod), "Pending");
    let status = bench.pod("sysctls", |pod| phase(pod) == "Failed").await.status.unwrap();
    assert_eq!(status.reason.as_deref(), Some("SysctlForbidden"));
    assert_eq!(
        status.message.as_deref(),
        Some("Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ephemeral_container_joins_a_running_pod() {
    let bench = Bench::new().await;
    bench.push("registry.local/sleeps:1", guests::sleeps("")).await;
    bench.push("registry.local/hello:1", guests::prints("hello\n", 0)).await;
    bench.create("p", json!({"containers": [{"name": "c", "image": "registry.local/sleeps:1"}]})).await;
    bench.pod("p", is_ready).await;
    bench.join("p", json!({"name": "debug", "image": "registry.local/hello:1"})).await;
    let pod = bench
        .pod("p", |pod| {
            let status = pod.status.as_ref().and_then(|status| status.ephemeral_container_statuses.as_ref());
            let state = status.and_then(|list| list.first()?.state.as_ref());
            state.is_some_and(|state| state.terminated.is_some())
        })
        .await;
    assert!(is_ready(&pod), "the others do not care");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_over_keeps_its_logs_and_nothing_else() {
    let bench = Bench::new().await;
    bench.push("registry.local/hello:1", guests::prints("hello\n", 0)).await;
    bench.push("registry.local/sleeps:1", guests::sleeps("up\n")).await;
    let spec = |image: &str| {
        json!({
            "restartPolicy": "Never", "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [{"name": "c", "image": image, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        })
    };
    bench.create("done", spec("registry.local/hello:1")).await;
    bench.create("evicted", spec("registry.local/sleeps:1")).await;
    bench.pod("done", |pod| phase(pod) == "Succeeded").await;
    bench.retired("done").await;
    let uid = bench.pod("evicted", is_ready).await.metadata.uid.unwrap();
    assert_eq!(bench.pod_folders(), 1, "that of the one that runs");
    assert!(bench.evict_for_disk("evicted", &uid));
    bench.retired("evicted").await;
    assert_eq!(bench.pod_folders(), 0);
    bench.log("done", "hello\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_refuses_what_it_cannot_have_and_keeps_what_it_has() {
    let mut bench = Bench::new().await;
    assert_eq!(bench.events("n", "Starting").await, ["Starting kubelet."]);
    let words = "Node n status is now: NodeHasSufficientPID";
    assert_eq!(bench.events("n", "NodeHasSufficientPID").await, [words]);
    bench.push("registry.local/sleeps:1", guests::sleeps("")).await;
    let spec = |cpu: &str, port: u16| {
        let resources = json!({"requests": {"cpu": cpu}});
        let ports = json!([{"containerPort": 80, "hostPort": port, "hostIP": "127.0.0.1"}]);
        json!({"containers": [{"name": "c", "image": "registry.local/sleeps:1", "resources": resources, "ports": ports}]})
    };
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    bench.create("first", spec("100m", port)).await;
    bench.pod("first", is_ready).await;
    bench.create("greedy", spec("1000", 0)).await;
    bench.create("second", spec("100m", port)).await;
    let mut elsewhere = spec("100m", 0);
    elsewhere["nodeSelector"] = json!({"disk": "ssd"});
    bench.create("elsewhere", elsewhere).await;
    for (pod, reason, words) in [
        (
            "greedy",
            "OutOfcpu",
            "Node didn't have enough resource: cpu, requested: 1000000, used: 100, capacity: ",
        ),
        (
            "second",
            "NodePorts",
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
        ),
        (
            "elsewhere",
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        ),
    ] {
        let status = bench.pod(pod, |pod| phase(pod) == "Failed").await.status.unwrap();
        assert_eq!(status.reason.as_deref(), Some(reason));
        let message = status.message.unwrap();
        assert!(message.starts_with(&format!("Pod was rejected: {words}")), "{message}");
        assert!(status.container_statuses.is_none(), "it never had any");
        assert!(bench.events(pod, reason).await[0].starts_with(words));
    }
    bench.stop_node().await;
    bench.create("a-third", spec("100m", port)).await;
    bench.start_node().await;
    bench.pod("a-third", |pod| phase(pod) == "Failed").await;
    bench.pod("first", |pod| is_ready(pod) && container(pod).restart_count == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resize_gives_what_the_node_has() {
    let mut bench = Bench::new().await;
    bench.push("registry.local/sleeps:1", guests::sleeps("")).await;
    let cpus = std::thread::available_parallelism().unwrap().get() as u64 * 1000;
    let spec = |cpu: u64| {
        let field = json!({"containerName": "c", "resource": "requests.cpu", "divisor": "1m"});
        let items = json!([{"path": "cpu", "resourceFieldRef": field}]);
        json!({
            "volumes": [{"name": "d", "downwardAPI": {"items": items}}],
            "containers": [{
                "name": "c", "image": "registry.local/sleeps:1",
                "resources": {"requests": {"cpu": format!("{cpu}m")}},
                "volumeMounts": [{"name": "d", "mountPath": "/d"}],
            }],
        })
    };
    let allocated = |pod: &k8s_openapi::api::core::v1::Pod| {
        let status = container(pod);
        let requests = status.resources.and_then(|resources| resources.requests).unwrap_or_default();
        let allocated = status.allocated_resources.unwrap_or_default();
        assert_eq!(allocated, requests);
        allocated.get("cpu").map(|cpu| cpu.0.clone()).unwrap_or_default()
    };
    bench.create("large", spec(cpus - 300)).await;
    bench.create("p", spec(100)).await;
    bench.pod("large", is_ready).await;
    bench.pod("p", is_ready).await;
    bench.file("p", "d/cpu", "100").await;

    bench.resize("p", json!({"cpu": "150m"})).await;
    bench.pod("p", |pod| allocated(pod) == "150m").await;
    bench.file("p", "d/cpu", "150").await;

    bench.resize("p", json!({"cpu": "1000"})).await;
    let pending = |reason: &'static str| {
        move |pod: &k8s_openapi::api::core::v1::Pod| condition(pod, "PodResizePending").0 == reason
    };
    let pod = bench.pod("p", pending("Infeasible")).await;
    let words = format!("Node didn't have enough capacity: cpu, requested: 1000000, capacity: {cpus}");
    assert_eq!((condition(&pod, "PodResizePending").1, allocated(&pod)), (words, "150m".into()));
    bench.file("p", "d/cpu", "150").await;

    bench.resize("p", json!({"cpu": "500m"})).await;
    let pod = bench.pod("p", pending("Deferred")).await;
    let words = format!(
        "Node didn't have enough resource: cpu, requested: 500, used: {}, capacity: {cpus}",
        cpus - 300
    );
    assert_eq!((condition(&pod, "PodResizePending").1, allocated(&pod)), (words, "150m".into()));

    // What it was granted is its own over a restart of the agent, and it gets the rest when there is room.
    bench.stop_node().await;
    bench.start_node().await;
    let pod = bench.pod("p", |pod| is_ready(pod) && container(pod).restart_count == 1).await;
    assert_eq!(
        (condition(&pod, "PodResizePending").0.as_str(), allocated(&pod)),
        ("Deferred", "150m".into())
    );
    bench.delete("large").await;
    bench.pod("p", |pod| pending("")(pod) && allocated(pod) == "500m").await;
    bench.file("p", "d/cpu", "500").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_may_see_its_full_name_if_that_fits() {
    let bench = Bench::new().await;
    bench.push("registry.local/sleeps:1", guests::sleeps("")).await;
    let spec = |subdomain: &str| {
        json!({
            "setHostnameAsFQDN": true, "hostname": "h", "subdomain": subdomain,
            "containers": [{"name": "c", "image": "registry.local/sleeps:1"}],
        })
    };
    bench.create("short", spec("s")).await;
    bench.create("long", spec(&"s".repeat(60))).await;
    bench.pod("short", is_ready).await;
    let running = bench.running("short").await;
    let full = "h.s.default.svc.cluster.local";
    assert!(running.env.contains(&("HOSTNAME".to_owned(), full.to_owned())), "{:?}", running.env);
    let file = running.mounts.root().read("etc/hostname", 1 << 10).unwrap();
    assert_eq!(file, format!("{full}\n").as_bytes());
    bench
        .state("why it waits", async || {
            let events = bench.events("long", "FailedCreatePodSandBox").await;
            events.iter().any(|event| event.contains("is too long (64 characters is the max, ")).then_some(())
        })
        .await;
    bench.pod("long", |pod| waiting(pod) == "ContainerCreating").await;
}
