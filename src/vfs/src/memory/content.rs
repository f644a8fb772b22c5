//! The content of a file in memory: shared bytes that nobody changed, or pieces with holes between them.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::error::VfsError;
use crate::quota::Quota;

/// Longest piece, in bytes. Larger ones copy faster, smaller ones waste less on sparse files; this is four
/// pages, and a file that is written from start to end has one piece per 16 KiB.
const PIECE: usize = 16 << 10;

/// A file's bytes. What is stored is charged to the quota; holes are free.
#[derive(Debug)]
pub(super) struct Content {
    size: u64,
    store: Store,
}

#[derive(Debug)]
enum Store {
    /// As it was projected; the API object's own bytes.
    Shared(Bytes),
    /// By number of piece. A piece may be shorter than [`PIECE`]: the rest reads as zero.
    Pieces(BTreeMap<u64, Vec<u8>>),
}

impl Content {
    pub(super) fn empty() -> Content {
        Content { size: 0, store: Store::Pieces(BTreeMap::new()) }
    }

    /// Content that is shared until it is written to.
    pub(super) fn shared(data: Bytes, quota: &Quota) -> Result<Content, VfsError> {
        quota.charge(data.len() as u64)?;
        Ok(Content { size: data.len() as u64, store: Store::Shared(data) })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Gives all charges back.
    pub(super) fn discard(&mut self, quota: &Quota) {
        match &self.store {
            Store::Shared(data) => quota.release(data.len() as u64),
            Store::Pieces(pieces) => {
                quota.release(pieces.values().map(|piece| piece.len() as u64).sum());
                quota.release_pieces(pieces.len() as u64);
            }
        }
        *self = Content::empty();
    }

    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let count = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = &mut buffer[..count];
        match &self.store {
            Store::Shared(data) => {
                if let Ok(start) = usize::try_from(offset)
                    && count > 0
                {
                    buffer.copy_from_slice(&data[start..start + count]);
                }
            }
            Store::Pieces(pieces) => {
                let mut done = 0;
                while done < count {
                    let (number, start, length) = split(offset + done as u64, count - done);
                    let out = &mut buffer[done..done + length];
                    let stored = pieces.get(&number).map_or(&[][..], Vec::as_slice);
                    let from = stored.get(start..).unwrap_or_default();
                    let available = from.len().min(length);
                    out[..available].copy_from_slice(&from[..available]);
                    out[available..].fill(0);
                    done += length;
                }
            }
        }
        count
    }

    /// Writes as much as the quota allows.
    ///
    /// # Errors
    /// [`VfsError::NoSpace`] if not one byte fits.
    pub(super) fn write(&mut self, offset: u64, data: &[u8], quota: &Quota) -> Result<usize, VfsError> {
        self.unshare(quota)?;
        let Store::Pieces(pieces) = &mut self.store else { return Err(VfsError::NoSpace) };
        let mut done = 0;
        while done < data.len() {
            let (number, start, length) = split(offset + done as u64, data.len() - done);
            let written = write_piece(pieces, number, start, &data[done..done + length], quota);
            done += written;
            if written < length {
                break;
            }
        }
        if done == 0 && !data.is_empty() {
            return Err(VfsError::NoSpace);
        }
        self.size = self.size.max(offset + done as u64);
        Ok(done)
    }

    pub(super) fn set_size(&mut self, size: u64, quota: &Quota) -> Result<(), VfsError> {
        if size == 0 {
            self.discard(quota);
            return Ok(());
        }
        if size < self.size {
            self.unshare(quota)?;
            let Store::Pieces(pieces) = &mut self.store else { return Err(VfsError::NoSpace) };
            let (number, start, _) = split(size, PIECE);
            let mut gone = pieces.split_off(&number);
            if start > 0
                && let Some(mut piece) = gone.remove(&number)
            {
                quota.release(piece.len().saturating_sub(start) as u64);
                piece.truncate(start);
                piece.shrink_to_fit();
                pieces.insert(number, piece);
            }
            quota.release(gone.values().map(|piece| piece.len() as u64).sum());
            quota.release_pieces(gone.len() as u64);
        } else if size > self.size {
            self.unshare(quota)?;
        }
        self.size = size;
        Ok(())
    }

    /// Turns shared bytes into pieces. The bytes are charged already; only the pieces are new.
    fn unshare(&mut self, quota: &Quota) -> Result<(), VfsError> {
        let Store::Shared(data) = &self.store else { return Ok(()) };
        let mut pieces = BTreeMap::new();
        for (number, piece) in (0..).zip(data.chunks(PIECE)) {
            if quota.charge_piece().is_err() {
                quota.release_pieces(number);
                return Err(VfsError::NoSpace);
            }
            pieces.insert(number, piece.to_vec());
        }
        self.store = Store::Pieces(pieces);
        Ok(())
    }
}

/// The piece that holds `offset`, where in it, and how much of `length` is in it.
fn split(offset: u64, length: usize) -> (u64, usize, usize) {
    let start = usize::try_from(offset % PIECE as u64).expect("a remainder by PIECE fits usize");
    (offset / PIECE as u64, start, length.min(PIECE - start))
}

/// Writes into one piece and says how much: less than all of `data` only if the quota ends.
fn write_piece(
    pieces: &mut BTreeMap<u64, Vec<u8>>,
    number: u64,
    start: usize,
    data: &[u8],
    quota: &Quota,
) -> usize {
    let stored = pieces.get(&number).map(Vec::len);
    let have = stored.unwrap_or(0);
    let growth = (start + data.len()).saturating_sub(have);
    let granted = usize::try_from(quota.charge_some(growth as u64)).unwrap_or(growth);
    let end = if growth == 0 { start + data.len() } else { have + granted };
    if end <= start || (stored.is_none() && quota.charge_piece().is_err()) {
        quota.release(granted as u64);
        return 0;
    }
    let data = &data[..data.len().min(end - start)];
    let piece = pieces.entry(number).or_default();
    let needed = end.max(have);
    if needed > piece.capacity() {
        let target = (piece.capacity() * 2).clamp(needed, PIECE.max(needed));
        piece.reserve_exact(target - piece.len());
    }
    if piece.len() < needed {
        piece.resize(needed, 0);
    }
    piece[start..start + data.len()].copy_from_slice(data);
    data.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Write { offset: u64, length: usize, byte: u8 },
        Resize(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let end = 5 * PIECE as u64;
        prop_oneof![
            3 => (0..end, 1..2 * PIECE, 1..=255_u8)
                .prop_map(|(offset, length, byte)| Step::Write { offset, length, byte }),
            1 => (0..end).prop_map(Step::Resize),
        ]
    }

    proptest! {
        /// Behaves as a plain vector would, never charges more than its limit nor other than it stores, and
        /// gives all back.
        #[test]
        fn content_is_a_vector_under_a_quota(
            start in proptest::collection::vec(any::<u8>(), 0..100),
            steps in proptest::collection::vec(step(), 0..24),
        ) {
            let limit = 4 * PIECE as u64;
            let quota = Quota::new(Some(limit));
            let mut content = Content::shared(Bytes::from(start.clone()), &quota).unwrap();
            let mut model = start;
            for step in steps {
                match step {
                    Step::Write { offset, length, byte } => {
                        let written = content.write(offset, &vec![byte; length], &quota).unwrap_or(0);
                        let end = offset as usize + written;
                        if written > 0 {
                            model.resize(model.len().max(end), 0);
                            model[offset as usize..end].fill(byte);
                        }
                        prop_assert!(written == length || quota.bytes() == limit || written == 0);
                    }
                    Step::Resize(size) => {
                        content.set_size(size, &quota).unwrap();
                        model.resize(size as usize, 0);
                    }
                }
                prop_assert!(quota.bytes() <= limit);
                prop_assert_eq!(content.size(), model.len() as u64);
                let mut all = vec![7; model.len() + 10];
                prop_assert_eq!(content.read(0, &mut all), model.len());
                prop_assert_eq!(&all[..model.len()], &model[..]);
            }
            content.discard(&quota);
            prop_assert_eq!(quota.bytes(), 0);
        }
    }
}
