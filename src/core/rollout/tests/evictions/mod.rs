//! Pods whose change cannot be made in place, and that are evicted for it.

use serde_json::{Value, json};

use crate::api::SidecarSetStatus;
use crate::api::v1beta1::{Eviction, EvictionCause};
use crate::core::pod::{Owner, PodKey};
use crate::core::replace;
use crate::core::replace::OwnedPod;
use crate::core::revision::Change;
use crate::core::rollout::plan::evict::input::{Facts, owned_pods, quota};
use crate::core::rollout::plan::summary::Summary;
use crate::core::rollout::state::index::Index;
use crate::core::rollout::target::Target;
use crate::core::rollout::target::rollout::PersistedProgress;
use crate::core::rollout::testing;
use crate::core::rollout::testing::{Plan, SET, TestPod, at, hash, planned, target};
use crate::core::rollout::tests::evictions::task::Task;
use crate::core::rollout::tests::{Fleet, verdict};
use crate::core::status::completion::Completion;
use crate::core::status::new_pods::injection_revision;

mod properties;
mod steps;
mod task;

fn owner(name: &str) -> Owner {
    let (api_version, kind) = ("apps/v1".to_owned(), "ReplicaSet".to_owned());
    Owner { api_version, kind, name: name.to_owned(), uid: format!("uid-{name}") }
}

/// An eviction of a pod that is not in any fleet, for a revision that is not rolled out.
pub fn open() -> Eviction {
    let pod = OwnedPod::new(&owned("gone", "ReplicaSet", "other").view(), Some(EvictionCause::NoSidecars));
    replace::record(&pod, &[], EvictionCause::NoSidecars, &owner("other"), "r", at(0))
}

fn owned(name: &str, kind: &str, owner: &str) -> TestPod {
    TestPod::new(name).with(|pod| {
        pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": kind, "name": owner,
            "uid": format!("uid-{owner}"), "controller": true}]);
    })
}

/// To `v2`, which pods come to from `v1` only by being made anew, and from `v3` in place.
fn env_change(strategy: &Value) -> Target {
    let mut strategy = strategy.clone();
    strategy["whenNotInPlace"] = json!("Evict");
    let mut target = target("v2", strategy);
    target.changes.insert(hash("v1"), Change::NotInPlace("containers[agent].env changed".into()));
    target.stable = Some(hash("v1"));
    target
}

fn plan(fleet: &mut Fleet, strategy: &Value, evictions: &[Eviction]) -> Plan {
    fleet.index.configure(env_change(strategy), at(fleet.now));
    let persisted = PersistedProgress { evictions: evictions.to_vec(), ..PersistedProgress::default() };
    planned(&mut fleet.index, SET, &persisted, at(fleet.now), usize::MAX)
}

fn rollout(strategy: &Value) -> crate::core::rollout::target::rollout::Rollout {
    crate::core::rollout::target::rollout::Rollout { target: env_change(strategy), ..testing::rollout("v2", json!({})) }
}

/// The pods of an owner, as far as the index knows them.
fn pods_of(fleet: &Fleet, owner: &Owner) -> Vec<OwnedPod> {
    let task = Task::new(&json!({}));
    owned_pods(&fleet.index, &task.input(&hash("v2"), at(fleet.now)), &Facts::default(), "default", owner)
}

fn upgrades(fleet: &Fleet) -> usize {
    quota(&fleet.index, SET, 0, at(fleet.now)).unwrap().upgrades
}

fn reason(fleet: &mut Fleet, strategy: &Value) -> &'static str {
    let summary = plan(fleet, strategy, &[]).summary;
    verdict(&rollout(strategy), &summary).reason.as_str()
}

/// A pod of `v2` that an owner made at second 1, and that is not ready.
fn replacement(owner: &str) -> TestPod {
    owned("new", "ReplicaSet", owner).with(|pod| {
        pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!(hash("v2"));
        pod["metadata"]["creationTimestamp"] = json!(at(1).to_string());
        pod["spec"]["containers"][0]["image"] = json!("v2");
        pod["status"]["conditions"][0]["status"] = json!("False");
    })
}

#[test]
fn a_replacement_that_does_not_become_ready_counts_as_failed() {
    let mut fleet = Fleet::new([owned("a", "ReplicaSet", "web"), owned("b", "ReplicaSet", "web")]);
    plan(&mut fleet, &json!({}), &[]);
    let pods = pods_of(&fleet, &owner("web"));
    let evicted = replace::record(&pods[0], &pods, EvictionCause::NotInPlace, &owner("web"), &hash("v2"), at(0));
    let new = replacement("web");
    fleet.pods.insert(new.view().key, new);
    fleet.delete(&["a".to_owned()]);
    fleet.now = 601;
    fleet.observe();
    let failed = Eviction { failed: true, ..evicted };
    fleet.index.set_evictions(SET, std::slice::from_ref(&failed));
    let summary = plan(&mut fleet, &json!({}), &[failed]).summary;
    assert!(summary.exceeded, "as a failed update in place would");
    assert_eq!(
        (summary.counts.failed, summary.failed),
        (1, vec!["default/a (its replacement is not ready)".to_owned()])
    );
}

#[test]
fn an_eviction_whose_owner_makes_no_pod_counts_as_failed_and_as_moved() {
    let strategy = json!({"steps": [{"replicas": 1}], "maxUnavailable": 2, "failurePolicy": {"action": "Ignore"}});
    for cause in [EvictionCause::NotInPlace, EvictionCause::NoSidecars] {
        let mut fleet = Fleet::new([owned("a", "ReplicaSet", "web"), owned("b", "ReplicaSet", "other")]);
        plan(&mut fleet, &json!({}), &[]);
        let pods = pods_of(&fleet, &owner("web"));
        let evicted = replace::record(&pods[0], &pods, cause, &owner("web"), &hash("v2"), at(0));
        fleet.delete(&["a".to_owned()]);
        let failed = Eviction { failed: true, ..evicted };
        let summary = plan(&mut fleet, &json!({}), std::slice::from_ref(&failed)).summary;
        let names = vec!["default/a (it has no ready replacement)".to_owned()];
        assert_eq!((summary.counts.failed, summary.exceeded, summary.failed), (1, true, names), "{cause:?}");
        plan(&mut fleet, &strategy, std::slice::from_ref(&failed));
        assert_eq!(upgrades(&fleet), usize::from(cause == EvictionCause::NoSidecars), "the step is used up");
    }
}

/// A bad revision must not take more pods because another one follows it.
#[test]
fn an_eviction_for_an_old_revision_keeps_its_slot_and_is_no_failure_of_the_next() {
    let mut fleet = Fleet::new([owned("a", "ReplicaSet", "web"), owned("b", "ReplicaSet", "other")]);
    plan(&mut fleet, &json!({}), &[]);
    let pods = pods_of(&fleet, &owner("web"));
    let evicted = replace::record(&pods[0], &pods, EvictionCause::NotInPlace, &owner("web"), &hash("v3"), at(0));
    fleet.delete(&["a".to_owned()]);
    let failed = Eviction { failed: true, ..evicted };
    let summary = plan(&mut fleet, &json!({}), &[failed]).summary;
    assert_eq!((summary.counts.failed, summary.exceeded), (0, false));
    let text = verdict(&rollout(&json!({})), &summary).message;
    assert!(text.contains("; 1 of 1 unavailable: default/a (evicted, no ready replacement)"), "{text}");
    assert_eq!(quota(&fleet.index, SET, 0, at(0)).unwrap().slots, 0);
}

/// It is counted once, and its eviction's slot with it, without a wait for the timeout.
#[test]
fn a_replacement_that_is_born_broken_stops_the_rollout_at_once() {
    let mut fleet = Fleet::new((0..30).map(|i| owned(&format!("a{i}"), "ReplicaSet", &format!("web-{i}"))));
    plan(&mut fleet, &json!({}), &[]);
    let pods = pods_of(&fleet, &owner("web-0"));
    let evicted = replace::record(&pods[0], &pods, EvictionCause::NotInPlace, &owner("web-0"), &hash("v2"), at(0));
    let new = replacement("web-0").with(|pod| {
        pod["status"]["containerStatuses"][0]["state"] = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        pod["status"]["containerStatuses"][0]["restartCount"] = json!(1);
        pod["status"]["containerStatuses"][0]["ready"] = json!(false);
    });
    fleet.pods.insert(new.view().key, new);
    fleet.delete(&["a0".to_owned()]);
    fleet.now = 2;
    fleet.observe();
    let summary = plan(&mut fleet, &json!({}), std::slice::from_ref(&evicted)).summary;
    assert_eq!((summary.counts.failed, summary.exceeded), (1, true));
    assert_eq!(summary.failed, ["default/new (agent: CrashLoopBackOff)"]);
    let later = plan(&mut fleet, &json!({}), &[Eviction { failed: true, ..evicted }]).summary;
    assert_eq!((later.counts.failed, later.failed.len()), (1, 1));
}

#[test]
fn pods_that_must_be_made_anew_wait_with_their_owners() {
    let mut fleet =
        Fleet::new([owned("a", "ReplicaSet", "web"), owned("b", "ReplicaSet", "web"), TestPod::new("bare")]);
    let summary = plan(&mut fleet, &json!({}), &[]).summary;
    assert_eq!((summary.counts.not_in_place, summary.evictable, summary.remaining), (3, 2, 2));
    assert_eq!(summary.exempt, [("pods without a controller", 1)]);
    let owners: Vec<_> = fleet.index.set(SET).unwrap().evictable.values().collect();
    assert_eq!((owners.len(), &*owners[0].owner, owners[0].cheap), (1, &owner("web"), 0), "both pods are ready");
    let verdict = verdict(&rollout(&json!({})), &summary);
    assert_eq!(verdict.reason.as_str(), "RollingUpdate");
    let text =
        "all but 1 evicted in turn: 3 (containers[agent].env changed); never evicted: pods without a controller (1)";
    assert!(verdict.message.contains(text), "{}", verdict.message);
}

#[test]
fn pods_that_nobody_or_no_eviction_can_replace_are_left_as_they_are() {
    let task = owned("c", "TaskRun", "nightly").with(|pod| pod["spec"]["restartPolicy"] = json!("Never"));
    let mut fleet = Fleet::new([owned("a", "DaemonSet", "every"), owned("b", "Job", "once"), task]);
    let summary = plan(&mut fleet, &json!({}), &[]).summary;
    assert_eq!(summary.exempt, [("pods of DaemonSets", 1), ("pods of Jobs", 1), ("pods that are not restarted", 1)]);
    assert_eq!((summary.evictable, summary.remaining), (0, 0));
    let verdict = verdict(&rollout(&json!({})), &summary);
    assert_eq!(verdict.reason.as_str(), "NotInPlace");
    let never = "never evicted: pods of DaemonSets (1), pods of Jobs (1), pods that are not restarted (1)";
    assert!(verdict.message.contains(never), "{}", verdict.message);
}

#[test]
fn nothing_is_evicted_while_the_rollout_stands() {
    for strategy in [json!({"paused": true}), json!({"type": "NotUpdate"})] {
        let mut fleet = Fleet::new([owned("a", "ReplicaSet", "web")]);
        plan(&mut fleet, &strategy, &[]);
        assert_eq!(upgrades(&fleet), 0, "{strategy}");
    }
    let mut fleet = Fleet::new([owned("a", "ReplicaSet", "web")]);
    let mut stopped = env_change(&json!({}));
    stopped.direction = crate::core::rollout::target::Direction::Halted;
    fleet.index.configure(stopped, at(0));
    planned(&mut fleet.index, SET, &PersistedProgress::default(), at(0), 9);
    assert_eq!(upgrades(&fleet), 0, "aborted");
}

#[test]
fn on_the_way_back_pods_are_evicted_whatever_partition_says_and_new_ones_get_the_stable_revision() {
    let strategy = json!({"partition": "100%"});
    let back = || Target { stable: Some(hash("v2")), ..env_change(&strategy) }.going_back();
    let mut fleet = Fleet::new([owned("a", "ReplicaSet", "web"), owned("b", "ReplicaSet", "other")]);
    fleet.index.configure(back(), at(0));
    let summary = planned(&mut fleet.index, SET, &PersistedProgress::default(), at(0), 9).summary;
    assert_eq!((summary.evictable, upgrades(&fleet)), (2, 2));
    let rollout =
        crate::core::rollout::target::rollout::Rollout { target: back(), ..testing::rollout("v1", json!({})) };
    let set = testing::set("v1", strategy);
    let given = injection_revision(
        &set,
        &rollout,
        &summary,
        Some(&hash("v2")),
        Some(&hash("v1")),
        &begun(&rollout, &summary),
        None,
    );
    assert_eq!(given, hash("v2"));
}

#[test]
fn pods_outside_the_selector_are_not_evicted_and_keep_the_rollout_open() {
    let strategy = json!({"selector": {"matchLabels": {"canary": "yes"}}});
    let mut fleet = Fleet::new([owned("a", "ReplicaSet", "web")]);
    let summary = plan(&mut fleet, &strategy, &[]).summary;
    assert_eq!((summary.evictable, summary.counts.outside, upgrades(&fleet)), (0, 1, 0));
}

#[test]
fn partition_holds_for_patches_and_evictions_together() {
    let mut fleet = Fleet::new((0..4).map(|i| owned(&format!("a{i}"), "ReplicaSet", &format!("web-{i}"))));
    let strategy = json!({"partition": 3, "maxUnavailable": 4});
    plan(&mut fleet, &strategy, &[]);
    assert_eq!(upgrades(&fleet), 1);
    let summary = plan(&mut fleet, &json!({"partition": 4}), &[]).summary;
    assert_eq!((upgrades(&fleet), summary.evictable), (0, 4));
    assert_eq!(reason(&mut fleet, &json!({"partition": 4})), "PartitionReached");
}

#[test]
fn a_slot_is_taken_once_by_a_plan_or_by_an_eviction() {
    let patchable = owned("b", "ReplicaSet", "other")
        .with(|pod| pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!(hash("v3")));
    let mut fleet = Fleet::new([owned("a", "ReplicaSet", "web"), patchable]);
    assert_eq!(plan(&mut fleet, &json!({}), &[]).patches.len(), 1);
    let mut task = Task::new(&json!({}));
    assert_eq!(task.next(&mut fleet), None, "the patch may be on its way");

    // The plan after the answers, none of which was a yes.
    planned(&mut fleet.index, SET, &PersistedProgress::default(), at(0), 0);
    assert_eq!(task.next(&mut fleet).map(|chosen| chosen.pod.name), Some("a".to_owned()));
    assert_eq!(Task::new(&json!({})).next(&mut fleet), None, "there was one");
    assert_eq!(plan(&mut fleet, &json!({}), &[]).patches, [], "the record may not be in the status yet");
    fleet.index.set_evictions(SET, &[]);
    assert_eq!(plan(&mut fleet, &json!({}), &[]).patches.len(), 1);
}

#[test]
fn while_a_pod_is_replaced_new_pods_get_the_newest_and_then_what_the_share_allows() {
    let strategy = json!({"partition": 1});
    let mut fleet = Fleet::new([owned("a", "ReplicaSet", "web"), owned("b", "ReplicaSet", "web")]);
    let pods = pods_after_plan(&mut fleet, &strategy);
    let record = replace::record(&pods[1], &pods, EvictionCause::NotInPlace, &owner("web"), &hash("v2"), at(0));
    assert_eq!(given(&mut fleet, &strategy, &[]), hash("v2"), "the share is not full");
    let key = pods[1].key.clone();
    fleet.pods.remove(&key);
    fleet.index.remove(&key, &pods[1].uid, at(0));
    assert_eq!(
        given(&mut fleet, &strategy, std::slice::from_ref(&record)),
        hash("v2"),
        "full, but for the pod to come"
    );
    assert_eq!(given(&mut fleet, &strategy, &[]), hash("v1"));
    let in_vain = Eviction { in_vain: true, ..record };
    let summary = plan(&mut fleet, &json!({}), &[in_vain]).summary;
    assert_eq!((summary.evictable, summary.evicting), (0, 0), "what is left alone is waited for no more");
}

fn pods_after_plan(fleet: &mut Fleet, strategy: &Value) -> Vec<OwnedPod> {
    plan(fleet, strategy, &[]);
    pods_of(fleet, &owner("web"))
}

/// As far as a rollout has come that has just begun.
fn begun(rollout: &crate::core::rollout::target::rollout::Rollout, summary: &Summary) -> Completion {
    Completion::of(&SidecarSetStatus::default(), rollout, summary, at(0))
}

/// What the leader publishes for new pods.
fn given(fleet: &mut Fleet, strategy: &Value, evictions: &[Eviction]) -> String {
    let summary = plan(fleet, strategy, evictions).summary;
    let set = testing::set("v2", json!({}));
    let rollout = rollout(strategy);
    injection_revision(&set, &rollout, &summary, Some(&hash("v1")), None, &begun(&rollout, &summary), None)
}
