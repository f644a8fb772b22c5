//! Does what a guest must not do, one misdeed per argument.
//!
//! Shows that a misdeed ends inside its pod: `kubectl describe pod` tells what happened and the
//! neighbours never notice. Arguments: `trap`, `exit CODE`, `spin`, `hoard`, `flood`, `host-file PATH`,
//! `dial ADDRESS`, `swap FOLDER`, `peek PATH TIMES`. `host-file` and `dial` exit with 0 if they were refused and with
//! 66 if they were not; `peek` with 66 if what it read was not what belongs there. `swap` makes one name in a folder
//! a folder and a link out of it, again and again, for `peek` to look through.

use std::{env, fs, net::TcpStream, path::Path, process::exit};

/// The exit code that says: the sandbox has a hole.
const ESCAPED: i32 = 66;

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["trap"] => panic!("trapping on purpose"),
        ["exit", code] => exit(code.parse().unwrap_or(1)),
        ["spin"] => loop {
            std::hint::black_box(0);
        },
        ["hoard"] => hoard(),
        ["flood"] => loop {
            println!("{}", "all work and no play ".repeat(40));
        },
        ["swap", folder] => swap(Path::new(folder)),
        ["peek", path, times] => peek(path, times.parse().unwrap_or(1)),
        ["host-file", path] => {
            refused("read", path, fs::read(path).map(|bytes| format!("{} bytes", bytes.len())))
        }
        ["dial", address] => refused("dial", address, TcpStream::connect(address).map(|s| format!("{s:?}"))),
        other => {
            eprintln!("unknown misdeed {other:?}");
            exit(2);
        }
    }
}

/// Allocates and touches memory until there is no more.
fn hoard() {
    let mut hoard: Vec<Vec<u8>> = Vec::new();
    loop {
        hoard.push(vec![0xA5; 1 << 20]);
        if hoard.len().is_multiple_of(16) {
            println!("{} MiB", hoard.len());
        }
    }
}

/// `FOLDER/s` is the folder `in`, then nothing, then a link to a folder beside, then nothing.
#[allow(deprecated, reason = "the only way of the standard library that is there for WASI")]
fn swap(folder: &Path) {
    let (inside, name) = (folder.join("in"), folder.join("s"));
    println!("swapping");
    loop {
        let swapped = fs::rename(&inside, &name)
            .and_then(|()| fs::rename(&name, &inside))
            .and_then(|()| fs::soft_link("../secret", &name))
            .and_then(|()| fs::remove_file(&name));
        swapped.expect("nobody else changes the folder");
    }
}

/// Reads a file that says "in", and one elsewhere that must not be found.
fn peek(path: &str, times: u32) {
    let mut found = 0;
    for _ in 0..times {
        match fs::read_to_string(path) {
            Ok(text) if text == "in" => found += 1,
            Ok(text) => {
                println!("looked out: {text}");
                exit(ESCAPED);
            }
            Err(_) => {}
        }
    }
    println!("found {found} of {times}");
}

fn refused(verb: &str, what: &str, outcome: Result<String, std::io::Error>) {
    match outcome {
        Ok(found) => {
            println!("could {verb} {what}: {found}");
            exit(ESCAPED);
        }
        Err(error) => println!("may not {verb} {what}: {error}"),
    }
}
