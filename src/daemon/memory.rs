//! How much of the memory that it may have the process uses.

use std::fs;
use std::path::Path;

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
    /// The limit of its cgroup, else what the machine has; none (and never any pressure) where neither can be read.
    pub(super) fn of_this_process() -> Self {
        let limit = cgroup_limit().or_else(machine).unwrap_or(0);
        Self { limit, page: 4096 }
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

fn cgroup_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let limits = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        let file = match controllers {
            "" => Path::new("/sys/fs/cgroup").join(path).join("memory.max"),
            list if list.split(',').any(|name| name == "memory") => Path::new("/sys/fs/cgroup/memory")
                .join(path)
                .join("memory.limit_in_bytes"),
            _ => return None,
        };
        fs::read_to_string(file).ok()?.trim().parse::<u64>().ok()
    });
    limits.filter(|limit| *limit < NO_LIMIT).min()
}

fn machine() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_uses_some_of_the_machine_and_not_all_of_it() {
        let fullness = Memory::of_this_process().fullness();
        assert!(fullness > 0.0 && fullness < 1.0, "{fullness}");
    }
}
