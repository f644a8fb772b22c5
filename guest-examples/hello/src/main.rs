//! The smallest pod: prints a line and ends.
//!
//! Shows a container that runs to completion: `kubectl logs hello` has the line, and with
//! `restartPolicy: Never` the pod ends as `Succeeded`. Arguments and the environment arrive as in any
//! container: the first argument after the name is who is greeted.

fn main() {
    let who = std::env::args().nth(1).unwrap_or_else(|| "world".to_owned());
    let pod = std::env::var("HOSTNAME").unwrap_or_else(|_| "nowhere".to_owned());
    println!("Hello, {who}, from {pod}.");
}
