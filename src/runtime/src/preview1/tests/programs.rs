//! Programs made by a C compiler, with the C library of WASI 0.1 (`guest-examples/preview1`).

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::tests::example;

/// Streams, directories, links, times, waiting: the program checks each itself, and ends with 42.
#[tokio::test]
async fn a_c_program_finds_what_it_expects() {
    let bench = Bench::new();
    let (exit, output) =
        bench.run_example("posix", &["last"], |spec| spec.env = vec![("HOME".into(), "/root".into())]).await;
    assert_eq!(output, "2 arguments, the last is last, HOME is /root\nall well\n");
    assert_eq!(exit, Exit::Code(42));
}

/// What it makes it makes where it works, whatever it calls it: names of the root are the root's, no others are.
#[tokio::test]
async fn a_c_program_works_in_its_directory() {
    let bench = Bench::new();
    let volume = coracle_vfs::Volume::memory(Some(1 << 20));
    let (exit, output) = bench
        .run_example("posix", &["last"], |spec| {
            spec.mounts.add("/srv/app", &volume, &coracle_vfs::MountOptions::default()).unwrap();
            spec.mounts.set_root_read_only();
            spec.working_dir = Some("/srv/app".into());
        })
        .await;
    assert!(output.ends_with("all well\n"), "{output}");
    assert_eq!(exit, Exit::Code(42));
}

/// A server accepts on its container's port, and ends when it is told to.
#[tokio::test]
async fn a_c_server_accepts_on_the_port_it_declares() {
    let bench = Bench::new();
    let program = bench.runtime.prepare("example:accept", &example("accept"), "test").await.unwrap();
    assert!(program.accepts());
    let output = std::sync::Arc::new(Capture::default());
    let mut spec = bench.spec(&output);
    let pod = bench.pod();
    (spec.network, spec.listen) = (pod.clone(), vec![8080]);
    let container = bench.runtime.start(program, spec).unwrap();
    for number in 1..4 {
        let mut stream = bench.pod().connect(SocketAddr::from((pod.ip(), 8080))).await.unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, format!("HTTP/1.0 200 OK\r\n\r\n{number}: GET / HTTP/1.0\n"));
    }
    assert!(pod.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, 8081))).await.is_err());
    container.stop();
    assert_eq!(ended(&container).await, Exit::Code(0));
    assert_eq!(output.text(), "listening on 1\naccept: Invalid argument\n");
}
