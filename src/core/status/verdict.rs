//! The verdict on a rollout: which conditions hold, and why.
//!
//! | State | Ready | Reconciling | Stalled | Paused | kstatus |
//! | --- | --- | --- | --- | --- | --- |
//! | spec is invalid | False `InvalidSpec` | False | True `InvalidSpec` | – | Failed |
//! | no pods | True `NoPods` | False | False | – | Current |
//! | type NotUpdate | True `NotUpdate` | False | False | – | Current |
//! | rolling out, in place or by eviction | False `RollingUpdate` | True `RollingUpdate` | False | False | InProgress |
//! | paused, pods behind | False `Paused` | True `Paused` | False | True | InProgress |
//! | a step waits for a person | False `WaitingForApproval` | True `WaitingForApproval` | False | False | InProgress |
//! | a step's timed pause | False `StepPause` | True `StepPause` | False | False | InProgress |
//! | no progress for `progressDeadlineSeconds` | False `ProgressDeadlineExceeded` | False | True `ProgressDeadlineExceeded` | False | Failed |
//! | aborted, action Pause | False `FailureBudgetExceeded` | False | True `FailureBudgetExceeded` | – | Failed |
//! | aborted, going back | False `RollingBack` | True `RollingBack` | False | – | InProgress |
//! | aborted, gone back | False `RolledBack` | False | True `RolledBack` | – | Failed |
//! | nothing is left to patch, some failed | False `PodsFailed` | False | True `PodsFailed` | False | Failed |
//! | updated, some pods not ready (at rest more than maxUnavailable) | False `PodsNotReady` | False | False | – | InProgress |
//! | partition reached | True `PartitionReached` | False | False | False | Current |
//! | the rest is outside `updateStrategy.selector` | True `SelectorReached` | False | False | False | Current |
//! | the rest cannot be patched, nor evicted | False `NotInPlace` | False | False | – | InProgress |
//! | the same, with `whenNotInPlace: Skip` in the spec | True `NotInPlace` | False | False | – | Current |
//! | everything updated and ready | True `UpToDate` | False | False | – | Current |

use super::message;
use crate::api::reasons::Reason;
use crate::core::rollout::budget::steps::Wait;
use crate::core::rollout::plan::summary::Summary;
use crate::core::rollout::target::Direction;
use crate::core::rollout::target::rollout::Rollout;
use crate::core::status::completion::is_held;
use crate::core::status::new_pods::changes_template;

/// The four conditions about the rollout, and the line that explains them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(super) ready: bool,
    pub(super) reconciling: bool,
    pub(super) stalled: bool,
    /// Reason of Ready, and of whichever of Reconciling and Stalled is True.
    pub(crate) reason: Reason,
    /// `status.message`.
    pub(crate) message: String,
}

impl Verdict {
    fn fine(reason: Reason, message: String) -> Self {
        Self { ready: true, reconciling: false, stalled: false, reason, message }
    }

    fn moving(reason: Reason, message: String) -> Self {
        Self { ready: false, reconciling: true, stalled: false, reason, message }
    }

    /// It waits for what the operator does not do.
    fn unready(reason: Reason, message: String) -> Self {
        Self { ready: false, reconciling: false, stalled: false, reason, message }
    }

    pub(super) fn stalled(reason: Reason, message: String) -> Self {
        Self { ready: false, reconciling: false, stalled: true, reason, message }
    }

    /// The rollout waits for a person or for a pause to end: the progress deadline does not run.
    pub(crate) fn waits(&self) -> bool {
        is_wait(self.reason)
    }
}

/// See [`Verdict::waits`].
pub(super) fn is_wait(reason: Reason) -> bool {
    [Reason::Paused, Reason::WaitingForApproval, Reason::StepPause].contains(&reason)
}

/// Decides the row of the table above, but for the first and the progress deadline.
pub(crate) fn verdict(rollout: &Rollout, summary: &Summary) -> Verdict {
    verdict_of(rollout, summary, rollout.target.is_rolling())
}

/// The same. `is_rolling`: the target is not stable, nor becomes so just now.
pub(super) fn verdict_of(rollout: &Rollout, summary: &Summary, is_rolling: bool) -> Verdict {
    let target = &rollout.target;
    let counts = &summary.counts;
    let line = message::progress(rollout, summary);
    let step_is_open = summary.gate.allowed.is_some() && summary.gate.wait.is_none() && counts.outdated > 0;
    let unfinished = summary.remaining > 0 || counts.undecided + summary.evicting > 0 || step_is_open;
    if counts.matched == 0 {
        return Verdict::fine(Reason::NoPods, "no pod carries these sidecars yet".to_owned());
    }
    if !target.strategy.enabled {
        let text = "running pods are left alone: updateStrategy.type is NotUpdate";
        return Verdict::fine(Reason::NotUpdate, format!("{line}; {text}"));
    }
    if summary.is_halted(&rollout.target) {
        let text = message::given_up(rollout, summary);
        if let Some(stable) = rollout.way_back.as_ref().filter(|_| target.direction == Direction::Forward) {
            return Verdict::moving(Reason::RollingBack, format!("{line}; going back to {stable}, {text}"));
        }
        return Verdict::stalled(Reason::FailureBudgetExceeded, format!("{line}; {text}"));
    }
    if target.strategy.paused && summary.remaining > 0 {
        let text = "paused: set updateStrategy.paused to false to go on";
        return Verdict::moving(Reason::Paused, format!("{line}; {text}"));
    }
    if target.direction == Direction::Back {
        return back(rollout, summary, unfinished);
    }
    let behind = counts.outdated + summary.evictable > 0 || (target.is_rolling() && changes_template(summary));
    if let Some(wait) = summary.gate.wait.as_ref().filter(|_| behind && !unfinished) {
        let text = message::step_waits(rollout, summary, wait);
        let reason = match wait {
            Wait::Approval => Reason::WaitingForApproval,
            Wait::Until(_) => Reason::StepPause,
        };
        return Verdict::moving(reason, format!("{line}; {text}"));
    }
    if unfinished {
        return Verdict::moving(Reason::RollingUpdate, format!("{line}{}", message::waits_for(summary)));
    }
    if counts.failed > 0 && is_rolling {
        let text = format!("{line}; {}; {}", message::failed(summary), message::way_out(rollout));
        return Verdict::stalled(Reason::PodsFailed, text);
    }
    let unready = not_ready(summary);
    let nothing_left = !is_rolling || is_held(rollout, summary);
    let is_tolerated = nothing_left && counts.slots == 0 && counts.not_ready <= summary.max_unavailable;
    match unready {
        Some(text) if !is_tolerated => Verdict::unready(Reason::PodsNotReady, format!("{line}{text}")),
        Some(text) if counts.not_ready > 0 => at_rest(rollout, summary, format!("{line}{text}")),
        _ => at_rest(rollout, summary, line),
    }
}

/// Updated pods that are not ready. Where nothing is left to be rolled out, as many as maxUnavailable may be so for reasons
/// of their own, and one that starts is no news.
fn not_ready(summary: &Summary) -> Option<String> {
    let counts = &summary.counts;
    let waiting = counts.updated.saturating_sub(counts.updated_ready);
    let text = || {
        let unready = message::unready(summary, waiting);
        format!("; {waiting} updated not ready{unready}{}", message::waits_for(summary))
    };
    (waiting > 0).then(text)
}

/// Everything is done that may be done.
fn at_rest(rollout: &Rollout, summary: &Summary, line: String) -> Verdict {
    let counts = &summary.counts;
    if counts.outdated + summary.evictable > 0 {
        let text = format!("updateStrategy.partition keeps {} on the old revision", summary.keep_old);
        return Verdict::fine(Reason::PartitionReached, format!("{line}; {text}"));
    }
    if counts.not_in_place > 0 {
        let text = format!("{line}{}", message::not_in_place(summary));
        // What the spec asks for is fine; otherwise somebody has to recreate these pods.
        let skips = rollout.target.strategy.skips;
        return if skips {
            Verdict::fine(Reason::NotInPlace, text)
        } else {
            Verdict::unready(Reason::NotInPlace, text)
        };
    }
    if counts.outside > 0 {
        let text = format!("{line}; {} are outside updateStrategy.selector", counts.outside);
        return Verdict::fine(Reason::SelectorReached, text);
    }
    Verdict::fine(Reason::UpToDate, line)
}

fn back(rollout: &Rollout, summary: &Summary, unfinished: bool) -> Verdict {
    let line = message::progress(rollout, summary);
    if unfinished {
        let text = format!("{line}{}; {}", message::waits_for(summary), message::given_up(rollout, summary));
        return Verdict::moving(Reason::RollingBack, text);
    }
    let rest = message::left_behind(rollout, summary);
    let text = format!("{line}{rest}; {}", message::given_up(rollout, summary));
    Verdict::stalled(Reason::RolledBack, text)
}

/// What was moving has not moved for `progressDeadlineSeconds`.
pub(super) fn overdue(verdict: Verdict, seconds: i32) -> Verdict {
    if !verdict.reconciling || verdict.waits() {
        return verdict;
    }
    let text = format!("{}; no progress for more than progressDeadlineSeconds ({seconds})", verdict.message);
    Verdict::stalled(Reason::ProgressDeadlineExceeded, text)
}
