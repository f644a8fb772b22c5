//! Small containers for dense numbers.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

/// No value.
pub(super) const NONE: u32 = u32::MAX;

/// Things by a small number that is used again once its thing is gone.
#[derive(Clone, Debug)]
pub(super) struct Table<T> {
    slots: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Table<T> {
    /// The number that [`Table::insert`] will give next.
    pub(super) fn next(&self) -> u32 {
        self.free.last().copied().unwrap_or_else(|| index(self.slots.len()))
    }

    pub(super) fn insert(&mut self, thing: T) -> u32 {
        let number = self.next();
        match self.free.pop() {
            Some(number) => self.slots[number as usize] = Some(thing),
            None => self.slots.push(Some(thing)),
        }
        number
    }

    pub(super) fn remove(&mut self, number: u32) -> Option<T> {
        let thing = self.slots.get_mut(number as usize)?.take()?;
        self.free.push(number);
        Some(thing)
    }

    pub(super) fn get(&self, number: u32) -> Option<&T> {
        self.slots.get(number as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.slots.get_mut(number as usize)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.slots.iter().enumerate().filter_map(|(number, slot)| Some((index(number), slot.as_ref()?)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        let slots = self.slots.iter_mut().enumerate();
        slots.filter_map(|(number, slot)| Some((index(number), slot.as_mut()?)))
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

/// Tables are far smaller than this.
pub(super) fn index(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(NONE)
}

/// The entry of a list by number, which grows as needed.
pub(super) fn slot<T: Clone + Default>(list: &mut Vec<T>, number: u32) -> &mut T {
    let number = number as usize;
    if list.len() <= number {
        list.resize(number + 1, T::default());
    }
    &mut list[number]
}

/// The number in a list; nothing where the list ends before.
pub(super) fn at(list: &[u32], number: u32) -> u32 {
    list.get(number as usize).copied().unwrap_or(0)
}

/// A map from our own numbers, which nobody outside chooses.
pub(super) type Numbers<T> = HashMap<u32, T, BuildHasherDefault<Spread>>;

/// Spreads numbers over the slots of a map.
#[derive(Default)]
pub(super) struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        // An odd number near 2^64 divided by the golden ratio.
        self.0 = (self.0.rotate_left(5) ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 32;
    }
}
