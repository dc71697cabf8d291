//! Logs: format, filter, and the line that says what was started.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit this was built from: `SIDECARSET_COMMIT` at build time.
pub(crate) const COMMIT: &str = match option_env!("SIDECARSET_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object per line, for a log collector.
    Json,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LogArgs {
    /// Format of the log lines on stderr
    #[arg(long, value_enum, default_value_t)]
    pub(crate) log_format: LogFormat,
    /// Level or filter, such as `debug` or `info,sidecarset=trace,kube=warn`
    #[arg(long, env = "RUST_LOG", default_value = "info,kube=warn")]
    pub(crate) log_level: String,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("--log-level {0:?}: {1}")]
    Filter(String, tracing_subscriber::filter::ParseError),
    #[error("logging is already set up: {0}")]
    AlreadySet(Box<dyn std::error::Error + Send + Sync>),
}

/// Installs the process-wide subscriber on stderr and logs what was started. Once per process, first in `main`.
pub(crate) fn init(args: &LogArgs) -> Result<(), Error> {
    let filter = filter(&args.log_level)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match args.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(Error::AlreadySet)?;
    tracing::info!(version = VERSION, commit = COMMIT, arch = std::env::consts::ARCH, "sidecarset starts");
    Ok(())
}

fn filter(directives: &str) -> Result<EnvFilter, Error> {
    EnvFilter::try_new(directives).map_err(|source| Error::Filter(directives.to_owned(), source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_and_a_list_of_directives_are_filters() {
        assert!(filter("debug").is_ok());
        assert!(filter("info,sidecarset=trace").is_ok());
    }

    #[test]
    fn a_bad_filter_is_named() {
        let error = filter("sidecarset=loud").unwrap_err().to_string();
        assert!(error.contains("sidecarset=loud"), "{error}");
    }
}
