//! Errors of the controller.

use crate::core::round::Unconfirmed;

/// What went wrong, with the call and the object.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A call failed.
    #[error("cannot {action} {object}: {source}")]
    Api {
        /// For example `patch status of`.
        action: &'static str,
        /// For example `SidecarSet logs`.
        object: String,
        /// What the API server said.
        source: Box<kube::Error>,
    },
    /// A call got no answer in time.
    #[error("cannot {action} {object}: no answer in time")]
    Timeout {
        /// See [`Error::Api`].
        action: &'static str,
        /// See [`Error::Api`].
        object: String,
    },
    /// The lease was lost: nothing may be written.
    #[error("this replica does not lead any more")]
    NotLeader,
    /// Nothing under the names that a revision may have is that revision.
    #[error(
        "all names that the ControllerRevision of SidecarSet {0} may have are taken by other data: delete those that this program ignores"
    )]
    NamesTaken(String),
    /// See there.
    #[error(transparent)]
    Unconfirmed(#[from] Unconfirmed),
}

impl Error {
    /// The object of the call is not there, or not any more.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(&**source, kube::Error::Api(status) if status.is_not_found()))
    }

    /// A call that failed: what was tried, and with what.
    pub(super) fn api(action: &'static str, object: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::Api { action, object: object.into(), source: Box::new(source) }
    }

    /// Name for metrics.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Api { .. } => "api",
            Self::Timeout { .. } => "timeout",
            Self::NotLeader => "not_leader",
            Self::NamesTaken(_) => "names_taken",
            Self::Unconfirmed(_) => "unconfirmed",
        }
    }
}
