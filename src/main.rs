//! `sidecarset-operator`: reads its arguments and wires the parts together.

mod operator;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use sidecarset::runtime::args::{Args, Command};
use sidecarset::runtime::telemetry;

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    match command {
        Command::Crd => {
            std::io::stdout().write_all(sidecarset::api::crd::yaml()?.as_bytes())?;
            Ok(())
        }
        Command::Run(args) => {
            telemetry::init(&args.log)?;
            rustls::crypto::ring::default_provider()
                .install_default()
                .map_err(|_| "a crypto provider is installed already")?;
            Ok(operator::run(&args).await?)
        }
    }
}
