//! `kubectl sidecarset`: the verbs of the kubectl plugin, with kubectl's flags, messages and exit codes.

pub mod cluster;
pub mod convert;
mod error;
pub mod manifest;
mod ordered;
pub mod plan;
mod schema;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

pub use error::Error;
pub use ordered::Ordered;

use cluster::ClusterArgs;

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
    Convert(convert::Args),
    Plan(plan::Args),
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
            Self::Convert(args) => convert::run(&args),
            Self::Plan(args) => plan::run(&args, cluster).await,
        }
    }

    /// Exit code of an error.
    fn failure(&self) -> ExitCode {
        match self {
            Self::Convert(_) => ExitCode::FAILURE,
            Self::Plan(_) => ExitCode::from(plan::FAILURE),
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
