//! One client: reads requests, writes answers, never blocks.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::{Site, files};

/// A request head longer than this is refused: 8 KiB is what most servers allow.
const MAX_HEAD: usize = 8 * 1024;
/// A client that says nothing for so long is let go.
const SILENCE: Duration = Duration::from_secs(15);

/// What one [`Connection::advance`] achieved.
pub struct Step {
    /// Bytes were read or written.
    pub moved: bool,
    /// The connection is done and can be dropped.
    pub finished: bool,
}

pub struct Connection {
    stream: TcpStream,
    head: Vec<u8>,
    answer: Vec<u8>,
    written: usize,
    close: bool,
    served: bool,
    /// When it last said something, once it was waited for.
    heard: Option<Instant>,
}

impl Connection {
    pub fn new(stream: TcpStream) -> Connection {
        Connection {
            stream,
            head: Vec::new(),
            answer: Vec::new(),
            written: 0,
            close: false,
            served: false,
            heard: None,
        }
    }

    /// Does what can be done without waiting.
    pub fn advance(&mut self, site: &mut Site) -> io::Result<Step> {
        let mut moved = false;
        loop {
            if self.written < self.answer.len() {
                match self.stream.write(&self.answer[self.written..]) {
                    Ok(n) => {
                        self.written += n;
                        moved = true;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(self.waiting(moved)),
                    Err(error) => return Err(error),
                }
                continue;
            }
            if self.close {
                return Ok(Step { moved, finished: true });
            }
            if let Some(end) = self.head.windows(4).position(|w| w == b"\r\n\r\n") {
                let next = self.head.split_off(end + 4);
                let head = std::mem::replace(&mut self.head, next);
                self.respond(&head, site);
                continue;
            }
            if self.head.len() > MAX_HEAD {
                self.answer(431, "text/plain", b"request head too long\n", false, site);
                self.close = true;
                continue;
            }
            let mut buffer = [0; 512];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(Step { moved, finished: true }),
                Ok(n) => {
                    self.head.extend_from_slice(&buffer[..n]);
                    moved = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(self.waiting(moved)),
                Err(error) => return Err(error),
            }
        }
    }

    /// True if the client was answered and asks nothing more at the moment.
    pub fn is_idle(&self) -> bool {
        self.served && self.head.is_empty() && self.written == self.answer.len()
    }

    fn waiting(&mut self, moved: bool) -> Step {
        let now = Instant::now();
        let heard = *self.heard.get_or_insert(now);
        if moved {
            self.heard = Some(now);
        }
        Step { moved, finished: !moved && now - heard > SILENCE }
    }

    fn respond(&mut self, head: &[u8], site: &mut Site) {
        site.counters.requests += 1;
        let head = String::from_utf8_lossy(head);
        let mut lines = head.split("\r\n");
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let version = words.next().unwrap_or_default();
        self.close = version != "HTTP/1.1";
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            // A body would be read as the next request: this server takes none.
            self.close |= is("connection") && value.trim().eq_ignore_ascii_case("close")
                || is("content-length") && value.trim() != "0"
                || is("transfer-encoding");
        }

        let only_head = method == "HEAD";
        if method != "GET" && !only_head {
            return self.answer(405, "text/plain", b"only GET and HEAD\n", false, site);
        }
        let path = target.split(['?', '#']).next().unwrap_or_default();
        if path == "/counters" {
            let c = &site.counters;
            let text = format!("requests {}\nnot_found {}\nbytes {}\n", c.requests, c.not_found, c.bytes);
            return self.answer(200, "text/plain", text.as_bytes(), only_head, site);
        }
        match files::read(&site.root, path) {
            Ok((media_type, body)) => self.answer(200, media_type, &body, only_head, site),
            Err(error) => {
                site.counters.not_found += 1;
                self.answer(404, "text/plain", format!("{path}: {error}\n").as_bytes(), only_head, site);
            }
        }
    }

    fn answer(&mut self, code: u16, media_type: &str, body: &[u8], only_head: bool, site: &mut Site) {
        let reason = match code {
            200 => "OK",
            404 => "Not Found",
            405 => "Method Not Allowed",
            _ => "Request Header Fields Too Large",
        };
        self.answer.clear();
        self.written = 0;
        self.served = true;
        let connection = if self.close { "close" } else { "keep-alive" };
        let length = body.len();
        // Into a list of bytes writing does not fail.
        let _ = write!(
            self.answer,
            "HTTP/1.1 {code} {reason}\r\ncontent-type: {media_type}\r\ncontent-length: {length}\r\n\
             cache-control: no-store\r\nx-pod: {}\r\nconnection: {connection}\r\n\r\n",
            site.pod
        );
        if !only_head {
            self.answer.extend_from_slice(body);
            site.counters.bytes += body.len() as u64;
        }
    }
}
