//! How many nodes of a zone are lost, and what that says: one node that falls silent is dead; most of a zone
//! at once is more likely a network that broke, and moving all their pods would only make it worse.
//!
//! ```text
//!   of all zones nobody is ready ─────────────────────────▶ nobody is evicted
//!   of one zone nobody is ready  ── FullDisruption ───────▶ the usual rate: the other zones take the pods
//!   of one zone most are lost    ── PartialDisruption ────▶ nobody, or slowly if the zone is large
//!   otherwise                    ── Normal ───────────────▶ the usual rate
//! ```

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use k8s_openapi::api::core::v1::Node;
use tokio::time::Instant;

use crate::nodes::{self, REGION, ZONE};

/// The part of a zone's nodes that may be lost before the zone counts as disrupted, in percent. Like the
/// numbers below Kubernetes' default.
const UNHEALTHY_PERCENT: usize = 55;

/// As many lost nodes are never a disruption: in a zone of three, two may well be dead.
const ALWAYS_NORMAL: usize = 2;

/// A disrupted zone that has no more nodes than this evicts nothing.
const LARGE_ZONE: usize = 50;

/// 0.1 nodes a second.
const USUAL: Duration = Duration::from_secs(10);

/// 0.01 nodes a second, in a large zone that is disrupted.
const SLOW: Duration = Duration::from_secs(100);

/// What is to become of the pods of a zone's lost nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rate {
    /// They stay, and those that had to go may stay, too.
    Off,
    /// Those of no other node have to go.
    Held,
    /// Those of one node after another have to go, with so much time between.
    Each(Duration),
}

/// A region, and a zone in it.
pub(super) type Zone<'a> = (&'a str, &'a str);

/// Where a node is, by its labels; nothing if they do not say.
pub(super) fn zone_of(node: &Node) -> Zone<'_> {
    let label = |name: &str| nodes::label(node, name).unwrap_or_default();
    (label(REGION), label(ZONE))
}

/// How many nodes of each zone are ready, and how many are not.
#[derive(Debug, Default)]
pub(super) struct Zones<'a>(BTreeMap<Zone<'a>, (usize, usize)>);

impl<'a> Zones<'a> {
    /// Of all nodes, and whether each is ready.
    pub(super) fn of(nodes: impl IntoIterator<Item = (&'a Node, bool)>) -> Self {
        let mut zones = Zones::default();
        for (node, is_ready) in nodes {
            let (ready, lost) = zones.0.entry(zone_of(node)).or_default();
            *(if is_ready { ready } else { lost }) += 1;
        }
        zones
    }

    pub(super) fn rate(&self, zone: Zone<'_>) -> Rate {
        if self.0.values().all(|(ready, _)| *ready == 0) {
            // It is more likely that we are cut off than that all are lost.
            return Rate::Off;
        }
        let (ready, lost) = self.0.get(&zone).copied().unwrap_or_default();
        let all = ready + lost;
        let disrupted = ready > 0 && lost > ALWAYS_NORMAL && lost * 100 >= all * UNHEALTHY_PERCENT;
        match disrupted {
            true if all > LARGE_ZONE => Rate::Each(SLOW),
            true => Rate::Held,
            false => Rate::Each(USUAL),
        }
    }
}

/// When the last node of each zone was given up.
#[derive(Debug, Default)]
pub(super) struct Turns(HashMap<(String, String), Instant>);

impl Turns {
    /// Takes the zone's turn to give up a node.
    ///
    /// # Errors
    /// How long to wait for it.
    pub(super) fn take(&mut self, zone: Zone<'_>, between: Duration, now: Instant) -> Result<(), Duration> {
        let zone = (zone.0.to_owned(), zone.1.to_owned());
        match self.0.get(&zone).map(|last| *last + between) {
            Some(next) if next > now => Err(next - now),
            _ => {
                self.0.insert(zone, now);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::labels;

    fn node(zone: &str) -> Node {
        let mut node = Node::default();
        if !zone.is_empty() {
            node.metadata.labels = Some(labels(&[(ZONE, zone)]));
        }
        node
    }

    /// `zones` are `(zone, ready, lost)`; the rate is that of the first.
    #[track_caller]
    fn check(zones: &[(&str, usize, usize)], expected: Rate) {
        let of = |(zone, ready, lost): &(&str, usize, usize)| {
            let (zone, ready) = ((*zone).to_owned(), *ready);
            (0..ready + *lost).map(move |number| (node(&zone), number < ready))
        };
        let nodes: Vec<(Node, bool)> = zones.iter().flat_map(of).collect();
        let counted = Zones::of(nodes.iter().map(|(node, ready)| (node, *ready)));
        assert_eq!(counted.rate(zone_of(&nodes[0].0)), expected, "{zones:?}");
    }

    #[test]
    fn what_becomes_of_the_pods_of_lost_nodes() {
        check(&[("", 0, 1)], Rate::Off);
        check(&[("", 0, 9)], Rate::Off);
        check(&[("a", 0, 9), ("b", 0, 1)], Rate::Off);
        check(&[("", 1, 1)], Rate::Each(USUAL));
        check(&[("", 1, 2)], Rate::Each(USUAL));
        check(&[("", 2, 3)], Rate::Held);
        check(&[("", 3, 3)], Rate::Each(USUAL));
        check(&[("", 9, 11)], Rate::Held);
        check(&[("", 10, 10)], Rate::Each(USUAL));
        check(&[("", 22, 28)], Rate::Held);
        check(&[("", 22, 29)], Rate::Each(SLOW));
        check(&[("", 40, 40)], Rate::Each(USUAL));
        check(&[("a", 0, 9), ("b", 1, 0)], Rate::Each(USUAL));
        check(&[("a", 2, 3), ("b", 100, 0)], Rate::Held);
        check(&[("a", 100, 1), ("b", 2, 3)], Rate::Each(USUAL));
        check(&[("", 4, 1), ("b", 0, 9)], Rate::Each(USUAL));
    }

    #[tokio::test(start_paused = true)]
    async fn zones_take_turns_of_their_own() {
        let mut turns = Turns::default();
        let start = Instant::now();
        let (a, b) = (("r", "a"), ("r", "b"));
        assert_eq!(turns.take(a, USUAL, start), Ok(()));
        assert_eq!(turns.take(b, USUAL, start), Ok(()));
        let later = start + Duration::from_secs(4);
        assert_eq!(turns.take(a, USUAL, later), Err(Duration::from_secs(6)));
        assert_eq!(turns.take(a, SLOW, later), Err(Duration::from_secs(96)));
        assert_eq!(turns.take(a, USUAL, start + USUAL), Ok(()));
        assert_eq!(turns.take(a, USUAL, start + USUAL), Err(USUAL));
    }
}
