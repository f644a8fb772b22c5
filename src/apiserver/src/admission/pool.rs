//! A range of numbers that owners take and give back.
//!
//! Guarantees: a number has at most one owner; a number that was taken for an object that was never
//! stored is free again when its [`Hold`] is dropped.

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
    owners: Mutex<BTreeMap<u32, String>>,
}

impl Pool {
    pub(super) fn new(range: RangeInclusive<u32>, dynamic: u32) -> Arc<Pool> {
        Arc::new(Pool { range, dynamic, owners: Mutex::default() })
    }

    /// Takes this number. `Ok(None)` if the owner has it already.
    pub(super) fn claim(self: &Arc<Pool>, number: u32, owner: &str) -> Result<Option<Hold>, Refusal> {
        if !self.range.contains(&number) {
            return Err(Refusal::OutOfRange);
        }
        let mut owners = self.owners.lock();
        match owners.get(&number) {
            Some(other) if other == owner => Ok(None),
            Some(_) => Err(Refusal::Taken),
            None => {
                owners.insert(number, owner.to_owned());
                Ok(Some(self.hold(number, owner)))
            }
        }
    }

    /// Takes any number: the first free one from a place that `random` picks.
    pub(super) fn take(self: &Arc<Pool>, owner: &str, random: u64) -> Result<(u32, Hold), Refusal> {
        let mut owners = self.owners.lock();
        let (low, high) = (*self.range.start(), *self.range.end());
        let upper = self.dynamic.clamp(low, high);
        let span = u64::from(high - upper) + 1;
        let start = upper + u32::try_from(random % span).unwrap_or(0);
        let number = (start..=high)
            .chain(upper..start)
            .chain(low..upper)
            .find(|number| !owners.contains_key(number))
            .ok_or(Refusal::Full)?;
        owners.insert(number, owner.to_owned());
        Ok((number, self.hold(number, owner)))
    }

    /// Gives a number back, if this owner has it.
    pub(super) fn release(&self, number: u32, owner: &str) {
        let mut owners = self.owners.lock();
        if owners.get(&number).is_some_and(|o| o == owner) {
            owners.remove(&number);
        }
    }

    fn hold(self: &Arc<Pool>, number: u32, owner: &str) -> Hold {
        Hold { pool: Some(self.clone()), number, owner: owner.to_owned() }
    }
}

/// A number taken for an object that is not stored yet.
pub(super) struct Hold {
    pool: Option<Arc<Pool>>,
    number: u32,
    owner: String,
}

impl Hold {
    /// The object is stored: the number stays taken until [`Pool::release`].
    pub(super) fn keep(mut self) {
        self.pool = None;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.release(self.number, &self.owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_owner() {
        let pool = Pool::new(10..=12, 11);
        let hold = pool.claim(12, "a").ok().flatten().expect("it is free");
        assert!(pool.claim(12, "a").is_ok_and(|again| again.is_none()));
        assert_eq!(pool.claim(12, "b").err(), Some(Refusal::Taken));
        assert_eq!(pool.claim(13, "b").err(), Some(Refusal::OutOfRange));
        drop(hold);
        pool.claim(12, "b").expect("it was given back").expect("it is new").keep();
        pool.release(12, "a");
        assert_eq!(pool.claim(12, "c").err(), Some(Refusal::Taken));
    }

    #[test]
    fn high_numbers_go_first_and_then_all() {
        let pool = Pool::new(10..=13, 12);
        let mut taken = Vec::new();
        for random in [7, 8, 9, 10] {
            let (number, hold) = pool.take("a", random).expect("there are four");
            hold.keep();
            taken.push(number);
        }
        assert_eq!(taken, [13, 12, 10, 11]);
        assert_eq!(pool.take("a", 0).err(), Some(Refusal::Full));
    }
}
