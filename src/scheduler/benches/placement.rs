//! How many pods per second the pure core places: `cargo bench -p coracle-scheduler`.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use coracle_scheduler::bench::{Pods, run};

fn main() {
    for kind in [Pods::Plain, Pods::Constrained] {
        for nodes in [100, 1000, 5000] {
            let run = run(nodes, nodes * 30, kind, 1);
            println!("{kind:?}, {nodes} nodes: {:.0} placements/s, {} left over", run.rate(), run.unplaced);
        }
    }
}
