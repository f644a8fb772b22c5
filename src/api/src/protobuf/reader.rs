//! The wire format: fields of a number and a payload, one after the other.

use std::borrow::Cow;

use super::{ProtobufError, malformed};

/// What a field carries. Borrowed: nothing is copied before it becomes JSON.
#[derive(Clone, Copy)]
pub(super) enum Payload<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
}

impl<'a> Payload<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], ProtobufError> {
        match self {
            Payload::Bytes(bytes) => Ok(bytes),
            Payload::Varint(_) => Err(wrong_type(0)),
            Payload::Fixed64(_) => Err(wrong_type(1)),
            Payload::Fixed32 => Err(wrong_type(5)),
        }
    }

    pub(super) fn text(self) -> Result<&'a str, ProtobufError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| malformed("a string is not UTF-8"))
    }

    pub(super) fn int(self) -> Result<i64, ProtobufError> {
        match self {
            Payload::Varint(value) => Ok(value.cast_signed()),
            Payload::Fixed64(_) => Err(wrong_type(1)),
            Payload::Fixed32 => Err(wrong_type(5)),
            Payload::Bytes(_) => Err(wrong_type(2)),
        }
    }

    pub(super) fn double(self) -> Result<f64, ProtobufError> {
        match self {
            Payload::Fixed64(bits) => Ok(f64::from_bits(bits)),
            Payload::Varint(_) => Err(wrong_type(0)),
            Payload::Fixed32 => Err(wrong_type(5)),
            Payload::Bytes(_) => Err(wrong_type(2)),
        }
    }
}

fn wrong_type(wire_type: u8) -> ProtobufError {
    ProtobufError::Malformed(Cow::Owned(format!("wrong wireType = {wire_type}")))
}

pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// The next field; `None` at the end.
    pub(super) fn field(&mut self) -> Result<Option<(u32, Payload<'a>)>, ProtobufError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|&number| number > 0);
        let number = number.ok_or_else(|| malformed("illegal tag"))?;
        let payload = match tag & 7 {
            0 => Payload::Varint(self.varint()?),
            1 => Payload::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| ProtobufError::Truncated)?;
                Payload::Bytes(self.take(length)?)
            }
            5 => {
                // No field of the table has 32 fixed bits: only skipped.
                self.take(4)?;
                Payload::Fixed32
            }
            wire_type => {
                return Err(ProtobufError::Malformed(Cow::Owned(format!("illegal wireType {wire_type}"))));
            }
        };
        Ok(Some((number, payload)))
    }

    /// The next number of a packed list; `None` at the end.
    pub(super) fn packed(&mut self) -> Result<Option<i64>, ProtobufError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        self.varint().map(|value| Some(value.cast_signed()))
    }

    fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0;
        for (index, &byte) in self.rest.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        Err(if self.rest.len() < 10 { ProtobufError::Truncated } else { malformed("integer overflow") })
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], ProtobufError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(ProtobufError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtobufError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(ProtobufError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }
}
