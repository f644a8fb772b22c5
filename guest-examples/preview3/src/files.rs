//! Files: whole ones, as streams.

use wasip3::filesystem::{
    preopens::get_directories,
    types::{Descriptor, DescriptorFlags, OpenFlags, PathFlags},
};

use crate::{Failure, failed};

/// The root, and what is left of an absolute path below it.
fn below_root(path: &str) -> Result<(Descriptor, String), Failure> {
    let (root, _) = get_directories().pop().ok_or("there are no files")?;
    let path = path.trim_start_matches('/');
    Ok((root, if path.is_empty() { ".".to_owned() } else { path.to_owned() }))
}

async fn open(path: &str, open_flags: OpenFlags, flags: DescriptorFlags) -> Result<Descriptor, Failure> {
    let (root, path) = below_root(path)?;
    root.open_at(PathFlags::SYMLINK_FOLLOW, path, open_flags, flags).await.map_err(failed)
}

pub(crate) async fn write(path: &str, text: &str, append: bool) -> Result<(), Failure> {
    let truncate = if append { OpenFlags::empty() } else { OpenFlags::TRUNCATE };
    let file = open(path, OpenFlags::CREATE | truncate, DescriptorFlags::WRITE).await?;
    let (mut writer, reader) = wasip3::wit_stream::new();
    let written = if append { file.append_via_stream(reader) } else { file.write_via_stream(reader, 0) };
    writer.write_all(text.as_bytes().to_vec()).await;
    drop(writer);
    written.await.map_err(failed)
}

pub(crate) async fn read(path: &str) -> Result<Vec<u8>, Failure> {
    let file = open(path, OpenFlags::empty(), DescriptorFlags::READ).await?;
    let (stream, result) = file.read_via_stream(0);
    let bytes = stream.collect().await;
    result.await.map_err(failed)?;
    Ok(bytes)
}

pub(crate) async fn list(path: &str) -> Result<Vec<String>, Failure> {
    let directory = open(path, OpenFlags::DIRECTORY, DescriptorFlags::READ).await?;
    let (stream, result) = directory.read_directory();
    let entries = stream.collect().await;
    result.await.map_err(failed)?;
    Ok(entries.into_iter().map(|entry| entry.name).collect())
}
