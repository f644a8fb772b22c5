//! Does what a guest must not do, one misdeed per argument.
//!
//! Shows that a misdeed ends inside its pod: `kubectl describe pod` tells what happened and the
//! neighbours never notice. Arguments: `trap`, `exit CODE`, `spin`, `hoard`, `host-file PATH`,
//! `dial ADDRESS`. The last two exit with 0 if they were refused and with 66 if they were not.

use std::{env, fs, net::TcpStream, process::exit};

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

fn refused(verb: &str, what: &str, outcome: Result<String, std::io::Error>) {
    match outcome {
        Ok(found) => {
            println!("could {verb} {what}: {found}");
            exit(ESCAPED);
        }
        Err(error) => println!("may not {verb} {what}: {error}"),
    }
}
