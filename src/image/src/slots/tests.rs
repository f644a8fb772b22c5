//! Who is let in, and that nobody is held up by who gets nothing.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use proptest::prelude::*;
use tokio::task::JoinSet;

use super::*;
use crate::images::PULLS;
use crate::shared::DOWNLOADS;

const ROOM: Room = Room { all: 4, of_host: 2, of_namespace: 3 };

fn turn(host: &str, namespaces: &str) -> Arc<Turn> {
    let namespaces = Mutex::new(namespaces.split(',').map(Arc::from).collect());
    Arc::new(Turn { host: host.to_owned(), namespaces })
}

/// What is held, as `host/namespace`, in the order of asking.
fn held(slots: &Slots) -> Vec<String> {
    let queue = slots.0.queue.lock();
    queue.held.values().map(|held| format!("{}/{}", held.turn.host, held.namespace)).collect()
}

#[test]
fn who_has_least_is_next() {
    /// Lets in who waits, as `host/namespace`, or several namespaces with commas between.
    #[track_caller]
    fn check(asking: &[&str], expected: &[&str]) {
        let slots = Slots::new(ROOM);
        let mut waiting = Vec::new();
        for (number, text) in (0..).zip(asking) {
            let (host, namespaces) = text.split_once('/').unwrap();
            let (tell, told) = oneshot::channel();
            let turn = turn(host, namespaces);
            slots.0.queue.lock().waiting.insert(number, Waiting { turn, pushed: 0, tell });
            waiting.push(told);
        }
        slots.0.let_in();
        assert_eq!(held(&slots), expected, "{asking:?}");
    }
    check(&["h/a", "h/a", "h/a", "i/a", "i/a"], &["h/a", "h/a", "i/a"]);
    check(&["h/a", "h/a", "h/b", "i/a", "i/b"], &["h/a", "h/a", "i/a", "i/b"]);
    check(&["h/a", "h/b", "h/c", "i/c"], &["h/a", "h/b", "i/c"]);
    check(&["h/a", "i/a", "k/a", "l/a", "m/b"], &["h/a", "i/a", "k/a", "m/b"]);
    // What several want counts for who has least.
    check(&["h/a", "i/a", "k/a", "l/a,b"], &["h/a", "i/a", "k/a", "l/b"]);
    check(&["h/a,b", "i/a", "k/a", "l/a"], &["h/a", "i/a", "k/a"]);
}

/// Who asks for much does not come first because he asked first.
#[test]
fn namespaces_take_turns_where_one_holds_a_slot_at_a_time() {
    let slots = Slots::new(Room { all: 1, of_host: 1, of_namespace: 1 });
    let mut context = Context::from_waker(std::task::Waker::noop());
    let turns = ["a", "a", "a", "b", "b", "c"].map(|namespace| turn("host", namespace));
    let mut asking: Vec<_> = turns.iter().map(|turn| Box::pin(slots.acquire(turn))).collect();
    let mut order = Vec::new();
    while !asking.is_empty() {
        // All of them ask before the first is done.
        let polled: Vec<_> = asking.iter_mut().map(|one| one.as_mut().poll(&mut context)).collect();
        let at = polled.iter().position(Poll::is_ready).expect("there is room for one");
        order.extend(held(&slots));
        drop((asking.remove(at), polled));
    }
    assert_eq!(order, ["host/a", "host/b", "host/c", "host/a", "host/b", "host/a"]);
    // What is remembered of them is bounded.
    for number in 0..2 * REMEMBERED {
        slots.0.queue.lock().serve(&number.to_string().into());
    }
    let queue = slots.0.queue.lock();
    assert_eq!(queue.served.len(), REMEMBERED);
    assert!(!queue.served.contains_key("c") && queue.served.contains_key("511"));
}

#[test]
fn who_is_joined_comes_as_soon_as_either() {
    let slots = Slots::new(ROOM);
    let turns = ["h", "i", "k", "l"].map(|host| turn(host, "a"));
    let mut context = Context::from_waker(std::task::Waker::noop());
    let [first, second, third, mut last] = turns.each_ref().map(|turn| Box::pin(slots.acquire(turn)));
    let got = [first, second, third].map(|mut one| one.as_mut().poll(&mut context));
    assert!(got.iter().all(Poll::is_ready) && last.as_mut().poll(&mut context).is_pending());
    slots.join(&turns[3], "b");
    let last = last.as_mut().poll(&mut context);
    assert!(last.is_ready());
    assert_eq!(held(&slots), ["h/a", "i/a", "k/a", "l/b"]);
}

type Asking = Pin<Box<dyn Future<Output = Slot>>>;

proptest! {
    /// Whoever comes, leaves and gives up: there is never one too many, and nobody is left standing before a slot that
    /// is free for them.
    #[test]
    fn slots_are_neither_lost_nor_doubled(
        steps in prop::collection::vec((0..4_u8, 0..4_u8, 0..4_u8, any::<prop::sample::Index>()), 1..80),
    ) {
        let slots = Slots::new(ROOM);
        let mut context = Context::from_waker(std::task::Waker::noop());
        let (mut asking, mut got): (Vec<Asking>, Vec<Slot>) = (Vec::new(), Vec::new());
        for (step, host, namespace, at) in steps {
            match step {
                0 | 1 => {
                    let (slots, turn) = (slots.clone(), turn(&host.to_string(), &namespace.to_string()));
                    let mut one: Asking = Box::pin(async move { slots.acquire(&turn).await });
                    match one.as_mut().poll(&mut context) {
                        Poll::Ready(slot) => got.push(slot),
                        Poll::Pending => asking.push(one),
                    }
                }
                // Some that leave were let in already, and do not know it yet.
                2 if !asking.is_empty() => drop(asking.swap_remove(at.index(asking.len()))),
                3 if !got.is_empty() => drop(got.swap_remove(at.index(got.len()))),
                _ => {}
            }
            let queue = slots.0.queue.lock();
            prop_assert!(queue.first(ROOM, None).is_none());
            prop_assert_eq!(queue.held.len() + queue.waiting.len(), got.len() + asking.len());
            prop_assert!(queue.held.len() <= ROOM.all);
            for one in queue.held.values() {
                let of_host = queue.held.values().filter(|held| held.turn.host == one.turn.host).count();
                let of_namespace = queue.held.values().filter(|held| held.namespace == one.namespace).count();
                prop_assert!(of_host <= ROOM.of_host && of_namespace <= ROOM.of_namespace);
            }
        }
        drop((asking, got));
        prop_assert!(held(&slots).is_empty());
    }
}

/// Pulls from registries, each of which gives so many bytes a second, and never ends.
fn endless(slots: &Slots, hosts: usize, namespaces: usize, rate: u64) -> JoinSet<()> {
    let mut pulls = JoinSet::new();
    for number in 0..8 * hosts {
        let turn = turn(&format!("slow{}", number % hosts), &format!("team{}", number % namespaces));
        let slots = slots.clone();
        pulls.spawn(async move {
            let came = AtomicU64::new(0);
            let trickle = || async {
                loop {
                    sleep(Duration::from_secs(1)).await;
                    came.fetch_add(rate, Ordering::Relaxed);
                }
            };
            slots.in_turn(&turn, &came, trickle).await;
        });
    }
    pulls
}

/// How long it takes to get a slot, and to keep it for so long.
async fn healthy(slots: &Slots, namespace: &str, long: Duration) -> Duration {
    let (began, came) = (Instant::now(), AtomicU64::new(0));
    slots.in_turn(&turn("well", namespace), &came, || sleep(long)).await;
    began.elapsed() - long
}

#[tokio::test(start_paused = true)]
async fn registries_that_send_nothing_delay_nobody_else() {
    let second = Duration::from_secs(1);
    // Also those of the same namespace.
    for (hosts, namespaces, most) in [(2, 1, Duration::ZERO), (10, 1, PATIENCE), (10, 10, PATIENCE)] {
        for rate in [0, 1000] {
            let slots = Slots::new(PULLS);
            let slow = endless(&slots, hosts, namespaces, rate);
            for pause in [0, 3, 60, 100] {
                sleep(pause * second).await;
                for namespace in ["team0", "other"] {
                    let waited = healthy(&slots, namespace, second).await;
                    assert!(waited <= most, "{hosts} {namespaces} {rate} {pause} {namespace}: {waited:?}");
                }
            }
            drop(slow);
        }
    }
}

/// They are not stalled, but their namespaces have more than others.
#[tokio::test(start_paused = true)]
async fn registries_that_are_just_fast_enough_delay_no_other_namespace() {
    let slots = Slots::new(PULLS);
    let _slow = endless(&slots, 10, 4, LEAST_PER_SECOND);
    for _ in 0..5 {
        let waited = healthy(&slots, "other", Duration::from_secs(3)).await;
        assert!(waited <= PATIENCE, "{waited:?}");
    }
}

/// Where all are as slow to begin, all get there.
#[tokio::test(start_paused = true)]
async fn who_takes_long_is_not_pushed_for_ever() {
    let slots = Slots::new(PULLS);
    let mut pulls = JoinSet::new();
    for number in 0..40 {
        let (slots, turn) = (slots.clone(), turn(&format!("slow{number}"), "team"));
        pulls.spawn(async move {
            slots.in_turn(&turn, &AtomicU64::new(0), || sleep(Duration::from_secs(30))).await;
        });
    }
    let began = Instant::now();
    pulls.join_all().await;
    assert!(began.elapsed() < Duration::from_secs(400), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn transfers_that_stall_or_trickle_hold_no_slot() {
    let content = |pause: Duration| async move {
        sleep(pause).await;
        Ok::<_, ()>(Some(Bytes::from_static(&[0; 1_000])))
    };
    for (pause, hosts) in [(90, 10), (1_000, 2), (1_000, 10), (1_000_000, 2), (1_000_000, 10)] {
        let slots = Slots::new(DOWNLOADS);
        let mut slow = JoinSet::new();
        for number in 0..20 {
            let (slots, turn) = (slots.clone(), turn(&format!("slow{}", number % hosts), "team"));
            slow.spawn(async move {
                let mut flow = Flow::new(&slots, &turn);
                loop {
                    flow.next(content(Duration::from_millis(pause))).await.unwrap();
                }
            });
        }
        sleep(Duration::from_secs(5)).await;
        let (began, turn) = (Instant::now(), turn("well", "team"));
        let mut flow = Flow::new(&slots, &turn);
        for _ in 0..1_000 {
            flow.next(content(Duration::from_millis(5))).await.unwrap();
        }
        assert!(began.elapsed() < Duration::from_secs(6), "{pause} {hosts}: {:?}", began.elapsed());
    }
}

/// Those that bring something share the slots by time.
#[tokio::test(start_paused = true)]
async fn transfers_take_turns() {
    let slots = Slots::new(DOWNLOADS);
    let mut all = JoinSet::new();
    for number in 0..24 {
        let (slots, turn) =
            (slots.clone(), turn(&format!("host{}", number % 8), &format!("team{}", number % 2)));
        all.spawn(async move {
            let (began, mut flow) = (Instant::now(), Flow::new(&slots, &turn));
            for _ in 0..1_000 {
                let content = async {
                    sleep(Duration::from_millis(5)).await;
                    Ok::<_, ()>(Some(Bytes::from_static(&[0; 1_000])))
                };
                flow.next(content).await.unwrap();
            }
            began.elapsed()
        });
    }
    // Five seconds for each of them, four of them for each slot.
    for took in all.join_all().await {
        assert!((15..=22).contains(&took.as_secs()), "{took:?}");
    }
}
