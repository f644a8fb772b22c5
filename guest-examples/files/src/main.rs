//! Makes, writes, reads and removes many small files, and says how long each took: `files FOLDER COUNT BYTES`.
//!
//! What `coracle bench volume` runs, over a volume and over wasmtime-wasi on the host's own memory filesystem.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let folder = args.get(1).map_or("/data", String::as_str);
    let number = |at: usize, default| args.get(at).map_or(Some(default), |text| text.parse().ok());
    let (Some(count), Some(bytes)) = (number(2, 10_000), number(3, 4_096)) else {
        eprintln!("usage: files FOLDER COUNT BYTES");
        return ExitCode::from(2);
    };
    match run(Path::new(folder), count, bytes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("files: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(folder: &Path, count: usize, bytes: usize) -> std::io::Result<()> {
    let folder = folder.join("files");
    fs::create_dir(&folder)?;
    let paths: Vec<PathBuf> = (0..count).map(|n| folder.join(format!("{n:05}"))).collect();
    let mut data = vec![0; bytes];
    data.iter_mut().zip(0_u8..=250).for_each(|(byte, n)| *byte = n);

    let started = Instant::now();
    for path in &paths {
        fs::File::create_new(path)?.write_all(&data)?;
    }
    let written = Instant::now();
    let mut buffer = vec![0; bytes];
    for path in &paths {
        fs::File::open(path)?.read_exact(&mut buffer)?;
        if buffer != data {
            return Err(std::io::Error::other("a file holds something else"));
        }
    }
    let read = Instant::now();
    for path in &paths {
        fs::remove_file(path)?;
    }
    let removed = Instant::now();
    fs::remove_dir(&folder)?;
    let micros = |from: Instant, to: Instant| to.duration_since(from).as_micros();
    println!(
        "write {} read {} remove {}",
        micros(started, written),
        micros(written, read),
        micros(read, removed)
    );
    Ok(())
}
