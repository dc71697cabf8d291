//! What a real node needs of the machine, all asked for before anything is started.

use std::path::{Path, PathBuf};
use std::{env, fs};

use crate::Error;

/// `sbin` is not in everybody's PATH.
const MORE_FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
/// Where distributions (Debian, others) put the plugins.
const PLUGIN_FOLDERS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];
const PLUGINS: [&str; 3] = ["bridge", "host-local", "loopback"];
/// Programs and the Debian packages that have them.
const PROGRAMS: [(&str, &str); 7] = [
    ("containerd", "containerd"),
    ("containerd-shim-runc-v2", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("ip", "iproute2"),
    ("mount", "mount"),
    ("unshare", "util-linux"),
];
const CONTROLLERS: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];
/// `CAP_SYS_ADMIN` and `CAP_NET_ADMIN` as bits of a capability set.
const CAPABILITIES: [(u32, &str); 2] = [(21, "CAP_SYS_ADMIN"), (12, "CAP_NET_ADMIN")];

/// What was found.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    /// The folder with the CNI plugins.
    pub(crate) plugins: PathBuf,
    /// A static busybox.
    pub(crate) busybox: PathBuf,
    /// A PATH with the `sbin` folders.
    pub(crate) path: String,
}

impl Machine {
    /// Looks for everything, and says in one error what is missing.
    pub(crate) fn check() -> Result<Self, Error> {
        let (machine, missing) = Self::look();
        if missing.is_empty() { Ok(machine) } else { Err(Error::NoNode { missing }) }
    }

    fn look() -> (Self, Vec<String>) {
        let mut missing = Vec::new();
        if rustix::process::geteuid().is_root() {
            // Root of a container may lack them.
            let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
            let lacking = CAPABILITIES.iter().filter(|(bit, _)| !has(&status, *bit));
            missing.extend(lacking.map(|(_, name)| format!("the capability {name}")));
        } else {
            missing.push("root: it mounts, and makes a bridge and cgroups".to_owned());
        }
        let folders = folders();
        missing.extend(
            PROGRAMS
                .iter()
                .filter(|(name, _)| program(name, &folders).is_none())
                .map(|(name, package)| format!("the program {name} (Debian package {package})")),
        );
        let busybox = program("busybox", &folders).filter(|path| is_static(path));
        if busybox.is_none() {
            missing.push("the program busybox, linked statically (Debian package busybox-static)".to_owned());
        }
        let plugins = PLUGIN_FOLDERS
            .into_iter()
            .map(Path::new)
            .find(|folder| PLUGINS.iter().all(|name| folder.join(name).is_file()));
        if plugins.is_none() {
            missing.push(format!(
                "the CNI plugins {} in {} (Debian package containernetworking-plugins)",
                PLUGINS.join(", "),
                PLUGIN_FOLDERS.join(" or ")
            ));
        }
        missing.extend(controllers(Path::new("/sys/fs/cgroup")));
        let path = env::join_paths(&folders).ok().and_then(|path| path.into_string().ok()).unwrap_or_default();
        let machine =
            Self { plugins: plugins.unwrap_or(Path::new("")).to_owned(), busybox: busybox.unwrap_or_default(), path };
        (machine, missing)
    }
}

/// The effective set in `/proc/<pid>/status` is one hexadecimal number.
fn has(status: &str, bit: u32) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_some_and(|set| set >> bit & 1 == 1)
}

fn folders() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&path).collect();
    folders.extend(MORE_FOLDERS.map(PathBuf::from));
    folders
}

fn program(name: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// A 64-bit ELF file that names no interpreter (program header type 3) brings everything along.
fn is_static(path: &Path) -> bool {
    let Ok(file) = fs::read(path) else { return false };
    let number = |at: usize, length: usize| {
        let bytes = file.get(at..at + length)?;
        Some(bytes.iter().rev().fold(0usize, |number, byte| number << 8 | usize::from(*byte)))
    };
    let (Some(start), Some(size), Some(count)) = (number(32, 8), number(54, 2), number(56, 2)) else { return false };
    file.starts_with(b"\x7fELF\x02")
        && (0..count).all(|index| number(start + index * size, 4).is_some_and(|kind| kind != 3))
}

/// cgroup v2 lists its controllers in a file; v1 has a mounted folder for each.
fn controllers(root: &Path) -> Option<String> {
    let unified = fs::read_to_string(root.join("cgroup.controllers"));
    let there = |name: &&str| match &unified {
        Ok(list) => list.split_whitespace().any(|word| word == *name),
        Err(_) => root.join(name).join("cgroup.procs").is_file(),
    };
    let missing: Vec<&str> = CONTROLLERS.into_iter().filter(|name| !there(name)).collect();
    (!missing.is_empty()).then(|| format!("the cgroup controllers {} in {}", missing.join(", "), root.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_is_one_bit_of_the_effective_set() {
        let status = "Name:\tx\nCapPrm:\tffffffffffffffff\nCapEff:\t0000000000200000\n";
        assert!(has(status, 21) && !has(status, 12));
    }

    #[test]
    fn a_folder_without_cgroups_lacks_all_controllers() {
        let missing = controllers(Path::new("/nonexistent"));
        assert_eq!(missing.as_deref(), Some("the cgroup controllers cpu, cpuset, memory, pids in /nonexistent"));
    }
}
