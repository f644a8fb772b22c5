//! Guests that call one function after the other and compare what it answers: `check` runs a list of steps.
//!
//! A step is a function of the interface with its arguments, and the number that it is to answer:
//! `("path_open 3 0 'dir/f' 1 66 0 0 100", 0)`. An argument is a number, a text (`'dir/f'`, which stands for
//! pointer and length), or what lies in memory (`*100`, 32 bits). Besides: `set8`, `set32` and `set64` (address,
//! value), `get8`, `get16`, `get32`, `get64` (address), `put` (address, text), `same` (address, text), `iov`
//! (address of the list, pointer, length), `later` (address of a 64-bit time: whether the clock of the next
//! argument is beyond it).

mod clocks;
mod door;
mod files;
mod hostile;
mod paths;
mod process;
mod programs;
mod sockets;

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::ContainerSpec;
use crate::Exit;
use crate::tests::{Bench, Capture, ended};

/// Every function and its parameters (`i` for 32 bits, `I` for 64): the ABI of 0.1.
pub(super) const SIGNATURES: &[(&str, &str)] = &[
    ("args_get", "ii"),
    ("args_sizes_get", "ii"),
    ("clock_res_get", "ii"),
    ("clock_time_get", "iIi"),
    ("environ_get", "ii"),
    ("environ_sizes_get", "ii"),
    ("fd_advise", "iIIi"),
    ("fd_allocate", "iII"),
    ("fd_close", "i"),
    ("fd_datasync", "i"),
    ("fd_fdstat_get", "ii"),
    ("fd_fdstat_set_flags", "ii"),
    ("fd_fdstat_set_rights", "iII"),
    ("fd_filestat_get", "ii"),
    ("fd_filestat_set_size", "iI"),
    ("fd_filestat_set_times", "iIIi"),
    ("fd_pread", "iiiIi"),
    ("fd_prestat_dir_name", "iii"),
    ("fd_prestat_get", "ii"),
    ("fd_pwrite", "iiiIi"),
    ("fd_read", "iiii"),
    ("fd_readdir", "iiiIi"),
    ("fd_renumber", "ii"),
    ("fd_seek", "iIii"),
    ("fd_sync", "i"),
    ("fd_tell", "ii"),
    ("fd_write", "iiii"),
    ("path_create_directory", "iii"),
    ("path_filestat_get", "iiiii"),
    ("path_filestat_set_times", "iiiiIIi"),
    ("path_link", "iiiiiii"),
    ("path_open", "iiiiiIIii"),
    ("path_readlink", "iiiiii"),
    ("path_remove_directory", "iii"),
    ("path_rename", "iiiiii"),
    ("path_symlink", "iiiii"),
    ("path_unlink_file", "iii"),
    ("poll_oneoff", "iiii"),
    ("proc_raise", "i"),
    ("random_get", "ii"),
    ("sched_yield", ""),
    ("sock_accept", "iii"),
    ("sock_recv", "iiiiii"),
    ("sock_send", "iiiii"),
    ("sock_shutdown", "ii"),
];

/// The newer import module, and the older one.
const ONE: &str = "wasi_snapshot_preview1";
const ZERO: &str = "wasi_unstable";

/// Where texts lie in the guests' memory, which has 128 KiB.
const TEXTS: usize = 64 << 10;

/// Exit codes: 1,000 per step, and what it answered.
const PER_STEP: i32 = 1_000;

/// Makes a guest of steps.
struct Script {
    module: &'static str,
    texts: BTreeMap<String, usize>,
    used: usize,
    body: String,
}

impl Script {
    fn text(module: &'static str, steps: &[(&str, u64)]) -> String {
        let mut script = Script { module, texts: BTreeMap::new(), used: TEXTS, body: String::new() };
        for (number, (step, expected)) in steps.iter().enumerate() {
            let call = script.step(step);
            let _ = writeln!(
                script.body,
                "(call $is (i32.const {}) {call} (i64.const {expected}))",
                PER_STEP * (number as i32 + 1)
            );
        }
        script.finish()
    }

    fn place(&mut self, text: &str) -> (usize, usize) {
        let used = &mut self.used;
        let at = *self.texts.entry(text.to_owned()).or_insert_with(|| {
            let at = *used;
            *used += text.len().max(1);
            at
        });
        (at, text.len())
    }

    /// Words, with texts in quotes as one word.
    fn words(step: &str) -> Vec<String> {
        let mut words = Vec::new();
        for (number, part) in step.split('\'').enumerate() {
            if number % 2 == 1 {
                words.push(format!("'{part}"));
            } else {
                words.extend(part.split_whitespace().map(str::to_owned));
            }
        }
        words
    }

    fn step(&mut self, step: &str) -> String {
        let words = Script::words(step);
        let name = words[0].as_str();
        let (helper, types) = match name {
            "set8" | "set32" => (true, "ii"),
            "set64" => (true, "iI"),
            "get8" | "get16" | "get32" | "get64" => (true, "i"),
            "put" | "same" | "iov" => (true, "iii"),
            "later" => (true, "ii"),
            _ => {
                let known = SIGNATURES.iter().find(|(known, _)| *known == name);
                (false, known.unwrap_or_else(|| panic!("{name} is no function")).1)
            }
        };
        let mut args = Vec::new();
        for word in &words[1..] {
            if let Some(text) = word.strip_prefix('\'') {
                let (at, length) = self.place(text);
                args.extend([at.to_string(), length.to_string()]);
            } else {
                args.push(word.clone());
            }
        }
        assert_eq!(args.len(), types.len(), "arguments of {step}");
        let mut call = format!("(call ${name}");
        for (arg, of) in args.iter().zip(types.chars()) {
            let of = if of == 'I' { "i64" } else { "i32" };
            let _ = match arg.strip_prefix('*') {
                Some(at) if of == "i64" => write!(call, " (i64.load (i32.const {at}))"),
                Some(at) => write!(call, " (i32.load (i32.const {at}))"),
                None => write!(call, " ({of}.const {arg})"),
            };
        }
        call.push(')');
        if helper { call } else { format!("(i64.extend_i32_u {call})") }
    }

    fn finish(self) -> String {
        let mut imports = String::new();
        // Only what is used: who does not import `sock_accept` has no listeners.
        for (name, params) in SIGNATURES {
            if !self.body.contains(&format!("(call ${name} "))
                && !self.body.contains(&format!("(call ${name})"))
            {
                continue;
            }
            let params: String = params.chars().map(|of| if of == 'I' { " i64" } else { " i32" }).collect();
            let params = if params.is_empty() { params } else { format!("(param{params})") };
            let _ = writeln!(
                imports,
                "(import \"{}\" \"{name}\" (func ${name} {params} (result i32)))",
                self.module
            );
        }
        let data: String = self
            .texts
            .iter()
            .map(|(text, at)| {
                let bytes: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
                format!("(data (i32.const {at}) \"{bytes}\")\n")
            })
            .collect();
        format!(
            r#"(module
            (import "{module}" "clock_time_get" (func $now (param i32 i64 i32) (result i32)))
            (import "{module}" "proc_exit" (func $exit (param i32)))
            {imports}
            (memory (export "memory") 2 2)
            {data}
            (func $is (param i32 i64 i64)
                (if (i64.ne (local.get 1) (local.get 2)) (then
                    (call $exit (i32.add (local.get 0)
                        (i32.rem_u (i32.wrap_i64 (local.get 1)) (i32.const {PER_STEP})))))))
            (func $set8 (param i32 i32) (result i64) (i32.store8 (local.get 0) (local.get 1)) (i64.const 0))
            (func $set32 (param i32 i32) (result i64) (i32.store (local.get 0) (local.get 1)) (i64.const 0))
            (func $set64 (param i32 i64) (result i64) (i64.store (local.get 0) (local.get 1)) (i64.const 0))
            (func $get8 (param i32) (result i64) (i64.load8_u (local.get 0)))
            (func $get16 (param i32) (result i64) (i64.load16_u (local.get 0)))
            (func $get32 (param i32) (result i64) (i64.load32_u (local.get 0)))
            (func $get64 (param i32) (result i64) (i64.load (local.get 0)))
            (func $put (param i32 i32 i32) (result i64)
                (memory.copy (local.get 0) (local.get 1) (local.get 2)) (i64.const 0))
            (func $iov (param i32 i32 i32) (result i64)
                (i32.store (local.get 0) (local.get 1))
                (i32.store offset=4 (local.get 0) (local.get 2)) (i64.const 0))
            (func $same (param i32 i32 i32) (result i64)
                (loop $next
                    (if (i32.eqz (local.get 2)) (then (return (i64.const 1))))
                    (if (i32.ne (i32.load8_u (local.get 0)) (i32.load8_u (local.get 1)))
                        (then (return (i64.const 0))))
                    (local.set 0 (i32.add (local.get 0) (i32.const 1)))
                    (local.set 1 (i32.add (local.get 1) (i32.const 1)))
                    (local.set 2 (i32.sub (local.get 2) (i32.const 1)))
                    (br $next))
                unreachable)
            (func $later (param i32 i32) (result i64)
                (drop (call $now (local.get 1) (i64.const 0) (i32.const 8)))
                (i64.extend_i32_u (i64.ge_u (i64.load (i32.const 8)) (i64.load (local.get 0)))))
            (func (export "_start") {body}))"#,
            module = self.module,
            body = self.body,
        )
    }
}

/// Runs the steps in one guest of each snapshot that is named, and says which step answered what.
#[track_caller]
fn verdict(steps: &[(&str, u64)], exit: &Exit) {
    match exit {
        Exit::Code(0) => {}
        Exit::Code(code) if *code >= PER_STEP => {
            let (step, answer) = (code / PER_STEP - 1, code % PER_STEP);
            let (text, expected) = steps[step as usize];
            panic!("step {step}: `{text}` answered {answer} (modulo {PER_STEP}), not {expected}");
        }
        other => panic!("the guest ended with {other:?}"),
    }
}

/// Runs steps in a guest of one snapshot.
async fn run_in(
    bench: &Bench,
    module: &'static str,
    steps: &[(&str, u64)],
    change: impl FnOnce(&mut ContainerSpec),
) -> String {
    let (exit, output) = bench.run(&Script::text(module, steps), change).await;
    verdict(steps, &exit);
    output
}

/// Runs steps in a guest of its own per snapshot: what is the same in both.
async fn check(bench: &Bench, steps: &[(&str, u64)]) {
    for module in [ONE, ZERO] {
        run_in(bench, module, steps, |_| {}).await;
    }
}

/// Starts steps and leaves them running.
async fn start(
    bench: &Bench,
    steps: &[(&str, u64)],
    change: impl FnOnce(&mut ContainerSpec),
) -> (crate::Container, std::sync::Arc<Capture>) {
    bench.start(&Script::text(ONE, steps), change).await
}

/// Every function can be imported from both modules, with its own types and no others.
#[tokio::test]
async fn all_functions_are_there() {
    let bench = Bench::new();
    let names: Vec<&str> = SIGNATURES.iter().map(|(name, _)| *name).chain(["proc_exit"]).collect();
    assert_eq!(names.len(), 46);
    for module in [ONE, ZERO] {
        let mut imports = format!("(import \"{module}\" \"proc_exit\" (func (param i32)))");
        for (name, params) in SIGNATURES.iter().filter(|(name, _)| module == ONE || *name != "sock_accept") {
            assert!(super::offers(module, name), "{module}::{name}");
            let params: String = params.chars().map(|of| if of == 'I' { " i64" } else { " i32" }).collect();
            let params = if params.is_empty() { params } else { format!("(param{params})") };
            let _ = write!(imports, "(import \"{module}\" \"{name}\" (func {params} (result i32)))");
        }
        let text = format!("(module {imports} (memory (export \"memory\") 1) (func (export \"_start\")))");
        assert_eq!(bench.run(&text, |_| {}).await.0, Exit::Code(0), "{module}");
    }
    for (module, name) in [(ZERO, "sock_accept"), (ONE, "fork"), ("wasi", "fd_close"), ("env", "fd_close")] {
        assert!(!super::offers(module, name), "{module}::{name}");
    }
    let wrong = "(module (import \"wasi_unstable\" \"fd_close\" (func (param i64) (result i32)))
        (memory (export \"memory\") 1) (func (export \"_start\")))";
    let refused = bench.prepare(wrong).await.unwrap_err().to_string();
    assert!(refused.starts_with("module cannot be linked: "), "{refused}");
}

/// `proc_exit` keeps its code, whatever it is.
#[tokio::test]
async fn exit_codes_are_kept() {
    let bench = Bench::new();
    for (code, expected) in [(0, 0), (7, 7), (126, 126), (255, 255), (u32::MAX, -1)] {
        let text = crate::tests::guests::exit(code);
        for module in [ONE, ZERO] {
            let (exit, _) = bench.run(&text.replace(ONE, module), |_| {}).await;
            assert_eq!(exit, Exit::Code(expected));
        }
    }
}
