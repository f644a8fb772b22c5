//! From a request path to the bytes of a file below the root.

use std::{fs, io, path::Path};

/// Reads the file that `path` names below `root`; a folder means its `index.html`.
///
/// # Errors
/// `InvalidInput` if the path tries to climb out, else what reading the file says.
pub fn read(root: &Path, path: &str) -> io::Result<(&'static str, Vec<u8>)> {
    let mut file = root.to_path_buf();
    for part in path.split('/').filter(|p| !p.is_empty() && *p != ".") {
        if part == ".." {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no way up"));
        }
        file.push(part);
    }
    if fs::metadata(&file)?.is_dir() {
        file.push("index.html");
    }
    let media_type = match file.extension().and_then(|e| e.to_str()) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css",
        Some("js") => "text/javascript",
        Some("json") => "application/json",
        Some("svg") => "image/svg+xml",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    };
    Ok((media_type, fs::read(&file)?))
}
