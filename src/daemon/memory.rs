//! How much of the memory that it may have the process uses.

use std::fs;
use std::path::{Path, PathBuf};

use crate::policy::overload::fullness;

/// What stands for no limit where a cgroup of version 1 has none: anything near the top of the range.
const NO_LIMIT: u64 = 1 << 60;

/// The memory limit of this process.
#[derive(Debug)]
pub(super) struct Memory {
    limit: u64,
    page: u64,
}

impl Memory {
    /// The limit of its cgroup, else what the machine has. The latter is asked of the kernel: `ProcSubset=pid` hides
    /// /proc/meminfo. The limit is `MemoryHigh` where there is one: above it the kernel makes every allocation wait, so what
    /// is done about a shortage has to be done before.
    pub(super) fn of_this_process() -> Self {
        let limits = fs::read_to_string("/proc/self/cgroup")
            .ok()
            .and_then(|groups| cgroup_limit(&groups, Path::new("/sys/fs/cgroup")));
        Self {
            limit: limits.unwrap_or(u64::MAX).min(machine()),
            page: rustix::param::page_size() as u64,
        }
    }

    /// What it may have, in bytes.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// How full it is: 0.0 empty, 1.0 at the limit.
    pub(super) fn fullness(&self) -> f64 {
        let resident = fs::read_to_string("/proc/self/statm")
            .ok()
            .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok())
            .unwrap_or(0);
        fullness(resident.saturating_mul(self.page), self.limit)
    }
}

/// The least limit of the groups in `groups` (/proc/self/cgroup) and of those that they are in, below `root`.
fn cgroup_limit(groups: &str, root: &Path) -> Option<u64> {
    let limits = groups.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (root, files) = match controllers {
            "" => (root.to_path_buf(), &["memory.max", "memory.high"][..]),
            list if list.split(',').any(|name| name == "memory") => {
                (root.join("memory"), &["memory.limit_in_bytes"][..])
            }
            _ => return Vec::new(),
        };
        let group = Path::new(path.trim_start_matches('/'));
        let limit = |file: PathBuf| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
        let groups = group.ancestors().map(|group| root.join(group));
        let files = groups.flat_map(|group| files.iter().map(move |file| group.join(file)));
        files.filter_map(limit).collect()
    });
    limits.filter(|limit| *limit < NO_LIMIT).min()
}

fn machine() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_uses_some_of_the_machine_and_not_all_of_it() {
        let fullness = Memory::of_this_process().fullness();
        assert!(fullness > 0.0 && fullness < 1.0, "{fullness}");
    }

    #[test]
    fn what_the_machine_has_is_known_where_proc_shows_processes_only() {
        let text = fs::read_to_string("/proc/meminfo").unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))
            .unwrap();
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        assert_eq!(machine() / 1024, kib);
    }

    #[test]
    fn the_limit_of_a_slice_holds_for_what_is_in_it() {
        let root = tempfile::tempdir().unwrap();
        let service = root.path().join("system.slice/portcullis.service");
        fs::create_dir_all(&service).unwrap();
        fs::write(service.join("memory.max"), "max\n").unwrap();
        let groups = "1:name=systemd:/x\n0::/system.slice/portcullis.service\n";
        assert_eq!(cgroup_limit(groups, root.path()), None);
        fs::write(root.path().join("system.slice/memory.max"), "536870912\n").unwrap();
        assert_eq!(cgroup_limit(groups, root.path()), Some(512 << 20));
        fs::write(service.join("memory.max"), "268435456\n").unwrap();
        assert_eq!(cgroup_limit(groups, root.path()), Some(256 << 20));
        fs::write(service.join("memory.high"), "max\n").unwrap();
        assert_eq!(cgroup_limit(groups, root.path()), Some(256 << 20));
        fs::write(service.join("memory.high"), "201326592\n").unwrap();
        assert_eq!(cgroup_limit(groups, root.path()), Some(192 << 20));
    }
}
