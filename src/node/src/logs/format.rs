//! The CRI log format: `<RFC 3339 time with nanoseconds> <stdout|stderr> <P|F> <content>`, where `P`
//! marks a part of a line that continues and `F` its end. Pure.

use k8s_openapi::jiff::Timestamp;

/// Longest content of one entry. The number that container runtimes use; longer lines are split into
/// parts, so that a guest without newlines cannot make the node buffer without end.
pub(super) const MAX_CONTENT: usize = 16 * 1024;

/// One of a container's two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamName {
    Stdout,
    Stderr,
}

impl StreamName {
    fn as_str(self) -> &'static str {
        match self {
            StreamName::Stdout => "stdout",
            StreamName::Stderr => "stderr",
        }
    }
}

/// Splits `bytes` into entries appended to `out`. `partial` holds the beginning of a line that was not
/// ended yet, from one call to the next.
pub(super) fn append(
    out: &mut Vec<u8>,
    partial: &mut Vec<u8>,
    stream: StreamName,
    bytes: &[u8],
    now: Timestamp,
) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let room = MAX_CONTENT - partial.len();
        let window = &rest[..rest.len().min(room + 1)];
        match window.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                entry(out, stream, b'F', &[partial, &rest[..end]], now);
                partial.clear();
                rest = &rest[end + 1..];
            }
            None if rest.len() > room => {
                entry(out, stream, b'P', &[partial, &rest[..room]], now);
                partial.clear();
                rest = &rest[room..];
            }
            None => {
                partial.extend_from_slice(rest);
                rest = &[];
            }
        }
    }
    if partial.is_empty() {
        *partial = Vec::new();
    }
}

/// Ends a line that the container left open.
pub(super) fn finish(out: &mut Vec<u8>, partial: &mut Vec<u8>, stream: StreamName, now: Timestamp) {
    if !partial.is_empty() {
        entry(out, stream, b'F', &[partial], now);
        *partial = Vec::new();
    }
}

fn entry(out: &mut Vec<u8>, stream: StreamName, tag: u8, content: &[&[u8]], now: Timestamp) {
    use std::io::Write;
    // Writing to a vector cannot fail.
    let _ = write!(out, "{now:.9} {} ", stream.as_str());
    out.push(tag);
    out.push(b' ');
    content.iter().for_each(|part| out.extend_from_slice(part));
    out.push(b'\n');
}

/// An entry as read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub(super) time: &'a str,
    pub(super) stream: StreamName,
    pub(super) partial: bool,
    pub(super) content: &'a [u8],
}

impl Entry<'_> {
    /// When it was written.
    pub(super) fn timestamp(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }
}

/// Reads one line of a log file, without its newline; `None` for what is no entry.
pub(super) fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let (time, rest) = split(line)?;
    let (stream, rest) = split(rest)?;
    let (tag, content) = split(rest)?;
    let stream = match stream {
        b"stdout" => StreamName::Stdout,
        b"stderr" => StreamName::Stderr,
        _ => return None,
    };
    Some(Entry { time: std::str::from_utf8(time).ok()?, stream, partial: tag.starts_with(b"P"), content })
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == b' ')?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each text is one write of the guest; the last element says what the file holds after the end.
    #[track_caller]
    fn check(writes: &[&str], expected: &str) {
        let now: Timestamp = "2025-03-04T05:06:07.000000008Z".parse().unwrap();
        let (mut out, mut partial) = (Vec::new(), Vec::new());
        for write in writes {
            append(&mut out, &mut partial, StreamName::Stdout, write.as_bytes(), now);
        }
        finish(&mut out, &mut partial, StreamName::Stdout, now);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.replace("2025-03-04T05:06:07.000000008Z stdout ", ""), expected);
    }

    #[test]
    fn lines_end_where_the_guest_ends_them() {
        check(&["a\nb\n"], "F a\nF b\n");
        check(&["a", "b\n", "\n", "c"], "F ab\nF \nF c\n");
        check(&[""], "");
    }

    #[test]
    fn long_lines_are_split_into_parts() {
        let full = "x".repeat(MAX_CONTENT);
        check(&[&full, "\n"], &format!("F {full}\n"));
        check(&[&full, "y\n"], &format!("P {full}\nF y\n"));
        check(&[&format!("{full}{full}z")], &format!("P {full}\nP {full}\nF z\n"));
    }

    #[test]
    fn entries_are_read_back() {
        let line = b"2025-03-04T05:06:07.000000008Z stderr P two words";
        let entry = parse(line).unwrap();
        assert_eq!(
            (entry.stream, entry.partial, entry.content),
            (StreamName::Stderr, true, &b"two words"[..])
        );
        assert_eq!(entry.timestamp().unwrap().subsec_nanosecond(), 8);
        assert_eq!(parse(b"garbage"), None);
        assert_eq!(parse(b""), None);
    }
}
