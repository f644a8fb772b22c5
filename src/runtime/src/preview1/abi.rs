//! The numbers of WASI 0.1: what guests were compiled with, so nothing here can ever change.
//!
//! The older import module, `wasi_unstable` (snapshot 0), has the same functions but for `sock_accept`, and
//! differs in three places, which [`Snapshot`] knows: `filestat` counts links in 32 bits, `whence` begins with
//! "current", and a clock subscription has one field more.

/// Which of the two import modules a call came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Snapshot {
    /// `wasi_unstable`.
    Zero,
    /// `wasi_snapshot_preview1`.
    One,
}

/// What a function answers if it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Errno {
    Acces = 2,
    AddrInUse = 3,
    AddrNotAvail = 4,
    Again = 6,
    Badf = 8,
    Busy = 10,
    ConnAborted = 13,
    ConnRefused = 14,
    ConnReset = 15,
    Exist = 20,
    Fault = 21,
    Fbig = 22,
    HostUnreach = 23,
    Ilseq = 25,
    Inval = 28,
    Io = 29,
    IsDir = 31,
    Loop = 32,
    Mfile = 33,
    Mlink = 34,
    MsgSize = 35,
    NameTooLong = 37,
    NoBufs = 42,
    NoEnt = 44,
    NoMem = 48,
    NoSpc = 51,
    NotConn = 53,
    NotDir = 54,
    NotEmpty = 55,
    NotSock = 57,
    NotSup = 58,
    Overflow = 61,
    Perm = 63,
    Pipe = 64,
    RoFs = 69,
    Spipe = 70,
    TimedOut = 73,
    Xdev = 75,
    NotCapable = 76,
}

pub(super) type Result<T> = std::result::Result<T, Errno>;

/// The number that a function answers.
pub(super) fn code(result: Result<()>) -> u32 {
    result.err().map_or(0, |errno| errno as u32)
}

/// What may be done with a descriptor.
pub(super) mod rights {
    pub(in super::super) const FD_DATASYNC: u64 = 1;
    pub(in super::super) const FD_READ: u64 = 1 << 1;
    pub(in super::super) const FD_SEEK: u64 = 1 << 2;
    pub(in super::super) const FD_FDSTAT_SET_FLAGS: u64 = 1 << 3;
    pub(in super::super) const FD_SYNC: u64 = 1 << 4;
    pub(in super::super) const FD_TELL: u64 = 1 << 5;
    pub(in super::super) const FD_WRITE: u64 = 1 << 6;
    pub(in super::super) const FD_ADVISE: u64 = 1 << 7;
    pub(in super::super) const FD_ALLOCATE: u64 = 1 << 8;
    pub(in super::super) const PATH_CREATE_DIRECTORY: u64 = 1 << 9;
    pub(in super::super) const PATH_CREATE_FILE: u64 = 1 << 10;
    pub(in super::super) const PATH_LINK_SOURCE: u64 = 1 << 11;
    pub(in super::super) const PATH_LINK_TARGET: u64 = 1 << 12;
    pub(in super::super) const PATH_OPEN: u64 = 1 << 13;
    pub(in super::super) const FD_READDIR: u64 = 1 << 14;
    pub(in super::super) const PATH_READLINK: u64 = 1 << 15;
    pub(in super::super) const PATH_RENAME_SOURCE: u64 = 1 << 16;
    pub(in super::super) const PATH_RENAME_TARGET: u64 = 1 << 17;
    pub(in super::super) const PATH_FILESTAT_GET: u64 = 1 << 18;
    pub(in super::super) const PATH_FILESTAT_SET_SIZE: u64 = 1 << 19;
    pub(in super::super) const PATH_FILESTAT_SET_TIMES: u64 = 1 << 20;
    pub(in super::super) const FD_FILESTAT_GET: u64 = 1 << 21;
    pub(in super::super) const FD_FILESTAT_SET_SIZE: u64 = 1 << 22;
    pub(in super::super) const FD_FILESTAT_SET_TIMES: u64 = 1 << 23;
    pub(in super::super) const PATH_SYMLINK: u64 = 1 << 24;
    pub(in super::super) const PATH_REMOVE_DIRECTORY: u64 = 1 << 25;
    pub(in super::super) const PATH_UNLINK_FILE: u64 = 1 << 26;
    pub(in super::super) const POLL_FD_READWRITE: u64 = 1 << 27;
    pub(in super::super) const SOCK_SHUTDOWN: u64 = 1 << 28;
    pub(in super::super) const SOCK_ACCEPT: u64 = 1 << 29;

    /// Of a regular file that is open for reading and writing.
    pub(in super::super) const FILE: u64 = FD_DATASYNC
        | FD_READ
        | FD_SEEK
        | FD_FDSTAT_SET_FLAGS
        | FD_SYNC
        | FD_TELL
        | FD_WRITE
        | FD_ADVISE
        | FD_ALLOCATE
        | FD_FILESTAT_GET
        | FD_FILESTAT_SET_SIZE
        | FD_FILESTAT_SET_TIMES
        | POLL_FD_READWRITE;
    /// Those of [`FILE`] that only a writer has.
    pub(in super::super) const WRITING: u64 = FD_WRITE | FD_ALLOCATE | FD_FILESTAT_SET_SIZE;
    /// Of a directory.
    pub(in super::super) const DIRECTORY: u64 = FD_DATASYNC
        | FD_FDSTAT_SET_FLAGS
        | FD_SYNC
        | PATH_CREATE_DIRECTORY
        | PATH_CREATE_FILE
        | PATH_LINK_SOURCE
        | PATH_LINK_TARGET
        | PATH_OPEN
        | FD_READDIR
        | PATH_READLINK
        | PATH_RENAME_SOURCE
        | PATH_RENAME_TARGET
        | PATH_FILESTAT_GET
        | PATH_FILESTAT_SET_SIZE
        | PATH_FILESTAT_SET_TIMES
        | FD_FILESTAT_GET
        | FD_FILESTAT_SET_TIMES
        | PATH_SYMLINK
        | PATH_REMOVE_DIRECTORY
        | PATH_UNLINK_FILE;
    /// What a directory hands down to what is opened in it.
    pub(in super::super) const INHERITING: u64 = DIRECTORY | FILE;
    /// Of stdin, and of what is read like it. Neither seek nor tell: that is how C libraries know a terminal.
    pub(in super::super) const INPUT: u64 =
        FD_READ | FD_FDSTAT_SET_FLAGS | FD_FILESTAT_GET | POLL_FD_READWRITE;
    /// Of stdout and stderr.
    pub(in super::super) const OUTPUT: u64 =
        FD_WRITE | FD_FDSTAT_SET_FLAGS | FD_FILESTAT_GET | POLL_FD_READWRITE;
    /// Of a connection.
    pub(in super::super) const STREAM: u64 = INPUT | OUTPUT | SOCK_SHUTDOWN;
    /// Of a listener.
    pub(in super::super) const LISTENER: u64 = INPUT | SOCK_ACCEPT;
}

/// How a descriptor behaves.
pub(super) mod fdflags {
    pub(in super::super) const APPEND: u16 = 1;
    pub(in super::super) const DSYNC: u16 = 2;
    pub(in super::super) const NONBLOCK: u16 = 4;
    pub(in super::super) const RSYNC: u16 = 8;
    pub(in super::super) const SYNC: u16 = 16;
    pub(in super::super) const ALL: u16 = APPEND | DSYNC | NONBLOCK | RSYNC | SYNC;
}

/// How `path_open` opens.
pub(super) mod oflags {
    pub(in super::super) const CREAT: u32 = 1;
    pub(in super::super) const DIRECTORY: u32 = 2;
    pub(in super::super) const EXCL: u32 = 4;
    pub(in super::super) const TRUNC: u32 = 8;
}

/// Which times are set, and to what.
pub(super) mod fstflags {
    pub(in super::super) const ATIM: u32 = 1;
    pub(in super::super) const ATIM_NOW: u32 = 2;
    pub(in super::super) const MTIM: u32 = 4;
    pub(in super::super) const MTIM_NOW: u32 = 8;
}

/// What a descriptor or name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileType {
    Unknown = 0,
    CharacterDevice = 2,
    Directory = 3,
    RegularFile = 4,
    SocketStream = 6,
    SymbolicLink = 7,
}

/// Bit of `lookupflags`: a link at the end of the path is followed.
pub(super) const SYMLINK_FOLLOW: u32 = 1;

/// What a seek is relative to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whence {
    Start,
    Current,
    End,
}

/// Clocks.
pub(super) const CLOCK_REALTIME: u32 = 0;
pub(super) const CLOCK_MONOTONIC: u32 = 1;
pub(super) const CLOCK_PROCESS_CPUTIME: u32 = 2;
pub(super) const CLOCK_THREAD_CPUTIME: u32 = 3;

/// Kinds of events, and of subscriptions to them.
pub(super) const EVENT_CLOCK: u8 = 0;
pub(super) const EVENT_FD_READ: u8 = 1;
pub(super) const EVENT_FD_WRITE: u8 = 2;

/// Bytes of one event.
pub(super) const EVENT_BYTES: u32 = 32;

/// Bytes of a directory entry before its name.
pub(super) const DIRENT_BYTES: usize = 24;

/// What `fd_prestat_get` says of a directory.
pub(super) const PREOPEN_DIRECTORY: u8 = 0;
/// What it says of a listener. The standard has no number for it; who looks for directories skips it.
pub(super) const PREOPEN_LISTENER: u8 = 1;

/// A clock subscription's fields: where they begin, from the start of the subscription.
pub(super) struct ClockFields {
    pub(super) id: u32,
    pub(super) timeout: u32,
    pub(super) flags: u32,
}

impl Snapshot {
    pub(super) fn whence(self, whence: u32) -> Result<Whence> {
        let order = match self {
            Snapshot::Zero => [Whence::Current, Whence::End, Whence::Start],
            Snapshot::One => [Whence::Start, Whence::Current, Whence::End],
        };
        usize::try_from(whence).ok().and_then(|at| order.get(at)).copied().ok_or(Errno::Inval)
    }

    pub(super) fn subscription_bytes(self) -> u32 {
        match self {
            Snapshot::Zero => 56,
            Snapshot::One => 48,
        }
    }

    pub(super) fn clock_fields(self) -> ClockFields {
        match self {
            Snapshot::Zero => ClockFields { id: 24, timeout: 32, flags: 48 },
            Snapshot::One => ClockFields { id: 16, timeout: 24, flags: 40 },
        }
    }

    /// A `filestat`, of which the older snapshot takes the first 56 bytes.
    pub(super) fn filestat(self, stat: &Filestat) -> ([u8; 64], usize) {
        let mut out = [0; 64];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &stat.device.to_le_bytes());
        put(8, &stat.inode.to_le_bytes());
        put(16, &[stat.file_type as u8]);
        let rest = [stat.size, stat.accessed, stat.modified, stat.changed];
        let begin = match self {
            Snapshot::Zero => {
                put(20, &u32::try_from(stat.links).unwrap_or(u32::MAX).to_le_bytes());
                24
            }
            Snapshot::One => {
                put(24, &stat.links.to_le_bytes());
                32
            }
        };
        for (number, value) in rest.iter().enumerate() {
            put(begin + 8 * number, &value.to_le_bytes());
        }
        (out, begin + 8 * rest.len())
    }
}

/// What is told of a file; times in nanoseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filestat {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) file_type: FileType,
    pub(super) links: u64,
    pub(super) size: u64,
    pub(super) accessed: u64,
    pub(super) modified: u64,
    pub(super) changed: u64,
}

impl Filestat {
    /// Of something that is no file.
    pub(super) fn of(file_type: FileType) -> Filestat {
        Filestat { device: 0, inode: 0, file_type, links: 0, size: 0, accessed: 0, modified: 0, changed: 0 }
    }
}
