//! One container's run: from the first instruction to how it ended.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::{Notify, watch};
use wasmtime::{Engine, GcHeapOutOfMemory, Store, Trap, UpdateDeadline, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::container::{ContainerSpec, Exit, TERMINATED, Usage};
use crate::engine;
use crate::error::StartError;
use crate::executor::{Lost, Share, turn_is_over};
use crate::http::Metrics;
use crate::limits::{CALL_BYTES, MESSAGE_BYTES, RESOURCES};
use crate::p3;
use crate::places::Place;
use crate::preview1::Listeners;
use crate::program::{Entry, Program};
use crate::state::State;
use crate::stdin::Stdin;
use crate::stop::Stop;

/// What a container's handles and its run share.
pub(crate) struct Control {
    name: String,
    pub(crate) stop: Stop,
    pub(crate) traffic: Arc<Traffic>,
    /// Its CPU time.
    pub(crate) share: Arc<Share>,
    ending: AtomicU8,
    kill: Notify,
    /// How it ends because it wanted more memory than it may have.
    out_of_memory: OnceLock<Exit>,
    memory: AtomicU64,
    /// The memory limit, which may change while it runs.
    memory_limit: AtomicU64,
    http: Option<Arc<Metrics>>,
    /// The places that one instance of it takes.
    places: u32,
    exit: watch::Sender<Option<Exit>>,
}

/// Values of [`Control::ending`]: whether somebody ended it from outside.
const RUNNING: u8 = 0;
const STOPPED: u8 = 1;
const KILLED: u8 = 2;
const OUT_OF_MEMORY: u8 = 3;

/// What a container's connections amount to.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) connections: AtomicU64,
}

impl Control {
    pub(crate) fn new(name: String, stdin: &Stdin, share: Arc<Share>, memory_limit: u64) -> Control {
        share.set_memory(memory_limit);
        Control {
            name,
            stop: Stop::new(stdin),
            traffic: Arc::default(),
            share,
            ending: AtomicU8::new(RUNNING),
            kill: Notify::new(),
            out_of_memory: OnceLock::new(),
            memory: AtomicU64::new(0),
            memory_limit: AtomicU64::new(memory_limit),
            http: None,
            places: 1,
            exit: watch::Sender::new(None),
        }
    }

    /// For a handler, with what its requests are counted by.
    pub(crate) fn serving(
        name: String,
        share: Arc<Share>,
        memory_limit: u64,
        metrics: Arc<Metrics>,
    ) -> Control {
        Control { http: Some(metrics), ..Control::new(name, &Stdin::Closed, share, memory_limit) }
    }

    /// Says how many places one instance takes, if it is not one.
    pub(crate) fn taking(self, places: u32) -> Control {
        Control { places, ..self }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn kill(&self) {
        self.end_from_outside(KILLED);
    }

    /// Its node has no memory for it.
    pub(crate) fn end_for_memory(&self) {
        self.end_from_outside(OUT_OF_MEMORY);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.exit.borrow().is_some()
    }

    pub(crate) fn stop(&self) {
        if !self.stop.ask() {
            self.end_from_outside(STOPPED);
        }
    }

    fn end_from_outside(&self, how: u8) {
        // The first counts.
        let _ = self.ending.compare_exchange(RUNNING, how, Ordering::AcqRel, Ordering::Acquire);
        self.share.hurry();
        self.kill.notify_one(); // kept for later if the run is not waiting right now
    }

    /// How it ended, if somebody ended it from outside.
    pub(crate) fn ended_from_outside(&self) -> Option<Exit> {
        match self.ending.load(Ordering::Acquire) {
            RUNNING => None,
            STOPPED => Some(Exit::Code(TERMINATED)),
            OUT_OF_MEMORY => Some(Exit::NodeOutOfMemory),
            _ => Some(Exit::Killed),
        }
    }

    /// Waits until somebody ends it from outside. For the one who runs it.
    pub(crate) async fn killed(&self) {
        self.kill.notified().await;
    }

    pub(crate) async fn wait(&self) -> Exit {
        let mut exit = self.exit.subscribe();
        let ended = exit.wait_for(Option::is_some).await;
        ended.ok().and_then(|exit| exit.clone()).unwrap_or(Exit::Killed)
    }

    pub(crate) fn usage(&self) -> Usage {
        let http = self.http.as_ref().map(|metrics| metrics.usage());
        let instances = http.map_or(u64::from(!self.has_ended()), |http| http.instances);
        Usage {
            places: instances * u64::from(self.places),
            cpu: self.share.used(),
            memory: self.memory.load(Ordering::Relaxed),
            sent: self.traffic.sent.load(Ordering::Relaxed),
            received: self.traffic.received.load(Ordering::Relaxed),
            connections: self.traffic.connections.load(Ordering::Relaxed),
            http,
        }
    }

    /// Counts memory in, if the limit has room for it.
    pub(crate) fn take_memory(&self, bytes: u64) -> bool {
        let limit = self.memory_limit();
        let taken = |used: u64| used.checked_add(bytes).filter(|used| *used <= limit);
        self.memory.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    pub(crate) fn memory_limit(&self) -> u64 {
        self.memory_limit.load(Ordering::Relaxed)
    }

    /// Another memory limit from now on; false if it holds more than that.
    pub(crate) fn set_memory_limit(&self, limit: u64) -> bool {
        let fits = self.memory.load(Ordering::Relaxed) <= limit;
        if fits {
            self.memory_limit.store(limit, Ordering::Relaxed);
        }
        fits
    }

    pub(crate) fn give_memory(&self, bytes: u64) {
        self.memory.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn set_out_of_memory(&self, exit: Exit) {
        let _ = self.out_of_memory.set(exit); // the first counts
    }

    /// What to do when the task that runs the container is over.
    pub(crate) fn ending(self: &Arc<Self>) -> impl FnOnce(Result<Exit, Lost>) + Send + 'static {
        let control = Arc::clone(self);
        move |result| {
            control.end(match result {
                Ok(exit) => exit,
                Err(Lost::ShutDown) => Exit::Killed,
                Err(Lost::Panicked) => {
                    Exit::Trap { message: "the runtime failed while it ran this container".into() }
                }
            });
        }
    }

    /// Says how the container ended; only the first call counts.
    pub(crate) fn end(&self, exit: Exit) {
        self.exit.send_if_modified(|slot| {
            let first = slot.is_none();
            slot.get_or_insert(exit);
            first
        });
    }
}

/// Runs the program to its end.
pub(crate) async fn run(
    engine: Engine,
    program: Arc<Program>,
    spec: Box<(ContainerSpec, Listeners)>,
    control: Arc<Control>,
    _place: Place,
) -> Exit {
    let guest = guest(&engine, &program, spec, &control);
    let exit = tokio::select! {
        biased;
        () = control.kill.notified() => control.ended_from_outside().unwrap_or(Exit::Killed),
        exit = guest => exit,
    };
    tracing::debug!(container = control.name(), ?exit, "container ended");
    exit
}

async fn guest(
    engine: &Engine,
    program: &Program,
    // A box, as it would be part of the future as long as the guest runs, several times over.
    spec: Box<(ContainerSpec, Listeners)>,
    control: &Arc<Control>,
) -> Exit {
    let (spec, listeners) = *spec;
    let state = match program.entry() {
        Entry::Command(_) | Entry::Command3(_) => State::new(program, spec, control),
        Entry::Module(_) => State::module(spec, listeners, control),
        Entry::Handler(_) | Entry::Handler3(_) => {
            return failure(&StartError::NotCommand.into(), program, control);
        }
    };
    let mut store = store(engine, state, control);
    let result = async {
        store.data_mut().limiter.keep(program.context(), program.heap()).await?;
        match program.entry() {
            Entry::Command(command) => {
                let command = command.instantiate_async(&mut store).await?;
                command.wasi_cli_run().call_run(&mut store).await
            }
            Entry::Module(module) => {
                let instance = module.instantiate_async(&mut store).await?;
                let memory = instance.get_memory(&mut store, "memory");
                store.data_mut().set_memory(memory);
                let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
                start.call_async(&mut store, ()).await.map(Ok)
            }
            Entry::Handler(_) | Entry::Handler3(_) => Err(StartError::NotCommand.into()),
            Entry::Command3(command) => p3::run(&mut store, command).await,
        }
    }
    .await;
    match result {
        Ok(Ok(())) => Exit::Code(0),
        Ok(Err(())) => Exit::Code(1),
        Err(error) => {
            if wants_memory(&error) {
                store.data_mut().limiter.end_as_refused();
            }
            failure(&error, program, control)
        }
    }
}

/// Whether a guest ends so that got no memory: without room for an object, or of its own will.
fn wants_memory(error: &wasmtime::Error) -> bool {
    error.is::<GcHeapOutOfMemory<()>>() || error.downcast_ref() == Some(&Trap::UnreachableCodeReached)
}

/// A store for an instance of the container, held to its limits, that ends when the container is ended.
pub(crate) fn store(engine: &Engine, state: State, control: &Arc<Control>) -> Store<State> {
    let mut store = Store::new(engine, state);
    store.limiter_async(|state| &mut state.limiter);
    store.set_hostcall_fuel(CALL_BYTES);
    store.set_max_component_handles(RESOURCES);
    store.set_epoch_deadline(1);
    let flag = Arc::clone(control);
    store.epoch_deadline_callback(move |_| {
        Ok(match flag.ended_from_outside() {
            Some(_) => UpdateDeadline::Interrupt,
            None if turn_is_over() => UpdateDeadline::Yield(1),
            None => UpdateDeadline::Continue(1),
        })
    });
    store
}

/// A backtrace as Wasmtime shows it, but for C++ names, which stay as the module gives them. A few hundred bytes
/// of those stand for more text than a host has memory for, and nothing stops who writes it out. What Rust's stand
/// for is bounded by who reads them.
fn described(backtrace: &WasmBacktrace, program: &Program) -> String {
    let mut text = String::from("wasm backtrace:");
    for (number, frame) in backtrace.frames().iter().enumerate() {
        if text.len() > MESSAGE_BYTES {
            break;
        }
        let module = shortened(frame.module().name().unwrap_or("<unknown>"));
        let offset = frame.module_offset().map_or(0, |offset| program.offset(offset));
        let name = match frame.func_name() {
            Some(name) => readable(shortened(name)),
            None => format!("<wasm function {}>", frame.func_index()),
        };
        text.push_str(&format!("\n  {number:>3}: {offset:#8x} - {module}!{name}"));
    }
    text
}

fn readable(name: &str) -> String {
    match rustc_demangle::try_demangle(name) {
        Ok(name) => shortened(&format!("{name:#}")).to_owned(),
        Err(_) => name.to_owned(),
    }
}

/// A name from a module, which may have any length.
fn shortened(name: &str) -> &str {
    &name[..name.floor_char_boundary(MESSAGE_BYTES)]
}

/// What is said if the engine is full.
const NO_ROOM: &str = "no room for its memories, tables or stacks on this node";

/// What an error that left the guest means.
fn failure(error: &wasmtime::Error, program: &Program, control: &Control) -> Exit {
    if let Some(I32Exit(code)) = error.downcast_ref() {
        return Exit::Code(*code);
    }
    if let Some(exit) = control.ended_from_outside() {
        return exit;
    }
    if let Some(exit) = control.out_of_memory.get() {
        return exit.clone();
    }
    if engine::is_full(error) {
        return Exit::Exhausted { message: NO_ROOM.to_owned() };
    }
    Exit::Trap { message: message(error, program) }
}

/// Why a guest failed: the reason, then the backtrace.
pub(crate) fn message(error: &wasmtime::Error, program: &Program) -> String {
    if let Some(I32Exit(code)) = error.downcast_ref() {
        return format!("exit with code {code}");
    }
    if engine::is_full(error) {
        return NO_ROOM.to_owned();
    }
    let reason = match error.downcast_ref::<Trap>() {
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    let mut message = match error.downcast_ref::<WasmBacktrace>() {
        Some(backtrace) if !backtrace.frames().is_empty() => {
            format!("{reason}\n{}", described(backtrace, program))
        }
        _ => reason,
    };
    if message.len() > MESSAGE_BYTES {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES));
    }
    message
}
