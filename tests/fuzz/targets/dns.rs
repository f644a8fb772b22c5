//! Any bytes as a query to the cluster's DNS server.

#![no_main]

use std::sync::{Arc, LazyLock};

use coracle_network::{Config, Fabric};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

static NETWORK: LazyLock<(Runtime, Arc<Fabric>)> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let fabric = {
        let _inside = runtime.enter();
        Fabric::build(Config::default())
    };
    (runtime, fabric)
});

fuzz_target!(|bytes: &[u8]| coracle_network::fuzz::dns(&NETWORK.1, bytes));
