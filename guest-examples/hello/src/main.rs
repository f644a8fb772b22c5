//! The smallest pod: prints a line and ends.
//!
//! Shows a container that runs to completion: `kubectl logs hello` has the line, and with
//! `restartPolicy: Never` the pod ends as `Succeeded`. Arguments and the environment arrive as in any
//! container: the first argument after the name is who is greeted. With `STAY` in its environment it stays, idle, until
//! its pod goes: see the demo `hello10k`.

use std::{env, thread, time::Duration};

fn main() {
    let who = env::args().nth(1).unwrap_or_else(|| "world".to_owned());
    let pod = env::var("HOSTNAME").unwrap_or_else(|_| "nowhere".to_owned());
    println!("Hello, {who}, from {pod}.");
    while env::var_os("STAY").is_some() {
        thread::sleep(Duration::from_secs(3600));
    }
}
