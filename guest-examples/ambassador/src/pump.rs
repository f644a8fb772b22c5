//! One direction of a proxied connection.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
};

/// Bytes under way in one direction; the reader is not asked for more while the buffer is full.
const BUFFER: usize = 16 * 1024;

/// Copies from one stream to another until the source ends, then half-closes the target.
#[derive(Default)]
pub struct Pump {
    buffer: Vec<u8>,
    written: usize,
    source_ended: bool,
    closed: bool,
}

impl Pump {
    /// Moves what can be moved without waiting; true if anything moved.
    pub fn advance(&mut self, mut from: &TcpStream, mut to: &TcpStream) -> io::Result<bool> {
        let mut moved = false;
        loop {
            if self.written < self.buffer.len() {
                match to.write(&self.buffer[self.written..]) {
                    Ok(n) => {
                        self.written += n;
                        moved = true;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(moved),
                    Err(error) => return Err(error),
                }
            } else if self.source_ended {
                if !self.closed {
                    self.closed = true;
                    // The peer may be gone already; then there is nobody left to tell.
                    let _ = to.shutdown(Shutdown::Write);
                    moved = true;
                }
                return Ok(moved);
            } else {
                self.buffer.resize(BUFFER, 0);
                self.written = 0;
                match from.read(&mut self.buffer) {
                    Ok(n) => {
                        self.buffer.truncate(n);
                        self.source_ended = n == 0;
                        moved = true;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        self.buffer.clear();
                        return Ok(moved);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// True when everything was passed on and the target was told.
    pub fn finished(&self) -> bool {
        self.closed
    }
}
