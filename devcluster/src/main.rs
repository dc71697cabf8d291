//! The command line of the devcluster: `up`, `down`, `run`, `build`.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};

use clap::{Args, Parser, Subcommand, ValueEnum};
use devcluster::binaries::{Binaries, Tool};
use devcluster::daemon::{self, Daemon, Down, Up};
use devcluster::{Error, node};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;

/// A real Kubernetes control plane on this machine, with KWOK as the kubelet and, if wanted, one real node.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Start a cluster that keeps running, and print the line that selects it
    Up(Target),
    /// End the cluster that `up` started
    Down {
        #[command(flatten)]
        place: Place,
    },
    /// Start a cluster, run a command with KUBECONFIG set, and end the cluster
    Run {
        #[command(flatten)]
        nodes: Nodes,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Build the servers, if that has not been done yet, and print where they are
    Build {
        /// What a node of this kind needs, too
        #[arg(long, value_name = "KIND")]
        node: Option<Kind>,
    },
    /// Run a cluster in the foreground (what `up` starts in the background)
    #[command(hide = true)]
    Serve(Target),
}

#[derive(Debug, Args)]
struct Target {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    nodes: Nodes,
}

#[derive(Debug, Clone, Copy, Args)]
struct Nodes {
    /// Number of simulated nodes
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Add a node of another kind
    #[arg(long, value_name = "KIND")]
    node: Option<Kind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// kubelet, containerd and runc on this machine; needs root
    Real,
}

impl From<Nodes> for daemon::Nodes {
    fn from(nodes: Nodes) -> Self {
        Self { simulated: nodes.nodes, real: nodes.node == Some(Kind::Real) }
    }
}

#[derive(Debug, Args)]
struct Place {
    /// Where the kubeconfig is written; pid file, logs and data are beside it
    #[arg(long, default_value = "target/devcluster/kubeconfig")]
    kubeconfig: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Verb::Up(target) => up(&target).await,
        Verb::Down { place } => down(&place).await,
        Verb::Run { nodes, command } => run(nodes, &command).await,
        Verb::Build { node } => build(node).await,
        Verb::Serve(target) => serve(&target).await,
    };
    result.unwrap_or_else(|error| {
        eprintln!("devcluster: {error}");
        ExitCode::FAILURE
    })
}

async fn up(target: &Target) -> Result<ExitCode, Error> {
    binaries(target.nodes.node).await?;
    let daemon = Daemon::at(&target.place.kubeconfig)?;
    let program = std::env::current_exe().map_err(process("find this program"))?;
    if daemon.up(&program, target.nodes.into()).await? == Up::WasRunning {
        eprintln!("devcluster: already up");
    }
    println!("export KUBECONFIG={}", daemon.kubeconfig().display());
    Ok(ExitCode::SUCCESS)
}

async fn down(place: &Place) -> Result<ExitCode, Error> {
    match Daemon::at(&place.kubeconfig)?.down().await? {
        Down::Stopped => eprintln!("devcluster: stopped"),
        Down::WasNotRunning => eprintln!("devcluster: not running"),
    }
    Ok(ExitCode::SUCCESS)
}

async fn serve(target: &Target) -> Result<ExitCode, Error> {
    Daemon::at(&target.place.kubeconfig)?.serve(target.nodes.into()).await?;
    Ok(ExitCode::SUCCESS)
}

async fn build(node: Option<Kind>) -> Result<ExitCode, Error> {
    for (_, path) in binaries(node).await?.iter() {
        println!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

async fn run(nodes: Nodes, command: &[OsString]) -> Result<ExitCode, Error> {
    let Some((program, arguments)) = command.split_first() else { return Ok(ExitCode::FAILURE) };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(process("the signal handler"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(process("the signal handler"))?;
    let cluster = tokio::select! {
        cluster = daemon::Nodes::from(nodes).builder().start() => cluster?,
        _ = interrupt.recv() => return Ok(ExitCode::from(130)),
        _ = terminate.recv() => return Ok(ExitCode::from(143)),
    };
    let result = wait(program, arguments, cluster.kubeconfig(), async || {
        terminate.recv().await;
    })
    .await;
    cluster.stop().await;
    result.map(exit_code)
}

/// Ctrl-C goes to the command too, so only its end counts; SIGTERM reaches us alone and ends both.
async fn wait(
    program: &OsString,
    arguments: &[OsString],
    kubeconfig: &Path,
    terminated: impl AsyncFnOnce(),
) -> Result<ExitStatus, Error> {
    let failed = || process(&program.to_string_lossy());
    let mut child = Command::new(program)
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .kill_on_drop(true)
        .spawn()
        .map_err(failed())?;
    tokio::select! {
        status = child.wait() => return status.map_err(failed()),
        () = terminated() => {}
    }
    child.start_kill().map_err(failed())?;
    child.wait().await.map_err(failed())
}

/// As a shell reports it: 128 + the signal's number for a command that a signal ended.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}

async fn binaries(node: Option<Kind>) -> Result<Binaries, Error> {
    if node == Some(Kind::Real) {
        // Nothing is built for a node that cannot run here.
        node::check()?;
    }
    let more = node.map(|Kind::Real| Tool::Kubelet);
    spawn_blocking(move || Binaries::ensure(more.as_slice()))
        .await
        .map_err(|error| process("the build")(error.into()))?
}

fn process(name: &str) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let name = name.to_owned();
    move |source| Error::Process { name, source }
}
