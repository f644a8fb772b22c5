//! Files as guests see them.

use std::collections::BTreeMap;

use bytes::Bytes;
use coracle_vfs::{MountOptions, ProjectedFile, Volume};

use super::*;

const CREATE: u32 = 1;
const EXCLUSIVE: u32 = 4;

// Error numbers of WASI 0.1.
const EXIST: i32 = 20;
const NOENT: i32 = 44;
const NOSPC: i32 = 51;
const ROFS: i32 = 69;
const PERM: i32 = 63;

fn mount(spec: &mut ContainerSpec, path: &str, volume: &Volume) {
    spec.mounts.add(path, volume, &MountOptions::default()).unwrap();
}

/// What one container writes another reads, from memory and from a folder of the host.
#[tokio::test]
async fn containers_share_a_volume() {
    let bench = Bench::new();
    let folder = tempfile::tempdir().unwrap();
    for volume in [Volume::memory(Some(MIB)), Volume::host(folder.path(), Some(MIB)).unwrap()] {
        let write = guests::file("data/log", CREATE, Some("written;"));
        for _ in 0..2 {
            assert_eq!(bench.run(&write, |spec| mount(spec, "/data", &volume)).await.0, Exit::Code(0));
        }
        let read = guests::file("elsewhere/log", 0, None);
        let result = bench.run(&read, |spec| mount(spec, "/elsewhere", &volume)).await;
        assert_eq!(result, (Exit::Code(0), "written;written;".into()));
    }
    assert_eq!(std::fs::read_to_string(folder.path().join("log")).unwrap(), "written;written;");
}

/// Programs of Rust's standard library find relative names in their working directory, and absolute ones where they
/// are; one that asks where it works is told, and finds the root to be the root.
#[tokio::test]
async fn programs_work_where_they_are_told() {
    let bench = Bench::new();
    let volume = Volume::memory(Some(MIB));
    volume.root().write("may.csv", b"tea,3\n").unwrap();
    let there = |spec: &mut ContainerSpec| {
        mount(spec, "/srv/app", &volume);
        spec.mounts.set_root_read_only();
        spec.working_dir = Some("/srv/app".into());
    };
    for folder in [".", "/srv/app", "srv/app"] {
        let told = |spec: &mut ContainerSpec| {
            there(spec);
            spec.env = vec![("SALES_DIR".into(), folder.into())];
        };
        let (exit, report) = bench.run_example("cron-report", &[], told).await;
        assert_eq!(exit, Exit::Code(0), "{folder:?}: {report}");
        assert!(report.starts_with("sales of 1 files\ntea "), "{folder:?}: {report}");
        let (exit, output) = bench.run_example("files", &[folder, "3", "8"], there).await;
        assert_eq!(exit, Exit::Code(0), "{folder:?}: {output}");
    }
    for (words, expected) in [(["ls", "."], "may.csv\n"), (["ls", "/"], "srv\n")] {
        assert_eq!(bench.run_example("toolbox", &words, there).await, (Exit::Code(0), expected.to_owned()));
    }
}

/// A container's root is its own, and errors reach it as WASI numbers them.
#[tokio::test]
async fn a_container_has_its_own_root() {
    let bench = Bench::new();
    let write = guests::file("own", CREATE | EXCLUSIVE, Some("x"));
    let mounts = Mounts::new();
    for (mounts, expected) in [(mounts.clone(), 0), (mounts.clone(), EXIST), (Mounts::new(), 0)] {
        let (exit, _) = bench.run(&write, |spec| spec.mounts = mounts).await;
        assert_eq!(exit, Exit::Code(expected));
    }
    let (exit, _) = bench.run(&guests::file("own", 0, None), |_| {}).await;
    assert_eq!(exit, Exit::Code(NOENT));
}

#[tokio::test]
async fn limits_and_read_only_mounts_hold() {
    let bench = Bench::new();
    let write = guests::file("data/f", CREATE, Some("12345"));
    let volume = Volume::memory(Some(4));
    for expected in [0, NOSPC] {
        // What fits is written; then nothing does.
        let (exit, _) = bench.run(&write, |spec| mount(spec, "/data", &volume)).await;
        assert_eq!(exit, Exit::Code(expected));
    }

    let config = Volume::memory(None);
    let project = |text: &'static str| {
        let file = ProjectedFile { data: Bytes::from_static(text.as_bytes()), mode: 0o644 };
        config.project(BTreeMap::from([("f".to_owned(), file)])).unwrap();
    };
    project("old");
    let options = MountOptions { read_only: true, sub_path: None };
    let read_only = |spec: &mut ContainerSpec| spec.mounts.add("/data", &config, &options).unwrap();
    assert_eq!(bench.run(&write, read_only).await.0, Exit::Code(ROFS));
    let read = guests::file("data/f", 0, None);
    assert_eq!(bench.run(&read, read_only).await, (Exit::Code(0), "old".into()));
    project("new");
    assert_eq!(bench.run(&read, read_only).await, (Exit::Code(0), "new".into()));
}

#[tokio::test]
async fn nothing_of_the_host_is_reached() {
    let bench = Bench::new();
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("volume");
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(folder.path().join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink("../secret", inside.join("up")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("secret"), inside.join("absolute")).unwrap();
    std::os::unix::fs::symlink("/proc/self/environ", inside.join("environ")).unwrap();
    let volume = Volume::host(&inside, None).unwrap();
    for (path, expected) in [
        ("data/up", NOENT),
        ("data/absolute", NOENT),
        ("data/environ", NOENT),
        ("etc/passwd", NOENT),
        ("proc/self/environ", NOENT),
        ("../secret", PERM),
        ("data/../../secret", PERM),
        ("/etc/passwd", PERM),
    ] {
        let result = bench.run(&guests::file(path, 0, None), |spec| mount(spec, "/data", &volume)).await;
        assert_eq!(result, (Exit::Code(expected), String::new()), "{path}");
    }
}

/// A program on its standard library, over each kind of volume.
#[tokio::test]
async fn many_files_come_and_go() {
    let bench = Bench::new();
    for backend in crate::files::conformance::backends() {
        let args = ["/v", "60", "4096"];
        let (exit, said) =
            bench.run_example("files", &args, |spec| spec.mounts = backend.mounts.clone()).await;
        assert_eq!(exit, Exit::Code(0), "{}: {said}", backend.name);
        assert!(said.starts_with("write "), "{said}");
        let left = backend.mounts.root().open_directory("v").unwrap().entries().unwrap().next_entry();
        assert_eq!(left.unwrap(), None);
    }
    let (exit, said) = bench.run_example("files", &["/", "9000", "4096"], |_| {}).await;
    assert_eq!(exit, Exit::Code(1));
    assert!(said.contains("No space left on device"), "{said}");
}
