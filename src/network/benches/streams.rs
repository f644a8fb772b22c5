//! What a connection costs: time to move bytes, to connect, and memory while idle.
//!
//! `cargo bench -p coracle-network`. Plain numbers, no statistics: they are there to notice a factor, not
//! a percent. The latest are in the crate's documentation.

#![expect(clippy::print_stdout, reason = "figures are what a bench is for")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
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
    });
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
