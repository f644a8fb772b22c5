//! What a terminal does between a person's keys and a program: lines, echo, line ends. Pure.
//!
//! Clients of a session with `tty` send keys as they are pressed and show what comes back as it is. On Linux the
//! kernel's pseudo-terminal turns that into lines and back; a guest has no such kernel. Guests cannot change the
//! terminal's mode either, so it always has lines ("canonical mode").

/// Longest line: Linux's `MAX_CANON`, without the line end. More keys are not taken.
const LINE_BYTES: usize = 4095;

/// A terminal.
#[derive(Debug, Default)]
pub(super) struct Terminal {
    line: Vec<u8>,
}

/// What pressed keys come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Keys {
    /// For the program to read.
    pub(super) input: Vec<u8>,
    /// To be shown.
    pub(super) echo: Vec<u8>,
    /// Control-C: the program is to end, whatever it does.
    pub(super) interrupt: bool,
    /// Control-D on an empty line: the input is at its end.
    pub(super) end: bool,
}

impl Terminal {
    /// Takes keys.
    pub(super) fn press(&mut self, keys: &[u8]) -> Keys {
        let mut result = Keys::default();
        for key in keys {
            match *key {
                b'\r' | b'\n' => {
                    self.line.push(b'\n');
                    result.input.append(&mut self.line);
                    result.echo.extend_from_slice(b"\r\n");
                }
                0x03 => {
                    self.line.clear();
                    result.echo.extend_from_slice(b"^C\r\n");
                    result.interrupt = true;
                }
                0x04 if self.line.is_empty() => result.end = true,
                0x04 => result.input.append(&mut self.line),
                0x08 | 0x7f => self.rub_out(&mut result.echo),
                0x15 => {
                    while !self.line.is_empty() {
                        self.rub_out(&mut result.echo);
                    }
                }
                _ if self.line.len() >= LINE_BYTES => {}
                key => {
                    self.line.push(key);
                    match key {
                        0..0x20 if key != b'\t' => result.echo.extend_from_slice(&[b'^', key + b'@']),
                        _ => result.echo.push(key),
                    }
                }
            }
        }
        result
    }

    /// Takes the last character back.
    fn rub_out(&mut self, echo: &mut Vec<u8>) {
        let Some(last) = self.line.pop() else { return };
        let mut first = last;
        while (0x80..0xc0).contains(&first)
            && let Some(before) = self.line.pop()
        {
            first = before;
        }
        let columns = if first < 0x20 && first != b'\t' { 2 } else { 1 };
        (0..columns).for_each(|_| echo.extend_from_slice(b"\x08 \x08"));
    }
}

/// Output as a terminal shows it: a line end goes back to the first column, too.
pub(super) fn shown(output: &[u8]) -> Vec<u8> {
    let mut shown = Vec::with_capacity(output.len() + 16);
    for byte in output {
        if *byte == b'\n' {
            shown.push(b'\r');
        }
        shown.push(*byte);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(keys: &str, input: &str, echo: &str) -> Keys {
        let result = Terminal::default().press(keys.as_bytes());
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        assert_eq!((text(&result.input).as_str(), text(&result.echo).as_str()), (input, echo), "{keys:?}");
        result
    }

    #[test]
    fn keys_become_lines() {
        check("ls\r", "ls\n", "ls\r\n");
        check("ab", "", "ab");
        check("ab\x7fc\r", "ac\n", "ab\x08 \x08c\r\n");
        check("é\x7fe\r", "e\n", "é\x08 \x08e\r\n");
        check("\x7f\r", "\n", "\r\n");
        check("abc\x15x\r", "x\n", "abc\x08 \x08\x08 \x08\x08 \x08x\r\n");
        check("\x1b[A\r", "\x1b[A\n", "^[[A\r\n");
        check("ab\x04", "ab", "ab");
    }

    #[test]
    fn control_keys() {
        assert!(check("\x04", "", "").end);
        assert!(!check("a\x04", "a", "a").end);
        assert!(check("half\x03", "", "half^C\r\n").interrupt);
    }

    #[test]
    fn a_line_is_bounded_and_can_still_be_ended() {
        let mut terminal = Terminal::default();
        assert!(terminal.press(&[b'x'; 10_000]).input.is_empty());
        assert_eq!(terminal.press(b"\r").input.len(), LINE_BYTES + 1);
    }

    #[test]
    fn line_ends_are_shown() {
        assert_eq!(shown(b"a\nb\n"), b"a\r\nb\r\n");
    }
}
