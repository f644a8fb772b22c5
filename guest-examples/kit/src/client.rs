//! The client.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

/// A server that is silent for so long is given up.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer that is read.
const MAX_ANSWER: u64 = 8 << 20;

/// GETs a path of `host:port` (port 80 if it has none); gives the body of a 2xx answer.
///
/// # Errors
/// Nobody answers, or another code than 2xx does.
pub fn get(host: &str, path: &str) -> io::Result<String> {
    request(host, "GET", path, "")
}

/// POSTs a body.
///
/// # Errors
/// Nobody answers, or another code than 2xx does.
pub fn post(host: &str, path: &str, body: &str) -> io::Result<String> {
    request(host, "POST", path, body)
}

fn request(host: &str, method: &str, path: &str, body: &str) -> io::Result<String> {
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let mut stream = TcpStream::connect(address)?;
    // Where there is no time limit for reading, the wait has none.
    stream.set_read_timeout(Some(PATIENCE)).ok();
    let length = body.len();
    stream.write_all(
        format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        )
        .as_bytes(),
    )?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let bad = |text: &str| io::Error::new(ErrorKind::InvalidData, text.to_owned());
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| bad("no HTTP answer"))?;
    let status = head.lines().next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 2") {
        return Err(bad(status));
    }
    Ok(body.to_owned())
}
