//! What one container can make the host hold. Each number says why it is what it is; none depends on what a
//! pod asks for.

/// Entries of a container's resource table: descriptors, sockets, streams, pollables; also of one poll list. A server with a
/// thousand connections holds about five per connection; ten thousand entries cost the host about 1 MB.
pub const RESOURCES: usize = 10_000;

/// Files and directories a container has open at once: Linux's usual soft `ulimit -n`. A file of a host
/// volume is also a file descriptor of the node's process.
pub const OPEN_FILES: usize = 1_024;

/// Bytes that a guest can hand over in one host call (lists, strings, all arguments together). It bounds
/// writes and names. Programs write at most a megabyte at once; beyond this the guest traps.
pub const CALL_BYTES: usize = 4 << 20;

/// Bytes read or written by one call on a file or on stdout. Guests loop anyway, and a copy of this size
/// takes microseconds, so a thread is back at its queue soon.
pub const CHUNK: usize = 64 << 10;

/// Bytes that wait in a container's stdin: a pipe's usual capacity on Linux. Who writes more waits.
pub const STDIN_BYTES: usize = 64 << 10;

/// Bytes that wait for whoever reads a guest's output as it comes. A guest that prints faster waits.
pub const OUTPUT_BYTES: usize = 256 << 10;

/// Random bytes in one call. `getrandom` users ask for tens of bytes.
pub const RANDOM_BYTES: u64 = 1 << 20;

/// Core instances, memories and tables in one component. A program composed of several components has about
/// five core instances for each of them.
pub const CORE_INSTANCES: u32 = 64;

/// What the engine keeps for an instance of a program beside its memories and tables: some tens of bytes for each
/// global, import and function that is called indirectly. Programs with [`TABLE_ELEMENTS`] of those need a few
/// megabytes. The container is charged with it but for the first [`CONTEXT_FREE`].
pub const CONTEXT_BYTES: u64 = 16 << 20;

/// Bytes of [`CONTEXT_BYTES`] that come with every instance, as its stack does: more than most programs need.
pub const CONTEXT_FREE: u64 = 64 << 10;

/// Linear memories in one component, one per composed part, or in one core module.
pub const MEMORIES: u32 = 8;

/// Tables in one component, or in one core module.
pub const TABLES: u32 = 64;

/// Elements of one table: an entry per function that is called indirectly. Large interpreters and Go programs
/// have some tens of thousands.
pub const TABLE_ELEMENTS: usize = 100_000;

/// Stack of a guest, in bytes: what Wasmtime gives by default. Only touched pages count.
pub const GUEST_STACK: usize = 512 << 10;

/// Stack of a guest and of the host functions it calls. Host functions parse paths and copy buffers; the
/// deepest take a few ten kilobytes.
pub const ASYNC_STACK: usize = GUEST_STACK + (256 << 10);

/// Hard memory limit of a container, whatever its spec says: what 32-bit memories can address.
pub const MEMORY_MAX: u64 = 4 << 30;

/// Frames of a trap's backtrace, and bytes of its message: `terminated.message` holds 4,096 bytes.
pub const BACKTRACE_FRAMES: usize = 20;

/// See [`BACKTRACE_FRAMES`].
pub const MESSAGE_BYTES: usize = 4_096;

/// Largest module that is compiled. Interpreters with their libraries are 30 to 60 MB.
pub const MODULE_BYTES: u64 = 256 << 20;
