use std::{
    cell::RefCell,
    collections::BTreeMap,
    env, fs,
    io::Cursor,
    path::PathBuf,
    rc::Rc,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{ALL, run};
use crate::call::{Call, Env, In, Out};

/// A folder of its own for a test.
pub struct Folder(pub PathBuf);

static FOLDERS: AtomicU32 = AtomicU32::new(0);

impl Folder {
    pub fn new() -> Folder {
        let n = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("toolbox-{}-{n}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Folder(path)
    }

    /// Runs one command line, split at blanks, with something on its input.
    fn run(&self, line: &str, input: &[u8]) -> (Vec<u8>, String, u8) {
        let (out, err) = (Rc::new(RefCell::new(Vec::new())), Rc::new(RefCell::new(Vec::new())));
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let mut env =
            Env { vars: BTreeMap::from([("A".to_owned(), "b".to_owned())]), cwd: self.0.clone(), depth: 0 };
        let code = run(&mut Call {
            args: &args,
            stdin: In::new(Cursor::new(input.to_vec())),
            out: Out::shared(out.clone()),
            err: Out::shared(err.clone()),
            env: &mut env,
        });
        let err = String::from_utf8(err.borrow().clone()).unwrap();
        (out.borrow().clone(), err, code)
    }

    #[track_caller]
    fn check(&self, line: &str, input: &str, expected: &str, code: u8) {
        let (out, err, got) = self.run(line, input.as_bytes());
        let text = String::from_utf8_lossy(&out).into_owned() + &err;
        assert_eq!((text.as_str(), got), (expected, code), "{line}");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn commands_are_found_by_name() {
    assert!(ALL.is_sorted_by_key(|(name, _)| *name), "the list is searched by halves");
    let dir = Folder::new();
    dir.check("/bin/echo a", "", "a\n", 0);
    dir.check("none", "", "none: not found\n", 127);
    assert_eq!(dir.run(&"env ".repeat(10_000), b"").2, 1);
    dir.check("echo -n -e a\\tb", "", "a\tb", 0);
}

#[test]
fn text_commands() {
    let dir = Folder::new();
    fs::write(dir.0.join("f"), "one\ntwo\nthree\n").unwrap();
    for (line, expected, code) in [
        ("cat f -", "one\ntwo\nthree\nb\na\nb\n", 0),
        ("cat -n f", "     1\tone\n     2\ttwo\n     3\tthree\n", 0),
        ("cat none", "cat: can't open 'none': No such file or directory\n", 1),
        ("head -1 f", "one\n", 0),
        ("head -c 2", "b\n", 0),
        ("tail -n 1 f", "three\n", 0),
        ("tail -n +2 f", "two\nthree\n", 0),
        ("tail -c+9 f", "three\n", 0),
        ("tail -c +3", "a\nb\n", 0),
        ("tail -c 3", "\nb\n", 0),
        ("tail -2", "a\nb\n", 0),
        ("wc f", "        3         3        14 f\n", 0),
        ("wc -l", "3\n", 0),
        ("grep -n o f", "1:one\n2:two\n", 0),
        ("grep -vc o f", "1\n", 0),
        ("grep -o t. f", "tw\nth\n", 0),
        ("grep x f", "", 1),
        ("grep -q one f", "", 0),
        ("sort", "a\nb\nb\n", 0),
        ("sort -ur", "b\na\n", 0),
        ("uniq -c", "      1 b\n      1 a\n      1 b\n", 0),
        ("cut -d e -f 2- f", "\ntwo\ne\n", 0),
        ("seq 3 -1 1", "3\n2\n1\n", 0),
        ("basename /a/b.txt .txt", "b\n", 0),
        ("dirname /a/b", "/a\n", 0),
        ("dirname b", ".\n", 0),
        ("printf %s-%03d\\n a 7 b 8", "a-007\nb-008\n", 0),
        ("tee copy", "b\na\nb\n", 0),
        ("cat copy", "b\na\nb\n", 0),
        ("printenv A", "b\n", 0),
        ("env -u A", "", 0),
        ("sleep x", "sleep: invalid number 'x'\n", 1),
    ] {
        dir.check(line, "b\na\nb\n", expected, code);
    }
}

#[test]
fn a_full_volume_is_called_so() {
    // Linux has a file for it.
    if !std::path::Path::new("/dev/full").exists() {
        return;
    }
    let dir = Folder::new();
    fs::write(dir.0.join("f"), "x").unwrap();
    dir.check("cp f /dev/full", "", "cp: 'f': No space left on device\n", 1);
    dir.check("tee /dev/full", "x", "xtee: No space left on device\n", 1);
    assert_eq!(dir.run("sh script", b"").2, 127);
    fs::write(dir.0.join("script"), "echo x > /dev/full").unwrap();
    dir.check("sh script", "", "sh: write error: No space left on device\n", 1);
}

#[test]
fn conditions() {
    let dir = Folder::new();
    fs::write(dir.0.join("f"), "x").unwrap();
    for (line, code) in [
        ("test -d .", 0),
        ("test -d f", 1),
        ("test -f f -a -s f", 0),
        ("test -e none -o -e f", 0),
        ("test ! -e none", 0),
        ("test", 1),
        ("test a", 0),
        ("test a = b", 1),
        ("test a != b", 0),
        ("test ! = !", 0),
        ("test 2 -lt 10", 0),
        ("test x -lt 10", 2),
        ("test ( a = b ) -o c", 0),
        ("[ -z a ]", 1),
        ("[ a", 2),
        ("test a b", 2),
    ] {
        assert_eq!(dir.run(line, b"").2, code, "{line}");
    }
    assert_eq!(dir.run(&format!("test {} a", "( ".repeat(10_000)), b"").2, 2);
}

#[test]
fn trees_are_made_changed_and_removed() {
    let dir = Folder::new();
    for (line, expected, code) in [
        ("mkdir a/b", "mkdir: can't create directory 'a/b': No such file or directory\n", 1),
        ("mkdir -p a/b", "", 0),
        ("touch a/f a/b/g", "", 0),
        ("ln -s f a/l", "", 0),
        ("readlink a/l", "f\n", 0),
        ("cp a c", "cp: 'a': omitting directory\n", 1),
        ("cp -r a c", "", 0),
        ("readlink c/l", "f\n", 0),
        ("mv c/f d", "", 0),
        ("find a c d", "a\na/b\na/b/g\na/f\na/l\nc\nc/b\nc/b/g\nc/l\nd\n", 0),
        ("find . -name g* -type f", "./a/b/g\n./c/b/g\n", 0),
        ("find -maxdepth 1 -type d", ".\n./a\n./c\n", 0),
        ("ls", "a\nc\nd\n", 0),
        ("ls -1R a", "a:\nb\nf\nl\n\na/b:\ng\n", 0),
        ("ls none", "ls: none: No such file or directory\n", 1),
        ("stat -c %F:%s:%n a/f", "regular empty file:0:a/f\n", 0),
        ("rmdir a", "rmdir: 'a': Directory not empty\n", 1),
        ("rm a", "rm: can't remove 'a': Is a directory\n", 1),
        ("rm -r a c none", "rm: can't remove 'none': No such file or directory\n", 1),
        ("rm -f none", "", 0),
        ("ls", "d\n", 0),
    ] {
        dir.check(line, "", expected, code);
    }
    let (listing, _, _) = dir.run("ls -la", b"");
    let listing = String::from_utf8(listing).unwrap();
    assert!(listing.starts_with("total ") && listing.contains("drwxr-xr-x    1 root     root "), "{listing}");
    assert!(listing.lines().any(|l| l.starts_with("-rw-r--r--") && l.ends_with(" d")), "{listing}");
}

#[test]
fn trees_travel_through_tar() {
    let (from, to) = (Folder::new(), Folder::new());
    let deep = format!("tree/{}/{}", "d".repeat(90), "e".repeat(90));
    fs::create_dir_all(from.0.join(&deep)).unwrap();
    fs::write(from.0.join(&deep).join("file"), vec![7; 100_000]).unwrap();
    fs::write(from.0.join("tree/empty"), "").unwrap();
    from.run("ln -s empty tree/link", b"");
    let (archive, err, code) = from.run("tar cf - tree none", b"");
    assert_eq!((archive.len() % 512, code), (0, 1));
    assert!(err.contains("none: No such file or directory"), "{err}");
    assert!(err.ends_with("tar: error exit delayed from previous errors\n"), "{err}");

    assert!(from.run("tar cf - none", b"").0.is_empty(), "no end that says that all is well");
    let (names, _, _) = to.run("tar tf -", &archive);
    assert!(String::from_utf8(names).unwrap().starts_with(&format!("tree/\ntree/{}/\n", "d".repeat(90))));
    to.run("mkdir in", b"");
    // Twice: what is there is replaced.
    for _ in 0..2 {
        assert_eq!(to.run("tar xmf - -C in", &archive), (Vec::new(), String::new(), 0));
    }
    assert_eq!(fs::read(to.0.join("in").join(&deep).join("file")).unwrap(), vec![7; 100_000]);
    assert_eq!(fs::read_link(to.0.join("in/tree/link")).unwrap(), PathBuf::from("empty"));
    // The whole folder, under the names inside it.
    let (all, _, _) = to.run("tar -C in/tree -cf - .", b"");
    to.check("tar xvf - empty", &String::from_utf8_lossy(&all[..0]), "", 0);
    assert_eq!(to.run("tar xf - --no-same-owner link", &all).2, 0);
    assert!(fs::symlink_metadata(to.0.join("link")).unwrap().is_symlink());
    to.check("tar xf - -C none", "", "tar: can't change directory to 'none': No such file or directory\n", 1);
    assert_eq!(to.run("tar xf -", b"this is no archive").2, 1);
}

#[test]
fn no_archive_leads_out_of_its_folder() {
    let dir = Folder::new();
    dir.run("mkdir in", b"");
    let mut archive = tar::Builder::new(Vec::new());
    for name in ["../up", "/root", "a/../../up2"] {
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_entry_type(tar::EntryType::Regular);
        // The library refuses to write such names, so they are put there by hand.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        archive.append(&header, &b"x"[..]).unwrap();
    }
    assert_eq!(dir.run("tar xf - -C in", &archive.into_inner().unwrap()).2, 0);
    dir.check("find .", "", ".\n./in\n./in/root\n./in/up\n./in/up2\n", 0);
}

#[test]
fn nothing_panics_on_odd_arguments() {
    let dir = Folder::new();
    for (name, _) in ALL.iter().filter(|(name, _)| !matches!(*name, "nc" | "wget" | "nslookup")) {
        for args in [
            "",
            "-",
            "--",
            "-Z",
            "--nothing",
            "x y z",
            "-n",
            "-n -5",
            "-c +",
            "%",
            "-f -",
            "0 0 0",
            "9999999999999999999999",
        ] {
            // Waiting is what `sleep` is for.
            if !(*name == "sleep" && args.starts_with('9')) {
                dir.run(&format!("{name} {args}"), b"a\xff\n\0b");
            }
        }
    }
}
