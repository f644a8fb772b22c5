//! The writer against a recorded API: how many writes, in which order.

use std::convert::Infallible;

use http::Response;
use k8s_openapi::api::core::v1::Pod;
use tower::service_fn;

use super::*;

type Seen = Arc<Mutex<Vec<String>>>;

/// A client whose server notes each request as `METHOD name body` and answers with what `answer` says.
fn recorded(answer: impl Fn(usize) -> (u16, &'static str) + Clone + Send + 'static) -> (Client, Seen) {
    let seen = Seen::default();
    let log = seen.clone();
    let service = service_fn(move |request: Request<Body>| {
        let (log, answer) = (log.clone(), answer.clone());
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

fn patch(text: &'static str) -> Patch {
    Arc::new(move || Bytes::from(text))
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
    writer.publish(&handle("p"), patch("pending"), Urgency::Soon);
    writer.publish(&handle("p"), patch("ready"), Urgency::Now);
    drain(&writer).await;
    expect(&seen, &["PATCH p/status ready"]);
}

#[tokio::test(start_paused = true)]
async fn the_last_status_comes_before_the_end() {
    let (client, seen) = recorded(|_| (200, "{}"));
    let writer = StatusWriter::new(client);
    writer.publish(&handle("p"), patch("over"), Urgency::Soon);
    writer.delete(&handle("p"));
    drain(&writer).await;
    expect(&seen, &["PATCH p/status over", "DELETE p"]);
}

#[tokio::test(start_paused = true)]
async fn failures_are_tried_again_and_pods_that_are_gone_are_forgotten() {
    let (client, seen) = recorded(|count| if count < 3 { (500, "broken") } else { (404, "gone") });
    let writer = StatusWriter::new(client);
    writer.publish(&handle("p"), patch("x"), Urgency::Now);
    drain(&writer).await;
    expect(&seen, &["PATCH p/status x"; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_another_pod_has_now_is_left_alone() {
    let (client, seen) =
        recorded(|_| (409, "Precondition failed: UID in precondition: p, UID in object meta: q"));
    let writer = StatusWriter::new(client);
    writer.publish(&handle("p"), patch("x"), Urgency::Now);
    writer.delete(&handle("p"));
    drain(&writer).await;
    expect(&seen, &["PATCH p/status x"]);

    let (client, seen) =
        recorded(|_| (409, "the UID in the precondition (p) does not match the UID in record (q)."));
    let writer = StatusWriter::new(client);
    writer.delete(&handle("p"));
    drain(&writer).await;
    expect(&seen, &["DELETE p"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_keeps_no_pod_from_its_end() {
    for (code, patches) in [(422, 1), (413, 1), (409, 3), (429, 3), (403, 3)] {
        let (client, seen) = recorded(move |count| if count < 3 { (code, "no") } else { (200, "{}") });
        let writer = StatusWriter::new(client);
        writer.publish(&handle("p"), patch("x"), Urgency::Now);
        writer.delete(&handle("p"));
        drain(&writer).await;
        let seen = seen.lock();
        let tried = seen.iter().filter(|request| **request == "PATCH p/status x").count();
        assert_eq!((tried, seen.last().unwrap().as_str()), (patches, "DELETE p"), "{code}: {seen:?}");
    }
    // Nothing is a substitute for the end itself.
    let (client, seen) = recorded(|count| if count < 3 { (422, "no") } else { (200, "{}") });
    let writer = StatusWriter::new(client);
    writer.delete(&handle("p"));
    drain(&writer).await;
    expect(&seen, &["DELETE p"; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_forgotten_leaves_no_trace() {
    let (client, seen) = recorded(|_| (500, "broken"));
    let writer = StatusWriter::new(client);
    let (p, tasks) = (handle("p"), TaskTracker::new());
    writer.start(&tasks);
    writer.publish(&p, patch("x"), Urgency::Now);
    while writer.queue.failures(&"p".into()) < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    writer.forget("p");
    assert_eq!(writer.queue.failures(&"p".into()), 0);
    let tries = seen.lock().len();
    tokio::time::sleep(BACKOFF.max * 2).await;
    assert_eq!((seen.lock().len(), writer.queue.failures(&"p".into())), (tries, 0));
    writer.shutdown();
    tasks.close();
    tasks.wait().await;
}

#[tokio::test(start_paused = true)]
async fn requests_that_hang_hold_nobody_up_for_long() {
    let seen = Seen::default();
    let log = seen.clone();
    let service = service_fn(move |request: Request<Body>| {
        log.lock().push(request.uri().path().to_owned());
        let hangs = log.lock().len() <= WRITERS;
        async move {
            if hangs {
                std::future::pending::<()>().await;
            }
            Ok::<_, Infallible>(Response::new(Body::empty()))
        }
    });
    let writer = StatusWriter::new(Client::new(service, "default"));
    for index in 0..=WRITERS {
        writer.publish(&handle(&format!("p{index}")), patch("x"), Urgency::Now);
    }
    drain(&writer).await;
    assert_eq!(seen.lock().len(), 2 * WRITERS + 1, "each that hung is tried once more");
}
