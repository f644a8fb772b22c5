//! A set of small numbers that gives out a free one in constant time.
//!
//! Three or four levels of bits, each bit of a level saying that a whole word below it is full. The next
//! number is searched after the last one given out, so a freed number is reused as late as possible.

/// Numbers `0..size`, each taken or free.
#[derive(Debug)]
pub(crate) struct IdSet {
    levels: Vec<Box<[u64]>>,
    size: usize,
    cursor: usize,
    taken: usize,
}

impl IdSet {
    /// All of `0..size` free. Takes `size / 8` bytes and a little more.
    pub(crate) fn new(size: usize) -> IdSet {
        let mut levels = Vec::new();
        let mut bits = size;
        loop {
            let words = bits.div_ceil(64).max(1);
            let mut level = vec![0u64; words].into_boxed_slice();
            // What lies beyond the end is taken for good.
            for bit in bits..words * 64 {
                level[bit / 64] |= 1 << (bit % 64);
            }
            levels.push(level);
            if words == 1 {
                return IdSet { levels, size, cursor: 0, taken: 0 };
            }
            bits = words;
        }
    }

    /// Takes a free number, the next one after that given out last.
    pub(crate) fn take(&mut self) -> Option<usize> {
        let id = self.next_free(self.cursor).or_else(|| self.next_free(0))?;
        self.claim(id);
        self.cursor = if id + 1 == self.size { 0 } else { id + 1 };
        Some(id)
    }

    /// Takes this number; false if it is taken already or out of range.
    pub(crate) fn claim(&mut self, id: usize) -> bool {
        if id >= self.size || self.contains(id) {
            return false;
        }
        self.taken += 1;
        let mut bit = id;
        for level in &mut self.levels {
            level[bit / 64] |= 1 << (bit % 64);
            if level[bit / 64] != u64::MAX {
                break;
            }
            bit /= 64;
        }
        true
    }

    /// Frees this number; false if it was free.
    pub(crate) fn release(&mut self, id: usize) -> bool {
        if id >= self.size || !self.contains(id) {
            return false;
        }
        self.taken -= 1;
        let mut bit = id;
        for level in &mut self.levels {
            let was_full = level[bit / 64] == u64::MAX;
            level[bit / 64] &= !(1 << (bit % 64));
            if !was_full {
                break;
            }
            bit /= 64;
        }
        true
    }

    /// Whether the number is taken; numbers out of range are not.
    pub(crate) fn contains(&self, id: usize) -> bool {
        id < self.size && self.levels[0][id / 64] & (1 << (id % 64)) != 0
    }

    fn next_free(&self, from: usize) -> Option<usize> {
        let (mut level, mut from) = (0, from);
        loop {
            let words = self.levels.get(level)?;
            let word = from / 64;
            let free = !words.get(word)? & (u64::MAX << (from % 64));
            if free != 0 {
                let mut id = word * 64 + free.trailing_zeros() as usize;
                for below in self.levels[..level].iter().rev() {
                    id = id * 64 + (!below[id]).trailing_zeros() as usize;
                }
                return Some(id);
            }
            level += 1;
            from = word + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_a_set(size in 1usize..5000, steps in prop::collection::vec((0u8..3, 0usize..5000), 1..400)) {
            let mut set = IdSet::new(size);
            let mut model = BTreeSet::new();
            for (what, id) in steps {
                match what {
                    0 => match set.take() {
                        Some(id) => prop_assert!(id < size && model.insert(id)),
                        None => prop_assert_eq!(model.len(), size),
                    },
                    1 => prop_assert_eq!(set.claim(id), id < size && model.insert(id)),
                    _ => prop_assert_eq!(set.release(id), model.remove(&id)),
                }
                prop_assert_eq!(set.taken, model.len());
            }
        }
    }

    #[test]
    fn gives_out_everything_once_and_reuses_late() {
        let mut set = IdSet::new(4161);
        let all: BTreeSet<_> = std::iter::from_fn(|| set.take()).collect();
        assert_eq!(all.len(), 4161);
        assert!(set.release(7) && set.release(4000));
        assert_eq!(set.take(), Some(7), "the search begins after the last one given out, which was 4160");
        assert!(set.release(7));
        assert_eq!(set.take(), Some(4000), "what was freed last comes last");
    }
}
