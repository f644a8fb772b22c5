//! The process itself: how it starts, refuses to start, and ends.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
    time::Duration,
};

use tokio::time::Instant;

use crate::support::{BINARY, Cluster, command, run};

#[test]
fn a_signal_ends_it_in_order_and_the_folder_is_free_again() {
    let mut cluster = Cluster::start();
    let mode = fs::metadata(cluster.dir().join("kubeconfig")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let (code, _, error) = run(&mut command(cluster.dir()));
    assert_eq!(code, Some(1));
    assert!(error.contains("is in use by another coracle"), "{error}");

    for signal in ["TERM", "INT"] {
        let asked = Instant::now();
        let status = cluster.signal(signal);
        assert!(status.success(), "{signal}: {status}");
        assert!(asked.elapsed() < Duration::from_secs(5), "{signal} took {:?}", asked.elapsed());
        cluster.up();
    }
}

#[test]
fn the_demo_gets_ready_stops_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let mut demo = Command::new(BINARY)
            .args(["demo", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(demo.stdout.take().unwrap()).lines().map(Result::unwrap);
        let said: Vec<String> = lines.take_while(|line| !line.contains("Ctrl-C stops the demo")).collect();
        let said = said.join("\n");
        for words in ["all pods ready", "http://127.0.0.1:30080/", "export KUBECONFIG="] {
            assert!(said.contains(words), "no {words:?} in {said}");
        }
        let interrupted = Command::new("kill").args(["-INT", &demo.id().to_string()]).status().unwrap();
        assert!(interrupted.success());
        assert!(demo.wait().unwrap().success());
    }
}

#[test]
fn a_taken_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let (code, _, error) = run(command(dir.path()).args(["--listen", &address]));
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains(&address), "{error}");
}

#[test]
fn mistakes_on_the_command_line_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (code, _, error) = run(command(dir.path()).args(["--node-name", "Bad_Name"]));
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("\"Bad_Name\" cannot be a node's name"), "{error}");
    let (code, _, error) = run(command(dir.path()).args(["--log-level", "debugg"]));
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("\"debugg\" is not a level"), "{error}");
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let (code, _, error) = run(&mut command(&file.join("below")));
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("cannot create the data folder"), "{error}");
}

#[test]
fn a_damaged_store_is_refused_with_its_place() {
    let mut cluster = Cluster::start();
    cluster.signal("TERM");
    let store = cluster.dir().join("store");
    let mut damaged = 0;
    for entry in fs::read_dir(&store).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let length = fs::metadata(&path).unwrap().len();
            fs::write(&path, vec![0x5A; usize::try_from(length).unwrap()]).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0, "the store has no files in {}", store.display());
    let (code, _, error) = run(&mut command(cluster.dir()));
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("store"), "{error}");
    assert!(!error.contains("panicked"), "{error}");
}
