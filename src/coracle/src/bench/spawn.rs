//! `coracle bench spawn`: how many containers a second the runtime starts, and how soon each runs.
//!
//! Everything is warm: the program is compiled and loaded, its pod exists. A start is a container as the node makes
//! one, with files, network, limits and accounting of its own; API and agent are left out.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use coracle_network::PodStack;
use coracle_runtime::{Container, Cpu, Density, Exit, Output, Program};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use super::lab::Lab;
use crate::{cli::BenchSpawn, guests, ui};

/// Containers that are started or run at one time while the rate is measured.
const IN_FLIGHT: usize = 64;

/// Starts before anything is measured.
const WARM_UP: u32 = 1_000;

/// The least that is wanted of two cores, in starts a second, and the most that 99 of 100 single starts may take.
const WANTED: (f64, Duration) = (8_000.0, Duration::from_millis(1));

/// Notes when a guest first prints.
#[derive(Default)]
struct First(OnceLock<Instant>);

impl Output for First {
    fn write(&self, _bytes: &[u8]) {
        self.0.get_or_init(Instant::now);
    }
}

/// Runs the command.
pub(crate) async fn run(args: BenchSpawn) -> anyhow::Result<()> {
    let lab = Lab::build(1_024, Density::Fast, args.threads)?;
    let program = lab.program(guests::HELLO.wasm).await?;
    let pod = lab.pod("spawn")?;
    flood(&lab, &program, &pod, WARM_UP).await?;

    let (mut first, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..args.singles {
        let output = Arc::new(First::default());
        let begin = Instant::now();
        let container = lab.start(&program, &pod, Cpu::default(), output.clone())?;
        succeeded(&container).await?;
        whole.push(begin.elapsed());
        first.extend(output.0.get().map(|printed| *printed - begin));
    }
    ui::line("one container after the other, hello of WASI 0.2:");
    ui::line(&format!("  start to its first line  {}", micros(&mut first)));
    ui::line(&format!("  start to its end         {}", micros(&mut whole)));
    let p99 = first.get(first.len() * 99 / 100).copied().unwrap_or_default();

    let mut rates = Vec::new();
    for _ in 0..args.runs {
        let begin = Instant::now();
        flood(&lab, &program, &pod, args.count).await?;
        rates.push(f64::from(args.count) / begin.elapsed().as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    let median = rates[rates.len() / 2];
    ui::line(&format!(
        "{IN_FLIGHT} at a time: {median:.0} starts/s  (min {:.0}, max {:.0}, {} runs of {})",
        rates[0],
        rates[rates.len() - 1],
        rates.len(),
        args.count
    ));
    let met = |met: bool| if met { "met" } else { "NOT met" };
    ui::line(&format!(
        "wanted: at least {:.0}/s: {}; 99 of 100 within {:?}: {}",
        WANTED.0,
        met(median >= WANTED.0),
        WANTED.1,
        met(p99 < WANTED.1)
    ));
    Ok(())
}

/// Starts so many, a few at a time, and waits for the last.
async fn flood(lab: &Lab, program: &Arc<Program>, pod: &PodStack, count: u32) -> anyhow::Result<()> {
    let nowhere: Arc<dyn Output> = Arc::new(super::lab::Nowhere);
    let mut running = FuturesUnordered::new();
    for _ in 0..count {
        if running.len() >= IN_FLIGHT
            && let Some(ended) = running.next().await
        {
            let ended: anyhow::Result<()> = ended;
            ended?;
        }
        let container = lab.start(program, pod, Cpu::default(), Arc::clone(&nowhere))?;
        running.push(async move { succeeded(&container).await });
    }
    while let Some(ended) = running.next().await {
        ended?;
    }
    Ok(())
}

async fn succeeded(container: &Container) -> anyhow::Result<()> {
    let exit = container.wait().await;
    anyhow::ensure!(exit == Exit::Code(0), "the guest ended with {exit:?}");
    Ok(())
}

/// Median and extremes in microseconds.
pub(super) fn micros(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let micros = |at: usize| times.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6);
    format!(
        "median {:.0} µs  (min {:.0}, p99 {:.0}, max {:.0}, n={})",
        micros(times.len() / 2),
        micros(0),
        micros(times.len() * 99 / 100),
        micros(times.len().saturating_sub(1)),
        times.len()
    )
}
