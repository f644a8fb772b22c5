//! Serves another container's counters as Prometheus metrics.
//!
//! Shows the adapter pattern: the `web` module counts in a format of its own on
//! `localhost:8080/counters`; this one asks it over the pod's loopback at every scrape and answers on
//! `PORT` (default 9100) in the text format that Prometheus reads.

use std::{
    env,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

/// A neighbour that takes longer is reported as down.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest request or answer that is read.
const MAX_BYTES: usize = 64 * 1024;

fn main() -> io::Result<()> {
    let port = env::var("PORT").ok().and_then(|p| p.parse().ok()).unwrap_or(9100);
    let source = env::var("SOURCE").unwrap_or_else(|_| "localhost:8080".to_owned());
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("metrics of {source} on port {port}");
    for client in listener.incoming() {
        // The container is asked to end.
        let Ok(client) = client else { break };
        if let Err(error) = serve(client, &source) {
            eprintln!("scrape failed: {error}");
        }
    }
    Ok(())
}

fn serve(mut client: TcpStream, source: &str) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE)).ok();
    let request = read_until(&mut client, b"\r\n\r\n")?;
    let path = request.split(|b| *b == b' ').nth(1).unwrap_or_default();
    let (code, body) = match path {
        b"/metrics" | b"/" => ("200 OK", metrics(source)),
        _ => ("404 Not Found", "only /metrics\n".to_owned()),
    };
    write!(
        client,
        "HTTP/1.1 {code}\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// The neighbour's counters, or only `web_up 0` if it does not answer.
fn metrics(source: &str) -> String {
    let mut text = String::from("# HELP web_up Whether the web server answered.\n# TYPE web_up gauge\n");
    match counters(source) {
        Ok(counters) => {
            text.push_str("web_up 1\n");
            for line in counters.lines() {
                if let Some((name, value)) = line.split_once(' ')
                    && let Ok(value) = value.parse::<u64>()
                {
                    text.push_str(&format!("# TYPE web_{name}_total counter\nweb_{name}_total {value}\n"));
                }
            }
        }
        Err(error) => {
            eprintln!("{source} does not answer: {error}");
            text.push_str("web_up 0\n");
        }
    }
    text
}

fn counters(source: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(source)?;
    stream.set_read_timeout(Some(PATIENCE)).ok();
    stream.write_all(b"GET /counters HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(MAX_BYTES as u64).read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "no counters in the answer")),
    }
}

fn read_until(stream: &mut TcpStream, end: &[u8]) -> io::Result<Vec<u8>> {
    let (mut all, mut buffer) = (Vec::new(), [0; 1024]);
    while !all.windows(end.len()).any(|w| w == end) && all.len() < MAX_BYTES {
        match stream.read(&mut buffer)? {
            0 => break,
            n => all.extend_from_slice(&buffer[..n]),
        }
    }
    Ok(all)
}
