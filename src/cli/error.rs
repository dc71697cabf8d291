//! Why a verb failed, in kubectl's words.

use kube::config::{InferConfigError, KubeconfigError};

/// See the module. The text is all that the user sees, so it says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that cannot be read.
    #[error("error: cannot read {path}: {source}")]
    Read {
        /// As given with `-f` or `-s`; `-` is stdin.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that is no YAML or JSON.
    #[error("error: {path}: {message}")]
    Parse {
        /// As given with `-f` or `-s`.
        path: String,
        /// What the parser said, with line and column.
        message: String,
    },
    /// The output was not taken.
    #[error("error: cannot write: {0}")]
    Write(String),
    /// The input is not what the verb works on.
    #[error("error: {0}")]
    Input(String),
    /// Neither a kubeconfig nor a service account.
    #[error("error: no cluster configuration: {0}")]
    Infer(#[from] InferConfigError),
    /// The kubeconfig cannot be used.
    #[error("error: {0}")]
    Kubeconfig(#[from] KubeconfigError),
    /// No cluster, where files would do.
    #[error("{0}\nWith -s FILE the SidecarSets come from files, and no cluster is asked.")]
    NoCluster(Box<Self>),
    /// The API server refused, or was not reached.
    #[error("{}", api_message(.0))]
    Api(#[from] kube::Error),
}

impl Error {
    /// Adds what to do without a cluster if none was reached; an answer of the API server stays as it is.
    pub(super) fn hint_at_files(self) -> Self {
        match self {
            Self::Infer(_) | Self::Kubeconfig(_) => Self::NoCluster(Box::new(self)),
            Self::Api(ref error) if !matches!(error, kube::Error::Api(_)) => Self::NoCluster(Box::new(self)),
            other => other,
        }
    }
}

/// `Error from server (NotFound): pods "x" not found`, as kubectl says it.
fn api_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("Error from server ({}): {}", status.reason, status.message),
        other => {
            let mut message = format!("error: cannot reach the cluster: {other}");
            let mut source = std::error::Error::source(other);
            while let Some(cause) = source {
                message = format!("{message}: {cause}");
                source = cause.source();
            }
            message
        }
    }
}
