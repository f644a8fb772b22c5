//! Components built by a real toolchain, among them one that does what it must not.

use coracle_vfs::{MountOptions, Volume};

use super::*;

#[tokio::test]
async fn a_rust_program_runs() {
    let bench = Bench::new();
    let (exit, output) = bench.run_example("hello", &["Ada"], |_| {}).await;
    assert_eq!(exit, Exit::Code(0), "{output}");
    assert!(!output.is_empty());
}

#[tokio::test]
async fn misdeeds_are_contained() {
    let bench = Bench::new();
    let secret = tempfile::tempdir().unwrap();
    let folder = secret.path().join("volume");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(secret.path().join("secret"), "x").unwrap();
    let volume = Volume::host(&folder, None).unwrap();
    for path in ["/etc/passwd", "/data/../../../../etc/passwd", "/data/../secret", "/proc/self/mem"] {
        let (exit, output) = bench
            .run_example("hostile", &["host-file", path], |spec| {
                spec.mounts.add("/data", &volume, &MountOptions::default()).unwrap();
            })
            .await;
        assert_eq!(exit, Exit::Code(0), "{output}");
        assert!(output.starts_with("may not"), "{output}");
    }
    let (exit, output) =
        bench.run_example("hostile", &["hoard"], |spec| spec.memory_limit = Some(32 * MIB)).await;
    assert_eq!(exit, Exit::OutOfMemory, "{output}");
    let (exit, output) = bench.run_example("hostile", &["trap"], |_| {}).await;
    assert!(matches!(&exit, Exit::Trap { message } if message.contains("wasm backtrace:")), "{exit:?}");
    assert!(output.contains("trapping on purpose"), "what it said before is kept: {output}");
    let (exit, _) = bench.run_example("hostile", &["exit", "3"], |_| {}).await;
    assert_eq!(exit, Exit::Code(1), "0.2 itself has only 'failed' for `std::process::exit`");
}

/// The sidecar of the demo writes a folder that others read.
#[tokio::test]
async fn environment_and_arguments_arrive_alone() {
    let bench = Bench::new();
    let (exit, output) = bench.run_example("hostile", &["unheard", "of"], |_| {}).await;
    assert_eq!((exit, output.trim()), (Exit::Code(1), "unknown misdeed [\"unheard\", \"of\"]"));
}

/// A mangled C++ name in which each type is ten times the one before: 500 bytes that mean 10^15.
#[tokio::test]
async fn a_name_that_stands_for_endless_text_is_shown_as_it_is() {
    let seen = |number: usize| match number {
        0 => "S0_".to_owned(),
        number => format!("S{}_", char::from_digit(number as u32, 36).unwrap().to_ascii_uppercase()),
    };
    let mut name = format!("_Z1f1A1BI{}E", "S_".repeat(10));
    for number in 1..15 {
        name += &format!("{}I{}E", seen(0), seen(number).repeat(10));
    }
    let guest = format!(
        r#"(module (memory (export "memory") 1) (func (@name "{name}") (export "_start") unreachable))"#
    );
    let bench = Bench::new();
    let (exit, _) = bench.run(&guest, |_| {}).await;
    assert!(matches!(&exit, Exit::Trap { message } if message.ends_with(&format!("!{name}"))), "{exit:?}");
}

/// A module may name its functions with any number of bytes.
#[tokio::test]
async fn a_long_name_is_cut() {
    let name = "n".repeat(90_000);
    let guest = format!(
        r#"(module (memory (export "memory") 1) (func (@name "{name}") (export "_start") unreachable))"#
    );
    let bench = Bench::new();
    let (exit, _) = bench.run(&guest, |_| {}).await;
    assert!(matches!(&exit, Exit::Trap { message } if message.len() == 4_096), "{exit:?}");
}

#[tokio::test]
async fn names_of_rust_can_be_read() {
    let guest = r#"(module (memory (export "memory") 1)
        (func (@name "_RNvNtCs9pv848UzQwQ_4core9panicking9panic_fmt") (export "_start") unreachable))"#;
    let bench = Bench::new();
    let (exit, _) = bench.run(guest, |_| {}).await;
    assert!(
        matches!(&exit, Exit::Trap { message } if message.ends_with("!core::panicking::panic_fmt")),
        "{exit:?}"
    );
}
