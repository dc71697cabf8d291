//! What a rollout is about to do, in the words of the status: for who asks before a set is applied.

use super::{message, verdict};
use crate::core::base::percent::scaled;
use crate::core::rollout::plan::summary::Summary;
use crate::core::rollout::target::Direction;
use crate::core::rollout::target::rollout::Rollout;

/// Steps that are named ahead; the rest is counted.
const NAMED_STEPS: usize = 3;

/// Texts without the numbers that `status.message` begins with; empty where there is nothing to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outlook {
    /// The revision was given up: why, where pods go instead, and how to try it again.
    pub(crate) given_up: String,
    /// How many steps are reached, how many pods the next ones let go, and what they wait for behind that.
    pub(crate) steps: String,
    /// What it waits for, or why it stands.
    pub(crate) waits_for: String,
}

/// See [`Outlook`]. `summary` is that of a plan of this rollout.
pub(crate) fn outlook(rollout: &Rollout, summary: &Summary) -> Outlook {
    let stopped = summary.is_halted(&rollout.target);
    Outlook {
        given_up: given_up(rollout, summary),
        steps: if stopped { String::new() } else { steps(rollout, summary) },
        waits_for: if stopped { String::new() } else { waits_for(rollout, summary) },
    }
}

fn given_up(rollout: &Rollout, summary: &Summary) -> String {
    let target = &rollout.target;
    let instead = match target.direction {
        Direction::Back => format!(", and pods go back to {}", target.revision),
        Direction::Forward if !summary.exceeded => return String::new(),
        Direction::Forward | Direction::Halted => String::new(),
    };
    format!("revision {} is given up{instead}: {}", rollout.update_revision, message::given_up(rollout, summary))
}

fn waits_for(rollout: &Rollout, summary: &Summary) -> String {
    let message = verdict(rollout, summary).message;
    let line = message::progress(rollout, summary);
    message.strip_prefix(&line).unwrap_or(&message).trim_start_matches("; ").to_owned()
}

/// `0 of 2 reached; step 1 lets 1 of 10 pods go, then waits for approval; step 2 lets 5 go; then the rest follows`.
fn steps(rollout: &Rollout, summary: &Summary) -> String {
    let (all, gate) = (&rollout.target.strategy.steps, &summary.gate);
    if all.is_empty() {
        return String::new();
    }
    let selected = summary.counts.selected;
    let ahead = all.iter().enumerate().skip(gate.reached).take(NAMED_STEPS).map(|(i, step)| {
        let of_all = if i == gate.reached { format!(" of {selected} pods") } else { String::new() };
        let pause = match step.pause.as_ref().map(|pause| pause.duration_seconds) {
            Some(_) if rollout.persisted.approved > i => ", and is approved".to_owned(),
            Some(None) => ", then waits for approval".to_owned(),
            Some(Some(seconds)) => format!(", then pauses {seconds} s"),
            None => String::new(),
        };
        format!("; step {} lets {}{of_all} go{pause}", i + 1, scaled(&step.replicas, selected).min(selected))
    });
    let ahead: String = ahead.collect();
    let more = match all.len().saturating_sub(gate.reached + NAMED_STEPS) {
        0 => String::new(),
        more => format!("; {more} more steps"),
    };
    format!("{} of {} reached{ahead}{more}; then the rest follows", gate.reached, all.len())
}
