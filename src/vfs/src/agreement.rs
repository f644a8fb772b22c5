//! All backends agree: the same calls on the same files have the same answers and leave the same tree, whatever
//! holds it.

use proptest::prelude::*;

use crate::testing::names;
use crate::{Directory, FileKind, OpenOptions, Volume};

#[derive(Debug, Clone)]
enum Call {
    Write(String, u8),
    Append(String, u8),
    Resize(String, u8),
    Read(String),
    MakeDirectory(String),
    RemoveDirectory(String),
    Unlink(String),
    Rename(String, String),
    Link(String, String),
    Symlink(String, String),
    List(String),
}

/// Few names, so that calls meet.
fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof![3 => Just("a"), 2 => Just("b"), 1 => Just("c")], 1..4)
        .prop_map(|names| names.join("/"))
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        3 => (path(), 1..50_u8).prop_map(|(at, length)| Call::Write(at, length)),
        2 => (path(), 1..50_u8).prop_map(|(at, length)| Call::Append(at, length)),
        1 => (path(), 0..99_u8).prop_map(|(at, length)| Call::Resize(at, length)),
        2 => path().prop_map(Call::Read),
        6 => path().prop_map(Call::MakeDirectory),
        3 => path().prop_map(Call::RemoveDirectory),
        3 => path().prop_map(Call::Unlink),
        6 => (path(), path()).prop_map(|(from, to)| Call::Rename(from, to)),
        1 => path().prop_map(|from| Call::Rename(from.clone(), above(&from))),
        1 => path().prop_map(|to| Call::Rename(above(&to), to)),
        2 => (path(), path()).prop_map(|(from, to)| Call::Link(from, to)),
        2 => (path(), path()).prop_map(|(target, at)| Call::Symlink(target, at)),
        1 => path().prop_map(Call::List),
    ]
}

fn above(path: &str) -> String {
    path.rsplit_once('/').map_or("c", |(above, _)| above).to_owned()
}

/// What a call says: its result, or the name of its error.
fn answer(dir: &Directory, call: &Call) -> String {
    let said = match call {
        Call::Write(at, length) => dir.write(at, &vec![b'w'; usize::from(*length)]).map(|()| String::new()),
        Call::Append(at, length) => {
            let options = OpenOptions { write: true, follow: true, ..OpenOptions::default() };
            dir.open_file(at, options)
                .and_then(|file| file.append(&vec![b'a'; usize::from(*length)]))
                .map(|count| count.to_string())
        }
        Call::Resize(at, length) => {
            let options = OpenOptions { write: true, ..OpenOptions::default() };
            dir.open_file(at, options)
                .and_then(|file| file.set_size(u64::from(*length)))
                .map(|()| String::new())
        }
        Call::Read(at) => dir.read(at, 1 << 20).map(|data| String::from_utf8_lossy(&data).into_owned()),
        Call::MakeDirectory(at) => dir.create_directory(at).map(|()| String::new()),
        Call::RemoveDirectory(at) => dir.remove_directory(at).map(|()| String::new()),
        Call::Unlink(at) => dir.unlink(at).map(|()| String::new()),
        Call::Rename(from, to) => dir.rename(from, dir, to).map(|()| String::new()),
        Call::Link(from, to) => dir.link(from, false, dir, to).map(|()| String::new()),
        Call::Symlink(target, at) => dir.symlink(target, at).map(|()| String::new()),
        Call::List(at) => dir.open_directory(at).map(|dir| names(&dir).join(" ")),
    };
    said.unwrap_or_else(|error| format!("{error:?}"))
}

/// Everything that is below, with kinds, contents and targets.
fn dump(dir: &Directory, at: &str, out: &mut Vec<String>) {
    for name in names(dir) {
        let path = format!("{at}/{name}");
        let stat = dir.stat_at(&name, false).unwrap();
        match stat.kind {
            FileKind::Directory => {
                out.push(path.clone());
                dump(&dir.open_directory(&name).unwrap(), &path, out);
            }
            FileKind::Symlink => out.push(format!("{path} -> {}", dir.read_link(&name).unwrap())),
            FileKind::File | FileKind::Device | FileKind::Other => {
                let data = dir.read(&name, 1 << 20).unwrap();
                assert_eq!(stat.size, data.len() as u64, "{path}");
                out.push(format!("{path} = {}", String::from_utf8_lossy(&data)));
            }
        }
    }
}

fn tree(dir: &Directory) -> Vec<String> {
    let mut out = Vec::new();
    dump(dir, "", &mut out);
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// What was there before is in memory, on a disk, or below an overlay, in one layer or in two; hard links are
    /// left out of it, since an overlay ends them.
    #[test]
    fn the_same_calls_do_the_same(
        before in proptest::collection::vec(call(), 0..40),
        calls in proptest::collection::vec(call(), 0..60),
    ) {
        let before: Vec<_> = before.into_iter().filter(|call| !matches!(call, Call::Link(..))).collect();
        let folders: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
        let model = Volume::memory(None);
        let host = Volume::host(folders[0].path(), None).unwrap();
        let below = Volume::memory(None);
        let below_host = Volume::host(folders[1].path(), Some(1 << 20)).unwrap();
        for volume in [&model, &host, &below, &below_host] {
            let root = volume.root();
            before.iter().for_each(|call| drop(answer(&root, call)));
        }
        let all = tree(&model.root());
        let (top, bottom) = (Volume::memory(None), Volume::memory(None));
        split(&below.root(), &top.root(), &bottom.root(), &mut 0);
        let image = Volume::image(folders[1].path()).unwrap();
        let volumes = [
            ("host", host),
            ("over memory", Volume::overlay(std::slice::from_ref(&below), &Volume::memory(Some(1 << 20)))),
            ("over image", Volume::overlay(&[image], &Volume::memory(None))),
            ("over two", Volume::overlay(
                &[top, bottom],
                &Volume::host(folders[2].path(), Some(1 << 20)).unwrap(),
            )),
            ("over overlay", Volume::overlay(
                &[Volume::overlay(std::slice::from_ref(&below), &Volume::memory(None))],
                &Volume::host(folders[3].path(), None).unwrap(),
            )),
        ];
        let model = model.root();
        for (name, volume) in &volumes {
            prop_assert_eq!(&tree(&volume.root()), &all, "{} at the start", name);
        }
        for (number, call) in calls.iter().enumerate() {
            let expected = answer(&model, call);
            for (name, volume) in &volumes {
                prop_assert_eq!(answer(&volume.root(), call), expected.clone(), "{}: {}: {:?}", name, number, call);
            }
        }
        let end = tree(&model);
        for (name, volume) in &volumes {
            prop_assert_eq!(&tree(&volume.root()), &end, "{} at the end", name);
        }
        prop_assert_eq!(tree(&below.root()), all, "what is below does not change");
    }
}

/// Deals the names of a tree out to two.
fn split(from: &Directory, a: &Directory, b: &Directory, turn: &mut u32) {
    for name in names(from) {
        *turn += 1;
        let to = if turn.is_multiple_of(2) { a } else { b };
        match from.stat_at(&name, false).unwrap().kind {
            FileKind::Directory => {
                a.create_directory(&name).unwrap();
                b.create_directory(&name).unwrap();
                let open = |dir: &Directory| dir.open_directory(&name).unwrap();
                split(&open(from), &open(a), &open(b), turn);
            }
            FileKind::Symlink => to.symlink(&from.read_link(&name).unwrap(), &name).unwrap(),
            FileKind::File | FileKind::Device | FileKind::Other => {
                to.write(&name, &from.read(&name, 1 << 20).unwrap()).unwrap();
            }
        }
    }
}
