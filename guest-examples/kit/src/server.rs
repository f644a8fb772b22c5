//! The server.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

/// Connections at once; further ones wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 256;
/// The longest head and the longest body of a request.
const MAX_HEAD: usize = 8 * 1024;
const MAX_BODY: usize = 64 * 1024;
/// A client that takes longer for its request, or for reading its answer, is let go.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the server rests while its clients are silent.
const PAUSE: Duration = Duration::from_millis(1);
/// How long it rests between two ticks while nobody is connected.
const IDLE: Duration = Duration::from_millis(20);

/// What a client asks.
#[derive(Debug, PartialEq)]
pub struct Request {
    pub method: String,
    /// Without the query.
    pub path: String,
    pub query: String,
    pub body: String,
}

/// What it is told.
pub struct Answer {
    pub code: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

impl Answer {
    /// An answer of a media type, with the name of the pod in `x-pod`.
    pub fn new(code: u16, media_type: &str, body: impl Into<String>) -> Answer {
        let headers = vec![("content-type", media_type.to_owned()), ("x-pod", crate::pod())];
        Answer { code, headers, body: body.into() }
    }

    pub fn text(body: impl Into<String>) -> Answer {
        Answer::new(200, "text/plain; charset=utf-8", body)
    }

    pub fn json(body: impl Into<String>) -> Answer {
        Answer::new(200, "application/json", body)
    }

    pub fn html(body: impl Into<String>) -> Answer {
        Answer::new(200, "text/html; charset=utf-8", body)
    }

    /// A failure in a line of text.
    pub fn error(code: u16, reason: impl Into<String>) -> Answer {
        let line: String = reason.into();
        Answer::new(code, "text/plain; charset=utf-8", line + "\n")
    }

    pub fn not_found() -> Answer {
        Answer::error(404, "not found")
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }

    fn bytes(&self, only_head: bool) -> Vec<u8> {
        let reason = match self.code {
            200 => "OK",
            201 => "Created",
            204 => "No Content",
            303 => "See Other",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            502 => "Bad Gateway",
            503 => "Service Unavailable",
            _ => "Error",
        };
        let mut text = format!("HTTP/1.1 {} {reason}\r\n", self.code);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str(&format!("content-length: {}\r\nconnection: close\r\n\r\n", self.body.len()));
        if !only_head {
            text.push_str(&self.body);
        }
        text.into_bytes()
    }
}

/// Serves on all addresses of the pod until the container is asked to end.
///
/// # Errors
/// If the port is taken.
pub fn serve(port: u16, mut answer: impl FnMut(&Request) -> Answer) -> io::Result<()> {
    run(port, (), None, &mut |()| {}, &mut |(), request| answer(request))
}

/// Serves with a state, and changes it about every `period`, whoever is connected or not.
///
/// # Errors
/// If the port is taken.
pub fn serve_and<S>(
    port: u16,
    state: S,
    period: Duration,
    mut tick: impl FnMut(&mut S),
    mut answer: impl FnMut(&mut S, &Request) -> Answer,
) -> io::Result<()> {
    run(port, state, Some(period), &mut tick, &mut answer)
}

fn run<S>(
    port: u16,
    mut state: S,
    period: Option<Duration>,
    tick: &mut dyn FnMut(&mut S),
    answer: &mut dyn FnMut(&mut S, &Request) -> Answer,
) -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    let mut connections: Vec<Connection> = Vec::new();
    let (mut open, mut ticked) = (true, Instant::now());
    while open || !connections.is_empty() {
        if open {
            // With nobody connected and nothing to do the server sleeps in accept and costs nothing.
            listener.set_nonblocking(!connections.is_empty() || period.is_some())?;
        }
        let mut busy = false;
        while open && connections.len() < MAX_CONNECTIONS {
            match listener.accept() {
                Ok((stream, _)) => {
                    listener.set_nonblocking(true)?;
                    if stream.set_nonblocking(true).is_ok() {
                        connections.push(Connection::new(stream));
                    }
                    busy = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // A client that left while it waited.
                Err(error)
                    if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                // The container is asked to end.
                Err(_) => open = false,
            }
        }
        connections.retain_mut(|connection| {
            connection.advance(&mut |request| answer(&mut state, request), &mut busy)
        });
        if let Some(period) = period
            && ticked.elapsed() >= period
        {
            tick(&mut state);
            ticked = Instant::now();
        }
        match (busy, connections.is_empty()) {
            (true, _) => {}
            (false, false) => thread::sleep(PAUSE),
            (false, true) if period.is_some() && open => thread::sleep(IDLE),
            (false, true) => {}
        }
    }
    Ok(())
}

struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    since: Instant,
}

impl Connection {
    fn new(stream: TcpStream) -> Connection {
        Connection { stream, input: Vec::new(), output: Vec::new(), written: 0, since: Instant::now() }
    }

    /// Does what can be done without waiting; false when the connection is done.
    fn advance(&mut self, answer: &mut dyn FnMut(&Request) -> Answer, busy: &mut bool) -> bool {
        match self.step(answer) {
            Ok(Progress::Moved) => {
                *busy = true;
                true
            }
            Ok(Progress::Waits) => self.since.elapsed() < PATIENCE,
            Ok(Progress::Done) | Err(_) => {
                *busy = true;
                false
            }
        }
    }

    fn step(&mut self, answer: &mut dyn FnMut(&Request) -> Answer) -> io::Result<Progress> {
        let result = if self.output.is_empty() {
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(Progress::Done),
                Ok(n) => {
                    self.input.extend_from_slice(&buffer[..n]);
                    match parse(&self.input) {
                        Ok(None) => {}
                        Ok(Some(request)) => {
                            let only_head = request.method == "HEAD";
                            self.output = answer(&request).bytes(only_head);
                        }
                        Err(refusal) => self.output = refusal.bytes(false),
                    }
                    Ok(Progress::Moved)
                }
                Err(error) => Err(error),
            }
        } else {
            match self.stream.write(&self.output[self.written..]) {
                Ok(n) => {
                    self.written += n;
                    Ok(if self.written < self.output.len() { Progress::Moved } else { Progress::Done })
                }
                Err(error) => Err(error),
            }
        };
        match result {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Progress::Waits),
            result => result,
        }
    }
}

enum Progress {
    Moved,
    Waits,
    Done,
}

/// The request, once it is there whole.
fn parse(input: &[u8]) -> Result<Option<Request>, Answer> {
    let Some(end) = input.windows(4).position(|w| w == b"\r\n\r\n") else {
        return if input.len() > MAX_HEAD {
            Err(Answer::error(431, "request head too long"))
        } else {
            Ok(None)
        };
    };
    let head = String::from_utf8_lossy(&input[..end]);
    let body = &input[end + 4..];
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1" | "HTTP/1.0")) =
        (words.next(), words.next(), words.next())
    else {
        return Err(Answer::error(400, "not HTTP/1.1"));
    };
    let header = |name: &str| {
        let mut pairs = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        pairs.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    if header("transfer-encoding").is_some() {
        return Err(Answer::error(411, "say how long the body is"));
    }
    let length = header("content-length").unwrap_or("0").parse::<usize>();
    let length = length.map_err(|_| Answer::error(400, "bad content-length"))?;
    if length > MAX_BODY {
        return Err(Answer::error(413, "body too long"));
    }
    if body.len() < length {
        return Ok(None);
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Ok(Some(Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        body: String::from_utf8_lossy(&body[..length]).into_owned(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(input: &str, expected: Result<Option<(&str, &str, &str, &str)>, u16>) {
        let request = |(method, path, query, body): (&str, &str, &str, &str)| Request {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            body: body.to_owned(),
        };
        assert_eq!(parse(input.as_bytes()).map_err(|a| a.code), expected.map(|r| r.map(request)), "{input}");
    }

    #[test]
    fn requests_are_read_when_they_are_whole() {
        check("GET / HTT", Ok(None));
        check("GET /a?b=c HTTP/1.1\r\nhost: x\r\n\r\n", Ok(Some(("GET", "/a", "b=c", ""))));
        check("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab", Ok(None));
        check("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcd", Ok(Some(("POST", "/", "", "abc"))));
        check("POST / HTTP/1.1\r\nContent-Length: -3\r\n\r\n", Err(400));
        check("POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", Err(413));
        check("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", Err(411));
        check("SSH-2.0\r\n\r\n", Err(400));
        check(&"x".repeat(9000), Err(431));
    }
}
