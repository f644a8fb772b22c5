//! Measures the loopback of its pod together with a second one of its kind: `loopback pong 7000` and
//! `loopback ping 7000 100000`, or `loopback sink 7000` and `loopback source 7000 1000000000`.
//!
//! `coracle bench loopback` runs the same [`peer`] as native processes, to compare.

mod peer;

use std::time::Instant;

fn main() {
    let began = Instant::now();
    let args: Vec<String> = std::env::args().skip(1).collect();
    match peer::run(&args, &|| began.elapsed()) {
        Ok(report) => println!("{report}"),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}
