//! How much memory the process takes, and how much it may take.

use std::fs;
use std::path::{Path, PathBuf};

use super::allocator::counted_bytes;
use crate::memory::LEAST_MAX_MEMORY;

/// The limit that the kernel shows for "none" in version 1 is just below 2^63, rounded to pages.
const NO_LIMIT: u64 = 1 << 62;

/// Bytes that the process holds: counted by the allocator if it is [`super::CountingAllocator`], else the resident ones.
pub fn live_bytes() -> u64 {
    match counted_bytes() {
        0 => resident_bytes(),
        live => live,
    }
}

/// Resident bytes of the process; 0 if that is not known.
pub fn resident_bytes() -> u64 {
    resident().0
}

/// Resident bytes that are no pages of files, such as code; 0 if that is not known.
pub fn private_bytes() -> u64 {
    let (all, of_files) = resident();
    all.saturating_sub(of_files)
}

/// Resident bytes, and those of them that are pages of files.
fn resident() -> (u64, u64) {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let bytes = |field: usize| {
        let pages = text.split(' ').nth(field).and_then(|pages| pages.parse::<u64>().ok());
        pages.unwrap_or(0) * rustix::param::page_size() as u64
    };
    (bytes(1), bytes(2))
}

/// The memory that there is for the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Available {
    /// The limit of the control group, in bytes.
    Group(u64),
    /// The machine's memory, in bytes.
    Machine(u64),
    /// It is not known.
    Unknown,
}

impl Available {
    /// Asks the kernel.
    pub fn read() -> Available {
        // A container may have a file of its own; under `ProcSubset=pid` there is none.
        let told = fs::read_to_string("/proc/meminfo").ok().and_then(|text| machine_bytes(&text));
        let machine = told.or_else(|| {
            let machine = rustix::system::sysinfo();
            machine.totalram.checked_mul(machine.mem_unit.into()).filter(|bytes| *bytes > 0)
        });
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let limit = group_limit(&groups, Path::new("/sys/fs/cgroup"));
        Available::of(limit, machine)
    }

    fn of(limit: Option<u64>, machine: Option<u64>) -> Available {
        // A limit beyond the machine's memory limits nothing.
        match (limit.filter(|limit| machine.is_none_or(|machine| *limit < machine)), machine) {
            (Some(limit), _) => Available::Group(limit),
            (None, Some(machine)) => Available::Machine(machine),
            (None, None) => Available::Unknown,
        }
    }

    /// How much it is, in bytes, if that is known.
    pub fn bytes(self) -> Option<u64> {
        match self {
            Available::Group(bytes) | Available::Machine(bytes) => Some(bytes),
            Available::Unknown => None,
        }
    }

    /// Whose it is.
    pub fn whose(self) -> &'static str {
        match self {
            Available::Group(_) => "the control group's",
            Available::Machine(_) => "the machine's",
            Available::Unknown => "an unknown size",
        }
    }

    /// The share of it, in percent, that `max_memory` is by default.
    pub fn percent(self) -> u64 {
        match self {
            Available::Group(_) => 60,
            Available::Machine(_) | Available::Unknown => 25,
        }
    }

    /// What `max_memory` is by default, in bytes: its share, in whole MiB as people write it, 256 MiB at least.
    pub fn default_max_memory(self) -> u64 {
        let share = u128::from(self.bytes().unwrap_or(0)) * u128::from(self.percent()) / 100;
        u64::try_from(share).unwrap_or(u64::MAX).max(LEAST_MAX_MEMORY) >> 20 << 20
    }
}

/// The machine's memory, from `/proc/meminfo`.
fn machine_bytes(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// The lowest limit of the control groups of the process and of all their parents, in version 2 and version 1. `groups` is
/// `/proc/self/cgroup`, `root` where the groups are mounted. In a container the path may be that of the host, and the group
/// itself be mounted at the root, so a path that is not there is no obstacle.
fn group_limit(groups: &str, root: &Path) -> Option<u64> {
    let mut lowest: Option<u64> = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (mount, file) = match controllers {
            "" => (root.to_path_buf(), "memory.max"),
            list if list.split(',').any(|controller| controller == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let own: PathBuf = mount.join(path.trim_start_matches('/'));
        for folder in own.ancestors().take_while(|folder| folder.starts_with(&mount)) {
            let limit = fs::read_to_string(folder.join(file)).ok().and_then(|text| text.trim().parse::<u64>().ok());
            lowest = [lowest, limit.filter(|limit| *limit < NO_LIMIT)].into_iter().flatten().min();
        }
    }
    lowest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_limit_of_the_chain_counts_in_both_versions() {
        let root = tempfile::tempdir().expect("a folder");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        };
        write("a/b/c/memory.max", "max\n");
        write("a/b/memory.max", "1000000000\n");
        write("a/memory.max", "2000000000\n");
        write("memory/x/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/x/y/memory.limit_in_bytes", "700000000\n");
        let limit = |groups: &str| group_limit(groups, root.path());
        assert_eq!(limit("0::/a/b/c\n"), Some(1_000_000_000));
        assert_eq!(limit("0::/a\n"), Some(2_000_000_000));
        assert_eq!(limit("0::/\n"), None);
        assert_eq!(limit("4:cpu,memory:/x/y\n1:name=systemd:/a/b\n"), Some(700_000_000));
        assert_eq!(limit("4:memory:/x\n0::/a/b/c\n"), Some(1_000_000_000));
        assert_eq!(limit("0::/not/there\n"), None);
        write("memory.max", "800000000");
        assert_eq!(limit("0::/of/the/host\n"), Some(800_000_000));
    }

    #[test]
    fn the_default_is_a_share_of_what_there_is() {
        let gib = |n: u64| n << 30;
        let share = |limit, machine| Available::of(limit, machine).default_max_memory();
        assert_eq!(share(Some(1_000_000_000), Some(gib(8))), 572 << 20);
        assert_eq!(share(None, Some(gib(8))), gib(2));
        assert_eq!(share(Some(gib(64)), Some(gib(8))), gib(2));
        assert_eq!(share(Some(100 << 20), Some(gib(8))), LEAST_MAX_MEMORY);
        assert_eq!(share(None, None), LEAST_MAX_MEMORY);
        assert_eq!(machine_bytes("MemTotal:       16777216 kB\nMemFree: 1 kB\n"), Some(gib(16)));
    }

    #[test]
    fn a_running_process_is_resident() {
        assert!(
            resident_bytes() > 1 << 20
                && live_bytes() > 0
                && Available::read().default_max_memory() >= LEAST_MAX_MEMORY
        );
    }
}
