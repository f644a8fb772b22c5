//! What becomes of those that the node has no room for, and what a handler leaves for others.

use http::StatusCode;

use super::handlers::{Served, ask, request};
use super::*;
use crate::places::Places;
use crate::{Density, HttpConfig};

/// A runtime that believes in more places than its engine has.
fn oversold(density: Density) -> Bench {
    let mut bench = Bench::of(|config| {
        config.max_containers = 1;
        config.density = density;
    });
    Arc::get_mut(&mut bench.runtime).expect("nobody else has it").places = Places::new(100);
    bench
}

/// Whom the engine refuses has ended for want of room, not because of a mistake of its own, and its place is free.
#[tokio::test]
async fn who_finds_no_room_says_so() {
    let check = async |density, limit: u64| {
        let bench = oversold(density);
        let output = Arc::new(Capture::default());
        let start = async || {
            let program = bench.prepare(guests::SLEEP).await.unwrap();
            let spec = ContainerSpec { memory_limit: Some(limit), ..bench.spec(&output) };
            bench.runtime.start(program, spec).unwrap()
        };
        let runs = async |count: usize| {
            while output.text().matches("sleep").count() < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let mut running = Vec::new();
        let exit = loop {
            let next = start().await;
            tokio::select! {
                exit = ended(&next) => break exit,
                () = runs(running.len() + 1) => running.push(next),
            }
        };
        let message = "no room for its memories, tables or stacks on this node".to_owned();
        assert_eq!(exit, Exit::Exhausted { message: message.clone() }, "{density:?}");
        assert!(!running.is_empty() && bench.runtime.running() as usize == running.len());
        // The same beside another, as `exec` has it.
        let program = bench.prepare(guests::SLEEP).await.unwrap();
        let spec = ContainerSpec { memory_limit: Some(limit), ..bench.spec(&output) };
        let beside = bench.runtime.start_beside(&running[0], program, spec).unwrap();
        assert_eq!(ended(&beside).await, Exit::Exhausted { message });
        let before = running.len();
        let last = running.pop().unwrap();
        last.kill();
        assert_eq!(ended(&last).await, Exit::Killed);
        let again = start().await;
        tokio::time::timeout(PATIENCE, runs(before + 1)).await.expect("there is room again");
        drop(again);
    };
    check(Density::Fast, MIB).await;
    check(Density::Dense, MIB).await; // stacks
    check(Density::Dense, 4 << 30).await; // memories
}

#[tokio::test]
async fn a_handler_that_finds_no_room_says_so() {
    for density in [Density::Fast, Density::Dense] {
        let served = Served::with(oversold(density), HttpConfig::default(), |spec| {
            spec.memory_limit = Some(4 << 30);
        })
        .await;
        let mut clients = Vec::new();
        loop {
            let mut client = served.client().await;
            let mut waiting = Box::pin(async move { client.send_request(request("/wait?ms=600000")).await });
            let begun = clients.len() as u64 + 1;
            let refused = tokio::select! {
                answer = &mut waiting => Some(answer.unwrap().status()),
                () = served.counts(|usage| usage.instances == begun) => None,
            };
            if let Some(status) = refused {
                assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
                break;
            }
            clients.push(waiting);
        }
        assert!(!clients.is_empty());
        let (status, text) = served.get("/").await;
        assert_eq!((status.as_u16(), text.as_str()), (503, "no room for another instance\n"));
        drop(clients);
        served.counts(|usage| usage.instances == 0).await;
        assert_eq!(served.get("/").await.1, "hello\n");
    }
}

/// One handler does not take all of a small node: its requests wait for each other before they take what others need.
#[tokio::test]
async fn a_handler_leaves_places_for_others() {
    let bench = Bench::with_capacity(8);
    let first = Served::with(bench, HttpConfig::default(), |_| {}).await;
    let waiting: Vec<_> = (0..10)
        .map(|_| {
            let connecting = first.asker.clone();
            let to = (first.pod.ip(), 8080).into();
            tokio::spawn(async move {
                let stream = connecting.connect(to).await.unwrap();
                let (mut client, exchange) =
                    hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream))
                        .await
                        .unwrap();
                tokio::spawn(exchange);
                ask(&mut client, request("/wait?ms=300")).await.0
            })
        })
        .collect();
    first.counts(|usage| usage.instances == 6).await;
    assert_eq!(first.bench.runtime.running(), 6);
    // Another handler has its own, and so has a container.
    let program = first.bench.runtime.prepare("example:routes", &example("routes"), "test").await.unwrap();
    let spec = first.bench.spec(&Arc::default());
    let other = spec.network.clone();
    let second = first.bench.runtime.serve(program, spec, HttpConfig::default()).unwrap();
    let stream = first.asker.connect((other.ip(), 8080).into()).await.unwrap();
    let (mut client, exchange) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(exchange);
    assert_eq!(ask(&mut client, request("/")).await.2, "hello\n");
    assert_eq!(first.bench.run(&guests::hello("hello"), |_| {}).await.0, Exit::Code(0));
    // Those that waited are answered in their turn.
    for asked in waiting {
        assert_eq!(asked.await.unwrap(), StatusCode::OK);
    }
    assert_eq!(first.container.usage().http.unwrap().instances_made, 10);
    second.kill();
}

/// While a node's last places are taken, a handler keeps none for requests that may come.
#[tokio::test]
async fn idle_instances_are_given_back_where_places_are_short() {
    let config = HttpConfig { reuse: 100, ..HttpConfig::default() };
    let served = Served::with(Bench::with_capacity(8), config, |_| {}).await;
    let mut client = served.client().await;
    let others: Vec<_> = (0..7).map(|_| served.bench.runtime.places.take(1).unwrap()).collect();
    for _ in 0..2 {
        assert_eq!(ask(&mut client, request("/count")).await.2, "1\n");
    }
    assert_eq!(served.bench.runtime.free(), 1);
    drop(others);
    for expected in ["1\n", "2\n"] {
        assert_eq!(ask(&mut client, request("/count")).await.2, expected);
    }
    assert_eq!(served.container.usage().places, 1);
}

/// `exec` at a full node says so at once, and takes nothing.
#[tokio::test]
async fn what_is_started_beside_finds_no_place_and_says_so() {
    let bench = Bench::with_capacity(2);
    let (container, output) = bench.start(guests::SLEEP, |_| {}).await;
    output.shows("sleep").await;
    let program = bench.prepare(guests::SLEEP).await.unwrap();
    let beside = || {
        let spec = bench.spec(&Arc::default());
        bench.runtime.start_beside(&container, Arc::clone(&program), spec)
    };
    let other = beside().unwrap();
    let refused = beside().map(|_| ()).unwrap_err().to_string();
    assert_eq!(refused, "no room for another container: 2 are running, which is the limit of this node");
    other.kill();
    assert_eq!(ended(&other).await, Exit::Killed);
    assert!(beside().is_ok(), "its place is free again");
}
