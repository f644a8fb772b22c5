//! A range of numbers that owners take and give back.
//!
//! Guarantees: a number has at most one owner; a number that was taken for an object that was never
//! stored is free again when its [`Hold`] is dropped.
//!
//! An owner may be changed by several requests at once, one of which takes up what another gives back.
//! So a number counts its claims: one for the stored object, and one for each write under way.

use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc};

use parking_lot::Mutex;

/// Why a number could not be had.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is not in the range.
    OutOfRange,
    /// Somebody else has it.
    Taken,
    /// Nothing is left.
    Full,
}

/// The numbers `range`, of which those from `dynamic` on are preferred where nobody asks for one of their
/// own: whoever picks numbers by hand picks low ones.
pub(super) struct Pool {
    range: RangeInclusive<u32>,
    dynamic: u32,
    claims: Mutex<BTreeMap<u32, Claims>>,
}

struct Claims {
    owner: String,
    count: usize,
}

impl Pool {
    pub(super) fn new(range: RangeInclusive<u32>, dynamic: u32) -> Arc<Pool> {
        Arc::new(Pool { range, dynamic, claims: Mutex::default() })
    }

    /// Takes this number, for the first time or once more.
    pub(super) fn claim(self: &Arc<Pool>, number: u32, owner: &str) -> Result<Hold, Refusal> {
        if !self.range.contains(&number) {
            return Err(Refusal::OutOfRange);
        }
        let mut claims = self.claims.lock();
        let claims = claims.entry(number).or_insert_with(|| Claims { owner: owner.to_owned(), count: 0 });
        if claims.owner != owner {
            return Err(Refusal::Taken);
        }
        claims.count += 1;
        Ok(self.hold(number, owner))
    }

    /// Takes any number: the first free one from a place that `random` picks.
    pub(super) fn take(self: &Arc<Pool>, owner: &str, random: u64) -> Result<Hold, Refusal> {
        let mut claims = self.claims.lock();
        let (low, high) = (*self.range.start(), *self.range.end());
        let upper = self.dynamic.clamp(low, high);
        let span = u64::from(high - upper) + 1;
        let start = upper + u32::try_from(random % span).unwrap_or(0);
        let number = (start..=high)
            .chain(upper..start)
            .chain(low..upper)
            .find(|number| !claims.contains_key(number))
            .ok_or(Refusal::Full)?;
        claims.insert(number, Claims { owner: owner.to_owned(), count: 1 });
        Ok(self.hold(number, owner))
    }

    /// Gives back one claim of this owner.
    pub(super) fn release(&self, number: u32, owner: &str) {
        let mut claims = self.claims.lock();
        if let Some(mine) = claims.get_mut(&number).filter(|claims| claims.owner == owner) {
            mine.count -= 1;
            if mine.count == 0 {
                claims.remove(&number);
            }
        }
    }

    fn hold(self: &Arc<Pool>, number: u32, owner: &str) -> Hold {
        Hold { pool: self.clone(), number, owner: owner.to_owned(), kept: false }
    }
}

/// The claim of a write under way.
pub(super) struct Hold {
    pool: Arc<Pool>,
    number: u32,
    owner: String,
    kept: bool,
}

impl Hold {
    /// The number.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// True if it is this number of this pool.
    pub(super) fn is(&self, pool: &Arc<Pool>, number: u32) -> bool {
        Arc::ptr_eq(&self.pool, pool) && self.number == number
    }

    /// The claim is now that of the stored object: it lasts until [`Pool::release`].
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.kept {
            self.pool.release(self.number, &self.owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_owner() {
        let pool = Pool::new(10..=12, 11);
        let hold = pool.claim(12, "a").expect("it is free");
        assert_eq!(pool.claim(12, "b").err(), Some(Refusal::Taken));
        assert_eq!(pool.claim(13, "b").err(), Some(Refusal::OutOfRange));
        drop(hold);
        pool.claim(12, "b").expect("it was given back").keep();
        pool.release(12, "a");
        assert_eq!(pool.claim(12, "c").err(), Some(Refusal::Taken));
        pool.release(12, "b");
        assert!(pool.claim(12, "c").is_ok());
    }

    #[test]
    fn what_one_write_gives_back_another_of_the_same_owner_may_hold() {
        let pool = Pool::new(10..=12, 11);
        pool.claim(12, "a").expect("it is free").keep();
        let hold = pool.claim(12, "a").expect("the owner may");
        pool.release(12, "a");
        assert_eq!(pool.claim(12, "b").err(), Some(Refusal::Taken));
        drop(hold);
        assert!(pool.claim(12, "b").is_ok());
    }

    #[test]
    fn high_numbers_go_first_and_then_all() {
        let pool = Pool::new(10..=13, 12);
        let mut taken = Vec::new();
        for random in [7, 8, 9, 10] {
            let hold = pool.take("a", random).expect("there are four");
            taken.push(hold.number());
            hold.keep();
        }
        assert_eq!(taken, [13, 12, 10, 11]);
        assert_eq!(pool.take("a", 0).err(), Some(Refusal::Full));
    }
}
