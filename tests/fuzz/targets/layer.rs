//! Any bytes as a layer of an image: tar, by itself or in gzip or zstd, unpacked into a folder that goes.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static DIR: LazyLock<PathBuf> = LazyLock::new(|| tempfile::tempdir().expect("a folder").keep());

fuzz_target!(|bytes: &[u8]| coracle_image::fuzz::layer(bytes, &DIR));
