//! Frames of SPDY/3.1 and their bytes. Pure.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{
    SpdyError,
    headers::{Headers, Packer, Unpacker},
};

/// Longest control frame: a header block, packed. Data is passed on in pieces, however long its frame is.
const CONTROL_BYTES: usize = 16 << 10;
/// Longest piece of data that is passed on.
const PIECE_BYTES: usize = 64 << 10;
const VERSION: u16 = 3;
const HEADER: usize = 8;
const FIN: u8 = 1;
const STREAM: u32 = 0x7fff_ffff;

/// One frame. Frames of other types are skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    SynStream {
        stream: u32,
        headers: Headers,
        fin: bool,
    },
    SynReply {
        stream: u32,
        headers: Headers,
        fin: bool,
    },
    RstStream {
        stream: u32,
        status: u32,
    },
    Settings(Vec<(u32, u32)>),
    Ping(u32),
    GoAway {
        last: u32,
        status: u32,
    },
    Headers {
        stream: u32,
        headers: Headers,
        fin: bool,
    },
    WindowUpdate {
        stream: u32,
        delta: u32,
    },
    /// A data frame, or a piece of one: `fin` comes with the last.
    Data {
        stream: u32,
        data: Bytes,
        fin: bool,
    },
}

/// Makes bytes of frames.
pub(crate) struct Encoder(Packer);

impl Encoder {
    pub(crate) fn new() -> Encoder {
        Encoder(Packer::new())
    }

    pub(crate) fn encode(&mut self, frame: &Frame) -> Bytes {
        let mut out = BytesMut::new();
        match frame {
            Frame::SynStream { stream, headers, fin } => {
                let block = self.0.pack(headers);
                control(&mut out, 1, *fin, 10 + block.len());
                out.put_u32(*stream);
                out.put_u32(0); // not associated to another
                out.put_u16(0); // priority and slot
                out.put_slice(&block);
            }
            Frame::SynReply { stream, headers, fin } => {
                let block = self.0.pack(headers);
                control(&mut out, 2, *fin, 4 + block.len());
                out.put_u32(*stream);
                out.put_slice(&block);
            }
            Frame::RstStream { stream, status } => pair(&mut out, 3, *stream, *status),
            Frame::Settings(settings) => {
                control(&mut out, 4, false, 4 + 8 * settings.len());
                out.put_u32(settings.len() as u32);
                for (id, value) in settings {
                    out.put_u32(*id);
                    out.put_u32(*value);
                }
            }
            Frame::Ping(id) => {
                control(&mut out, 6, false, 4);
                out.put_u32(*id);
            }
            Frame::GoAway { last, status } => pair(&mut out, 7, *last, *status),
            Frame::Headers { stream, headers, fin } => {
                let block = self.0.pack(headers);
                control(&mut out, 8, *fin, 4 + block.len());
                out.put_u32(*stream);
                out.put_slice(&block);
            }
            Frame::WindowUpdate { stream, delta } => pair(&mut out, 9, *stream, *delta),
            Frame::Data { stream, data, fin } => {
                out.put_u32(*stream & STREAM);
                out.put_u32(u32::from(*fin) << 24 | data.len() as u32 & 0x00ff_ffff);
                out.put_slice(data);
            }
        }
        out.freeze()
    }
}

fn control(out: &mut BytesMut, kind: u16, fin: bool, length: usize) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32(u32::from(fin) << 24 | length as u32 & 0x00ff_ffff);
}

fn pair(out: &mut BytesMut, kind: u16, first: u32, second: u32) {
    control(out, kind, false, 8);
    out.put_u32(first);
    out.put_u32(second);
}

/// Makes frames of bytes, however they are cut.
pub(crate) struct Decoder {
    unpacker: Unpacker,
    buffer: BytesMut,
    /// The data frame that is being passed on: its stream, its flag, and what is still to come.
    data: Option<(u32, bool, usize)>,
}

impl Decoder {
    pub(crate) fn new() -> Decoder {
        Decoder { unpacker: Unpacker::new(), buffer: BytesMut::new(), data: None }
    }

    /// Takes in bytes; to be followed by [`Decoder::next`] until that says `None`, so that only the beginning of
    /// one frame is kept.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, if it is here.
    ///
    /// # Errors
    /// If that is not SPDY/3. The connection is of no more use then.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, SpdyError> {
        loop {
            if let Some((stream, fin, left)) = self.data.take() {
                if left > 0 && self.buffer.is_empty() {
                    self.data = Some((stream, fin, left));
                    return Ok(None);
                }
                let data = self.buffer.split_to(left.min(self.buffer.len()).min(PIECE_BYTES)).freeze();
                let left = left - data.len();
                if left > 0 {
                    self.data = Some((stream, fin, left));
                }
                return Ok(Some(Frame::Data { stream, data, fin: fin && left == 0 }));
            }
            let Some(mut header) = self.buffer.get(..HEADER) else { return Ok(None) };
            let (first, second) = (header.get_u32(), header.get_u32());
            let (flags, length) = ((second >> 24) as u8, (second & 0x00ff_ffff) as usize);
            if first & !STREAM == 0 {
                self.buffer.advance(HEADER);
                self.data = Some((first, flags & FIN != 0, length));
                continue;
            }
            if (first >> 16) as u16 & 0x7fff != VERSION {
                return Err(SpdyError("unsupported version"));
            }
            if length > CONTROL_BYTES {
                return Err(SpdyError("control frame is too long"));
            }
            if self.buffer.len() < HEADER + length {
                return Ok(None);
            }
            self.buffer.advance(HEADER);
            let content = self.buffer.split_to(length);
            if let Some(frame) = self.control(first as u16, flags & FIN != 0, &content)? {
                return Ok(Some(frame));
            }
        }
    }

    fn control(&mut self, kind: u16, fin: bool, mut content: &[u8]) -> Result<Option<Frame>, SpdyError> {
        let short = |_| SpdyError("control frame is cut off");
        let number = |content: &mut &[u8]| content.try_get_u32().map_err(short);
        let frame = match kind {
            1 => {
                let stream = number(&mut content)? & STREAM;
                number(&mut content)?;
                content.try_get_u16().map_err(short)?;
                Frame::SynStream { stream, headers: self.unpacker.unpack(content)?, fin }
            }
            2 => {
                let stream = number(&mut content)? & STREAM;
                Frame::SynReply { stream, headers: self.unpacker.unpack(content)?, fin }
            }
            3 => Frame::RstStream { stream: number(&mut content)? & STREAM, status: number(&mut content)? },
            4 => {
                let count = number(&mut content)?;
                let mut settings = Vec::new();
                for _ in 0..count {
                    // Flags come before the id.
                    settings.push((number(&mut content)? & 0x00ff_ffff, number(&mut content)?));
                }
                Frame::Settings(settings)
            }
            6 => Frame::Ping(number(&mut content)?),
            7 => Frame::GoAway { last: number(&mut content)? & STREAM, status: number(&mut content)? },
            8 => {
                let stream = number(&mut content)? & STREAM;
                Frame::Headers { stream, headers: self.unpacker.unpack(content)?, fin }
            }
            9 => {
                let stream = number(&mut content)? & STREAM;
                Frame::WindowUpdate { stream, delta: number(&mut content)? & STREAM }
            }
            _ => return Ok(None),
        };
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers() -> impl Strategy<Value = Headers> {
        prop::collection::vec(("[a-z-]{0,12}", ".{0,40}"), 0..6)
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let stream = 1..=STREAM;
        prop_oneof![
            (stream.clone(), headers(), any::<bool>()).prop_map(|(stream, headers, fin)| Frame::SynStream {
                stream,
                headers,
                fin
            }),
            (stream.clone(), headers(), any::<bool>()).prop_map(|(stream, headers, fin)| Frame::SynReply {
                stream,
                headers,
                fin
            }),
            (stream.clone(), headers(), any::<bool>()).prop_map(|(stream, headers, fin)| Frame::Headers {
                stream,
                headers,
                fin
            }),
            (stream.clone(), any::<u32>()).prop_map(|(stream, status)| Frame::RstStream { stream, status }),
            prop::collection::vec((0..0x00ff_ffff_u32, any::<u32>()), 0..4).prop_map(Frame::Settings),
            any::<u32>().prop_map(Frame::Ping),
            (stream.clone(), any::<u32>()).prop_map(|(last, status)| Frame::GoAway { last, status }),
            (stream.clone(), 0..=STREAM).prop_map(|(stream, delta)| Frame::WindowUpdate { stream, delta }),
            (stream, prop::collection::vec(any::<u8>(), 0..200), any::<bool>())
                .prop_map(|(stream, data, fin)| Frame::Data { stream, data: data.into(), fin }),
        ]
    }

    /// Puts the pieces of a data frame together again.
    fn joined(frames: Vec<Frame>) -> Vec<Frame> {
        let mut joined: Vec<Frame> = Vec::new();
        let mut open = false;
        for frame in frames {
            let length = matches!(&frame, Frame::Data { .. });
            match (joined.last_mut(), frame) {
                (
                    Some(Frame::Data { stream, data, fin }),
                    Frame::Data { stream: same, data: more, fin: end },
                ) if open && *stream == same => {
                    *data = [&data[..], &more[..]].concat().into();
                    *fin = end;
                }
                (_, frame) => joined.push(frame),
            }
            open = length;
        }
        joined
    }

    proptest! {
        #[test]
        fn frames_come_back_however_their_bytes_are_cut(
            frames in prop::collection::vec(frame(), 1..8),
            cut in 1_usize..50,
        ) {
            let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
            for frame in frames {
                let bytes = encoder.encode(&frame);
                let mut seen = Vec::new();
                for piece in bytes.chunks(cut) {
                    decoder.push(piece);
                    while let Some(frame) = decoder.next().unwrap() {
                        seen.push(frame);
                    }
                }
                prop_assert_eq!(joined(seen), vec![frame]);
            }
        }

        #[test]
        fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0_u8..12) {
            let mut decoder = Decoder::new();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next() {}
            let mut decoder = Decoder::new();
            decoder.push(&[0x80, 3, 0, kind, 0, 0, 0, bytes.len().min(255) as u8]);
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next() {}
        }
    }

    #[test]
    fn long_and_foreign_frames() {
        let mut decoder = Decoder::new();
        decoder.push(&[0x80, 2, 0, 6, 0, 0, 0, 4]);
        assert_eq!(decoder.next().unwrap_err().0, "unsupported version");
        let mut decoder = Decoder::new();
        decoder.push(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]);
        assert_eq!(decoder.next().unwrap_err().0, "control frame is too long");
        let mut decoder = Decoder::new();
        decoder.push(&[0x80, 3, 0, 99, 0, 0, 0, 1, 7, 0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 5]);
        assert_eq!(decoder.next().unwrap(), Some(Frame::Ping(5)), "what is unknown is skipped");
    }
}
