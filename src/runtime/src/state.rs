//! What belongs to one running container: the data of its Wasmtime store.

use std::sync::Arc;

use wasmtime::Memory;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView};

use crate::container::ContainerSpec;
use crate::files::{Files, FilesView};
use crate::http::Http;
use crate::limiter::{Limiter, Purse};
use crate::limits::{RANDOM_BYTES, RESOURCES};
use crate::output::{GuestOutput, Output};
use crate::poll::PollView;
use crate::preview1::{Listeners, Preview1};
use crate::program::Program;
use crate::run::Control;
use crate::sockets::{NetView, Sockets};
use crate::stack::Slack;
use crate::stdin::{GuestStdin, Stdin};
use crate::stdio::Stdio;

/// A container's side of the host.
pub(crate) struct State {
    /// `None` for a module of 0.1, whose functions are all our own.
    wasi: Option<Box<WasiCtx>>,
    /// `None` for a component.
    pub(crate) preview1: Option<Box<Preview1>>,
    pub(crate) table: ResourceTable,
    pub(crate) slack: Slack,
    pub(crate) limiter: Limiter,
    files: Files,
    pub(crate) sockets: Sockets,
    /// `None` for a module of 0.1.
    http: Option<Http>,
    pub(crate) control: Arc<Control>,
}

/// What a guest reads and writes as its own.
struct Streams {
    stdin: Stdin,
    stdout: Arc<dyn Output>,
    stderr: Arc<dyn Output>,
}

impl State {
    /// For a container that is one instance.
    pub(crate) fn new(program: &Program, mut spec: ContainerSpec, control: &Arc<Control>) -> State {
        let http = Http::new(spec.network.clone(), Arc::clone(control), Purse::new(&spec.budget, control));
        let limiter = Limiter::new(&spec.budget, Arc::clone(control));
        let streams = Streams {
            stdin: std::mem::replace(&mut spec.stdin, Stdin::Closed),
            stdout: Arc::clone(&spec.stdout),
            stderr: Arc::clone(&spec.stderr),
        };
        State::with(program, &spec, streams, limiter, control, http)
    }

    /// For one of the instances of a container, which share its memory limit.
    pub(crate) fn one_of_many(
        program: &Program,
        spec: &ContainerSpec,
        stdout: Arc<dyn Output>,
        stderr: Arc<dyn Output>,
        control: &Arc<Control>,
        http: Http,
    ) -> State {
        let limiter = Limiter::shared(&spec.budget, Arc::clone(control));
        let streams = Streams { stdin: Stdin::Closed, stdout, stderr };
        // One that is there for a request need not give back what it soon uses again.
        State { slack: Slack::kept(), ..State::with(program, spec, streams, limiter, control, http) }
    }

    fn with(
        program: &Program,
        spec: &ContainerSpec,
        streams: Streams,
        limiter: Limiter,
        control: &Arc<Control>,
        http: Http,
    ) -> State {
        let stdio = Stdio::new(&streams.stdin, &streams.stdout, &streams.stderr, spec.tty);
        let mut wasi = WasiCtx::builder();
        wasi.args(&spec.args)
            .envs(&spec.env)
            .stdin(GuestStdin::new(streams.stdin, spec.tty))
            .stdout(GuestOutput::new(streams.stdout, spec.tty))
            .stderr(GuestOutput::new(streams.stderr, spec.tty))
            .max_random_size(RANDOM_BYTES);
        let mut files = Files::new(&spec.mounts, &spec.budget, stdio);
        if let Some(dir) = &spec.working_dir {
            wasi.initial_cwd(dir);
            if !program.asks_where() {
                files.work_in(dir);
            }
        }
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES);
        State {
            wasi: Some(Box::new(wasi.build())),
            preview1: None,
            table,
            slack: Slack::default(),
            limiter,
            files,
            sockets: Sockets::new(spec.network.clone(), control),
            http: Some(http),
            control: Arc::clone(control),
        }
    }

    /// For a module of 0.1.
    pub(crate) fn module(mut spec: ContainerSpec, listeners: Listeners, control: &Arc<Control>) -> State {
        let stdio = Stdio::new(&spec.stdin, &spec.stdout, &spec.stderr, spec.tty);
        let preview1 = Preview1::new(&mut spec, listeners, control);
        State {
            wasi: None,
            preview1: Some(Box::new(preview1)),
            table: ResourceTable::new(),
            slack: Slack::default(),
            limiter: Limiter::new(&spec.budget, Arc::clone(control)),
            files: Files::new(&spec.mounts, &spec.budget, stdio),
            sockets: Sockets::new(spec.network, control),
            http: None,
            control: Arc::clone(control),
        }
    }

    /// Where a module's pointers lead.
    pub(crate) fn set_memory(&mut self, memory: Option<Memory>) {
        if let Some(preview1) = &mut self.preview1 {
            preview1.set_memory(memory);
        }
    }

    /// For a function of `wasi:http` that makes the host hold so many bytes more.
    ///
    /// # Errors
    /// If that is more than the container or its pod may hold.
    pub(crate) fn http_grows(&mut self, bytes: u64) -> wasmtime::Result<WasiHttpCtxView<'_>> {
        let http = self.http.as_mut().expect("only components are linked to what asks for it");
        http.grow(bytes, &mut self.table, &mut self.limiter)?;
        Ok(http.view(&mut self.table))
    }

    /// A request of `wasi:http` is over, and another may come.
    ///
    /// # Errors
    /// If what is kept of it is more than the container or its pod may hold.
    pub(crate) fn http_settles(&mut self) -> wasmtime::Result<()> {
        let http = self.http.as_mut().expect("only components are asked");
        http.settle(&mut self.table, &mut self.limiter)
    }

    /// For the hosts of `wasi:filesystem`.
    pub(crate) fn files(&mut self) -> FilesView<'_> {
        FilesView { table: &mut self.table, files: &mut self.files }
    }

    /// For the host of `wasi:io/poll`.
    pub(crate) fn poll(&mut self) -> PollView<'_> {
        PollView { table: &mut self.table, slack: &mut self.slack }
    }

    /// For the hosts of `wasi:sockets`.
    pub(crate) fn net(&mut self) -> NetView<'_> {
        NetView { table: &mut self.table, sockets: &self.sockets }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let http = self.http.as_mut().expect("only components are linked to what asks for it");
        http.view(&mut self.table)
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let ctx = self.wasi.as_mut().expect("only components are linked to what asks for it");
        WasiCtxView { ctx, table: &mut self.table }
    }
}
