//! Guests that fill and copy more than the engine does at a time.

use wasmparser::{Operator, Parser, Payload};

use super::*;
use crate::Density;

/// Fills and copies nearly all of 60 MiB, over and over. The copy goes up and down.
const MOVES: &str = "(loop $again
    (memory.fill (i32.const 0) (i32.const 1) (i32.const 62914000))
    (memory.copy (i32.const 9) (i32.const 0) (i32.const 62914000))
    (memory.copy (i32.const 0) (i32.const 9) (i32.const 62914000))
    (br $again))";

fn module(body: &str) -> String {
    format!(r#"(module (memory (export "memory") 960) (func $main (export "_start") {body}))"#)
}

/// A part with this body, in a component in a component.
fn component(body: &str) -> String {
    format!(
        r#"(component (component $inner
            (core module $m (memory 960) (func $main (export "run") (result i32) {body} (i32.const 0)))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (export "run" (func $run)))
        (instance $inner (instantiate $inner))
        (instance (export "wasi:cli/run@0.2.0") (export "run" (func $inner "run"))))"#
    )
}

#[tokio::test]
async fn who_moves_memory_for_ever_is_killed() {
    for density in [Density::Fast, Density::Dense] {
        let bench = Bench::of(|config| config.density = density);
        for text in [module(MOVES), component(MOVES)] {
            let (container, _) = bench.start(&text, |_| {}).await;
            while container.usage().cpu < Duration::from_millis(20) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            container.kill();
            assert_eq!(ended(&container).await, Exit::Killed);
        }
    }
}

/// Where in a file the first such instruction is.
fn offset(file: &[u8], wanted: impl Fn(&Operator<'_>) -> bool) -> usize {
    let bodies = Parser::new(0).parse_all(file).filter_map(|payload| match payload.unwrap() {
        Payload::CodeSectionEntry(body) => Some(body.get_operators_reader().unwrap()),
        _ => None,
    });
    let mut all = bodies.flat_map(|body| body.into_iter_with_offsets().map(Result::unwrap));
    all.find(|(operator, _)| wanted(operator)).expect("it is there").1
}

/// Backtraces are of the module as its author has it.
#[tokio::test]
async fn a_trap_is_where_it_is_in_the_module() {
    let bench = Bench::new();
    let fill = "(memory.fill (i32.const 0) (i32.const 1) (i32.mul (i32.const 3) (i32.const 1000000)))";
    let far = fill.replace("(i32.const 0)", "(i32.const 62914559)");
    let check = async |text: String, wanted: fn(&Operator<'_>) -> bool, why: &str| {
        let (exit, _) = bench.run(&text, |_| {}).await;
        let Exit::Trap { message } = &exit else { panic!("{text}: {exit:?}") };
        let expected = offset(&wat::parse_str(&text).unwrap(), wanted);
        assert!(message.contains(why), "{message}");
        let frames: Vec<_> = message.lines().skip_while(|line| *line != "wasm backtrace:").collect();
        let frame = frames[1];
        assert!(
            frame.contains(&format!("{expected:#8x} - ")) && frame.ends_with("!main"),
            "{expected:#x}: {message}"
        );
        assert_eq!(frames.len(), 2, "{message}");
    };
    for of in [module, component] {
        let unreachable = |operator: &Operator<'_>| matches!(operator, Operator::Unreachable);
        check(of(&format!("{fill} {fill} unreachable")), unreachable, "unreachable").await;
        let fill = |operator: &Operator<'_>| matches!(operator, Operator::MemoryFill { .. });
        check(of(&far), fill, "out of bounds memory access").await;
    }
}
