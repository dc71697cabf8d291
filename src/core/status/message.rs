//! The line that says where a rollout stands, and what it waits for.

use crate::api::keys;
use crate::core::evict::words;
use crate::core::upgrade::course::Course;
use crate::core::upgrade::steps::Wait;
use crate::core::upgrade::{Mode, Summary};

pub(super) fn progress(course: &Course, summary: &Summary) -> String {
    let (rollout, counts) = (&course.rollout, &summary.counts);
    if rollout.mode == Mode::Back {
        return format!(
            "revision {} is given up: {} of {} pods are back on {}",
            course.update_revision, counts.updated, counts.matched, rollout.revision
        );
    }
    let (updated, matched, available) = (counts.updated, counts.matched, counts.updated_ready);
    let revision = &rollout.revision;
    let line = format!("revision {revision}: {updated} of {matched} pods updated, {available} available");
    let steps = rollout.strategy.steps.len();
    if steps == 0 || counts.outdated + summary.evictable == 0 {
        return line;
    }
    format!("{line}, {} of {steps} steps reached", summary.gate.reached)
}

/// Why the revision was given up, and how to go on.
pub(super) fn exceeded(course: &Course, summary: &Summary) -> String {
    let why = if summary.counts.failed > 0 {
        failed(summary)
    } else {
        "stopped by failed pods, which have recovered since".to_owned()
    };
    format!("{why}; {}", try_again(course))
}

pub(super) fn try_again(course: &Course) -> String {
    let revision = &course.update_revision;
    format!("apply a working image to go on, or try again with the annotation {}: {revision}/<n>", keys::RETRY)
}

pub(super) fn failed(summary: &Summary) -> String {
    let counts = &summary.counts;
    let pods = list(&summary.failed, counts.failed);
    format!("stopped by {} failed: {pods}; maxUnavailable is {}", counts.failed, summary.max_unavailable)
}

pub(super) fn step_waits(course: &Course, summary: &Summary, wait: &Wait) -> String {
    let (reached, revision) = (summary.gate.reached, &course.update_revision);
    match wait {
        Wait::Approval => {
            format!("step {reached} waits for approval: annotate with {}={revision}/{reached}", keys::APPROVE)
        }
        Wait::Until(until) => format!("step {reached} pauses until {until:.0}"),
    }
}

pub(super) fn waits_for(summary: &Summary) -> String {
    let counts = &summary.counts;
    if summary.slot_holders.is_empty() {
        return not_in_place(summary);
    }
    let holders = list(&summary.slot_holders, counts.slots);
    format!("; {} of {} unavailable: {holders}{}", counts.slots, summary.max_unavailable, not_in_place(summary))
}

pub(super) fn not_in_place(summary: &Summary) -> String {
    let reasons = summary.not_in_place.iter().map(|(obstacle, pods)| format!("{pods} ({})", obstacle.text));
    let reasons: Vec<String> = reasons.collect();
    if reasons.is_empty() {
        return evictions(summary);
    }
    let what =
        if summary.evictable + summary.evicting > 0 { "evicted in turn" } else { "new pods get the new revision" };
    format!("; cannot be updated in place, {what}: {}{}", reasons.join(", "), evictions(summary))
}

/// Where evictions stand, and who is never evicted.
fn evictions(summary: &Summary) -> String {
    let exempt = summary.exempt.iter().map(|(kind, pods)| format!("{kind} ({pods})"));
    let exempt: Vec<String> = exempt.collect();
    let parts = [summary.eviction_news.clone(), words::never(exempt.iter().map(String::as_str))];
    let parts: Vec<String> =
        parts.into_iter().filter(|part| !part.is_empty()).map(|part| format!("; {part}")).collect();
    parts.concat()
}

fn list(named: &[String], total: usize) -> String {
    let more = total.saturating_sub(named.len());
    let suffix = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{suffix}", named.join(", "))
}
