//! A cluster that outlives the command that started it.
//!
//! `up` starts this program again as `serve` in a process group of its own. Both sides meet in the folder of the
//! kubeconfig: `pid` is locked as long as the cluster lives, `kubeconfig` appears when it is ready.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use crate::server::tail;
use crate::{Builder, DevCluster, Error};

const PAUSE: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(90);

/// The files of one detached cluster.
#[derive(Debug, Clone)]
pub struct Daemon {
    kubeconfig: PathBuf,
    folder: PathBuf,
}

/// The nodes of a cluster.
#[derive(Debug, Clone, Copy)]
pub struct Nodes {
    /// How many simulated ones.
    pub simulated: usize,
    /// Whether there is a real one too.
    pub real: bool,
}

impl Nodes {
    /// A cluster with these nodes.
    pub fn builder(self) -> Builder {
        let builder = DevCluster::builder().nodes(self.simulated);
        if self.real { builder.real_node() } else { builder }
    }
}

/// What `up` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Up {
    /// A cluster was started.
    Started,
    /// One was running already.
    WasRunning,
}

/// What `down` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Down {
    /// The cluster was ended.
    Stopped,
    /// There was none.
    WasNotRunning,
}

/// Whether a process of this number still has a command line. It gives up its lock a moment before it ends; one that
/// ended and was not reaped has none.
fn lives(pid: &str) -> bool {
    fs::read(Path::new("/proc").join(pid).join("cmdline")).is_ok_and(|line| !line.is_empty())
}

impl Daemon {
    /// The cluster whose kubeconfig is, or will be, at this path.
    pub fn at(kubeconfig: &Path) -> Result<Self, Error> {
        let kubeconfig = std::path::absolute(kubeconfig).map_err(Error::file("resolve", kubeconfig))?;
        let folder = kubeconfig.parent().unwrap_or(Path::new("/")).to_owned();
        fs::create_dir_all(&folder).map_err(Error::file("create", &folder))?;
        Ok(Self { kubeconfig, folder })
    }

    /// The absolute path of the kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.join("pid")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("serve.log")
    }

    /// Starts `program serve` detached, unless it runs already, and waits until the cluster is ready.
    pub async fn up(&self, program: &Path, nodes: Nodes) -> Result<Up, Error> {
        if self.is_running() {
            return self.wait_ready(&mut || true).await.map(|()| Up::WasRunning);
        }
        let _ = fs::remove_file(&self.kubeconfig);
        let log = self.log();
        let output = File::create(&log).map_err(Error::file("create", &log))?;
        let errors = output.try_clone().map_err(Error::file("open", &log))?;
        let mut child = Command::new(program)
            .args(["serve", "--nodes", &nodes.simulated.to_string()])
            .args(nodes.real.then_some(["--node", "real"]).iter().flatten())
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            // Out of the terminal's foreground group: Ctrl-C there is not meant for the cluster.
            .process_group(0)
            .spawn()
            .map_err(|source| Error::Process { name: program.display().to_string(), source })?;
        self.wait_ready(&mut || matches!(child.try_wait(), Ok(None))).await.map(|()| Up::Started)
    }

    async fn wait_ready(&self, alive: &mut (dyn FnMut() -> bool + Send)) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        while !self.kubeconfig.is_file() {
            if !alive() || Instant::now() > deadline {
                return Err(Error::Daemon { tail: tail(&self.log()), log: self.log() });
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Runs the cluster until SIGTERM or SIGINT.
    pub async fn serve(&self, nodes: Nodes) -> Result<(), Error> {
        let pid_file = self.lock().await?;
        let listen =
            |kind| signal(kind).map_err(|source| Error::Process { name: "the signal handler".to_owned(), source });
        let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        // The terminal that `up` was typed in may be closed.
        let _hangup = listen(SignalKind::hangup())?;
        let starting = nodes.builder().data_dir(self.folder.join("data")).start();
        let cluster = tokio::select! {
            cluster = starting => Some(cluster?),
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
        };
        if let Some(cluster) = cluster {
            self.publish(cluster.kubeconfig())?;
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            let _ = fs::remove_file(&self.kubeconfig);
            cluster.stop().await;
        }
        let _ = fs::remove_file(self.pid_file());
        drop(pid_file);
        Ok(())
    }

    /// Whoever sees the kubeconfig sees all of it.
    fn publish(&self, made: &Path) -> Result<(), Error> {
        let draft = self.folder.join(".kubeconfig");
        fs::copy(made, &draft).map_err(Error::file("copy", made))?;
        fs::rename(&draft, &self.kubeconfig).map_err(Error::file("write", &self.kubeconfig))
    }

    async fn lock(&self) -> Result<File, Error> {
        let path = self.pid_file();
        let mut file =
            File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::file("open", &path))?;
        // Somebody who only looks whether we run holds the lock for a moment.
        let deadline = Instant::now() + Duration::from_secs(1);
        while let Err(error) = file.try_lock() {
            if Instant::now() > deadline {
                return Err(Error::file("lock (is a cluster running already?)", &path)(error.into()));
            }
            sleep(PAUSE).await;
        }
        file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).map_err(Error::file("write", &path))?;
        Ok(file)
    }

    fn is_running(&self) -> bool {
        File::open(self.pid_file()).is_ok_and(|file| file.try_lock_shared().is_err())
    }

    /// Ends the cluster and waits until all its processes are gone.
    pub async fn down(&self) -> Result<Down, Error> {
        if !self.is_running() {
            return Ok(Down::WasNotRunning);
        }
        let path = self.pid_file();
        let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        let invalid = || Error::file("read", &path)(std::io::ErrorKind::InvalidData.into());
        // The lock says that its holder lives, so the number cannot belong to another process.
        let pid = text.parse().ok().and_then(Pid::from_raw).ok_or_else(invalid)?;
        kill_process(pid, Signal::TERM)
            .map_err(|error| Error::Process { name: format!("kill {text}"), source: error.into() })?;
        let deadline = Instant::now() + PATIENCE;
        while self.is_running() || lives(&text) {
            if Instant::now() > deadline {
                return Err(Error::Timeout {
                    what: "the end of the cluster",
                    seconds: PATIENCE.as_secs(),
                    logs: self.log(),
                });
            }
            sleep(PAUSE).await;
        }
        Ok(Down::Stopped)
    }
}
