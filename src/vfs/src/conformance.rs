//! The rules that every volume keeps, run over each backend, bare and through mounts.

use std::collections::BTreeSet;
use std::path::Path;

use crate::testing::{CREATE, READ, WRITE, fails, names, rest};
use crate::{
    Directory, File, FileKind, LINKS_MAX, MountOptions, Mounts, NewTime, OpenOptions, Opened, PATH_MAX,
    Times, VfsError, Volume,
};

const LIMIT: u64 = 1 << 20;

/// A volume to test, as a directory somewhere in a view.
struct Fixture {
    dir: Directory,
    volume: Volume,
    _host: Vec<tempfile::TempDir>,
}

fn memory() -> Fixture {
    let volume = Volume::memory(Some(LIMIT));
    Fixture { dir: volume.root(), volume, _host: Vec::new() }
}

fn host() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::host(dir.path(), Some(LIMIT)).unwrap();
    Fixture { dir: volume.root(), volume, _host: vec![dir] }
}

/// A directory that is merged from an image, a layer in memory and what is written.
fn overlay(upper: Fixture) -> Fixture {
    let image = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(image.path().join("part/of/it")).unwrap();
    let below = Volume::memory(None);
    below.root().create_directories("part/of/it").unwrap();
    let volume = Volume::overlay(&[Volume::image(image.path()).unwrap(), below], &upper.volume);
    let dir = volume.root().open_directory("part/of/it").unwrap();
    let mut host = upper._host;
    host.push(image);
    Fixture { dir, volume, _host: host }
}

fn overlay_memory() -> Fixture {
    overlay(memory())
}

fn overlay_host() -> Fixture {
    overlay(host())
}

fn mounted(fixture: Fixture) -> Fixture {
    let mut mounts = Mounts::new();
    let options = MountOptions { sub_path: Some("part/of/it".into()), ..MountOptions::default() };
    mounts.add("/deep/inside", &fixture.volume, &options).unwrap();
    mounts.add("/deep", &Volume::memory(None), &MountOptions::default()).unwrap();
    let dir = mounts.root().open_directory("deep/inside").unwrap();
    Fixture { dir, ..fixture }
}

fn mounted_memory() -> Fixture {
    mounted(memory())
}

fn mounted_host() -> Fixture {
    mounted(host())
}

fn mounted_overlay() -> Fixture {
    mounted(overlay(memory()))
}

macro_rules! conformance {
    ($($case:ident),* $(,)?) => {
        conformance!(@ memory $($case)*);
        conformance!(@ host $($case)*);
        conformance!(@ overlay_memory $($case)*);
        conformance!(@ overlay_host $($case)*);
        conformance!(@ mounted_memory $($case)*);
        conformance!(@ mounted_host $($case)*);
        conformance!(@ mounted_overlay $($case)*);
    };
    (@ $backend:ident $($case:ident)*) => {
        mod $backend {
            $(#[test] fn $case() { super::$case(&super::$backend()); })*
        }
    };
}

conformance!(
    opening_keeps_to_its_flags,
    reading_and_writing_at_offsets,
    appending_goes_to_the_end,
    resizing_leaves_holes_of_zeros,
    a_file_outlives_its_name,
    renaming_replaces,
    renaming_directories,
    two_names_of_one_file,
    links_are_walked_inside,
    links_have_a_limit,
    paths_stay_below_their_directory,
    names_have_a_limit,
    directories_are_removed_when_empty,
    listings_are_stable_under_change,
    times_are_kept,
    the_limit_is_exact,
    reserved_room_is_kept_for_writes,
    what_is_removed_is_given_back,
    writers_share_one_file,
    readers_see_writes_at_once,
    nothing_of_another_volume_is_renamed_into_it,
);

fn content(dir: &Directory, path: &str) -> String {
    String::from_utf8(dir.read(path, 1 << 20).unwrap()).unwrap()
}

fn write_all(file: &File, offset: u64, data: &[u8]) -> Result<(), VfsError> {
    let mut done = 0;
    while done < data.len() {
        done += file.write_at(offset + done as u64, &data[done..])?;
    }
    Ok(())
}

fn opening_keeps_to_its_flags(f: &Fixture) {
    let dir = &f.dir;
    fails(dir.open("a", READ), "NoEntry");
    fails(dir.open("a", WRITE), "NoEntry");
    let file = dir.open_file("a", CREATE).unwrap();
    file.write_at(0, b"hello").unwrap();
    fails(dir.open("a", OpenOptions { exclusive: true, ..CREATE }), "Exists");
    assert_eq!(content(dir, "a"), "hello");
    dir.open_file("a", CREATE).unwrap();
    assert_eq!(content(dir, "a"), "hello", "creating leaves what is there");
    dir.open_file("a", OpenOptions { truncate: true, ..WRITE }).unwrap();
    assert_eq!(content(dir, "a"), "");

    let reader = dir.open_file("a", READ).unwrap();
    fails(reader.write_at(0, b"x"), "BadDescriptor");
    fails(reader.append(b"x"), "BadDescriptor");
    fails(reader.set_size(0), "BadDescriptor");
    let writer = dir.open_file("a", OpenOptions { read: false, ..WRITE }).unwrap();
    fails(writer.read_at(0, &mut [0]), "BadDescriptor");

    dir.create_directory("d").unwrap();
    fails(dir.open("d", WRITE), "IsDirectory");
    fails(dir.open("d", CREATE), "IsDirectory");
    assert!(matches!(dir.open("d", READ), Ok(Opened::Directory(_))));
    let only_directory = OpenOptions { directory: true, ..READ };
    assert!(matches!(dir.open("d/", only_directory), Ok(Opened::Directory(_))));
    fails(dir.open("a", only_directory), "NotDirectory");
    fails(dir.open("a/", READ), "NotDirectory");
    fails(dir.open("a/b", READ), "NotDirectory");
    fails(dir.open("a/b", CREATE), "NotDirectory");
    fails(dir.open("new/", CREATE), "IsDirectory");
    fails(dir.open("missing/b", CREATE), "NoEntry");
    fails(dir.open("", READ), "NoEntry");
    fails(dir.open("nul\0", CREATE), "IllegalByteSequence");
    fails(dir.create_directory("a"), "Exists");
    fails(dir.create_directory("d/"), "Exists");
    assert_eq!(names(dir), ["a", "d"]);
}

fn reading_and_writing_at_offsets(f: &Fixture) {
    let file = f.dir.open_file("f", CREATE).unwrap();
    let data: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
    write_all(&file, 0, &data).unwrap();
    file.write_at(50_000, b"MIDDLE").unwrap();
    let mut buffer = vec![0; 20];
    assert_eq!(file.read_at(49_998, &mut buffer).unwrap(), 20);
    assert_eq!(&buffer[..2], &data[49_998..50_000]);
    assert_eq!(&buffer[2..8], b"MIDDLE");
    assert_eq!(&buffer[8..], &data[50_006..50_018]);
    assert_eq!(file.read_at(99_990, &mut buffer).unwrap(), 10);
    assert_eq!(file.read_at(100_000, &mut buffer).unwrap(), 0);
    assert_eq!(file.read_at(u64::MAX, &mut buffer).unwrap(), 0);
    assert_eq!(file.write_at(0, b"").unwrap(), 0);
    fails(file.write_at(u64::MAX, b"x"), "TooLarge");
    fails(file.write_at(i64::MAX as u64, b"x"), "TooLarge");
    assert_eq!(file.stat().unwrap().size, 100_000);
    file.sync(false).unwrap();
    file.sync(true).unwrap();
    f.dir.sync().unwrap();
}

fn appending_goes_to_the_end(f: &Fixture) {
    let one = f.dir.open_file("log", CREATE).unwrap();
    let two = f.dir.open_file("log", WRITE).unwrap();
    one.append(b"one,").unwrap();
    two.append(b"two,").unwrap();
    one.append(b"three").unwrap();
    assert_eq!(content(&f.dir, "log"), "one,two,three");
    one.set_size(4).unwrap();
    two.append(b"2").unwrap();
    assert_eq!(content(&f.dir, "log"), "one,2");
}

fn resizing_leaves_holes_of_zeros(f: &Fixture) {
    let file = f.dir.open_file("f", CREATE).unwrap();
    file.write_at(0, b"abcdef").unwrap();
    file.set_size(3).unwrap();
    file.set_size(6).unwrap();
    assert_eq!(content(&f.dir, "f"), "abc\0\0\0", "what was cut does not come back");
    file.write_at(40_000, b"end").unwrap();
    let all = f.dir.read("f", 1 << 20).unwrap();
    assert_eq!(all.len(), 40_003);
    assert!(all[6..40_000].iter().all(|byte| *byte == 0));
    fails(file.set_size(u64::MAX), "TooLarge");
}

fn a_file_outlives_its_name(f: &Fixture) {
    let file = f.dir.open_file("f", CREATE).unwrap();
    file.write_at(0, b"still here").unwrap();
    f.dir.unlink("f").unwrap();
    assert_eq!(names(&f.dir), [""; 0]);
    fails(f.dir.stat_at("f", true), "NoEntry");
    let mut buffer = [0; 10];
    assert_eq!(file.read_at(0, &mut buffer).unwrap(), 10);
    assert_eq!(&buffer, b"still here");
    file.append(b"!").unwrap();
    assert_eq!(file.stat().unwrap().size, 11);
    assert_eq!(file.stat().unwrap().links, 0);
    f.dir.write("f", b"another").unwrap();
    assert_eq!(file.stat().unwrap().size, 11);

    f.dir.create_directory("d").unwrap();
    let gone = f.dir.open_directory("d").unwrap();
    f.dir.remove_directory("d").unwrap();
    fails(gone.open("x", CREATE), "NoEntry");
    fails(gone.create_directory("x"), "NoEntry");
}

fn renaming_replaces(f: &Fixture) {
    let dir = &f.dir;
    dir.write("a", b"a").unwrap();
    dir.write("b", b"b").unwrap();
    let old = dir.open_file("b", READ).unwrap();
    dir.rename("a", dir, "b").unwrap();
    assert_eq!((names(dir), content(dir, "b")), (vec!["b".to_owned()], "a".into()));
    let mut buffer = [0];
    old.read_at(0, &mut buffer).unwrap();
    assert_eq!(&buffer, b"b", "who had the old one open keeps it");

    dir.rename("b", dir, "b").unwrap();
    dir.link("b", false, dir, "c").unwrap();
    dir.rename("b", dir, "c").unwrap();
    assert_eq!(names(dir), ["b", "c"], "two names of one file stay");
    dir.create_directory("d").unwrap();
    dir.rename("c", dir, "d/c").unwrap();
    assert_eq!(content(dir, "d/c"), "a");
    fails(dir.rename("missing", dir, "x"), "NoEntry");
    fails(dir.rename("b", dir, "missing/x"), "NoEntry");
    fails(dir.rename("b", dir, "x/"), "NotDirectory");
    fails(dir.rename("b", dir, "d"), "IsDirectory");
    fails(dir.rename("d", dir, "b"), "NotDirectory");
    fails(dir.rename("d/c", dir, "d"), "NotEmpty");
}

fn renaming_directories(f: &Fixture) {
    let dir = &f.dir;
    dir.create_directories("a/b/c").unwrap();
    dir.write("a/b/c/f", b"deep").unwrap();
    fails(dir.rename("a", dir, "a/b/x"), "Invalid");
    fails(dir.rename("a", dir, "a/b"), "Invalid");
    fails(dir.rename("a/b/c", dir, "a"), "NotEmpty");
    let c = dir.open_directory("a/b/c").unwrap();
    dir.rename("a/b", dir, "moved").unwrap();
    assert_eq!(content(dir, "moved/c/f"), "deep");
    assert_eq!(content(&c, "f"), "deep", "a handle moves along");
    dir.create_directory("empty").unwrap();
    dir.rename("moved", dir, "empty").unwrap();
    assert_eq!(content(dir, "empty/c/f"), "deep");
    dir.rename("empty/c", dir, "a/c").unwrap();
    dir.rename("a", dir, "empty/a").unwrap();
    assert_eq!(content(dir, "empty/a/c/f"), "deep");
    fails(dir.rename("empty", dir, "empty/a/c/x"), "Invalid");
    dir.create_directory("full").unwrap();
    dir.write("full/f", b"").unwrap();
    fails(dir.rename("empty", dir, "full"), "NotEmpty");
}

fn two_names_of_one_file(f: &Fixture) {
    let dir = &f.dir;
    dir.write("a", b"1").unwrap();
    dir.link("a", false, dir, "b").unwrap();
    let (a, b) = (dir.stat_at("a", true).unwrap(), dir.stat_at("b", true).unwrap());
    assert_eq!((a.device, a.inode, a.links), (b.device, b.inode, 2));
    dir.open_file("b", WRITE).unwrap().write_at(0, b"2").unwrap();
    assert_eq!(content(dir, "a"), "2");
    dir.unlink("a").unwrap();
    assert_eq!((content(dir, "b"), dir.stat_at("b", true).unwrap().links), ("2".into(), 1));
    dir.create_directory("d").unwrap();
    fails(dir.link("d", false, dir, "e"), "NotPermitted");
    fails(dir.link("b", false, dir, "d"), "Exists");
    fails(dir.link("b", false, dir, "e/"), "NoEntry");
    fails(dir.link("x", false, dir, "y"), "NoEntry");
}

fn links_are_walked_inside(f: &Fixture) {
    let dir = &f.dir;
    dir.create_directories("d/e").unwrap();
    dir.write("d/f", b"file").unwrap();
    dir.symlink("d/f", "to-file").unwrap();
    dir.symlink("d", "to-dir").unwrap();
    dir.symlink("../f", "d/e/up").unwrap();
    dir.symlink("nowhere", "dangling").unwrap();
    assert_eq!(content(dir, "to-file"), "file");
    assert_eq!(content(dir, "to-dir/f"), "file");
    assert_eq!(content(dir, "to-dir/e/up"), "file");
    assert_eq!(dir.read_link("to-dir").unwrap(), "d");
    fails(dir.read_link("d"), "Invalid");
    assert_eq!(dir.stat_at("to-dir", false).unwrap().kind, FileKind::Symlink);
    assert_eq!(dir.stat_at("to-dir", true).unwrap().kind, FileKind::Directory);
    assert_eq!(dir.stat_at("to-dir/", false).unwrap().kind, FileKind::Directory);
    fails(dir.stat_at("dangling", true), "NoEntry");
    fails(dir.open("to-file", OpenOptions { follow: false, ..READ }), "Loop");
    fails(dir.open("dangling", OpenOptions { exclusive: true, ..CREATE }), "Exists");
    dir.open_file("dangling", CREATE).unwrap();
    assert_eq!(dir.stat_at("nowhere", false).unwrap().kind, FileKind::File, "made where it points");
    dir.unlink("to-dir").unwrap();
    assert_eq!(content(dir, "d/f"), "file", "the link goes, not its target");
    fails(dir.symlink("x", "d"), "Exists");
    fails(dir.symlink("/absolute", "l"), "NotPermitted");
    fails(dir.symlink("", "l"), "NoEntry");
    dir.link("to-file", false, dir, "second").unwrap();
    assert_eq!(dir.read_link("second").unwrap(), "d/f");
    dir.link("to-file", true, dir, "third").unwrap();
    assert_eq!(dir.stat_at("third", false).unwrap().kind, FileKind::File);

    // However far up a link points, the view is all there is.
    dir.symlink("../../../../../../../../../../etc/passwd", "escape").unwrap();
    fails(dir.open("escape", READ), "NoEntry");
}

fn links_have_a_limit(f: &Fixture) {
    let dir = &f.dir;
    dir.symlink("b", "a").unwrap();
    dir.symlink("a", "b").unwrap();
    fails(dir.open("a", READ), "Loop");
    fails(dir.open("a/x", READ), "Loop");
    dir.write("l0", b"end").unwrap();
    for n in 0..=LINKS_MAX {
        dir.symlink(&format!("l{n}"), &format!("l{}", n + 1)).unwrap();
    }
    assert_eq!(content(dir, &format!("l{LINKS_MAX}")), "end");
    fails(dir.read(&format!("l{}", LINKS_MAX + 1), 10), "Loop");
}

fn paths_stay_below_their_directory(f: &Fixture) {
    let dir = &f.dir;
    dir.create_directories("d/e").unwrap();
    dir.write("f", b"file").unwrap();
    assert_eq!(content(dir, "d/../f"), "file");
    assert_eq!(content(dir, "./d/.//e/../../f"), "file");
    for path in ["..", "../f", "/f", "/", "d/../../f", "d/e/../../../x"] {
        fails(dir.open(path, READ), "NotPermitted");
        fails(dir.stat_at(path, true), "NotPermitted");
        fails(dir.create_directory(path), "NotPermitted");
        fails(dir.unlink(path), "NotPermitted");
        fails(dir.remove_directory(path), "NotPermitted");
        fails(dir.symlink("x", path), "NotPermitted");
        fails(dir.rename("f", dir, path), "NotPermitted");
        fails(dir.rename(path, dir, "x"), "NotPermitted");
        fails(dir.link("f", false, dir, path), "NotPermitted");
    }
    let below = dir.open_directory("d").unwrap();
    fails(below.open("../f", READ), "NotPermitted");
    fails(dir.remove_directory("."), "Invalid");
    fails(dir.remove_directory("d/.."), "Invalid");
    fails(dir.rename(".", dir, "x"), "Busy");
    assert!(matches!(dir.open(".", READ), Ok(Opened::Directory(_))));
}

fn names_have_a_limit(f: &Fixture) {
    let dir = &f.dir;
    let longest = "n".repeat(255);
    dir.write(&longest, b"").unwrap();
    assert_eq!(names(dir), [longest]);
    let too_long = "n".repeat(256);
    fails(dir.open(&too_long, CREATE), "NameTooLong");
    fails(dir.create_directory(&too_long), "NameTooLong");
    fails(dir.symlink("x", &too_long), "NameTooLong");
    fails(dir.stat_at(&too_long, true), "NameTooLong");
    fails(dir.open(&"a/".repeat(PATH_MAX / 2 + 1), READ), "NameTooLong");
    fails(dir.symlink(&"a".repeat(PATH_MAX + 1), "l"), "NameTooLong");
    dir.write("grüße 🛶", b"names are any UTF-8").unwrap();
    assert!(names(dir).contains(&"grüße 🛶".to_owned()));
}

fn directories_are_removed_when_empty(f: &Fixture) {
    let dir = &f.dir;
    dir.create_directory("d").unwrap();
    dir.write("d/f", b"").unwrap();
    fails(dir.remove_directory("d"), "NotEmpty");
    fails(dir.unlink("d"), "IsDirectory");
    fails(dir.remove_directory("d/f"), "NotDirectory");
    fails(dir.unlink("d/f/"), "NotDirectory");
    dir.unlink("d/f").unwrap();
    dir.remove_directory("d/").unwrap();
    fails(dir.remove_directory("d"), "NoEntry");
    assert_eq!(names(dir), [""; 0]);
}

fn listings_are_stable_under_change(f: &Fixture) {
    let dir = &f.dir;
    let stay: BTreeSet<String> = (0..300).map(|n| format!("stay-{n:03}")).collect();
    for name in &stay {
        dir.write(name, b"").unwrap();
        dir.write(&format!("go-{name}"), b"").unwrap();
    }
    let mut entries = dir.entries().unwrap();
    let mut seen: Vec<String> = (0..100).map(|_| entries.next_entry().unwrap().unwrap().name).collect();
    for name in &stay {
        dir.unlink(&format!("go-{name}")).unwrap();
        dir.write(&format!("new-{name}"), b"").unwrap();
    }
    seen.extend(rest(&mut entries));
    let unique: BTreeSet<String> = seen.iter().cloned().collect();
    assert_eq!(unique.len(), seen.len(), "no name twice");
    assert!(unique.is_superset(&stay), "none that stayed is missing");
    assert_eq!(entries.next_entry().unwrap(), None);
    assert!(!unique.contains(".") && !unique.contains(".."));

    dir.create_directory("sub").unwrap();
    dir.symlink("sub", "sub/link").unwrap();
    let entry = dir.open_directory("sub").unwrap().entries().unwrap().next_entry().unwrap().unwrap();
    assert_eq!((entry.name.as_str(), entry.kind), ("link", FileKind::Symlink));
}

fn times_are_kept(f: &Fixture) {
    let dir = &f.dir;
    let at = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    let before = crate::clock::now() - std::time::Duration::from_secs(2);
    dir.write("f", b"x").unwrap();
    dir.symlink("f", "l").unwrap();
    let fresh = dir.stat_at("f", true).unwrap();
    assert!(fresh.modified >= before && fresh.accessed >= before && fresh.changed >= before);
    let both = Times { accessed: NewTime::At(at), modified: NewTime::At(at) };
    dir.set_times_at("l", true, both).unwrap();
    let set = dir.stat_at("f", true).unwrap();
    assert_eq!((set.accessed, set.modified), (at, at));
    assert!(set.changed >= before);
    assert_ne!(dir.stat_at("l", false).unwrap().modified, at);
    dir.set_times_at("l", false, both).unwrap();
    assert_eq!(dir.stat_at("l", false).unwrap().modified, at);
    let file = dir.open_file("f", WRITE).unwrap();
    file.set_times(Times { accessed: NewTime::Keep, modified: NewTime::Now }).unwrap();
    let now = file.stat().unwrap();
    assert!(now.accessed == at && now.modified >= before);
    dir.set_times(both).unwrap();
    assert_eq!(dir.stat().unwrap().modified, at);
    dir.write("g", b"").unwrap();
    assert!(dir.stat().unwrap().modified >= before, "a new name changes its directory");
}

fn the_limit_is_exact(f: &Fixture) {
    let limit = usize::try_from(LIMIT).unwrap();
    let file = f.dir.open_file("f", CREATE).unwrap();
    write_all(&file, 0, &vec![1; limit - 10]).unwrap();
    assert_eq!(f.volume.usage().bytes, LIMIT - 10);
    assert_eq!(file.append(&[2; 20]).unwrap(), 10, "what fits is written");
    fails(file.append(b"x"), "NoSpace");
    fails(f.dir.write("g", b"x"), "NoSpace");
    assert_eq!(file.write_at(0, &[3; 100]).unwrap(), 100, "what is there can be written over");
    assert_eq!(f.volume.usage().bytes, LIMIT);
    file.set_size(LIMIT - 1).unwrap();
    f.dir.write("g", b"x").unwrap();
    fails(f.dir.write("h", b"x"), "NoSpace");
    f.volume.set_limit(LIMIT + 3).unwrap();
    assert_eq!(file.append(&[4; 20]).unwrap(), 3, "who has it open may use what was added");
    f.volume.set_limit(10).unwrap();
    fails(file.append(b"x"), "NoSpace");
    assert_eq!(f.volume.usage().bytes, LIMIT + 3, "what is there stays");
}

fn reserved_room_is_kept_for_writes(f: &Fixture) {
    let (dir, used) = (&f.dir, || f.volume.usage().bytes);
    let file = dir.open_file("f", CREATE).unwrap();
    file.write_at(0, b"content").unwrap();
    file.reserve(0, 100_000).unwrap();
    assert_eq!((file.stat().unwrap().size, used()), (100_000, 100_000));
    let all = dir.read("f", 1 << 20).unwrap();
    assert!(all.starts_with(b"content\0") && all[7..].iter().all(|byte| *byte == 0));
    file.reserve(10, 10).unwrap();
    file.reserve(50_000, 50_000).unwrap();
    assert_eq!((file.stat().unwrap().size, used()), (100_000, 100_000), "it is there already");
    // All that is left goes to somebody else.
    let other = dir.open_file("g", CREATE).unwrap();
    let rest = LIMIT - 100_000;
    write_all(&other, 0, &vec![2; usize::try_from(rest).unwrap()]).unwrap();
    fails(other.append(b"x"), "NoSpace");
    for length in [50_001, LIMIT, i64::MAX as u64 - 50_000] {
        fails(file.reserve(50_000, length), "NoSpace");
    }
    assert_eq!((file.stat().unwrap().size, used()), (100_000, LIMIT), "all or nothing");
    for offset in [70_000, 10_000, 99_999, 0] {
        assert_eq!(file.write_at(offset, b"x").unwrap(), 1);
    }
    write_all(&file, 0, &[1; 100_000]).unwrap();
    fails(file.write_at(100_000, b"x"), "NoSpace");
    assert_eq!(dir.read("f", 1 << 20).unwrap(), [1; 100_000]);
    // What is cut is given back, reserved or written.
    file.set_size(50_000).unwrap();
    assert_eq!(used(), rest + 50_000);
    file.reserve(50_000, 50_000).unwrap();
    fails(other.append(b"x"), "NoSpace");
    file.set_size(60_000).unwrap();
    assert_eq!(used(), rest + 60_000);
    write_all(&file, 50_000, &[3; 10_000]).unwrap();
    file.reserve(0, 100_000).unwrap();
    dir.unlink("f").unwrap();
    drop(file);
    assert_eq!(used(), rest);
    // Only what is meant of a file with holes.
    let sparse = dir.open_file("h", CREATE).unwrap();
    sparse.reserve(70_000, 10_000).unwrap();
    assert_eq!(sparse.stat().unwrap().size, 80_000);
    assert!(dir.read("h", 1 << 20).unwrap().iter().all(|byte| *byte == 0));

    fails(sparse.reserve(0, 0), "Invalid");
    fails(sparse.reserve(u64::MAX, 1), "TooLarge");
    fails(sparse.reserve(i64::MAX as u64, 1), "TooLarge");
    fails(dir.open_file("h", READ).unwrap().reserve(0, 1), "BadDescriptor");
}

fn what_is_removed_is_given_back(f: &Fixture) {
    let dir = &f.dir;
    dir.write("a", b"").unwrap(); // an overlay makes the folders above first
    dir.unlink("a").unwrap();
    let entries = f.volume.usage().entries;
    dir.write("a", &[1; 1000]).unwrap();
    dir.write("b", &[1; 100]).unwrap();
    dir.link("a", false, dir, "c").unwrap();
    assert_eq!(f.volume.usage().bytes, 1100);
    dir.unlink("a").unwrap();
    assert_eq!(f.volume.usage().bytes, 1100, "it has another name");
    let open = dir.open_file("c", WRITE).unwrap();
    dir.rename("b", dir, "c").unwrap();
    assert_eq!(f.volume.usage().bytes, 1100, "it is open");
    open.append(&[1; 10]).unwrap();
    assert_eq!(f.volume.usage().bytes, 1110);
    drop(open);
    assert_eq!(f.volume.usage().bytes, 100);
    dir.open_file("c", OpenOptions { truncate: true, ..WRITE }).unwrap();
    assert_eq!(f.volume.usage().bytes, 0);
    dir.unlink("c").unwrap();
    dir.create_directory("d").unwrap();
    dir.remove_directory("d").unwrap();
    fails(dir.open("missing/x", CREATE), "NoEntry");
    assert_eq!((f.volume.usage().bytes, f.volume.usage().entries), (0, entries));
}

fn writers_share_one_file(f: &Fixture) {
    let lines = 200;
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let dir = f.dir.clone();
            scope.spawn(move || {
                let file = dir.open_file("log", CREATE).unwrap();
                for line in 0..lines {
                    let text = format!("{writer} {line:04} {}\n", "x".repeat(60));
                    assert_eq!(file.append(text.as_bytes()).unwrap(), text.len());
                }
            });
        }
    });
    let log = content(&f.dir, "log");
    assert_eq!(log.lines().count(), 4 * lines);
    for writer in 0..4 {
        let own: Vec<&str> = log.lines().filter(|line| line.starts_with(&writer.to_string())).collect();
        assert_eq!(own.len(), lines);
        assert!(own.is_sorted() && own.iter().all(|line| line.len() == 67), "no line is torn");
    }
}

fn readers_see_writes_at_once(f: &Fixture) {
    let dir = &f.dir;
    dir.write("f", b"old").unwrap();
    let reader = dir.open_file("f", READ).unwrap();
    let writer = dir.open_directory(".").unwrap().open_file("f", WRITE).unwrap();
    let read = || {
        let mut buffer = [0; 8];
        let count = reader.read_at(0, &mut buffer).unwrap();
        String::from_utf8(buffer[..count].to_vec()).unwrap()
    };
    writer.write_at(0, b"new").unwrap();
    assert_eq!(read(), "new");
    writer.append(b"er").unwrap();
    assert_eq!((read(), reader.stat().unwrap().size), ("newer".into(), 5));
    dir.open_file("f", OpenOptions { truncate: true, ..WRITE }).unwrap();
    assert_eq!(read(), "");
    let (one, other) = (reader.stat().unwrap(), writer.stat().unwrap());
    assert_eq!((one.device, one.inode), (other.device, other.inode));
}

fn nothing_of_another_volume_is_renamed_into_it(f: &Fixture) {
    let other = Volume::memory(None).root();
    other.write("o", b"").unwrap();
    f.dir.write("f", b"").unwrap();
    fails(f.dir.rename("f", &other, "f"), "CrossDevice");
    fails(other.rename("o", &f.dir, "o"), "CrossDevice");
    fails(f.dir.link("f", false, &other, "f"), "CrossDevice");
    assert_eq!((names(&f.dir), names(&other)), (vec!["f".to_owned()], vec!["o".to_owned()]));
}

/// Names are made, moved and removed by several threads; whatever the order, the books end at zero.
#[test]
fn racing_changes_keep_the_books() {
    for f in [memory(), host(), overlay_memory(), overlay_host()] {
        f.dir.write("f", b"").unwrap();
        f.dir.unlink("f").unwrap();
        let entries = f.volume.usage().entries;
        std::thread::scope(|scope| {
            for seed in 0..4_u64 {
                let dir = f.dir.clone();
                scope.spawn(move || churn(&dir, seed));
            }
        });
        clear(&f.dir);
        assert_eq!((f.volume.usage().bytes, f.volume.usage().entries), (0, entries));
    }
}

fn churn(dir: &Directory, seed: u64) {
    let mut state = seed + 1;
    let mut pick = |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    for _ in 0..2_000 {
        let a = format!(
            "{}{}",
            ["", "d/", "d/d/", "e/"][pick(4) as usize],
            ["d", "e", "f", "g"][pick(4) as usize]
        );
        let b = format!(
            "{}{}",
            ["", "d/", "d/d/", "e/"][pick(4) as usize],
            ["d", "e", "f", "g"][pick(4) as usize]
        );
        // Most of these fail, each for its own good reason.
        let _ = match pick(7) {
            0 => dir.create_directory(&a),
            1 => dir.write(&a, &[1; 100]),
            2 => dir.rename(&a, dir, &b),
            3 => dir.link(&a, false, dir, &b),
            4 => dir.unlink(&a),
            5 => dir.remove_directory(&a),
            _ => dir.open_file(&a, WRITE).and_then(|file| file.set_size(pick(200))),
        };
    }
}

fn clear(dir: &Directory) {
    for name in names(dir) {
        match dir.stat_at(&name, false).unwrap().kind {
            FileKind::Directory => {
                clear(&dir.open_directory(&name).unwrap());
                dir.remove_directory(&name).unwrap();
            }
            _ => dir.unlink(&name).unwrap(),
        }
    }
}

/// A link that is put where a directory was, between two looks, leads nowhere outside: neither who reads nor who
/// writes, makes, moves and removes gets there.
#[test]
fn swapping_links_does_not_lead_out() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    std::fs::create_dir(outside.path().join("empty")).unwrap();
    let inside = tempfile::tempdir().unwrap();
    std::fs::create_dir(inside.path().join("d")).unwrap();
    std::os::unix::fs::symlink(outside.path(), inside.path().join("link")).unwrap();
    let volume = Volume::host(inside.path(), None).unwrap();
    let over = Volume::overlay(&[], &Volume::host(inside.path(), None).unwrap());
    let done = std::sync::atomic::AtomicBool::new(false);
    let reads = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                swap(&inside.path().join("d"), &inside.path().join("link"), &inside.path().join("t"));
            }
        });
        let mut reads = 0;
        for round in 0..6_000 {
            let dir = if round % 2 == 0 { volume.root() } else { over.root() };
            let _ = dir.write("d/secret", b"public");
            if let Ok(text) = dir.read("d/secret", 100) {
                assert!(text.is_empty() || text == b"public", "{text:?}");
                reads += 1;
            }
            let _ = dir.create_directory("d/made");
            let _ = dir.rename("d/secret", &dir, "d/moved");
            let _ = dir.symlink("x", "d/link");
            let _ = dir.unlink("d/link");
            let _ = dir.unlink("d/moved");
            let _ = dir.remove_directory("d/empty");
            let _ = dir.remove_directory("d/made");
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        reads
    });
    assert!(reads > 0);
    fails(volume.root().read("link/secret", 100), "NoEntry");
    let mut left: Vec<_> =
        std::fs::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["empty", "secret"]);
    assert_eq!(std::fs::read_to_string(outside.path().join("secret")).unwrap(), "secret");
}

fn swap(a: &Path, b: &Path, temporary: &Path) {
    std::fs::rename(a, temporary).unwrap();
    std::fs::rename(b, a).unwrap();
    std::fs::rename(a, b).unwrap();
    std::fs::rename(temporary, a).unwrap();
}
