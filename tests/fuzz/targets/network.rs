//! Any bytes as steps on the stacks of two pods: the machine of the network's own property test.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "the tests beside it use more of it")]
#[path = "../../../src/network/tests/network/machine.rs"]
mod machine;
#[allow(dead_code, reason = "the tests beside it use more of it")]
#[path = "../../../src/network/tests/network/support.rs"]
mod support;

fuzz_target!(|bytes: &[u8]| machine::run(machine::steps_of(bytes)));
