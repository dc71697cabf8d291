//! What an assessment looks at.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

use crate::core::pod::{Mark, PodView};
use crate::core::rollout::target::Target;

/// What a pod's state depends on besides pod and target.
#[derive(Clone, Copy)]
pub(crate) struct PodContext<'a> {
    pub(crate) namespace_labels: Option<&'a BTreeMap<String, String>>,
    /// `None` while the node is not known.
    pub(crate) restarts_native_sidecars: Option<bool>,
    /// The apiserver lets resources of running pods be changed.
    pub(crate) can_resize: bool,
    /// Why the last patch of exactly this version of the pod to this revision was not accepted.
    pub(crate) refused: Option<&'a Refusal>,
    pub(crate) now: Timestamp,
}

/// A pod of a set.
#[derive(Clone, Copy)]
pub(crate) struct PodInSet<'a> {
    pub(crate) pod: &'a PodView,
    pub(crate) mark: &'a Mark,
    pub(crate) target: &'a Target,
    pub(crate) context: &'a PodContext<'a>,
}

/// What is remembered of the last patch of a pod, which the API server did not accept, or perhaps not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// UID of the pod that was patched.
    pub(crate) uid: String,
    /// Its version.
    pub(crate) resource_version: u64,
    /// Revision it was to get.
    pub(crate) revision: String,
    /// [`Target::retried_at`] then, in seconds, as the status keeps it.
    pub(crate) retried_at: Option<i64>,
    pub(crate) message: String,
    /// No clear answer: it may be carried out until then, and is tried again after. `None`: it was refused for good, and
    /// is not tried again before the pod changes.
    pub(crate) until: Option<Timestamp>,
}

impl Refusal {
    /// Whether it still says something about this pod and this target.
    pub(crate) fn stands(&self, pod: &PodView, target: &Target, now: Timestamp) -> bool {
        if let Some(until) = self.until {
            // Neither a newer status of the pod nor another target keeps a request from being carried out.
            return pod.uid == self.uid && now < until;
        }
        let is_retried = target.retried_at.map(Timestamp::as_second) != self.retried_at;
        pod.resource_version == self.resource_version && target.revision == self.revision && !is_retried
    }
}
