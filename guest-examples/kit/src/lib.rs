//! What the demos share: a small HTTP server and client on `std::net`, and the environment.
//!
//! A module is one thread. [`serve`] looks after all connections in turn, so that a slow client delays nobody, and
//! answers one request per connection. It ends when the node asks the container to end: `accept` then fails
//! once, whoever is connected is still answered, and the program can return.

pub mod client;
pub mod server;

use std::env;

pub use client::{get, post};
pub use server::{Answer, Request, serve, serve_and};

/// An environment variable, or what is used without it.
pub fn var(name: &str, default: &str) -> String {
    env::var(name).ok().filter(|value| !value.is_empty()).unwrap_or_else(|| default.to_owned())
}

/// A number from the environment, or what is used without it.
pub fn number(name: &str, default: u64) -> u64 {
    env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// The pod's name, as every container of it is told.
pub fn pod() -> String {
    var("HOSTNAME", "unknown")
}

/// Text as a JSON string, with its quotes.
pub fn json(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            c if (c as u32) < 0x20 => quoted.push_str(&format!("\\u{:04x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Text inside of HTML.
pub fn html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Text of a form or a query: `+` is a blank, `%41` is an `A`.
pub fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        let pair = tail.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        match (first, pair.and_then(|pair| u8::from_str_radix(pair, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (b'+', _) => bytes.push(b' '),
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The value of a field of a form or a query.
pub fn field(form: &str, name: &str) -> Option<String> {
    form.split('&').filter_map(|pair| pair.split_once('=')).find(|(n, _)| *n == name).map(|(_, v)| decode(v))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_quoted_and_decoded() {
        assert_eq!(json("a\"b\\c\nd\u{1}"), "\"a\\\"b\\\\c\\nd\\u0001\"");
        assert_eq!(html("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
        assert_eq!(decode("a+b%21%2z%e2%82%ac%"), "a b!%2z€%");
        assert_eq!(field("x=1&message=hello+there", "message").as_deref(), Some("hello there"));
        assert_eq!(field("x=1", "message"), None);
    }
}
