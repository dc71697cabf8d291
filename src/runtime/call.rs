//! Calls to the API server that fail.

use kube::core::Status;
use tokio::time::{Instant, timeout_at};

/// What was tried, with what, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {object}: {cause}")]
pub struct CallError {
    pub(crate) action: &'static str,
    pub(crate) object: String,
    pub(crate) cause: Cause,
}

#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error("{0}")]
    Api(Box<kube::Error>),
    #[error("no answer in time")]
    Timeout,
    #[error("this replica does not lead any more")]
    NotLeader,
}

impl CallError {
    /// For `map_err`.
    pub(crate) fn api(action: &'static str, object: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self { action, object: object.into(), cause: Cause::Api(Box::new(source)) }
    }

    pub(crate) fn status(&self) -> Option<&Status> {
        self.cause.status()
    }

    /// The object is not there, or not any more.
    pub(crate) fn is_not_found(&self) -> bool {
        self.status().is_some_and(Status::is_not_found)
    }

    /// The object is not what it was when it was read, or it is gone.
    pub(crate) fn is_stale(&self) -> bool {
        self.status().is_some_and(|status| status.is_conflict() || status.is_not_found())
    }
}

impl Cause {
    /// What the API server said.
    pub(crate) fn status(&self) -> Option<&Status> {
        match self {
            Self::Api(source) => match &**source {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Self::Timeout | Self::NotLeader => None,
        }
    }

    /// Another writer was faster: the object has changed, was made or was deleted.
    pub(crate) fn is_lost_race(&self) -> bool {
        let lost = |status: &Status| status.is_conflict() || status.is_already_exists() || status.is_not_found();
        self.status().is_some_and(lost)
    }
}

/// Waits for an answer until `deadline`.
pub(crate) async fn until<T>(deadline: Instant, call: impl Future<Output = kube::Result<T>>) -> Result<T, Cause> {
    let answer = timeout_at(deadline, call).await.map_err(|_| Cause::Timeout)?;
    answer.map_err(|source| Cause::Api(Box::new(source)))
}
