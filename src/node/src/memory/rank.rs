//! Who is ended when a node's memory runs out.
//!
//! A pod uses what it holds and what it waits for. Nobody within its request ends for somebody beyond its own: what the
//! budget misses is found with those that are beyond theirs, of which the one that asks for more may be the first. The
//! others together fit, as requests fit on their node; they end when all those have gone and the process has no memory
//! all the same.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use coracle_client::Key;
use coracle_runtime::Container;

use crate::handle::PodHandle;

/// Bytes used, waited for among them, and asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Amount {
    pub(super) used: u64,
    pub(super) requested: u64,
}

impl Amount {
    /// What is used beyond the request.
    fn excess(self) -> i128 {
        i128::from(self.used) - i128::from(self.requested)
    }
}

/// A container that could be ended.
#[derive(Debug, Default)]
pub(super) struct Candidate {
    pub(super) key: Key,
    pub(super) name: Box<str>,
    pub(super) critical: bool,
    pub(super) priority: i32,
    pub(super) pod: Amount,
    pub(super) container: Amount,
    /// What of its use it only waits for.
    pub(super) awaited: u64,
    /// What of its use is drawn from the node's budget, or would be.
    pub(super) drawn: u64,
    /// The instance of it that uses most: its own, or an exec session's.
    pub(super) heaviest: Option<Container>,
    pub(super) handle: Option<Arc<PodHandle>>,
    /// Most of what it uses goes with the pod alone.
    pub(super) evict: bool,
}

impl Candidate {
    /// What it holds, and not only waits for.
    fn held(&self) -> u64 {
        self.container.used.saturating_sub(self.awaited)
    }
}

/// What a node wants back.
#[derive(Debug)]
pub(super) struct Shortage {
    /// Bytes that the process holds too much.
    pub(super) lacking: u64,
    /// Bytes that the budget misses.
    pub(super) missing: u64,
    /// Somebody beyond its request was ended and still gives back.
    pub(super) going: bool,
}

impl Shortage {
    /// Ends those that are ranked first, until they have what is wanted. `end` is told
    /// whether one is beyond its request, and says whether it has ended it.
    pub(super) fn relieve(
        &mut self,
        mut candidates: Vec<Candidate>,
        mut end: impl FnMut(&Candidate, bool) -> bool,
    ) {
        rank(&mut candidates);
        // Who was beyond its request may be within it without the first of its containers.
        let mut ended = BTreeMap::<&Key, i128>::new();
        for one in &candidates {
            let less = ended.get(&one.key).copied().unwrap_or_default();
            let beyond = one.pod.excess() > less;
            if self.is_helped_by(one, beyond) && end(one, beyond) {
                self.lacking = self.lacking.saturating_sub(one.held());
                self.missing = self.missing.saturating_sub(one.drawn);
                self.going |= beyond;
                *ended.entry(&one.key).or_default() += i128::from(one.container.used);
            }
        }
    }

    fn is_helped_by(&self, one: &Candidate, beyond: bool) -> bool {
        let holds = self.lacking > 0 && one.held() > 0;
        if beyond { holds || self.missing > 0 && one.drawn > 0 } else { holds && !self.going }
    }
}

/// The order in which containers are ended.
fn rank(candidates: &mut [Candidate]) {
    candidates.sort_by_key(|one| {
        (
            one.critical,
            one.pod.excess() <= 0,
            one.drawn == 0,
            one.priority,
            Reverse(one.pod.excess()),
            one.key.clone(),
            Reverse(one.container.excess()),
            one.name.clone(),
        )
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(name: &str, priority: i32, used: u64, requested: u64) -> Candidate {
        let amount = Amount { used, requested };
        Candidate {
            key: Key::new("default", name),
            name: name.into(),
            priority,
            pod: amount,
            container: amount,
            drawn: used,
            ..Candidate::default()
        }
    }

    #[test]
    fn who_exceeds_its_request_most_ends_first() {
        let mut all = [
            Candidate { drawn: 0, ..candidate("small", -5, 3, 0) },
            candidate("modest", 0, 10, 100),
            candidate("important", 1_000, 900, 0),
            candidate("best-effort", 0, 301, 0),
            candidate("greedy", 0, 400, 100),
            Candidate { critical: true, ..candidate("critical", 0, 5_000, 0) },
            candidate("modest-and-unimportant", -5, 50, 100),
        ];
        rank(&mut all);
        let order: Vec<_> = all.iter().map(|one| &*one.name).collect();
        let expected =
            ["best-effort", "greedy", "important", "small", "modest-and-unimportant", "modest", "critical"];
        assert_eq!(order, expected);
    }

    /// Who is ended, in order, and what is still wanted then.
    fn relieved(lacking: u64, missing: u64, going: bool, all: Vec<Candidate>) -> (Vec<String>, u64, u64) {
        let (mut shortage, mut ended) = (Shortage { lacking, missing, going }, Vec::new());
        shortage.relieve(all, |one, _| {
            ended.push(one.name.to_string());
            true
        });
        (ended, shortage.lacking, shortage.missing)
    }

    #[track_caller]
    fn check((lacking, missing): (u64, u64), all: Vec<Candidate>, expected: &[&str]) {
        assert_eq!(relieved(lacking, missing, false, all).0, expected);
    }

    fn waits(name: &str, awaited: u64, requested: u64) -> Candidate {
        Candidate { awaited, ..candidate(name, 0, awaited, requested) }
    }

    #[test]
    fn nobody_within_its_request_ends_for_somebody_beyond_it() {
        let good = || ["good1", "good2", "good3"].map(|name| candidate(name, 0, 187, 300));
        let with = |others: Vec<Candidate>| good().into_iter().chain(others).collect::<Vec<_>>();
        check((0, 300), with(vec![waits("evil", 906, 1)]), &["evil"]);
        // Of many that wait, as many go as have no room; their wishes go with them.
        let many = || (0..9).map(|at| waits(&format!("b{at}"), 196, 0)).collect::<Vec<_>>();
        check((0, 9 * 196), with(many()), &["b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8"]);
        check((0, 197), with(many()), &["b0", "b1"]);
        // Who holds more than it asked for makes room for who does not.
        check((0, 100), with(vec![waits("late", 300, 300), candidate("greedy", 0, 150, 100)]), &["greedy"]);
        check((0, 100), with(vec![waits("late", 300, 300)]), &[]);
        check((0, 100), with(vec![waits("important", 300, 300), waits("b", 100, 0)]), &["b"]);
    }

    #[test]
    fn who_is_within_its_request_ends_when_nothing_else_is_left() {
        let small = || Candidate { drawn: 0, ..candidate("small", 9, 2, 1) };
        let all = || vec![candidate("good", 0, 187, 300), small(), waits("waits", 50, 0)];
        check((1, 0), all(), &["small"]);
        check((3, 0), all(), &["small"]);
        check((1, 0), vec![candidate("good", 0, 187, 300), waits("waits", 50, 0)], &["good"]);
        assert_eq!(relieved(1, 0, true, vec![candidate("good", 0, 187, 300)]).0, [""; 0]);
        let critical = Candidate { critical: true, ..candidate("critical", 0, 500, 0) };
        check((1, 0), vec![critical, candidate("good", 0, 187, 300)], &["good"]);
    }

    /// Containers are those of a pod: what one does not need, another may use.
    #[test]
    fn a_pod_s_requests_are_for_all_it_has() {
        let of = |name: &str, pod: (u64, u64), used: u64, requested: u64| Candidate {
            key: Key::new("default", "pod"),
            pod: Amount { used: pod.0, requested: pod.1 },
            ..candidate(name, 0, used, requested)
        };
        let lends = || vec![of("a", (160, 200), 150, 100), of("b", (160, 200), 10, 100)];
        check((0, 100), lends(), &[]);
        // Without its first, it is within.
        let beyond = || vec![of("a", (450, 110), 50, 100), of("b", (450, 110), 400, 10)];
        check((0, 450), beyond(), &["b"]);
        check((450, 0), beyond(), &["b"]);
    }

    fn any_pod() -> impl Strategy<Value = (bool, i32, u64, Vec<(u64, u64, bool)>)> {
        let container = (0_u64..500, 0_u64..500, any::<bool>());
        (prop::bool::weighted(0.1), -2..3, 0_u64..900, prop::collection::vec(container, 1..4))
    }

    proptest! {
        #[test]
        fn victims_are_beyond_their_requests_while_one_is(
            pods in prop::collection::vec(any_pod(), 0..12),
            lacking in 0_u64..1_000,
            missing in 0_u64..1_000,
            going: bool,
        ) {
            let mut all = Vec::new();
            for (at, (critical, priority, requested, containers)) in pods.iter().enumerate() {
                let used = containers.iter().map(|(used, ..)| used).sum();
                for (number, (used_here, awaited, draws)) in containers.iter().enumerate() {
                    all.push(Candidate {
                        key: Key::new("default", at.to_string()),
                        critical: *critical,
                        pod: Amount { used, requested: *requested },
                        awaited: *awaited.min(used_here),
                        drawn: if *draws { *used_here } else { 0 },
                        ..candidate(&number.to_string(), *priority, *used_here, 0)
                    });
                }
            }
            let mut left: Vec<_> = all
                .iter()
                .map(|one| (one.key.clone(), one.name.clone(), one.critical, one.held(), one.drawn))
                .collect();
            let mut now: BTreeMap<Key, Amount> = all.iter().map(|one| (one.key.clone(), one.pod)).collect();
            let mut victims = Vec::new();
            let mut shortage = Shortage { lacking, missing, going };
            shortage.relieve(all, |one, _| {
                victims.push((one.key.clone(), one.name.clone(), one.container.used, one.held(), one.critical));
                true
            });
            let mut lacks = lacking;
            for (key, name, used, held, critical) in victims {
                let beyond = now[&key].excess() > 0;
                prop_assert!(beyond || lacks > 0 && !going, "within, and the process lacks nothing");
                let another = left.iter().any(|(key, _, critical, held, _)| {
                    !critical && *held > 0 && now[key].excess() > 0
                });
                prop_assert!(beyond || critical || !another, "one that is beyond would have done");
                left.retain(|(other, others_name, ..)| (other, others_name) != (&key, &name));
                now.get_mut(&key).unwrap().used -= used;
                lacks = lacks.saturating_sub(held);
            }
            let beyond = left.iter().find(|(key, .., drawn)| *drawn > 0 && now[key].excess() > 0);
            prop_assert!(shortage.missing == 0 || beyond.is_none(), "{beyond:?} could have made room");
            let holds = left.iter().any(|(key, .., held, _)| *held > 0 && now[key].excess() > 0);
            prop_assert!(shortage.lacking == 0 || !holds);
        }
    }
}
