//! Socket options. In memory there is nothing that a keep-alive, a hop limit or a buffer size would change,
//! so they are checked, kept and reported, as programs expect that set one and read it back.

use coracle_network::limits::STREAM_WINDOW;
use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode;

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
pub(super) fn positive<T: PartialEq + Default>(value: T) -> Result<T, ErrorCode> {
    if value == T::default() { Err(ErrorCode::InvalidArgument) } else { Ok(value) }
}

/// A buffer size as it will be reported.
pub(super) fn buffer_size(value: u64) -> Result<u64, ErrorCode> {
    positive(value).map(|value| value.min(BUFFER_MAX))
}
