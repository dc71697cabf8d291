//! What the status says about new pods, and about those that came without the sidecars.

use crate::api::SidecarSet;
use crate::api::reasons::Reason;
use crate::api::v1beta1::{ExistingPods, FailedCreate, FailurePolicy};
use crate::core::inject::failed_creates::listed;
use crate::core::replace::report::{self, EvictionReport, NAMED};
use crate::core::replace::uninjected::{Found, wants};

/// Whether the webhook serves a set, and why not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InjectionState {
    /// True if pods created now get the sidecars.
    pub ready: bool,
    /// Reason of the condition.
    pub reason: Reason,
    /// Message of the condition.
    pub message: String,
    /// Hash of the revision that `injectionStrategy.revision` names.
    pub pinned: Option<String>,
    /// What this set and others on the same pods both want.
    pub conflicts: Vec<String>,
    /// `status.failedCreateOwners`.
    pub failed_create_owners: Option<i32>,
    /// Which owners those are, and why; empty if there are none.
    pub failed_creates_message: String,
    /// `status.uninjectedPods`; `None` if nobody looks for them.
    pub uninjected: Option<i32>,
    /// Which pods those are, and what becomes of them; empty if there are none. Added to the messages.
    pub uninjected_message: String,
}

/// What is known about the injection of a set.
#[derive(Clone, Debug, Default)]
pub(crate) struct InjectionFacts<'a> {
    /// Why no pod may have the sidecars.
    pub(crate) problems: Option<&'a str>,
    /// Why that could not be asked.
    pub(crate) unchecked: Option<&'a str>,
    /// Hash of the revision that `injectionStrategy.revision` names, or why there is none.
    pub(crate) pinned: Option<Result<&'a str, &'a str>>,
    /// The webhook gets requests for what the set selects now.
    pub(crate) is_registered: bool,
    pub(crate) conflicts: Vec<String>,
    /// Pods without the sidecars; `None` before the first look.
    pub(crate) uninjected: Option<&'a Found>,
    /// Where evictions of these stand.
    pub(crate) evictions: EvictionReport,
}

/// Words what is known.
pub(crate) fn injection_state(set: &SidecarSet, facts: InjectionFacts<'_>) -> InjectionState {
    let failed = listed(set);
    let (ready, reason, mut message) = match (facts.problems, facts.pinned) {
        (Some(problems), _) => (false, Reason::InvalidSpec, format!("no pod gets the sidecars: {problems}")),
        _ if set.spec.injection_strategy.paused => {
            (false, Reason::InjectionPaused, "injectionStrategy.paused is true".to_owned())
        }
        (None, Some(Err(problem))) => (false, Reason::RevisionNotFound, problem.to_owned()),
        _ if facts.is_registered && !failed.is_empty() => {
            (false, Reason::PodsNotCreated, failed_creates_message(set, failed))
        }
        _ if facts.is_registered => (true, Reason::Registered, "new pods get the sidecars".to_owned()),
        _ => {
            let message = "the webhook configuration does not contain this generation yet";
            (false, Reason::NotRegistered, message.to_owned())
        }
    };
    if let Some(why) = facts.unchecked {
        message = format!("{message}; the API server has not checked them: {why}");
    }
    let (uninjected, uninjected_message) = match facts.uninjected {
        _ if !wants(set) => (None, String::new()),
        Some(found) => (Some(super::number(found.pods)), uninjected_message(set, found, &facts.evictions.to_string())),
        // Not looked yet: the last number stands.
        None => (set.status.as_ref().and_then(|status| status.uninjected_pods), String::new()),
    };
    InjectionState {
        ready,
        reason,
        message,
        pinned: facts.pinned.and_then(Result::ok).map(str::to_owned),
        conflicts: facts.conflicts,
        failed_create_owners: (!failed.is_empty()).then_some(super::number(failed.len())),
        failed_creates_message: failed_creates_message(set, failed),
        uninjected,
        uninjected_message,
    }
}

fn failed_creates_message(set: &SidecarSet, failed: &[FailedCreate]) -> String {
    let Some(last) = failed.last() else { return String::new() };
    let named: Vec<String> = failed.iter().rev().take(NAMED).map(named).collect();
    let effect = match set.spec.injection_strategy.failure_policy {
        FailurePolicy::Ignore => "and are created without, until the owner's template or the set changes",
        FailurePolicy::Fail => "and are not created",
    };
    format!(
        "pods of these owners cannot have the sidecars, {effect}: {}; the last because {}",
        report::listed(&named, failed.len()),
        last.message
    )
}

/// `ReplicaSet default/web-5d`.
fn named(FailedCreate { namespace, owner, .. }: &FailedCreate) -> String {
    match owner {
        Some(owner) => format!("{} {namespace}/{}", owner.kind, owner.name),
        None => format!("all in namespace {namespace}"),
    }
}

fn uninjected_message(set: &SidecarSet, found: &Found, evictions: &str) -> String {
    let advice = match set.spec.injection_strategy.existing_pods {
        ExistingPods::Report if found.pods > 0 => {
            "restart their workloads, or set injectionStrategy.existingPods to Evict"
        }
        _ => "",
    };
    let summary = found.summary();
    let parts = [summary.as_str(), evictions, advice];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::rollout::testing::set;

    fn facts() -> InjectionFacts<'static> {
        InjectionFacts { is_registered: true, ..InjectionFacts::default() }
    }

    #[test]
    fn the_first_thing_in_the_way_of_injection_is_the_reason() {
        let mut set = set("v1", json!({}));
        let reason = |set: &SidecarSet, facts| injection_state(set, facts).reason;
        assert_eq!(reason(&set, facts()), Reason::Registered);
        assert_eq!(reason(&set, InjectionFacts { is_registered: false, ..facts() }), Reason::NotRegistered);
        let unknown = InjectionFacts { pinned: Some(Err("no revision v9")), ..facts() };
        assert_eq!(reason(&set, unknown.clone()), Reason::RevisionNotFound);
        set.spec.injection_strategy.paused = true;
        assert_eq!(reason(&set, unknown.clone()), Reason::InjectionPaused);
        assert_eq!(reason(&set, InjectionFacts { problems: Some("wrong"), ..unknown }), Reason::InvalidSpec);
    }

    #[test]
    fn before_the_first_look_the_last_number_of_uninjected_pods_stands() {
        let mut set = set("v1", json!({}));
        set.spec.injection_strategy.existing_pods = ExistingPods::Report;
        set.status = Some(serde_json::from_value(json!({"uninjectedPods": 3})).unwrap());
        assert_eq!(injection_state(&set, facts()).uninjected, Some(3));
        let found = Found::default();
        let state = injection_state(&set, InjectionFacts { uninjected: Some(&found), ..facts() });
        assert_eq!((state.uninjected, state.uninjected_message.as_str()), (Some(0), ""));
    }

    #[test]
    fn who_reports_uninjected_pods_says_what_to_do_about_them() {
        let mut set = set("v1", json!({}));
        set.spec.injection_strategy.existing_pods = ExistingPods::Report;
        let found = Found { pods: 2, ..Found::default() };
        let message = |set: &SidecarSet| {
            let evictions = EvictionReport { exempt: ["pods of Jobs"].into(), ..EvictionReport::default() };
            let facts = InjectionFacts { uninjected: Some(&found), evictions, ..facts() };
            injection_state(set, facts).uninjected_message
        };
        assert!(
            message(&set)
                .ends_with("; never evicted: pods of Jobs; restart them when it suits; restart their workloads, or set injectionStrategy.existingPods to Evict")
        );
        set.spec.injection_strategy.existing_pods = ExistingPods::Evict;
        assert!(message(&set).ends_with("; never evicted: pods of Jobs; restart them when it suits"));
        set.spec.injection_strategy.existing_pods = ExistingPods::Ignore;
        assert_eq!(message(&set), "");
    }
}
