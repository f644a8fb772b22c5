//! HTTP server on `std::net`: serves a folder and counts what it serves.
//!
//! Shows a plain `TcpListener` program as a container: it binds 0.0.0.0 inside its pod, a Service
//! reaches it, and its neighbours see it on localhost. `GET /counters` tells the counters that the
//! `adapter` example reads; every answer names the pod in `X-Pod`.
//!
//! `WEB_ROOT` is the folder (default `/www`), `PORT` the port (default 8080). One thread serves all
//! connections with non-blocking sockets: a slow client delays nobody.

mod connection;
mod files;

use std::{env, io, net::TcpListener, path::PathBuf, thread, time::Duration};

use connection::Connection;

/// Connections at once; further ones wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 256;
/// How long the server rests when all of its clients are silent.
const PAUSE: Duration = Duration::from_millis(1);

/// What the server has done so far.
#[derive(Default)]
pub struct Counters {
    pub requests: u64,
    pub not_found: u64,
    pub bytes: u64,
}

/// What every connection needs to answer.
pub struct Site {
    pub root: PathBuf,
    pub pod: String,
    pub counters: Counters,
}

fn main() -> io::Result<()> {
    let port = env::var("PORT").ok().and_then(|p| p.parse().ok()).unwrap_or(8080);
    let mut site = Site {
        root: env::var_os("WEB_ROOT").map_or_else(|| PathBuf::from("/www"), PathBuf::from),
        pod: env::var("HOSTNAME").unwrap_or_else(|_| "unknown".to_owned()),
        counters: Counters::default(),
    };
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("{} serves {} on port {port}", site.pod, site.root.display());

    let mut connections: Vec<Connection> = Vec::new();
    let mut stopping = false;
    while !stopping || !connections.is_empty() {
        // With nobody connected the server sleeps in accept and costs nothing.
        listener.set_nonblocking(!connections.is_empty())?;
        let mut busy = false;
        while !stopping && connections.len() < MAX_CONNECTIONS {
            match listener.accept() {
                Ok((stream, _)) => {
                    busy = true;
                    stream.set_nonblocking(true)?;
                    let mut connection = Connection::new(stream);
                    // Most clients have asked already, and are content with one answer.
                    if connection.advance(&mut site).is_ok_and(|step| !step.finished) {
                        connections.push(connection);
                        listener.set_nonblocking(true)?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The container is asked to end: whoever has asked is still answered.
                Err(_) => stopping = true,
            }
        }
        connections.retain_mut(|connection| match connection.advance(&mut site) {
            Ok(step) => {
                busy |= step.moved;
                !(step.finished || stopping && connection.is_idle())
            }
            Err(_) => false,
        });
        if !busy && !connections.is_empty() {
            thread::sleep(PAUSE);
        }
    }
    println!("{} ends as asked", site.pod);
    Ok(())
}
