//! Who waits for places, and who is next. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Those who wait: the most important first, of those who matter alike the one that came first.
#[derive(Debug)]
pub(super) struct Line<T> {
    waiting: BTreeMap<Turn, (u32, T)>,
    came: u64,
}

/// A turn in the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    priority: Reverse<i32>,
    number: u64,
}

impl<T> Default for Line<T> {
    fn default() -> Line<T> {
        Line { waiting: BTreeMap::new(), came: 0 }
    }
}

impl<T> Line<T> {
    pub(super) fn enter(&mut self, priority: i32, needed: u32, who: T) -> Turn {
        let turn = Turn { priority: Reverse(priority), number: self.came };
        self.came += 1;
        self.waiting.insert(turn, (needed, who));
        turn
    }

    /// Takes somebody out of the line, who may not be there any more.
    pub(super) fn leave(&mut self, turn: Turn) -> Option<T> {
        self.waiting.remove(&turn).map(|(_, who)| who)
    }

    /// Whose turn it is when so many places are free, and how many they need. Who needs more than there are holds up
    /// nobody: otherwise a module that wants many would keep places empty for which others have a use.
    pub(super) fn next(&self, free: u32) -> Option<(Turn, u32)> {
        let fits = |(_, (needed, _)): &(&Turn, &(u32, T))| *needed <= free;
        self.waiting.iter().find(fits).map(|(turn, (needed, _))| (*turn, *needed))
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those who enter (priority, places needed), and who is served as so many places become free one after the other.
    #[track_caller]
    fn check(enter: &[(i32, u32)], free: &[u32], expected: &[&[usize]]) {
        let mut line = Line::default();
        for (who, (priority, needed)) in enter.iter().enumerate() {
            line.enter(*priority, *needed, who);
        }
        let mut left = 0;
        let mut served = Vec::new();
        for more in free {
            left += more;
            let mut now = Vec::new();
            while let Some((turn, needed)) = line.next(left) {
                left -= needed;
                now.extend(line.leave(turn));
            }
            served.push(now);
        }
        assert_eq!(served, expected);
    }

    #[test]
    fn as_many_as_are_free_go_in_order() {
        check(&[(0, 1), (0, 1), (0, 1)], &[0, 1, 2, 1], &[&[], &[0], &[1, 2], &[]]);
        check(&[(0, 1), (5, 1), (-5, 1), (5, 1)], &[3, 1], &[&[1, 3, 0], &[2]]);
        check(&[(0, 4), (0, 1), (0, 2), (9, 8)], &[2, 1, 2, 2], &[&[1], &[2], &[], &[0]]);
        check(&[], &[3], &[&[]]);
    }

    #[test]
    fn who_leaves_is_passed_over() {
        let mut line = Line::default();
        let (first, second) = (line.enter(0, 1, 'a'), line.enter(0, 1, 'b'));
        assert_eq!(line.leave(first), Some('a'));
        assert_eq!((line.leave(first), line.len()), (None, 1));
        assert_eq!(line.next(1), Some((second, 1)));
    }
}
