//! Reading logs: the tail, filters, and following a container that still runs.

use std::{
    io::{self, Read, Seek, SeekFrom},
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;
use futures::Stream;
use tokio::{fs::File, io::AsyncReadExt};

use super::{LogOptions, format, writer::ContainerLog};

/// How much of a file is read at once.
const BLOCK: usize = 64 * 1024;
/// A line longer than this is no log entry (entries are under 17 KiB): it is dropped instead of kept in
/// memory.
const MAX_LINE: usize = 256 * 1024;

/// Where a log is read from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// A run that this process started: it can be followed.
    Live(Arc<ContainerLog>),
    /// A file from before.
    File(PathBuf),
}

/// The log as `kubectl logs` prints it. With `follow` the stream ends when the container does.
pub(crate) fn stream(source: Source, options: LogOptions) -> impl Stream<Item = io::Result<Bytes>> + Send {
    futures::stream::try_unfold(Reader::new(source, options), |mut reader| async move {
        Ok(reader.next().await?.map(|chunk| (chunk, reader)))
    })
}

struct Reader {
    path: PathBuf,
    live: Option<Arc<ContainerLog>>,
    options: LogOptions,
    filter: Filter,
    file: Option<File>,
    /// How many times the log had been rotated when `file` was opened.
    rotations: u64,
    begun: bool,
    done: bool,
}

impl Reader {
    fn new(source: Source, options: LogOptions) -> Reader {
        let (path, live) = match source {
            Source::Live(log) => (log.path().to_owned(), Some(log)),
            Source::File(path) => (path, None),
        };
        let filter = Filter::new(&options);
        Reader { path, live, options, filter, file: None, rotations: 0, begun: false, done: false }
    }

    /// The next piece of output, never empty; `None` at the end.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        while !self.done {
            // What is written after this look wakes the wait below; what was written before it is read.
            let log = self.live.clone();
            let changed = log.as_deref().map(ContainerLog::changed);
            let position = log.as_deref().map(ContainerLog::position);
            if self.file.is_none() {
                self.open().await?;
            }
            let output = self.read_on().await?;
            if !output.is_empty() {
                return Ok(Some(output.into()));
            }
            match (position, changed) {
                (Some(position), _) if self.file.is_some() && position.rotations != self.rotations => {
                    self.file = None;
                }
                (Some(position), Some(changed)) if self.options.follow && !position.closed => changed.await,
                _ => self.done = true,
            }
        }
        Ok(None)
    }

    /// Opens the newest file, at the place where reading begins.
    async fn open(&mut self) -> io::Result<()> {
        let rotations = || self.live.as_deref().map_or(0, |log| log.position().rotations);
        let (mut file, seen) = loop {
            let before = rotations();
            match File::open(&self.path).await {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
                // Otherwise it may be the file of before a rotation, or of after it.
                Ok(file) if rotations() == before => break (file, before),
                Ok(_) => {}
            }
        };
        self.rotations = seen;
        if let (false, Some(lines)) = (self.begun, self.options.tail) {
            let mut inner = file.into_std().await;
            let blocking = tokio::task::spawn_blocking(move || {
                let start = tail_start(&mut inner, lines)?;
                inner.seek(SeekFrom::Start(start))?;
                Ok::<_, io::Error>(inner)
            });
            file = File::from_std(blocking.await.map_err(io::Error::other)??);
        }
        self.begun = true;
        self.file = Some(file);
        Ok(())
    }

    /// Reads until there is output or the end of the file.
    async fn read_on(&mut self) -> io::Result<Vec<u8>> {
        let mut output = Vec::new();
        let Some(file) = &mut self.file else {
            // A log that is written to for the first time is read from its start.
            self.begun = true;
            return Ok(output);
        };
        let mut block = vec![0; BLOCK];
        while output.is_empty() && !self.filter.exhausted() {
            let count = file.read(&mut block).await?;
            if count == 0 {
                break;
            }
            self.filter.push(&block[..count], &mut output);
        }
        if self.filter.exhausted() {
            self.done = true;
        }
        Ok(output)
    }
}

/// Turns bytes of the file into bytes of output. Pure.
struct Filter {
    options: LogOptions,
    left: u64,
    carry: Vec<u8>,
    /// The next entry begins a line of output.
    at_line_start: bool,
}

impl Filter {
    fn new(options: &LogOptions) -> Filter {
        let left = options.limit.unwrap_or(u64::MAX);
        Filter { options: options.clone(), left, carry: Vec::new(), at_line_start: true }
    }

    fn exhausted(&self) -> bool {
        self.left == 0
    }

    fn push(&mut self, bytes: &[u8], output: &mut Vec<u8>) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            if self.carry.is_empty() {
                self.line(&rest[..end], output);
            } else {
                let mut line = std::mem::take(&mut self.carry);
                line.extend_from_slice(&rest[..end]);
                self.line(&line, output);
            }
            rest = &rest[end + 1..];
        }
        if self.carry.len() + rest.len() > MAX_LINE {
            self.carry.clear();
        } else {
            self.carry.extend_from_slice(rest);
        }
    }

    fn line(&mut self, line: &[u8], output: &mut Vec<u8>) {
        let Some(entry) = format::parse(line) else { return };
        if let Some(since) = self.options.since
            && entry.timestamp().is_none_or(|time| time < since)
        {
            return;
        }
        if self.options.stream.is_some_and(|stream| stream != entry.stream) {
            return;
        }
        if self.options.timestamps && self.at_line_start {
            self.emit(entry.time.as_bytes(), output);
            self.emit(b" ", output);
        }
        self.emit(entry.content, output);
        if !entry.partial {
            self.emit(b"\n", output);
        }
        self.at_line_start = !entry.partial;
    }

    fn emit(&mut self, bytes: &[u8], output: &mut Vec<u8>) {
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        output.extend_from_slice(&bytes[..count]);
        self.left -= count as u64;
    }
}

/// Where the last `lines` lines of a file begin.
fn tail_start(file: &mut (impl Read + Seek), lines: u64) -> io::Result<u64> {
    let size = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(size);
    }
    let (mut end, mut seen) = (size, 0);
    let mut block = vec![0; BLOCK];
    while end > 0 {
        let start = end.saturating_sub(BLOCK as u64);
        let part = &mut block[..usize::try_from(end - start).unwrap_or(BLOCK)];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        for (index, byte) in part.iter().enumerate().rev() {
            let at = start + index as u64;
            // The newline at the very end closes the last line; it does not begin another.
            if *byte == b'\n' && at + 1 < size {
                seen += 1;
                if seen == lines {
                    return Ok(at + 1);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::{io::Cursor, time::Duration};

    use futures::StreamExt;

    use super::{super::format::StreamName, *};

    #[track_caller]
    fn tail(text: &str, lines: u64, expected: &str) {
        let start = tail_start(&mut Cursor::new(text), lines).unwrap();
        assert_eq!(&text[usize::try_from(start).unwrap()..], expected);
    }

    #[test]
    fn the_tail_counts_lines_from_the_end() {
        tail("a\nb\nc\n", 0, "");
        tail("a\nb\nc\n", 1, "c\n");
        tail("a\nb\nc\n", 3, "a\nb\nc\n");
        tail("a\nb\nc\n", 9, "a\nb\nc\n");
        tail("a\nb\nc", 2, "b\nc");
        tail("", 5, "");
        let long = "0123456789\n".repeat(20_000);
        tail(&long, 12_000, &"0123456789\n".repeat(12_000));
    }

    /// The log of these lines, filtered; blocks of 5 bytes, to meet every border.
    #[track_caller]
    fn filter(options: &LogOptions, expected: &str) {
        let file = "2025-01-01T00:00:01.000000000Z stdout F one\n\
                    2025-01-01T00:00:02.000000000Z stderr P two \n\
                    2025-01-01T00:00:02.500000000Z stderr F halves\n\
                    torn\n\
                    2025-01-01T00:00:03.000000000Z stdout F three\n";
        let mut filter = Filter::new(options);
        let mut output = Vec::new();
        for block in file.as_bytes().chunks(5) {
            filter.push(block, &mut output);
        }
        assert_eq!(String::from_utf8(output).unwrap(), expected);
    }

    #[test]
    fn filters() {
        let none = LogOptions::default;
        filter(&none(), "one\ntwo halves\nthree\n");
        filter(&LogOptions { limit: Some(6), ..none() }, "one\ntw");
        filter(&LogOptions { limit: Some(0), ..none() }, "");
        filter(&LogOptions { stream: Some(StreamName::Stdout), ..none() }, "one\nthree\n");
        filter(&LogOptions { stream: Some(StreamName::Stderr), ..none() }, "two halves\n");
        let since = Some("2025-01-01T00:00:02.6Z".parse().unwrap());
        filter(&LogOptions { since, ..none() }, "three\n");
        filter(
            &LogOptions { timestamps: true, ..none() },
            "2025-01-01T00:00:01.000000000Z one\n\
             2025-01-01T00:00:02.000000000Z two halves\n\
             2025-01-01T00:00:03.000000000Z three\n",
        );
    }

    async fn next(stream: &mut (impl Stream<Item = io::Result<Bytes>> + Unpin)) -> Option<String> {
        let next =
            tokio::time::timeout(Duration::from_secs(10), stream.next()).await.expect("output in time");
        next.map(|chunk| String::from_utf8(chunk.unwrap().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_follower_sees_lines_at_once_across_rotations_and_ends_with_the_container() {
        let dir = tempfile::tempdir().unwrap();
        let log = Arc::new(ContainerLog::with_max_size(dir.path().join("0.log"), 60));
        let options = LogOptions { follow: true, ..LogOptions::default() };
        let mut follower = Box::pin(stream(Source::Live(log.clone()), options.clone()));
        for line in ["first", "second", "third"] {
            log.write(StreamName::Stdout, format!("{line}\n").as_bytes());
            assert_eq!(next(&mut follower).await.as_deref(), Some(&*format!("{line}\n")));
        }
        assert_eq!(log.position().rotations, 2, "each line fills a file");
        log.write(StreamName::Stderr, b"no newline");
        log.finish();
        assert_eq!(next(&mut follower).await.as_deref(), Some("no newline\n"));
        assert_eq!(next(&mut follower).await, None);

        let mut late = Box::pin(stream(Source::Live(log), options));
        assert_eq!(next(&mut late).await.as_deref(), Some("no newline\n"));
        assert_eq!(next(&mut late).await, None);
    }

    #[tokio::test]
    async fn a_silent_container_has_an_empty_log_and_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let log = Arc::new(ContainerLog::with_max_size(dir.path().join("0.log"), 60));
        let follow = LogOptions { follow: true, ..LogOptions::default() };
        let mut at_once = Box::pin(stream(Source::Live(log.clone()), LogOptions::default()));
        assert_eq!(next(&mut at_once).await, None);
        let mut follower = Box::pin(stream(Source::Live(log.clone()), follow));
        assert!(futures::poll!(follower.next()).is_pending());
        log.finish();
        assert_eq!(next(&mut follower).await, None);
        assert!(!log.path().exists());
    }
}
