//! Finds the server binaries, or builds them once from the Go module beside this crate.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use sha2::{Digest, Sha256};

use crate::Error;

const GO_MOD: &str = include_str!("../go.mod");
const GO_SUM: &str = include_str!("../go.sum");

/// Moves the cache folder (default: `$XDG_CACHE_HOME` or `~/.cache`, then `sidecarset-devcluster`).
pub const CACHE_VARIABLE: &str = "SIDECARSET_DEVCLUSTER_CACHE";
/// A folder with ready-made binaries, as envtest uses it; what is not there is taken from the cache.
pub const ASSETS_VARIABLE: &str = "KUBEBUILDER_ASSETS";
/// The Kubernetes version of the servers that are built here.
pub const KUBERNETES_VERSION: &str = "v1.36.3";

/// One of the programs that a cluster is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    /// The store.
    Etcd,
    /// The API server.
    ApiServer,
    /// The controllers: Deployments, Jobs, garbage collection, tokens, …
    ControllerManager,
    /// The scheduler.
    Scheduler,
    /// The fake kubelets.
    Kwok,
    /// The kubelet of a real node. The control plane's requirements in `go.mod` cover it.
    Kubelet,
}

impl Tool {
    /// Those of every cluster, in the order in which they are built.
    pub const ALL: [Self; 5] = [Self::Etcd, Self::Kwok, Self::ApiServer, Self::Scheduler, Self::ControllerManager];

    /// The file name of the binary.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::Kwok => "kwok",
            Self::Kubelet => "kubelet",
        }
    }

    const fn package(self) -> &'static str {
        match self {
            Self::Etcd => "go.etcd.io/etcd/server/v3",
            Self::ApiServer => "k8s.io/kubernetes/cmd/kube-apiserver",
            Self::ControllerManager => "k8s.io/kubernetes/cmd/kube-controller-manager",
            Self::Scheduler => "k8s.io/kubernetes/cmd/kube-scheduler",
            Self::Kwok => "sigs.k8s.io/kwok/cmd/kwok",
            Self::Kubelet => "k8s.io/kubernetes/cmd/kubelet",
        }
    }
}

/// Where each program is.
#[derive(Debug, Clone)]
pub struct Binaries(BTreeMap<Tool, PathBuf>);

impl Binaries {
    /// Finds the programs of every cluster and these `more`, and builds the missing ones; blocks for minutes the first
    /// time.
    pub fn ensure(more: &[Tool]) -> Result<Self, Error> {
        let tools: Vec<Tool> = Tool::ALL.iter().chain(more).copied().collect();
        let cache = cache_folder().join(cache_key());
        if let Some(found) = Self::find(&tools, &cache) {
            return Ok(found);
        }
        fs::create_dir_all(&cache).map_err(Error::file("create", &cache))?;
        // Parallel tests meet here: one builds, the others wait for it and then find everything.
        let _lock = lock(&cache.join("lock"))?;
        let missing: Vec<Tool> = tools.iter().copied().filter(|tool| locate(*tool, &cache).is_none()).collect();
        build(&missing, &cache)?;
        Self::find(&tools, &cache).ok_or_else(|| Error::File {
            action: "find the binaries in",
            path: cache,
            source: std::io::ErrorKind::NotFound.into(),
        })
    }

    /// The path of one program.
    pub(crate) fn path(&self, tool: Tool) -> PathBuf {
        self.0.get(&tool).cloned().unwrap_or_else(|| PathBuf::from(tool.name()))
    }

    /// Each program and its path.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        self.0.iter().map(|(tool, path)| (tool.name(), path.as_path()))
    }

    fn find(tools: &[Tool], cache: &Path) -> Option<Self> {
        tools.iter().map(|tool| Some((*tool, locate(*tool, cache)?))).collect::<Option<_>>().map(Self)
    }
}

fn locate(tool: Tool, cache: &Path) -> Option<PathBuf> {
    let assets = env::var_os(ASSETS_VARIABLE).filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let folders = assets.into_iter().chain([cache.join("bin")]);
    folders.map(|folder| folder.join(tool.name())).find(|path| path.is_file())
}

fn cache_folder() -> PathBuf {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable(CACHE_VARIABLE).unwrap_or_else(|| {
        variable("XDG_CACHE_HOME")
            .or_else(|| env::home_dir().map(|home| home.join(".cache")))
            .unwrap_or_else(env::temp_dir)
            .join("sidecarset-devcluster")
    })
}

/// Changes whenever another set of binaries would come out.
fn cache_key() -> String {
    let mut hash = Sha256::new();
    for part in [GO_MOD, GO_SUM, KUBERNETES_VERSION, env::consts::ARCH] {
        hash.update(part);
        hash.update([0]);
    }
    let digest: [u8; 32] = hash.finalize().into();
    format!("{:016x}", u64::from_be_bytes(std::array::from_fn(|index| digest[index])))
}

fn lock(path: &Path) -> Result<File, Error> {
    let file = File::create(path).map_err(Error::file("create", path))?;
    file.lock().map_err(Error::file("lock", path))?;
    Ok(file)
}

fn build(tools: &[Tool], cache: &Path) -> Result<(), Error> {
    if tools.is_empty() {
        return Ok(());
    }
    check_go(tools)?;
    let work = tempfile::tempdir_in(cache).map_err(Error::file("create a folder in", cache))?;
    for (name, text) in [("go.mod", GO_MOD), ("go.sum", GO_SUM)] {
        let path = work.path().join(name);
        fs::write(&path, text).map_err(Error::file("write", &path))?;
    }
    let bin = cache.join("bin");
    fs::create_dir_all(&bin).map_err(Error::file("create", &bin))?;
    say("devcluster: building servers, once; this takes some minutes");
    for (index, tool) in tools.iter().enumerate() {
        let started = Instant::now();
        say(&format!("devcluster: [{}/{}] {} …", index + 1, tools.len(), tool.name()));
        let built = build_one(*tool, work.path())?;
        let target = bin.join(tool.name());
        fs::rename(&built, &target).map_err(Error::file("move into place", &target))?;
        say(&format!(
            "devcluster: [{}/{}] {} built in {} s",
            index + 1,
            tools.len(),
            tool.name(),
            started.elapsed().as_secs()
        ));
    }
    Ok(())
}

fn check_go(tools: &[Tool]) -> Result<(), Error> {
    let no_go = |reason: String| Error::NoGo {
        tools: tools.iter().map(|tool| tool.name()).collect::<Vec<_>>().join(", "),
        reason,
    };
    let output =
        Command::new("go").args(["env", "GOVERSION"]).output().map_err(|error| no_go(format!("go: {error}")))?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let minor = version
        .strip_prefix("go1.")
        .and_then(|rest| rest.split('.').next())
        .and_then(|minor| minor.parse::<u32>().ok());
    match minor {
        Some(minor) if minor < 26 => Err(no_go(format!("found {version}"))),
        _ => Ok(()),
    }
}

fn build_one(tool: Tool, module: &Path) -> Result<PathBuf, Error> {
    let version = "k8s.io/component-base/version";
    let ldflags =
        format!("-s -w -X {version}.gitVersion={KUBERNETES_VERSION} -X {version}.gitMajor=1 -X {version}.gitMinor=36");
    let target = module.join(tool.name());
    let output = Command::new("go")
        .args(["build", "-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags", &ldflags, "-o"])
        .arg(&target)
        .arg(tool.package())
        .current_dir(module)
        .env("CGO_ENABLED", "0")
        .env("GOWORK", "off")
        .output()
        .map_err(|source| Error::Process { name: "go build".to_owned(), source })?;
    if output.status.success() {
        Ok(target)
    } else {
        Err(Error::Build { tool: tool.name().to_owned(), output: String::from_utf8_lossy(&output.stderr).into_owned() })
    }
}

/// Progress goes to stderr and must not fail the build when nobody reads it.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
