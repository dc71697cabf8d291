//! Whether a pod is ready, and pods that were a moment ago.
//!
//! Observed on kubelets 1.36: one that is restarted says of all its running containers that they are not ready, until the
//! first answer to their probes. Such pods must not pass for pods that are not ready anyway, whose upgrade costs nothing.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::core::base::lists::List;
use crate::core::base::time::after;
use crate::core::pod::{ContainerStatus, ContainerView, PodView};

/// Three times the default `periodSeconds` of a probe.
const MOMENT: SignedDuration = SignedDuration::from_secs(30);

/// A container that ended so long before its pod became unready may be the reason.
const AROUND: SignedDuration = SignedDuration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    Ready,
    /// It became unready while all its containers ran on, and counts as ready until then.
    JustLost(Timestamp),
    NotReady,
}

impl Readiness {
    pub fn of(pod: &PodView, now: Timestamp) -> Self {
        if pod.ready {
            return Self::Ready;
        }
        just_lost(pod, now).map_or(Self::NotReady, Self::JustLost)
    }

    /// To make it unavailable costs what a ready pod costs.
    pub(crate) fn counts_as_ready(self) -> bool {
        self != Self::NotReady
    }

    /// When it stops counting as ready by itself.
    pub(crate) fn ends(self) -> Option<Timestamp> {
        match self {
            Self::JustLost(until) => Some(until),
            Self::Ready | Self::NotReady => None,
        }
    }
}

fn just_lost(pod: &PodView, now: Timestamp) -> Option<Timestamp> {
    let lost_at = pod.ready_changed?;
    let with_status = || pod.containers.iter().filter_map(|container| Some((container, container.status.as_ref()?)));
    let runs_on = with_status().any(|(_, status)| status.running_since.is_some_and(|since| since < lost_at));
    let ended_then = |ended: Timestamp| after(ended, AROUND) >= lost_at;
    let has_changed = |(container, status): (&ContainerView, &ContainerStatus)| {
        status.waiting.is_some()
            || status.ended_at.is_some_and(ended_then)
            || status.running_since.map_or(container.list == List::Ordinary, |since| since >= lost_at)
    };
    let ran_on = runs_on && !with_status().any(has_changed);
    // The node's clock may be ahead, but not by more than that.
    Some(after(lost_at, MOMENT)).filter(|end| ran_on && now < *end && lost_at <= after(now, MOMENT))
}
