//! Errors of the controller.

use crate::core::round::Unconfirmed;
use crate::runtime::call::{CallError, Cause};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Call(CallError),
    /// The lease was lost: nothing may be written.
    #[error("this replica does not lead any more")]
    NotLeader,
    /// Nothing under the names that a revision may have is that revision.
    #[error(
        "all names that the ControllerRevision of SidecarSet {0} may have are taken by other data: delete those that this program ignores"
    )]
    NamesTaken(String),
    #[error(transparent)]
    Unconfirmed(#[from] Unconfirmed),
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        if matches!(error.cause, Cause::NotLeader) { Self::NotLeader } else { Self::Call(error) }
    }
}

impl Error {
    /// Name for metrics.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Call(CallError { cause: Cause::Timeout, .. }) => "timeout",
            Self::Call(_) => "api",
            Self::NotLeader => "not_leader",
            Self::NamesTaken(_) => "names_taken",
            Self::Unconfirmed(_) => "unconfirmed",
        }
    }
}
