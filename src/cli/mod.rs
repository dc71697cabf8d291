//! `kubectl sidecarset`: the verbs of the kubectl plugin, with kubectl's flags, messages and exit codes.

pub mod cluster;
pub mod convert;
mod error;
mod explain;
mod inject;
pub mod manifest;
mod ordered;
pub mod plan;
mod schema;
pub mod sets;
mod table;
mod uninject;
mod unmark;
pub mod workloads;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use cluster::ClusterArgs;
pub(crate) use error::Error;
pub(crate) use ordered::Ordered;

/// Looks at sidecars from outside the operator: what sets do to manifests and did to pods.
#[derive(Debug, clap::Parser)]
#[command(name = "kubectl-sidecarset", version)]
struct Cli {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Inject(inject::InjectArgs),
    Uninject(uninject::UninjectArgs),
    Explain(explain::ExplainArgs),
    Plan(plan::Args),
    Unmark(unmark::UnmarkArgs),
    Convert(convert::Args),
}

/// How a line on stderr begins; errors are the last line and come from [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Say {
    /// As it is.
    Note,
    /// `Warning: `, as kubectl prints those of the API server.
    Warning,
}

/// Writes a line to stderr, so that stdout stays what `kubectl apply -f -` reads.
pub(crate) fn say(kind: Say, line: &str) {
    let prefix = if kind == Say::Warning { "Warning: " } else { "" };
    let _ = writeln!(std::io::stderr(), "{prefix}{line}");
}

/// Runs the plugin. Exit code 0 if everything was done, 1 for every error, as kubectl's; `plan` has those of
/// `kubectl diff`.
pub async fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = match parse(&arguments) {
        Ok(cli) => cli,
        Err(help) if !help.use_stderr() => {
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let _ = error.print();
            return ExitCode::FAILURE;
        }
    };
    let failure = cli.verb.failure();
    cli.verb.run(&cli.cluster).await.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "{error}");
        failure
    })
}

impl Verb {
    async fn run(self, cluster: &ClusterArgs) -> Result<ExitCode, Error> {
        match self {
            Self::Inject(args) => inject::run(args, cluster).await.map(|()| ExitCode::SUCCESS),
            Self::Uninject(args) => uninject::run(&args).map(|()| ExitCode::SUCCESS),
            Self::Explain(args) => explain::run(args, cluster).await.map(|()| ExitCode::SUCCESS),
            Self::Plan(args) => plan::run(&args, cluster).await,
            Self::Unmark(args) => unmark::run(&args, cluster).await,
            Self::Convert(args) => convert::run(&args),
        }
    }

    /// Exit code of an error.
    fn failure(&self) -> ExitCode {
        match self {
            Self::Plan(_) => ExitCode::from(plan::FAILURE),
            _ => ExitCode::FAILURE,
        }
    }
}

fn parse(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    let mut command = Cli::command();
    if is_plugin(arguments.first()) {
        command = command.bin_name("kubectl sidecarset");
    }
    Cli::from_arg_matches(&command.try_get_matches_from(arguments)?)
}

/// kubectl runs `kubectl-sidecarset` for `kubectl sidecarset`; that is what usage lines must say then.
fn is_plugin(program: Option<&OsString>) -> bool {
    let name = program.and_then(|program| Path::new(program).file_name());
    name.is_some_and(|name| name.to_string_lossy().starts_with("kubectl-"))
}
