//! A program of WASI 0.3 that a toolchain built, alone and beside programs of 0.1 and 0.2.

use coracle_vfs::{MountOptions, Volume};

use super::*;

/// A runtime with the flag.
fn bench() -> Bench {
    Bench::of(|config| config.wasi_p3 = true)
}

#[tokio::test]
async fn without_the_flag_it_is_refused() {
    let bench = Bench::new();
    let refused = bench.runtime.prepare("example:preview3", &example("preview3")).await;
    let error = refused.expect_err("it needs the flag");
    assert!(
        matches!(&error, PrepareError::UnknownImport { import, .. } if import.contains("@0.3.")),
        "{error}"
    );
    assert!(error.to_string().ends_with(": WASI 0.3 needs the node's flag --wasi-p3"), "{error}");
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
