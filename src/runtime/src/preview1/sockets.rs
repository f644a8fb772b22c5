//! `sock_*`: listeners that the program finds open, and the connections it accepts.

use std::net::Shutdown;

use bytes::Buf;

use super::Guest;
use super::abi::{Errno, Result, fdflags, rights};
use super::files::fd_flags;
use super::memory::TRANSFER;
use super::table::{Descriptor, Kind, OpenStream};

/// Flags of `sock_recv`.
const RECV_PEEK: u32 = 1;
const RECV_WAITALL: u32 = 2;

/// Directions of `sock_shutdown`.
const SHUT_READ: u32 = 1;
const SHUT_WRITE: u32 = 2;

/// Bytes that can be looked at before they are taken. Programs look at the first few to tell protocols apart;
/// what is held here nobody else is charged for.
const PEEK: usize = 4 << 10;

impl OpenStream {
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if !self.peeked.is_empty() {
            let count = self.peeked.len().min(buffer.len());
            self.peeked.copy_to_slice(&mut buffer[..count]);
            return Ok(count);
        }
        let count = self.connection.stream().try_read(buffer)?;
        self.connection.received(count);
        Ok(count)
    }

    pub(super) fn write(&mut self, data: &[u8]) -> Result<usize> {
        let count = self.connection.stream().try_write(data)?;
        self.connection.sent(count);
        Ok(count)
    }

    /// What comes next, at most [`PEEK`] bytes of it.
    fn peek(&mut self) -> Result<bytes::Bytes> {
        if self.peeked.is_empty() {
            self.peeked = self.connection.stream().try_read_bytes(PEEK)?;
            self.connection.received(self.peeked.len());
        }
        Ok(self.peeked.clone())
    }
}

impl Guest<'_> {
    /// Takes the next connection. Without a place for it, it stays in the backlog.
    pub(super) fn sock_accept(&mut self, fd: u32, flags: u32, result_at: u32) -> Result<()> {
        self.memory.check(result_at, 4)?;
        let flags = fd_flags(flags)?;
        if flags & !fdflags::NONBLOCK != 0 {
            return Err(Errno::Inval);
        }
        let listening = self.preview1.table.get(fd)?;
        let Kind::Listener { listener, .. } = &listening.kind else {
            return Err(if matches!(listening.kind, Kind::Stream(_)) {
                Errno::Inval
            } else {
                Errno::NotSock
            });
        };
        listening.may(rights::SOCK_ACCEPT)?;
        let inheriting = listening.inheriting;
        let place = self.sockets.place().map_err(|_| Errno::Mfile)?;
        let connection = self.sockets.connection(listener.try_accept()?);
        let stream = OpenStream { connection, peeked: bytes::Bytes::new(), _place: place };
        let mut descriptor = Descriptor::new(Kind::Stream(Box::new(stream)), flags);
        descriptor.base &= inheriting;
        let new = self.preview1.table.push(descriptor)?;
        self.memory.put_u32(result_at, new)
    }

    /// `received` counts what an earlier attempt of the same call got.
    pub(super) fn sock_recv(
        &mut self,
        fd: u32,
        list: u32,
        count: u32,
        flags: u32,
        (length_at, flags_at): (u32, u32),
        received: &mut usize,
    ) -> Result<()> {
        self.memory.check(length_at, 4)?;
        self.memory.check(flags_at, 2)?;
        if flags & !(RECV_PEEK | RECV_WAITALL) != 0 {
            return Err(Errno::Inval);
        }
        let descriptor = self.preview1.table.get_mut(fd)?;
        let nonblocking = descriptor.nonblocking();
        let may = descriptor.may(rights::FD_READ);
        let Kind::Stream(stream) = &mut descriptor.kind else { return Err(not_a_stream(&descriptor.kind)) };
        may?;
        if flags & RECV_PEEK != 0 {
            let mut next = stream.peek()?;
            *received = self.memory.transfer(list, count, 0, |part| {
                let count = next.len().min(part.len());
                next.copy_to_slice(&mut part[..count]);
                Ok(count)
            })?;
        } else {
            let wanted = self.memory.length_of(list, count)?.min(TRANSFER);
            loop {
                let part = self.memory.transfer(list, count, *received, |part| stream.read(part));
                let all = match part {
                    Ok(part) => {
                        *received += part;
                        part == 0 || *received >= wanted
                    }
                    Err(Errno::Again) if *received > 0 => nonblocking,
                    Err(_) if *received > 0 => true,
                    Err(error) => return Err(error),
                };
                if all || flags & RECV_WAITALL == 0 {
                    break;
                }
                if part.is_err() {
                    return Err(Errno::Again);
                }
            }
        }
        self.memory.put(flags_at, &0_u16.to_le_bytes())?;
        self.put_count(length_at, *received)
    }

    pub(super) fn sock_send(
        &mut self,
        fd: u32,
        list: u32,
        count: u32,
        flags: u32,
        length_at: u32,
    ) -> Result<()> {
        self.memory.check(length_at, 4)?;
        if flags != 0 {
            return Err(Errno::Inval);
        }
        let descriptor = self.preview1.table.get_mut(fd)?;
        let may = descriptor.may(rights::FD_WRITE);
        let Kind::Stream(stream) = &mut descriptor.kind else { return Err(not_a_stream(&descriptor.kind)) };
        may?;
        let sent = self.memory.transfer(list, count, 0, |part| stream.write(part))?;
        self.put_count(length_at, sent)
    }

    pub(super) fn sock_shutdown(&mut self, fd: u32, how: u32) -> Result<()> {
        let how = match how {
            SHUT_READ => Shutdown::Read,
            SHUT_WRITE => Shutdown::Write,
            both if both == SHUT_READ | SHUT_WRITE => Shutdown::Both,
            _ => return Err(Errno::Inval),
        };
        let descriptor = self.preview1.table.get_mut(fd)?;
        let may = descriptor.may(rights::SOCK_SHUTDOWN);
        let Kind::Stream(stream) = &mut descriptor.kind else { return Err(not_a_stream(&descriptor.kind)) };
        may?;
        if how != Shutdown::Write {
            stream.peeked.clear();
        }
        stream.connection.stream().shutdown(how);
        Ok(())
    }
}

fn not_a_stream(kind: &Kind) -> Errno {
    if matches!(kind, Kind::Listener { .. }) { Errno::NotConn } else { Errno::NotSock }
}
