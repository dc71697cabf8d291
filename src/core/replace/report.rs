//! Where the evictions of a set stand, for its status.

use std::collections::BTreeSet;
use std::fmt;

use crate::api::v1beta1::EvictionCause;
use crate::core::base::text::bounded;
use crate::core::pod::PodKey;
use crate::core::pod::workload::Workload;

/// Owners or pods that are named in a message.
pub(crate) const NAMED: usize = 3;

/// Where evictions for one cause stand. Shown as the end of a status message; empty if there is nothing to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EvictionReport {
    pub(crate) cause: EvictionCause,
    /// Pods that were evicted, and what their owners lack, where that is known.
    pub(crate) open: Vec<(PodKey, Option<Lack>)>,
    /// What keeps all pods from being evicted.
    pub(crate) hold: Option<Hold>,
    /// Some of the owners whose next pod is not evicted now, and why: `ReplicaSet default/web`. First those for whom a
    /// `PodDisruptionBudget` does not allow it.
    pub(crate) waiting: Vec<(String, Wait)>,
    /// How many those are.
    pub(crate) waiting_owners: usize,
    /// Owners whose replacement was no better.
    pub(crate) in_vain: Vec<String>,
    /// Kinds of pods that are never evicted, see [`exempt`](super::exempt()).
    pub(crate) exempt: BTreeSet<&'static str>,
}

/// What an open eviction waits for. Of numbers of pods, the first is how many are ready, and the second of how many.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Lack {
    #[error("it is terminating")]
    Terminating,
    #[error("its replacement {0} is not ready")]
    NotReady(PodKey),
    #[error("{0} of {1} pods are ready")]
    Missing(usize, usize),
    #[error("there is no replacement yet")]
    NoReplacement,
    #[error("its replacement {0} became ready")]
    BecameReady(PodKey),
}

/// Why an owner's next pod is not evicted now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Wait {
    #[error("{0} of {1} pods are ready")]
    Missing(usize, usize),
    #[error("the last eviction is not over")]
    LastIsOpen,
    #[error("maxUnavailablePerWorkload leaves no room")]
    NoRoom(Workload),
    #[error("a new pod would get revision {}", .0.as_deref().unwrap_or("of nobody"))]
    OtherRevision(Option<String>),
    /// A `PodDisruptionBudget` does not allow it; the text is the apiserver's.
    #[error("{0}")]
    Budget(String),
    /// With the sidecars, or at all.
    #[error("it cannot create pods: {0}")]
    NotCreated(String),
    /// What else the apiserver answered, or what injection would do.
    #[error("{0}")]
    Because(String),
    /// See [`exempt`](super::exempt()).
    #[error("{0} are never evicted")]
    Exempt(&'static str),
}

/// What keeps all pods from being evicted for a cause.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Hold {
    /// It is not asked for, or nothing is to be done.
    #[error("")]
    Idle,
    #[error("updateStrategy.paused is true")]
    UpdatesPaused,
    #[error("injectionStrategy.paused is true")]
    InjectionPaused,
    #[error("the webhook does not serve the set yet")]
    NotServed,
    #[error("new pods do not get the new revision yet")]
    NotGiven,
    /// By these pods.
    #[error("updateStrategy.maxUnavailable is used up by {0}")]
    NoSlot(String),
}

impl Wait {
    /// Somebody can do something about it, and has to.
    pub(crate) fn is_lasting(&self) -> bool {
        matches!(self, Self::Budget(_) | Self::NotCreated(_))
    }

    /// For a text of somebody else.
    pub(crate) fn because(text: String) -> Self {
        Self::Because(bounded(text))
    }
}

impl fmt::Display for EvictionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.open.is_empty() {
            parts.push(format!("replacing {}", named(self.open.iter().map(open))));
        }
        if let Some(waiting) = self.waiting() {
            parts.push(format!("waiting: {waiting}"));
        }
        if !self.in_vain.is_empty() {
            let what = match self.cause {
                EvictionCause::NoSidecars => "the replacements came without sidecars too",
                EvictionCause::NotInPlace => "the replacements are not at the new revision either",
            };
            let owners = named(self.in_vain.iter().cloned());
            parts.push(format!("{what}, left alone until the set changes: {owners}"));
        }
        parts.extend(never(self.exempt.iter().copied()));
        f.write_str(&parts.join("; "))
    }
}

impl EvictionReport {
    /// Of all these owners none gives up a pod now, and one of the reasons is that a `PodDisruptionBudget` forbids it, or that
    /// there would be no other pod.
    pub(crate) fn is_blocked(&self, owners: usize) -> bool {
        let is_tried = self.open.is_empty() && self.waiting_owners + self.in_vain.len() >= owners;
        self.hold.is_none() && is_tried && self.waiting.first().is_some_and(|(_, why)| why.is_lasting())
    }

    fn waiting(&self) -> Option<String> {
        match &self.hold {
            Some(Hold::Idle) => None,
            Some(hold) => Some(hold.to_string()),
            None if self.waiting.is_empty() => None,
            None => {
                let owners: Vec<_> = self.waiting.iter().map(|(owner, why)| format!("{owner} ({why})")).collect();
                Some(listed(&owners, self.waiting_owners))
            }
        }
    }
}

fn open((pod, lack): &(PodKey, Option<Lack>)) -> String {
    match lack {
        Some(lack) => format!("{pod} ({lack})"),
        None => pod.to_string(),
    }
}

/// Who is never evicted; `None` if there are no such pods.
pub(crate) fn never<'a>(kinds: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let kinds: Vec<&str> = kinds.into_iter().collect();
    (!kinds.is_empty()).then(|| format!("never evicted: {}; restart them when it suits", kinds.join(", ")))
}

fn named(names: impl ExactSizeIterator<Item = String>) -> String {
    let total = names.len();
    listed(&names.take(NAMED).collect::<Vec<_>>(), total)
}

/// `a, b and 3 more`.
pub(crate) fn listed(named: &[String], total: usize) -> String {
    let more = total.saturating_sub(named.len());
    let suffix = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{suffix}", named.join(", "))
}
