//! One of two programs that talk over loopback, with blocking sockets as most programs use them.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

/// Bytes of a message that goes there and back.
const MESSAGE: usize = 64;

/// Bytes of a write when as much as possible is to be moved.
const BLOCK: usize = 64 << 10;

/// Runs what the arguments say; `clock` tells the time since some moment. Answers the nanoseconds of the median
/// and of the 99th percentile of the round trips, or of the whole transfer, or nothing.
pub(crate) fn run(args: &[String], clock: &dyn Fn() -> Duration) -> io::Result<String> {
    let number = |at: usize| {
        let text = args.get(at).map_or("", String::as_str);
        text.parse::<u64>().map_err(|_| io::Error::other(format!("a number should be where {text:?} is")))
    };
    let port = u16::try_from(number(1)?).map_err(io::Error::other)?;
    match args.first().map_or("", String::as_str) {
        "pong" => pong(port),
        "ping" => ping(port, number(2)?, clock),
        "sink" => sink(port),
        "source" => source(port, number(2)?, clock),
        other => Err(io::Error::other(format!("ping, pong, source or sink, not {other:?}"))),
    }
}

fn accept(port: u16) -> io::Result<TcpStream> {
    let (stream, _) = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?.accept()?;
    nodelay(&stream);
    Ok(stream)
}

/// Asks until the other one listens.
fn dial(port: u16) -> io::Result<TcpStream> {
    loop {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            Ok(stream) => {
                nodelay(&stream);
                return Ok(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::thread::yield_now(),
            Err(error) => return Err(error),
        }
    }
}

/// WASI has no such option: there nothing waits to be filled up.
fn nodelay(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
}

fn pong(port: u16) -> io::Result<String> {
    let mut stream = accept(port)?;
    let mut message = [0; MESSAGE];
    while stream.read_exact(&mut message).is_ok() {
        stream.write_all(&message)?;
    }
    Ok(String::new())
}

fn ping(port: u16, rounds: u64, clock: &dyn Fn() -> Duration) -> io::Result<String> {
    let mut stream = dial(port)?;
    let mut message = [7; MESSAGE];
    let mut times = Vec::new();
    // The first tenth warms up.
    for round in 0..rounds + rounds / 10 {
        let began = clock();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        let took = clock() - began;
        if round >= rounds / 10 {
            times.push(took);
        }
    }
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).map_or(0, Duration::as_nanos);
    Ok(format!("{} {}", at(50), at(99)))
}

fn sink(port: u16) -> io::Result<String> {
    let mut stream = accept(port)?;
    let mut block = vec![0; BLOCK];
    while stream.read(&mut block)? > 0 {}
    stream.write_all(b"!")?;
    Ok(String::new())
}

fn source(port: u16, bytes: u64, clock: &dyn Fn() -> Duration) -> io::Result<String> {
    let mut stream = dial(port)?;
    let block = vec![7; BLOCK];
    let began = clock();
    for _ in 0..bytes / BLOCK as u64 {
        stream.write_all(&block)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    // All of it has been read when the other one says so.
    stream.read_exact(&mut [0])?;
    Ok((clock() - began).as_nanos().to_string())
}
