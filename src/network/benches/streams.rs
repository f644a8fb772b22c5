//! What a connection costs: time to move bytes, to connect, and memory while idle.
//!
//! `cargo bench -p coracle-network`. Plain numbers, no statistics: they are there to notice a factor, not
//! a percent. The latest are in the crate's documentation.

#![expect(clippy::print_stdout, reason = "figures are what a bench is for")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coracle_network::k8s::api::{core::v1::Service, discovery::v1::EndpointSlice};
use coracle_network::{Config, Fabric, PodConfig, PodStack, Stream, TcpListener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let fabric = Fabric::build(Config::default());
        let (client, server) = (pod(&fabric), pod(&fabric));
        let listener = server.listen(any(80), 1024).expect("free");
        let to = SocketAddr::new(server.ip().into(), 80);
        one_thread(&client, &listener, to).await;
        two_tasks(&client, &listener, to).await;
        throughput(&client, &listener, to).await;
        connects(&client, &listener, to).await;
        idle(&fabric).await;
        growth().await;
        large_services();
    });
}

/// What events cost beside ten pods with a service each, and beside ten thousand: the same.
async fn growth() {
    const TIMES: u32 = 2000;
    for pods in [10u32, 10_000] {
        let fabric = Fabric::build(Config::default());
        let all: Vec<_> = (0..pods).map(|_| pod(&fabric)).collect();
        let listeners: Vec<_> = all.iter().map(|pod| pod.listen(any(80), 8).expect("free")).collect();
        let objects: Vec<_> =
            (0..).zip(&all).map(|(number, pod)| (service(number), slice(number, &[pod.ip()]))).collect();
        let began = Instant::now();
        for (service, slice) in &objects {
            fabric.apply_service(service);
            fabric.apply_slice(slice);
        }
        report(&format!("beside {pods} pods: a service and its endpoints"), pods, began.elapsed());
        // Each service is given the next one's pod, and the connection that follows at once must be that pod's.
        let next = |number: u32| number.wrapping_mul(7919) % pods;
        let moves: Vec<_> =
            (0..TIMES).map(|number| slice(next(number), &[all[next(number + 1) as usize].ip()])).collect();
        let (mut told, mut followed) = (Duration::ZERO, Duration::ZERO);
        for (number, slice) in (0..).zip(&moves) {
            let began = Instant::now();
            fabric.apply_slice(slice);
            told += began.elapsed();
            let to = SocketAddr::new(vip(next(number)), 80);
            let dialled = all[0].connect(to).await.expect("it listens");
            let accepted = listeners[next(number + 1) as usize].try_accept().expect("it waits");
            followed += began.elapsed();
            drop((dialled, accepted));
        }
        report(&format!("beside {pods} pods: endpoints that change"), TIMES, told);
        report(&format!("beside {pods} pods: a connection has followed them"), TIMES, followed);
        objects.iter().for_each(|(_, slice)| fabric.apply_slice(slice));
        let began = Instant::now();
        for number in 0..TIMES {
            let number = next(number);
            let to = SocketAddr::new(vip(number), 80);
            let dialled = all[0].connect(to).await.expect("it listens");
            drop((dialled, listeners[number as usize].accept().await.expect("it waits")));
        }
        report(&format!("beside {pods} pods: connect to a service"), TIMES, began.elapsed());
        let began = Instant::now();
        for number in 0..TIMES {
            let name = format!("s{}.default.svc.cluster.local", next(number));
            all[0].resolve(&name).await.expect("it has an address");
        }
        report(&format!("beside {pods} pods: a name"), TIMES, began.elapsed());
        let began = Instant::now();
        for _ in 0..TIMES {
            pod(&fabric).close();
        }
        report(&format!("beside {pods} pods: a pod that comes and goes"), TIMES, began.elapsed());
    }
}

fn vip(number: u32) -> IpAddr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 1, 0)) + number).into()
}

fn service(number: u32) -> Service {
    let object = serde_json::json!({
        "metadata": {"name": format!("s{number}"), "namespace": "default"},
        "spec": {"clusterIP": vip(number), "clusterIPs": [vip(number)], "ports": [{"port": 80}]},
    });
    serde_json::from_value(object).expect("a service")
}

fn slice(number: u32, addresses: &[Ipv4Addr]) -> EndpointSlice {
    let name = format!("s{number}");
    let endpoints: Vec<_> =
        addresses.iter().map(|address| serde_json::json!({"addresses": [address]})).collect();
    let object = serde_json::json!({
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 80}],
        "endpoints": endpoints,
    });
    serde_json::from_value(object).expect("a slice")
}

/// What a change costs in services of few and of many endpoints, a hundred in each slice.
fn large_services() {
    const TIMES: u32 = 200;
    for slices in [1u8, 100] {
        let fabric = Fabric::build(Config::default());
        fabric.apply_service(&service(0));
        let portion = |portion: u8| {
            let addresses: Vec<_> = (0..100).map(|last| Ipv4Addr::new(10, 129, portion, last)).collect();
            let mut slice = slice(0, &addresses);
            slice.metadata.name = Some(format!("s0-{portion}"));
            slice
        };
        let all: Vec<_> = (0..slices).map(portion).collect();
        all.iter().for_each(|slice| fabric.apply_slice(slice));
        let less = {
            let mut less = all[0].clone();
            less.endpoints.pop();
            less
        };
        let began = Instant::now();
        for _ in 0..TIMES / 2 {
            fabric.apply_slice(&less);
            fabric.apply_slice(&all[0]);
        }
        let endpoints = u32::from(slices) * 100;
        report(&format!("a service of {endpoints} endpoints: one comes or goes"), TIMES, began.elapsed());
    }
}

fn pod(fabric: &Arc<Fabric>) -> PodStack {
    fabric.add_pod(PodConfig::default()).expect("an address is free")
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)
}

async fn pair(client: &PodStack, listener: &TcpListener, to: SocketAddr) -> (Stream, Stream) {
    let dialled = client.connect(to).await.expect("it listens");
    (dialled, listener.accept().await.expect("it waits"))
}

fn report(what: &str, times: u32, took: Duration) {
    let each = took.as_nanos() / u128::from(times);
    println!("{what:<58} {each:>9} ns");
}

/// A write and a read of it, without any waking: the cost of the stream itself.
async fn one_thread(client: &PodStack, listener: &TcpListener, to: SocketAddr) {
    let (a, b) = pair(client, listener, to).await;
    const TIMES: u32 = 1_000_000;
    for size in [1, 64, 1024, 4096, 16384] {
        let data = vec![7u8; size];
        let mut buffer = vec![0; size];
        let began = Instant::now();
        for _ in 0..TIMES / 4 {
            a.try_write(&data).expect("room");
            b.try_read(&mut buffer).expect("it is there");
        }
        report(&format!("write and read {size} bytes, copied"), TIMES / 4, began.elapsed());
        let data = Bytes::from(data);
        let began = Instant::now();
        for _ in 0..TIMES / 4 {
            a.try_write_bytes(data.clone()).expect("room");
            b.try_read_bytes(size).expect("it is there");
        }
        report(&format!("write and read {size} bytes, handed over"), TIMES / 4, began.elapsed());
    }
}

/// Ping-pong between two tasks: two wakes per round trip.
async fn two_tasks(client: &PodStack, listener: &TcpListener, to: SocketAddr) {
    const TIMES: u32 = 100_000;
    for size in [1, 4096] {
        let (mut a, mut b) = pair(client, listener, to).await;
        let echo = tokio::spawn(async move {
            let mut buffer = vec![0; size];
            while b.read_exact(&mut buffer).await.is_ok() {
                b.write_all(&buffer).await.expect("open");
            }
        });
        let mut buffer = vec![0; size];
        let began = Instant::now();
        for _ in 0..TIMES {
            a.write_all(&buffer).await.expect("open");
            a.read_exact(&mut buffer).await.expect("open");
        }
        report(&format!("round trip of {size} bytes between two tasks"), TIMES, began.elapsed());
        drop(a);
        echo.await.expect("it ends with the connection");
    }
}

async fn throughput(client: &PodStack, listener: &TcpListener, to: SocketAddr) {
    const TOTAL: usize = 4 << 30;
    let (mut a, mut b) = pair(client, listener, to).await;
    let writer = tokio::spawn(async move {
        let block = vec![7; 64 << 10];
        for _ in 0..TOTAL / block.len() {
            a.write_all(&block).await.expect("open");
        }
    });
    let mut buffer = vec![0; 64 << 10];
    let began = Instant::now();
    while b.read(&mut buffer).await.expect("open") > 0 {}
    writer.await.expect("all is written");
    let gigabytes = TOTAL as f64 / 1e9 / began.elapsed().as_secs_f64();
    println!("{:<58} {gigabytes:>9.1} GB/s", "throughput between two tasks, copied in and out");
}

async fn connects(client: &PodStack, listener: &TcpListener, to: SocketAddr) {
    const TIMES: u32 = 200_000;
    let began = Instant::now();
    for _ in 0..TIMES {
        pair(client, listener, to).await;
    }
    report("connect, accept and close", TIMES, began.elapsed());
}

/// Idle connections between many pods, and one wait on each end.
async fn idle(fabric: &Arc<Fabric>) {
    const PODS: usize = 25;
    const EACH: usize = 4000;
    let before = resident();
    let mut kept = Vec::with_capacity(PODS * EACH);
    for _ in 0..PODS {
        let stack = pod(fabric);
        let listener = stack.listen(any(80), 8).expect("free");
        let to = SocketAddr::new(stack.ip().into(), 80);
        for _ in 0..EACH {
            let (mut a, mut b) = pair(&stack, &listener, to).await;
            // Used once, so that whatever a used connection keeps is kept.
            a.write_all(&[1; 3000]).await.expect("open");
            b.read_exact(&mut [0; 3000]).await.expect("open");
            kept.push((a, b));
        }
    }
    let bytes = (resident() - before) / (PODS * EACH);
    println!("{:<58} {bytes:>9} bytes", "resident memory of an idle connection, both ends");
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: usize = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4096
}
