//! Any bytes as a manifest, as its configuration, as the head of a module and as a reference.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| coracle_image::fuzz::manifest(bytes));
