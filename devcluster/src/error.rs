//! What can go wrong, with enough context to act on.

use std::path::{Path, PathBuf};

/// Everything that keeps a cluster from being built, started or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no Go toolchain to build the servers with, and no ready-made binary either.
    #[error(
        "cannot build {tools}: no usable Go toolchain ({reason}). Install Go 1.26 or newer and put `go` \
         into PATH, or set KUBEBUILDER_ASSETS to a folder that holds them"
    )]
    NoGo {
        /// The binaries that are missing.
        tools: String,
        /// What the attempt to run `go` said.
        reason: String,
    },
    /// `go build` ran and failed.
    #[error("building {tool} failed:\n{output}")]
    Build {
        /// The binary being built.
        tool: String,
        /// What the compiler said.
        output: String,
    },
    /// A real node cannot run on this machine.
    #[error("a real node cannot run here, it needs:\n- {}\n(Debian 12's packages: make node-packages)", missing.join("\n- "))]
    NoNode {
        /// Everything that is missing.
        missing: Vec<String>,
    },
    /// A file or folder could not be read or written.
    #[error("{action} {path}: {source}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A process could not be started or waited for.
    #[error("cannot run {name}: {source}")]
    Process {
        /// The program.
        name: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A server ended by itself while it was needed.
    #[error("{name} ended early ({status}); end of {}:\n{tail}", log.display())]
    Exited {
        /// The server.
        name: &'static str,
        /// Its exit status.
        status: String,
        /// Its log file.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// The cluster was not ready in time.
    #[error("{what} was not ready within {seconds} s; logs are in {}", logs.display())]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// For how long.
        seconds: u64,
        /// Where the servers' logs are.
        logs: PathBuf,
    },
    /// A key or certificate could not be made.
    #[error("cannot make the certificates: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The API server refused something.
    #[error("{action}: {source}")]
    Api {
        /// What was asked.
        action: &'static str,
        /// The answer.
        source: Box<kube::Error>,
    },
    /// The kubeconfig that was just written cannot be used.
    #[error("cannot use the kubeconfig: {0}")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// The detached cluster did not come up.
    #[error("the cluster did not come up; end of {}:\n{tail}", log.display())]
    Daemon {
        /// Its log.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
}

impl Error {
    /// Wraps an I/O error on `path`; used as `map_err(Error::file("write", path))`.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::File { action, path: path.to_owned(), source }
    }

    /// Wraps an error of the API server.
    pub(crate) fn api(action: &'static str) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::Api { action, source: Box::new(source) }
    }

    /// Whether a server lost the race for its port, so that another attempt makes sense.
    pub(crate) fn port_was_taken(&self) -> bool {
        matches!(self, Self::Exited { tail, .. } if tail.contains("address already in use"))
    }
}
