//! Reading one layer: decompression and the archive, every number in it bounded.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use tar::{Archive, EntryType, PaxExtensions};

use super::tree::{MAX_PATH, Node, Tree, show};
use super::{Budget, Problem, Unpacked};

/// Bytes that a header with further properties of a file may have. Real ones have some hundred.
const MAX_PROPERTIES: u64 = 64 * 1024;

/// What a decompressor of zstd may hold to look back: what its highest ordinary levels need. Frames that
/// ask for more are refused before anything is allocated.
const ZSTD_WINDOW: u64 = 32 * 1024 * 1024;

/// The name of a module that is a layer by itself.
const BARE_MODULE: &[u8] = b"module.wasm";

/// Adds a layer to the tree, and the contents of its files to `unpacked`.
pub(super) fn apply(
    layer: File,
    tree: &mut Tree,
    unpacked: &mut Unpacked,
    budget: &mut Budget,
) -> Result<(), Problem> {
    let size = layer.metadata()?.len();
    tree.begin_layer();
    let mut layer = BufReader::with_capacity(64 * 1024, layer);
    let begin = layer.fill_buf()?;
    // The first bytes decide: what registries are told about layers is not always true.
    match begin {
        [] => Ok(()),
        [b'\0', b'a', b's', b'm', ..] => {
            let file = unpacked.write(&mut layer, size, 0, budget)?;
            tree.put(BARE_MODULE, Node::File(file)).map_err(Problem::Format)
        }
        [0x1f, 0x8b, ..] => archive(&mut budget.meter(MultiGzDecoder::new(layer), size), tree, unpacked),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            archive(&mut budget.meter(ZstdFrames::new(layer), size), tree, unpacked)
        }
        _ => archive(&mut budget.meter(layer, size), tree, unpacked),
    }
}

/// What headers before a file's own say about it.
#[derive(Default)]
struct Ahead {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    mtime: Option<u64>,
}

fn archive(
    reader: &mut super::Meter<'_, impl Read>,
    tree: &mut Tree,
    unpacked: &mut Unpacked,
) -> Result<(), Problem> {
    let mut archive = Archive::new(reader);
    let mut ahead = Ahead::default();
    // Raw: the usual way would hold names of any length in memory, and unfold sparse files.
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        let size = entry.header().entry_size()?;
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName => {
                ahead.path = Some(text(&mut entry, size, MAX_PATH as u64 + 1)?);
                continue;
            }
            EntryType::GNULongLink => {
                ahead.link = Some(text(&mut entry, size, MAX_PATH as u64 + 1)?);
                continue;
            }
            EntryType::XHeader => {
                properties(&text(&mut entry, size, MAX_PROPERTIES)?, &mut ahead)?;
                continue;
            }
            // Says something about all files that follow, which only version control does.
            EntryType::XGlobalHeader => continue,
            _ => {}
        }
        let Ahead { path, link, mtime } = std::mem::take(&mut ahead);
        let path = path.unwrap_or_else(|| entry.header().path_bytes().into_owned());
        let link = link.or_else(|| entry.header().link_name_bytes().map(std::borrow::Cow::into_owned));
        let link = link.unwrap_or_default();
        let mtime = mtime.unwrap_or_else(|| entry.header().mtime().unwrap_or(0));
        match kind {
            EntryType::Directory => tree.folder(&path).map_err(Problem::Format)?,
            // Archives older than the type of folders show them by their name.
            EntryType::Regular if path.ends_with(b"/") => tree.folder(&path).map_err(Problem::Format)?,
            EntryType::Regular | EntryType::Continuous => {
                // What is no path is refused before it is written.
                super::tree::parts(&path).map_err(Problem::Format)?;
                let file = unpacked.copy(&mut entry, size, mtime)?;
                tree.put(&path, Node::File(file)).map_err(Problem::Format)?;
            }
            EntryType::Symlink => {
                if link.is_empty() || link.len() > MAX_PATH || link.contains(&0) {
                    return Err(Problem::Format(format!("the link {} has no valid target", show(&path))));
                }
                tree.put(&path, Node::Link(link)).map_err(Problem::Format)?;
            }
            EntryType::Link => tree.hard_link(&path, &link).map_err(Problem::Format)?,
            // A module could do nothing with them, and nobody shall find them on the host.
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                tracing::debug!(path = show(&path), "a device of an image is left out");
            }
            EntryType::GNUSparse => {
                return Err(Problem::Format(format!("{} is a sparse file", show(&path))));
            }
            other => {
                let kind = other.as_byte().escape_ascii();
                return Err(Problem::Format(format!("{} is of the unknown type '{kind}'", show(&path))));
            }
        }
    }
    Ok(())
}

/// The content of a header, without the zeros that end it.
fn text(entry: &mut impl Read, size: u64, limit: u64) -> Result<Vec<u8>, Problem> {
    if size > limit {
        return Err(Problem::Format(format!("a name or property has more than {limit} bytes")));
    }
    let mut bytes = Vec::new();
    entry.take(size).read_to_end(&mut bytes)?;
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

/// Takes what matters of the properties of the next file.
fn properties(bytes: &[u8], ahead: &mut Ahead) -> Result<(), Problem> {
    for property in PaxExtensions::new(bytes) {
        let property = property?;
        let value = property.value_bytes();
        match property.key_bytes() {
            b"path" => ahead.path = Some(value.to_vec()),
            b"linkpath" => ahead.link = Some(value.to_vec()),
            b"mtime" => {
                let seconds =
                    std::str::from_utf8(value).ok().and_then(|text| text.split('.').next()?.parse().ok());
                ahead.mtime = seconds;
            }
            // Readers disagree on which of both sizes counts; nothing that small needs the second.
            b"size" => return Err(Problem::Format("a file's size is said twice".to_owned())),
            key if key.starts_with(b"GNU.sparse.") => {
                return Err(Problem::Format("it has sparse files".to_owned()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Reads zstd content of several frames, as tools write it that make parts of layers seekable.
struct ZstdFrames<R: Read> {
    state: Option<Frame<R>>,
}

/// What begins a frame, read ahead to see its kind, and the rest.
type Begun<R> = Chain<Cursor<Vec<u8>>, R>;

enum Frame<R: Read> {
    Between(R, FrameDecoder),
    Inside(StreamingDecoder<Begun<R>, FrameDecoder>),
}

impl<R: Read> ZstdFrames<R> {
    fn new(reader: R) -> ZstdFrames<R> {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(ZSTD_WINDOW);
        ZstdFrames { state: Some(Frame::Between(reader, decoder)) }
    }
}

impl<R: Read> Read for ZstdFrames<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.state.take() {
                // After an error, or at the end.
                None => return Ok(0),
                Some(Frame::Inside(mut frame)) => {
                    let count = frame.read(into)?;
                    if count > 0 || into.is_empty() {
                        self.state = Some(Frame::Inside(frame));
                        return Ok(count);
                    }
                    // What was read ahead is used up: the decoder began with it.
                    let (reader, decoder) = frame.into_parts();
                    self.state = Some(Frame::Between(reader.into_inner().1, decoder));
                }
                Some(Frame::Between(mut reader, decoder)) => {
                    // A frame may begin in the last bytes of a buffer, so a look into it does not do.
                    let mut magic = Vec::with_capacity(4);
                    reader.by_ref().take(4).read_to_end(&mut magic)?;
                    match *magic {
                        [] => return Ok(0),
                        [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
                            skip_frame(&mut reader)?;
                            self.state = Some(Frame::Between(reader, decoder));
                        }
                        _ => {
                            let reader = Cursor::new(magic).chain(reader);
                            let frame = StreamingDecoder::new_with_decoder(reader, decoder);
                            self.state = Some(Frame::Inside(frame.map_err(io::Error::other)?));
                        }
                    }
                }
            }
        }
    }
}

/// Skips the rest of a frame that holds no content.
fn skip_frame(reader: &mut impl Read) -> io::Result<()> {
    let mut length = [0; 4];
    reader.read_exact(&mut length)?;
    let length = u64::from(u32::from_le_bytes(length));
    let skipped = io::copy(&mut reader.take(length), &mut io::sink())?;
    if skipped == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
