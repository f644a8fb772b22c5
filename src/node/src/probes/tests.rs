//! Checks and the prober over a real fabric; the test plays the guest.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

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
                    && request.contains("User-Agent: kube-probe/");
                if known && !answer.is_empty() {
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
                kept.push(stream);
            }
        });
    }

    /// What one check of the probe says.
    async fn check(&self, probe: &Value) -> Outcome {
        let probe = serde_json::from_value(probe.clone()).unwrap();
        let container = serde_json::from_value(json!({"name": "c"})).unwrap();
        let check = Check::of(&probe, &container, self.ip());
        let (target, commands) = (target(ProbeKind::Readiness), commands());
        let time = Time::starts(Instant::now(), Duration::from_secs(1));
        check.begin(&target, &self.fabric, &commands, time).await.outcome(&self.fabric, time).await
    }
}

/// Commands that end as their name says.
fn commands() -> Commands {
    Arc::new(|_, argv| {
        Box::pin(async move {
            match argv[0].as_str() {
                "true" => Ok(End { code: 0, output: String::new() }),
                "false" => Ok(End { code: 1, output: "no".into() }),
                "sleep" => std::future::pending().await,
                other => Err(format!("exec: {other}: not found")),
            }
        })
    })
}

fn target(kind: ProbeKind) -> Target {
    let pod: Pod =
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}})).unwrap();
    let handle = Arc::new(PodHandle::new(&pod));
    Target { handle, container: "c".into(), field_path: "spec.containers{c}".into(), index: 0, run: 0, kind }
}

fn failure(text: impl Into<String>) -> Outcome {
    Outcome::Failure(text.into())
}

#[tokio::test(start_paused = true)]
async fn checks_say_what_is_wrong_as_the_kubelet_does() {
    let http = json!({"httpGet": {"path": "/healthz", "port": 80}});
    let tcp = json!({"tcpSocket": {"port": 80}});

    let silent = net();
    let ip = silent.ip();
    let refused = format!("dial tcp {ip}:80: connect: connection refused");
    assert_eq!(silent.check(&tcp).await, failure(refused.clone()));
    assert_eq!(silent.check(&http).await, failure(format!("Get \"http://{ip}:80/healthz\": {refused}")));

    let well = net();
    well.serve("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(well.check(&http).await, Outcome::Success);
    assert_eq!(well.check(&tcp).await, Outcome::Success);

    let ill = net();
    ill.serve("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(ill.check(&http).await, failure("HTTP probe failed with statuscode: 503"));

    let elsewhere = net();
    elsewhere.serve("HTTP/1.1 302 Found\r\nlocation: https://example.com/\r\ncontent-length: 2\r\n\r\ngo");
    let warning = Outcome::Warning("Probe terminated redirects, Response body: go".into());
    assert_eq!(elsewhere.check(&http).await, warning);

    let stuck = net();
    stuck.serve("");
    let ip = stuck.ip();
    let expired = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
    assert_eq!(stuck.check(&http).await, failure(format!("Get \"http://{ip}:80/healthz\": {expired}")));
}

#[tokio::test(start_paused = true)]
async fn a_probe_of_another_pod_is_that_pods_own_request() {
    let net = net();
    let other =
        PodConfig { namespace: "m".into(), name: "q".into(), uid: "v".into(), ..PodConfig::default() };
    let other = net.fabric.add_pod(other).unwrap();
    let listener = other.listen(SocketAddr::new(other.ip().into(), 80), 8).unwrap();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let tcp = |host: &str| json!({"tcpSocket": {"port": 80, "host": host}});
    let there = other.ip().to_string();
    assert_eq!(net.check(&tcp(&there)).await, Outcome::Success);

    let policy = json!({"metadata": {"name": "deny", "namespace": "m"}, "spec": {"podSelector": {}}});
    net.fabric.apply_policy(&serde_json::from_value(policy).unwrap());
    let Outcome::Failure(problem) = net.check(&tcp(&there)).await else { panic!("the policy does not hold") };
    assert!(problem.contains("denied"), "{problem}");

    net.serve("");
    assert_eq!(
        net.check(&tcp("localhost")).await,
        failure("dial tcp 127.0.0.1:80: connect: connection refused")
    );
    let _own = net.stack.listen(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 80), 8).unwrap();
    assert_eq!(net.check(&tcp("localhost")).await, Outcome::Success);
}

#[tokio::test(start_paused = true)]
async fn commands_decide_by_their_exit_code() {
    let net = net();
    let exec = |command: &str| json!({"exec": {"command": [command, "1"]}});
    assert_eq!(net.check(&exec("true")).await, Outcome::Success);
    assert_eq!(net.check(&exec("false")).await, failure("no"));
    assert_eq!(net.check(&exec("sleep")).await, failure("command timed out: \"sleep 1\" timed out after 1s"));
    let unknown = "rpc error: code = Unknown desc = exec: what: not found";
    assert_eq!(net.check(&exec("what")).await, Outcome::Error(unknown.into()));
}

/// A gRPC server that answers every call with this health.
fn serve_health(net: &Net, status: u8) {
    let listener = net.stack.listen(SocketAddr::new(net.ip(), 90), 8).unwrap();
    tokio::spawn(async move {
        while let Ok(stream) = listener.accept().await {
            let service =
                hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| async move {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().unwrap());
                    let data = bytes::Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 0x08, status]);
                    let body = http_body_util::Full::new(data);
                    let body =
                        http_body_util::BodyExt::with_trailers(body, async move { Some(Ok(trailers)) });
                    Ok::<_, Infallible>(http::Response::new(body))
                });
            let io = hyper_util::rt::TokioIo::new(stream);
            let executor = hyper_util::rt::TokioExecutor::new();
            tokio::spawn(hyper::server::conn::http2::Builder::new(executor).serve_connection(io, service));
        }
    });
}

#[tokio::test(start_paused = true)]
async fn grpc_services_say_how_they_are() {
    let probe = json!({"grpc": {"port": 90, "service": "s"}});
    let silent = net();
    let ip = silent.ip();
    let unreachable =
        format!("timeout: failed to connect service \"{ip}:90\" within 1s: context deadline exceeded");
    assert_eq!(silent.check(&probe).await, failure(unreachable));
    let well = net();
    serve_health(&well, 1);
    assert_eq!(well.check(&probe).await, Outcome::Success);
    let ill = net();
    serve_health(&ill, 2);
    assert_eq!(ill.check(&probe).await, failure("service unhealthy (responded with \"NOT_SERVING\")"));
    let stuck = net();
    let _listener = stuck.stack.listen(SocketAddr::new(stuck.ip(), 90), 8).unwrap();
    assert_eq!(stuck.check(&probe).await, failure("timeout: health rpc did not complete within 1s"));
}

/// A prober at work.
fn prober(net: &Net) -> (Prober, TaskTracker, CancellationToken) {
    let nobody = tower::service_fn(|_: http::Request<Body>| async {
        Ok::<_, Infallible>(http::Response::new(Body::empty()))
    });
    let recorder = Recorder::new(Client::new(nobody, "default"), "test", "");
    let prober = Prober::new(recorder);
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    tasks.spawn(prober.clone().run(net.fabric.clone(), commands(), tasks.clone(), stop.clone()));
    (prober, tasks, stop)
}

/// A guest that never answers, and may take its time for that, keeps nothing of those that are checked with it.
#[tokio::test(start_paused = true)]
async fn a_check_that_hangs_is_the_last_of_its_slot() {
    let net = net();
    net.serve("");
    let (prober, _tasks, _stop) = prober(&net);
    let container = serde_json::from_value(json!({"name": "c"})).unwrap();
    let begin = |target, probe: Value| {
        prober.begin(target, &serde_json::from_value(probe).unwrap(), &container, net.ip())
    };
    let hangs = json!({"httpGet": {"path": "/healthz", "port": 80}, "timeoutSeconds": 86_400});
    let _hangs = begin(target(ProbeKind::Readiness), hangs);
    let target = target(ProbeKind::Readiness);
    let handle = target.handle.clone();
    let guard = begin(target, json!({"tcpSocket": {"port": 80}}));
    assert!(handle.mail().await.probes[0].healthy);
    drop(guard);
    let kept = Arc::downgrade(&handle);
    drop(handle);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(kept.upgrade().is_none());
}

/// A guest that comes up some time after its container is seen at once, not a period later.
#[tokio::test(start_paused = true)]
async fn readiness_comes_with_the_guest() {
    let net = net();
    let (prober, tasks, stop) = prober(&net);

    let target = target(ProbeKind::Readiness);
    let handle = target.handle.clone();
    let probe = serde_json::from_value(json!({"tcpSocket": {"port": 80}, "periodSeconds": 10})).unwrap();
    let container = serde_json::from_value(json!({"name": "c"})).unwrap();
    let begun = Instant::now();
    let guard = prober.begin(target, &probe, &container, net.ip());
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

    let metrics = prober.metrics();
    assert!(
        metrics.contains("container=\"c\",namespace=\"n\",pod=\"p\",pod_uid=\"u\",probe_type=\"Readiness\"")
    );
    drop(guard);
    assert!(prober.shared.state.lock().due.is_empty());
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(handle.is_quiet());
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}
