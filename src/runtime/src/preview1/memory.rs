//! The guest's memory, as its pointers name it. Every pointer is a stranger's: what lies outside is `EFAULT`.

use coracle_vfs::PATH_MAX;

use super::abi::{Errno, Result};

/// Buffers of a list that one call goes through: Linux's `IOV_MAX`. What is left is for the next call, as with
/// any transfer that moved less than was asked for.
const BUFFERS: u32 = 1_024;

/// Bytes that one call moves: copying them takes some hundred microseconds, during which the guest can be
/// neither preempted nor killed. Programs loop anyway, as the interface allows any transfer to be short.
pub(super) const TRANSFER: usize = 1 << 20;

/// The memory during one call.
pub(super) struct GuestMemory<'a>(pub(super) &'a mut [u8]);

impl GuestMemory<'_> {
    pub(super) fn bytes(&self, at: u32, length: u32) -> Result<&[u8]> {
        self.0.get(at as usize..).and_then(|rest| rest.get(..length as usize)).ok_or(Errno::Fault)
    }

    pub(super) fn bytes_mut(&mut self, at: u32, length: u32) -> Result<&mut [u8]> {
        let rest = self.0.get_mut(at as usize..).ok_or(Errno::Fault)?;
        rest.get_mut(..length as usize).ok_or(Errno::Fault)
    }

    fn array<const N: usize>(&self, at: u32) -> Result<[u8; N]> {
        let bytes = self.0.get(at as usize..).and_then(|rest| rest.first_chunk());
        bytes.copied().ok_or(Errno::Fault)
    }

    pub(super) fn u8(&self, at: u32) -> Result<u8> {
        self.array::<1>(at).map(|[byte]| byte)
    }

    pub(super) fn u16(&self, at: u32) -> Result<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    pub(super) fn u32(&self, at: u32) -> Result<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&self, at: u32) -> Result<u64> {
        self.array(at).map(u64::from_le_bytes)
    }

    pub(super) fn put(&mut self, at: u32, bytes: &[u8]) -> Result<()> {
        let rest = self.0.get_mut(at as usize..).ok_or(Errno::Fault)?;
        rest.get_mut(..bytes.len()).ok_or(Errno::Fault)?.copy_from_slice(bytes);
        Ok(())
    }

    pub(super) fn put_u32(&mut self, at: u32, value: u32) -> Result<()> {
        self.put(at, &value.to_le_bytes())
    }

    pub(super) fn put_u64(&mut self, at: u32, value: u64) -> Result<()> {
        self.put(at, &value.to_le_bytes())
    }

    /// Whether a result fits here, before something is done that cannot be undone.
    pub(super) fn check(&self, at: u32, length: u32) -> Result<()> {
        self.bytes(at, length).map(drop)
    }

    /// A path, or a link's target.
    pub(super) fn path(&self, at: u32, length: u32) -> Result<&str> {
        let bytes = self.bytes(at, length)?;
        if bytes.len() > PATH_MAX {
            return Err(Errno::NameTooLong);
        }
        std::str::from_utf8(bytes).map_err(|_| Errno::Ilseq)
    }

    /// Goes through a list of buffers (`iovec`), leaving out the first `skip` bytes, and hands each to `step`,
    /// which says how much of it it used. Ends at the first that is not used up, at [`TRANSFER`] bytes, or at an
    /// error, which is told only if nothing was moved before.
    pub(super) fn transfer(
        &mut self,
        list: u32,
        count: u32,
        skip: usize,
        mut step: impl FnMut(&mut [u8]) -> Result<usize>,
    ) -> Result<usize> {
        let (mut skip, mut moved) = (skip, 0);
        for number in 0..count.min(BUFFERS) {
            let part = self.buffer(list, number).and_then(|(at, length)| {
                let buffer = self.bytes_mut(at, length)?;
                let left_out = skip.min(buffer.len());
                skip -= left_out;
                let buffer = &mut buffer[left_out..];
                let room = buffer.len().min(TRANSFER - moved);
                let used = if room == 0 { 0 } else { step(&mut buffer[..room])? };
                Ok((used, used < buffer.len()))
            });
            match part {
                Ok((used, short)) => {
                    moved += used;
                    if short {
                        break;
                    }
                }
                Err(_) if moved > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(moved)
    }

    /// All bytes of a list of buffers together.
    pub(super) fn length_of(&self, list: u32, count: u32) -> Result<usize> {
        (0..count.min(BUFFERS)).try_fold(0_usize, |sum, number| {
            let (at, length) = self.buffer(list, number)?;
            self.check(at, length)?;
            Ok(sum.saturating_add(length as usize))
        })
    }

    fn buffer(&self, list: u32, number: u32) -> Result<(u32, u32)> {
        let at = number.checked_mul(8).and_then(|offset| list.checked_add(offset)).ok_or(Errno::Fault)?;
        Ok((self.u32(at)?, self.u32(at.checked_add(4).ok_or(Errno::Fault)?)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_outside_is_a_fault() {
        #[track_caller]
        fn check(at: u32, length: u32, expected: Result<usize>) {
            let mut memory = [7; 64];
            let mut memory = GuestMemory(&mut memory);
            assert_eq!(memory.bytes(at, length).map(<[u8]>::len), expected);
            assert_eq!(memory.bytes_mut(at, length).map(|bytes| bytes.len()), expected);
            assert_eq!(memory.put(at, &vec![1; length.min(1_000) as usize]).is_ok(), expected.is_ok());
        }
        check(0, 0, Ok(0));
        check(0, 64, Ok(64));
        check(64, 0, Ok(0));
        check(65, 0, Err(Errno::Fault));
        check(60, 5, Err(Errno::Fault));
        check(u32::MAX, 1, Err(Errno::Fault));
        check(1, u32::MAX, Err(Errno::Fault));
        check(u32::MAX, u32::MAX, Err(Errno::Fault));
    }

    /// Lists of buffers, each `(pointer, length)`, over 4 KiB of memory.
    #[test]
    fn buffers_are_gone_through_in_order_and_within_bounds() {
        #[track_caller]
        fn check(buffers: &[(u32, u32)], skip: usize, takes: &[usize], expected: Result<usize>) {
            let mut memory = vec![0; 4_096];
            let mut memory = GuestMemory(&mut memory);
            for (number, (at, length)) in buffers.iter().enumerate() {
                memory.put_u32(8 * number as u32, *at).unwrap();
                memory.put_u32(8 * number as u32 + 4, *length).unwrap();
            }
            let mut takes = takes.iter();
            let moved = memory.transfer(0, buffers.len() as u32, skip, |buffer| {
                takes.next().map(|take| (*take).min(buffer.len())).ok_or(Errno::Again)
            });
            assert_eq!(moved, expected);
        }
        let all = usize::MAX;
        check(&[], 0, &[], Ok(0));
        check(&[(100, 0), (200, 0)], 0, &[], Ok(0));
        check(&[(100, 10), (200, 0), (300, 5)], 0, &[all, all], Ok(15));
        check(&[(100, 10), (300, 5)], 0, &[9, all], Ok(9));
        check(&[(100, 10), (300, 5)], 12, &[all], Ok(3));
        check(&[(100, 10), (300, 5)], 15, &[], Ok(0));
        check(&[(100, 10), (300, 5)], 0, &[all], Ok(10));
        check(&[(100, 10)], 0, &[], Err(Errno::Again));
        check(&[(100, 10), (4_090, 7)], 0, &[all, all], Ok(10));
        check(&[(4_090, 7), (100, 10)], 0, &[all, all], Err(Errno::Fault));
        check(&[(u32::MAX, 2)], 0, &[all], Err(Errno::Fault));
    }

    #[test]
    fn a_list_that_leaves_memory_is_a_fault() {
        let mut memory = vec![0; 64];
        let mut memory = GuestMemory(&mut memory);
        for (list, count) in [(60, 1), (u32::MAX, 1), (u32::MAX - 3, 1), (64, u32::MAX)] {
            assert_eq!(memory.transfer(list, count, 0, |_| Ok(0)), Err(Errno::Fault));
            assert_eq!(memory.length_of(list, count), Err(Errno::Fault));
        }
        assert_eq!(
            memory.transfer(0, u32::MAX, 0, |_| Ok(0)),
            Err(Errno::Fault),
            "its eighth entry is outside"
        );
    }

    #[test]
    fn paths_are_text_of_a_bounded_length() {
        let mut memory = vec![b'a'; 8_192];
        memory[0] = 0xff;
        let memory = GuestMemory(&mut memory);
        assert_eq!(memory.path(0, 1), Err(Errno::Ilseq));
        assert_eq!(memory.path(1, 4_095).map(str::len), Ok(4_095));
        assert_eq!(memory.path(1, 4_096), Err(Errno::NameTooLong));
        assert_eq!(memory.path(8_000, 4_000), Err(Errno::Fault));
    }
}
