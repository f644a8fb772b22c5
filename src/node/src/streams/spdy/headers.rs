//! Header blocks of SPDY/3: names and values, compressed by zlib with a dictionary that both sides know. The
//! compressor's state goes from block to block for the life of a connection.

use std::sync::LazyLock;

use bytes::{Buf, BufMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::SpdyError;

/// Names and values, in order. Names are in lower case.
pub(crate) type Headers = Vec<(String, String)>;

/// Longest header block, unpacked. Those of Kubernetes' clients have about 100 bytes.
const BLOCK_BYTES: usize = 16 << 10;

/// Words of the dictionary that have their length before them.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding \
    content-language content-length content-location content-md5 content-range content-type date etag expect \
    expires from host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified \
    location max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after server te \
    trailer transfer-encoding upgrade user-agent vary via warning www-authenticate method get status 200~OK \
    version HTTP/1.1 url public set-cookie keep-alive origin";

/// The rest of the dictionary.
const PHRASES: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
    403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
    Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
    chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,\
    text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::new();
    for word in WORDS.split_ascii_whitespace() {
        bytes.put_u32(word.len() as u32);
        bytes.extend(word.bytes().map(|byte| if byte == b'~' { b' ' } else { byte }));
    }
    bytes.extend_from_slice(PHRASES.as_bytes());
    bytes
});

/// Packs header blocks.
pub(super) struct Packer(Compress);

impl Packer {
    pub(super) fn new() -> Packer {
        let mut compress = Compress::new(Compression::fast(), true);
        compress
            .set_dictionary(&DICTIONARY)
            .expect("a compressor that has packed nothing takes a dictionary");
        Packer(compress)
    }

    pub(super) fn pack(&mut self, headers: &Headers) -> Vec<u8> {
        let mut plain = Vec::new();
        plain.put_u32(headers.len() as u32);
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(text.len() as u32);
            plain.extend_from_slice(text.as_bytes());
        }
        let mut packed = Vec::with_capacity(plain.len() + 64);
        let mut rest = &plain[..];
        loop {
            let before = self.0.total_in();
            // It only fails for a compressor that was finished, which this one never is.
            if self.0.compress_vec(rest, &mut packed, FlushCompress::Sync).is_err() {
                return packed;
            }
            rest = &rest[usize::try_from(self.0.total_in() - before).unwrap_or(rest.len())..];
            if rest.is_empty() && packed.len() < packed.capacity() {
                return packed;
            }
            packed.reserve(packed.capacity());
        }
    }
}

/// Unpacks header blocks.
pub(super) struct Unpacker(Decompress);

impl Unpacker {
    pub(super) fn new() -> Unpacker {
        Unpacker(Decompress::new(true))
    }

    /// # Errors
    /// If it is not a header block, or a very long one. The connection is of no more use then.
    pub(super) fn unpack(&mut self, packed: &[u8]) -> Result<Headers, SpdyError> {
        let mut plain = Vec::with_capacity(packed.len().min(BLOCK_BYTES) * 4 + 256);
        let mut rest = packed;
        loop {
            let (read, written) = (self.0.total_in(), self.0.total_out());
            let result = self.0.decompress_vec(rest, &mut plain, FlushDecompress::Sync);
            rest = &rest[usize::try_from(self.0.total_in() - read).unwrap_or(rest.len()).min(rest.len())..];
            match result {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&DICTIONARY).map_err(|_| SpdyError("unknown header dictionary"))?;
                    continue;
                }
                Err(_) | Ok(Status::StreamEnd) => return Err(SpdyError("headers cannot be unpacked")),
                Ok(_) if plain.len() > BLOCK_BYTES => return Err(SpdyError("headers are too long")),
                Ok(_) if plain.len() == plain.capacity() => plain.reserve(plain.capacity()),
                Ok(_) if rest.is_empty() => return parse(&plain),
                Ok(_) if self.0.total_in() == read && self.0.total_out() == written => {
                    return Err(SpdyError("headers cannot be unpacked"));
                }
                Ok(_) => {}
            }
        }
    }
}

fn parse(mut plain: &[u8]) -> Result<Headers, SpdyError> {
    let short = || SpdyError("headers are cut off");
    let text = |plain: &mut &[u8]| {
        let length = plain.try_get_u32().map_err(|_| short())? as usize;
        let (text, rest) = plain.split_at_checked(length).ok_or_else(short)?;
        *plain = rest;
        String::from_utf8(text.to_vec()).map_err(|_| SpdyError("headers are not text"))
    };
    let count = plain.try_get_u32().map_err(|_| short())?;
    let mut headers = Headers::new();
    for _ in 0..count {
        let name = text(&mut plain)?;
        headers.push((name.to_ascii_lowercase(), text(&mut plain)?));
    }
    if plain.is_empty() { Ok(headers) } else { Err(SpdyError("headers are followed by something")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    /// The stream of a compressor names the checksum of its dictionary: that of SPDY/3 is this.
    #[test]
    fn the_dictionary_is_that_of_the_protocol() {
        assert_eq!(DICTIONARY.len(), 1423);
        let packed = Packer::new().pack(&headers(&[]));
        assert_eq!(packed[2..6], [0xe3, 0xc6, 0xa7, 0xc2]);
    }

    #[test]
    fn blocks_come_back_one_after_the_other() {
        let (mut packer, mut unpacker) = (Packer::new(), Unpacker::new());
        for block in [
            headers(&[("streamtype", "error"), ("port", "80"), ("requestid", "0")]),
            headers(&[]),
            headers(&[("streamtype", "data"), ("", "")]),
            headers(&[("long", &"0123456789".repeat(900))]),
        ] {
            assert_eq!(unpacker.unpack(&packer.pack(&block)).unwrap(), block);
        }
    }

    #[test]
    fn what_is_no_block_is_refused() {
        let bomb = Packer::new().pack(&headers(&[("bomb", &"0".repeat(1 << 20))]));
        assert_eq!(Unpacker::new().unpack(&bomb).unwrap_err().0, "headers are too long");
        let whole = Packer::new().pack(&headers(&[("name", "value")]));
        for length in 0..whole.len() - 5 {
            assert!(Unpacker::new().unpack(&whole[..length]).is_err(), "{length}");
        }
        assert!(Unpacker::new().unpack(&[0xff; 40]).is_err());
        for plain in [&b"\0\0\0\x09\0\0"[..], b"\0\0\0\x01\0\0\0\x01a\xff\xff\xff\xff", b"\0\0\0\0x"] {
            assert!(parse(plain).is_err());
        }
    }
}
