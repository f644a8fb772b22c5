//! What people read on the terminal: plain lines, one way to fail, colour only where it is seen.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

/// Writes a line to standard output. A closed pipe is not an error worth dying for.
pub(crate) fn line(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Writes a line to standard error.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes text to standard output without a line end, at once.
pub(crate) fn part(text: &str) {
    let mut out = io::stdout().lock();
    let _ = write!(out, "{text}").and_then(|()| out.flush());
}

/// True if standard output is a terminal that understands colour.
pub(crate) fn colourful() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// `text` in a colour (an SGR code, e.g. `32` for green) where colour is seen.
pub(crate) fn paint(code: &str, text: &str) -> String {
    if colourful() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// Reports an error with its chain, one cause a line, and gives the exit code of a failure.
pub(crate) fn fail(error: &anyhow::Error) -> ExitCode {
    let mut err = io::stderr().lock();
    let _ = writeln!(err, "error: {error}");
    for cause in error.chain().skip(1) {
        let _ = writeln!(err, "  because: {cause}");
    }
    ExitCode::FAILURE
}
