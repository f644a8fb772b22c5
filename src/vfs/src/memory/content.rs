//! The content of a file in memory: shared bytes that nobody changed, or pieces with holes between them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use bytes::Bytes;
use coracle_budget::Charge;

use super::stretches::Stretches;
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
    /// As it was projected.
    Shared(Box<Shown>),
    /// Nothing is stored beyond the first piece: most files are small, and need no tree of pieces.
    Small(Vec<u8>),
    Pieces(Box<Pieces>),
}

/// A file in pieces, by their numbers. Boxed where it is used: files are many and few of them large.
#[derive(Debug, Default)]
struct Pieces {
    /// A piece may be shorter than [`PIECE`]: the rest reads as zero.
    stored: BTreeMap<u64, Vec<u8>>,
    /// Those that are charged in full, whatever is stored of them: they are made when they are written to.
    reserved: Stretches,
}

/// Bytes of an API object, which many files and volumes show.
#[derive(Debug)]
struct Shown {
    data: Bytes,
    /// Theirs together: as long as one of them shows it, the object's old version cannot go.
    _held: Option<Arc<Charge>>,
}

impl Content {
    pub(super) const fn empty() -> Content {
        Content { size: 0, store: Store::Small(Vec::new()) }
    }

    /// Content that is shared until it is written to, with what its pod is charged for it.
    pub(super) fn shared(data: Bytes, held: Option<Arc<Charge>>, quota: &Quota) -> Result<Content, VfsError> {
        let bytes = data.len() as u64;
        quota.charge(bytes)?;
        Ok(Content { size: bytes, store: Store::Shared(Box::new(Shown { data, _held: held })) })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The bytes that are shared, if nobody has written yet.
    pub(super) fn as_shared(&self) -> Option<&Bytes> {
        match &self.store {
            Store::Shared(shown) => Some(&shown.data),
            Store::Small(_) | Store::Pieces(_) => None,
        }
    }

    /// Gives all charges back.
    pub(super) fn discard(&mut self, quota: &Quota) {
        match &mut self.store {
            Store::Shared(shown) => quota.release(shown.data.len() as u64),
            Store::Small(piece) => give_back(piece, 0, quota),
            Store::Pieces(pieces) => pieces.split_off(0).discard(quota),
        }
        *self = Content::empty();
    }

    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let count = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = &mut buffer[..count];
        if count == 0 {
            return 0;
        }
        match &self.store {
            Store::Shared(shown) => read_piece(&shown.data, start_of(offset), buffer),
            Store::Small(piece) => read_piece(piece, start_of(offset), buffer),
            Store::Pieces(pieces) => {
                let mut done = 0;
                while done < count {
                    let (number, start, length) = split(offset + done as u64, count - done);
                    let stored = pieces.stored.get(&number).map_or(&[][..], Vec::as_slice);
                    read_piece(stored, start, &mut buffer[done..done + length]);
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
        let mut done = 0;
        while done < data.len() {
            let (number, start, length) = split(offset + done as u64, data.len() - done);
            let written = match self.piece(number, quota) {
                Ok(piece) => write_piece(piece, start, &data[done..done + length], quota),
                Err(_) => 0,
            };
            if written == 0 {
                self.drop_empty(number, quota);
            }
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
        if size != self.size {
            self.unshare(quota)?;
        }
        if size < self.size {
            match &mut self.store {
                Store::Shared(_) => return Err(VfsError::NoSpace), // it is unshared
                Store::Small(piece) => cut(piece, start_of(size), quota),
                Store::Pieces(pieces) => {
                    let (number, start, _) = split(size, PIECE);
                    pieces.split_off(number + u64::from(start > 0)).discard(quota);
                    pieces.make(number);
                    if let Some(piece) = pieces.stored.get_mut(&number) {
                        cut(piece, start, quota);
                    }
                }
            }
        }
        self.size = size;
        Ok(())
    }

    /// Charges what is not stored from `offset` on, so that it can be written, all of it or nothing.
    pub(super) fn reserve(&mut self, offset: u64, length: u64, quota: &Quota) -> Result<(), VfsError> {
        let end = offset.checked_add(length).ok_or(VfsError::TooLarge)?;
        self.unshare(quota)?;
        match &mut self.store {
            Store::Shared(_) => return Err(VfsError::NoSpace), // it is unshared
            Store::Small(piece) if end <= PIECE as u64 => {
                let mut need = Need::default();
                need.up_to(Some(piece), start_of(end));
                need.charge(quota)?;
                fill(piece, start_of(end));
            }
            Store::Small(_) | Store::Pieces(_) => self.pieces(quota)?.reserve(offset, end, quota)?,
        }
        self.size = self.size.max(end);
        Ok(())
    }

    /// What is stored as pieces, turned into them if it is not shared.
    fn pieces(&mut self, quota: &Quota) -> Result<&mut Pieces, VfsError> {
        if let Store::Small(first) = &mut self.store {
            let mut pieces = Box::<Pieces>::default();
            if !first.is_empty() {
                quota.charge_pieces(1)?;
                pieces.stored.insert(0, std::mem::take(first));
            }
            self.store = Store::Pieces(pieces);
        }
        match &mut self.store {
            Store::Pieces(pieces) => Ok(pieces),
            Store::Shared(_) | Store::Small(_) => Err(VfsError::NoSpace), // it is none of them
        }
    }

    /// The piece of that number, made if there is none; an empty one that nothing is written to is to be dropped
    /// again.
    fn piece(&mut self, number: u64, quota: &Quota) -> Result<&mut Vec<u8>, VfsError> {
        if let Store::Small(_) = &self.store
            && number > 0
        {
            self.pieces(quota)?;
        }
        match &mut self.store {
            Store::Shared(_) => Err(VfsError::NoSpace), // it is unshared
            Store::Small(first) => Ok(first),
            Store::Pieces(pieces) => {
                pieces.make(number);
                match pieces.stored.entry(number) {
                    Entry::Occupied(piece) => Ok(piece.into_mut()),
                    Entry::Vacant(place) => {
                        quota.charge_pieces(1)?;
                        Ok(place.insert(Vec::new()))
                    }
                }
            }
        }
    }

    fn drop_empty(&mut self, number: u64, quota: &Quota) {
        if let Store::Pieces(pieces) = &mut self.store
            && pieces.stored.get(&number).is_some_and(Vec::is_empty)
        {
            pieces.stored.remove(&number);
            quota.release_pieces(1);
        }
    }

    /// Turns shared bytes into pieces. The bytes are charged to the limit already; the pod holds a copy from now on.
    fn unshare(&mut self, quota: &Quota) -> Result<(), VfsError> {
        let Store::Shared(shown) = &self.store else { return Ok(()) };
        let data = &shown.data;
        quota.hold(data.len() as u64)?;
        if data.len() <= PIECE {
            self.store = Store::Small(data.to_vec());
            return Ok(());
        }
        quota
            .charge_pieces(data.len().div_ceil(PIECE) as u64)
            .inspect_err(|_| quota.let_go(data.len() as u64))?;
        let stored = (0..).zip(data.chunks(PIECE)).map(|(number, piece)| (number, piece.to_vec())).collect();
        self.store = Store::Pieces(Box::new(Pieces { stored, ..Pieces::default() }));
        Ok(())
    }
}

impl Pieces {
    /// Makes a piece that is reserved, of zeros where nothing is stored; it is charged already.
    fn make(&mut self, number: u64) {
        if self.reserved.remove(number) {
            fill(self.stored.entry(number).or_default(), PIECE);
        }
    }

    /// Charges what is not stored between two offsets. Whole pieces are reserved; of those at the ends the part that
    /// is meant is stored, as zeros.
    fn reserve(&mut self, offset: u64, end: u64, quota: &Quota) -> Result<(), VfsError> {
        let (first, last) = (offset.div_ceil(PIECE as u64), end / PIECE as u64);
        let (head, tail) = (offset / PIECE as u64, split(end, 0).1);
        let mut ends = Vec::new();
        if head < first {
            ends.push((head, start_of(end - head * PIECE as u64).min(PIECE)));
        }
        if tail > 0 && last >= first {
            ends.push((last, tail));
        }
        ends.retain(|(number, _)| !self.reserved.contains(*number));
        let mut need = Need::default();
        for (number, length) in &ends {
            need.up_to(self.stored.get(number), *length);
        }
        if first < last {
            let whole = last - first - self.reserved.count_in(first, last);
            need.bytes += whole * PIECE as u64;
            need.memory += whole * PIECE as u64;
            need.pieces += whole;
            for (number, piece) in self.stored.range(first..last) {
                if !self.reserved.contains(*number) {
                    need.bytes -= piece.len() as u64;
                    need.memory -= piece.capacity() as u64;
                    need.pieces -= 1;
                }
            }
        }
        need.charge(quota)?;
        for (number, length) in ends {
            fill(self.stored.entry(number).or_default(), length);
        }
        self.reserved.insert(first, last);
        Ok(())
    }

    /// Takes out the pieces from this number on, with what is charged for them.
    fn split_off(&mut self, number: u64) -> Pieces {
        Pieces { stored: self.stored.split_off(&number), reserved: self.reserved.split_off(number) }
    }

    /// Gives all charges back.
    fn discard(self, quota: &Quota) {
        let mut count = self.reserved.count();
        quota.release(count * PIECE as u64);
        quota.let_go(count * PIECE as u64);
        for piece in self.stored.iter().filter(|(number, _)| !self.reserved.contains(**number)) {
            give_back(piece.1, 0, quota);
            count += 1;
        }
        quota.release_pieces(count);
    }
}

/// What is to be charged before something is stored.
#[derive(Default)]
struct Need {
    bytes: u64,
    memory: u64,
    pieces: u64,
}

impl Need {
    /// Adds what a piece needs to have this length; `None` for one that is not there.
    fn up_to(&mut self, piece: Option<&Vec<u8>>, length: usize) {
        let (have, room) = piece.map_or((0, 0), |piece| (piece.len(), piece.capacity()));
        self.bytes += length.saturating_sub(have) as u64;
        self.memory += length.saturating_sub(room) as u64;
        self.pieces += u64::from(piece.is_none());
    }

    /// Charges all of it or nothing.
    fn charge(&self, quota: &Quota) -> Result<(), VfsError> {
        quota.charge(self.bytes)?;
        quota.charge_pieces(self.pieces).inspect_err(|_| quota.release(self.bytes))?;
        quota.hold(self.memory).inspect_err(|_| {
            quota.release_pieces(self.pieces);
            quota.release(self.bytes);
        })
    }
}

/// The piece that holds `offset`, where in it, and how much of `length` is in it.
fn split(offset: u64, length: usize) -> (u64, usize, usize) {
    let start = usize::try_from(offset % PIECE as u64).expect("a remainder by PIECE fits usize");
    (offset / PIECE as u64, start, length.min(PIECE - start))
}

/// An offset into what is stored in one stretch; far beyond it if it does not fit.
fn start_of(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// Reads from one stretch; what is not stored is zero.
fn read_piece(stored: &[u8], start: usize, out: &mut [u8]) {
    let from = stored.get(start..).unwrap_or_default();
    let available = from.len().min(out.len());
    out[..available].copy_from_slice(&from[..available]);
    out[available..].fill(0);
}

/// Writes into one piece and says how much: less than all of `data` only if a limit ends.
fn write_piece(piece: &mut Vec<u8>, start: usize, data: &[u8], quota: &Quota) -> usize {
    let have = piece.len();
    let growth = (start + data.len()).saturating_sub(have);
    let granted = usize::try_from(quota.charge_some(growth as u64)).unwrap_or(growth);
    let end = if growth == 0 { start + data.len() } else { have + granted };
    let fits = if end > start { reserve_some(piece, start, end, quota) } else { 0 };
    if fits <= start {
        quota.release(granted as u64);
        return 0;
    }
    quota.release((end - fits) as u64);
    let end = fits;
    let data = &data[..data.len().min(end - start)];
    if start > have {
        piece.resize(start, 0);
    }
    let over = data.len().min(piece.len() - start);
    piece[start..start + over].copy_from_slice(&data[..over]);
    piece.extend_from_slice(&data[over..]);
    data.len()
}

/// Makes room for `needed` bytes: twice as much as there was for who goes on writing, or just that if the pod has
/// no more.
fn reserve(piece: &mut Vec<u8>, needed: usize, quota: &Quota) -> Result<(), VfsError> {
    let before = piece.capacity();
    if needed <= before {
        return Ok(());
    }
    let roomy = (before * 2).clamp(needed, PIECE);
    let target = match quota.hold((roomy - before) as u64) {
        Ok(()) => roomy,
        Err(_) => {
            quota.hold((needed - before) as u64)?;
            needed
        }
    };
    piece.reserve_exact(target - piece.len());
    Ok(())
}

/// Makes room for `needed` bytes, or for as many as the pod has memory for, and says for how many: a pod that is full
/// is full to the last byte, as a volume is, so that nobody who has a few bytes less to write finds room again. Takes
/// nothing that does not reach beyond `start`.
fn reserve_some(piece: &mut Vec<u8>, start: usize, needed: usize, quota: &Quota) -> usize {
    if reserve(piece, needed, quota).is_ok() {
        return needed;
    }
    let mut more = needed - piece.capacity();
    while more > 1 && piece.capacity() + more / 2 > start {
        more /= 2;
        if quota.hold(more as u64).is_ok() {
            piece.reserve_exact(piece.capacity() + more - piece.len());
            break;
        }
    }
    piece.capacity().min(needed)
}

/// Gives a piece this length, with zeros, if it is shorter. That is charged already.
fn fill(piece: &mut Vec<u8>, length: usize) {
    if length > piece.len() {
        piece.reserve_exact(length - piece.len());
        piece.resize(length, 0);
    }
}

/// Shortens a piece.
fn cut(piece: &mut Vec<u8>, length: usize, quota: &Quota) {
    if length < piece.len() {
        give_back(piece, length, quota);
        piece.truncate(length);
        piece.shrink_to(length);
    }
}

/// Gives back what a piece holds beyond its first `length` bytes.
fn give_back(piece: &Vec<u8>, length: usize, quota: &Quota) {
    quota.release((piece.len() - length) as u64);
    quota.let_go((piece.capacity() - length) as u64);
}

#[cfg(test)]
mod tests {
    use coracle_budget::Budget;
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Write { offset: u64, length: usize, byte: u8 },
        Resize(u64),
        Reserve { offset: u64, length: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        let end = 5 * PIECE as u64;
        prop_oneof![
            3 => (0..end, 1..2 * PIECE, 1..=255_u8)
                .prop_map(|(offset, length, byte)| Step::Write { offset, length, byte }),
            1 => (0..end).prop_map(Step::Resize),
            1 => (0..end, 1..end).prop_map(|(offset, length)| Step::Reserve { offset, length }),
        ]
    }

    proptest! {
        /// Behaves as a plain vector would, never charges more than its limit nor other than it stores, and
        /// gives all back.
        #[test]
        fn content_is_a_vector_under_a_quota(
            start in proptest::collection::vec(any::<u8>(), 0..100),
            steps in proptest::collection::vec(step(), 0..32),
        ) {
            let limit = 4 * PIECE as u64;
            let budget = Budget::new(None);
            let quota = Quota::of_pod(Some(limit), &budget);
            let mut content = Content::shared(Bytes::from(start.clone()), quota.apart(start.len() as u64).unwrap(), &quota).unwrap();
            let mut model = start;
            let mut promised: Vec<std::ops::Range<u64>> = Vec::new();
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
                        let all = promised.iter().any(|range| range.contains(&offset) && range.end >= offset + length as u64);
                        prop_assert!(written == length || !all, "what is reserved can be written");
                    }
                    Step::Resize(size) => {
                        content.set_size(size, &quota).unwrap();
                        model.resize(size as usize, 0);
                        promised.iter_mut().for_each(|range| range.end = range.end.min(size));
                    }
                    Step::Reserve { offset, length } => {
                        let before = (quota.bytes(), budget.used());
                        let reserved = content.reserve(offset, length, &quota);
                        if reserved.is_ok() {
                            model.resize(model.len().max((offset + length) as usize), 0);
                            promised.push(offset..offset + length);
                        } else {
                            // Only what is shared, or small, is turned into pieces.
                            prop_assert!(quota.bytes() == before.0 && budget.used() <= before.1 + 64 * 8);
                        }
                    }
                }
                prop_assert!(quota.bytes() <= limit);
                prop_assert!(budget.used() >= quota.bytes() && budget.used() <= 2 * limit);
                prop_assert_eq!(content.size(), model.len() as u64);
                let mut all = vec![7; model.len() + 10];
                prop_assert_eq!(content.read(0, &mut all), model.len());
                prop_assert_eq!(&all[..model.len()], &model[..]);
            }
            content.discard(&quota);
            prop_assert_eq!((quota.bytes(), budget.used()), (0, 0));
        }
    }
}
