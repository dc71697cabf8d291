//! `kubectl sidecarset`: the verbs of the kubectl plugin, with kubectl's flags, messages and exit codes.

mod cluster;
pub mod convert;
mod error;
mod explain;
mod inject;
mod manifest;
mod ordered;
mod output;
mod parse;
pub mod plan;
mod schema;
mod sets;
mod uninject;
mod unmark;
mod workloads;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use cluster::ClusterArgs;
use error::Error;

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
    Inject(inject::Args),
    Uninject(uninject::Args),
    Explain(explain::Args),
    Plan(plan::Args),
    Unmark(unmark::Args),
    Convert(convert::Args),
}

/// Runs the plugin. Exit code 0 if everything was done, 1 for every error, as kubectl's; `plan` has those of
/// `kubectl diff`.
pub async fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = match parse(&arguments) {
        Ok(cli) => cli,
        Err(usage) => {
            let _ = usage.print();
            return if usage.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    let failure = if matches!(cli.verb, Verb::Plan(_)) { plan::FAILURE } else { 1 };
    cli.verb.run(&cli.cluster).await.unwrap_or_else(|error| {
        output::note(error);
        ExitCode::from(failure)
    })
}

impl Verb {
    async fn run(self, cluster: &ClusterArgs) -> Result<ExitCode, Error> {
        match self {
            Self::Inject(args) => inject::run(&args, cluster).await,
            Self::Uninject(args) => uninject::run(&args),
            Self::Explain(args) => explain::run(&args, cluster).await,
            Self::Plan(args) => plan::run(&args, cluster).await,
            Self::Unmark(args) => unmark::run(&args, cluster).await,
            Self::Convert(args) => convert::run(&args),
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
