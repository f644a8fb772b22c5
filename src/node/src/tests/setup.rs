//! A node that shuts down while pods are being set up.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, extract::Request, middleware};
use serde_json::json;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use super::{
    bench::{Bench, container, is_ready},
    guests,
};

/// A registry that answers when it is opened.
struct SlowRegistry {
    address: SocketAddr,
    open: watch::Sender<bool>,
    asked: watch::Receiver<bool>,
    server: JoinHandle<()>,
}

impl SlowRegistry {
    async fn before(registry: Router) -> SlowRegistry {
        // The program does that at its start; here perhaps another test has.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        let (open, is_open) = watch::channel(false);
        let (ask, asked) = watch::channel(false);
        let wait = move |request: Request, next: middleware::Next| {
            ask.send_replace(true);
            let mut is_open = is_open.clone();
            async move {
                let _ = is_open.wait_for(|open| *open).await;
                next.run(request).await
            }
        };
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let router = registry.layer(middleware::from_fn(wait));
        let server = tokio::spawn(async move { axum::serve(socket, router).await.unwrap() });
        SlowRegistry { address, open, asked, server }
    }
}

impl Drop for SlowRegistry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Whether pods are given time or not: what they have on disk stays, and they run when the node is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_during_a_set_up_takes_nothing_from_a_pod() {
    let mut bench = Bench::new().await;
    bench.push("registry.local/sleeps:1", guests::sleeps("up\n")).await;
    for (round, grace) in [Duration::ZERO, Duration::from_secs(20)].into_iter().enumerate() {
        bench.stop_node().await;
        bench.shutdown_grace = grace;
        bench.start_node().await;

        let registry = SlowRegistry::before(bench.registry()).await;
        let claim = format!("claim-{round}");
        bench.create_claim(&claim).await;
        let held = bench.keep_waiting(&claim).await;
        let [pulls, mounts] = ["pulls", "mounts"].map(|name| format!("{name}-{round}"));
        let scratch = json!({"name": "v", "emptyDir": {}});
        let image = format!("{}/sleeps:1", registry.address);
        let spec = json!({"containers": [{"name": "c", "image": image}], "volumes": [scratch]});
        bench.create(&pulls, spec).await;
        let claimed = json!({"name": "w", "persistentVolumeClaim": {"claimName": claim}});
        let containers = json!([{"name": "c", "image": "registry.local/sleeps:1"}]);
        bench.create(&mounts, json!({"containers": containers, "volumes": [scratch, claimed]})).await;

        // One waits for its image, the other on a thread of its own for its second volume.
        bench.state("a pull", async || registry.asked.borrow().then_some(())).await;
        let mut kept = Vec::new();
        for name in [&pulls, &mounts] {
            let uid = bench.pod(name, |_| true).await.metadata.uid.unwrap();
            let folder = bench.data_dir().join("pods").join(uid).join("volumes/v");
            bench.state("the pod's folder", async || folder.is_dir().then_some(())).await;
            let file = folder.join("kept");
            std::fs::write(&file, "").unwrap();
            kept.push(file);
        }
        bench.stop_node().await;
        assert!(kept.iter().all(|file| file.exists()), "{grace:?}");
        // What was being made comes to its end when the node has gone, and even that takes nothing away.
        drop(held);
        registry.open.send_replace(true);
        bench.start_node().await;
        for name in [&pulls, &mounts] {
            let pod = bench.pod(name, is_ready).await;
            assert_eq!(container(&pod).restart_count, 0, "{name} had not run");
            bench.log(name, "up\n").await;
        }
        assert!(kept.iter().all(|file| file.exists()), "{grace:?}");
    }
}
