//! What a rollout is about to do, in the words of the status: for who asks before a set is applied.

use super::{message, verdict};
use crate::core::base::percent::scaled;
use crate::core::rollout::plan::summary::Summary;
use crate::core::rollout::target::Direction;
use crate::core::rollout::target::direction::Course;

/// Steps that are named ahead; the rest is counted.
const NAMED_STEPS: usize = 3;

/// Texts without the numbers that `status.message` begins with; empty where there is nothing to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// The revision was given up: why, where pods go instead, and how to try it again.
    pub given_up: String,
    /// How many steps are reached, how many pods the next ones let go, and what they wait for behind that.
    pub steps: String,
    /// What it waits for, or why it stands.
    pub waits_for: String,
}

/// See [`Outlook`]. `summary` is that of a plan of this course.
pub fn outlook(course: &Course, summary: &Summary) -> Outlook {
    let stopped = summary.is_halted(&course.rollout);
    Outlook {
        given_up: given_up(course, summary),
        steps: if stopped { String::new() } else { steps(course, summary) },
        waits_for: if stopped { String::new() } else { waits_for(course, summary) },
    }
}

fn given_up(course: &Course, summary: &Summary) -> String {
    let rollout = &course.rollout;
    let instead = match rollout.direction {
        Direction::Back => format!(", and pods go back to {}", rollout.revision),
        Direction::Forward if !summary.exceeded => return String::new(),
        Direction::Forward | Direction::Halted => String::new(),
    };
    format!("revision {} is given up{instead}: {}", course.update_revision, message::given_up(course, summary))
}

fn waits_for(course: &Course, summary: &Summary) -> String {
    let message = verdict(course, summary).message;
    let line = message::progress(course, summary);
    message.strip_prefix(&line).unwrap_or(&message).trim_start_matches("; ").to_owned()
}

/// `0 of 2 reached; step 1 lets 1 of 10 pods go, then waits for approval; step 2 lets 5 go; then the rest follows`.
fn steps(course: &Course, summary: &Summary) -> String {
    let (all, gate) = (&course.rollout.strategy.steps, &summary.gate);
    if all.is_empty() {
        return String::new();
    }
    let selected = summary.counts.selected;
    let ahead = all.iter().enumerate().skip(gate.reached).take(NAMED_STEPS).map(|(i, step)| {
        let of_all = if i == gate.reached { format!(" of {selected} pods") } else { String::new() };
        let pause = match step.pause.as_ref().map(|pause| pause.duration_seconds) {
            Some(_) if course.remembered.approved > i => ", and is approved".to_owned(),
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
