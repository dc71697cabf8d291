//! One real node: kubelet, containerd and runc as processes of this machine, in namespaces of their own.
//!
//! `node/supervise.sh` makes what the kernel does not take back by itself (a bridge, cgroups) and removes it;
//! `node/node.sh` is process 1 of the node, with whose end everything else of it ends.

use std::env;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

use crate::Error;
use crate::binaries::Tool;
use crate::images::{HOST, IMPORTED, Images, SERVED};
pub use crate::nodes::{REAL, REAL_NODE};
use crate::pki::{Identity, Pki};
use crate::registry::Registry;
use crate::requirements::Machine;
use crate::server::{Server, ServerCommand};
use crate::servers::Plan;

const SUPERVISOR: &str = include_str!("../node/supervise.sh");
const NODE: &str = include_str!("../node/node.sh");
const CONTAINERD: &str = include_str!("../node/containerd.toml");
const KUBELET: &str = include_str!("../node/kubelet.yaml");
const CNI: &str = include_str!("../node/cni.conflist");
const HOSTS: &str = include_str!("../node/hosts.toml");

/// The folder of its files in that of the cluster.
const FILES: &str = "node";
/// How many real nodes one machine can have at once.
const SLOTS: u8 = 100;
/// Not the kubelet's usual port: a kubelet of this machine may listen there on all addresses.
const PORT: u16 = 20_250;

/// Says in one error, [`Error::NoNode`], what this machine lacks for a real node.
pub fn check() -> Result<(), Error> {
    Machine::check().map(drop)
}

/// Set to 1, a machine that cannot run a real node fails the tests that need one.
pub const REQUIRE_VARIABLE: &str = "SIDECARSET_REQUIRE_NODE";

/// For tests: `None`, and `SKIPPED: …` on the terminal, if all that is wrong is that this machine cannot run a real node
/// ([`Error::NoNode`]), unless [`REQUIRE_VARIABLE`] is 1.
pub fn or_skip<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Err(error @ Error::NoNode { .. }) if env::var(REQUIRE_VARIABLE).as_deref() != Ok("1") => {
            // Straight to the terminal: the output of a test that passes is not shown.
            let _ = io::stderr().write_all(format!("SKIPPED: {error}\n").as_bytes());
            Ok(None)
        }
        result => result.map(Some),
    }
}

/// A name and a network that no other real node of this machine has.
#[derive(Debug)]
struct Slot {
    number: u8,
    // An abstract socket: the claim ends with the last process that has it, and leaves no file.
    claim: OwnedFd,
}

impl Slot {
    fn take() -> Result<Self, Error> {
        let claim = |number: u8| {
            let address = SocketAddr::from_abstract_name(format!("sidecarset-devcluster-node-{number}")).ok()?;
            UnixListener::bind_addr(&address).ok().map(|socket| Self { number, claim: socket.into() })
        };
        let none = || Error::NoNode { missing: vec![format!("a free place: {SLOTS} real nodes are running")] };
        (0..SLOTS).find_map(claim).ok_or_else(none)
    }

    /// Of the bridge and of the root cgroup.
    fn name(&self) -> String {
        format!("sidecarset{}", self.number)
    }

    fn address(&self) -> String {
        format!("10.213.{}.1", self.number)
    }

    fn subnet(&self) -> String {
        format!("10.213.{}.0/24", self.number)
    }
}

/// The kubelet of a running node, as far as `node/node.sh` lets others at it.
#[derive(Debug)]
pub(crate) struct Kubelet {
    files: PathBuf,
}

impl Kubelet {
    /// That of the cluster with this data folder.
    pub(crate) fn of(folder: &Path) -> Self {
        Self { files: folder.join(FILES) }
    }

    /// Its process ID inside the node; empty in the moment when it is written.
    pub(crate) fn pid(&self) -> String {
        fs::read_to_string(self.files.join("kubelet.pid")).unwrap_or_default()
    }

    /// Whether it was started after the one with this process ID.
    pub(crate) fn is_another_than(&self, old: &str) -> bool {
        let pid = self.pid();
        !pid.is_empty() && pid != old
    }

    /// Has it killed with SIGKILL and started again.
    pub(crate) fn kill(&self) -> Result<(), Error> {
        let path = self.files.join("restart-kubelet");
        // Opened for both, a pipe does not wait for its reader.
        let pipe = File::options().read(true).write(true).open(&path);
        pipe.and_then(|mut pipe| pipe.write_all(b"\n")).map_err(Error::file("write", &path))
    }
}

/// A node whose files are written.
#[derive(Debug)]
pub(crate) struct Prepared {
    machine: Machine,
    slot: Slot,
    files: PathBuf,
    registry: Registry,
}

impl Prepared {
    /// Makes the images, starts the registry and writes the configuration into `<data folder>/node`.
    pub(crate) fn new(machine: &Machine, pki: &Pki, server: &str, folder: &Path) -> Result<Self, Error> {
        let files = folder.join(FILES);
        let slot = Slot::take()?;
        for folder in [files.join("cni"), files.join("registries").join(HOST)] {
            fs::create_dir_all(&folder).map_err(Error::file("create", &folder))?;
        }
        Images::make(&machine.busybox, IMPORTED)?.write(&files.join("images.tar"))?;
        let registry = Registry::start(Images::make(&machine.busybox, SERVED)?)?;
        let fill = |text: &str| {
            text.replace("{name}", &slot.name())
                .replace("{address}", &slot.address())
                .replace("{subnet}", &slot.subnet())
                .replace("{port}", &PORT.to_string())
                .replace("{taint}", REAL)
                .replace("{registry}", &registry.address().to_string())
        };
        let hosts = format!("registries/{HOST}/hosts.toml");
        let texts = [
            ("containerd.toml", CONTAINERD),
            ("kubelet.yaml", KUBELET),
            ("cni/devcluster.conflist", CNI),
            (&hosts, HOSTS),
            // Nothing that runs here looks names up.
            ("resolv.conf", "nameserver 127.0.0.1\n"),
            ("ca.crt", pki.authority()),
        ];
        for (name, text) in texts {
            let path = files.join(name);
            fs::write(&path, fill(text)).map_err(Error::file("write", &path))?;
        }
        pki.write_kubeconfig(Identity::Kubelet, server, &files.join("kubeconfig"))?;
        Ok(Self { machine: machine.clone(), slot, files, registry })
    }

    /// Starts containerd, imports the images and starts the kubelet; the registry is to be kept as long as the server.
    pub(crate) fn start(self, plan: &Plan, logs: &Path) -> Result<(Server, Registry), Error> {
        let shown = |path: &Path| path.display().to_string();
        let (kubelet, plugins) = (plan.binaries.path(Tool::Kubelet), &self.machine.plugins);
        let mut arguments = ["-c", NODE, "node"].map(String::from).to_vec();
        arguments.extend([&self.files, &kubelet, plugins].map(|path| shown(path)));
        arguments.extend([
            "--config=/mnt/kubelet.yaml".to_owned(),
            "--kubeconfig=/mnt/kubeconfig".to_owned(),
            format!("--hostname-override={REAL_NODE}"),
            format!("--node-ip={}", self.slot.address()),
            format!("--node-labels={REAL}=true"),
        ]);
        let command = ServerCommand {
            name: "node",
            program: PathBuf::from("sh"),
            arguments,
            environment: vec![
                ("BRIDGE", self.slot.name()),
                ("ADDRESS", format!("{}/24", self.slot.address())),
                ("PATH", self.machine.path),
            ],
        };
        // The supervisor holds the claim: it cleans up even when we cannot.
        let server = Server::supervise(SUPERVISOR, &command, Some(self.slot.claim), logs)?;
        Ok((server, self.registry))
    }
}
