//! Sets of completion indexes as the API writes them: `0,2-5,7`.

use std::fmt;

/// A set of indexes as ascending ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Reads a set; indexes from `completions` on, and what is no index, are left out.
    pub(super) fn parse(text: &str, completions: i32) -> Indexes {
        let ranges = text.split(',').filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (i32, i32) = (first.parse().ok()?, last.parse().ok()?);
            let last = last.min(completions.saturating_sub(1));
            (0 <= first && first <= last).then_some((first, last))
        });
        Indexes::of(ranges.collect())
    }

    fn of(mut ranges: Vec<(i32, i32)>) -> Indexes {
        ranges.sort_unstable();
        let mut merged: Vec<(i32, i32)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(open) if first <= open.1.saturating_add(1) => open.1 = open.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Indexes(merged)
    }

    /// With these indexes too.
    pub(super) fn with(&self, more: impl IntoIterator<Item = i32>) -> Indexes {
        let more = more.into_iter().map(|index| (index, index));
        Indexes::of(self.0.iter().copied().chain(more).collect())
    }

    /// Everything that is in one or the other.
    pub(super) fn union(&self, other: &Indexes) -> Indexes {
        Indexes::of(self.0.iter().chain(&other.0).copied().collect())
    }

    pub(super) fn has(&self, index: i32) -> bool {
        let after = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(after).is_some_and(|(first, _)| *first <= index)
    }

    /// How many there are.
    pub(super) fn total(&self) -> i64 {
        self.0.iter().map(|(first, last)| i64::from(*last) - i64::from(*first) + 1).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many are in both.
    pub(super) fn common(&self, other: &Indexes) -> i64 {
        let (mut mine, mut theirs, mut count) = (0, 0, 0);
        while let (Some(a), Some(b)) = (self.0.get(mine), other.0.get(theirs)) {
            count += (i64::from(a.1.min(b.1)) - i64::from(a.0.max(b.0)) + 1).max(0);
            if a.1 <= b.1 {
                mine += 1;
            } else {
                theirs += 1;
            }
        }
        count
    }

    /// The first `count` indexes below `completions` that are not in the set. Takes time for ranges, not
    /// for indexes.
    pub(super) fn first_missing(&self, count: usize, completions: i32) -> Vec<i32> {
        let mut missing = Vec::new();
        let mut candidate = 0;
        let beyond = (completions, completions);
        for (first, last) in self.0.iter().chain(std::iter::once(&beyond)) {
            let room = count - missing.len();
            missing.extend((candidate..(*first).min(completions)).take(room));
            candidate = last.saturating_add(1);
        }
        missing
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(out, "{comma}{first}")?;
            match last - first {
                0 => {}
                1 => write!(out, ",{last}")?,
                _ => write!(out, "-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_index_is_left_out() {
        for (text, expected) in [
            ("", ""),
            ("0,2-5,7", "0,2-5,7"),
            ("5,1,0", "0,1,5"),
            ("0,1,2", "0-2"),
            ("3-1,x,-4,2", "2"),
            ("0-2000000000", "0-99"),
            ("99,100", "99"),
            ("1-3-5", ""),
        ] {
            assert_eq!(Indexes::parse(text, 100).to_string(), expected, "{text}");
        }
        assert_eq!(Indexes::parse("0-2147483647", i32::MAX).total(), i64::from(i32::MAX));
        assert_eq!(Indexes::parse("0-3", 0).total(), 0);
    }

    proptest! {
        #[test]
        fn sets_of_indexes_are_sets(
            a in proptest::collection::btree_set(0_i32..40, 0..20),
            b in proptest::collection::btree_set(0_i32..40, 0..20),
            count in 0_usize..20,
        ) {
            let (x, y) = (Indexes::default().with(a.clone()), Indexes::default().with(b.clone()));
            let both: BTreeSet<i32> = a.union(&b).copied().collect();
            let union = x.union(&y);
            prop_assert_eq!(union.total(), i64::try_from(both.len()).expect("small"));
            prop_assert_eq!(&Indexes::parse(&union.to_string(), 40), &union);
            prop_assert_eq!(x.common(&y), i64::try_from(a.intersection(&b).count()).expect("small"));
            prop_assert!((0..40).all(|index| union.has(index) == both.contains(&index)));
            let missing: Vec<i32> = (0..40).filter(|index| !both.contains(index)).take(count).collect();
            prop_assert_eq!(union.first_missing(count, 40), missing);
        }
    }
}
