//! The writer against a recorded API: how many writes, in which order.

use std::convert::Infallible;

use http::Response;
use k8s_openapi::api::core::v1::Pod;
use tower::service_fn;

use super::*;

type Seen = Arc<Mutex<Vec<String>>>;

/// A client whose server notes each request as `METHOD name body` and answers with what `answer` says.
fn recorded(answer: fn(usize) -> (u16, &'static str)) -> (Client, Seen) {
    let seen = Seen::default();
    let log = seen.clone();
    let service = service_fn(move |request: Request<Body>| {
        let log = log.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let name = parts.uri.path().trim_start_matches("/api/v1/namespaces/n/pods/").to_owned();
            let text = if parts.method == Method::DELETE { "" } else { std::str::from_utf8(&body).unwrap() };
            let count = {
                let mut log = log.lock();
                log.push(format!("{} {name} {text}", parts.method).trim_end().to_owned());
                log.len()
            };
            let (code, text) = answer(count);
            Ok::<_, Infallible>(
                Response::builder().status(code).body(Body::from(text.as_bytes().to_vec())).unwrap(),
            )
        }
    });
    (Client::new(service, "default"), seen)
}

fn handle(name: &str) -> PodHandle {
    let meta = json!({"metadata": {"name": name, "namespace": "n", "uid": name}});
    PodHandle::new(&serde_json::from_value::<Pod>(meta).unwrap())
}

#[track_caller]
fn expect(seen: &Seen, expected: &[&str]) {
    assert_eq!(*seen.lock(), expected);
}

/// Runs the writer on the paused clock until it has nothing left to do.
async fn drain(writer: &Arc<StatusWriter>) {
    let tasks = TaskTracker::new();
    writer.start(&tasks);
    let deadline = tokio::time::Instant::now() + Duration::from_mins(5);
    while !writer.pending.lock().is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "the writer comes to rest");
        // The paused clock jumps as soon as every writer waits.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    writer.shutdown();
    tasks.close();
    tasks.wait().await;
}

#[tokio::test(start_paused = true)]
async fn changes_that_follow_each_other_are_one_write() {
    let (client, seen) = recorded(|_| (200, "{}"));
    let writer = StatusWriter::new(client);
    writer.publish(&handle("p"), Bytes::from("pending"), Urgency::Soon);
    writer.publish(&handle("p"), Bytes::from("ready"), Urgency::Now);
    drain(&writer).await;
    expect(&seen, &["PATCH p/status ready"]);
}

#[tokio::test(start_paused = true)]
async fn the_last_status_comes_before_the_end() {
    let (client, seen) = recorded(|_| (200, "{}"));
    let writer = StatusWriter::new(client);
    writer.publish(&handle("p"), Bytes::from("over"), Urgency::Soon);
    writer.delete(&handle("p"));
    drain(&writer).await;
    expect(&seen, &["PATCH p/status over", "DELETE p"]);
}

#[tokio::test(start_paused = true)]
async fn failures_are_tried_again_and_pods_that_are_gone_are_forgotten() {
    let (client, seen) = recorded(|count| if count < 3 { (500, "broken") } else { (404, "gone") });
    let writer = StatusWriter::new(client);
    writer.publish(&handle("p"), Bytes::from("x"), Urgency::Now);
    drain(&writer).await;
    expect(&seen, &["PATCH p/status x"; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_another_pod_has_now_is_left_alone() {
    let (client, seen) =
        recorded(|_| (409, "Precondition failed: UID in precondition: p, UID in object meta: q"));
    let writer = StatusWriter::new(client);
    writer.publish(&handle("p"), Bytes::from("x"), Urgency::Now);
    writer.delete(&handle("p"));
    drain(&writer).await;
    expect(&seen, &["PATCH p/status x"]);
}
