//! The table of the pods of a set, by kind. All numbers and names of pods are read from it: an event changes two of its
//! rows, and a plan adds up a few dozen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

use crate::core::base::tally::{member, tally};
use crate::core::pod::PodKey;
use crate::core::rollout::assess::Assessment;
use crate::core::rollout::assess::state::{Claim, Evictability, PodState};

/// What the budgets and the status tell apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PodKind {
    /// Without texts, but for why a pod cannot be patched.
    pub(crate) state: PodState,
    ready: bool,
    pub(crate) claim: Claim,
    moved: bool,
    counted: bool,
    selected: bool,
    evictable: bool,
    /// Which pods like it are never evicted, if it waits for that.
    pub(crate) exempt: Option<&'static str>,
    /// It has the target's own revision, and not one that differs in nothing that a running pod has.
    proves: bool,
    /// Time alone may change it.
    timed: bool,
    /// It waits on a node that could not pull.
    blocked: bool,
}

impl PodKind {
    pub fn of(pod: &Assessment, blocked: bool) -> Self {
        let no_text = String::new;
        Self {
            state: match &pod.state {
                PodState::Failed(_) => PodState::Failed(no_text()),
                PodState::Refused(_) => PodState::Refused(no_text()),
                PodState::Unconfirmed(_) => PodState::Unconfirmed(no_text()),
                state => state.clone(),
            },
            ready: pod.ready,
            claim: pod.claim,
            moved: pod.moved,
            counted: pod.counted,
            selected: pod.selected,
            evictable: matches!(pod.evictability, Some(Evictability::Evictable(_))),
            exempt: match pod.evictability {
                Some(Evictability::Exempt(kind)) => Some(kind),
                _ => None,
            },
            proves: pod.proves,
            timed: pod.check_at.is_some(),
            blocked,
        }
    }

    /// Not at the target.
    pub(crate) fn is_behind(&self) -> bool {
        use PodState::{NotInPlace, Outdated, Refused, Unconfirmed};
        matches!(self.state, Outdated | NotInPlace(_) | Refused(_) | Unconfirmed(_))
    }

    pub(crate) fn is_failed(&self) -> bool {
        matches!(self.state, PodState::Failed(_) | PodState::Refused(_))
    }

    /// It is still to be brought to the target, also if the API server has refused that.
    fn is_to_move(&self) -> bool {
        let can_move = matches!(self.state, PodState::Outdated | PodState::Refused(_)) || self.evictable;
        matches!(self.state, PodState::Unconfirmed(_)) || (can_move && self.selected)
    }

    /// It may still fail, or work.
    pub(crate) fn is_undecided(&self) -> bool {
        matches!(self.state, PodState::Updating | PodState::ResetDue)
            || (self.state == PodState::NotReady && self.timed)
    }

    /// Patched next, when budgets, partition and steps let it.
    pub(crate) fn is_candidate(&self) -> bool {
        self.state == PodState::Outdated && self.selected && !self.moved
    }

    /// Patched next, when budgets let it: it ends what was begun, and partition and steps count it already.
    pub(crate) fn is_to_complete(&self) -> bool {
        self.state == PodState::ResetDue || (self.state == PodState::Outdated && self.selected && self.moved)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Table(BTreeMap<PodKind, Pods>);

#[derive(Debug, Default)]
struct Pods {
    number: usize,
    /// The oldest first. None of those that are available and hold nothing: they are many, and nobody names them.
    listed: BTreeSet<(Timestamp, Arc<PodKey>)>,
}

impl Table {
    pub(crate) fn change(&mut self, kind: PodKind, created: Timestamp, key: &Arc<PodKey>, add: bool) {
        let is_listed = kind.state != PodState::Available || kind.claim != Claim::None;
        let pods = self.0.entry(kind.clone()).or_default();
        tally(&mut pods.number, 1, add);
        if is_listed {
            member(&mut pods.listed, (created, Arc::clone(key)), add);
        }
        if pods.number == 0 {
            self.0.remove(&kind);
        }
    }

    /// Pods of these kinds, the oldest of each first.
    pub(crate) fn pods(&self, is: impl Fn(&PodKind) -> bool) -> impl Iterator<Item = &Arc<PodKey>> {
        self.listed(is).flatten().map(|(_, key)| key)
    }

    /// The oldest pods of these kinds.
    pub(crate) fn oldest(&self, most: usize, is: impl Fn(&PodKind) -> bool) -> Vec<&Arc<PodKey>> {
        let mut oldest: Vec<_> = self.listed(is).flat_map(|pods| pods.iter().take(most)).collect();
        oldest.sort();
        oldest.into_iter().take(most).map(|(_, key)| key).collect()
    }

    /// How many pods there are of what a kind names.
    pub(crate) fn by<T: Ord>(&self, name: impl Fn(&PodKind) -> Option<T>) -> BTreeMap<T, usize> {
        let mut numbers = BTreeMap::new();
        for (kind, pods) in &self.0 {
            if let Some(name) = name(kind) {
                *numbers.entry(name).or_default() += pods.number;
            }
        }
        numbers
    }

    fn listed(&self, is: impl Fn(&PodKind) -> bool) -> impl Iterator<Item = &BTreeSet<(Timestamp, Arc<PodKey>)>> {
        self.0.iter().filter(move |(kind, _)| is(kind)).map(|(_, pods)| &pods.listed)
    }

    pub(crate) fn counts(&self) -> Counts {
        let created = |pods: &BTreeSet<(Timestamp, _)>| pods.first().map(|(created, _)| *created);
        let mut counts = Counts {
            oldest_to_move: self.listed(PodKind::is_to_move).filter_map(created).min(),
            oldest_undecided: self.listed(PodKind::is_undecided).filter_map(created).min(),
            ..Counts::default()
        };
        for (kind, pods) in &self.0 {
            counts.add(kind, pods.number);
        }
        counts
    }
}

/// Numbers of pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub(crate) matched: usize,
    /// Of these, those that run or take something of the budgets: percentages are of them.
    pub(crate) counted: usize,
    pub(crate) updated: usize,
    /// At the target or on the way there: what partition counts.
    pub(crate) moved: usize,
    pub(crate) ready: usize,
    pub(crate) updated_ready: usize,
    /// Update failed, or the patch was refused; and nodes that could not pull.
    pub(crate) failed: usize,
    /// Of these, those that were made so: they hold nothing that an update takes.
    pub(crate) failed_new: usize,
    /// At the target, update undecided; also with a reset due, or a patch that may still be carried out.
    pub(crate) undecided: usize,
    /// Of these, with a reset of a hot sidecar's twin due.
    pub(crate) resets_due: usize,
    pub(crate) not_in_place: usize,
    /// Outdated or evictable, but outside `updateStrategy.selector`.
    pub(crate) outside: usize,
    pub(crate) outdated: usize,
    /// Of these, those that no kubelet has: they count for no percentage.
    pub(crate) not_started: usize,
    /// What was begun with them is to be completed, whatever partition and steps say; they are selected.
    pub(crate) to_complete: usize,
    /// Cost one of maxUnavailable each.
    pub(crate) slots: usize,
    /// Of these, failed.
    pub(crate) failed_slots: usize,
    /// At the target and not ready, or made just now: they have until a deadline.
    pub(crate) recovering: usize,
    /// May still fail, or work, and cost none.
    pub(crate) awaited: usize,
    /// Were unready when patched, and are undecided or failed.
    pub(crate) capped: usize,
    /// Of these, failed.
    pub(crate) failed_capped: usize,
    /// Matched by `updateStrategy.selector` too: the pods that the rollout is for.
    pub(crate) selected: usize,
    /// Of these, those that run or take something of the budgets.
    pub(crate) selected_counted: usize,
    /// At the target or on the way there: what steps count.
    pub(crate) selected_moved: usize,
    /// Of these, available or failed, or done and not ready for reasons that are older than the update.
    pub(crate) selected_decided: usize,
    pub(crate) selected_not_in_place: usize,
    /// Of these, those that may be evicted for it.
    pub(crate) evictable: usize,
    /// Available, and made of the target's own revision.
    pub(crate) proved: usize,
    /// At the target, done and not ready, for longer than an update has.
    pub(crate) not_ready: usize,
    /// Outdated and selected, on nodes that could not pull the new images. Each such node is one of `failed`.
    pub(crate) blocked: usize,
    /// When the oldest pod was created that is still to be brought to the target.
    pub(crate) oldest_to_move: Option<Timestamp>,
    /// When the oldest pod was created that may still fail, or work.
    pub(crate) oldest_undecided: Option<Timestamp>,
}

impl Counts {
    fn add(&mut self, kind: &PodKind, pods: usize) {
        use PodState::{Available, NotInPlace, NotReady, Outdated, ResetDue, Unconfirmed, Updating};
        let PodKind { state, ready, claim, moved, counted, selected, evictable, exempt: _, proves, timed, blocked } =
            kind;
        let (behind, failed) = (kind.is_behind(), kind.is_failed());
        let (slot, capped) = (*claim == Claim::Disruption, *claim == Claim::Unready);
        let not_in_place = matches!(state, NotInPlace(_));
        let decided = failed || *state == Available || (*state == NotReady && !slot && !timed);
        for (number, counts) in [
            (&mut self.matched, true),
            (&mut self.counted, *counted),
            (&mut self.updated, !behind),
            (&mut self.moved, *moved),
            (&mut self.ready, *ready),
            (&mut self.updated_ready, *state == Available),
            (&mut self.failed, failed),
            (&mut self.failed_new, matches!(state, PodState::Failed(_)) && *claim == Claim::None),
            (&mut self.undecided, matches!(state, Updating | ResetDue | Unconfirmed(_))),
            (&mut self.resets_due, *state == ResetDue),
            (&mut self.not_in_place, not_in_place),
            (&mut self.outside, (*state == Outdated || *evictable) && !selected),
            (&mut self.outdated, *state == Outdated && *selected),
            (&mut self.not_started, *state == Outdated && *selected && !counted),
            (&mut self.to_complete, kind.is_to_complete()),
            (&mut self.slots, slot),
            (&mut self.recovering, *state == NotReady && *timed),
            (&mut self.awaited, kind.is_undecided() && !slot),
            (&mut self.failed_slots, slot && failed),
            (&mut self.capped, capped),
            (&mut self.failed_capped, capped && failed),
            (&mut self.selected, *selected),
            (&mut self.selected_counted, *selected && *counted),
            (&mut self.selected_moved, *selected && *moved),
            (&mut self.selected_decided, *selected && decided),
            (&mut self.selected_not_in_place, *selected && not_in_place),
            (&mut self.evictable, *selected && *evictable),
            (&mut self.proved, *state == Available && *proves),
            (&mut self.not_ready, *state == NotReady && !timed),
            (&mut self.blocked, *blocked),
        ] {
            if counts {
                *number += pods;
            }
        }
    }
}

/// What evictions take of the budgets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EvictionClaims {
    /// Slots of maxUnavailable: `default/web-1 (evicted)`.
    pub(crate) slots: Vec<String>,
    /// Places under the cap of unready pods: `default/web-1 (evicted)`.
    pub(crate) capped: Vec<String>,
    /// Evictions for the target whose pod is still among the matched.
    pub(crate) leaving: usize,
    /// Those whose pod is not: its replacement may be there or not.
    pub(crate) gone: usize,
    /// Those that have failed without a replacement: they have moved, too.
    pub(crate) lost: usize,
    /// Pods of owners whose replacement was no better.
    pub(crate) left_alone: usize,
    /// Those of `slots` whose replacement for the target is broken, missing, or does not become ready.
    pub(crate) failed_slots: usize,
    /// The same of `capped`.
    pub(crate) failed_capped: usize,
    /// Of both, those whose replacement is not among the failed pods: `default/web-1 (it has no ready replacement)`.
    pub(crate) failed: Vec<String>,
}

impl EvictionClaims {
    /// Evictions for the target that are under way.
    pub(crate) fn moving(&self) -> usize {
        self.leaving + self.gone
    }

    /// The set's counters with the replacements that have failed: as failed updates in place do, they may use up the
    /// budgets alone. And without the pods that are left alone.
    pub(crate) fn added_to(&self, counts: Counts) -> Counts {
        Counts {
            failed: counts.failed + self.failed.len(),
            evictable: counts.evictable.saturating_sub(self.left_alone),
            failed_slots: counts.failed_slots + self.failed_slots,
            failed_capped: counts.failed_capped + self.failed_capped,
            ..counts
        }
    }
}
