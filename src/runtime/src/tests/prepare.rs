//! What is accepted, what is refused and how, and the cache.

use super::*;
use crate::Compiler;

#[track_caller]
fn refused(result: Result<Arc<Program>, PrepareError>, expected: &str) {
    assert_eq!(result.expect_err("it was to be refused").to_string(), expected);
}

#[tokio::test]
async fn what_cannot_run_is_refused_by_name() {
    let bench = Bench::new();
    let (start, memory) = ("(func (export \"_start\"))", "(memory (export \"memory\") 1)");
    for (text, expected) in [
        (format!("(module {memory})"), "not a program: it exports no function `_start`"),
        (format!("(module (import \"env\" \"f\" (func)) {start} {memory})"), "unknown import `env::f`"),
        (
            format!("(module (import \"wasi_unstable\" \"sock_accept\" (func)) {start} {memory})"),
            "unknown import `wasi_unstable::sock_accept`",
        ),
        (
            "(component (import \"acme:db/store@1.2.0\" (instance)))".into(),
            "unknown import `acme:db/store@1.2.0`",
        ),
        (
            "(component (instance $i) (export \"wasi:cli/run@0.3.0\" (instance $i)))".into(),
            "not a program: it is a command of WASI 0.3, which needs the node's flag --wasi-p3",
        ),
    ] {
        refused(bench.prepare(&text).await, expected);
    }
}

#[tokio::test]
async fn what_is_no_wasm_is_refused() {
    let bench = Bench::new();
    let path = bench.dir.path().join("file");
    let prepare = async |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        bench.runtime.prepare("sha256:x", &path, "test").await
    };
    refused(prepare(b"").await, "not a WebAssembly module or component");
    refused(prepare(b"#!/bin/sh\n").await, "not a WebAssembly module or component");
    refused(prepare(b"\0asm\x02\0\0\0").await, "not a WebAssembly module or component");
    let hello = wat::parse_str(guests::hello("hello")).unwrap();
    let cut = (8..hello.len()).filter(|end| wasmparser::validate(&hello[..*end]).is_err());
    for end in cut {
        let result = prepare(&hello[..end]).await;
        assert!(
            matches!(result, Err(PrepareError::Invalid { .. } | PrepareError::NotProgram { .. })),
            "cut at {end}: {result:?}"
        );
    }
    let missing = bench.runtime.prepare("sha256:y", Path::new("/nonexistent"), "test").await;
    assert!(matches!(missing, Err(PrepareError::Read { .. })));
}

/// A failure is not remembered: the same digest can be prepared once the file is right.
#[tokio::test]
async fn preparing_again_after_a_failure() {
    let bench = Bench::new();
    let path = bench.dir.path().join("late.wasm");
    assert!(bench.runtime.prepare("sha256:late", &path, "test").await.is_err());
    std::fs::write(&path, wat::parse_str(guests::hello("hello")).unwrap()).unwrap();
    assert_eq!(bench.runtime.prepare("sha256:late", &path, "test").await.unwrap().digest(), "sha256:late");
}

#[tokio::test]
async fn who_gives_up_leaves_room_for_others() {
    let bench = Bench::new();
    for number in 0..8 {
        let text = guests::hello(&format!("given up {number}"));
        // Begun, and dropped before it is done.
        let _ = futures::poll!(Box::pin(bench.prepare(&text)));
    }
    let text = guests::hello("wanted");
    let wanted = tokio::time::timeout(PATIENCE, bench.prepare(&text)).await;
    assert!(wanted.expect("a place in the line of compiles").is_ok());
}

/// A compiler that does what a shell script says, and how often it was run.
struct Fake {
    folder: TempDir,
}

impl Fake {
    fn new(script: &str) -> Fake {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (compiler, counted) = (folder.path().join("compiler"), folder.path().join("runs"));
        std::fs::write(&compiler, format!("#!/bin/sh\necho $$ >>{}\n{script}\n", counted.display())).unwrap();
        std::fs::set_permissions(&compiler, PermissionsExt::from_mode(0o700)).unwrap();
        Fake { folder }
    }

    fn bench(&self) -> Bench {
        Bench::of(|config| {
            config.compiler = Compiler::Process(self.folder.path().join("compiler"));
            config.compile_time = Duration::from_secs(7);
        })
    }

    /// The processes that were run.
    fn runs(&self) -> Vec<u32> {
        let text = std::fs::read_to_string(self.folder.path().join("runs")).unwrap_or_default();
        text.split_terminator('\n').map(|id| id.parse().unwrap()).collect()
    }

    /// Why a module is refused.
    async fn refusal(runtime: &Runtime, module: &Path) -> String {
        loop {
            match runtime.prepare("sha256:fake", module, "test").await.unwrap_err() {
                // Another test's process has the script open for a moment, as it was forked while it was written.
                PrepareError::Compiler(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {}
                refused => return refused.to_string(),
            }
        }
    }
}

/// A file for a compiler that does not read it.
fn any_module(bench: &Bench) -> PathBuf {
    let path = bench.dir.path().join("any.wasm");
    std::fs::write(&path, "any").unwrap();
    path
}

/// What a module takes too much of is remembered for a while; that somebody of the host killed its compiler is not.
#[tokio::test]
async fn a_compiler_that_was_killed_is_started_again() {
    let check = async |signal: &str, expected: &str, runs: usize| {
        let fake = Fake::new(&format!("kill -{signal} $$"));
        let bench = fake.bench();
        let module = any_module(&bench);
        for _ in 0..2 {
            assert_eq!(Fake::refusal(&bench.runtime, &module).await, expected);
        }
        assert_eq!(fake.runs().len(), runs);
    };
    check("KILL", "the compiler was killed: the node may be out of memory", 2).await;
    check("XCPU", "compiling took more than 7s of CPU time", 1).await;
}

/// The clock is no measure of a module: a compiler that is starved, or stuck, is started again.
#[tokio::test(start_paused = true)]
async fn who_is_slow_by_the_clock_is_tried_again() {
    let fake = Fake::new("exec sleep 1000");
    let bench = fake.bench();
    let module = any_module(&bench);
    let expected = "the compiler has not ended within 210s: the node may be too busy";
    // What is remembered says that it took too much.
    for _ in 0..2 {
        assert_eq!(Fake::refusal(&bench.runtime, &module).await, expected);
    }
}

/// Somebody else's process or nobody's has this number.
fn is_gone(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

/// A compile goes on as long as somebody waits for it, and no longer.
#[tokio::test]
async fn a_compile_ends_with_the_last_who_waits_for_it() {
    let fake = Fake::new("exec sleep 1000");
    let bench = fake.bench();
    let module = any_module(&bench);
    let prepare = |tenant: &'static str| {
        let (runtime, module) = (Arc::clone(&bench.runtime), module.clone());
        // In tasks, so that both are polled.
        tokio::spawn(async move {
            let prepared = runtime.prepare("sha256:slow", &module, tenant).await;
            panic!("it was to go on: {prepared:?}");
        })
    };
    let until = async |what: &str, condition: &dyn Fn() -> bool| {
        let wait = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect(what);
    };
    let (one, two) = (prepare("one"), prepare("two"));
    until("it is run", &|| !fake.runs().is_empty()).await;
    one.abort();
    assert!(one.await.unwrap_err().is_cancelled());
    let [process] = fake.runs()[..] else { panic!("one process for both: {:?}", fake.runs()) };
    assert!(!is_gone(process), "somebody waits for it");
    two.abort();
    assert!(two.await.unwrap_err().is_cancelled());
    until("it ends", &|| is_gone(process)).await;
    assert_eq!((bench.runtime.memory().lent(), fake.runs().len()), (0, 1));
}

/// A compiler borrows what pods leave, and gives way to them; that is no fault of the module.
#[tokio::test]
async fn a_compile_ends_for_a_pod_that_wants_its_memory() {
    use coracle_budget::{Budget, FREE};
    let fake = Fake::new("exec sleep 1000");
    let bench = fake.bench();
    let module = any_module(&bench);
    let memory = bench.runtime.memory();
    memory.set_limit(200 << 20);
    let little = "the node has too little memory left to compile the module";
    let pod = Budget::of_node(None, memory);
    let wants = async {
        while memory.lent() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(memory.lent(), (200 << 20) / 16 * 9);
        loop {
            match pod.charge(FREE + (180 << 20)) {
                Ok(charge) => return charge,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let prepare = Fake::refusal(&bench.runtime, &module);
    let (refused, _charge) =
        tokio::time::timeout(PATIENCE, async { tokio::join!(prepare, wants) }).await.unwrap();
    assert_eq!((refused.as_str(), fake.runs().len() <= 1), (little, true));
    let before = fake.runs().len();
    assert_eq!(Fake::refusal(&bench.runtime, &module).await, little);
    assert_eq!(fake.runs().len(), before, "there is too little to begin");
}

/// What was too costly for one process is so for the next in its folder.
#[tokio::test]
async fn what_was_too_costly_is_known_after_a_restart() {
    let fake = Fake::new("kill -XCPU $$");
    let bench = fake.bench();
    let module = any_module(&bench);
    let expected = "compiling took more than 7s of CPU time";
    assert_eq!(Fake::refusal(&bench.runtime, &module).await, expected);
    let remembered = bench.dir.path().join("compiled/costly");
    let written = async {
        while !remembered.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, written).await.unwrap();
    let next = Runtime::build(Config {
        compiler: Compiler::Process(fake.folder.path().join("compiler")),
        compile_time: Duration::from_secs(7),
        ..config(bench.dir.path(), 4)
    });
    assert_eq!(Fake::refusal(&next.unwrap(), &module).await, expected);
    assert_eq!(fake.runs().len(), 1);
}

#[tokio::test]
async fn callers_share_one_program() {
    let bench = Bench::new();
    let text = guests::hello("hello");
    let (one, two, three) = tokio::join!(bench.prepare(&text), bench.prepare(&text), bench.prepare(&text));
    let one = one.unwrap();
    assert!(Arc::ptr_eq(&one, &two.unwrap()) && Arc::ptr_eq(&one, &three.unwrap()));
    assert!(Arc::ptr_eq(&one, &bench.prepare(&text).await.unwrap()));
}

/// Code on disk is used by the next runtime, even without the module; what is damaged is made anew.
#[tokio::test]
async fn the_cache_survives_and_heals() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    let text = guests::hello("cached");
    drop(bench.prepare(&text).await.unwrap());
    let module = bench.dir.path().join(format!("{:016x}.wasm", hash(&text)));
    let cache = bench.dir.path().join("compiled");
    assert_eq!(std::fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
    let entry = files_of(&cache, "cwasm").remove(0);
    let whole = std::fs::read(&entry).unwrap();
    let digest = format!("sha256:{:064x}", hash(&text));

    let again = async |with_module: bool| {
        let path = if with_module { module.clone() } else { PathBuf::from("/nonexistent") };
        let runtime = Runtime::build(config(bench.dir.path(), 4)).unwrap();
        let program = runtime.prepare(&digest, &path, "test").await?;
        let output = Arc::new(Capture::default());
        let container = runtime.start(program, bench.spec(&output)).unwrap();
        assert_eq!((ended(&container).await, output.text()), (Exit::Code(0), "cached".into()));
        Ok::<_, PrepareError>(())
    };
    again(false).await.unwrap();

    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for damaged in [&flipped[..], &whole[..whole.len() / 2], b"", b"\x7fELF"] {
        std::fs::write(&entry, damaged).unwrap();
        assert!(again(false).await.is_err(), "damaged code is not loaded");
        again(true).await.unwrap();
        assert_eq!(std::fs::read(&entry).unwrap().len(), whole.len(), "and it is whole again");
    }
    for sum in files_of(&cache, "json") {
        std::fs::remove_file(sum).unwrap();
    }
    assert!(again(false).await.is_err(), "code without its checksum is not loaded");
    assert!(files_of(&cache, "tmp").is_empty());
}

/// The folder has a size: what runs stays, and of the rest what was used last.
#[tokio::test]
async fn the_cache_is_bounded_but_keeps_what_runs() {
    let bench = Bench::of(|config| config.cache_size = Some(1));
    let cache = bench.dir.path().join("compiled");
    let running = bench.prepare(&guests::hello("one")).await.unwrap();
    drop(bench.prepare(&guests::hello("two")).await.unwrap());
    let three = bench.prepare(&guests::hello("three")).await.unwrap();
    assert_eq!(files_of(&cache, "cwasm").len(), 2, "the second went when the third came");
    drop((running, three));
    std::fs::write(cache.join("1-1.tmp"), "a leftover").unwrap();
    std::fs::write(cache.join("x.cwasm"), "without its facts").unwrap();
    drop(Runtime::build(Config { cache_size: Some(1), ..config(bench.dir.path(), 4) }).unwrap());
    assert!(std::fs::read_dir(&cache).unwrap().next().is_none(), "nothing of it is used now");
}

/// A component that a toolchain might build, which exits with a code of its own.
#[tokio::test]
async fn a_component_can_exit_with_a_code() {
    let component = |version: &str| {
        format!(
            r#"(component
                (import "wasi:cli/exit@{version}" (instance $exit
                    (export "exit-with-code" (func (param "status-code" u8)))))
                (core func $exit (canon lower (func $exit "exit-with-code")))
                (core module $main
                    (import "host" "exit" (func $exit (param i32)))
                    (func (export "run") (result i32) (call $exit (i32.const 7)) unreachable))
                (core instance $main (instantiate $main
                    (with "host" (instance (export "exit" (func $exit))))))
                (func $run (result (result)) (canon lift (core func $main "run")))
                (instance $command (export "run" (func $run)))
                (export "wasi:cli/run@{version}" (instance $command)))"#
        )
    };
    let bench = Bench::new();
    for version in ["0.2.0", "0.2.12", "0.2.77"] {
        assert_eq!(bench.run(&component(version), |_| {}).await.0, Exit::Code(7), "{version}");
    }
}

fn files_of(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|it| it == extension)).collect()
}
