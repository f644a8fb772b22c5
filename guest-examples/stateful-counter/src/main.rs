//! Counts its requests in a volume.
//!
//! Shows state that outlives its pod: the count is in `COUNT_DIR` (default `/data`), a claim of the stateful set's
//! template, and the next pod of the same name goes on from there. A count is on disk before it is told.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use kit::{Answer, Request};

fn main() -> io::Result<()> {
    let file = PathBuf::from(kit::var("COUNT_DIR", "/data")).join("count");
    let pod = kit::pod();
    let mut count = read(&file)?;
    println!("{pod}: goes on from {count}");
    kit::serve(kit::number("PORT", 8080) as u16, move |request: &Request| {
        match (request.method.as_str(), request.path.as_str()) {
            ("GET" | "HEAD", "/healthz") => Answer::text("ok\n"),
            ("GET" | "HEAD", "/count") => Answer::text(format!("{count}\n")),
            ("GET", "/") => match write(&file, count + 1) {
                Ok(()) => {
                    count += 1;
                    Answer::text(format!("{pod} was asked {count} times\n"))
                }
                Err(error) => Answer::error(503, format!("{}: {error}", file.display())),
            },
            _ => Answer::not_found(),
        }
    })
}

/// The count; a folder without one begins at 0.
fn read(file: &Path) -> io::Result<u64> {
    match fs::read_to_string(file) {
        Ok(text) => {
            text.trim().parse().map_err(|_| io::Error::other(format!("{} holds no count", file.display())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// Replaces the count whole: whoever reads after a crash sees the old or the new one.
fn write(file: &Path, count: u64) -> io::Result<()> {
    let new = file.with_extension("new");
    let mut to = File::create(&new)?;
    writeln!(to, "{count}")?;
    to.sync_all()?;
    fs::rename(new, file)
}
