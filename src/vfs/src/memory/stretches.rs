//! Sets of whole numbers that lie in few stretches.

use std::collections::BTreeMap;

/// A set of numbers: the first of each stretch, and the one after its last. Stretches neither touch nor are empty.
#[derive(Debug, Default)]
pub(super) struct Stretches(BTreeMap<u64, u64>);

impl Stretches {
    pub(super) fn contains(&self, number: u64) -> bool {
        self.around(number).is_some()
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.0.iter().map(|(first, end)| end - first).sum()
    }

    /// How many there are from `first` to before `end`.
    pub(super) fn count_in(&self, first: u64, end: u64) -> u64 {
        let before = self.around(first).map_or(0, |(_, until)| until.min(end) - first);
        let next = self.0.range(first + 1..end.max(first + 1));
        before + next.map(|(from, until)| until.min(&end) - from).sum::<u64>()
    }

    /// Adds all from `first` to before `end`.
    pub(super) fn insert(&mut self, mut first: u64, mut end: u64) {
        if first >= end {
            return;
        }
        // Whatever touches it becomes a part of it.
        while let Some((&from, &until)) =
            self.0.range(..=end).next_back().filter(|(_, until)| **until >= first)
        {
            (first, end) = (first.min(from), end.max(until));
            self.0.remove(&from);
        }
        self.0.insert(first, end);
    }

    /// Takes one out; false if it is not there.
    pub(super) fn remove(&mut self, number: u64) -> bool {
        let Some((first, end)) = self.around(number) else { return false };
        self.0.remove(&first);
        for (first, end) in [(first, number), (number + 1, end)] {
            if first < end {
                self.0.insert(first, end);
            }
        }
        true
    }

    /// Takes out all from `number` on.
    pub(super) fn split_off(&mut self, number: u64) -> Stretches {
        let mut rest = self.0.split_off(&number);
        if let Some((first, end)) = self.0.last_key_value().map(|(first, end)| (*first, *end))
            && end > number
        {
            self.0.insert(first, number);
            rest.insert(number, end);
        }
        Stretches(rest)
    }

    /// The stretch that a number is in.
    fn around(&self, number: u64) -> Option<(u64, u64)> {
        let (first, end) = self.0.range(..=number).next_back()?;
        (*end > number).then_some((*first, *end))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn stretches_are_a_set(steps in prop::collection::vec((0..3_u8, 0..40_u64, 0..20_u64), 0..40)) {
            let (mut stretches, mut model) = (Stretches::default(), BTreeSet::new());
            for (step, at, length) in steps {
                match step {
                    0 => {
                        stretches.insert(at, at + length);
                        model.extend(at..at + length);
                    }
                    1 => prop_assert_eq!(stretches.remove(at), model.remove(&at)),
                    _ => {
                        let rest = stretches.split_off(at + length);
                        let expected = model.split_off(&(at + length));
                        prop_assert_eq!(rest.count(), expected.len() as u64);
                        prop_assert!((0..70).all(|number| rest.contains(number) == expected.contains(&number)));
                    }
                }
                prop_assert_eq!(stretches.count(), model.len() as u64);
                prop_assert_eq!(stretches.count_in(at, at + length), model.range(at..at + length).count() as u64);
                prop_assert!((0..70).all(|number| stretches.contains(number) == model.contains(&number)));
                let ends: Vec<_> = stretches.0.iter().flat_map(|(first, end)| [*first, *end]).collect();
                prop_assert!(ends.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", ends);
            }
        }
    }
}
