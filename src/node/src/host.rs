//! What the machine has and how it is doing, read from the kernel.

use std::{fs, path::Path, time::Duration};

use k8s_openapi::api::core::v1::NodeSystemInfo;

use crate::env::Allocatable;

/// Memory that must be left before pods are told to stay away. The kubelet's default hard threshold.
pub(crate) const MEMORY_RESERVE: u64 = 100 << 20;
/// What the control plane, the network's buffers, compiled code and the compiler of a small module may take, and what
/// guests still touch while one of them is being ended: more than a control plane with thousands of objects holds.
const SYSTEM_RESERVE: u64 = 256 << 20;
/// Small machines keep this part of their memory for that, if it is less.
const SYSTEM_PART: u64 = 8;
/// The part of that which compilers may have when pods leave nothing: enough for a small module.
const COMPILER_PART: u64 = 2;
/// The disk that must be free, if a tenth of it is not less. The kubelet's default hard threshold is 10 %, of a
/// disk that nobody else uses: here it would end all pods of a notebook whose large disk is nine tenths full.
const DISK_RESERVE: u64 = 2 << 30;
/// The names that the disk must have room for, in percent. The kubelet's default hard threshold.
const INODES_PERCENT: u64 = 5;
/// The version of Wasmtime, as containerd's stands in other nodes' `containerRuntimeVersion`.
const WASMTIME_VERSION: &str = "48.0.8";

/// What the machine has in total.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    pub(crate) cpus: u64,
    pub(crate) memory: u64,
    pub(crate) disk: u64,
}

impl Capacity {
    /// Measures the machine. `dir` lies on the disk that pods use.
    pub(crate) fn measure(dir: &Path) -> Capacity {
        let cpus = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
        let memory = meminfo("MemTotal").unwrap_or(0);
        Capacity { cpus, memory: memory.min(cgroup_limit().unwrap_or(u64::MAX)), disk: disk_use(dir).total }
    }

    /// What pods may have of it.
    pub(crate) fn allocatable(&self) -> Allocatable {
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        Allocatable {
            cpu_milli: signed(self.cpus * 1000),
            memory: signed(memory_for_pods(self.memory)),
            ephemeral_storage: signed(self.disk - disk_reserve(self.disk)),
        }
    }
}

/// Memory of the machine in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemoryUse {
    pub(crate) total: u64,
    pub(crate) available: u64,
}

impl MemoryUse {
    pub(crate) fn used(&self) -> u64 {
        self.total.saturating_sub(self.available)
    }
}

impl MemoryUse {
    /// Whether too little is left.
    pub(crate) fn short(&self) -> bool {
        self.total > 0 && self.available < MEMORY_RESERVE
    }
}

/// How much memory the machine has left, within the limit that this process lives under.
pub(crate) fn memory_use() -> MemoryUse {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name| memory_field(&text, name).unwrap_or(0);
    let (total, available) = (field("MemTotal"), field("MemAvailable"));
    match cgroup_limit() {
        Some(limit) if limit < total => {
            let (used, stat) = (read("/sys/fs/cgroup/memory.current"), read("/sys/fs/cgroup/memory.stat"));
            let used = working_set(used.parse().unwrap_or(0), &stat);
            MemoryUse { total: limit, available: available.min(limit.saturating_sub(used)) }
        }
        _ => MemoryUse { total, available },
    }
}

/// What of a group's memory the kernel cannot just take back: Kubernetes' working set. Files that were read lately stay
/// in memory until somebody needs it.
fn working_set(used: u64, stat: &str) -> u64 {
    let files = stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.trim().parse().ok());
    used.saturating_sub(files.unwrap_or(0))
}

/// Memory that the kernel has given this process for itself: what no file stands behind.
pub(crate) fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages_of_its_own(&text) * rustix::param::page_size() as u64
}

/// The resident pages of a line of `/proc/PID/statm` that are not shared.
fn pages_of_its_own(text: &str) -> u64 {
    let mut columns = text.split_whitespace().skip(1).map(|column| column.parse().unwrap_or(0));
    let (resident, shared): (u64, u64) = (columns.next().unwrap_or(0), columns.next().unwrap_or(0));
    resident.saturating_sub(shared)
}

/// What the machine has left, whatever limit this process lives under.
pub(crate) fn machine_available() -> u64 {
    meminfo("MemAvailable").unwrap_or(u64::MAX)
}

/// The disk of the machine in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DiskUse {
    pub(crate) total: u64,
    pub(crate) free: u64,
    /// Files and folders that it has room for, and those of them that are not there; 0 if it does not say.
    pub(crate) inodes: u64,
    pub(crate) inodes_free: u64,
}

impl DiskUse {
    /// The part that is not free; 0 for a disk that could not be measured.
    pub(crate) fn used_percent(&self) -> u64 {
        match self.total / 100 {
            0 => 0,
            percent => 100 - (self.free / percent).min(100),
        }
    }

    /// Whether too little is free.
    pub(crate) fn short(&self) -> bool {
        self.total > 0 && self.free < disk_reserve(self.total)
    }

    /// Whether too few names are free.
    pub(crate) fn short_of_inodes(&self) -> bool {
        self.inodes > 0 && self.inodes_free < self.inodes_reserve()
    }

    /// How many names must be free.
    pub(crate) fn inodes_reserve(&self) -> u64 {
        self.inodes / 100 * INODES_PERCENT
    }
}

/// What pods may hold together on a machine of so much memory.
pub(crate) fn memory_for_pods(total: u64) -> u64 {
    total.saturating_sub(MEMORY_RESERVE).saturating_sub(memory_of_system(total))
}

/// What of it the process may take for itself.
pub(crate) fn memory_of_system(total: u64) -> u64 {
    SYSTEM_RESERVE.min(total / SYSTEM_PART)
}

/// What of that compilers may borrow.
pub(crate) fn memory_for_compilers(total: u64) -> u64 {
    memory_of_system(total) / COMPILER_PART
}

/// What of a disk of so many bytes must be free.
pub(crate) fn disk_reserve(total: u64) -> u64 {
    (total / 10).min(DISK_RESERVE)
}

/// The disk that `dir` is on.
pub(crate) fn disk_use(dir: &Path) -> DiskUse {
    match rustix::fs::statvfs(dir) {
        Ok(stat) => DiskUse {
            total: stat.f_blocks * stat.f_frsize,
            free: stat.f_bavail * stat.f_frsize,
            inodes: stat.f_files,
            inodes_free: stat.f_favail,
        },
        Err(_) => DiskUse::default(),
    }
}

/// The CPU time that all of the machine has spent on anything since it was started.
pub(crate) fn cpu_time() -> Duration {
    busy_time(&fs::read_to_string("/proc/stat").unwrap_or_default())
}

/// The busy columns of the first line of `/proc/stat` (all but idle and waiting for disks), in hundredths of a second.
fn busy_time(text: &str) -> Duration {
    let first = text.lines().next().unwrap_or_default();
    let columns: Vec<u64> =
        first.split_whitespace().skip(1).map(|column| column.parse().unwrap_or(0)).collect();
    let busy: u64 =
        columns.iter().take(8).enumerate().filter(|(at, _)| !matches!(at, 3 | 4)).map(|(_, time)| time).sum();
    Duration::from_millis(busy * 10)
}

/// Whether the machine runs short of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pressure {
    pub(crate) memory: bool,
    pub(crate) disk: bool,
    /// The runtime has hardly any place left for another container.
    pub(crate) instances: bool,
}

impl Pressure {
    /// Measures the machine's disk. Whether there are memory and instances enough is for others to know.
    pub(crate) fn measure(dir: &Path, memory: bool, instances: bool) -> Pressure {
        let disk = disk_use(dir);
        Pressure { memory, disk: disk.short() || disk.short_of_inodes(), instances }
    }
}

/// `status.nodeInfo`.
pub(crate) fn system_info(version: &str) -> NodeSystemInfo {
    let machine_id = read("/etc/machine-id");
    let system_uuid = Some(read("/sys/class/dmi/id/product_uuid")).filter(|uuid| !uuid.is_empty());
    NodeSystemInfo {
        architecture: architecture().into(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: format!("wasmtime://{WASMTIME_VERSION}"),
        kernel_version: read("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: version.to_owned(),
        system_uuid: system_uuid.unwrap_or_else(|| machine_id.clone()),
        machine_id,
        operating_system: std::env::consts::OS.into(),
        os_image: os_name(&read("/etc/os-release")),
        swap: None,
    }
}

/// The machine's architecture by the name that Kubernetes labels use.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn os_name(release: &str) -> String {
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".into(), |name| name.trim_matches('"').to_owned())
}

/// A file of one line; empty if it cannot be read.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn meminfo(field: &str) -> Option<u64> {
    memory_field(&fs::read_to_string("/proc/meminfo").ok()?, field)
}

fn memory_field(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// The memory limit that this process lives under, if there is one.
fn cgroup_limit() -> Option<u64> {
    fs::read_to_string("/sys/fs/cgroup/memory.max").ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "MemTotal:       16384 kB\nMemFree:  1 kB\n";
        assert_eq!(memory_field(text, "MemTotal"), Some(16 << 20));
        assert_eq!(memory_field(text, "Mem"), None);
        assert_eq!(memory_field("MemTotal: many kB", "MemTotal"), None);
        assert_eq!(pages_of_its_own("1000 300 120 9 0 400 0"), 180);
        assert_eq!(pages_of_its_own(""), 0);
        let stat = "anon 500\nfile 300\ninactive_anon 1\nactive_file 50\ninactive_file 200\n";
        assert_eq!([working_set(1_000, stat), working_set(100, stat), working_set(9, "")], [800, 0, 9]);
    }

    #[test]
    fn idle_time_is_not_used() {
        let text = "cpu  100 20 30 4000 500 6 7 8 0 0\ncpu0 1 1 1 1\n";
        assert_eq!(busy_time(text), Duration::from_millis(1_710));
        assert_eq!(busy_time(""), Duration::ZERO);
    }

    #[test]
    fn small_machines_keep_a_part_and_large_ones_a_fixed_amount() {
        let mib = |bytes: u64| bytes >> 20;
        let seen = [512, 1_536, 24_000, 0].map(|total| mib(memory_for_pods(total << 20)));
        assert_eq!(seen, [512 - 100 - 64, 1_536 - 100 - 192, 24_000 - 100 - 256, 0]);
        assert_eq!([512, 1_536, 24_000].map(|total| mib(memory_for_compilers(total << 20))), [32, 96, 128]);
    }

    #[test]
    fn a_disk_is_used_in_percent() {
        let used = |total, free| DiskUse { total, free, ..DiskUse::default() }.used_percent();
        assert_eq!([used(1000, 1000), used(1000, 250), used(1000, 0), used(0, 0)], [0, 75, 100, 0]);
    }

    #[test]
    fn a_large_disk_may_be_fuller_than_a_small_one() {
        let short = |total: u64, free: u64| {
            DiskUse { total: total << 20, free: free << 20, ..DiskUse::default() }.short()
        };
        assert_eq!(
            [short(1_000, 99), short(1_000, 101), short(250_000, 2_000), short(250_000, 2_100)],
            [true, false, true, false]
        );
        assert!(!short(0, 0), "a disk that could not be measured");
    }

    #[test]
    fn a_disk_runs_short_of_names() {
        let short =
            |inodes, inodes_free| DiskUse { inodes, inodes_free, ..DiskUse::default() }.short_of_inodes();
        assert_eq!([short(6_000, 299), short(6_000, 300), short(6_000, 0)], [true, false, true]);
        assert!(!short(0, 0), "a disk that makes them as they are needed");
    }

    #[test]
    fn the_version_is_the_one_that_is_linked() {
        let locked = format!("name = \"wasmtime\"\nversion = \"{WASMTIME_VERSION}\"");
        assert!(include_str!("../../../Cargo.lock").contains(&locked));
    }

    #[test]
    fn this_machine_can_be_measured() {
        let capacity = Capacity::measure(Path::new("/"));
        assert!(resident() > 0 && machine_available() < u64::MAX);
        assert!(capacity.cpus > 0 && capacity.memory > 0 && capacity.disk > 0, "{capacity:?}");
        assert_eq!(os_name("NAME=x\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
    }
}
