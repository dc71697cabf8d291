//! `kubectl sidecarset`: the kubectl plugin. Everything is in [`sidecarset::cli`].

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    sidecarset::cli::run(std::env::args_os()).await
}
