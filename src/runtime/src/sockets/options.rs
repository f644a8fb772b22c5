//! Socket options. In memory there is nothing that a keep-alive, a hop limit or a buffer size would change,
//! so they are checked, kept and reported, as programs expect that set one and read it back.

use coracle_network::limits::STREAM_WINDOW;
use wasmtime_wasi::p2::SocketError;
use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode;
use wasmtime_wasi::p3::bindings::sockets::types::ErrorCode as ErrorCode3;
use wasmtime_wasi::p3::sockets::SocketError as SocketError3;

/// The largest value that buffers are reported with; larger ones are cut, as kernels cut them.
const BUFFER_MAX: u64 = i32::MAX as u64;

/// The options of one socket, with Linux's defaults.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) keep_alive: bool,
    /// Nanoseconds.
    pub(crate) keep_alive_idle: u64,
    /// Nanoseconds.
    pub(crate) keep_alive_interval: u64,
    pub(crate) keep_alive_count: u32,
    pub(crate) hop_limit: u8,
    pub(crate) receive_buffer: u64,
    pub(crate) send_buffer: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            keep_alive: false,
            keep_alive_idle: 7_200 * 1_000_000_000,
            keep_alive_interval: 75 * 1_000_000_000,
            keep_alive_count: 9,
            hop_limit: 64,
            receive_buffer: STREAM_WINDOW as u64,
            send_buffer: STREAM_WINDOW as u64,
        }
    }
}

/// No option accepts zero.
#[derive(Debug)]
pub(crate) struct Zero;

impl From<Zero> for SocketError {
    fn from(_: Zero) -> SocketError {
        ErrorCode::InvalidArgument.into()
    }
}

impl From<Zero> for SocketError3 {
    fn from(_: Zero) -> SocketError3 {
        ErrorCode3::InvalidArgument.into()
    }
}

/// Any number but zero.
pub(crate) fn positive<T: PartialEq + Default>(value: T) -> Result<T, Zero> {
    if value == T::default() { Err(Zero) } else { Ok(value) }
}

/// A buffer size as it will be reported.
pub(crate) fn buffer_size(value: u64) -> Result<u64, Zero> {
    positive(value).map(|value| value.min(BUFFER_MAX))
}

/// Yes or no.
#[expect(clippy::unnecessary_wraps, reason = "as those that do refuse")]
pub(crate) fn either(value: bool) -> Result<bool, Zero> {
    Ok(value)
}

/// The functions of a socket's interface that set and read options, by their names in it; `$socket` looks the socket
/// up.
macro_rules! options {
    ($socket:ident: $($get:ident, $set:ident => $option:ident: $type:ty, $valid:ident;)*) => {$(
        fn $get(&mut self, this: Resource<Theirs>) -> SocketResult<$type> {
            Ok(self.$socket(&this)?.options.$option)
        }

        fn $set(&mut self, this: Resource<Theirs>, value: $type) -> SocketResult<()> {
            self.$socket(&this)?.options.$option = $valid(value)?;
            Ok(())
        }
    )*};
}
pub(crate) use options;
