//! How much memory this process may still take: what is free, and what limits say, of the process and of its control group.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

/// What may still be taken of something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// As the subject of a sentence.
    pub name: &'static str,
    /// Bytes.
    pub left: u64,
}

/// All limits that the system tells of; elsewhere than on Linux nobody knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits(Vec<Limit>);

const ADDRESS_SPACE: &str = "the limit of this process (`ulimit -v`)";

impl Limits {
    pub fn of_this_process() -> Limits {
        Limits::below(Path::new("/"))
    }

    /// As the files below a folder say, which is `/`, or that of a test.
    fn below(root: &Path) -> Limits {
        let read = |path: &str| read_to_string(root.join(path)).unwrap_or_default();
        let mut limits: Vec<Limit> = Vec::new();
        if let Some(left) = kilobytes(&read("proc/meminfo"), "MemAvailable:") {
            limits.push(Limit { name: "this machine", left });
        }
        let (status, allowed) = (read("proc/self/status"), read("proc/self/limits"));
        for (name, of, taken) in [
            (ADDRESS_SPACE, "Max address space", "VmSize:"),
            ("the limit of this process (`ulimit -d`)", "Max data size", "VmData:"),
        ] {
            if let (Some(most), Some(taken)) = (soft_limit(&allowed, of), kilobytes(&status, taken)) {
                limits.push(Limit { name, left: most.saturating_sub(taken) });
            }
        }
        limits.extend(control_groups(root, &read("proc/self/cgroup")));
        Limits(limits)
    }

    /// The one that is reached first.
    pub fn tightest(&self) -> Option<Limit> {
        self.0.iter().min_by_key(|limit| limit.left).cloned()
    }

    /// What is left of the address space, where that is limited.
    pub fn address_space(&self) -> Option<u64> {
        self.0.iter().find(|limit| limit.name == ADDRESS_SPACE).map(|limit| limit.left)
    }
}

/// `name   123 kB`
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// `name   soft   hard   bytes`; nothing for `unlimited`.
fn soft_limit(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// Of the group of this process and of those that it is in, in both versions of control groups.
fn control_groups(root: &Path, groups: &str) -> Vec<Limit> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (mount, most, taken) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max", "memory.current"),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
            }
            _ => continue,
        };
        let mount = root.join(mount);
        let mut folder: PathBuf = mount.join(group.trim_start_matches('/'));
        // In a container the group may be called by its name outside, which is not there; the mount is the group then.
        while folder.starts_with(&mount) {
            let number = |name: &str| read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
            if let (Some(most), Some(taken)) = (number(most), number(taken)) {
                // The cache of files gives way.
                let cache = read_to_string(folder.join("memory.stat")).unwrap_or_default();
                let cache = ["total_inactive_file ", "inactive_file "].iter().find_map(|name| {
                    cache.lines().find_map(|line| line.strip_prefix(name))?.trim().parse::<u64>().ok()
                });
                let taken = taken.saturating_sub(cache.unwrap_or(0));
                limits.push(Limit { name: "the control group of this process", left: most.saturating_sub(taken) });
            }
            if !folder.pop() {
                break;
            }
        }
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with the files of a system.
    fn system(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    fn tightest(files: &[(&str, &str)]) -> Option<Limit> {
        Limits::below(system(files).path()).tightest()
    }

    const MACHINE: (&str, &str) = ("proc/meminfo", "MemTotal:  2000 kB\nMemAvailable:   1000 kB\n");

    #[test]
    fn the_machine_alone() {
        assert_eq!(tightest(&[MACHINE]), Some(Limit { name: "this machine", left: 1_024_000 }));
        assert_eq!(tightest(&[]), None);
    }

    #[test]
    fn a_limit_of_the_address_space() {
        let files = [
            MACHINE,
            ("proc/self/status", "VmPeak:\t  900 kB\nVmSize:\t  500 kB\nVmData:\t 100 kB\n"),
            (
                "proc/self/limits",
                "Limit           Soft Limit   Hard Limit   Units\n\
                 Max data size     unlimited    unlimited    bytes\n\
                 Max address space     1000000     unlimited     bytes\n",
            ),
        ];
        assert_eq!(tightest(&files), Some(Limit { name: ADDRESS_SPACE, left: 1_000_000 - 512_000 }));
        assert_eq!(Limits::below(system(&files).path()).address_space(), Some(488_000));
    }

    #[test]
    fn a_control_group_and_those_around_it() {
        let second = [
            MACHINE,
            ("proc/self/cgroup", "0::/outer/inner\n"),
            ("sys/fs/cgroup/outer/inner/memory.max", "max\n"),
            ("sys/fs/cgroup/outer/inner/memory.current", "7000\n"),
            ("sys/fs/cgroup/outer/memory.max", "500000\n"),
            ("sys/fs/cgroup/outer/memory.current", "200000\n"),
            ("sys/fs/cgroup/outer/memory.stat", "anon 1\ninactive_file 50000\n"),
        ];
        assert_eq!(tightest(&second).unwrap().left, 500_000 - 150_000);
        let first = [
            MACHINE,
            ("proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/not/here\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "400000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "100000\n"),
            ("sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 30000\n"),
        ];
        assert_eq!(tightest(&first).unwrap().left, 400_000 - 70_000);
    }
}
