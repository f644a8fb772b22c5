//! Everything that guests may import, in one place. What is not here does not exist for them.

use wasmtime::Engine;
use wasmtime::component::{HasData, Linker, ResourceTable};
use wasmtime_wasi::cli::{WasiCli, WasiCliView};
use wasmtime_wasi::clocks::{WasiClocks, WasiClocksView};
use wasmtime_wasi::p2::bindings::{cli, clocks, filesystem, random};
use wasmtime_wasi::random::{WasiRandom, WasiRandomView};
use wasmtime_wasi_http::p2::bindings::{LinkOptions as HttpOptions, http};
use wasmtime_wasi_http::p3::bindings::http as http3;
use wasmtime_wasi_http::{WasiHttp, WasiHttpView};
use wasmtime_wasi_io::bindings::wasi::io;

use crate::engine::Settings;
use crate::files::FileSystem;
use crate::lifecycle;
use crate::p3;
use crate::poll::Poll;
use crate::sockets;
use crate::state::State;

/// What a node offers, by the version that guests are built against: any patch of it will do. For the check before
/// compilation; the linker decides.
const OFFERED: [(&str, &[&[&str]]); 3] =
    [("0.2", &[WASI, WASI_2]), ("0.3", &[WASI, WASI_3]), ("0.1", &[lifecycle::INTERFACES])];

/// In both versions.
const WASI: &[&str] = &[
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:http/types",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/ip-name-lookup",
];

const WASI_2: &[&str] = &[
    "wasi:clocks/wall-clock",
    "wasi:http/outgoing-handler",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:sockets/instance-network",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// Only where the node's flag allows it.
const WASI_3: &[&str] = &[
    "wasi:cli/types",
    "wasi:clocks/system-clock",
    "wasi:clocks/types",
    "wasi:http/client",
    "wasi:sockets/types",
];

/// Which of the interfaces this node offers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offers {
    /// Those of WASI 0.3, too.
    pub(crate) wasi_p3: bool,
}

/// Whether an interface is offered.
pub(crate) enum Offer {
    Yes,
    /// It belongs to WASI 0.3.
    NeedsFlag,
    /// Not this version; these are.
    OtherVersion(String),
    No,
}

impl Offers {
    /// Whether `name`, with its version, is offered.
    pub(crate) fn interface(self, name: &str) -> Offer {
        let Some((interface, version)) = name.split_once('@') else { return Offer::No };
        let tracks = OFFERED
            .iter()
            .filter(|(_, lists)| lists.iter().any(|list| list.contains(&interface)))
            .map(|(track, _)| *track);
        let (allowed, flagged): (Vec<_>, Vec<_>) = tracks.partition(|track| self.wasi_p3 || *track != "0.3");
        if allowed.iter().any(|track| Offers::compatible(version, track)) {
            return Offer::Yes;
        }
        if flagged.iter().any(|track| Offers::compatible(version, track)) {
            return Offer::NeedsFlag;
        }
        match allowed[..] {
            [] => Offer::No,
            [one] => Offer::OtherVersion(format!("offered is version {one} of it")),
            _ => Offer::OtherVersion(format!("offered are versions {} of it", allowed.join(" and "))),
        }
    }

    /// Whether a version is a patch of `track` (`0.2`). Candidates for a release (`0.2.0-rc-2023-11-10`) differ
    /// from it.
    pub(crate) fn compatible(version: &str, track: &str) -> bool {
        let patch = version.strip_prefix(track).and_then(|rest| rest.strip_prefix('.'));
        patch.is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|byte| byte.is_ascii_digit()))
    }
}

/// Streams and errors need nothing but the table.
struct Io;

impl HasData for Io {
    type Data<'a> = &'a mut ResourceTable;
}

/// The linker that all programs share.
pub(crate) fn build(engine: &Engine, settings: Settings) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    let l = &mut linker;
    io::error::add_to_linker::<State, Io>(l, |state| &mut state.table)?;
    io::poll::add_to_linker::<State, Poll>(l, State::poll)?;
    io::streams::add_to_linker::<State, Io>(l, |state| &mut state.table)?;
    clocks::wall_clock::add_to_linker::<State, WasiClocks>(l, State::clocks)?;
    clocks::monotonic_clock::add_to_linker::<State, WasiClocks>(l, State::clocks)?;
    random::random::add_to_linker::<State, WasiRandom>(l, State::random)?;
    random::insecure::add_to_linker::<State, WasiRandom>(l, State::random)?;
    random::insecure_seed::add_to_linker::<State, WasiRandom>(l, State::random)?;
    cli::environment::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::exit::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::stdin::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::stdout::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::stderr::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_input::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_output::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_stdin::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_stdout::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_stderr::add_to_linker::<State, WasiCli>(l, State::cli)?;
    filesystem::types::add_to_linker::<State, FileSystem>(l, State::files)?;
    filesystem::preopens::add_to_linker::<State, FileSystem>(l, State::files)?;
    sockets::add_to_linker(l)?;
    http::types::add_to_linker::<State, WasiHttp>(l, &(&HttpOptions::default()).into(), State::http)?;
    http::outgoing_handler::add_to_linker::<State, WasiHttp>(l, State::http)?;
    if settings.wasi_p3 {
        p3::add_to_linker(l)?;
        http3::types::add_to_linker::<State, WasiHttp>(l, State::http)?;
        http3::client::add_to_linker::<State, WasiHttp>(l, State::http)?;
    }
    crate::http::add_to_linker(l, settings.wasi_p3)?;
    lifecycle::add_to_linker(l)?;
    Ok(linker)
}
