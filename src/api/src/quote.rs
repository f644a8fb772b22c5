//! Go's `%q`: how Kubernetes' messages quote a string.

use std::fmt;

/// Displays a string as Go's `strconv.Quote` does: printable characters as they are, the rest escaped.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        out.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' => out.write_str("\\\"")?,
                '\\' => out.write_str("\\\\")?,
                '\u{7}' => out.write_str("\\a")?,
                '\u{8}' => out.write_str("\\b")?,
                '\u{c}' => out.write_str("\\f")?,
                '\n' => out.write_str("\\n")?,
                '\r' => out.write_str("\\r")?,
                '\t' => out.write_str("\\t")?,
                '\u{b}' => out.write_str("\\v")?,
                c if (c as u32) < 0x80 && c.is_ascii_control() => write!(out, "\\x{:02x}", c as u32)?,
                c if unprintable(c) && (c as u32) < 0x10000 => write!(out, "\\u{:04x}", c as u32)?,
                c if unprintable(c) => write!(out, "\\U{:08x}", c as u32)?,
                c => out.write_char(c)?,
            }
        }
        out.write_char('"')
    }
}

/// Whether Go would escape the character. Go consults its Unicode tables; this covers control
/// characters, every space but the ASCII one, format characters and private use, which is what shows
/// up in practice.
fn unprintable(c: char) -> bool {
    c.is_control()
        || (c.is_whitespace() && c != ' ')
        || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e000}'..='\u{f8ff}' | '\u{f0000}'..)
}

#[cfg(test)]
mod tests {
    use super::Quoted;

    #[test]
    fn quotes_as_go_does() {
        #[track_caller]
        fn check(text: &str, want: &str) {
            assert_eq!(Quoted(text).to_string(), want);
        }
        check("plain", r#""plain""#);
        check("a \"b\" \\", r#""a \"b\" \\""#);
        check("a\n\t\u{0}\u{7f}", r#""a\n\t\x00\x7f""#);
        check("größe ✓", "\"größe ✓\"");
        check("\u{a0}\u{feff}\u{f0000}", r#""\u00a0\ufeff\U000f0000""#);
    }
}
