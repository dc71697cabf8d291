//! What an assessment looks at.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

use crate::core::pod::{Mark, PodView};
use crate::core::rollout::assess::refusal::Refusal;
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
