//! TCP proxy from localhost to a service by name.
//!
//! Shows the ambassador pattern: the main module of a pod talks to `LISTEN` (default
//! `127.0.0.1:9000`) and knows no service; this one looks `UPSTREAM` up (default `web:80`) for every
//! connection and pumps bytes both ways, so that moving the service touches no application.
//! One thread, non-blocking sockets, half-close kept in both directions.

mod pump;

use std::{
    env, io,
    net::{TcpListener, TcpStream, ToSocketAddrs},
    thread,
    time::Duration,
};

use pump::Pump;

/// Connections at once; further ones wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 128;
/// How long the proxy rests when no byte moved.
const PAUSE: Duration = Duration::from_millis(1);

/// A client and the service, with a pump for each direction.
struct Proxied {
    client: TcpStream,
    service: TcpStream,
    to_service: Pump,
    to_client: Pump,
}

fn main() -> io::Result<()> {
    let listen = env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:9000".to_owned());
    let upstream = env::var("UPSTREAM").unwrap_or_else(|_| "web:80".to_owned());
    let listener = TcpListener::bind(&listen)?;
    println!("{listen} leads to {upstream}");

    let mut open: Vec<Proxied> = Vec::new();
    let mut stopping = false;
    while !stopping || !open.is_empty() {
        // With nobody connected the proxy sleeps in accept and costs nothing.
        listener.set_nonblocking(!open.is_empty())?;
        let mut busy = false;
        while !stopping && open.len() < MAX_CONNECTIONS {
            match listener.accept() {
                Ok((client, _)) => {
                    listener.set_nonblocking(true)?;
                    busy = true;
                    match dial(client, &upstream) {
                        Ok(proxied) => open.push(proxied),
                        Err(error) => eprintln!("cannot reach {upstream}: {error}"),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The container is asked to end: whoever is connected may finish.
                Err(_) => stopping = true,
            }
        }
        open.retain_mut(|p| match p.advance() {
            Ok((moved, finished)) => {
                busy |= moved;
                !finished
            }
            Err(error) => {
                eprintln!("connection to {upstream} ended: {error}");
                false
            }
        });
        if !busy && !open.is_empty() {
            thread::sleep(PAUSE);
        }
    }
    Ok(())
}

/// Tries every address of the service, as a resolver may give several.
fn dial(client: TcpStream, upstream: &str) -> io::Result<Proxied> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in upstream.to_socket_addrs()? {
        match TcpStream::connect(address) {
            Ok(service) => {
                client.set_nonblocking(true)?;
                service.set_nonblocking(true)?;
                return Ok(Proxied {
                    client,
                    service,
                    to_service: Pump::default(),
                    to_client: Pump::default(),
                });
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Proxied {
    /// Moves what can be moved: (did anything move, are both directions done).
    fn advance(&mut self) -> io::Result<(bool, bool)> {
        let there = self.to_service.advance(&self.client, &self.service)?;
        let back = self.to_client.advance(&self.service, &self.client)?;
        Ok((there || back, self.to_service.finished() && self.to_client.finished()))
    }
}
