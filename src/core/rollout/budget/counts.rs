//! Numbers of pods, all of them sums over one table: how many pods of each kind there are.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

use crate::core::rollout::assess::Assessment;
use crate::core::rollout::assess::state::{Claim, Evictability, State};

/// What the budgets tell apart. Pods of one kind are only counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    state: StateKind,
    ready: bool,
    claim: Claim,
    moved: bool,
    counted: bool,
    selected: bool,
    evictable: bool,
    /// It has the target's own revision, and not one that differs in nothing that a running pod has.
    proves: bool,
    /// Time alone may change it.
    timed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum StateKind {
    Outdated,
    NotInPlace,
    Refused,
    Unconfirmed,
    Updating,
    ResetDue,
    NotReady,
    Available,
    Failed,
}

impl Kind {
    pub fn of(pod: &Assessment) -> Self {
        let state = match pod.state {
            State::Outdated => StateKind::Outdated,
            State::NotInPlace(_) => StateKind::NotInPlace,
            State::Refused(_) => StateKind::Refused,
            State::Unconfirmed(_) => StateKind::Unconfirmed,
            State::Updating => StateKind::Updating,
            State::ResetDue => StateKind::ResetDue,
            State::NotReady => StateKind::NotReady,
            State::Available => StateKind::Available,
            State::Failed(_) => StateKind::Failed,
        };
        Self {
            state,
            ready: pod.ready,
            claim: pod.claim,
            moved: pod.moved,
            counted: pod.counted,
            selected: pod.selected,
            evictable: matches!(pod.evictability, Some(Evictability::Evictable(_))),
            proves: pod.proves,
            timed: pod.check_at.is_some(),
        }
    }

    /// Not at the target.
    pub(crate) fn is_behind(self) -> bool {
        use StateKind::{NotInPlace, Outdated, Refused, Unconfirmed};
        matches!(self.state, Outdated | NotInPlace | Refused | Unconfirmed)
    }

    pub(crate) fn is_failed(self) -> bool {
        matches!(self.state, StateKind::Failed | StateKind::Refused)
    }

    /// It is still to be brought to the target, also if the API server has refused that.
    pub(crate) fn is_to_move(self) -> bool {
        let can_move = matches!(self.state, StateKind::Outdated | StateKind::Refused) || self.evictable;
        self.state == StateKind::Unconfirmed || (can_move && self.selected)
    }

    /// It may still fail, or work.
    pub(crate) fn is_undecided(self) -> bool {
        matches!(self.state, StateKind::Updating | StateKind::ResetDue)
            || (self.state == StateKind::NotReady && self.timed)
    }

    /// Patched next, when budgets, partition and steps let it.
    pub(crate) fn is_candidate(self) -> bool {
        self.state == StateKind::Outdated && self.selected && !self.moved
    }

    /// Patched next, when budgets let it: it ends what was begun, and partition and steps count it already.
    pub(crate) fn is_to_complete(self) -> bool {
        self.state == StateKind::ResetDue || (self.state == StateKind::Outdated && self.selected && self.moved)
    }
}

/// How many pods of each kind there are: an event changes two of the numbers, and a plan adds up a few dozen.
#[derive(Debug, Default)]
pub(crate) struct Table(BTreeMap<Kind, usize>);

impl Table {
    pub(crate) fn add(&mut self, kind: Kind) {
        *self.0.entry(kind).or_default() += 1;
    }

    pub fn remove(&mut self, kind: Kind) {
        if let Some(pods) = self.0.get_mut(&kind) {
            *pods -= 1;
            if *pods == 0 {
                self.0.remove(&kind);
            }
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for (kind, pods) in &self.0 {
            counts.add(*kind, *pods);
        }
        counts
    }
}

/// Numbers of pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pods that belong to the set.
    pub(crate) matched: usize,
    /// Of these, those that run or take something of the budgets: percentages are of them.
    pub(crate) counted: usize,
    /// At the target.
    pub(crate) updated: usize,
    /// At the target or on the way there: what partition counts.
    pub(crate) moved: usize,
    /// Ready, wherever they stand.
    pub(crate) ready: usize,
    /// At the target and available.
    pub(crate) updated_ready: usize,
    /// Update failed, or the patch was refused.
    pub(crate) failed: usize,
    /// At the target, update undecided; also with a reset due, or a patch that may still be carried out.
    pub(crate) undecided: usize,
    /// Of these, with a reset of a hot sidecar's twin due.
    pub(crate) resets_due: usize,
    /// Cannot be patched.
    pub(crate) not_in_place: usize,
    /// Outdated or evictable, but outside `updateStrategy.selector`.
    pub(crate) outside: usize,
    /// Outdated and selected: the candidates.
    pub(crate) outdated: usize,
    /// What was begun with them is to be completed, whatever partition and steps say; they are selected.
    pub(crate) to_complete: usize,
    /// Cost one of maxUnavailable each.
    pub(crate) slots: usize,
    /// At the target and done with their update, which took their readiness, or made with the target: they have until a
    /// deadline to become ready.
    pub(crate) recovering: usize,
    /// Of these, failed.
    pub(crate) failed_slots: usize,
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
    /// Selected pods that cannot be patched.
    pub(crate) selected_not_in_place: usize,
    /// Of these, those that may be evicted for it.
    pub(crate) evictable: usize,
    /// Available, and made of the target's own revision.
    pub(crate) proved: usize,
    /// At the target, done and not ready, for longer than an update has.
    pub(crate) not_ready: usize,
    /// When the oldest pod was created that is still to be brought to the target.
    pub(crate) oldest_to_move: Option<Timestamp>,
    /// When the oldest pod was created that may still fail, or work.
    pub(crate) oldest_undecided: Option<Timestamp>,
    /// Candidates in workloads whose room of `maxUnavailablePerWorkload` failed pods fill alone.
    pub(crate) locked_out: usize,
    /// Candidates on nodes that could not pull the new images. Each such node is one of `failed`.
    pub(crate) blocked: usize,
}

impl Counts {
    /// What each number counts.
    fn add(&mut self, kind: Kind, pods: usize) {
        use StateKind::{Available, NotInPlace, NotReady, Outdated, ResetDue, Unconfirmed, Updating};
        let Kind { state, ready, claim, moved, counted, selected, evictable, proves, timed } = kind;
        let (behind, failed) = (kind.is_behind(), kind.is_failed());
        let unready_anyway = state == NotReady && claim != Claim::Disruption && !timed;
        let decided = failed || state == Available || unready_anyway;
        for (number, counts) in [
            (&mut self.matched, true),
            (&mut self.counted, counted),
            (&mut self.updated, !behind),
            (&mut self.moved, moved),
            (&mut self.ready, ready),
            (&mut self.updated_ready, state == Available),
            (&mut self.failed, failed),
            (&mut self.undecided, matches!(state, Updating | ResetDue | Unconfirmed)),
            (&mut self.resets_due, state == ResetDue),
            (&mut self.not_in_place, state == NotInPlace),
            (&mut self.outside, (state == Outdated || evictable) && !selected),
            (&mut self.outdated, state == Outdated && selected),
            (&mut self.to_complete, kind.is_to_complete()),
            (&mut self.slots, claim == Claim::Disruption),
            (&mut self.recovering, state == NotReady && timed),
            (&mut self.failed_slots, claim == Claim::Disruption && failed),
            (&mut self.capped, claim == Claim::Unready),
            (&mut self.failed_capped, claim == Claim::Unready && failed),
            (&mut self.selected, selected),
            (&mut self.selected_counted, selected && counted),
            (&mut self.selected_moved, selected && moved),
            (&mut self.selected_decided, selected && decided),
            (&mut self.selected_not_in_place, selected && state == NotInPlace),
            (&mut self.evictable, selected && evictable),
            (&mut self.proved, state == Available && proves),
            (&mut self.not_ready, state == NotReady && !timed),
        ] {
            if counts {
                *number += pods;
            }
        }
    }
}
