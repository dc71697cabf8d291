//! How far an update has come, and the time that it has.

use k8s_openapi::jiff::Timestamp;

use crate::core::base::time::{after, seconds};
use crate::core::pod::{PodView, Update};
use crate::core::rollout::target::strategy::Strategy;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Neither done nor failed; look again at this time even if nothing is heard of the pod.
    Undecided(Option<Timestamp>),
    /// Every replaced container is a new one that has stayed ready.
    Done,
    /// Its time is over, and the kubelet has not begun with it, in a pod that was not ready before and is not now: nothing
    /// says that the revision is to blame.
    NotStarted,
    /// Not done in time, or there is evidence that it will not be. The text names container and reason.
    Failed(String),
}

impl Progress {
    /// Nothing is decided before the deadline; after it, it has failed.
    pub(crate) fn by(deadline: Timestamp, failure: String, now: Timestamp) -> Self {
        if now < deadline { Self::Undecided(Some(deadline)) } else { Self::Failed(failure) }
    }

    /// What both together say.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Failed(text), _) | (_, Self::Failed(text)) => Self::Failed(text),
            (Self::Undecided(a), Self::Undecided(b)) => Self::Undecided(a.into_iter().chain(b).min()),
            (Self::Undecided(at), _) | (_, Self::Undecided(at)) => Self::Undecided(at),
            (Self::NotStarted, _) | (_, Self::NotStarted) => Self::NotStarted,
            (Self::Done, Self::Done) => Self::Done,
        }
    }
}

/// When an update that is not available has failed.
pub(crate) fn deadline(update: &Update, strategy: &Strategy) -> Timestamp {
    after(update.at, seconds(strategy.timeout_seconds))
}

/// The kubelet has seen this generation of the pod, as far as it says. Later ones are other people's changes.
pub(crate) fn has_seen(pod: &PodView, generation: i64) -> bool {
    pod.observed_generation.is_none_or(|observed| observed >= generation)
}
