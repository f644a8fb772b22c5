//! Rates, and what the pages say.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_rate_is_what_was_used_since() {
    let start = Instant::now();
    let seconds = Duration::from_secs;
    let first = Meter::first(seconds(10), start);
    assert_eq!(first.rate, None);
    let second = first.next(seconds(12), start + seconds(4));
    assert_eq!(second.rate, Some(500_000_000), "two seconds of CPU in four");
    let soon = second.next(seconds(13), start + Duration::from_millis(4_100));
    assert_eq!(soon, second, "a tenth of a second says nothing");
    let restarted = second.next(seconds(1), start + seconds(8));
    assert_eq!((restarted.rate, restarted.used), (None, seconds(1)), "another run has another counter");
}

fn usage() -> Usage {
    let container = ContainerUsage {
        name: "web".into(),
        cpu: Duration::from_millis(1_500),
        cpu_rate: Some(250_000_000),
        memory: 4096,
        memory_limit: Some(8192),
        root_bytes: 10,
        connections: 3,
    };
    let pod = PodUsage {
        namespace: "n".into(),
        name: "p\"q".into(),
        uid: "u".into(),
        containers: vec![container.clone(), ContainerUsage { name: "side".into(), ..container }],
        sent: 7,
        received: 9,
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
    let metric = &pod["containers"][0]["userDefinedMetrics"][0];
    assert_eq!((&metric["name"], &metric["value"]), (&"tcp_connections".into(), &3.into()));
}

#[test]
fn prometheus_reads_the_known_names() {
    let resource = resource(&usage());
    let line = "container_cpu_usage_seconds_total{container=\"web\",namespace=\"n\",pod=\"p\\\"q\"} 1.5\n";
    assert!(resource.contains(line), "{resource}");
    assert!(
        resource.contains("pod_memory_working_set_bytes{namespace=\"n\",pod=\"p\\\"q\"} 8192\n"),
        "{resource}"
    );
    let cadvisor = cadvisor(2, &usage());
    assert!(cadvisor.contains("container_network_receive_bytes_total{interface=\"eth0\""), "{cadvisor}");
    assert!(cadvisor.contains("machine_cpu_cores 2\n"), "{cadvisor}");
    let kubelet = kubelet("node", &usage(), &[("memory.available", 2)]);
    assert!(kubelet.contains("kubelet_running_pods 1\n"), "{kubelet}");
    assert!(kubelet.contains("kubelet_evictions{eviction_signal=\"memory.available\"} 2\n"), "{kubelet}");
}
