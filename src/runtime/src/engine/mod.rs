//! The Wasmtime engine, and where its instances live.
//!
//! There are two classes: the *fast* one has a pool of memories that need no bounds checks, for about ten thousand
//! containers; the *dense* one ([`dense`]) has room for many more.
//!
//! What decides the code that a module is compiled to ([`Settings`]) is apart from where instances live, so that
//! another process can compile for an engine of this one.

mod arena;
mod dense;

use std::num::NonZeroUsize;
use std::sync::Arc;

pub(crate) use arena::{Guards, page};
use serde::{Deserialize, Serialize};
use wasmtime::{
    Collector, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolConcurrencyLimitError,
    PoolingAllocationConfig,
};

use crate::error::RuntimeError;
use crate::limits::{
    ASYNC_STACK, BACKTRACE_FRAMES, CONTEXT_BYTES, CORE_INSTANCES, GUEST_STACK, MEMORIES, MEMORY_MAX,
    TABLE_ELEMENTS, TABLES,
};
use crate::places::TABLES_PER_PLACE;

/// Kernel mappings that a running container takes: two when the pool is made (stack guards), three when its
/// memory is mapped. Measured.
const MAPPINGS_PER_CONTAINER: u32 = 5;

/// Mappings left to everything else in the process: code, heaps, threads, the store. Beyond the kernel's limit
/// any allocation may fail, which ends the process, so the distance is generous.
const MAPPINGS_RESERVED: u32 = 10_000;

/// Address space per memory slot: 4 GiB that a 32-bit memory can address without bounds checks, and its guard.
const SLOT_SPACE: u64 = MEMORY_MAX + (32 << 20);

/// Address space for slots, of the 128 TiB that a process has on 64-bit machines.
const POOL_SPACE: u64 = 64 << 40;

/// Free slots that are kept for the module that had them last: a new instance takes one of those before it makes
/// another slot warm. What ran at one time, however, has as many warm slots afterwards.
const WARM_SLOTS: u32 = 64;

/// Bytes of a freed memory that are zeroed in place rather than given back to the kernel: twice the start rate
/// for guests that touch less than this, which is most of them (a hello touches 20 KiB). The kernel has them back only
/// with the process, so this is also what every slot that was ever used may hold for nobody: 700 MiB in the worst case.
const KEEP_RESIDENT: usize = 64 << 10;

/// Bytes of a freed table that are zeroed in place, in each slot that was ever used.
const KEEP_RESIDENT_TABLE: usize = 16 << 10;

/// Whether an instance could not be made, or not go on, because the engine has no room for what it takes: memories,
/// tables or stacks of either class.
pub(crate) fn is_full(error: &wasmtime::Error) -> bool {
    error.is::<PoolConcurrencyLimitError>()
        || error.is::<arena::NoStack>()
        || error.chain().last().is_some_and(|cause| cause.to_string().starts_with(arena::NO_MEMORY))
}

/// What decides the code that a module is compiled to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) wasi_p3: bool,
    /// The class: dense, or fast.
    pub(crate) dense: bool,
}

/// How containers are placed in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Density {
    /// Fast as long as the host has room for as many containers as are wanted, else dense.
    #[default]
    Auto,
    /// The fastest code, for about ten thousand containers.
    Fast,
    /// Several times as many containers. Loops over memory may take up to four times as long, most code a few percent
    /// longer.
    Dense,
}

impl Density {
    /// Whether so many containers are placed densely.
    pub(crate) fn is_dense(self, wanted: u32, guards: Guards) -> bool {
        match self {
            Density::Fast => false,
            Density::Dense => true,
            Density::Auto => {
                wanted > capacity(wanted, max_mappings()) && wanted <= dense::capacity(wanted, guards)
            }
        }
    }
}

impl Settings {
    /// The part of an engine's configuration that its code depends on.
    fn config(self) -> wasmtime::Config {
        let mut config = wasmtime::Config::new();
        config
            .epoch_interruption(true)
            // Only WASI 0.3 needs it, and it costs each store some memory.
            .concurrency_support(self.wasi_p3)
            .cranelift_opt_level(OptLevel::Speed)
            // The only one that frees cycles. Programs without objects have neither a heap nor a collector.
            .collector(Collector::Copying)
            .memory_reservation(MEMORY_MAX);
        if self.dense {
            dense::settings(&mut config);
        }
        config
    }

    /// An engine that compiles, and has no room for instances.
    pub(crate) fn compiler(self) -> wasmtime::Result<Engine> {
        Engine::new(&self.config())
    }
}

/// Makes the engine, and says how many containers it has room for: `wanted`, or fewer if the host has less. `guards` are
/// those of stacks in the dense class.
pub(crate) fn build(wanted: u32, settings: Settings, guards: Guards) -> Result<(Engine, u32), RuntimeError> {
    let containers =
        if settings.dense { dense::capacity(wanted, guards) } else { capacity(wanted, max_mappings()) };
    if containers < wanted {
        tracing::warn!(wanted, containers, "the kernel's limit on mappings leaves room for fewer containers");
    }
    let failed = |source| RuntimeError::Engine { containers, source };
    let mut config = settings.config();
    config
        .wasm_backtrace_max_frames(NonZeroUsize::new(BACKTRACE_FRAMES))
        .wasm_backtrace_details(wasmtime::WasmBacktraceDetails::Disable)
        .max_wasm_stack(GUEST_STACK)
        .async_stack_size(ASYNC_STACK);
    if settings.dense {
        dense::configure(&mut config, containers, guards).map_err(|error| failed(Arc::new(error)))?;
    } else {
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(containers)));
    }
    let engine = Engine::new(&config).map_err(|error| failed(Arc::from(error.into_boxed_dyn_error())))?;
    Ok((engine, containers))
}

fn pool(containers: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    let context = usize::try_from(CONTEXT_BYTES).expect("a few megabytes");
    pool.total_component_instances(containers)
        // Only counted: what they take is memory of the heap.
        .total_core_instances(containers.saturating_mul(CORE_INSTANCES))
        .total_memories(memories(containers))
        .total_tables(containers.saturating_mul(TABLES_PER_PLACE).saturating_add(TABLES))
        // A heap of objects lies in one of the memories.
        .total_gc_heaps(memories(containers))
        // One fiber per container, and some for those that are being taken down.
        .total_stacks(containers + containers / 8 + 16)
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_core_instance_size(context)
        .max_component_instance_size(context)
        .max_memories_per_component(MEMORIES)
        .max_tables_per_component(TABLES)
        .max_memories_per_module(MEMORIES)
        .max_tables_per_module(TABLES)
        .max_memory_size(usize::try_from(MEMORY_MAX).expect("guests need a 64-bit host"))
        .table_elements(TABLE_ELEMENTS)
        .max_unused_warm_slots(WARM_SLOTS)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(KEEP_RESIDENT_TABLE)
        .pagemap_scan(Enabled::Auto);
    pool
}

/// Most containers have one memory; a few composed ones have more.
fn memories(containers: u32) -> u32 {
    containers.saturating_add(containers / 8).saturating_add(MEMORIES)
}

/// How many containers fit.
fn capacity(wanted: u32, max_mappings: u32) -> u32 {
    let by_mappings = max_mappings.saturating_sub(MAPPINGS_RESERVED) / MAPPINGS_PER_CONTAINER;
    let by_space = u32::try_from(POOL_SPACE / SLOT_SPACE).unwrap_or(u32::MAX) / 9 * 8 - MEMORIES;
    wanted.min(by_mappings).min(by_space).max(1)
}

/// The kernel's limit on mappings of a process; its usual default if it cannot be read.
fn max_mappings() -> u32 {
    const USUAL: u32 = 65_530;
    std::fs::read_to_string("/proc/sys/vm/max_map_count")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(USUAL)
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hash, Hasher};

    use super::*;

    /// What one compiles the other loads.
    #[test]
    fn the_compiler_makes_code_for_the_engine() {
        let hash = |engine: &Engine| {
            let mut hasher = DefaultHasher::new();
            engine.precompile_compatibility_hash().hash(&mut hasher);
            hasher.finish()
        };
        let mut hashes = Vec::new();
        for (wasi_p3, dense) in [(false, false), (false, true), (true, false), (true, true)] {
            let settings = Settings { wasi_p3, dense };
            let (engine, _) = build(1, settings, Guards::of_kernel()).unwrap();
            let compiler = settings.compiler().unwrap();
            assert_eq!(hash(&engine), hash(&compiler));
            hashes.push(hash(&engine));
        }
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 4, "code of one is not taken for code of another");
    }

    #[test]
    fn density_follows_what_is_wanted() {
        for (density, few, many) in
            [(Density::Auto, false, true), (Density::Fast, false, false), (Density::Dense, true, true)]
        {
            let is_dense = |wanted| density.is_dense(wanted, Guards::Light);
            assert_eq!((is_dense(1_000), is_dense(20_000)), (few, many), "{density:?}");
        }
    }

    #[test]
    fn the_pool_fits_the_host() {
        #[track_caller]
        fn check(wanted: u32, mappings: u32, expected: u32) {
            let containers = capacity(wanted, mappings);
            assert_eq!(containers, expected);
            assert!(u64::from(memories(containers)) * SLOT_SPACE <= POOL_SPACE);
        }
        check(100, 65_530, 100);
        check(0, 65_530, 1);
        check(50_000, 65_530, 11_106);
        check(50_000, 1_000_000, 14_440);
        check(u32::MAX, u32::MAX, 14_440);
        check(10, 0, 1);
    }
}
