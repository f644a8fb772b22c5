//! What differs between a module in a node and a test on the developer's machine.

#[cfg(target_os = "wasi")]
pub use wasi::{converse, exit, initial_cwd, why_not_written};

#[cfg(not(target_os = "wasi"))]
pub use native::{converse, exit, initial_cwd, why_not_written};

#[cfg(target_os = "wasi")]
mod wasi {
    use std::{
        io::{self, Read, Write},
        net::{Shutdown, TcpStream},
        path::{Path, PathBuf},
        thread,
        time::Duration,
    };

    use wasip2::{
        cli,
        clocks::monotonic_clock,
        filesystem::{
            preopens,
            types::{DescriptorFlags, ErrorCode, OpenFlags, PathFlags},
        },
        io::{poll, streams::StreamError},
    };

    use crate::call::Out;

    /// How long a quiet conversation rests before the network is asked again; input wakes it at once.
    const PAUSE: Duration = Duration::from_millis(5);

    /// Ends the module. A code other than 0 and 1 needs the `exit-with-code` of newer 0.2 hosts.
    pub fn exit(code: u8) -> ! {
        if code > 1 {
            cli::exit::exit_with_code(code);
        }
        std::process::exit(code.into())
    }

    /// The folder that the container starts in.
    pub fn initial_cwd() -> Option<PathBuf> {
        cli::environment::initial_cwd().map(PathBuf::from)
    }

    /// Why nothing can be written to the end of a file, in words that the C library has no way to say. Asked of the host
    /// itself, with a byte that is taken back if there is room for it now.
    pub fn why_not_written(path: &Path) -> Option<io::Error> {
        let (root, _) = preopens::get_directories().into_iter().find(|(_, name)| name == "/")?;
        let path = path.strip_prefix("/").ok()?.to_str()?;
        let file =
            root.open_at(PathFlags::SYMLINK_FOLLOW, path, OpenFlags::empty(), DescriptorFlags::WRITE).ok()?;
        let end = file.stat().ok()?.size;
        match file.write(&[0], end) {
            Ok(_) => {
                file.set_size(end).ok();
                None
            }
            Err(ErrorCode::InsufficientSpace) => Some(io::ErrorKind::StorageFull.into()),
            Err(ErrorCode::Quota) => Some(io::ErrorKind::QuotaExceeded.into()),
            Err(ErrorCode::FileTooLarge) => Some(io::ErrorKind::FileTooLarge.into()),
            Err(_) => None,
        }
    }

    /// Carries the module's input to the stream and the stream to `out`, until the other end closes.
    pub fn converse(mut stream: TcpStream, out: &Out) -> io::Result<()> {
        let (mut out, stdin) = (out.clone(), cli::stdin::get_stdin());
        let mut buffer = [0; 8 * 1024];
        stream.set_nonblocking(true)?;
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => {
                    out.write_all(&buffer[..n])?;
                    out.flush()?;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            match stdin.read(buffer.len() as u64) {
                Ok(bytes) if bytes.is_empty() => {
                    let timer = monotonic_clock::subscribe_duration(PAUSE.as_nanos() as u64);
                    poll::poll(&[&stdin.subscribe(), &timer]);
                }
                Ok(bytes) => send(&mut stream, &bytes)?,
                Err(StreamError::Closed | StreamError::LastOperationFailed(_)) => break,
            }
        }
        stream.shutdown(Shutdown::Write)?;
        stream.set_nonblocking(false)?;
        io::copy(&mut stream, &mut out)?;
        out.flush()
    }

    fn send(stream: &mut TcpStream, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match stream.write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(PAUSE),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(not(target_os = "wasi"))]
mod native {
    use std::{
        env, io,
        net::TcpStream,
        path::{Path, PathBuf},
    };

    use crate::call::Out;

    pub fn exit(code: u8) -> ! {
        std::process::exit(code.into())
    }

    pub fn initial_cwd() -> Option<PathBuf> {
        env::current_dir().ok()
    }

    /// Other C libraries say it themselves.
    pub fn why_not_written(_: &Path) -> Option<io::Error> {
        None
    }

    /// Only a module waits for its input and for the network at once.
    pub fn converse(_: TcpStream, _: &Out) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
