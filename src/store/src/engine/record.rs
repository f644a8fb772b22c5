//! How entries lie in the engine's key space.
//!
//! ```text
//!  h                          head: format, revision, number of entries, sum of their checksums
//!  e <key> 00 <chunk: u16>    chunk 0: checksum, revision, create revision, length, first bytes
//!                             chunk n: the next bytes
//! ```
//!
//! Numbers are big endian. Values are cut into chunks of [`CHUNK`] bytes, because sled puts a tree
//! node that grows over an eighth of a megabyte into a file of its own, which it does not sync and
//! removes early.
//!
//! sled ends its recovery at the first thing it cannot read and calls that the end of the log. The
//! head is how we notice: it is part of every batch and must agree with all that was read.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use crate::{Entry, Revision};

/// The format of the folder. Raise it when anything here changes its meaning.
pub(crate) const FORMAT: u32 = 1;

/// Bytes of a value per record. sled splits a node above 16 records and merges those below 4 into
/// their neighbour: 21 records of this size and of the longest keys stay under 128 KiB.
pub(crate) const CHUNK: usize = 5 * 1024;

/// The key of the head.
pub(crate) const HEAD_KEY: &[u8] = b"h";

/// What all entry keys begin with.
const ENTRY: u8 = b'e';

/// Checksum, revision, create revision, length.
const HEADER: usize = 4 + 8 + 8 + 4;

/// What every batch says about the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) revision: Revision,
    pub(crate) entries: u64,
    /// The checksums of all entries, added up.
    pub(crate) sum: u64,
}

impl Head {
    pub(crate) fn add(&mut self, entry: &Entry) {
        self.entries += 1;
        self.sum = self.sum.wrapping_add(checksum(entry).into());
    }

    pub(crate) fn remove(&mut self, entry: &Entry) {
        self.entries -= 1;
        self.sum = self.sum.wrapping_sub(checksum(entry).into());
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(28);
        bytes.put_u32(FORMAT);
        bytes.put_u64(self.revision);
        bytes.put_u64(self.entries);
        bytes.put_u64(self.sum);
        bytes
    }

    /// `Err` has the format if it is not ours.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Option<Head>, u32> {
        let mut fields = Fields(bytes);
        match fields.u32() {
            None => return Ok(None),
            Some(FORMAT) => {}
            Some(other) => return Err(other),
        }
        let head = (|| Some(Head { revision: fields.u64()?, entries: fields.u64()?, sum: fields.u64()? }))();
        Ok(head.filter(|_| fields.0.is_empty()))
    }
}

/// The records of an entry.
pub(crate) fn encode(entry: &Entry) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    let value = entry.value();
    (0..chunks(value.len())).map(move |chunk| {
        let begin = usize::from(chunk) * CHUNK;
        let part = &value[begin..value.len().min(begin + CHUNK)];
        let mut record = Vec::with_capacity(HEADER + part.len());
        if chunk == 0 {
            record.put_u32(checksum(entry));
            record.put_u64(entry.revision());
            record.put_u64(entry.create_revision());
            record.put_u32(u32::try_from(value.len()).expect("values are bounded far below"));
        }
        record.extend_from_slice(part);
        (record_key(entry.key(), chunk), record)
    })
}

/// The keys of an entry's records.
pub(crate) fn keys(entry: &Entry) -> impl Iterator<Item = Vec<u8>> {
    (0..chunks(entry.value().len())).map(|chunk| record_key(entry.key(), chunk))
}

/// Puts entries together from their records, which come in key order.
#[derive(Default)]
pub(crate) struct Decoder {
    open: Option<Partial>,
}

struct Partial {
    key: Box<str>,
    next_chunk: u16,
    checksum: u32,
    revision: Revision,
    create_revision: Revision,
    length: usize,
    value: BytesMut,
}

impl Decoder {
    /// Takes a record, and gives the entry that it completes.
    pub(crate) fn push(&mut self, record_key: &[u8], record: &[u8]) -> Result<Option<Arc<Entry>>, String> {
        let (key, chunk) = split_key(record_key).ok_or_else(|| {
            format!("a record has the unknown key {:?}", String::from_utf8_lossy(record_key))
        })?;
        let torn = |what: &str| Err(format!("{what} of {key:?}"));
        let mut partial = match (self.open.take(), chunk) {
            (None, 0) => {
                let mut fields = Fields(record);
                let partial = (|| {
                    Some(Partial {
                        key: key.into(),
                        next_chunk: 0,
                        checksum: fields.u32()?,
                        revision: fields.u64()?,
                        create_revision: fields.u64()?,
                        length: usize::try_from(fields.u32()?).ok()?,
                        value: BytesMut::new(),
                    })
                })();
                let Some(mut partial) = partial else { return torn("the header is cut off") };
                partial.value.extend_from_slice(fields.0);
                partial
            }
            (Some(mut partial), _) if *partial.key == *key && partial.next_chunk == chunk => {
                partial.value.extend_from_slice(record);
                partial
            }
            _ => return torn("a piece is missing"),
        };
        partial.next_chunk += 1;
        if partial.value.len() < partial.length {
            self.open = Some(partial);
            return Ok(None);
        }
        let Partial { key, checksum: expected, revision, create_revision, length, value, .. } = partial;
        // Copied into a buffer of exactly the size, which is kept as long as the entry lives.
        let entry = Entry::new(key, Bytes::copy_from_slice(&value), create_revision, revision);
        if value.len() != length || checksum(&entry) != expected {
            return Err(format!("the checksum does not fit the value of {:?}", entry.key()));
        }
        Ok(Some(entry))
    }

    /// Says that there are no more records.
    pub(crate) fn finish(self) -> Result<(), String> {
        match self.open {
            Some(partial) => Err(format!("the last piece is missing of {:?}", partial.key)),
            None => Ok(()),
        }
    }
}

/// Number of records of a value with this many bytes; also an empty one has a header.
fn chunks(length: usize) -> u16 {
    u16::try_from(length.div_ceil(CHUNK).max(1)).expect("values are bounded far below")
}

fn record_key(key: &str, chunk: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(key.len() + 4);
    bytes.push(ENTRY);
    bytes.extend_from_slice(key.as_bytes());
    bytes.push(0);
    bytes.put_u16(chunk);
    bytes
}

fn split_key(record_key: &[u8]) -> Option<(&str, u16)> {
    let (key, chunk) = record_key.strip_prefix(&[ENTRY])?.split_last_chunk::<2>()?;
    let key = std::str::from_utf8(key.strip_suffix(&[0])?).ok()?;
    Some((key, u16::from_be_bytes(*chunk)))
}

fn checksum(entry: &Entry) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(entry.key().as_bytes());
    hasher.update(&entry.revision().to_be_bytes());
    hasher.update(&entry.create_revision().to_be_bytes());
    hasher.update(entry.value());
    hasher.finalize()
}

/// Reads numbers off the front of a slice.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u32(&mut self) -> Option<u32> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*head))
    }

    fn u64(&mut self) -> Option<u64> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*head))
    }
}
