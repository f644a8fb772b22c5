//! The guest examples that the binary carries, so that the demo and the benchmarks need no other file.

/// A guest and the name it is pushed under.
pub(crate) struct Guest {
    /// Repository in the embedded registry.
    pub name: &'static str,
    /// The component.
    pub wasm: &'static [u8],
}

macro_rules! guest {
    ($name:literal) => {
        Guest { name: $name, wasm: include_bytes!(concat!("../../../guest-examples/built/", $name, ".wasm")) }
    };
}

/// The HTTP server: the demo's web tier, and the pod of the benchmarks.
pub(crate) const WEB: Guest = guest!("web");

/// A `wasi:http` component that says hello: what HTTP is measured with.
pub(crate) const HANDLER: Guest = guest!("handler");

/// The commands of `kubectl exec`, `cp` and `debug`.
pub(crate) const TOOLBOX: Guest = guest!("toolbox");

/// What measures the network of a pod.
pub(crate) const LOOPBACK: Guest = guest!("loopback");
/// Prints a line and returns.
pub(crate) const HELLO: Guest = guest!("hello");

/// Many small files: what `bench volume` runs.
pub(crate) const FILES: Guest = guest!("files");

/// Everything that the examples' manifests name.
pub(crate) const ALL: &[Guest] = &[
    WEB,
    guest!("adapter"),
    guest!("ambassador"),
    guest!("burner"),
    guest!("content"),
    FILES,
    HANDLER,
    HELLO,
    guest!("hostile"),
    guest!("routes"),
    guest!("shop"),
];

/// The demo's manifest.
pub(crate) const DEMO: &str = include_str!("../../../guest-examples/demo.yaml");
