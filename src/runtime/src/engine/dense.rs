//! The dense class: as many containers as memory has room for, at the price of explicit bounds checks.
//!
//! A container of the fast class takes five of the kernel's mappings, of which a process has 65,530 unless the host's
//! administrator raised that. Here memories and stacks are slots of a few mappings ([`super::arena`]).

use std::io;
use std::sync::Arc;

use wasmtime::{Config, InstanceAllocationStrategy};

use super::arena::{Arena, Guards, Memories, Stacks, page};
use super::{MAPPINGS_RESERVED, max_mappings};
use crate::executor::memory_limit;
use crate::limits::{ASYNC_STACK, MEMORIES, MEMORY_MAX};

/// Slots for memories: their size and how many there are at most, 56 TiB of address space together. A container's
/// memories lie in the smallest ones that its limit fits into, so that they never move: to copy a memory would make
/// all of its untouched pages resident. Untouched address space costs nothing.
const CLASSES: [(u64, u32); 6] = [
    (1 << 20, 1 << 18),
    (16 << 20, 1 << 18),
    (64 << 20, 1 << 17),
    (256 << 20, 1 << 17),
    (1 << 30, 1 << 12),
    (MEMORY_MAX, 1 << 11),
];

/// Containers of this class at most: half of the slots of the default memory limit, because a container may have two
/// memories.
const CONTAINERS: u32 = 1 << 16;

/// Mappings of the kernel that a stack's guard takes before Linux 6.13.
const MAPPINGS_PER_GUARD: u32 = 2;

/// How many containers fit.
pub(super) fn capacity(wanted: u32, guards: Guards) -> u32 {
    let mappings = match guards {
        Guards::Light => None,
        Guards::Mapped => Some(max_mappings()),
    };
    fits(wanted, mappings)
}

fn fits(wanted: u32, mappings: Option<u32>) -> u32 {
    let by_mappings = mappings.map_or(u32::MAX, |most| {
        // Some more stacks than containers, see `stacks`.
        most.saturating_sub(MAPPINGS_RESERVED) / MAPPINGS_PER_GUARD / 9 * 8
    });
    wanted.clamp(1, by_mappings.clamp(1, CONTAINERS))
}

/// Gives an engine for `containers` its memory.
///
/// # Errors
/// If the kernel does not give the address space, for example because it does not overcommit.
pub(super) fn configure(config: &mut Config, containers: u32, guards: Guards) -> io::Result<()> {
    // Two memories each, and some with more.
    let memories = containers.saturating_mul(2).saturating_add(containers / 4).saturating_add(MEMORIES);
    let classes = CLASSES.iter().map(|(size, most)| {
        let size = usize::try_from(*size).expect("guests need a 64-bit host");
        Arena::new(size, memories.min(*most))
    });
    let classes = classes.collect::<io::Result<Vec<_>>>()?;
    // The engine does not say whose memory it wants, but it wants it on the thread whose turn needs it.
    let limit = || usize::try_from(memory_limit()).unwrap_or(usize::MAX);
    let arena =
        Arena::new((ASYNC_STACK + page()).next_multiple_of(page()), containers + containers / 8 + 16)?;
    config
        .allocation_strategy(InstanceAllocationStrategy::OnDemand)
        .with_host_memory(Arc::new(Memories { classes, limit }))
        .with_host_stack(Arc::new(Stacks { arena, guards }));
    Ok(())
}

/// What of the dense class decides about compiled code: memories without guards and of any address.
pub(super) fn settings(config: &mut Config) {
    config
        .memory_init_cow(false)
        .memory_reservation(0)
        .memory_reservation_for_growth(0)
        .memory_guard_size(0)
        .guard_before_linear_memory(false);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_fit_as_there_are_slots_and_mappings() {
        #[track_caller]
        fn check(wanted: u32, mappings: Option<u32>, expected: u32) {
            assert_eq!(fits(wanted, mappings), expected);
        }
        check(50_000, None, 50_000);
        check(1_000_000, None, 65_536);
        check(0, None, 1);
        check(50_000, Some(65_530), 24_680);
        check(50_000, Some(1_000_000), 50_000);
        check(50_000, Some(5), 1);
        let space: u64 = CLASSES.iter().map(|(size, most)| size * u64::from(*most)).sum();
        assert!(space <= 60 << 40, "{} TiB", space >> 40);
    }
}
