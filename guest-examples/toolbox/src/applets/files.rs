//! Commands that change the tree: `mkdir`, `rm`, `rmdir`, `cp`, `mv`, `ln`, `touch`; and `readlink`.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{
    call::{Call, Failure, Outcome},
    options::parse,
    sink::Sink,
};

/// How deep a tree may be.
pub const MAX_DEPTH: usize = 128;

pub fn mkdir(call: &mut Call) -> Outcome {
    let options = parse(call.operands(), "pm:v", &[("parents", 'p'), ("mode", 'm')])?;
    each(call, &options.operands, "mkdir [-p] DIR...", |call, name| {
        let path = call.path(name);
        let made = if options.has('p') { fs::create_dir_all(path) } else { fs::create_dir(path) };
        made.map_err(|e| Failure::about(format_args!("can't create directory '{name}'"), &e))
    })
}

pub fn rmdir(call: &mut Call) -> Outcome {
    let options = parse(call.operands(), "", &[])?;
    each(call, &options.operands, "rmdir DIR...", |call, name| {
        fs::remove_dir(call.path(name)).map_err(|e| Failure::about(format_args!("'{name}'"), &e))
    })
}

pub fn rm(call: &mut Call) -> Outcome {
    let options = parse(call.operands(), "rRfv", &[("recursive", 'r'), ("force", 'f')])?;
    let (recursive, force) = (options.has('r') || options.has('R'), options.has('f'));
    if force && options.operands.is_empty() {
        return Ok(0);
    }
    each(call, &options.operands, "rm [-rf] FILE...", |call, name| {
        let path = call.path(name);
        let removed = match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() && recursive => remove_tree(&path, 0),
            Ok(metadata) if metadata.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            Ok(_) => fs::remove_file(&path),
            Err(error) if force && error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        removed.map_err(|e| Failure::about(format_args!("can't remove '{name}'"), &e))
    })
}

/// Removes a folder with all that is in it, and follows no link.
pub fn remove_tree(path: &Path, depth: usize) -> io::Result<()> {
    check_depth(depth)?;
    let entries: Vec<_> = fs::read_dir(path)?.collect::<Result<_, _>>()?;
    for entry in entries {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path(), depth + 1)?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_dir(path)
}

/// An error where a tree is too deep to go on.
pub fn check_depth(depth: usize) -> io::Result<()> {
    if depth > MAX_DEPTH { Err(io::Error::other("too many levels of directories")) } else { Ok(()) }
}

pub fn cp(call: &mut Call) -> Outcome {
    let options = parse(call.operands(), "rRafpdv", &[("recursive", 'r')])?;
    let recursive = ['r', 'R', 'a'].iter().any(|o| options.has(*o));
    to_target(call, &options.operands, "cp [-r] SOURCE... TARGET", |from, to| copy(from, to, recursive, 0))
}

fn copy(from: &Path, to: &Path, recursive: bool, depth: usize) -> io::Result<()> {
    check_depth(depth)?;
    let metadata = if recursive { fs::symlink_metadata(from)? } else { fs::metadata(from)? };
    if metadata.is_symlink() {
        fs::remove_file(to).or_else(not_found_is_fine)?;
        return symlink(&fs::read_link(from)?, to);
    }
    if !metadata.is_dir() {
        return copy_file(from, to);
    }
    if !recursive {
        return Err(io::Error::other("omitting directory"));
    }
    if to.starts_with(from) {
        return Err(io::Error::other("can't copy a directory into itself"));
    }
    fs::create_dir(to).or_else(|e| if to.is_dir() { Ok(()) } else { Err(e) })?;
    let entries: Vec<_> = fs::read_dir(from)?.collect::<Result<_, _>>()?;
    for entry in entries {
        copy(&entry.path(), &to.join(entry.file_name()), true, depth + 1)?;
    }
    Ok(())
}

/// Copies what a file holds.
pub fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let (mut source, mut target) = (fs::File::open(from)?, Sink::create(to)?);
    io::copy(&mut source, &mut target).map(drop)
}

pub fn mv(call: &mut Call) -> Outcome {
    let options = parse(call.operands(), "fv", &[])?;
    to_target(call, &options.operands, "mv SOURCE... TARGET", |from, to| {
        match fs::rename(from, to) {
            // Volumes are different devices.
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                copy(from, to, true, 0)?;
                if fs::symlink_metadata(from)?.is_dir() {
                    remove_tree(from, 0)
                } else {
                    fs::remove_file(from)
                }
            }
            result => result,
        }
    })
}

pub fn ln(call: &mut Call) -> Outcome {
    let options = parse(call.operands(), "sfn", &[("symbolic", 's'), ("force", 'f')])?;
    let [target, name] = options.operands.as_slice() else {
        return Err(Failure::usage("ln [-sf] TARGET NAME"));
    };
    let mut link = call.path(name);
    if link.is_dir() && !options.has('n') {
        link.push(super::base_name(target));
    }
    if options.has('f') {
        fs::remove_file(&link).or_else(not_found_is_fine)?;
    }
    let made = if options.has('s') {
        symlink(Path::new(target), &link)
    } else {
        fs::hard_link(call.path(target), &link)
    };
    made.map_err(|e| Failure::about(name, &e))?;
    Ok(0)
}

pub fn readlink(call: &mut Call) -> Outcome {
    let options = parse(call.operands(), "f", &[])?;
    let [name] = options.operands.as_slice() else { return Err(Failure::usage("readlink [-f] FILE")) };
    let path = call.path(name);
    let target = if options.has('f') { fs::canonicalize(path) } else { fs::read_link(path) };
    let Ok(target) = target else { return Ok(1) };
    writeln!(call.out, "{}", target.display())?;
    Ok(0)
}

pub fn touch(call: &mut Call) -> Outcome {
    let options = parse(call.operands(), "cam", &[("no-create", 'c')])?;
    each(call, &options.operands, "touch [-c] FILE...", |call, name| {
        let path = call.path(name);
        let about = |e| Failure::about(name, &e);
        match fs::OpenOptions::new().create(!options.has('c')).append(true).open(&path) {
            Ok(file) => file.set_modified(SystemTime::now()).map_err(about),
            Err(error) if options.has('c') && error.kind() == io::ErrorKind::NotFound => Ok(()),
            // A folder is there already: nothing to make.
            Err(_) if path.is_dir() => Ok(()),
            Err(error) => Err(about(error)),
        }
    })
}

/// Makes a symbolic link.
#[expect(deprecated, reason = "the only way of the standard library that is there for WASI")]
pub fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    fs::soft_link(target, link)
}

pub fn not_found_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Does it for every operand, reports what fails and goes on.
fn each(
    call: &mut Call,
    operands: &[String],
    usage: &str,
    mut act: impl FnMut(&mut Call, &str) -> Result<(), Failure>,
) -> Outcome {
    if operands.is_empty() {
        return Err(Failure::usage(usage));
    }
    let mut code = 0;
    for operand in operands {
        if let Err(failure) = act(call, operand) {
            call.complain(&failure);
            code = 1;
        }
    }
    Ok(code)
}

/// `SOURCE... TARGET`: into the target if that is a folder, else onto it.
fn to_target(
    call: &mut Call,
    operands: &[String],
    usage: &str,
    act: impl Fn(&Path, &Path) -> io::Result<()>,
) -> Outcome {
    let Some((target, sources)) = operands.split_last().filter(|(_, sources)| !sources.is_empty()) else {
        return Err(Failure::usage(usage));
    };
    let into = call.path(target);
    let is_dir = into.is_dir();
    if sources.len() > 1 && !is_dir {
        return Err(Failure::new(format!("target '{target}' is not a directory")));
    }
    each(call, sources, usage, |call, source| {
        let from = call.path(source);
        let to: PathBuf = if is_dir { into.join(super::base_name(source)) } else { into.clone() };
        act(&from, &to).map_err(|e| Failure::about(format_args!("'{source}'"), &e))
    })
}
