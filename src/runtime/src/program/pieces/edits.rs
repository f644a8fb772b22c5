//! Changes to the bytes of a file, and where its bytes are afterwards.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use wasmparser::BinaryReader;

/// A section of a module or component, by positions in the file.
#[derive(Debug, Clone)]
pub(super) struct Section {
    pub(super) id: u8,
    /// Where it says how long it is.
    pub(super) size: Range<usize>,
    pub(super) body: Range<usize>,
}

/// Replacements, none of which overlap.
#[derive(Default)]
pub(super) struct Edits {
    all: Vec<Edit>,
    bytes: Vec<u8>,
}

struct Edit {
    /// What is replaced.
    old: Range<usize>,
    /// Where in [`Edits::bytes`] it is replaced by what.
    new: Range<usize>,
}

/// Where bytes of a changed file were before: by positions from which on they are so far apart, up to [`PLACES`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u32, u32)>", into = "Vec<(u32, u32)>")]
pub(crate) struct Moved(Vec<(u32, u32)>);

/// Positions that are remembered of a file: half a megabyte of the node's memory for as long as somebody runs it, and
/// less than a compiler's process may say. Of a file with more, which has tens of thousands of long operations, every
/// second, third and so on is remembered: what is between is found a few bytes beside where it was.
const PLACES: usize = 1 << 16;

impl Section {
    /// The section that begins at `at`.
    pub(super) fn read(file: &[u8], at: usize) -> wasmparser::Result<Section> {
        let mut reader = BinaryReader::new(&file[at..], at);
        let id = reader.read_u8()?;
        let (size, body) = sized(&mut reader)?;
        Ok(Section { id, size, body })
    }
}

/// Where the size of what follows is, and where that is.
pub(super) fn sized(reader: &mut BinaryReader<'_>) -> wasmparser::Result<(Range<usize>, Range<usize>)> {
    let at = reader.original_position();
    let size = reader.read_var_u32()? as usize;
    let start = reader.original_position();
    reader.read_bytes(size)?;
    Ok((at..start, start..start + size))
}

impl Edits {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Inserts bytes, and says how many.
    pub(super) fn insert(&mut self, at: usize, bytes: &[u8]) -> usize {
        self.replace(at..at, bytes);
        bytes.len()
    }

    /// Replaces a number, and says by how many bytes it is longer.
    pub(super) fn number(&mut self, old: Range<usize>, number: usize) -> usize {
        let mut bytes = [0_u8; MAX_NUMBER];
        let mut length = 0;
        let mut rest = number;
        // Linkers write some at their full length; none gets shorter.
        while rest > 0 || length < old.len() {
            bytes[length] = 0x80 | u8::try_from(rest & 0x7f).expect("seven bits");
            rest >>= 7;
            length += 1;
        }
        bytes[length - 1] &= 0x7f;
        let longer = length - old.len();
        self.replace(old, &bytes[..length]);
        longer
    }

    /// Says that what has its size at `size` is so much longer; by how much it is then, with its size.
    pub(super) fn grow(&mut self, size: &Range<usize>, body: &Range<usize>, grown: usize) -> usize {
        if grown == 0 { 0 } else { grown + self.number(size.clone(), body.len() + grown) }
    }

    fn replace(&mut self, old: Range<usize>, bytes: &[u8]) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.all.push(Edit { old, new: at..self.bytes.len() });
    }

    /// The changed file. What is inserted at the same place is there in the order in which it was.
    pub(super) fn apply(mut self, file: &[u8]) -> (Vec<u8>, Moved) {
        self.all.sort_by_key(|edit| edit.old.start);
        let mut new = Vec::with_capacity(file.len() + self.bytes.len());
        let (mut moved, mut at, mut by) = (Vec::new(), 0, 0);
        for edit in &self.all {
            new.extend_from_slice(&file[at..edit.old.start]);
            new.extend_from_slice(&self.bytes[edit.new.clone()]);
            at = edit.old.end;
            if new.len() - at != by {
                by = new.len() - at;
                moved.extend(u32::try_from(new.len()).ok().zip(u32::try_from(at).ok()));
            }
        }
        new.extend_from_slice(&file[at..]);
        let every = moved.len().div_ceil(PLACES).max(1);
        (new, Moved(moved.into_iter().step_by(every).collect()))
    }
}

/// Both as distances from those before, which are short to write.
impl From<Vec<(u32, u32)>> for Moved {
    fn from(mut places: Vec<(u32, u32)>) -> Moved {
        let mut at = (0_u32, 0_u32);
        for place in &mut places {
            at = (at.0.wrapping_add(place.0), at.1.wrapping_add(place.1));
            *place = at;
        }
        Moved(places)
    }
}

impl From<Moved> for Vec<(u32, u32)> {
    fn from(Moved(mut places): Moved) -> Vec<(u32, u32)> {
        let mut at = (0, 0);
        for place in &mut places {
            let next = *place;
            *place = (next.0.wrapping_sub(at.0), next.1.wrapping_sub(at.1));
            at = next;
        }
        places
    }
}

/// Bytes of the longest number of 32 bits.
const MAX_NUMBER: usize = 5;

impl Moved {
    /// Where what is at `new` was before. What was not there was where the next thing was.
    pub(crate) fn before(&self, new: usize) -> usize {
        let after = self.0.partition_point(|(its, _)| *its as usize <= new);
        let before =
            after.checked_sub(1).map_or(new, |at| self.0[at].1 as usize + new - self.0[at].0 as usize);
        self.0.get(after).map_or(before, |(_, next)| before.min(*next as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_found_where_they_were() {
        let mut edits = Edits::default();
        assert_eq!(edits.insert(6, b"xyz"), 3);
        assert_eq!(edits.number(2..3, 300), 1);
        assert_eq!(edits.number(8..9, 7), 0);
        let (new, moved) = edits.apply(b"ab2cdefg8i");
        assert_eq!(new, b"ab\xac\x02cdexyzfg\x07i");
        for (at, byte) in new.iter().enumerate() {
            let before = moved.before(at);
            match byte {
                b'a'..=b'i' => assert_eq!(b"ab2cdefg8i"[before], *byte, "{at}"),
                b'x'..=b'z' => assert_eq!(before, 6, "what is new stands before what it was put before"),
                _ => {}
            }
        }
        assert_eq!(Moved::default().before(17), 17);
    }

    #[test]
    fn numbers_keep_their_length() {
        #[track_caller]
        fn check(old: usize, number: usize, expected: &[u8]) {
            let mut edits = Edits::default();
            assert_eq!(edits.number(0..old, number), expected.len() - old);
            assert_eq!(edits.apply(&vec![0; old]).0, expected);
        }
        check(1, 0, &[0]);
        check(1, 127, &[127]);
        check(1, 128, &[0x80, 1]);
        check(5, 3, &[0x83, 0x80, 0x80, 0x80, 0]);
        check(5, u32::MAX as usize, &[0xff, 0xff, 0xff, 0xff, 0x0f]);
    }
}
