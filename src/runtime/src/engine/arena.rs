//! Slots for linear memories and stacks in a few large mappings, so that a container takes none of the kernel's
//! mappings for itself.
//!
//! The only file of the engine with `unsafe` code. What makes it sound: a slot belongs to one owner between
//! [`Arena::take`] and the drop of that owner; every slot is readable, writable and zero when it is taken; nobody but
//! its owner computes an address in it.

#![expect(unsafe_code, reason = "the engine is given memory that we manage")]

use std::io;
use std::ops::Range;
use std::ptr;
use std::sync::Arc;

use parking_lot::Mutex;
use wasmtime::{LinearMemory, MemoryCreator, MemoryType, StackCreator, StackMemory};

/// `MADV_GUARD_INSTALL`: pages that fault when touched, without a mapping of their own. Linux has it since 6.13.
const GUARD_INSTALL: libc::c_int = 102;

/// Equal slots in one mapping of address space. Pages exist when they are touched.
pub(super) struct Arena {
    base: usize,
    stride: usize,
    slots: u32,
    free: Mutex<Free>,
}

/// The slots that nobody has.
struct Free {
    /// The one given back last is taken first: its page tables are there.
    used: Vec<u32>,
    /// From here on no slot was ever taken.
    fresh: u32,
}

/// A slot of an arena. Its owner gives it back zeroed.
struct Slot {
    arena: Arc<Arena>,
    index: u32,
    /// It was never taken before.
    fresh: bool,
}

impl Arena {
    /// Reserves the address space; `stride` is a multiple of [`page`].
    ///
    /// # Errors
    /// If the kernel does not give it.
    pub(super) fn new(stride: usize, slots: u32) -> io::Result<Arc<Arena>> {
        let too_large = || io::Error::from(io::ErrorKind::OutOfMemory);
        let length = stride.checked_mul(slots as usize).ok_or_else(too_large)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base =
            unsafe { libc::mmap(ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // Huge pages would make a guest that touches one byte hold two megabytes.
        // SAFETY: advice on the mapping just made; it changes no contents.
        unsafe { libc::madvise(base, length, libc::MADV_NOHUGEPAGE) };
        let free = Mutex::new(Free { used: Vec::new(), fresh: 0 });
        Ok(Arc::new(Arena { base: base.expose_provenance(), stride, slots, free }))
    }

    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    fn take(self: &Arc<Self>) -> Option<Slot> {
        let mut free = self.free.lock();
        let (index, fresh) = match free.used.pop() {
            Some(index) => (index, false),
            None if free.fresh < self.slots => {
                free.fresh += 1;
                (free.fresh - 1, true)
            }
            None => return None,
        };
        Some(Slot { arena: Arc::clone(self), index, fresh })
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let base = ptr::with_exposed_provenance_mut(self.base);
        // SAFETY: the mapping is ours, and slots hold their arena, so none is left.
        unsafe { libc::munmap(base, self.stride * self.slots as usize) };
    }
}

impl Slot {
    fn start(&self) -> usize {
        self.arena.base + self.arena.stride * self.index as usize
    }

    fn at(&self, offset: usize) -> *mut u8 {
        ptr::with_exposed_provenance_mut(self.start() + offset)
    }

    /// Gives it back, with the pages of `range`, which are all that may have been touched.
    fn give_back(&mut self, range: Range<usize>) {
        // SAFETY: the range lies in the slot, which has no owner any more. Private anonymous pages are zero
        // when they are touched the next time.
        let zeroed = range.is_empty()
            || unsafe { libc::madvise(self.at(range.start).cast(), range.len(), libc::MADV_DONTNEED) } == 0;
        // One that could hold what somebody left there is not used again.
        if zeroed {
            self.arena.free.lock().used.push(self.index);
        }
    }
}

/// What is said if there is no slot for a memory. The engine takes nothing but a text, so that it is told by its
/// beginning.
pub(super) const NO_MEMORY: &str = "no address space is left";

/// There is no slot for a stack.
#[derive(Debug, thiserror::Error)]
#[error("no stack is left")]
pub(super) struct NoStack;

/// Linear memories in slots of several sizes.
pub(super) struct Memories {
    /// By size, the smallest first.
    pub(super) classes: Vec<Arc<Arena>>,
    /// The size that a memory made on this thread now may grow to.
    pub(super) limit: fn() -> usize,
}

/// A linear memory: the beginning of a slot.
struct Memory {
    slot: Slot,
    size: usize,
}

// SAFETY: each memory has a slot of its own, which is zero, aligned to pages, and as large as `byte_capacity` says. There
// is no guard region, and the configuration that these are used with has none, so that compiled code checks bounds.
unsafe impl MemoryCreator for Memories {
    fn new_memory(
        &self,
        _type: MemoryType,
        minimum: usize,
        _maximum: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        if guard != 0 || reserved.is_some_and(|reserved| reserved != 0) {
            return Err("these memories have no guard region".into());
        }
        let wanted = (self.limit)().max(minimum);
        let mut classes = self.classes.iter().filter(|class| class.stride() >= wanted);
        match classes.find_map(Arena::take) {
            Some(slot) => Ok(Box::new(Memory { slot, size: minimum })),
            None => Err(format!("{NO_MEMORY} for a memory of up to {wanted} bytes")),
        }
    }
}

// SAFETY: as above; the address never changes, and the size grows within the slot alone.
unsafe impl LinearMemory for Memory {
    fn byte_size(&self) -> usize {
        self.size
    }

    fn byte_capacity(&self) -> usize {
        self.slot.arena.stride()
    }

    fn grow_to(&mut self, size: usize) -> wasmtime::Result<()> {
        if size > self.byte_capacity() {
            return Err(wasmtime::format_err!(
                "a memory of {} bytes cannot grow to {size}",
                self.byte_capacity()
            ));
        }
        self.size = self.size.max(size);
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.slot.at(0)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let used = self.size.next_multiple_of(page()).min(self.slot.arena.stride());
        self.slot.give_back(0..used);
    }
}

/// How pages are made to fault when they are touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guards {
    /// They take no mapping of their own.
    Light,
    /// Each takes two of the kernel's mappings: what kernels do that have no better way.
    Mapped,
}

impl Guards {
    /// The best that this kernel has.
    pub(crate) fn of_kernel() -> Guards {
        let slot = Arena::new(page(), 1).ok().and_then(|arena| arena.take());
        if slot.is_some_and(|slot| guard_lightly(&slot)) { Guards::Light } else { Guards::Mapped }
    }
}

/// Stacks in slots whose lowest page cannot be touched.
pub(super) struct Stacks {
    pub(super) arena: Arc<Arena>,
    pub(super) guards: Guards,
}

/// A stack: a slot without its lowest page.
struct Stack(Slot);

// SAFETY: each stack has a slot of its own, which is zero and aligned to pages, and below it a page that faults.
unsafe impl StackCreator for Stacks {
    fn new_stack(&self, size: usize, _zeroed: bool) -> wasmtime::Result<Box<dyn StackMemory>> {
        let most = self.arena.stride() - page();
        if size > most {
            return Err(wasmtime::format_err!("stacks have at most {most} bytes"));
        }
        let Some(slot) = self.arena.take() else {
            return Err(wasmtime::Error::new(NoStack));
        };
        if slot.fresh {
            // On failure the slot is neither used nor given back: nobody must take it for guarded.
            guard(&slot, self.guards)
                .map_err(|error| wasmtime::format_err!("no guard for a stack: {error}"))?;
        }
        Ok(Box::new(Stack(slot)))
    }
}

// SAFETY: as above.
unsafe impl StackMemory for Stack {
    fn top(&self) -> *mut u8 {
        self.0.at(self.0.arena.stride())
    }

    fn range(&self) -> Range<usize> {
        self.0.start() + page()..self.0.start() + self.0.arena.stride()
    }

    fn guard_range(&self) -> Range<*mut u8> {
        self.0.at(0)..self.0.at(page())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.0.give_back(page()..self.0.arena.stride());
    }
}

/// Makes the lowest page of a slot fault, for ever.
fn guard(slot: &Slot, guards: Guards) -> io::Result<()> {
    if guards == Guards::Light && guard_lightly(slot) {
        return Ok(());
    }
    // SAFETY: the page is the slot's own, and nothing lies in it.
    match unsafe { libc::mprotect(slot.at(0).cast(), page(), libc::PROT_NONE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The same without a mapping, if the kernel can; true if it did.
fn guard_lightly(slot: &Slot) -> bool {
    // SAFETY: the page is the slot's own, and nothing lies in it.
    unsafe { libc::madvise(slot.at(0).cast(), page(), GUARD_INSTALL) == 0 }
}

/// The size of a page.
pub(crate) fn page() -> usize {
    // SAFETY: it asks for a number.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4_096)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads or writes a byte of a slot, as compiled code would.
    fn byte(slot: *mut u8, offset: usize) -> &'static mut u8 {
        // SAFETY: the callers keep within slots that they own, one reference at a time.
        unsafe { &mut *slot.add(offset) }
    }

    fn memories(limit: fn() -> usize) -> Memories {
        let classes = [(1 << 20, 2), (4 << 20, 2)];
        let classes = classes.map(|(stride, slots)| Arena::new(stride, slots).unwrap());
        Memories { classes: classes.to_vec(), limit }
    }

    fn new(memories: &Memories, minimum: usize) -> Result<Box<dyn LinearMemory>, String> {
        memories.new_memory(MemoryType::new(1, None), minimum, None, None, 0)
    }

    #[test]
    fn a_memory_is_zero_again_for_the_next() {
        let memories = memories(|| 0);
        let mut first = new(&memories, 65_536).unwrap();
        first.grow_to(1 << 20).unwrap();
        let place = first.as_ptr();
        for offset in [0, 65_535, (1 << 20) - 1] {
            assert_eq!(*byte(place, offset), 0);
            *byte(place, offset) = 7;
        }
        assert!(first.grow_to((1 << 20) + 1).is_err(), "it never moves");
        let other = new(&memories, 65_536).unwrap();
        assert_ne!(other.as_ptr(), place);
        drop(first);
        let second = new(&memories, 65_536).unwrap();
        assert_eq!((second.as_ptr(), second.byte_size()), (place, 65_536));
        for offset in [0, 65_535, (1 << 20) - 1] {
            assert_eq!(*byte(place, offset), 0);
        }
    }

    #[test]
    fn slots_are_as_large_as_the_limit_and_bounded() {
        let large = memories(|| 2 << 20);
        let one = new(&large, 0).unwrap();
        assert_eq!(one.byte_capacity(), 4 << 20);
        let _two = new(&large, 0).unwrap();
        assert!(new(&large, 0).is_err_and(|error| error.contains("no address space is left")));
        drop(one);
        assert!(new(&large, 0).is_ok());
        let small = memories(|| 0);
        let all: Vec<_> = (0..4).map(|_| new(&small, 10).unwrap().byte_capacity()).collect();
        assert_eq!(all, [1 << 20; 4], "given back each time");
        let held: Vec<_> = (0..4).map(|_| new(&small, 10).unwrap()).collect();
        assert_eq!(held.iter().map(|one| one.byte_capacity()).max(), Some(4 << 20), "a larger one will do");
        assert!(new(&small, 10).is_err());
        assert!(small.new_memory(MemoryType::new(1, None), 0, None, None, 4_096).is_err());
    }

    #[test]
    fn stacks_are_zero_guarded_and_bounded() {
        check_stacks(Guards::of_kernel());
        check_stacks(Guards::Mapped);
    }

    #[track_caller]
    fn check_stacks(guards: Guards) {
        let stacks = Stacks { arena: Arena::new(16 * page(), 2).unwrap(), guards };
        assert!(stacks.new_stack(16 * page(), false).is_err(), "no room for the guard");
        let one = stacks.new_stack(15 * page(), false).unwrap();
        let two = stacks.new_stack(page(), true).unwrap();
        assert!(stacks.new_stack(page(), false).is_err());
        let (range, guard) = (one.range(), one.guard_range());
        assert_eq!((range.len(), guard.end.addr(), range.end), (15 * page(), range.start, one.top().addr()));
        *byte(one.top().wrapping_sub(1), 0) = 9;
        assert_faults(guard.start.addr());
        assert_faults(guard.end.addr() - 1);
        assert_eq!(is_mapped_alone(&guard), guards == Guards::Mapped, "{guards:?}");
        let top = one.top();
        drop(one);
        let again = stacks.new_stack(page(), false).unwrap();
        assert_eq!((again.top(), *byte(top.wrapping_sub(1), 0)), (top, 0));
        assert_faults(again.guard_range().start.addr());
        drop((two, again));
    }

    /// The kernel lists a mapping of this range alone that nobody may read or write.
    fn is_mapped_alone(range: &Range<*mut u8>) -> bool {
        let line = format!("{:x}-{:x} ---p ", range.start.addr(), range.end.addr());
        std::fs::read_to_string("/proc/self/maps").unwrap().lines().any(|mapping| mapping.starts_with(&line))
    }

    /// The kernel refuses to read there on our behalf.
    #[track_caller]
    fn assert_faults(address: usize) {
        let (read, write) = io::pipe().unwrap();
        use std::os::fd::AsRawFd;
        // SAFETY: a system call that answers an error where memory cannot be read.
        let wrote =
            unsafe { libc::write(write.as_raw_fd(), ptr::with_exposed_provenance::<u8>(address).cast(), 1) };
        assert_eq!((wrote, io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EFAULT)));
        drop(read);
    }
}
