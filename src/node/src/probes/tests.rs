//! Checks and the prober over a real fabric; the test plays the guest.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use coracle_network::{PodConfig, PodStack};
use k8s_openapi::api::core::v1::Pod;
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

struct Net {
    fabric: Arc<Fabric>,
    stack: PodStack,
}

fn net() -> Net {
    let fabric = Fabric::build(coracle_network::Config::default());
    let pod = PodConfig { namespace: "n".into(), name: "p".into(), uid: "u".into(), ..PodConfig::default() };
    let stack = fabric.add_pod(pod).unwrap();
    Net { fabric, stack }
}

impl Net {
    fn ip(&self) -> IpAddr {
        self.stack.ip().into()
    }

    /// A guest that answers every connection with `answer`; none if it is empty.
    fn serve(&self, answer: &'static str) {
        let listener = self.stack.listen(SocketAddr::new(self.ip(), 80), 8).unwrap();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok(mut stream) = listener.accept().await {
                let mut request = [0; 1024];
                let count = stream.read(&mut request).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..count]).into_owned();
                let known = request.starts_with("GET /healthz HTTP/1.1")
                    && request.contains("user-agent: kube-probe/");
                if known && !answer.is_empty() {
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
                kept.push(stream);
            }
        });
    }

    /// What one check of the probe says.
    async fn check(&self, probe: &Value) -> Result<(), String> {
        let probe = serde_json::from_value(probe.clone()).unwrap();
        let container = serde_json::from_value(json!({"name": "c"})).unwrap();
        Check::of(&probe, &container, self.ip()).make(&self.fabric, Duration::from_secs(1)).await
    }
}

#[tokio::test(start_paused = true)]
async fn checks_say_what_is_wrong_as_the_kubelet_does() {
    let http = json!({"httpGet": {"path": "/healthz", "port": 80}});
    let tcp = json!({"tcpSocket": {"port": 80}});

    let silent = net();
    let ip = silent.ip();
    let refused = format!("dial tcp {ip}:80: connect: connection refused");
    assert_eq!(silent.check(&tcp).await, Err(refused.clone()));
    assert_eq!(silent.check(&http).await, Err(format!("Get \"http://{ip}:80/healthz\": {refused}")));

    let well = net();
    well.serve("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(well.check(&http).await, Ok(()));
    assert_eq!(well.check(&tcp).await, Ok(()));

    let ill = net();
    ill.serve("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(ill.check(&http).await, Err("HTTP probe failed with statuscode: 503".into()));

    let stuck = net();
    stuck.serve("");
    let ip = stuck.ip();
    let expired = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
    assert_eq!(stuck.check(&http).await, Err(format!("Get \"http://{ip}:80/healthz\": {expired}")));
}

/// A guest that comes up some time after its container is seen at once, not a period later.
#[tokio::test(start_paused = true)]
async fn readiness_comes_with_the_guest() {
    let net = net();
    let nobody = tower::service_fn(|_: http::Request<Body>| async {
        Ok::<_, Infallible>(http::Response::new(Body::empty()))
    });
    let recorder = Recorder::new(Client::new(nobody, "default"), "test", "");
    let prober = Prober::new(recorder);
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    tasks.spawn(prober.clone().run(net.fabric.clone(), tasks.clone(), stop.clone()));

    let pod: Pod =
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}})).unwrap();
    let handle = Arc::new(PodHandle::new(&pod));
    let target = Target {
        handle: handle.clone(),
        object: ObjectReference::default(),
        index: 0,
        run: 0,
        kind: ProbeKind::Readiness,
        ip: net.ip(),
    };
    let probe = serde_json::from_value(json!({"tcpSocket": {"port": 80}, "periodSeconds": 10})).unwrap();
    let container = serde_json::from_value(json!({"name": "c"})).unwrap();
    let begun = Instant::now();
    let guard = prober.begin(target, &probe, &container);
    tokio::time::sleep(Duration::from_millis(40)).await;
    net.serve("");
    let mail = handle.mail().await;
    assert!(mail.probes[0].healthy);
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(80), "{took:?}");

    net.stack.close();
    let mail = handle.mail().await;
    assert!(!mail.probes[0].healthy);
    let took = begun.elapsed();
    assert!((Duration::from_secs(30)..Duration::from_secs(31)).contains(&took), "three periods: {took:?}");

    drop(guard);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(prober.shared.state.lock().due.is_empty() && handle.is_quiet());
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}
