//! Rates, and what the pages say.

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::{known::Known, *};

#[tokio::test(start_paused = true)]
async fn a_rate_is_what_was_used_since() {
    let start = Instant::now();
    let seconds = Duration::from_secs;
    let spent = |time| nanos(seconds(time));
    let first = Meter::first(spent(10), start);
    assert_eq!(first.rate, None);
    let second = first.next(spent(12), start + seconds(4));
    assert_eq!(second.rate, Some(500_000_000), "two seconds of CPU in four");
    let soon = second.next(spent(13), start + Duration::from_millis(4_100));
    assert_eq!(soon, second, "a tenth of a second says nothing");
    let restarted = second.next(spent(1), start + seconds(8));
    assert_eq!((restarted.rate, restarted.count), (None, spent(1)), "another run has another counter");
}

fn usage() -> Usage {
    let container = ContainerUsage {
        name: "web".into(),
        cpu: Duration::from_millis(1_500),
        cpu_rate: Some(250_000_000),
        memory: 4096,
        memory_limit: Some(8192),
        root_bytes: 10,
        log_bytes: 20,
        connections: 3,
        places: 1,
        http: None,
        http_rate: None,
    };
    let pod = PodUsage {
        namespace: "n".into(),
        name: "p\"q".into(),
        uid: "u".into(),
        containers: vec![container.clone(), ContainerUsage { name: "side".into(), ..container }],
        sent: 7,
        received: 9,
        storage: 70,
        volumes: vec![("data".into(), coracle_vfs::Usage { bytes: 30, limit: Some(100), entries: 2 })],
        ..PodUsage::default()
    };
    Usage { node: NodeUsage::default(), pods: vec![pod, PodUsage::default()] }
}

#[test]
fn the_summary_adds_containers_up() {
    let summary = summary("node", &usage());
    let pod = &summary["pods"][0];
    assert_eq!(pod["podRef"]["uid"], "u");
    assert_eq!(pod["cpu"]["usageNanoCores"], 500_000_000);
    assert_eq!(pod["cpu"]["usageCoreNanoSeconds"], 3_000_000_000_u64);
    assert_eq!(pod["memory"]["workingSetBytes"], 8192);
    assert_eq!(pod["network"]["rxBytes"], 9);
    assert_eq!(
        (&pod["ephemeral-storage"]["usedBytes"], &pod["containers"][0]["logs"]["usedBytes"]),
        (&70.into(), &20.into())
    );
    let volume = &pod["volume"][0];
    assert_eq!((&volume["name"], &volume["usedBytes"]), (&"data".into(), &30.into()));
    assert_eq!((&volume["availableBytes"], &volume["inodesUsed"]), (&70.into(), &2.into()));
    let metric = &pod["containers"][0]["userDefinedMetrics"][0];
    assert_eq!((&metric["name"], &metric["value"]), (&"tcp_connections".into(), &3.into()));
}

#[test]
fn prometheus_reads_the_known_names() {
    let known = [Known::default(), Known::default()];
    let resource = resource(&usage(), &known);
    let line = "container_cpu_usage_seconds_total{container=\"web\",namespace=\"n\",pod=\"p\\\"q\"} 1.5\n";
    assert!(resource.contains(line), "{resource}");
    assert!(
        resource.contains("pod_memory_working_set_bytes{namespace=\"n\",pod=\"p\\\"q\"} 8192\n"),
        "{resource}"
    );
    let cadvisor = cadvisor(2, &usage(), &known);
    assert!(cadvisor.contains("container_network_receive_bytes_total{interface=\"eth0\""), "{cadvisor}");
    assert!(cadvisor.contains("machine_cpu_cores 2\n"), "{cadvisor}");
    let kubelet = kubelet("node", &usage(), &[("memory.available", 2)]);
    assert!(kubelet.contains("kubelet_running_pods 1\n") && !kubelet.contains("http"), "{kubelet}");
    assert!(kubelet.contains("kubelet_evictions{eviction_signal=\"memory.available\"} 2\n"), "{kubelet}");
}

#[test]
fn handlers_say_what_they_answer() {
    let mut usage = usage();
    usage.pods[0].containers[0].http_rate = Some(2_500);
    usage.pods[0].containers[0].http = Some(HttpUsage {
        answers: [0, 5, 0, 0, 1],
        in_flight: 2,
        failed: 1,
        durations: [3, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        duration_sum: Duration::from_millis(12_500),
        ..HttpUsage::default()
    });
    let summary = summary("node", &usage);
    let metrics = &summary["pods"][0]["containers"][0]["userDefinedMetrics"];
    assert_eq!(
        (&metrics[1]["name"], &metrics[1]["value"]),
        (&"http_requests_per_second".into(), &2.5.into())
    );
    assert_eq!(summary["pods"][0]["containers"][1]["userDefinedMetrics"].as_array().map(Vec::len), Some(1));
    let page = kubelet("node", &usage, &[]);
    let labels = "container=\"web\",namespace=\"n\",pod=\"p\\\"q\"";
    for line in [
        format!("coracle_http_requests_total{{{labels},code=\"2xx\"}} 5"),
        format!("coracle_http_requests_total{{{labels},code=\"5xx\"}} 1"),
        format!("coracle_http_requests_in_flight{{{labels}}} 2"),
        format!("coracle_http_errors_total{{{labels},reason=\"failed\"}} 1"),
        format!("coracle_http_request_duration_seconds_bucket{{{labels},le=\"0.005\"}} 3"),
        format!("coracle_http_request_duration_seconds_bucket{{{labels},le=\"10\"}} 5"),
        format!("coracle_http_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 6"),
        format!("coracle_http_request_duration_seconds_sum{{{labels}}} 12.5"),
        format!("coracle_http_request_duration_seconds_count{{{labels}}} 6"),
    ] {
        assert!(page.lines().any(|found| found == line), "{line} in {page}");
    }
    assert_eq!(page.matches("# TYPE coracle_http_request_duration_seconds histogram").count(), 1);
}

/// Volumes in memory and streams are the pod's: what its containers do not hold themselves is divided among them.
#[test]
fn what_a_pod_holds_is_in_its_containers_usage() {
    #[track_caller]
    fn check(held: u64, own: &[u64], expected: &[u64], sum: u64) {
        let containers =
            own.iter().map(|memory| ContainerUsage { memory: *memory, ..ContainerUsage::default() });
        let mut pod = PodUsage { held, containers: containers.collect(), ..PodUsage::default() };
        pod.share_out();
        let seen: Vec<u64> = pod.containers.iter().map(|container| container.memory).collect();
        assert_eq!((&*seen, pod.memory()), (expected, sum));
    }
    check(0, &[], &[], 0);
    check(70, &[], &[], 70);
    check(70, &[1], &[70], 70);
    check(70, &[10, 30], &[25, 45], 70);
    check(71, &[10, 30], &[26, 45], 71);
    check(20, &[10, 30], &[10, 30], 40);
}

/// The labels by which dashboards pick containers and claims.
#[test]
fn metrics_name_images_cgroups_and_claims() {
    let mut usage = usage();
    usage.node.disk = host::DiskUse { total: 1_000, free: 60, inodes: 50, inodes_free: 40 };
    usage.pods[0].volumes.push(("free".into(), coracle_vfs::Usage::default()));
    let claim =
        |volume: &str, claim: &str| json!({"name": volume, "persistentVolumeClaim": {"claimName": claim}});
    let status = |name: &str| {
        json!({
            "name": name, "image": "registry.local/web:1", "imageID": "", "ready": true, "restartCount": 0,
            "containerID": "coracle://abc", "state": {"running": {"startedAt": "2025-01-01T00:00:00Z"}},
        })
    };
    let pod: Pod = serde_json::from_value(json!({
        "spec": {"containers": [], "volumes": [claim("data", "d"), claim("free", "f"), claim("gone", "g")]},
        "status": {"qosClass": "Burstable", "containerStatuses": [status("web")]},
    }))
    .unwrap();
    let known = [Known::of(&pod, &usage.pods[0]), Known::default()];
    let cadvisor = cadvisor(2, &usage, &known);
    let labels = "container=\"web\",namespace=\"n\",pod=\"p\\\"q\"";
    let cgroup = "id=\"/kubepods/burstable/podu/abc\",image=\"registry.local/web:1\",name=\"abc\"";
    let resource = resource(&usage, &known);
    let volumes = volumes(&usage, &known);
    let claim = |name: &str, claim: &str, value: u64| {
        format!("kubelet_volume_stats_{name}{{namespace=\"n\",persistentvolumeclaim=\"{claim}\"}} {value}")
    };
    let started = "container_start_time_seconds";
    for (line, page) in [
        (format!("container_cpu_usage_seconds_total{{{labels},{cgroup},cpu=\"total\"}} 1.5"), &cadvisor),
        (format!("container_memory_working_set_bytes{{{labels},{cgroup}}} 4096"), &cadvisor),
        (format!("{started}{{{labels},{cgroup}}} 1735689600"), &cadvisor),
        (format!("{started}{{{labels}}} 1735689600"), &resource),
        (claim("capacity_bytes", "d", 100), &volumes),
        (claim("available_bytes", "d", 60), &volumes),
        (claim("used_bytes", "d", 30), &volumes),
        (claim("inodes", "d", 50), &volumes),
        (claim("inodes_free", "d", 40), &volumes),
        (claim("inodes_used", "d", 2), &volumes),
        (claim("capacity_bytes", "f", 1_000), &volumes),
        (claim("used_bytes", "f", 940), &volumes),
    ] {
        assert!(page.lines().any(|found| found == line), "{line} in {page}");
    }
    assert!(cadvisor.contains("container_network_receive_bytes_total{interface=\"eth0\",namespace=\"n\",pod=\"p\\\"q\",id=\"/kubepods/burstable/podu\"} 9\n"), "{cadvisor}");
    // Of one whose status is not written yet, or whose claim nobody uses, nothing is made up.
    assert_eq!(resource.matches(&format!("{started}{{")).count(), 1, "{resource}");
    assert!(!volumes.contains("\"g\""), "{volumes}");
}
