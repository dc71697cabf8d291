//! The line that says where a rollout stands, and what it waits for.

use crate::api::keys;
use crate::api::reasons::Reason;
use crate::core::base::percent::scaled;
use crate::core::replace::report::{listed, never};
use crate::core::rollout::budget::steps::StepWait;
use crate::core::rollout::plan::phase::phase;
use crate::core::rollout::plan::summary::Summary;
use crate::core::rollout::target::Direction;
use crate::core::rollout::target::rollout::Rollout;

/// Nodes named in a message; the rest is counted.
const NAMED_NODES: usize = 3;

/// Steps that are named ahead; the rest is counted.
const NAMED_STEPS: usize = 3;

/// `status.message` in this phase. `given`: hash of the revision that new pods get.
pub(super) fn message(rollout: &Rollout, summary: &Summary, given: &str, phase: Reason) -> String {
    let given = if given == rollout.update_revision { "the new revision" } else { given };
    let line = progress(rollout, summary);
    let told = match phase {
        Reason::NoPods => return "no pod carries these sidecars yet".to_owned(),
        Reason::NotUpdate => "; running pods are left alone: updateStrategy.type is NotUpdate".to_owned(),
        Reason::Paused => paused(summary, given),
        Reason::WaitingForApproval | Reason::StepPause => step_waits(rollout, summary),
        Reason::RollingUpdate | Reason::EvictionBlocked => waits_for(summary, given) + &awaited(summary),
        Reason::FailureBudgetExceeded => format!("; {}", given_up(rollout, summary)),
        Reason::RollingBack if rollout.target.direction == Direction::Forward => {
            let stable = rollout.way_back.as_deref().unwrap_or_default();
            format!("; going back to {stable}, {}", given_up(rollout, summary))
        }
        Reason::RollingBack => {
            format!("{}{}; {}", waits_for(summary, given), awaited(summary), given_up(rollout, summary))
        }
        Reason::RolledBack => format!("{}; {}", left_behind(summary, given), given_up(rollout, summary)),
        Reason::PodsFailed => format!("; {}; {}", failed(summary), way_out(rollout)),
        Reason::PodsNotReady => unready(summary) + &waits_for(summary, given),
        _ if summary.counts.not_ready > 0 => unready(summary) + &left_alone(summary, given, phase),
        _ => left_alone(summary, given, phase),
    };
    line + &told
}

/// Where the pause keeps no running pod from going, it is about new ones.
fn paused(summary: &Summary, given: &str) -> String {
    let new_pods = if summary.remaining > 0 { String::new() } else { format!("; new pods get {given}") };
    format!("; paused: set updateStrategy.paused to false to go on{new_pods}")
}

/// What is not updated, and may stay so.
fn left_alone(summary: &Summary, given: &str, phase: Reason) -> String {
    let rest = match phase {
        Reason::PartitionReached | Reason::NotInPlace => {
            kept_back(summary) + &not_started(summary) + &not_in_place(summary, given)
        }
        Reason::SelectorReached => format!("; {} are outside updateStrategy.selector", summary.counts.outside),
        _ => String::new(),
    };
    // Holders of slots are not named here.
    let failures = if summary.counts.failed > 0 { format!("; {}", failed(summary)) } else { String::new() };
    failures + &rest
}

fn kept_back(summary: &Summary) -> String {
    if summary.counts.outdated + summary.evictable == 0 {
        return String::new();
    }
    format!("; updateStrategy.partition keeps {} on the old revision", summary.keep_old)
}

/// Updated pods that are not ready.
fn unready(summary: &Summary) -> String {
    let waiting = summary.counts.updated.saturating_sub(summary.counts.updated_ready);
    let names_all = summary.counts.slots >= waiting || summary.unready.is_empty();
    // Those that hold a slot are named for that.
    let names = if names_all { String::new() } else { format!(": {}", listed(&summary.unready, waiting)) };
    format!("; {waiting} updated not ready{names}")
}

fn progress(rollout: &Rollout, summary: &Summary) -> String {
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
fn given_up(rollout: &Rollout, summary: &Summary) -> String {
    let because = rollout.aborted_because.clone().unwrap_or_else(|| failed(summary));
    format!("stopped by {because}; {}", way_out(rollout))
}

fn way_out(rollout: &Rollout) -> String {
    format!("apply a working image, or try again: annotate with {}={}", keys::RETRY, rollout.next_retry)
}

/// `2 failed: default/web-1 (agent: ImagePullBackOff), node n1 (pull of agent:v2: ErrImagePull)`.
pub(super) fn failed(summary: &Summary) -> String {
    let counts = &summary.counts;
    format!("{} failed: {}", counts.failed, listed(&summary.failed, counts.failed))
}

fn step_waits(rollout: &Rollout, summary: &Summary) -> String {
    let (reached, revision) = (summary.gate.reached, &rollout.update_revision);
    match &summary.gate.wait {
        Some(StepWait::Approval) => {
            let stray = rollout.stray_approval.as_ref().map(|value| format!(" (not {value:?}, which it has now)"));
            let stray = stray.unwrap_or_default();
            format!("; step {reached} waits for approval: annotate with {}={revision}/{reached}{stray}", keys::APPROVE)
        }
        Some(StepWait::Until(until)) => format!("; step {reached} pauses until {until:.0}"),
        None => String::new(),
    }
}

fn waits_for(summary: &Summary, given: &str) -> String {
    let more = [not_started, blocked, cap, failures, pulling];
    let rest = more.iter().map(|text| text(summary)).collect::<String>() + &not_in_place(summary, given);
    if summary.slot_holders.is_empty() {
        return rest;
    }
    let holders = listed(&summary.slot_holders, summary.slots);
    format!("; {} of {} unavailable: {holders}{rest}", summary.slots, summary.max_unavailable)
}

/// Pods that take no slot, and have their time to show whether they work.
fn awaited(summary: &Summary) -> String {
    // Those that fill the cap are named for that.
    match listed(&summary.awaited, summary.counts.awaited) {
        _ if !cap(summary).is_empty() => String::new(),
        pods if pods.is_empty() => pods,
        pods => format!("; waiting for {pods}"),
    }
}

/// Pods that partition and steps do not count before they start.
fn not_started(summary: &Summary) -> String {
    match summary.counts.not_started {
        pods if pods > 0 && summary.remaining == 0 => format!("; {pods} not started, and not counted yet"),
        _ => String::new(),
    }
}

/// Slots of maxUnavailable are free, and still nothing can be patched.
fn blocked(summary: &Summary) -> String {
    if summary.blocked_workloads == 0 {
        return String::new();
    }
    let workloads = listed(&summary.blocked, summary.blocked_workloads);
    format!("; maxUnavailablePerWorkload leaves no room in {workloads}")
}

/// The cap of pods that were not ready anyway is full.
fn cap(summary: &Summary) -> String {
    if summary.cap_holders.is_empty() || summary.capped < summary.max_unready {
        return String::new();
    }
    let (capped, holders) = (summary.capped, listed(&summary.cap_holders, summary.capped));
    format!("; {capped} of {} that were not ready before are in an update: {holders}", summary.max_unready)
}

/// Failed pods and nodes, where not all of them hold a slot and are named for that.
fn failures(summary: &Summary) -> String {
    let counts = &summary.counts;
    if counts.failed <= counts.failed_slots { String::new() } else { format!("; {}", failed(summary)) }
}

/// What did not come back to the stable revision, or came back and is not ready.
fn left_behind(summary: &Summary, given: &str) -> String {
    let counts = &summary.counts;
    let mut text = String::new();
    if counts.failed > 0 {
        text = format!("; {}", failed(summary));
    }
    if !summary.slot_holders.is_empty() {
        text = format!("{text}; not available: {}", listed(&summary.slot_holders, summary.slots));
    }
    text + &not_in_place(summary, given)
}

/// `; pulling agent:v2 on 3 nodes: n1, n2, n3; not pulled first on 1 node (exceeded quota: …)`
fn pulling(summary: &Summary) -> String {
    let nodes = |count: usize| format!("{count} node{}", if count == 1 { "" } else { "s" });
    let pulling = &summary.pulling;
    let mut text = String::new();
    if !pulling.nodes.is_empty() {
        let images: Vec<&str> = pulling.images.iter().map(String::as_str).collect();
        let first: Vec<String> = pulling.nodes.iter().take(NAMED_NODES).cloned().collect();
        let named = listed(&first, pulling.nodes.len());
        text = format!("; pulling {} on {}: {named}", images.join(", "), nodes(pulling.nodes.len()));
    }
    let skipped = pulling.skipped.iter().map(|(why, count)| format!("; not pulled first on {} ({why})", nodes(*count)));
    skipped.fold(text, |text, skipped| text + &skipped)
}

fn not_in_place(summary: &Summary, given: &str) -> String {
    let reasons = summary.not_in_place.iter().map(|(obstacle, pods)| format!("{pods} ({})", obstacle.text));
    let reasons: Vec<String> = reasons.collect();
    if reasons.is_empty() {
        return evictions(summary);
    }
    let exempt: usize = summary.exempt.iter().map(|(_, pods)| pods).sum();
    let what = match exempt {
        _ if summary.evictable + summary.evicting == 0 => format!("new pods get {given}"),
        0 => "evicted in turn".to_owned(),
        _ => format!("all but {exempt} evicted in turn"),
    };
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

/// Texts without the numbers that `status.message` begins with; empty where there is nothing to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Forecast {
    /// The revision was given up: why, where pods go instead, and how to try it again.
    pub(crate) given_up: String,
    /// How many steps are reached, how many pods the next ones let go, and what they wait for behind that.
    pub(crate) steps: String,
    /// What it waits for, or why it stands.
    pub(crate) waits_for: String,
}

/// `given`: hash of the revision that new pods will get.
pub(crate) fn forecast(rollout: &Rollout, summary: &Summary, given: &str) -> Forecast {
    let stopped = summary.is_halted(&rollout.target);
    Forecast {
        given_up: forecast_given_up(rollout, summary),
        steps: if stopped { String::new() } else { steps(rollout, summary) },
        waits_for: if stopped { String::new() } else { told(rollout, summary, given) },
    }
}

fn forecast_given_up(rollout: &Rollout, summary: &Summary) -> String {
    let target = &rollout.target;
    let instead = match target.direction {
        Direction::Back => format!(", and pods go back to {}", target.revision),
        Direction::Forward if !summary.exceeded => return String::new(),
        Direction::Forward | Direction::Halted => String::new(),
    };
    format!("revision {} is given up{instead}: {}", rollout.update_revision, given_up(rollout, summary))
}

/// `status.message` without the numbers that it begins with.
fn told(rollout: &Rollout, summary: &Summary, given: &str) -> String {
    let phase = phase(rollout, summary, given, rollout.target.is_rolling());
    let message = message(rollout, summary, given, phase);
    let line = progress(rollout, summary);
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
