//! How many pods each node runs, kept up to date pod by pod: with thousands of pods nobody counts them anew for
//! each change.

use std::{collections::HashMap, sync::Arc};

use coracle_client::Key;

/// Where pods are.
#[derive(Debug, Default)]
pub(crate) struct Occupancy {
    pods: HashMap<Key, Place>,
    nodes: HashMap<Arc<str>, Count>,
}

/// What a pod is to its node.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    node: Arc<str>,
    running: bool,
    shown: bool,
}

/// What the pods of a node amount to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// Pods that are not finished.
    pub(crate) running: usize,
    /// Pods that are on the page.
    pub(crate) shown: usize,
}

impl Occupancy {
    /// Takes in how a pod is now: on which node, whether it runs there and whether it is on the page; `None` if it is on
    /// none. The nodes whose counts change with that.
    pub(crate) fn put(
        &mut self,
        pod: &Key,
        now: Option<(&str, bool, bool)>,
    ) -> impl Iterator<Item = Arc<str>> {
        let before = self.pods.get(pod);
        let same = match (before, now) {
            (Some(before), Some((node, running, shown))) => {
                *before.node == *node && (before.running, before.shown) == (running, shown)
            }
            (before, now) => before.is_none() && now.is_none(),
        };
        let changed = if same { [None, None] } else { self.change(pod, now) };
        changed.into_iter().flatten()
    }

    fn change(&mut self, pod: &Key, now: Option<(&str, bool, bool)>) -> [Option<Arc<str>>; 2] {
        let before = self.pods.remove(pod);
        if let Some(place) = &before {
            self.count(place, |count, one| *count -= one);
        }
        let after = now.map(|(node, running, shown)| {
            let node = self.nodes.get_key_value(node).map_or_else(|| node.into(), |(known, _)| known.clone());
            Place { node, running, shown }
        });
        if let Some(place) = &after {
            self.count(place, |count, one| *count += one);
            self.pods.insert(pod.clone(), place.clone());
        }
        // A node of no pod has no count.
        if let Some(place) = &before
            && self.nodes.get(&place.node) == Some(&Count::default())
        {
            self.nodes.remove(&place.node);
        }
        [before, after].map(|place| place.map(|place| place.node))
    }

    fn count(&mut self, place: &Place, change: impl Fn(&mut usize, usize)) {
        let count = self.nodes.entry(place.node.clone()).or_default();
        change(&mut count.running, usize::from(place.running));
        change(&mut count.shown, usize::from(place.shown));
    }

    pub(crate) fn of(&self, node: &str) -> Count {
        self.nodes.get(node).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_follow_the_pods() {
        let mut all = Occupancy::default();
        let [a, b] = ["a", "b"].map(|name| Key::new("n", name));
        let mut put = |pod: &Key, now, expected: &[&str]| {
            let changed: Vec<_> = all.put(pod, now).collect();
            assert_eq!(changed.iter().map(|node| &**node).collect::<Vec<_>>(), expected, "{pod} {now:?}");
            [all.of("one"), all.of("two")].map(|count| (count.running, count.shown))
        };
        assert_eq!(put(&a, None, &[]), [(0, 0), (0, 0)]);
        assert_eq!(put(&a, Some(("one", true, true)), &["one"]), [(1, 1), (0, 0)]);
        assert_eq!(put(&a, Some(("one", true, true)), &[]), [(1, 1), (0, 0)], "nothing new");
        assert_eq!(put(&b, Some(("one", true, false)), &["one"]), [(2, 1), (0, 0)]);
        assert_eq!(put(&a, Some(("one", false, true)), &["one", "one"]), [(1, 1), (0, 0)], "it has ended");
        assert_eq!(put(&b, Some(("two", true, false)), &["one", "two"]), [(0, 1), (1, 0)]);
        assert_eq!(put(&a, None, &["one"]), [(0, 0), (1, 0)]);
        assert_eq!(put(&b, None, &["two"]), [(0, 0), (0, 0)]);
        assert!(all.pods.is_empty() && all.nodes.is_empty(), "nothing stays");
    }
}
