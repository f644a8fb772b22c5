//! Real threads. What is measured is CPU time, which a busy machine stretches but does not change.

use std::future::{pending, poll_fn};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::super::{Executor, Lost, STAND_INS, Share, blocking, turn_is_over};
use crate::container::Cpu;

const PATIENCE: Duration = Duration::from_secs(60);

fn executor(threads: usize) -> Executor {
    let io = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    Executor::start(threads, io, || {}, || {}).unwrap()
}

/// Burns CPU until it is told to stop, a turn at a time, as a guest does.
fn spin(stop: Arc<AtomicBool>) -> impl Future<Output = ()> + Send {
    poll_fn(move |cx| {
        while !turn_is_over() {
            std::hint::black_box(0_u32);
        }
        if stop.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}

/// Runs a future; the receiver gets its result.
fn spawn<T: Send + 'static>(
    executor: &Executor,
    share: &Arc<Share>,
    future: impl Future<Output = T> + Send + 'static,
) -> oneshot::Receiver<Result<T, Lost>> {
    let (sender, receiver) = oneshot::channel();
    executor.spawn(share, future, move |result| {
        let _ = sender.send(result);
    });
    receiver
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it ends")
}

#[tokio::test]
async fn futures_run_and_tell_how_they_ended() {
    let executor = executor(2);
    let share = executor.share(Cpu::default());
    assert_eq!(within(spawn(&executor, &share, async { 7 })).await.unwrap(), Ok(7));
    let slept = spawn(&executor, &share, async {
        sleep(Duration::from_millis(2)).await;
        tokio::task::spawn_blocking(|| 8).await.unwrap()
    });
    assert_eq!(within(slept).await.unwrap(), Ok(8), "tokio's timers and threads are there");
}

/// Tasks that wake one another in a ring, more than there are threads, from all threads at once.
#[tokio::test]
async fn no_wake_is_lost() {
    let executor = executor(3);
    let share = executor.share(Cpu::default());
    let (tasks, rounds) = (16, 2_000);
    let links: Vec<_> = (0..tasks).map(|_| tokio::sync::mpsc::channel::<u32>(1)).collect();
    let (senders, receivers): (Vec<_>, Vec<_>) = links.into_iter().unzip();
    let mut ends = Vec::new();
    for (at, mut receiver) in receivers.into_iter().enumerate() {
        let next = senders[(at + 1) % tasks].clone();
        ends.push(spawn(&executor, &share, async move {
            while let Some(round) = receiver.recv().await {
                if next.send(round + 1).await.is_err() || round >= rounds {
                    break;
                }
            }
        }));
    }
    for sender in senders.iter().step_by(3) {
        sender.send(0).await.unwrap();
    }
    drop(senders);
    for end in ends {
        assert_eq!(within(end).await.unwrap(), Ok(()));
    }
}

#[tokio::test]
async fn a_panic_ends_its_task_alone() {
    let executor = executor(1);
    let share = executor.share(Cpu::default());
    let (alive, other) =
        (spawn(&executor, &share, sleep(Duration::from_millis(20))), executor.share(Cpu::default()));
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic!("on purpose, again");
            }
        }
    }
    let bomb = Bomb;
    let lost = spawn(&executor, &other, async move {
        let _bomb = &bomb;
        tokio::task::yield_now().await;
        panic!("on purpose");
    });
    assert_eq!(within(lost).await.unwrap(), Err::<(), _>(Lost::Panicked));
    assert_eq!(within(alive).await.unwrap(), Ok(()));
}

/// Equal spinners have equal CPU times, a limit holds beside them, and a timer is not late for them.
#[tokio::test]
async fn spinners_are_equal_and_delay_nobody() {
    let executor = executor(2);
    let stop = Arc::new(AtomicBool::new(false));
    let shares: Vec<_> =
        (0..8).map(|_| executor.share(Cpu { request_millis: 100, limit_millis: None })).collect();
    let limited = executor.share(Cpu { request_millis: 100, limit_millis: Some(50) });
    let ends: Vec<_> = shares
        .iter()
        .chain([&limited])
        .map(|share| spawn(&executor, share, spin(Arc::clone(&stop))))
        .collect();
    let begin = Instant::now();
    let mut naps = 0;
    let total = || shares.iter().map(|share| share.used()).sum::<Duration>();
    while total() < Duration::from_millis(800) {
        assert!(begin.elapsed() < PATIENCE, "they do not run");
        let nap = spawn(&executor, &executor.share(Cpu::default()), sleep(Duration::from_millis(1)));
        within(nap).await.unwrap().unwrap();
        naps += 1;
    }
    let wall = begin.elapsed();
    let used: Vec<_> = shares.iter().map(|share| share.used().as_secs_f64()).collect();
    let mean = used.iter().sum::<f64>() / used.len() as f64;
    let most = used.iter().map(|used| (used / mean - 1.0).abs()).fold(0.0, f64::max);
    assert!(most < 0.1, "{used:?}");
    let limit = limited.used().as_secs_f64() / wall.as_secs_f64();
    assert!(limit < 0.06, "{limit} of a CPU where 0.05 was the limit");
    assert!(naps >= 20, "{naps} naps of a millisecond in {wall:?}");
    stop.store(true, Ordering::Relaxed);
    for end in ends {
        assert_eq!(within(end).await.unwrap(), Ok(()));
    }
}

/// Who is due four times as much has four times as much, and a container with many tasks is one container. Nothing here
/// looks at the time of day: however busy the machine is, what there is, is shared so.
#[tokio::test]
async fn who_is_due_more_has_more() {
    let executor = executor(2);
    let stop = Arc::new(AtomicBool::new(false));
    let mut ends = Vec::new();
    // At least two each: the kernel may keep a thread of ours waiting, with the task that it has.
    let pods = [(250, 2), (250, 2), (250, 2), (250, 2), (250, 2), (250, 6), (1_000, 2), (1_000, 4)];
    let shares = pods.map(|(request_millis, tasks)| {
        let share = executor.share(Cpu { request_millis, limit_millis: None });
        ends.extend((0..tasks).map(|_| spawn(&executor, &share, spin(Arc::clone(&stop)))));
        share
    });
    let used = || shares.each_ref().map(|share| share.used());
    let begin = Instant::now();
    while used().iter().any(Duration::is_zero) {
        assert!(begin.elapsed() < PATIENCE, "they do not run");
        sleep(Duration::from_millis(1)).await;
    }
    // From here on all of them want all that they can get.
    let before = used();
    let since = || std::array::from_fn::<_, 8, _>(|at| (used()[at] - before[at]).as_secs_f64());
    while since().iter().sum::<f64>() < 0.8 {
        assert!(begin.elapsed() < PATIENCE, "they do not run");
        sleep(Duration::from_millis(1)).await;
    }
    let since = since();
    stop.store(true, Ordering::Relaxed);
    let due: u32 = pods.iter().map(|(request, _)| request).sum();
    let all: f64 = since.iter().sum();
    for ((request, _), used) in pods.into_iter().zip(since) {
        let expected = all * f64::from(request) / f64::from(due);
        // A few turns of 57 and of 228.
        assert!((used / expected - 1.0).abs() < 0.2, "{used} s instead of {expected} s: {since:?}");
    }
    for end in ends {
        assert_eq!(within(end).await.unwrap(), Ok(()));
    }
}

/// Who waits for a disk holds a thread, but not the place of others.
#[tokio::test]
async fn another_thread_stands_in_for_one_that_waits() {
    let executor = executor(1);
    let share = executor.share(Cpu::default());
    let (sender, receiver) = mpsc::channel();
    let waits = spawn(&executor, &share, async move { blocking(|| receiver.recv()) });
    let sends = spawn(&executor, &share, async move { sender.send(5) });
    assert_eq!(within(waits).await.unwrap(), Ok(Ok(5)));
    assert_eq!(within(sends).await.unwrap(), Ok(Ok(())));
    assert_eq!(within(spawn(&executor, &share, async { 6 })).await.unwrap(), Ok(6), "and all goes on");
    assert_eq!(blocking(|| 7), 7, "elsewhere it is a plain call");
}

/// Burns CPU until it is told to stop, and looks at no end of a turn.
fn overstay(stop: &Arc<AtomicBool>) -> impl Future<Output = ()> + Send + 'static {
    let stop = Arc::clone(stop);
    async move {
        while !stop.load(Ordering::Relaxed) {
            std::hint::black_box(0_u32);
        }
    }
}

/// Turns that nothing ends delay nobody but their own container, which has one of them at a time and is charged for it.
#[tokio::test]
async fn who_overstays_is_in_nobodys_way() {
    let executor = executor(1);
    let stops = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let [one, two] = [(); 2].map(|()| executor.share(Cpu { request_millis: 100, limit_millis: Some(200) }));
    let first = spawn(&executor, &one, overstay(&stops[0]));
    let other = spawn(&executor, &two, overstay(&stops[1]));
    // Made after them, and due less than they are.
    let share = executor.share(Cpu::default());
    assert_eq!(within(spawn(&executor, &share, async { 6 })).await.unwrap(), Ok(6));
    let mut second = spawn(&executor, &one, async { 7 });
    let begin = Instant::now();
    while executor.0.state.lock().blocked < 2 {
        assert!(begin.elapsed() < PATIENCE, "they are not seen");
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(within(spawn(&executor, &share, async { 8 })).await.unwrap(), Ok(8));
    assert!(second.try_recv().is_err(), "its container has a turn already");
    stops.iter().for_each(|stop| stop.store(true, Ordering::Relaxed));
    for end in [first, other] {
        assert_eq!(within(end).await.unwrap(), Ok(()));
    }
    assert_eq!(within(second).await.unwrap(), Ok(7));
    assert!(one.used() >= Duration::from_millis(3) && two.used() >= Duration::from_millis(3));
    assert_eq!(executor.0.state.lock().blocked, 0);
}

/// What runs beside a container is counted as the container's, also when it has ended.
#[tokio::test]
async fn what_runs_beside_counts() {
    let executor = executor(1);
    let share = executor.share(Cpu::default());
    let beside = share.beside();
    let burns = spawn(&executor, &beside, async {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(2) {}
    });
    assert_eq!(within(burns).await.unwrap(), Ok(()));
    let used = beside.used();
    assert!(!used.is_zero());
    assert_eq!(share.used(), used);
    assert_eq!(share.beside().used(), Duration::ZERO, "another run");
    drop(beside);
    assert_eq!(share.used(), used);
}

/// However many tasks of one container wait for a disk, others run.
#[tokio::test]
async fn who_waits_for_a_disk_takes_no_threads_of_others() {
    let executor = executor(2);
    let share = executor.share(Cpu::default());
    let disk = Arc::new((Mutex::new(false), Condvar::new()));
    let ends: Vec<_> = (0..200)
        .map(|_| {
            let disk = Arc::clone(&disk);
            spawn(&executor, &share, async move {
                blocking(|| disk.1.wait_while(&mut disk.0.lock(), |answers| !*answers));
            })
        })
        .collect();
    let settled = || {
        let state = executor.0.state.lock();
        let more = state.queue.has_ready() && state.total < 2 + STAND_INS;
        state.blocked > 2 && state.active == 0 && state.called == 0 && !more
    };
    let begin = Instant::now();
    while !settled() {
        assert!(begin.elapsed() < PATIENCE, "they do not wait");
        sleep(Duration::from_millis(1)).await;
    }
    let other = executor.share(Cpu::default());
    assert_eq!(within(spawn(&executor, &other, async { 6 })).await.unwrap(), Ok(6));
    *disk.0.lock() = true;
    disk.1.notify_all();
    for end in ends {
        assert_eq!(within(end).await.unwrap(), Ok(()));
    }
    assert_eq!(executor.0.state.lock().blocked, 0);
}

/// Whatever they do, all futures are dropped, and their owners told.
#[tokio::test]
async fn the_end_of_the_executor_is_the_end_of_its_tasks() {
    struct Counted(Arc<AtomicU32>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let executor = executor(2);
    let dropped = Arc::new(AtomicU32::new(0));
    let mut ends = Vec::new();
    for kind in 0..30 {
        let (share, counted) = (executor.share(Cpu::default()), Counted(Arc::clone(&dropped)));
        ends.push(spawn(&executor, &share, async move {
            let _counted = counted;
            match kind % 3 {
                0 => pending().await,
                1 => sleep(Duration::from_secs(3_600)).await,
                _ => spin(Arc::default()).await,
            }
        }));
    }
    let share = executor.share(Cpu::default());
    drop(executor);
    for end in ends {
        assert_eq!(within(end).await.unwrap(), Err(Lost::ShutDown));
    }
    assert_eq!(dropped.load(Ordering::SeqCst), 30);
    assert_eq!(share.used(), Duration::ZERO, "handles may outlive it");
}

/// A task that is to end has its next turn at once, beyond its limit and before a hundred others.
#[tokio::test]
async fn who_is_to_end_does_not_wait() {
    let executor = executor(1);
    let stop = Arc::new(AtomicBool::new(false));
    // Turns that the others had.
    let turns = Arc::new(AtomicU32::new(0));
    let mut ends = Vec::new();
    for _ in 0..100 {
        let (mut spin, turns) = (Box::pin(spin(Arc::clone(&stop))), Arc::clone(&turns));
        let counted = poll_fn(move |cx| {
            turns.fetch_add(1, Ordering::Relaxed);
            spin.as_mut().poll(cx)
        });
        let share = executor.share(Cpu { request_millis: 1_000, limit_millis: None });
        ends.push(spawn(&executor, &share, counted));
    }
    let share = executor.share(Cpu { request_millis: 0, limit_millis: Some(1) });
    let own = Arc::new(AtomicBool::new(false));
    let (spin, at_the_end) = (spin(Arc::clone(&own)), Arc::clone(&turns));
    let end = spawn(&executor, &share, async move {
        spin.await;
        at_the_end.load(Ordering::Relaxed)
    });
    while share.used().is_zero() {
        sleep(Duration::from_millis(1)).await;
    }
    own.store(true, Ordering::Relaxed);
    share.hurry();
    let hurried = turns.load(Ordering::Relaxed);
    let others = within(end).await.unwrap().unwrap().saturating_sub(hurried);
    assert!(others <= 2, "{others} turns of others came first");
    stop.store(true, Ordering::Relaxed);
    for end in ends {
        assert_eq!(within(end).await.unwrap(), Ok(()));
    }
}
