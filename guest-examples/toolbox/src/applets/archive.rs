//! `tar`: archives from and to streams, as `kubectl cp` uses them.
//!
//! `tar cf - PATH…`, `tar xmf - -C DIR`, `tar tf FILE`; long names, folders, files, symbolic and hard links. WASI knows
//! no permissions and no owners: archives get the usual modes, and modes of an archive are not kept.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Component, Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use tar::{Archive, Builder, EntryType, Header};

use super::files::{check_depth, copy_file, not_found_is_fine, symlink};
use crate::{
    call::{Call, Failure, Outcome},
    options::parse,
    sink::Sink,
    time,
};

const USAGE: &str = "tar c|x|t [-v] [-m] [-f FILE] [-C DIR] [PATH...]";

pub fn tar(call: &mut Call) -> Outcome {
    let args = modern(call.operands());
    let long = [
        ("create", 'c'),
        ("extract", 'x'),
        ("list", 't'),
        ("file", 'f'),
        ("directory", 'C'),
        ("verbose", 'v'),
        ("touch", 'm'),
        ("gzip", 'z'),
        // There is nothing to keep or to leave of these.
        ("no-same-permissions", 'p'),
        ("no-same-owner", 'o'),
        ("same-permissions", 'p'),
        ("preserve-permissions", 'p'),
        ("no-overwrite-dir", 'p'),
        ("numeric-owner", 'o'),
    ];
    let options = parse(&args, "cxtf:C:vmzpohO", &long)?;
    if options.has('z') {
        return Err(Failure::new("compressed archives are not read or written here"));
    }
    let mut job = Job {
        base: options.value('C').map_or_else(|| call.env.cwd.clone(), |dir| call.path(dir)),
        verbose: options.has('v'),
        follow: options.has('h'),
        touch: options.has('m'),
        to_stdout: options.has('O'),
        code: 0,
    };
    if !job.base.is_dir() {
        let dir = options.value('C').unwrap_or(".");
        return Err(Failure::about(
            format_args!("can't change directory to '{dir}'"),
            &io::ErrorKind::NotFound.into(),
        ));
    }
    let file = options.value('f').filter(|f| *f != "-");
    let opened = |e| Failure::about(format_args!("can't open '{}'", file.unwrap_or("-")), &e);
    if options.has('c') {
        if options.operands.is_empty() {
            return Err(Failure::new("Cowardly refusing to create an empty archive"));
        }
        let to_stream = file.is_none();
        let to: Box<dyn Write> = match file {
            Some(file) => Box::new(BufWriter::new(Sink::create(&call.path(file)).map_err(opened)?)),
            None => Box::new(call.out.clone()),
        };
        job.create(call, to, to_stream, &options.operands)?;
    } else if options.has('x') || options.has('t') {
        let from: Box<dyn Read> = match file {
            Some(file) => Box::new(BufReader::new(File::open(call.path(file)).map_err(opened)?)),
            None => Box::new(call.stdin.clone()),
        };
        job.read(call, from, &options.operands, options.has('t'))?;
    } else {
        return Err(Failure::usage(USAGE));
    }
    if job.code != 0 {
        call.complain(&Failure::new("error exit delayed from previous errors"));
    }
    Ok(job.code)
}

/// `cf FILE` of old is `-c -f FILE`: letters without a dash take their values from the words after them.
fn modern(args: &[String]) -> Vec<String> {
    let Some((first, rest)) = args.split_first().filter(|(first, _)| !first.starts_with('-')) else {
        return args.to_vec();
    };
    let (mut words, mut rest) = (Vec::new(), rest.iter());
    for letter in first.chars() {
        words.push(format!("-{letter}"));
        if matches!(letter, 'f' | 'C') {
            words.extend(rest.next().cloned());
        }
    }
    words.extend(rest.cloned());
    words
}

struct Job {
    base: PathBuf,
    verbose: bool,
    follow: bool,
    touch: bool,
    to_stdout: bool,
    code: u8,
}

impl Job {
    fn create(
        &mut self,
        call: &mut Call,
        to: Box<dyn Write>,
        to_stream: bool,
        names: &[String],
    ) -> Result<(), Failure> {
        let mut archive = Builder::new(to);
        let mut warned = false;
        for name in names {
            let inside = inside(name);
            if !warned && name.starts_with('/') {
                warned = true;
                call.complain(&Failure::new("removing leading '/' from member names"));
            }
            let path = self.base.join(name);
            self.add(call, &mut archive, &path, &inside, 0)?;
        }
        if self.code != 0 && to_stream {
            // `kubectl cp` stops to listen where an archive ends and would not hear how this one did: without an end it
            // waits for that of the command.
            archive.get_mut().flush()?;
            std::mem::forget(archive);
            return Ok(());
        }
        archive.into_inner()?.flush()?;
        Ok(())
    }

    fn add(
        &mut self,
        call: &mut Call,
        archive: &mut Builder<Box<dyn Write>>,
        path: &Path,
        name: &Path,
        depth: usize,
    ) -> Result<(), Failure> {
        check_depth(depth)?;
        let metadata = if self.follow { fs::metadata(path) } else { fs::symlink_metadata(path) };
        let metadata = match metadata {
            Ok(metadata) => metadata,
            Err(error) => {
                self.code = 1;
                call.complain(&Failure::about(path.display(), &error));
                return Ok(());
            }
        };
        if self.verbose {
            writeln!(call.err, "{}", name.display())?;
        }
        let mut header = Header::new_gnu();
        header.set_mtime(metadata.modified().map_or(0, time::seconds));
        header.set_uid(0);
        header.set_gid(0);
        if metadata.is_dir() {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(0o755);
            header.set_size(0);
            // `tar c .`: the folder itself has no name inside.
            if !name.as_os_str().is_empty() {
                archive.append_data(&mut header, name, io::empty())?;
            }
            let listed = fs::read_dir(path).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
            let mut entries = match listed {
                Ok(entries) => entries,
                Err(error) => {
                    self.code = 1;
                    call.complain(&Failure::about(path.display(), &error));
                    return Ok(());
                }
            };
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                self.add(call, archive, &entry.path(), &name.join(entry.file_name()), depth + 1)?;
            }
        } else if metadata.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            archive.append_link(&mut header, name, fs::read_link(path)?)?;
        } else if metadata.is_file() {
            header.set_entry_type(EntryType::Regular);
            header.set_mode(0o644);
            header.set_size(metadata.len());
            let file = match File::open(path) {
                Ok(file) => file,
                Err(error) => {
                    self.code = 1;
                    call.complain(&Failure::about(path.display(), &error));
                    return Ok(());
                }
            };
            // A file that changes meanwhile still fills exactly the room that the header promised.
            archive.append_data(&mut header, name, file.chain(io::repeat(0)).take(metadata.len()))?;
        }
        Ok(())
    }

    fn read(
        &mut self,
        call: &mut Call,
        from: Box<dyn Read>,
        names: &[String],
        list: bool,
    ) -> Result<(), Failure> {
        let mut archive = Archive::new(from);
        let wanted: Vec<PathBuf> = names.iter().map(|n| inside(n)).collect();
        for entry in archive.entries()? {
            let mut entry = entry?;
            let name = inside(&entry.path()?.to_string_lossy());
            if !wanted.is_empty() && !wanted.iter().any(|w| name.starts_with(w)) {
                continue;
            }
            let slash = if entry.header().entry_type().is_dir() { "/" } else { "" };
            if list || self.verbose {
                let mut to = if list { call.out.clone() } else { call.err.clone() };
                writeln!(to, "{}{slash}", name.display())?;
            }
            if list || name.as_os_str().is_empty() {
                continue;
            }
            if self.to_stdout {
                io::copy(&mut entry, &mut call.out)?;
            } else if let Err(error) = self.extract(&mut entry, &name) {
                self.code = 1;
                call.complain(&Failure::about(name.display(), &error));
            }
        }
        Ok(())
    }

    fn extract(&self, entry: &mut tar::Entry<Box<dyn Read>>, name: &Path) -> io::Result<()> {
        let path = self.base.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let link = || -> io::Result<PathBuf> {
            let target = entry.link_name()?.ok_or_else(|| io::Error::other("a link to nothing"))?;
            Ok(target.into_owned())
        };
        match entry.header().entry_type() {
            EntryType::Directory => {
                fs::create_dir(&path).or_else(|e| if path.is_dir() { Ok(()) } else { Err(e) })
            }
            EntryType::Symlink => {
                let target = link()?;
                make_room(&path)?;
                symlink(&target, &path)
            }
            EntryType::Link => {
                let target = self.base.join(inside(&link()?.to_string_lossy()));
                make_room(&path)?;
                fs::hard_link(&target, &path).or_else(|_| copy_file(&target, &path))
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                make_room(&path)?;
                let mtime = entry.header().mtime()?;
                let mut file = Sink::create(&path)?;
                io::copy(entry, &mut file)?;
                if !self.touch {
                    // A volume that keeps no times is no reason to fail.
                    file.set_modified(UNIX_EPOCH + Duration::from_secs(mtime)).ok();
                }
                Ok(())
            }
            EntryType::XGlobalHeader => Ok(()),
            kind => Err(io::Error::other(format!(
                "entries of type {:?} cannot be made here",
                kind.as_byte() as char
            ))),
        }
    }
}

/// What stands where a file or link shall be goes, and is not written through.
fn make_room(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        // Only an empty folder.
        Ok(metadata) if metadata.is_dir() => fs::remove_dir(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => not_found_is_fine(error),
    }
}

/// The name inside an archive, or below the folder it is unpacked in: no root, no way up.
fn inside(name: &str) -> PathBuf {
    let mut path = PathBuf::new();
    for part in Path::new(name).components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::ParentDir => path.clear(),
            _ => {}
        }
    }
    path
}
