//! Errors of files and of the network in the numbers of WASI 0.1. The one place where they are translated.

use std::io;

use coracle_network::NetworkError;
use coracle_vfs::VfsError;

use super::abi::Errno;

impl From<VfsError> for Errno {
    fn from(error: VfsError) -> Errno {
        match error {
            VfsError::NoEntry => Errno::NoEnt,
            VfsError::Exists => Errno::Exist,
            VfsError::NotDirectory => Errno::NotDir,
            VfsError::IsDirectory => Errno::IsDir,
            VfsError::NotEmpty => Errno::NotEmpty,
            VfsError::NoSpace => Errno::NoSpc,
            VfsError::ReadOnly => Errno::RoFs,
            VfsError::Loop => Errno::Loop,
            VfsError::NameTooLong => Errno::NameTooLong,
            VfsError::Invalid => Errno::Inval,
            VfsError::CrossDevice => Errno::Xdev,
            VfsError::Access => Errno::Acces,
            VfsError::NotPermitted => Errno::Perm,
            VfsError::BadDescriptor => Errno::Badf,
            VfsError::TooManyLinks => Errno::Mlink,
            VfsError::TooManyOpen => Errno::Mfile,
            VfsError::Busy => Errno::Busy,
            VfsError::TooLarge => Errno::Fbig,
            VfsError::IllegalByteSequence => Errno::Ilseq,
            VfsError::Unsupported => Errno::NotSup,
            VfsError::Io(_) => Errno::Io,
        }
    }
}

impl From<NetworkError> for Errno {
    fn from(error: NetworkError) -> Errno {
        match error {
            NetworkError::NoAddress(_) | NetworkError::AddressNotAvailable(_) => Errno::AddrNotAvail,
            NetworkError::AddressInUse(_) => Errno::AddrInUse,
            // Draining: what Linux says after `shutdown(2)` on a listener.
            NetworkError::InvalidAddress(_) | NetworkError::Draining => Errno::Inval,
            NetworkError::Refused(_) => Errno::ConnRefused,
            NetworkError::Reset(_) => Errno::ConnReset,
            NetworkError::TimedOut(_) => Errno::TimedOut,
            NetworkError::Unreachable(_) => Errno::HostUnreach,
            NetworkError::Denied(_) => Errno::Acces,
            NetworkError::Multicast(_) => Errno::NotSup,
            NetworkError::Limit(_) | NetworkError::NoBuffers => Errno::NoBufs,
            NetworkError::DatagramTooLarge(_) => Errno::MsgSize,
            NetworkError::NotConnected => Errno::NotConn,
            NetworkError::WouldBlock => Errno::Again,
            NetworkError::Closed => Errno::ConnAborted,
            NetworkError::Kernel { kind, .. } => of_kind(kind),
        }
    }
}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Errno {
        of_kind(error.kind())
    }
}

/// `io::ErrorKind` is open, so this cannot name them all.
fn of_kind(kind: io::ErrorKind) -> Errno {
    match kind {
        io::ErrorKind::WouldBlock => Errno::Again,
        io::ErrorKind::BrokenPipe => Errno::Pipe,
        io::ErrorKind::ConnectionReset => Errno::ConnReset,
        io::ErrorKind::ConnectionAborted => Errno::ConnAborted,
        io::ErrorKind::ConnectionRefused => Errno::ConnRefused,
        io::ErrorKind::TimedOut => Errno::TimedOut,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Errno::HostUnreach,
        io::ErrorKind::NotConnected => Errno::NotConn,
        io::ErrorKind::PermissionDenied => Errno::Acces,
        io::ErrorKind::InvalidInput => Errno::Inval,
        _ => Errno::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers that C libraries and Go have in their tables.
    #[test]
    fn numbers_are_those_that_guests_know() {
        #[track_caller]
        fn check(error: impl Into<Errno>, expected: u32) {
            assert_eq!(error.into() as u32, expected);
        }
        check(VfsError::NoEntry, 44);
        check(VfsError::Exists, 20);
        check(VfsError::NotDirectory, 54);
        check(VfsError::IsDirectory, 31);
        check(VfsError::NotEmpty, 55);
        check(VfsError::NoSpace, 51);
        check(VfsError::ReadOnly, 69);
        check(VfsError::Loop, 32);
        check(VfsError::NameTooLong, 37);
        check(VfsError::Invalid, 28);
        check(VfsError::CrossDevice, 75);
        check(VfsError::Access, 2);
        check(VfsError::NotPermitted, 63);
        check(VfsError::BadDescriptor, 8);
        check(VfsError::TooManyLinks, 34);
        check(VfsError::TooManyOpen, 33);
        check(VfsError::Busy, 10);
        check(VfsError::TooLarge, 22);
        check(VfsError::IllegalByteSequence, 25);
        check(VfsError::Unsupported, 58);
        check(VfsError::Io(io::Error::other("disk")), 29);
        check(NetworkError::WouldBlock, 6);
        check(NetworkError::Draining, 28);
        check(NetworkError::Closed, 13);
        check(NetworkError::Limit("connections"), 42);
        check(io::Error::from(io::ErrorKind::BrokenPipe), 64);
        check(io::Error::from(io::ErrorKind::ConnectionReset), 15);
        check(io::Error::from(io::ErrorKind::NotConnected), 53);
        check(io::Error::from(io::ErrorKind::TimedOut), 73);
    }
}
