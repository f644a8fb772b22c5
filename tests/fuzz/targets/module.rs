//! Any bytes as a module or component, up to where the compiler would begin.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    coracle_runtime::fuzz::module(bytes);
});
