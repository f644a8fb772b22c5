//! What layers become on disk, and what hostile ones do not.

use std::collections::BTreeMap;

use serde_json::json;
use tar::{EntryType, Header};

use super::*;
use crate::format::{self, Choice};
use crate::tests::{gzip, zstd};

const WASM: &[u8] = b"\0asm\x01\0\0\0";
const LIMIT: u64 = 64 << 20;

/// An entry of an archive, exactly as it is said.
#[derive(Clone)]
struct Entry {
    kind: EntryType,
    path: Vec<u8>,
    link: Vec<u8>,
    content: Vec<u8>,
    /// If it is to be another than that of the content.
    size: Option<u64>,
}

fn entry(kind: EntryType, path: &str, link: &str, content: &[u8]) -> Entry {
    Entry { kind, path: path.into(), link: link.into(), content: content.to_vec(), size: None }
}

fn file(path: &str, content: &str) -> Entry {
    entry(EntryType::Regular, path, "", content.as_bytes())
}

fn wasm(path: &str) -> Entry {
    entry(EntryType::Regular, path, "", WASM)
}

fn folder(path: &str) -> Entry {
    entry(EntryType::Directory, path, "", b"")
}

fn link(path: &str, to: &str) -> Entry {
    entry(EntryType::Symlink, path, to, b"")
}

fn hard(path: &str, to: &str) -> Entry {
    entry(EntryType::Link, path, to, b"")
}

fn property(key: &str, value: &str) -> Entry {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len();
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    entry(EntryType::XHeader, "pax", "", format!("{length}{rest}").as_bytes())
}

fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    for Entry { kind, path, link, content, size } in entries {
        let mut header = Header::new_gnu();
        let old = header.as_old_mut();
        for (field, text) in [(&mut old.name, path), (&mut old.linkname, link)] {
            let count = text.len().min(field.len());
            field[..count].copy_from_slice(&text[..count]);
        }
        header.set_entry_type(*kind);
        header.set_size(size.unwrap_or(content.len() as u64));
        header.set_mode(0o644);
        header.set_mtime(1_000_000_000);
        header.set_cksum();
        out.extend(header.as_bytes());
        out.extend(content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

struct World {
    dir: tempfile::TempDir,
    content: Content,
    files: Files,
    manifest: Digest,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let content = Content::open(dir.path()).unwrap();
        let files = Files::open(dir.path(), LIMIT).unwrap();
        World { dir, content, files, manifest: Digest::of(b"manifest") }
    }

    fn unpack(&self, layers: &[Vec<u8>], execution: &Execution) -> Result<Found, String> {
        match self.unpack_within(None, layers, execution) {
            Ok(()) => Ok(self.files.find(&self.manifest).unwrap().expect("it was unpacked")),
            Err(Unfinished::Unusable(Unusable::Format(error))) => Err(error.to_string()),
            Err(error) => panic!("{error:?}"),
        }
    }

    fn unpack_within(
        &self,
        most: Option<Extent>,
        layers: &[Vec<u8>],
        execution: &Execution,
    ) -> Result<(), Unfinished> {
        let layers = layers.iter().map(|layer| {
            let digest = self.content.write(layer).unwrap().to_string();
            json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": layer.len()})
        });
        let manifest = json!({"schemaVersion": 2, "layers": layers.collect::<Vec<_>>()});
        let manifest = format::parse(manifest.to_string().as_bytes()).unwrap();
        let Choice::Image(plan) = format::choose(&manifest).unwrap() else { panic!("no index") };
        self.files.unpack(&self.content, &self.manifest, &plan, execution, most)
    }

    /// Folders, files with their content, and links with their targets.
    fn listing(&self) -> BTreeMap<String, String> {
        let root = self.files.path(&self.manifest).join(ROOT);
        let (mut listing, mut left) = (BTreeMap::new(), vec![root.clone()]);
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                let meta = path.symlink_metadata().unwrap();
                let what = if meta.is_dir() {
                    left.push(path);
                    "/".to_owned()
                } else if meta.is_symlink() {
                    format!("-> {}", fs::read_link(path).unwrap().display())
                } else {
                    String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()
                };
                listing.insert(name, what);
            }
        }
        listing
    }

    fn left_over(&self) -> usize {
        fs::read_dir(self.dir.path().join("uploads")).unwrap().count()
    }
}

/// What the layers become, beside the module `m.wasm` that is added to the first.
#[track_caller]
fn check(layers: &[&[Entry]], expected: &[(&str, &str)]) {
    let world = World::new();
    let module = archive(&[wasm("m.wasm")]);
    let layers: Vec<_> = std::iter::once(module).chain(layers.iter().map(|layer| archive(layer))).collect();
    let found = world.unpack(&layers, &Execution::default()).unwrap();
    let mut expected: BTreeMap<String, String> =
        expected.iter().map(|(name, what)| ((*name).to_owned(), (*what).to_owned())).collect();
    expected.insert("m.wasm".to_owned(), String::from_utf8_lossy(WASM).into_owned());
    assert_eq!(world.listing(), expected);
    assert_eq!(world.left_over(), 0);
    let (path, digest, size) = found.module.unwrap();
    assert_eq!((fs::read(path).unwrap(), digest, size), (WASM.to_vec(), Digest::of(WASM), WASM.len() as u64));
}

#[test]
fn layers_are_merged() {
    check(&[&[file("a", "1"), folder("d"), file("d/b", "2")]], &[("a", "1"), ("d", "/"), ("d/b", "2")]);
    check(&[&[file("./a", "1"), file("/d/b", "2"), folder("./")]], &[("a", "1"), ("d", "/"), ("d/b", "2")]);
    check(&[&[file("a", "1")], &[file("a", "2")]], &[("a", "2")]);
    check(&[&[file("a", "1"), file("a", "2")]], &[("a", "2")]);
    check(
        &[&[folder("d"), file("d/a", "1")], &[folder("d"), file("d/b", "2")]],
        &[("d", "/"), ("d/a", "1"), ("d/b", "2")],
    );
    // A file for a folder, a folder for a file, a folder for a link.
    check(&[&[file("d/a", "1")], &[file("d", "2")]], &[("d", "2")]);
    check(&[&[file("d", "1")], &[folder("d"), file("d/a", "2")]], &[("d", "/"), ("d/a", "2")]);
    check(
        &[&[folder("e"), link("d", "e")], &[folder("d"), file("d/a", "1")]],
        &[("d", "/"), ("d/a", "1"), ("e", "/")],
    );
    // Old archives say folders with a slash.
    check(&[&[file("d/", "")]], &[("d", "/")]);
    // Devices are left out.
    check(&[&[entry(EntryType::Char, "null", "", b""), entry(EntryType::Fifo, "fifo", "", b"")]], &[]);
    let long = "n".repeat(200);
    check(
        &[&[entry(EntryType::GNULongName, "././@LongLink", "", long.as_bytes()), file("short", "1")]],
        &[(&long, "1")],
    );
    check(
        &[&[property("path", &long), file("short", "1"), file("next", "2")]],
        &[(&long, "1"), ("next", "2")],
    );
    check(&[&[property("linkpath", &long), link("l", "x")]], &[("l", &format!("-> {long}"))]);
    check(&[&[entry(EntryType::XGlobalHeader, "g", "", b"x"), file("a", "1")]], &[("a", "1")]);
}

#[test]
fn whiteouts_hide_what_is_below() {
    let below = || vec![file("d/a", "1"), file("d/b", "2"), file("c", "3")];
    check(&[&below(), &[file("d/.wh.a", "")]], &[("d", "/"), ("d/b", "2"), ("c", "3")]);
    check(&[&below(), &[file(".wh.d", "")]], &[("c", "3")]);
    check(&[&below(), &[file("d/.wh..wh..opq", "")]], &[("d", "/"), ("c", "3")]);
    // Whatever the order in the layer: what is of the same layer stays.
    check(
        &[&below(), &[file("d/e", "4"), file("d/.wh..wh..opq", "")]],
        &[("d", "/"), ("d/e", "4"), ("c", "3")],
    );
    check(
        &[&below(), &[file("d/.wh..wh..opq", ""), file("d/e", "4")]],
        &[("d", "/"), ("d/e", "4"), ("c", "3")],
    );
    check(&[&below(), &[file("d/e", "4"), file(".wh.d", "")]], &[("d", "/"), ("d/e", "4"), ("c", "3")]);
    check(
        &[&below(), &[file("c", "5"), file(".wh.c", "")]],
        &[("d", "/"), ("d/a", "1"), ("d/b", "2"), ("c", "5")],
    );
    check(
        &[&below(), &[file(".wh.none", ""), file(".wh.", ""), file(".wh..wh.plnk", "")]],
        &[("d", "/"), ("d/a", "1"), ("d/b", "2"), ("c", "3")],
    );
}

#[test]
fn links_stay_links_and_stay_inside() {
    check(
        &[&[file("d/a", "1"), link("l", "d/a"), link("d/up", "../l")]],
        &[("d", "/"), ("d/a", "1"), ("l", "-> d/a"), ("d/up", "-> ../l")],
    );
    // Absolute ones mean the image's root; there is nothing above it.
    check(
        &[&[
            link("a", "/etc/passwd"),
            link("d/e/b", "/etc/passwd"),
            link("d/c", "../../../x"),
            link("r", "/"),
        ]],
        &[
            ("a", "-> etc/passwd"),
            ("d", "/"),
            ("d/e", "/"),
            ("d/e/b", "-> ../../etc/passwd"),
            ("d/c", "-> ../x"),
            ("r", "-> ."),
        ],
    );
    // What is behind a link in one layer goes there in the next, never on the host.
    for target in ["usr/lib", "/usr/lib", "../../usr/lib", "usr/./lib/../lib"] {
        let shown =
            format!("-> {}", String::from_utf8(tree::link_target(b"lib", target.as_bytes())).unwrap());
        check(
            &[&[folder("usr/lib"), link("lib", target)], &[file("lib/x", "1")]],
            &[("lib", &shown), ("usr", "/"), ("usr/lib", "/"), ("usr/lib/x", "1")],
        );
    }
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let layers = [archive(&[wasm("m"), link("out", target)]), archive(&[file("out/x", "1")])];
    World::new().unpack(&layers, &Execution::default()).unwrap();
    assert_eq!(
        fs::read_dir(outside.path()).unwrap().count(),
        0,
        "the host's folder of that name is untouched"
    );

    check(
        &[&[file("a", "1"), hard("d/b", "a"), link("l", "a"), hard("k", "l")]],
        &[("a", "1"), ("d", "/"), ("d/b", "1"), ("l", "-> a"), ("k", "-> a")],
    );
    // A later layer changes one of both names.
    check(&[&[file("a", "1"), hard("b", "a")], &[file("a", "2")]], &[("a", "2"), ("b", "1")]);
}

#[test]
fn hostile_archives_are_refused_and_leave_nothing() {
    #[track_caller]
    fn refused(layer: Vec<u8>, message: &str) {
        let world = World::new();
        let error = world.unpack(&[layer], &Execution::default()).unwrap_err();
        assert!(error.contains(message), "{error}");
        assert_eq!(world.left_over(), 0);
        assert_eq!(world.files.find(&world.manifest).unwrap(), None);
    }
    for path in ["../x", "a/../../x", "/..", "a/..", ".."] {
        refused(archive(&[file(path, "1")]), "leads out of the image");
        refused(archive(&[folder(path)]), "leads out of the image");
        refused(archive(&[link(path, "x")]), "leads out of the image");
        refused(archive(&[wasm("m"), hard("h", path)]), "leads out of the image");
    }
    refused(archive(&[property("path", "a\0b"), file("x", "")]), "leads out of the image");
    refused(archive(&[property("path", &"n".repeat(256)), file("x", "")]), "a name has more than 255 bytes");
    refused(
        archive(&[property("path", &"n/".repeat(1500)), file("x", "")]),
        "a path has more than 2048 bytes",
    );
    refused(archive(&[property("path", &"n/".repeat(500)), file("x", "")]), "128 deep");
    refused(archive(&[property("linkpath", &"n".repeat(3000)), link("x", "y")]), "no valid target");
    refused(archive(&[link("x", "")]), "no valid target");
    refused(archive(&[link("a", "b"), link("b", "a"), file("a/x", "")]), "too many levels of symbolic links");
    refused(archive(&[link("a", "a/a"), file("a/x", "")]), "too many levels of symbolic links");
    // Folders that grow by links into themselves.
    let mut deep = vec![folder("a/a/a/a/a/a/a/a/a/a"), link("l", "a/a/a/a/a/a/a/a/a/a")];
    let growing: String = (0..200).map(|i| format!("/{i}")).collect();
    deep.push(property("path", &format!("l{growing}")));
    deep.push(file("x", ""));
    refused(archive(&deep), "128 deep");
    refused(archive(&[file("a", ""), file("a/b", "")]), "is a file, not a folder");
    refused(archive(&[hard("a", "none")]), "leads to nothing");
    refused(archive(&[hard("a", "a")]), "leads to nothing");
    refused(archive(&[folder("d"), hard("a", "d")]), "leads to a folder");
    refused(archive(&[file("", "x")]), "stands for the root");
    refused(archive(&[entry(EntryType::GNUSparse, "a", "", b"")]), "sparse");
    refused(archive(&[property("GNU.sparse.major", "1"), file("a", "")]), "sparse");
    refused(archive(&[property("size", "7"), file("a", "")]), "size is said twice");
    refused(archive(&[entry(EntryType::new(b'Z'), "a", "", b"")]), "unknown type");
    refused(archive(&[entry(EntryType::XHeader, "a", "", &vec![b'x'; 70_000])]), "more than 65536 bytes");
    refused(archive(&[entry(EntryType::GNULongName, "a", "", &vec![b'x'; 4096])]), "more than 2049 bytes");
    // Sizes that are not there, up to the largest that a header can say.
    for size in [1, 1 << 33, (1 << 62) + 1] {
        let mut short = archive(&[Entry { size: Some(size), ..file("a", "") }]);
        short.truncate(512);
        refused(short, "ends too early");
    }
    let mut broken = archive(&[file("a", "1")]);
    broken[0] = b'b';
    refused(broken, "checksum");
    refused(b"#!/bin/sh\n".repeat(100), "");
    let whole = gzip(&archive(&[file("a", "1")]));
    refused(whole[..whole.len() / 2].to_vec(), "");
    let whole = zstd(&archive(&[file("a", "1")]));
    refused(whole[..whole.len() / 2].to_vec(), "");
}

#[test]
fn bombs_do_not_go_off() {
    let limits = Limits { most: Extent { bytes: 2 << 20, entries: 1000 }, small: 64 << 10 };
    #[track_caller]
    fn refused(limits: Limits, layers: &[Vec<u8>], message: &str) {
        let mut world = World::new();
        world.files.limits = limits;
        let error = world.unpack(layers, &Execution::default()).unwrap_err();
        assert!(error.contains(message), "{error}");
        assert_eq!(world.left_over(), 0);
    }
    let bomb = archive(&[entry(EntryType::Regular, "a", "", &vec![0; 1 << 20])]);
    refused(limits, &[gzip(&bomb)], "more than 200 times as large");
    refused(limits, &[zstd(&bomb)], "more than 200 times as large");
    // One after the other: all layers share the limit.
    refused(limits, &[bomb.clone(), bomb.clone(), bomb], "more than 2097152 bytes");
    // Many folders of nothing.
    let many = archive(&(0..=1000).map(|i| folder(&i.to_string())).collect::<Vec<_>>());
    refused(limits, &[many], "more than 1000 files");
    // A frame that asks for gigabytes to look back into.
    let window = [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa0][..], &[0; 64]].concat();
    refused(limits, &[window], "");
}

/// Links with long targets, and folders with long paths, cost an archive next to nothing.
#[test]
fn many_long_names_are_refused_before_they_are_held() {
    #[track_caller]
    fn refused(add: impl Fn(&mut Tree, usize) -> Result<(), String>) {
        let mut tree = Tree::new(100_000);
        tree.begin_layer();
        let error = (0..100_000).find_map(|number| add(&mut tree, number).err()).expect("it ends");
        assert_eq!(error, "paths and links have more than 33554432 bytes");
    }
    let target = vec![b'x'; 2048];
    refused(|tree, number| tree.put(number.to_string().as_bytes(), Node::Link(target.clone())));
    let deep = "0123456789abcdef/".repeat(100);
    refused(|tree, number| tree.folder(format!("{deep}{number}").as_bytes()));
    // The same through a link to a deep folder: what is written is short.
    let mut tree = Tree::new(100_000);
    tree.begin_layer();
    tree.folder(deep.as_bytes()).unwrap();
    tree.put(b"l", Node::Link(deep.clone().into_bytes())).unwrap();
    assert!((0..100_000).any(|number| tree.folder(format!("l/{number}").as_bytes()).is_err()));
}

/// Each whiteout of everything is a few bytes; together they must not cost the square of what there is.
#[test]
fn hiding_again_and_again_is_not_looking_again_and_again() {
    let mut tree = Tree::new(100_000);
    tree.begin_layer();
    tree.put(b"d/below", Node::Link(b"x".to_vec())).unwrap();
    tree.begin_layer();
    for number in 0..20_000 {
        tree.folder(format!("d/{number}").as_bytes()).unwrap();
    }
    // Looked at each time these would take minutes.
    for _ in 0..20_000 {
        tree.put(b"d/.wh..wh..opq", Node::Link(b"x".to_vec())).unwrap();
        tree.put(b".wh.d", Node::Link(b"x".to_vec())).unwrap();
    }
    assert!(tree.look_up(b"d/below").is_none());
    assert!(tree.look_up(b"d/19999").is_some());
    // In the next layer there is something to hide again.
    tree.begin_layer();
    tree.put(b"d/.wh..wh..opq", Node::Link(b"x".to_vec())).unwrap();
    assert!(tree.look_up(b"d/19999").is_none());
}

/// Whatever a byte is changed to: no panic, and nothing outside.
#[test]
fn damaged_layers_are_errors_or_files() {
    let layer = archive(&[
        wasm("m.wasm"),
        property("path", "long/name"),
        file("x", "1"),
        link("l", "/etc"),
        hard("h", "m.wasm"),
        file("d/.wh.x", ""),
    ]);
    let world = World::new();
    for whole in [layer.clone(), gzip(&layer), zstd(&layer)] {
        for at in (0..whole.len()).step_by(whole.len() / 37 + 1) {
            let mut changed = whole.clone();
            changed[at] ^= 0x15;
            let work = Work::begin(&world.files.drafts, world.files.limits).unwrap();
            let Work { draft, mut tree, mut unpacked, mut budget } = work;
            let digest = world.content.write(&changed).unwrap();
            let blob = File::open(world.content.path(&digest)).unwrap();
            if layer::apply(blob, &mut tree, &mut unpacked, &mut budget).is_ok() {
                tree.each(&mut |path, _| assert!(!path.starts_with(b"/") && !path.starts_with(b"..")));
                unpacked.place(&tree, &draft.path.join(ROOT)).unwrap();
            }
        }
    }
    assert_eq!(world.left_over(), 0);
}

#[test]
fn many_files_are_kept_as_few_are() {
    let world = World::new();
    let mut entries: Vec<_> = (0..FEW).map(|number| file(&format!("d/{number}"), "1")).collect();
    entries.push(wasm("m.wasm"));
    let found = world.unpack(&[archive(&entries)], &Execution::default()).unwrap();
    assert_eq!(world.listing().len(), FEW + 2);
    assert_eq!(found.files.unwrap().size, FEW as u64 + WASM.len() as u64);
}

#[test]
fn compressed_layers_in_all_their_forms() {
    let layer = archive(&[wasm("m.wasm"), file("a", "1")]);
    let (first, second) = layer.split_at(600);
    let skippable = [&[0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
    for layer in [
        layer.clone(),
        gzip(&layer),
        [gzip(first), gzip(second)].concat(),
        zstd(&layer),
        [zstd(first), skippable.clone(), zstd(second), skippable.clone()].concat(),
        [skippable, zstd(&layer)].concat(),
    ] {
        let world = World::new();
        let found = world.unpack(&[Vec::new(), layer], &Execution::default()).unwrap();
        assert_eq!(world.listing()["a"], "1");
        assert_eq!(found.files.as_ref().unwrap().size, WASM.len() as u64 + 1);
        let time = fs::metadata(found.files.as_ref().unwrap().path.join("a")).unwrap().modified().unwrap();
        assert_eq!(time, SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
    }
    // A layer that is the module itself, whatever it was called.
    let world = World::new();
    world.unpack(&[WASM.to_vec()], &Execution::default()).unwrap();
    assert_eq!(world.listing().keys().collect::<Vec<_>>(), ["module.wasm"]);
}

/// Layers are read through a buffer of 64 KiB.
#[test]
fn frames_begin_anywhere_in_the_buffer() {
    let layer = archive(&[wasm("m.wasm"), file("a", "1")]);
    let (first, second) = layer.split_at(600);
    let skippable = |length: usize| {
        [&[0x50, 0x2a, 0x4d, 0x18][..], &u32::try_from(length).unwrap().to_le_bytes(), &vec![7; length]]
            .concat()
    };
    for at in 65_532..=65_537 {
        let before = zstd(first);
        let begin = [skippable(at - before.len() - 8), before].concat();
        assert_eq!(begin.len(), at);
        for next in [skippable(9), Vec::new()] {
            let world = World::new();
            world
                .unpack(&[[&begin[..], &next, &zstd(second), &skippable(0)].concat()], &Execution::default())
                .unwrap();
            assert_eq!(world.listing()["a"], "1", "{at}");
        }
    }
}

#[test]
fn the_module_is_what_the_entrypoint_names() {
    let layer = || {
        archive(&[
            wasm("app/a.wasm"),
            wasm("usr/bin/b"),
            link("bin", "usr/bin"),
            link("c.wasm", "/app/a.wasm"),
            file("bin/sh", "ELF"),
            wasm("deep/d.wasm"),
        ])
    };
    #[track_caller]
    fn check(layer: Vec<u8>, execution: &Execution, expected: Result<(), &str>) {
        let found = World::new().unpack(&[layer], execution);
        match (found, expected) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(message)) => assert!(error.contains(message), "{error}"),
            (found, _) => panic!("{found:?}"),
        }
    }
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let entrypoint =
        |program: &str| Execution { entrypoint: words(&[program, "-x"]), ..Execution::default() };
    for program in ["/app/a.wasm", "app/a.wasm", "./app/a.wasm", "/c.wasm", "/bin/b", "b", "/../app/a.wasm"] {
        check(layer(), &entrypoint(program), Ok(()));
    }
    check(layer(), &Execution { cmd: words(&["/app/a.wasm"]), ..Execution::default() }, Ok(()));
    check(layer(), &Execution { working_dir: "/app".to_owned(), ..entrypoint("a.wasm") }, Ok(()));
    check(layer(), &Execution { env: words(&["PATH=/x:/deep"]), ..entrypoint("d.wasm") }, Ok(()));
    check(
        layer(),
        &entrypoint("/bin/sh"),
        Err("image is not WebAssembly: its entrypoint \"usr/bin/sh\" is no module"),
    );
    let several = "it has 3 modules (\"app/a.wasm\", \"deep/d.wasm\", \"usr/bin/b\"), and its entrypoint names none of them";
    check(layer(), &Execution::default(), Err(several));
    check(layer(), &entrypoint("/none.wasm"), Err(several));
    // What is meant by Docker's shell, and what is not meant at all.
    let one = || archive(&[wasm("t.wasm")]);
    let shell = Execution { entrypoint: words(&["/bin/sh", "-c", "/t.wasm"]), ..Execution::default() };
    let missing = "image is not WebAssembly: its entrypoint \"/bin/sh\": no such file or directory";
    check(one(), &shell, Err(missing));
    check(one(), &Execution { entrypoint: Vec::new(), cmd: shell.entrypoint.clone(), ..shell }, Err(missing));
    check(one(), &entrypoint("bin/app"), Err("its entrypoint \"bin/app\": no such file or directory"));
    for program in ["title", "/other/name.wasm", "/module.wat"] {
        check(one(), &entrypoint(program), Ok(()));
    }
    let plugin = archive(&[wasm("plugin.wasm"), wasm("other.wasm")]);
    check(plugin, &Execution::default(), Ok(()));
    let none = archive(&[file("a", "1"), file("b.wasm", "no")]);
    check(none, &Execution::default(), Err("image is not WebAssembly: none of its files is a module"));
    let broken = archive(&[entry(EntryType::Regular, "a", "", b"\0asm\x07\0\0\0")]);
    check(broken, &Execution::default(), Err("it is not a Wasm binary: its version"));
}

#[test]
fn unpacked_files_are_kept_and_removed_whole() {
    let world = World::new();
    let layer = archive(&[wasm("m.wasm"), folder("d")]);
    let found = world.unpack(std::slice::from_ref(&layer), &Execution::default()).unwrap();
    // Again is nothing.
    assert_eq!(world.unpack(std::slice::from_ref(&layer), &Execution::default()).unwrap(), found);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(found.files.as_ref().unwrap().path.join("m.wasm")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o400);
    world.files.retain(|_| true).unwrap();
    assert_eq!(world.files.find(&world.manifest).unwrap(), Some(found.clone()));
    // What is damaged is not there, and made again.
    fs::write(world.files.path(&world.manifest).join(RECORD), "{").unwrap();
    assert_eq!(world.files.find(&world.manifest).unwrap(), None);
    world.files.remove(&world.manifest).unwrap();
    assert_eq!(world.unpack(&[layer], &Execution::default()).unwrap(), found);
    world.files.retain(|_| false).unwrap();
    assert_eq!(fs::read_dir(world.dir.path().join("files")).unwrap().count(), 0);
    assert_eq!(world.left_over(), 0);
    world.files.remove(&world.manifest).unwrap();
}

/// What is left to the other lane is what has more of anything that takes time.
#[test]
fn what_is_larger_than_allowed_this_time_leaves_nothing() {
    const FEW: Extent = Extent { bytes: 20_000, entries: 10 };
    let many = |made: fn(usize) -> Entry| [vec![wasm("m.wasm")], (0..11).map(made).collect()].concat();
    #[track_caller]
    fn check(layers: &[Vec<u8>], fits: bool) {
        let world = World::new();
        let unpacked = world.unpack_within(Some(FEW), layers, &Execution::default());
        match unpacked {
            Ok(()) => assert!(fits),
            Err(Unfinished::Larger) => assert!(!fits),
            Err(Unfinished::Unusable(error)) => panic!("{error:?}"),
        }
        assert_eq!((world.files.find(&world.manifest).unwrap().is_some(), world.left_over()), (fits, 0));
        world.unpack(layers, &Execution::default()).unwrap();
    }
    check(&[archive(&[wasm("m.wasm"), file("a/b/c", "d")])], true);
    check(&[archive(&many(|number| file(&number.to_string(), "")))], false);
    check(&[archive(&many(|number| folder(&number.to_string())))], false);
    check(&[archive(&many(|number| link(&number.to_string(), "m.wasm")))], false);
    // Files that hide others, or that others hide, are written all the same.
    check(&[archive(&many(|_| file("same", ""))), archive(&[folder("a")])], false);
    check(&[archive(&many(|number| file(&format!(".wh.{number}"), "")))], false);
    check(&[gzip(&archive(&[wasm("m.wasm"), file("large", &"x".repeat(20_000))]))], false);
    // What is damaged as well is refused in the end.
    let damaged = archive(&[many(|number| file(&number.to_string(), "")), vec![file("../out", "")]].concat());
    let world = World::new();
    let unpacked = world.unpack_within(Some(FEW), std::slice::from_ref(&damaged), &Execution::default());
    assert!(matches!(unpacked, Err(Unfinished::Larger)), "{unpacked:?}");
    world.unpack(&[damaged], &Execution::default()).unwrap_err();
}
