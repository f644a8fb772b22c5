//! What one of many instances prints: whole lines, so that those of others do not get between.

use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;

use crate::limits::CHUNK;
use crate::output::Output;

/// Bytes of a line that are kept back until it ends. Longer ones are passed on in pieces.
const LINE_BYTES: usize = 4 << 10;

/// One instance's share of its container's output.
pub(super) struct Lines {
    to: Arc<dyn Output>,
    begun: Mutex<Vec<u8>>,
}

impl Lines {
    pub(super) fn new(to: &Arc<dyn Output>) -> Arc<Lines> {
        Arc::new(Lines { to: Arc::clone(to), begun: Mutex::default() })
    }

    /// Passes on what waits for the end of its line.
    fn flush(&self, begun: &mut Vec<u8>) {
        if !begun.is_empty() {
            self.to.write(begun);
            begun.clear();
        }
    }
}

impl Output for Lines {
    fn write(&self, bytes: &[u8]) {
        let mut begun = self.begun.lock();
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let (lines, rest) = bytes.split_at(whole);
        if !lines.is_empty() {
            if begun.len() + lines.len() <= CHUNK {
                begun.extend_from_slice(lines);
                self.flush(&mut begun);
            } else {
                self.flush(&mut begun);
                self.to.write(lines);
            }
        }
        begun.extend_from_slice(rest);
        if begun.len() > LINE_BYTES {
            for piece in begun.chunks(CHUNK) {
                self.to.write(piece);
            }
            begun.clear();
        }
    }

    fn room(&self) -> usize {
        self.to.room()
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.to.poll_room(cx)
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let mut begun = std::mem::take(&mut *self.begun.lock());
        if !begun.is_empty() {
            begun.push(b'\n'); // or the next instance would go on in it
            self.to.write(&begun);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Pieces(Mutex<Vec<String>>);

    impl Output for Pieces {
        fn write(&self, bytes: &[u8]) {
            assert!(bytes.len() <= CHUNK);
            self.0.lock().push(String::from_utf8_lossy(bytes).into_owned());
        }
    }

    #[test]
    fn lines_are_passed_on_whole() {
        #[track_caller]
        fn check(written: &[&str], expected: &[&str]) {
            let pieces = Arc::new(Pieces::default());
            let to: Arc<dyn Output> = pieces.clone();
            let lines = Lines::new(&to);
            written.iter().for_each(|text| lines.write(text.as_bytes()));
            drop(lines);
            assert_eq!(*pieces.0.lock(), expected);
        }
        check(&["a", "b", "c\n"], &["abc\n"]);
        check(&["a\nb\nc", "d\n"], &["a\nb\n", "cd\n"]);
        check(&["no end"], &["no end\n"]);
        check(&["", "\n", ""], &["\n"]);
        let long = "x".repeat(LINE_BYTES + 1);
        check(&["a", &long, "\n"], &[&format!("a{long}"), "\n"]);
        let full = format!("{}\n", "y".repeat(CHUNK - 1));
        check(&["a", &full], &["a", &full]);
    }
}
