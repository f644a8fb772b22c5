//! `coracle bench density`: what idle pods cost the runtime, and how busy ones share its threads.
//!
//! Each measurement of memory is a process of its own, because allocators keep what they once had.

use std::{process::Stdio, sync::Arc, time::Duration};

use anyhow::Context;
use coracle_network::PodStack;
use coracle_runtime::{Container, Cpu, Density, Output, Program};
use tokio::time::{Instant, sleep};

use super::{
    lab::{Lab, Nowhere, SLEEP, SPIN},
    mib,
    spawn::micros,
};
use crate::{
    cli::{BenchDensity, DensityOption},
    guests, ui,
};

/// Numbers of idle pods at which single starts and kills are measured, to show that they cost the same.
const STEPS: [u32; 4] = [10, 100, 1_000, 10_000];

/// Single starts and kills at each step.
const SINGLES: u32 = 200;

/// How long busy pods run before and while their CPU time is compared.
const SETTLE: Duration = Duration::from_millis(500);
const WINDOW: Duration = Duration::from_secs(6);

/// Busy pods, and how far from its due each may be, in percent.
const BUSY: usize = 100;
const FAIR_PERCENT: f64 = 3.0;

/// Limits that are measured, in millicores, and how far from them a second may be, in percent.
const LIMITS: [u32; 4] = [10, 50, 100, 500];
const LIMIT_PERCENT: f64 = 5.0;

/// Runs the command: one measurement of idle pods if it is told which, else all.
pub(crate) async fn run(args: BenchDensity) -> anyhow::Result<()> {
    if let Some(count) = args.count {
        return idle(count, args.density.unwrap_or(DensityOption::Auto), args.web).await;
    }
    for (count, density, guest) in
        [("10000", "fast", None), ("10000", "fast", Some("--web")), ("50000", "dense", None)]
    {
        let status = tokio::process::Command::new(std::env::current_exe().context("who am I?")?)
            .args(["bench", "density", "--count", count, "--density", density])
            .args(guest)
            .stdin(Stdio::null())
            .status()
            .await
            .context("cannot start the measurement")?;
        anyhow::ensure!(status.success(), "the measurement of {count} pods failed");
    }
    busy().await
}

/// What a process holds, in bytes.
#[derive(Clone, Copy)]
struct Held {
    resident: u64,
    /// The same, but what several mappings share is counted once.
    own: u64,
    page_tables: u64,
}

impl Held {
    fn now() -> anyhow::Result<Held> {
        let field = |file: &str, name: &str| -> anyhow::Result<u64> {
            let text = std::fs::read_to_string(file).context("cannot read the memory")?;
            let line = text.lines().find_map(|line| line.strip_prefix(name)).context("not in it")?;
            let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("memory is not a number")?;
            Ok(kib << 10)
        };
        let status = "/proc/self/status";
        Ok(Held {
            resident: field(status, "VmRSS:")?,
            own: field("/proc/self/smaps_rollup", "Pss:")?,
            page_tables: field(status, "VmPTE:")?,
        })
    }
}

/// Fills a runtime with pods that wait.
async fn idle(count: u32, density: DensityOption, web: bool) -> anyhow::Result<()> {
    let lab = Lab::build(count + 64, density.into(), None)?;
    let (guest, what) =
        if web { (guests::WEB.wasm, "a WASI 0.2 server") } else { (SLEEP, "a WASI 0.1 sleeper") };
    let program = lab.program(guest).await?;
    ui::line(&format!("{count} idle pods of one container, {what}, {density:?} class:"));
    // What the first one touches of the binary is not the pods'.
    singles(&lab, &program, 1).await?;
    let before = Held::now()?;
    let mut pods: Vec<(PodStack, Container)> = Vec::new();
    let mut busy = Duration::ZERO;
    let steps = STEPS.into_iter().filter(|step| *step < count).chain([count]);
    for step in steps {
        let begin = Instant::now();
        while pods.len() < step as usize {
            let pod = lab.pod(&format!("pod-{}", pods.len()))?;
            let container = idler(&lab, &program, &pod)?;
            pods.push((pod, container));
        }
        asleep(&pods).await;
        busy += begin.elapsed();
        let (mut starts, mut kills) = singles(&lab, &program, SINGLES).await?;
        ui::line(&format!("  beside {step:>6}: start {}", micros(&mut starts)));
        ui::line(&format!("                 kill  {}", micros(&mut kills)));
    }
    let after = Held::now()?;
    let each = |bytes: fn(Held) -> u64| {
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let kib = bytes(after).saturating_sub(bytes(before)) as f64 / 1024.0;
        kib / f64::from(count)
    };
    ui::line(&format!(
        "  {:.1} KiB resident each, {:.1} KiB if what they share is counted once, and {:.1} KiB of page tables; \
         {} and {} in all, {} mappings, {:.2} s to start",
        each(|held| held.resident),
        each(|held| held.own),
        each(|held| held.page_tables),
        mib(after.resident),
        mib(after.page_tables),
        mappings()?,
        busy.as_secs_f64()
    ));
    for (_, container) in &pods {
        container.kill();
    }
    for (_, container) in &pods {
        container.wait().await;
    }
    Ok(())
}

fn idler(lab: &Lab, program: &Arc<Program>, pod: &PodStack) -> anyhow::Result<Container> {
    lab.start(program, pod, Cpu::default(), Arc::new(Nowhere) as Arc<dyn Output>)
}

/// Waits until all have begun and nobody runs any more.
async fn asleep(pods: &[(PodStack, Container)]) {
    let total = || pods.iter().map(|(_, container)| container.usage().cpu).sum::<Duration>();
    loop {
        let before = total();
        sleep(Duration::from_millis(100)).await;
        if before == total() && pods.iter().all(|(_, container)| container.usage().memory > 0) {
            return;
        }
    }
}

/// Times of single starts (until its memory is there) and kills (until all is given back), in one more pod.
async fn singles(
    lab: &Lab,
    program: &Arc<Program>,
    count: u32,
) -> anyhow::Result<(Vec<Duration>, Vec<Duration>)> {
    let (mut starts, mut kills) = (Vec::new(), Vec::new());
    for number in 0..count {
        let begin = Instant::now();
        let pod = lab.pod(&format!("single-{number}"))?;
        let container = idler(lab, program, &pod)?;
        while container.usage().memory == 0 {
            tokio::task::yield_now().await;
        }
        starts.push(begin.elapsed());
        let begin = Instant::now();
        container.kill();
        container.wait().await;
        pod.close();
        kills.push(begin.elapsed());
    }
    Ok((starts, kills))
}

fn mappings() -> anyhow::Result<usize> {
    Ok(std::fs::read_to_string("/proc/self/maps").context("cannot read the mappings")?.lines().count())
}

/// How pods that never stop share the threads.
async fn busy() -> anyhow::Result<()> {
    let lab = Lab::build(256, Density::Fast, None)?;
    let program = lab.program(SPIN).await?;
    let pod = lab.pod("busy")?;
    let cpu = |request_millis, limit_millis| Cpu { request_millis, limit_millis };
    let equal = vec![cpu(0, None); BUSY];
    let used = shares(&lab, &program, &pod, &equal).await?;
    let mut kills = killed(&lab, &program, &pod, &equal).await?;
    ui::line(&format!("kill of each of {BUSY} busy pods: {}", micros(&mut kills)));
    compare(&format!("{BUSY} busy pods without requests"), &used, &vec![1.0; BUSY], FAIR_PERCENT);
    let weights: Vec<_> = (0..BUSY).map(|at| cpu(100 + 100 * (at as u32 % 2), None)).collect();
    let due: Vec<_> = weights.iter().map(|cpu| f64::from(cpu.request_millis)).collect();
    let used = shares(&lab, &program, &pod, &weights).await?;
    compare(&format!("{BUSY} busy pods, half of them with twice the request"), &used, &due, FAIR_PERCENT);
    for limit in LIMITS {
        let used = shares(&lab, &program, &pod, &[cpu(limit, Some(limit))]).await?;
        let millis = used[0] * 1e3;
        let off = (millis / f64::from(limit) - 1.0) * 100.0;
        let met = if off.abs() <= LIMIT_PERCENT { "met" } else { "NOT met" };
        ui::line(&format!(
            "limit of {limit:>4} m: {millis:.2} m used, {off:+.1} % (wanted ±{LIMIT_PERCENT} %: {met})"
        ));
    }
    Ok(())
}

/// A container for each of these.
fn together(
    lab: &Lab,
    program: &Arc<Program>,
    pod: &PodStack,
    cpus: &[Cpu],
) -> anyhow::Result<Vec<Container>> {
    cpus.iter().map(|cpu| lab.start(program, pod, *cpu, Arc::new(Nowhere))).collect()
}

/// CPU time a second that containers use which never stop.
async fn shares(lab: &Lab, program: &Arc<Program>, pod: &PodStack, cpus: &[Cpu]) -> anyhow::Result<Vec<f64>> {
    let containers = together(lab, program, pod, cpus)?;
    let used = || containers.iter().map(|container| container.usage().cpu).collect::<Vec<_>>();
    sleep(SETTLE).await;
    let (begin, before) = (Instant::now(), used());
    sleep(WINDOW).await;
    let (time, after) = (begin.elapsed().as_secs_f64(), used());
    for container in &containers {
        container.kill();
        container.wait().await;
    }
    Ok(before.iter().zip(&after).map(|(before, after)| (*after - *before).as_secs_f64() / time).collect())
}

/// How long each takes to end while those after it go on.
async fn killed(
    lab: &Lab,
    program: &Arc<Program>,
    pod: &PodStack,
    cpus: &[Cpu],
) -> anyhow::Result<Vec<Duration>> {
    let containers = together(lab, program, pod, cpus)?;
    sleep(SETTLE).await;
    let mut times = Vec::new();
    for container in &containers {
        let begin = Instant::now();
        container.kill();
        container.wait().await;
        times.push(begin.elapsed());
    }
    Ok(times)
}

/// Says how far each is from its due.
fn compare(what: &str, used: &[f64], due: &[f64], percent: f64) {
    let (all, dues) = (used.iter().sum::<f64>(), due.iter().sum::<f64>());
    let off = |(used, due): (&f64, &f64)| (used / (all * due / dues) - 1.0) * 100.0;
    let (least, most) = used
        .iter()
        .zip(due)
        .map(off)
        .fold((f64::MAX, f64::MIN), |(least, most), off| (least.min(off), most.max(off)));
    let met = if least >= -percent && most <= percent { "met" } else { "NOT met" };
    ui::line(&format!(
        "{what}: {:.0} m in all, each within {least:+.1} % and {most:+.1} % of its share (wanted ±{percent} %: {met})",
        all * 1e3
    ));
}
