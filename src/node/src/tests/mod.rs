//! The agent with everything real around it but the store.

mod bench;
mod guests;

use bench::{Bench, container, is_ready, phase, waiting};
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

    bench.pod("env", |pod| waiting(pod) == "CreateContainerConfigError").await;
    bench.pod("mounts", |pod| waiting(pod) == "ContainerCreating").await;
    let messages = bench.events("mounts", "FailedMount").await;
    assert_eq!(messages, ["MountVolume.SetUp failed for volume \"v\" : configmap \"late\" not found"]);
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
    assert_eq!((last.exit_code, last.container_id), (137, before.container_id));
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
    let before = bench.pod("always", is_ready).await;
    bench.pod("never", is_ready).await;
    bench.pod("deleted", is_ready).await;
    bench.log("always", "up\n").await;
    bench.stop_node().await;
    bench.delete("deleted").await;
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
    assert!(!bench.data_dir().join("pods/of-a-pod-that-is-gone").exists());
}
