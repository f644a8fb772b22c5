//! Commands that look at the tree: `ls`, `stat`, `find`, `du`.

use std::{
    fs, io,
    io::Write,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use super::files::check_depth;
use crate::{
    call::{Call, Failure, Outcome, reason},
    glob,
    options::{Options, parse},
    time,
};

pub fn ls(call: &mut Call) -> Outcome {
    let options = parse(call.operands(), "1AaRdhlrtSFn", &[("all", 'a'), ("recursive", 'R')])?;
    let operands = if options.operands.is_empty() { vec![".".to_owned()] } else { options.operands.clone() };
    let (mut files, mut folders, mut code) = (Vec::new(), Vec::new(), 0);
    for name in &operands {
        // A link that was named is followed, unless its own line is asked for.
        let path = call.path(name);
        let plain = options.has('l') || options.has('d');
        match fs::symlink_metadata(&path) {
            Ok(own) => {
                let followed = if plain { None } else { fs::metadata(&path).ok() };
                let metadata = followed.unwrap_or(own);
                if metadata.is_dir() && !options.has('d') {
                    folders.push(name.clone());
                } else {
                    files.push(Entry::new(name.clone(), &path, metadata));
                }
            }
            Err(error) => {
                call.complain(&Failure::about(name, &error));
                code = 1;
            }
        }
    }
    let titled = operands.len() > 1 || options.has('R');
    let mut separate = !files.is_empty();
    print(call, &options, files)?;
    for name in folders {
        code = code.max(folder(call, &options, &name, titled, &mut separate, 0)?);
    }
    Ok(code)
}

fn folder(
    call: &mut Call,
    options: &Options,
    name: &str,
    titled: bool,
    separate: &mut bool,
    depth: usize,
) -> Outcome {
    check_depth(depth)?;
    let path = call.path(name);
    let mut entries = Vec::new();
    if options.has('a') {
        for dots in [".", ".."] {
            if let Ok(metadata) = fs::metadata(path.join(dots)).or_else(|_| fs::metadata(&path)) {
                entries.push(Entry::new(dots.to_owned(), &path, metadata));
            }
        }
    }
    let listed = match fs::read_dir(&path) {
        Ok(listed) => listed,
        Err(error) => {
            call.complain(&Failure::about(format_args!("can't open '{name}'"), &error));
            return Ok(1);
        }
    };
    for entry in listed {
        let entry = entry?;
        let entry_name = entry.file_name().to_string_lossy().into_owned();
        if entry_name.starts_with('.') && !options.has('a') && !options.has('A') {
            continue;
        }
        // What goes away meanwhile is not listed.
        if let Ok(metadata) = fs::symlink_metadata(entry.path()) {
            entries.push(Entry::new(entry_name, &entry.path(), metadata));
        }
    }
    if *separate {
        writeln!(call.out)?;
    }
    *separate = true;
    if titled {
        writeln!(call.out, "{name}:")?;
    }
    if options.has('l') {
        writeln!(call.out, "total {}", entries.iter().map(|e| e.metadata.len().div_ceil(1024)).sum::<u64>())?;
    }
    let mut below: Vec<String> = entries
        .iter()
        .filter(|e| options.has('R') && e.metadata.is_dir() && e.name != "." && e.name != "..")
        .map(|e| format!("{}/{}", name.trim_end_matches('/'), e.name))
        .collect();
    below.sort();
    print(call, options, entries)?;
    let mut code = 0;
    for name in below {
        code = code.max(folder(call, options, &name, titled, separate, depth + 1)?);
    }
    Ok(code)
}

struct Entry {
    name: String,
    metadata: fs::Metadata,
    target: Option<String>,
}

impl Entry {
    fn new(name: String, path: &Path, metadata: fs::Metadata) -> Entry {
        let target = metadata.is_symlink().then(|| fs::read_link(path).ok()).flatten();
        Entry { name, target: target.map(|t| t.display().to_string()), metadata }
    }
}

fn print(call: &mut Call, options: &Options, mut entries: Vec<Entry>) -> io::Result<()> {
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    if options.has('S') {
        entries.sort_by_key(|e| std::cmp::Reverse(e.metadata.len()));
    }
    if options.has('t') {
        entries.sort_by_key(|e| std::cmp::Reverse(e.metadata.modified().unwrap_or(UNIX_EPOCH)));
    }
    if options.has('r') {
        entries.reverse();
    }
    for entry in entries {
        let mark = if options.has('F') && entry.metadata.is_dir() { "/" } else { "" };
        if !options.has('l') {
            writeln!(call.out, "{}{mark}", entry.name)?;
            continue;
        }
        let modified = entry.metadata.modified().unwrap_or(UNIX_EPOCH);
        let size = size(entry.metadata.len(), options.has('h'));
        write!(
            call.out,
            "{}    1 root     root {size:>13} {} {}",
            mode(&entry.metadata),
            when(modified),
            entry.name
        )?;
        match entry.target {
            Some(target) => writeln!(call.out, " -> {target}")?,
            None => writeln!(call.out, "{mark}")?,
        }
    }
    Ok(())
}

/// The mode that things of this kind usually have: WASI knows kinds and no permissions.
fn mode(metadata: &fs::Metadata) -> &'static str {
    if metadata.is_dir() {
        "drwxr-xr-x"
    } else if metadata.is_symlink() {
        "lrwxrwxrwx"
    } else if metadata.is_file() {
        "-rw-r--r--"
    } else {
        "crw-rw-rw-"
    }
}

/// Time of day for what is younger than half a year, the year for the rest.
fn when(modified: SystemTime) -> String {
    let (then, now) = (time::seconds(modified), time::seconds(SystemTime::now()));
    let format = if then + 180 * 86_400 > now { "%b %e %H:%M" } else { "%b %e  %Y" };
    time::format(then, 0, format)
}

fn size(bytes: u64, human: bool) -> String {
    if !human || bytes < 1024 {
        return bytes.to_string();
    }
    let (mut amount, mut unit) = (bytes as f64 / 1024.0, 0);
    while amount >= 1024.0 && unit < 4 {
        (amount, unit) = (amount / 1024.0, unit + 1);
    }
    format!("{amount:.1}{}", ["K", "M", "G", "T", "P"][unit])
}

pub fn stat(call: &mut Call) -> Outcome {
    let options = parse(call.operands(), "Lc:", &[("format", 'c'), ("dereference", 'L')])?;
    let mut code = 0;
    for name in &options.operands {
        let path = call.path(name);
        let metadata = if options.has('L') { fs::metadata(&path) } else { fs::symlink_metadata(&path) };
        let metadata = match metadata {
            Ok(metadata) => metadata,
            Err(error) => {
                call.complain(&Failure::about(format_args!("can't stat '{name}'"), &error));
                code = 1;
                continue;
            }
        };
        let kind = match mode(&metadata).as_bytes()[0] {
            b'd' => "directory",
            b'l' => "symbolic link",
            b'-' if metadata.len() == 0 => "regular empty file",
            b'-' => "regular file",
            _ => "character special file",
        };
        let modified = metadata.modified().unwrap_or(UNIX_EPOCH);
        let nanos = modified.duration_since(UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
        let seconds = time::seconds(modified);
        let date = time::format(seconds, nanos, "%F %T.%N +0000");
        match options.value('c') {
            Some(format) => {
                let text = format
                    .replace("%n", name)
                    .replace("%s", &metadata.len().to_string())
                    .replace("%F", kind)
                    .replace("%A", mode(&metadata))
                    .replace("%Y", &seconds.to_string())
                    .replace("%y", &date);
                writeln!(call.out, "{text}")?;
            }
            None => {
                let len = metadata.len();
                writeln!(
                    call.out,
                    "  File: {name}\n  Size: {len:<15} {kind}\nAccess: ({})\nModify: {date}",
                    mode(&metadata)
                )?;
            }
        }
    }
    Ok(code)
}

pub fn find(call: &mut Call) -> Outcome {
    const USAGE: &str =
        "find [PATH...] [-name PATTERN] [-type f|d|l] [-maxdepth N] [-mindepth N] [-print] [-delete]";
    let words = call.operands().to_vec();
    let split = words.iter().position(|w| w.starts_with('-')).unwrap_or(words.len());
    let (paths, tests) = words.split_at(split);
    let mut wanted = Wanted { max_depth: usize::MAX, ..Wanted::default() };
    let mut tests = tests.iter();
    while let Some(test) = tests.next() {
        let mut value = || tests.next().cloned().ok_or_else(|| Failure::usage(USAGE));
        match test.as_str() {
            "-name" => wanted.name = Some(value()?),
            "-iname" => {
                wanted.name = Some(value()?.to_lowercase());
                wanted.ignore_case = true;
            }
            "-type" => wanted.kind = value()?.chars().next(),
            "-maxdepth" => wanted.max_depth = value()?.parse().map_err(|_| Failure::usage(USAGE))?,
            "-mindepth" => wanted.min_depth = value()?.parse().map_err(|_| Failure::usage(USAGE))?,
            "-print" => {}
            "-delete" => wanted.delete = true,
            _ => return Err(Failure::usage(USAGE)),
        }
    }
    let here = [".".to_owned()];
    let mut code = 0;
    for path in if paths.is_empty() { &here } else { paths } {
        code = code.max(visit(call, &wanted, path, 0)?);
    }
    Ok(code)
}

#[derive(Default)]
struct Wanted {
    name: Option<String>,
    ignore_case: bool,
    kind: Option<char>,
    min_depth: usize,
    max_depth: usize,
    delete: bool,
}

fn visit(call: &mut Call, wanted: &Wanted, name: &str, depth: usize) -> Outcome {
    check_depth(depth)?;
    let path = call.path(name);
    let mut code = 0;
    let metadata = match fs::symlink_metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) => {
            call.complain(&Failure::about(name, &error));
            return Ok(1);
        }
    };
    let base = super::base_name(name);
    let base = if wanted.ignore_case { base.to_lowercase() } else { base.to_owned() };
    let matched = depth >= wanted.min_depth
        && wanted.name.as_ref().is_none_or(|pattern| glob::matches(pattern, &base))
        && wanted.kind.is_none_or(|kind| match kind {
            'd' => metadata.is_dir(),
            'l' => metadata.is_symlink(),
            _ => metadata.is_file(),
        });
    if matched && !wanted.delete {
        writeln!(call.out, "{name}")?;
    }
    if metadata.is_dir() && depth < wanted.max_depth {
        match fs::read_dir(&path) {
            Ok(entries) => {
                let mut names: Vec<_> = entries.flatten().map(|e| e.file_name()).collect();
                names.sort();
                for entry in names {
                    let below = format!("{}/{}", name.trim_end_matches('/'), entry.to_string_lossy());
                    code = code.max(visit(call, wanted, &below, depth + 1)?);
                }
            }
            Err(error) => {
                call.complain(&Failure::about(name, &error));
                code = 1;
            }
        }
    }
    if matched && wanted.delete && name != "." {
        let removed = if metadata.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) };
        removed.map_err(|e| Failure::about(name, &e))?;
    }
    Ok(code)
}

pub fn du(call: &mut Call) -> Outcome {
    let options = parse(call.operands(), "shkad:", &[("summarize", 's'), ("max-depth", 'd')])?;
    let operands = if options.operands.is_empty() { vec![".".to_owned()] } else { options.operands.clone() };
    let deepest = match options.value('d').map(str::parse) {
        Some(Ok(depth)) => depth,
        Some(Err(_)) => return Err(Failure::usage("du [-sha] [-d DEPTH] [PATH...]")),
        None if options.has('s') => 0,
        None => usize::MAX,
    };
    let mut code = 0;
    for name in operands {
        if let Err(error) = usage(call, &options, &name, 0, deepest) {
            call.complain(&Failure::new(format!("{name}: {}", reason(&error))));
            code = 1;
        }
    }
    Ok(code)
}

fn usage(call: &mut Call, options: &Options, name: &str, depth: usize, deepest: usize) -> io::Result<u64> {
    check_depth(depth)?;
    let path = call.path(name);
    let metadata = fs::symlink_metadata(&path)?;
    let mut bytes = metadata.len();
    if metadata.is_dir() {
        for entry in fs::read_dir(&path)? {
            let below = format!("{}/{}", name.trim_end_matches('/'), entry?.file_name().to_string_lossy());
            bytes += usage(call, options, &below, depth + 1, deepest)?;
        }
    }
    if depth <= deepest && (metadata.is_dir() || options.has('a') || depth == 0) {
        let amount = if options.has('h') { size(bytes, true) } else { bytes.div_ceil(1024).to_string() };
        writeln!(call.out, "{amount}\t{name}")?;
    }
    Ok(bytes)
}
