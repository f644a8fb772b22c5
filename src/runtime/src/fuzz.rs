//! Where `tests/fuzz` comes in: what strangers' modules go through before any of them is compiled. Not for anybody
//! else.

use crate::linker::Offers;
use crate::program::{inspect_bytes, piecewise};

/// Says whether bytes are a program that a node would compile; what is not says why, in a sentence or two.
pub fn module(bytes: &[u8]) -> bool {
    let answers = [false, true].map(|wasi_p3| match inspect_bytes(bytes, Offers { wasi_p3 }) {
        Ok(()) => true,
        Err(error) => {
            let text = error.to_string();
            assert!(!text.is_empty() && text.len() <= bytes.len() + 1_000, "{text}");
            false
        }
    });
    assert!(answers[1] || !answers[0], "more is offered, and less can run");
    if answers[1] {
        let compiled = piecewise(bytes).expect("it is valid").unwrap_or_default();
        let all = Offers { wasi_p3: true };
        assert!(compiled.is_empty() || inspect_bytes(&compiled, all).is_ok(), "what is compiled is valid");
    }
    answers[1]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tests::guests;

    fn command() -> Vec<u8> {
        wat::parse_str(guests::OPEN_ALL).unwrap()
    }

    fn component() -> Vec<u8> {
        let text = r#"(component
            (import "wasi:io/poll@0.2.0" (instance (export "pollable" (type (sub resource)))))
            (core module $m (func (export "run") (result i32) (i32.const 0)))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance (export "wasi:cli/run@0.2.0") (export "run" (func $run))))"#;
        wat::parse_str(text).unwrap()
    }

    #[test]
    fn whole_ones_are_programs() {
        assert!(module(&command()));
        assert!(module(&component()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn no_module_ends_the_host(
            of_component in any::<bool>(),
            cut in any::<prop::sample::Index>(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            noise in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut bytes = if of_component { component() } else { command() };
            for (at, to) in changes {
                let at = at.index(bytes.len());
                bytes[at] = to;
            }
            module(&bytes);
            let at = cut.index(bytes.len());
            module(&[&bytes[..at], &noise, &bytes[at..]].concat());
            module(&bytes[..at]);
        }
    }
}
