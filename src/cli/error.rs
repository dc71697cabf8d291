//! Why a verb failed, in kubectl's words.

use kube::config::{InferConfigError, KubeconfigError};

/// The text is all that the user sees, so it says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `path`: as given with `-f` or `-s`; `-` is stdin.
    #[error("error: cannot read {path}: {source}")]
    Read { path: String, source: std::io::Error },
    /// No YAML or JSON; the message has line and column.
    #[error("error: {path}: {message}")]
    Parse { path: String, message: String },
    #[error("error: cannot write: {0}")]
    Write(String),
    /// The input is not what the verb works on.
    #[error("error: {0}")]
    Input(String),
    #[error("error: no cluster configuration: {0}")]
    Infer(#[from] InferConfigError),
    #[error("error: {0}")]
    Kubeconfig(#[from] KubeconfigError),
    /// No cluster, where files would do.
    #[error("{0}\nWith -s FILE the SidecarSets come from files, and no cluster is asked.")]
    NoCluster(Box<Self>),
    #[error("{}", api_message(.0))]
    Api(#[from] kube::Error),
}

impl Error {
    /// Adds what to do without a cluster if none was reached; an answer of the API server stays as it is.
    pub(super) fn hint_at_files(self) -> Self {
        match self {
            Self::Api(kube::Error::Api(_)) => self,
            Self::Infer(_) | Self::Kubeconfig(_) | Self::Api(_) => Self::NoCluster(Box::new(self)),
            other => other,
        }
    }
}

/// `Error from server (NotFound): pods "x" not found`, as kubectl says it.
fn api_message(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return format!("Error from server ({}): {}", status.reason, status.message);
    }
    let mut message = format!("error: cannot reach the cluster: {error}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    message
}
