//! The line that says where a rollout stands, and what it waits for.

use crate::api::keys;
use crate::core::replace::report::never;
use crate::core::rollout::budget::steps::Wait;
use crate::core::rollout::plan::summary::Summary;
use crate::core::rollout::target::Direction;
use crate::core::rollout::target::rollout::Rollout;

/// Nodes named in a message; the rest is counted.
const NAMED_NODES: usize = 3;

pub(super) fn progress(rollout: &Rollout, summary: &Summary) -> String {
    let (target, counts) = (&rollout.target, &summary.counts);
    if target.direction == Direction::Back {
        return format!(
            "revision {} is given up: {} of {} pods are back on {}, {} available",
            rollout.update_revision, counts.updated, counts.matched, target.revision, counts.updated_ready
        );
    }
    let (updated, matched, available) = (counts.updated, counts.matched, counts.updated_ready);
    let revision = &target.revision;
    let line = format!("revision {revision}: {updated} of {matched} pods updated, {available} available");
    let steps = target.strategy.steps.len();
    if steps == 0 || counts.outdated + summary.evictable == 0 {
        return line;
    }
    format!("{line}, {} of {steps} steps reached", summary.gate.reached)
}

/// Why the revision was given up, and how to go on.
pub(super) fn given_up(rollout: &Rollout, summary: &Summary) -> String {
    let because = rollout.aborted_because.clone().unwrap_or_else(|| failed(summary));
    format!("stopped by {because}; {}", way_out(rollout))
}

/// What to do about failed pods.
pub(super) fn way_out(rollout: &Rollout) -> String {
    format!("apply a working image, or try again: annotate with {}={}", keys::RETRY, rollout.next_retry)
}

/// `2 failed: default/web-1 (agent: ImagePullBackOff), node n1 (pull of agent:v2: ErrImagePull)`.
pub(super) fn failed(summary: &Summary) -> String {
    let counts = &summary.counts;
    format!("{} failed: {}", counts.failed, list(&summary.failed, counts.failed))
}

pub(super) fn step_waits(rollout: &Rollout, summary: &Summary, wait: &Wait) -> String {
    let (reached, revision) = (summary.gate.reached, &rollout.update_revision);
    match wait {
        Wait::Approval => {
            let stray = rollout.stray_approval.as_ref().map(|value| format!(" (not {value:?}, which it has now)"));
            let stray = stray.unwrap_or_default();
            format!("step {reached} waits for approval: annotate with {}={revision}/{reached}{stray}", keys::APPROVE)
        }
        Wait::Until(until) => format!("step {reached} pauses until {until:.0}"),
    }
}

pub(super) fn waits_for(summary: &Summary) -> String {
    let counts = &summary.counts;
    let rest = format!("{}{}{}{}", blocked(summary), failures(summary), pulling(summary), not_in_place(summary));
    if summary.slot_holders.is_empty() {
        return rest;
    }
    let holders = list(&summary.slot_holders, counts.slots);
    format!("; {} of {} unavailable: {holders}{rest}", counts.slots, summary.max_unavailable)
}

/// Slots of maxUnavailable are free, and still nothing can be patched.
fn blocked(summary: &Summary) -> String {
    if summary.blocked_workloads == 0 || summary.remaining == 0 || summary.movable {
        return String::new();
    }
    let workloads = list(&summary.blocked, summary.blocked_workloads);
    format!("; maxUnavailablePerWorkload leaves no room in {workloads}")
}

/// Failed pods and nodes, where not all of them hold a slot and are named for that.
fn failures(summary: &Summary) -> String {
    let counts = &summary.counts;
    if counts.failed <= counts.failed_slots { String::new() } else { format!("; {}", failed(summary)) }
}

/// `: default/web-1, default/web-2 and 3 more`, where they do not hold a slot and are named for that.
pub(super) fn unready(summary: &Summary, total: usize) -> String {
    let names_all = summary.counts.slots >= total || summary.unready.is_empty();
    if names_all { String::new() } else { format!(": {}", list(&summary.unready, total)) }
}

/// What did not come back to the stable revision, or came back and is not ready.
pub(super) fn left_behind(rollout: &Rollout, summary: &Summary) -> String {
    let counts = &summary.counts;
    let mut text = String::new();
    if counts.failed > 0 {
        text = format!("; {}", failed(summary));
    }
    if !summary.slot_holders.is_empty() {
        text = format!("{text}; not available: {}", list(&summary.slot_holders, counts.slots));
    }
    text + &not_in_place_for(summary, &rollout.target.revision)
}

/// `; pulling agent:v2 on 3 nodes: n1, n2, n3; not pulled first on 1 node (exceeded quota: …)`
fn pulling(summary: &Summary) -> String {
    let nodes = |count: usize| format!("{count} node{}", if count == 1 { "" } else { "s" });
    let pulling = &summary.pulling;
    let mut text = String::new();
    if !pulling.nodes.is_empty() {
        let images: Vec<&str> = pulling.images.iter().map(String::as_str).collect();
        let first: Vec<String> = pulling.nodes.iter().take(NAMED_NODES).cloned().collect();
        let named = list(&first, pulling.nodes.len());
        text = format!("; pulling {} on {}: {named}", images.join(", "), nodes(pulling.nodes.len()));
    }
    let skipped = pulling.skipped.iter().map(|(why, count)| format!("; not pulled first on {} ({why})", nodes(*count)));
    skipped.fold(text, |text, skipped| text + &skipped)
}

pub(super) fn not_in_place(summary: &Summary) -> String {
    not_in_place_for(summary, "the new revision")
}

/// `revision`: what new pods get.
fn not_in_place_for(summary: &Summary, revision: &str) -> String {
    let reasons = summary.not_in_place.iter().map(|(obstacle, pods)| format!("{pods} ({})", obstacle.text));
    let reasons: Vec<String> = reasons.collect();
    if reasons.is_empty() {
        return evictions(summary);
    }
    let evicts = summary.evictable + summary.evicting > 0;
    let what = if evicts { "evicted in turn".to_owned() } else { format!("new pods get {revision}") };
    format!("; cannot be updated in place, {what}: {}{}", reasons.join(", "), evictions(summary))
}

/// Where evictions stand, and who is never evicted.
fn evictions(summary: &Summary) -> String {
    let exempt = summary.exempt.iter().map(|(kind, pods)| format!("{kind} ({pods})"));
    let exempt: Vec<String> = exempt.collect();
    let news = Some(summary.evictions.to_string()).filter(|news| !news.is_empty());
    let parts = news.into_iter().chain(never(exempt.iter().map(String::as_str)));
    parts.fold(String::new(), |text, part| format!("{text}; {part}"))
}

fn list(named: &[String], total: usize) -> String {
    let more = total.saturating_sub(named.len());
    let suffix = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{suffix}", named.join(", "))
}
