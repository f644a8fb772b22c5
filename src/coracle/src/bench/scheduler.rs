//! `coracle bench scheduler`: how many pods a second the scheduler places, API and disk left out.

use std::time::Duration;

use anyhow::Context;
use coracle_scheduler::bench::{Pods, run};

use super::mib;
use crate::{cli::BenchScheduler, ui};

/// The curve is measured at these numbers of nodes, and at the one that was asked for.
const CURVE: [u32; 2] = [100, 1000];

/// Runs the command.
pub(crate) async fn measure(args: BenchScheduler) -> anyhow::Result<()> {
    // It computes for as long as it takes: not on a thread that others share.
    tokio::task::spawn_blocking(move || report(&args)).await.context("the measurement ended early")?
}

fn report(args: &BenchScheduler) -> anyhow::Result<()> {
    let cpu = cpu()?;
    for (title, kind) in [
        ("default plugins", Pods::Plain),
        ("with inter-pod anti-affinity and topology spread", Pods::Constrained),
    ] {
        ui::line(&format!("{title}:"));
        let smaller = CURVE.into_iter().filter(|nodes| *nodes < args.nodes);
        for nodes in smaller.chain([args.nodes]) {
            let pods = u64::from(args.pods) * u64::from(nodes) / u64::from(args.nodes);
            let pods = u32::try_from(pods).unwrap_or(u32::MAX).max(1);
            let run = run(nodes, pods, kind, args.seed);
            let left =
                if run.unplaced == 0 { String::new() } else { format!(", {} left over", run.unplaced) };
            ui::line(&format!(
                "  {nodes:>5} nodes, {pods:>6} pods: {:>7.0} placements/s ({:.2} s{left})",
                run.rate(),
                run.elapsed.as_secs_f64()
            ));
        }
    }
    let cpu = self::cpu()?.saturating_sub(cpu);
    ui::line(&format!("CPU {:.1} s, memory at most {}", cpu.as_secs_f64(), mib(peak()?)));
    Ok(())
}

/// CPU time of this process so far, user and system.
fn cpu() -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").context("cannot read the CPU time")?;
    super::child::cpu_of(&stat).context("the CPU time is not as expected")
}

/// The most memory that this process has had resident.
fn peak() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read the memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM in it")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("memory is not a number")?;
    Ok(kib << 10)
}
