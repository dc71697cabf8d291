//! `sidecarset-operator`. Everything is in [`sidecarset::operator`].

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    sidecarset::operator::main().await
}
