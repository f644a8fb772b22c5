//! Uses all the CPU it gets, and says every now and then how far it came.
//!
//! Shows that a spinning module is preempted: its neighbours, the node and the API stay as quick as
//! before, and `kubectl delete pod burner` ends it at once.

use std::time::{Duration, Instant};

fn main() {
    let mut rounds: u64 = 0;
    let mut state: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut said = Instant::now();
    loop {
        for _ in 0..10_000_000 {
            // xorshift: cheap, and no compiler folds it away.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
        }
        rounds += 10;
        if said.elapsed() >= Duration::from_secs(5) {
            println!("{rounds} million rounds, state {state:016x}");
            said = Instant::now();
        }
    }
}
