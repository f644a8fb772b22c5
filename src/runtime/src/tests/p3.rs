//! A program of WASI 0.3 that a toolchain built, alone and beside programs of 0.1 and 0.2.

use bytes::Bytes;
use coracle_vfs::{MountOptions, Volume};
use http_body_util::{BodyExt, Full};

use super::handlers::{ROUTES3, Served, ask, post};
use super::*;
use crate::HttpConfig;

/// A runtime with the flag.
fn bench() -> Bench {
    Bench::of(|config| config.wasi_p3 = true)
}

#[tokio::test]
async fn without_the_flag_it_is_refused() {
    let bench = Bench::new();
    for guest in ["preview3", ROUTES3] {
        let refused = bench.runtime.prepare(&format!("example:{guest}"), &example(guest), "test").await;
        let error = refused.expect_err("it needs the flag");
        assert!(
            matches!(&error, PrepareError::UnknownImport { import, .. } if import.contains("@0.3.")),
            "{error}"
        );
        assert!(error.to_string().ends_with(": WASI 0.3 needs the node's flag --wasi-p3"), "{error}");
    }
}

#[tokio::test]
async fn it_prints_and_ends_as_it_says() {
    let bench = bench();
    let say = bench.run_example("preview3", &["say", "hello,", "world"], |_| {}).await;
    assert_eq!(say, (Exit::Code(0), "hello, world\n".into()));
    assert_eq!(bench.run_example("preview3", &["exit", "7"], |_| {}).await.0, Exit::Code(7));
    assert_eq!(bench.run_example("preview3", &["unheard of"], |_| {}).await.0, Exit::Code(1));
    assert_eq!(bench.run_example("preview3", &["sleep", "1"], |_| {}).await.0, Exit::Code(0));
}

#[tokio::test]
async fn files_are_those_of_its_container() {
    let bench = bench();
    let folder = tempfile::tempdir().unwrap();
    for volume in [Volume::memory(None), Volume::host(folder.path(), None).unwrap()] {
        let run = async |args: &[&str]| {
            let mount = MountOptions::default();
            bench
                .run_example("preview3", args, |spec| spec.mounts.add("/data", &volume, &mount).unwrap())
                .await
        };
        let long = "0123456789".repeat(20_000);
        assert_eq!(run(&["write", "/data/a", &long]).await, (Exit::Code(0), String::new()));
        assert_eq!(run(&["append", "/data/a", "end"]).await.0, Exit::Code(0));
        assert_eq!(run(&["read", "/data/a"]).await, (Exit::Code(0), format!("{long}end")));
        assert_eq!(run(&["write", "/data/b", "x"]).await.0, Exit::Code(0));
        let (exit, names) = run(&["list", "/data"]).await;
        let mut names: Vec<_> = names.lines().collect();
        names.sort_unstable();
        assert_eq!((exit, names), (Exit::Code(0), vec!["a", "b"]));
        let (exit, said) = run(&["read", "/data/c"]).await;
        assert_eq!((exit, said.contains("NoEntry")), (Exit::Code(1), true), "{said}");
        let (exit, said) = run(&["read", "/data"]).await;
        assert_eq!((exit, said.contains("IsDirectory")), (Exit::Code(1), true), "{said}");
        let (exit, said) = run(&["write", "/data/../../x", "x"]).await;
        assert_eq!((exit, said.contains("NotPermitted")), (Exit::Code(1), true), "{said}");
    }
}

/// One pod: a server of 0.3 whose clients are of 0.3, and a server of 0.2 with a client of 0.3; a file that a
/// module of 0.1 wrote.
#[tokio::test]
async fn all_versions_share_one_pod() {
    let bench = bench();
    let pod = bench.pod();
    let volume = Volume::memory(None);
    let start = async |name: &str, args: &[&str]| {
        let (pod, volume) = (pod.clone(), volume.clone());
        bench
            .start_example(name, args, |spec| {
                spec.network = pod;
                spec.mounts.add("/data", &volume, &MountOptions::default()).unwrap();
            })
            .await
    };
    let (server, output) = start("preview3", &["serve", "7000", "3"]).await;
    output.shows("listening").await;
    for _ in 0..3 {
        let (client, said) = start("preview3", &["fetch", "7000", "echo me"]).await;
        assert_eq!((ended(&client).await, said.text()), (Exit::Code(0), "echo me\n".into()));
    }
    assert_eq!(ended(&server).await, Exit::Code(0));
    assert!(server.usage().received >= 24, "its traffic is counted");

    let (web, _) = start("web", &["8080"]).await;
    let answer = async {
        loop {
            let (client, said) = start("preview3", &["fetch", "8080", "GET / HTTP/1.0\r\n\r"]).await;
            if ended(&client).await == Exit::Code(0) {
                return said.text();
            }
        }
    };
    let answer = tokio::time::timeout(PATIENCE, answer).await.expect("the server of 0.2 answers");
    assert!(answer.starts_with("HTTP/1."), "{answer}");
    web.kill();
    let (refused, said) = start("preview3", &["fetch", "9", "x"]).await;
    assert_eq!(ended(&refused).await, Exit::Code(1));
    assert!(said.text().contains("ConnectionRefused"), "{}", said.text());

    let write = guests::file("data/one", 1, Some("written by 0.1"));
    let mount = MountOptions::default();
    let (exit, _) = bench.run(&write, |spec| spec.mounts.add("/data", &volume, &mount).unwrap()).await;
    assert_eq!(exit, Exit::Code(0));
    let (reader, said) = start("preview3", &["read", "/data/one"]).await;
    assert_eq!((ended(&reader).await, said.text()), (Exit::Code(0), "written by 0.1".into()));
}

/// One pod: a handler of 0.3, one of 0.2 and a server of 0.1, which ask each other.
#[tokio::test]
async fn handlers_and_servers_of_all_versions_share_one_pod() {
    let served = Served::of(ROUTES3, bench(), HttpConfig::default(), |_| {}).await;
    let Served { bench, pod, .. } = &served;
    let spec = |output: &Arc<Capture>| ContainerSpec { network: pod.clone(), ..bench.spec(output) };
    let two = bench.runtime.prepare("example:routes", &example("routes"), "test").await.unwrap();
    let config = HttpConfig { port: 8081, ..HttpConfig::default() };
    let two = bench.runtime.serve(two, spec(&Arc::default()), config).unwrap();
    let output = Arc::<Capture>::default();
    let one = bench.runtime.prepare("example:accept", &example("accept"), "test").await.unwrap();
    let one = bench.runtime.start(one, ContainerSpec { listen: vec![7000], ..spec(&output) }).unwrap();
    output.shows("listening").await;

    let check = async |url: &str, expected: &str| {
        let (status, text) = served.get(&format!("/fetch?url=http://{url}")).await;
        assert_eq!((status.as_u16(), text.as_str()), (200, expected), "{url}");
    };
    check("127.0.0.1:8081/count", "1\n").await;
    check("127.0.0.1:7000/", "1: GET / HTTP/1.1\n").await;
    check("127.0.0.1:8081/fetch?url=http://127.0.0.1:8080/status?code=200", "as you wish\n").await;
    check("127.0.0.1:8081/fetch?url=http://127.0.0.1:7000/", "2: GET / HTTP/1.1\n").await;
    let long = "0123456789".repeat(100_000);
    let asked = post("/fetch?url=http://127.0.0.1:8081/echo", Full::new(Bytes::from(long.clone())).boxed());
    let (status, _, text) = ask(&mut served.client().await, asked).await;
    assert!(status == 200 && text == long, "{status}, {} bytes", text.len());
    for container in [&served.container, &two, &one] {
        container.stop();
        assert_eq!(ended(container).await, Exit::Code(0));
    }
}

/// A server of UDP of 0.3, whose clients are of 0.3, too.
#[tokio::test]
async fn datagrams_go_both_ways() {
    let bench = bench();
    let pod = bench.pod();
    let start =
        async |args: &[&str]| bench.start_example("preview3", args, |spec| spec.network = pod.clone()).await;
    let (server, output) = start(&["datagrams", "7000", "2"]).await;
    output.shows("bound").await;
    for text in ["one", ""] {
        let (client, said) = start(&["datagram", "7000", text]).await;
        assert_eq!((ended(&client).await, said.text().as_str()), (Exit::Code(0), text));
    }
    assert_eq!(ended(&server).await, Exit::Code(0));
    let (client, said) = start(&["datagram", "7000", "nobody"]).await;
    assert_eq!(ended(&client).await, Exit::Code(1));
    assert!(said.text().contains("ConnectionRefused"), "{}", said.text());
}

/// In the order in which the guest tries them.
const UDP_RULES: &[(&str, &str)] = &[
    ("receive before it is bound", "InvalidState"),
    ("where it is before it is bound", "InvalidState"),
    ("send to nobody", "InvalidArgument"),
    ("send to port 0", "InvalidArgument"),
    ("send to no host", "InvalidArgument"),
    ("send to another family", "InvalidArgument"),
    ("send to many", "NotSupported"),
    ("send where nobody listens", "ok"),
    ("send too much", "DatagramTooLarge"),
    ("bind what is bound", "InvalidState"),
    ("where it is", "ok"),
    ("disconnect what is not connected", "InvalidState"),
    ("whom it talks to", "InvalidState"),
    ("connect to another family", "InvalidArgument"),
    ("connect to port 0", "InvalidArgument"),
    ("connect to no host", "InvalidArgument"),
    ("bind where another is", "AddressInUse"),
    ("bind where nobody can be", "AddressNotBindable"),
    ("bind another family", "InvalidArgument"),
    ("connect", "ok"),
    ("whom it talks to now", "ok"),
    ("send to another than it talks to", "InvalidArgument"),
    ("send to whom it talks to", "ok"),
    ("hear only whom it talks to", "ok"),
    ("connect where nobody listens", "ok"),
    ("send there", "ok"),
    ("hear that nobody is there", "ConnectionRefused"),
    ("disconnect", "ok"),
    ("hear everybody again", "ok"),
    ("no hops", "InvalidArgument"),
    ("no buffer", "InvalidArgument"),
    ("some hops", "ok"),
    ("as many hops as were set", "ok"),
];

#[tokio::test]
async fn udp_keeps_its_rules() {
    let (exit, said) = bench().run_example("preview3", &["rules"], |_| {}).await;
    assert_eq!(exit, Exit::Code(0), "{said}");
    let rules = said.lines().map(|line| line.split_once(": ").unwrap_or((line, "")));
    assert_eq!(rules.collect::<Vec<_>>(), UDP_RULES);
}

#[tokio::test]
async fn names_are_looked_up() {
    let bench = bench();
    let check = async |name: &str, code: i32, expected: &str| {
        let (exit, said) = bench.run_example("preview3", &["resolve", name], |_| {}).await;
        assert_eq!((exit, said.contains(expected)), (Exit::Code(code), true), "{name}: {said}");
    };
    let loopback = "IpAddress::Ipv4((127, 0, 0, 1))";
    check("localhost", 0, loopback).await;
    check("127.0.0.1", 0, &format!("[{loopback}]\n")).await;
    check("::1", 0, "[IpAddress::Ipv6((0, 0, 0, 0, 0, 0, 0, 1))]\n").await;
    check("pod", 0, "IpAddress::Ipv4((10, ").await;
    check("nobody", 1, "NameUnresolvable").await;
    for invalid in ["", "a b", "a..b", &"x".repeat(300), &format!("{}.local", "x".repeat(64))] {
        check(invalid, 1, "InvalidArgument").await;
    }
}

/// What a guest of 0.3 begins and never ends is bounded, as handles are in 0.2: calls that wait, and streams.
#[tokio::test]
async fn what_a_guest_begins_is_bounded() {
    let bench = bench();
    let begin = |what: &str| {
        format!(
            r#"(component
                (import "wasi:clocks/monotonic-clock@0.3.0" (instance $clock
                    (export "wait-for" (func async (param "how-long" u64)))))
                (type $bytes (stream u8))
                (core func $wait (canon lower (func $clock "wait-for") async))
                (core func $stream (canon stream.new $bytes))
                (core module $m
                    (import "host" "wait" (func $wait (param i64) (result i32)))
                    (import "host" "stream" (func $stream (result i64)))
                    (func (export "run") (result i32)
                        (loop $again (drop {what}) (br $again))
                        (i32.const 0)))
                (core instance $i (instantiate $m (with "host" (instance
                    (export "wait" (func $wait)) (export "stream" (func $stream))))))
                (func $run async (result (result)) (canon lift (core func $i "run")))
                (instance (export "wasi:cli/run@0.3.0") (export "run" (func $run))))"#
        )
    };
    for what in ["(call $wait (i64.const 3600000000000))", "(call $stream)"] {
        let (exit, _) = bench.run(&begin(what), |_| {}).await;
        let Exit::Trap { message } = &exit else { panic!("{what}: {exit:?}") };
        assert!(message.contains("handle"), "{what}: {message}");
    }
}

/// Asked to end, its listener ends, and so does the stream of connections.
#[tokio::test]
async fn a_server_that_is_asked_to_end_ends_by_itself() {
    let bench = bench();
    let (server, output) = bench.start_example("preview3", &["serve", "7000", "0"], |_| {}).await;
    output.shows("listening").await;
    server.stop();
    assert_eq!(ended(&server).await, Exit::Code(0));
}

#[tokio::test]
async fn it_can_be_killed_while_it_waits() {
    let bench = bench();
    let (server, output) = bench.start_example("preview3", &["serve", "7000", "1"], |_| {}).await;
    output.shows("listening").await;
    server.kill();
    assert_eq!(ended(&server).await, Exit::Killed);
    let (sleeper, _) = bench.start_example("preview3", &["sleep", "3600000"], |_| {}).await;
    sleeper.kill();
    assert_eq!(ended(&sleeper).await, Exit::Killed);
}
