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
    /// Why pods are evicted.
    pub(crate) cause: EvictionCause,
    /// Pods that were evicted, and what their owners lack, where that is known.
    pub(crate) open: Vec<(PodKey, Option<Lack>)>,
    /// What keeps all pods from being evicted.
    pub(crate) hold: Option<Hold>,
    /// Owners whose next pod is not evicted now, and why: `ReplicaSet default/web`.
    pub(crate) waiting: Vec<(String, Wait)>,
    /// Owners whose replacement was no better.
    pub(crate) in_vain: Vec<String>,
    /// Kinds of pods that are never evicted, see [`exempt`](super::exempt()).
    pub(crate) exempt: BTreeSet<&'static str>,
}

/// What an open eviction waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// The pod is still there.
    Terminating,
    /// The replacement of this name is not ready.
    NotReady(PodKey),
    /// So many of so many pods are ready.
    Missing(usize, usize),
    /// There is no replacement.
    NoReplacement,
    /// The replacement of this name has become ready, not long ago.
    BecameReady(PodKey),
}

/// Why an owner's next pod is not evicted now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// So many of so many pods are ready.
    Missing(usize, usize),
    /// The owner's last eviction is not over.
    LastIsOpen,
    /// The room of its workload is used up.
    NoRoom(Workload),
    /// The replacement would get this revision, or none.
    OtherRevision(Option<String>),
    /// A `PodDisruptionBudget` does not allow it; the text is the apiserver's.
    Budget(String),
    /// What else the apiserver answered, or what injection would do.
    Because(String),
    /// It is never evicted, see [`exempt`](super::exempt()).
    Exempt(&'static str),
}

/// What keeps all pods from being evicted for a cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// It is not asked for, or nothing is to be done.
    Idle,
    /// `updateStrategy.paused`.
    UpdatesPaused,
    /// `injectionStrategy.paused`.
    InjectionPaused,
    /// The webhook does not serve the newest spec.
    NotServed,
    /// New pods get another revision.
    NotGiven,
    /// Upgrades in place use up maxUnavailable.
    NoSlot,
}

impl Wait {
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
    /// Of all these owners none gives up a pod now, and a `PodDisruptionBudget` is one of the reasons.
    pub(crate) fn is_blocked(&self, owners: usize) -> bool {
        let is_tried = self.open.is_empty() && self.waiting.len() + self.in_vain.len() >= owners;
        self.hold.is_none() && is_tried && self.waiting.iter().any(|(_, why)| matches!(why, Wait::Budget(_)))
    }

    fn waiting(&self) -> Option<String> {
        match self.hold {
            Some(Hold::Idle) => None,
            Some(hold) => Some(hold.to_string()),
            None if self.waiting.is_empty() => None,
            None => Some(named(self.waiting.iter().map(|(owner, why)| format!("{owner} ({why})")))),
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

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Terminating => f.write_str("it is terminating"),
            Self::NotReady(pod) => write!(f, "its replacement {pod} is not ready"),
            Self::Missing(ready, replicas) => write!(f, "{ready} of {replicas} pods are ready"),
            Self::NoReplacement => f.write_str("there is no replacement yet"),
            Self::BecameReady(pod) => write!(f, "its replacement {pod} became ready"),
        }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(ready, replicas) => write!(f, "{ready} of {replicas} pods are ready"),
            Self::LastIsOpen => f.write_str("the last eviction is not over"),
            Self::NoRoom(_) => f.write_str("maxUnavailablePerWorkload leaves no room"),
            Self::OtherRevision(given) => {
                write!(f, "a new pod would get revision {}", given.as_deref().unwrap_or("of nobody"))
            }
            Self::Budget(text) | Self::Because(text) => f.write_str(text),
            Self::Exempt(kind) => write!(f, "{kind} are never evicted"),
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "",
            Self::UpdatesPaused => "updateStrategy.paused is true",
            Self::InjectionPaused => "injectionStrategy.paused is true",
            Self::NotServed => "the webhook does not serve the set yet",
            Self::NotGiven => "new pods do not get the new revision yet",
            Self::NoSlot => "an upgrade uses up updateStrategy.maxUnavailable",
        })
    }
}

fn named(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let first: Vec<String> = names.take(NAMED).collect();
    if more > 0 { format!("{} and {more} more", first.join(", ")) } else { first.join(", ") }
}
