//! What guests get done beside one another: counted by themselves, in rounds of work.

use super::*;

/// Prints a byte after each round of work, for ever.
const WORK: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\10\00\00\00\01\00\00\00")
    (data (i32.const 16) ".")
    (func (export "_start") (local $left i32)
        (loop $round
            (local.set $left (i32.const 200000))
            (loop $work (br_if $work (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
            (br $round))))"#;

/// Rounds of all guests that are counted. The smallest share of them is a tenth: some seventy turns.
const ROUNDS: usize = 2_400;

/// How far from what it is due a guest may be. A round takes longer where the machine shares a core with others; equal
/// shares would give the small ones two and a half times as much.
const TOLERANCE: f64 = 0.45;

/// Guests with these requests share two threads.
struct Crew {
    _bench: Bench,
    guests: Vec<(Container, Arc<Capture>)>,
}

impl Crew {
    /// All of them have begun.
    async fn of(requests: &[u32]) -> Crew {
        let bench = Bench::new();
        let mut guests = Vec::new();
        for request_millis in requests {
            let cpu = Cpu { request_millis: *request_millis, limit_millis: None };
            guests.push(bench.start(WORK, |spec| spec.cpu = cpu).await);
        }
        for (_, output) in &guests {
            output.shows(".").await;
        }
        Crew { _bench: bench, guests }
    }

    fn done(&self) -> Vec<usize> {
        self.guests.iter().map(|(_, output)| output.text().len()).collect()
    }

    /// What each gets done of [`ROUNDS`] from now on, in parts of what it is due.
    async fn shares(&self, due: &[u32]) -> Vec<f64> {
        let before = self.done();
        let since =
            || -> Vec<usize> { self.done().iter().zip(&before).map(|(now, then)| now - then).collect() };
        let work = async {
            while since().iter().sum::<usize>() < ROUNDS {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, work).await.expect("they work");
        let (done, due): (Vec<_>, Vec<_>) =
            since().iter().zip(due).map(|(done, due)| (*done as f64, f64::from(*due))).unzip();
        let (all_done, all_due) = (done.iter().sum::<f64>(), due.iter().sum::<f64>());
        done.iter().zip(due).map(|(done, due)| done / all_done / (due / all_due)).collect()
    }
}

/// Neither the time of day nor what the host measures counts here.
#[tokio::test]
async fn guests_get_done_what_they_are_due() {
    let mut due = [250, 250, 1_000, 1_000];
    let crew = Crew::of(&due).await;
    let shares = crew.shares(&due).await;
    assert!(shares.iter().all(|share| (share - 1.0).abs() < TOLERANCE), "{shares:?}");

    // They change places while they run.
    due.reverse();
    for ((guest, _), request_millis) in crew.guests.iter().zip(due) {
        guest.set_cpu(Cpu { request_millis, limit_millis: None });
    }
    let shares = crew.shares(&due).await;
    assert!(shares.iter().all(|share| (share - 1.0).abs() < TOLERANCE), "{shares:?}");
    for (guest, _) in &crew.guests {
        guest.kill();
    }
}
