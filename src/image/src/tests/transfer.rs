//! Pulls that break off, go on, wait, authenticate and are bounded.

use std::convert::Infallible;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Json;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use serde_json::json;

use super::remote::{World, world};
use super::*;
use crate::{Credentials, PullError};

/// A module of this many bytes, most of which say nothing.
fn large(size: usize) -> Vec<u8> {
    let mut bytes = module("m");
    let content = size - bytes.len() - 5;
    let length = content as u32 + 1;
    bytes.extend([
        0,
        0x80 | (length & 0x7f) as u8,
        0x80 | (length >> 7 & 0x7f) as u8,
        (length >> 14) as u8,
        0,
    ]);
    bytes.extend((0..content).map(|at| (at % 251) as u8));
    bytes
}

type Ranges = Arc<Mutex<Vec<String>>>;

/// A registry whose connections break after so many bytes of a blob, so many times.
async fn breaking(after: usize, times: usize) -> (World, Ranges) {
    let ranges = Ranges::default();
    let (asked, left) = (ranges.clone(), Arc::new(AtomicUsize::new(times)));
    let world = world(move |router| {
        router.layer(from_fn(move |request: Request, next: Next| {
            let (asked, left) = (asked.clone(), left.clone());
            async move {
                let is_blob = request.uri().path().contains("/blobs/");
                let range = request.headers().get("range").map(|range| range.to_str().unwrap().to_owned());
                let response = next.run(request).await;
                let length: usize = response.headers()["content-length"].to_str().unwrap().parse().unwrap();
                if !is_blob || length < 1000 {
                    return response;
                }
                asked.lock().push(range.unwrap_or_default());
                if left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err()
                {
                    return response;
                }
                let (parts, body) = response.into_parts();
                let mut bytes = body.collect().await.unwrap().to_bytes();
                bytes.truncate(after);
                // The pause lets the server send what it has.
                let end = futures::stream::once(async {
                    tokio::task::yield_now().await;
                    Err(std::io::Error::other("broken"))
                });
                Response::from_parts(parts, Body::from_stream(futures::stream::iter([Ok(bytes)]).chain(end)))
            }
        }))
    })
    .await;
    (world, ranges)
}

#[tokio::test]
async fn a_broken_pull_goes_on_where_it_stopped() {
    let (world, ranges) = breaking(40_000, 2).await;
    let module = large(100_000);
    world.tool.push("web", "1", &module).await;
    let image = world.pull("web:1").await.unwrap();
    assert_eq!(fs::read(&image.path).unwrap(), module);
    let ranges = ranges.lock().clone();
    assert_eq!(ranges.len(), 3);
    assert_eq!(ranges[0], "");
    // How much of what was sent arrived is up to the system, but it is not asked for again.
    let firsts: Vec<u64> = ranges[1..]
        .iter()
        .map(|range| range["bytes=".len()..].trim_end_matches('-').parse().unwrap_or(0))
        .collect();
    assert!(firsts[0] <= 40_000 && firsts[1] >= firsts[0], "{firsts:?}");
    assert_eq!(fs::read_dir(world.dir.path().join("uploads")).unwrap().count(), 0);
}

#[tokio::test]
async fn what_arrived_stays_for_the_next_pull_and_the_next_start() {
    let (world, ranges) = breaking(10_000, 4).await;
    let module = large(100_000);
    world.tool.push("web", "1", &module).await;
    let name = reference(&format!("{}/web:1", world.host));
    // Something of it arrived whatever happened last.
    let error = world.images.pull(&name, None, "team").await.unwrap_err();
    assert!(matches!(error, PullError::Registry { .. }), "{error:?}");
    let uploads = world.dir.path().join("uploads");
    let part = fs::read_dir(&uploads).unwrap().next().expect("the beginning is kept").unwrap().path();
    assert_eq!(part.extension().unwrap(), "part");
    let content = module[..50_000].to_vec();
    fs::write(&part, content).unwrap();
    let before = ranges.lock().len();
    let images = world.reopened();
    let image = images.pull(&name, None, "team").await.unwrap();
    assert_eq!(fs::read(&image.path).unwrap(), module);
    assert_eq!(ranges.lock()[before..], ["bytes=50000-"]);

    // A beginning that is damaged costs one more request.
    images.remove_pulled(&image.digest, &[].into()).await.unwrap();
    fs::write(&part, vec![7; 50_000]).unwrap();
    images.pull(&name, None, "team").await.unwrap();
    assert_eq!(ranges.lock()[before + 1..], ["bytes=50000-", ""]);
    // One that is too long, too.
    images.remove_pulled(&image.digest, &[].into()).await.unwrap();
    fs::write(&part, vec![7; 100_001]).unwrap();
    images.pull(&name, None, "team").await.unwrap();
    assert_eq!(fs::read_dir(&uploads).unwrap().count(), 0);
}

#[tokio::test]
async fn beginnings_are_few_and_go_when_room_is_needed() {
    let (dir, images) = images();
    let content = &images.shared().content;
    let digest = |number: usize| crate::digest::Digest::of(&number.to_ne_bytes());
    let count = || fs::read_dir(dir.path().join("uploads")).unwrap().count();
    for number in 0..20 {
        let mut draft = content.resume(&digest(number), 100).await.unwrap();
        draft.append(b"content").await.map_err(|_| ()).unwrap();
        draft.finish().await.unwrap();
    }
    assert_eq!(count(), 8);
    let mut busy = content.resume(&digest(19), 100).await.unwrap();
    assert_eq!(busy.size(), 7);
    let second = content.resume(&digest(19), 100).await.unwrap();
    assert_eq!(second.size(), 0, "what somebody writes to is not shared");
    drop(second);
    // Nor what somebody may still be writing to who is gone.
    busy.append(b"more").await.map_err(|_| ()).unwrap();
    drop(busy);
    assert_eq!(content.resume(&digest(19), 100).await.unwrap().size(), 0);
    let mut busy = loop {
        let draft = content.resume(&digest(19), 100).await.unwrap();
        if draft.size() > 0 {
            break draft;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(busy.size(), 11);
    assert_eq!(images.remove_unfinished().await.unwrap(), 7 * 7);
    assert_eq!(count(), 1, "somebody writes to it");
    busy.discard();
    drop(busy);
    assert_eq!(count(), 0);
}

#[tokio::test]
async fn a_busy_registry_is_asked_again() {
    let requests = Arc::new(AtomicUsize::new(0));
    let asked = requests.clone();
    let world = world(move |router| {
        router.layer(from_fn(move |request: Request, next: Next| {
            let number = asked.fetch_add(1, Ordering::SeqCst);
            async move {
                match number {
                    0 => StatusCode::SERVICE_UNAVAILABLE.into_response(),
                    1 => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "0")]).into_response(),
                    _ if request.uri().path().contains("/wrong/") => StatusCode::BAD_REQUEST.into_response(),
                    _ => next.run(request).await,
                }
            }
        }))
    })
    .await;
    world.tool.push("web", "1", &module("m")).await;
    world.pull("web:1").await.unwrap();
    let before = requests.load(Ordering::SeqCst);
    let error = world.pull("wrong/web:1").await.unwrap_err();
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "it answers 400 Bad Request");
    assert_eq!(requests.load(Ordering::SeqCst), before + 1, "what is wrong is not tried again");
}

#[tokio::test]
async fn a_token_is_fetched_with_the_account_and_used() {
    let world = world(|router| {
        let guarded = router.layer(from_fn(async |request: Request, next: Next| {
            if request.headers().get("authorization").is_some_and(|value| value == "Bearer good") {
                return next.run(request).await;
            }
            let host = request.headers()["host"].to_str().unwrap();
            let ask =
                format!("Bearer realm=\"http://{host}/token\",service=\"s\",scope=\"repository:web:pull\"");
            (StatusCode::UNAUTHORIZED, [("www-authenticate", ask)]).into_response()
        }));
        guarded.route(
            "/token",
            get(async |request: Request| {
                assert_eq!(request.uri().query(), Some("scope=repository%3Aweb%3Apull&service=s"));
                match request.headers().get("authorization").map(|value| value.to_str().unwrap()) {
                    // user:secret
                    Some("Basic dXNlcjpzZWNyZXQ=") => Json(json!({"token": "good"})).into_response(),
                    // user:wrong
                    Some("Basic dXNlcjp3cm9uZw==") => Json(json!({"access_token": "bad"})).into_response(),
                    Some(_) => "x".repeat(300_000).into_response(),
                    None => StatusCode::UNAUTHORIZED.into_response(),
                }
            }),
        )
    })
    .await;
    world.tool.push("web", "1", &module("m")).await;
    let name = reference(&format!("{}/web:1", world.host));
    let account = |password: &str| Some(Credentials { username: "user".into(), password: password.into() });
    world.images.pull(&name, account("secret"), "team").await.unwrap();
    for other in [None, account("wrong")] {
        let error = world.images.pull(&name, other, "team").await.unwrap_err();
        assert!(matches!(error, PullError::Denied { .. }), "{error:?}");
    }
    let error = world.images.pull(&name, account("long"), "team").await.unwrap_err();
    assert!(matches!(error, PullError::TooLarge { .. }), "{error:?}");
}

#[tokio::test]
async fn an_endless_document_is_not_held() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let world = world(move |router| {
        router.layer(from_fn(move |_: Request, _: Next| {
            let counted = counted.clone();
            async move {
                let endless = futures::stream::repeat_with(move || {
                    counted.fetch_add(64 * 1024, Ordering::SeqCst);
                    Ok::<_, Infallible>(Bytes::from(vec![b' '; 64 * 1024]))
                });
                Body::from_stream(endless).into_response()
            }
        }))
    })
    .await;
    let error = world.pull("web:1").await.unwrap_err();
    assert!(matches!(error, PullError::TooLarge { limit: 4_194_304, .. }), "{error:?}");
    assert!(sent.load(Ordering::SeqCst) < 64 << 20, "the connection ends with the pull");
}

#[tokio::test]
async fn content_is_shared_between_repositories_that_both_have_it() {
    let downloads = Arc::new(AtomicUsize::new(0));
    let counted = downloads.clone();
    let world = world(move |router| {
        router.layer(from_fn(move |request: Request, next: Next| {
            if request.method() == Method::GET && request.uri().path().contains("/blobs/") {
                counted.fetch_add(1, Ordering::SeqCst);
            }
            next.run(request)
        }))
    })
    .await;
    let module = module("m");
    let package = world.tool.push("one", "1", &module).await;
    world.tool.push("two", "1", &module).await;
    world.pull("one:1").await.unwrap();
    let before = downloads.load(Ordering::SeqCst);
    let image = world.pull("two:1").await.unwrap();
    assert_eq!(downloads.load(Ordering::SeqCst), before, "nothing is fetched twice");
    // A repository that does not have the content gets nothing of what another brought.
    world.tool.push("three", "1", &module).await;
    let blob = format!("/v2/three/blobs/{}", package.module_digest);
    world.tool.send(Method::DELETE, &blob, &[], "").await.expect(StatusCode::ACCEPTED);
    let error = world.pull("three:1").await.unwrap_err();
    assert!(matches!(error, PullError::NotFound { .. }), "{error:?}");
    world.images.remove_pulled(&image.digest, &[].into()).await.unwrap();
}

/// A registry that answers like this when it is asked for content.
async fn slow(
    router: Router,
    answer: impl Fn() -> Response + Clone + Send + Sync + 'static,
) -> (String, DropGuard) {
    serve(router.layer(from_fn(move |request: Request, next: Next| {
        let answer = answer.clone();
        async move {
            match request.uri().path() {
                path if path.contains("/blobs/") && !path.contains("/good/") => answer(),
                _ => next.run(request).await,
            }
        }
    })))
    .await
}

fn trickle() -> Response {
    let bytes = futures::stream::unfold((), async |()| {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        Some((Ok::<_, Infallible>(Bytes::from_static(b"{")), ()))
    });
    Body::from_stream(bytes).into_response()
}

fn too_many() -> Response {
    (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "30")]).into_response()
}

/// On the real clock: a paused one leaps ahead whenever a socket is waited for. See [`crate::slots`] for those that
/// hold up everything there is room for.
#[tokio::test]
async fn slow_registries_leave_room_for_others() {
    let world = world(|router| router).await;
    let (asked, mut heard) = tokio::sync::watch::channel(0);
    let answer = move || {
        asked.send_modify(|asked| *asked += 1);
        trickle()
    };
    let (first, _guard) = slow(world.server.registry_router(), answer.clone()).await;
    let (second, _guard) = slow(world.server.registry_router(), answer).await;
    let mut pulls = tokio::task::JoinSet::new();
    for number in 0..16 {
        let name = format!("slow{number}");
        world.tool.push(&name, "1", &large(100_000 + number)).await;
        let host = if number % 2 == 0 { &first } else { &second };
        let (images, name) = (world.images.clone(), reference(&format!("{host}/{name}:1")));
        pulls.spawn(async move { images.pull(&name, None, "team").await });
    }
    // As many as two registries may hold up wait for them now.
    heard.wait_for(|asked| *asked >= 2 * crate::images::PULLS.of_host).await.unwrap();
    world.tool.push("web", "1", &module("m")).await;
    // Less than it takes until a slot is due to another.
    let pulled = tokio::time::timeout(std::time::Duration::from_secs(4), world.pull("web:1")).await;
    pulled.expect("the slow registries leave room").unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_comes_too_slowly_is_broken_off() {
    let world = world(|router| router).await;
    let (host, _guard) = slow(world.server.registry_router(), trickle).await;
    let package = world.tool.push("slow", "1", &large(1000)).await;
    assert!(package.config.len() > 40, "{}", package.config.len());
    let began = tokio::time::Instant::now();
    let error = world.images.pull(&reference(&format!("{host}/slow:1")), None, "team").await.unwrap_err();
    let source = std::error::Error::source(&error).expect("what the registry did").to_string();
    assert_eq!(source, "it sends less than 16384 bytes a second");
    assert!(began.elapsed().as_secs() < 200, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_pauses_makes_room() {
    let world = world(|router| router).await;
    let (host, _guard) = slow(world.server.registry_router(), too_many).await;
    let shared = world.images.shared();
    world.tool.push("busy", "1", &module("m")).await;
    let (images, name) = (world.images.clone(), reference(&format!("{host}/busy:1")));
    let pull = tokio::spawn(async move { images.pull(&name, None, "team").await });
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    let (began, turn) = (tokio::time::Instant::now(), crate::slots::Turn::new(&host, "team"));
    let all = [(); 3].map(|()| shared.downloads.acquire(&turn));
    drop(futures::future::join_all(all).await);
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
    assert!(pull.await.unwrap().is_err());
}
