//! A shop that knows nobody but localhost.
//!
//! Shows the main module of an ambassador pod: its page needs the `web` service, but it only ever
//! dials `BACKEND` (default `localhost:9000`), where the pod's ambassador listens. It serves on `PORT`
//! (default 8081) and answers 502 as long as nobody is behind the ambassador.

use std::{
    env,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

/// How long the shop waits for its backend and for a client's request.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest request or answer that is read.
const MAX_BYTES: usize = 64 * 1024;

fn main() -> io::Result<()> {
    let port = env::var("PORT").ok().and_then(|p| p.parse().ok()).unwrap_or(8081);
    let backend = env::var("BACKEND").unwrap_or_else(|_| "localhost:9000".to_owned());
    let pod = env::var("HOSTNAME").unwrap_or_else(|_| "unknown".to_owned());
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("{pod}: the shop is open on port {port}, stocked through {backend}");
    for client in listener.incoming() {
        // The container is asked to end.
        let Ok(client) = client else { break };
        if let Err(error) = serve(client, &pod, &backend) {
            eprintln!("customer lost: {error}");
        }
    }
    Ok(())
}

fn serve(mut client: TcpStream, pod: &str, backend: &str) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE)).ok();
    let mut request = [0; 4096];
    if client.read(&mut request)? == 0 {
        return Ok(());
    }
    let (code, body) = match stock(backend) {
        Ok((from, edition)) => {
            ("200 OK", format!("shop {pod} sells edition {edition} of pod {from}, bought at {backend}\n"))
        }
        Err(error) => ("502 Bad Gateway", format!("shop {pod} got nothing from {backend}: {error}\n")),
    };
    write!(
        client,
        "HTTP/1.1 {code}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nx-pod: {pod}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Asks the backend for its edition: who served it, and which it is.
fn stock(backend: &str) -> io::Result<(String, String)> {
    let mut stream = TcpStream::connect(backend)?;
    stream.set_read_timeout(Some(PATIENCE)).ok();
    stream.write_all(b"GET /edition.txt HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(MAX_BYTES as u64).read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .filter(|(head, _)| head.starts_with("HTTP/1.1 200"))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the backend is not stocked"))?;
    let from = head.lines().find_map(|l| l.strip_prefix("x-pod: ")).unwrap_or("unknown");
    Ok((from.to_owned(), body.trim().to_owned()))
}
