use proptest::prelude::*;
use serde_json::json;

use crate::core::replace::report::EvictionReport;
use crate::core::replace::*;

const TIMEOUTS: EvictionTimeouts =
    EvictionTimeouts { min_ready: SignedDuration::from_secs(10), timeout: SignedDuration::from_secs(600) };

/// When an evicted pod was gone.
const GONE: Option<Timestamp> = Some(Timestamp::UNIX_EPOCH);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + seconds).unwrap()
}

/// A ready pod that was made at this second, and has no sidecars if it is `behind`.
fn pod(name: &str, created: i64, behind: bool) -> OwnedPod {
    OwnedPod {
        key: PodKey { namespace: "default".into(), name: name.into() },
        uid: format!("uid-{name}"),
        created: at(created),
        active: true,
        ready: true,
        ready_changed: None,
        behind: behind.then_some(EvictionCause::NoSidecars),
        held: false,
        counts: true,
        exempt: None,
        workload: Workload::default(),
    }
}

fn owner(kind: &str) -> Owner {
    Owner { api_version: "apps/v1".into(), kind: kind.into(), name: "web".into(), uid: "owner".into() }
}

/// `old`, made at second 0 and evicted at second 100.
fn evicted() -> Eviction {
    record(&pod("old", 0, true), &[], EvictionCause::NoSidecars, &owner("ReplicaSet"), "r1", at(100))
}

#[test]
fn pods_that_nobody_or_no_eviction_can_replace_are_exempt() {
    assert!(exempt(None, true).is_some());
    assert!(exempt(Some(&owner("Job")), true).is_some());
    assert!(exempt(Some(&owner("DaemonSet")), true).is_some());
    assert_eq!(exempt(Some(&owner("TaskRun")), false), Some("pods that are not restarted"));
    for kind in ["ReplicaSet", "StatefulSet", "ReplicationController", "CloneSet"] {
        assert_eq!(exempt(Some(&owner(kind)), true), None, "{kind}");
    }
}

#[test]
fn the_youngest_pod_without_sidecars_goes_first() {
    let pods = [pod("a", 1, true), pod("b", 3, true), pod("c", 2, true), pod("d", 9, false)];
    assert_eq!(next(&pods, |_| true, Some(4)), Next::Evict(&pods[1]));
}

#[test]
fn a_ready_pod_waits_until_its_owner_has_all_its_pods() {
    let mut pods = [pod("a", 1, true), pod("b", 2, true), pod("c", 0, false)];
    pods[2].ready = false;
    assert_eq!(next(&pods, |_| true, Some(3)), Next::Wait(EvictionCause::NoSidecars, Wait::Missing(2, 3)));
    assert_eq!(next(&pods, |_| true, None), Next::Evict(&pods[1]), "nobody knows how many there should be");
    pods[1].ready = false;
    assert_eq!(next(&pods, |_| true, Some(3)), Next::Evict(&pods[1]), "nobody misses it");
}

#[test]
fn pods_that_go_or_have_sidecars_are_not_evicted() {
    let mut going = pod("a", 1, true);
    going.active = false;
    assert_eq!(next(&[going, pod("b", 2, false)], |_| true, Some(1)), Next::Nothing);
}

#[test]
fn a_slot_is_held_until_the_owner_has_its_ready_pods_back() {
    let judged = |pods: &[OwnedPod], replicas, now| judge(&evicted(), pods, replicas, GONE, TIMEOUTS, at(now));
    let mut new = pod("new", 101, false);
    assert_eq!(
        judged(&[pod("old", 0, true), pod("b", 0, false)], Some(2), 101),
        EvictionVerdict::Open,
        "it is still there"
    );
    assert_eq!(judged(&[pod("b", 0, false)], Some(2), 101), EvictionVerdict::Open, "nothing in its place");
    new.ready = false;
    assert_eq!(judged(&[new.clone(), pod("b", 0, false)], Some(2), 101), EvictionVerdict::Open, "not ready");
    new.ready = true;
    assert_eq!(judged(&[new.clone(), pod("b", 0, false)], Some(2), 101), EvictionVerdict::Done);
    assert_eq!(judged(std::slice::from_ref(&new), None, 699), EvictionVerdict::Open, "an owner of another kind");
    assert_eq!(judged(&[new], None, 700), EvictionVerdict::Done);
    assert_eq!(judged(&[], Some(0), 101), EvictionVerdict::Done, "the owner is gone");
}

#[test]
fn a_pod_that_was_never_evicted_frees_its_slot_soon() {
    let judged = |pod: OwnedPod, now| judge(&evicted(), &[pod], Some(1), GONE, TIMEOUTS, at(now));
    assert_eq!(judged(pod("old", 0, true), 129), EvictionVerdict::Open, "the request may be under way");
    assert_eq!(judged(pod("old", 0, true), 130), EvictionVerdict::Done);
    assert_eq!(judged(OwnedPod { active: false, ..pod("old", 0, true) }, 130), EvictionVerdict::Open, "it is going");
}

#[test]
fn a_replacement_without_sidecars_makes_the_eviction_one_in_vain() {
    let judged = |pods: &[OwnedPod], now| judge(&evicted(), pods, Some(2), GONE, TIMEOUTS, at(now));
    let older = pod("older", -5, true);
    let twin = pod("twin", 0, true);
    assert_eq!(judged(&[pod("new", 101, true), older.clone()], 101), EvictionVerdict::InVain);
    assert_eq!(
        judged(&[pod("new", 101, false), older.clone()], 101),
        EvictionVerdict::Done,
        "others wait for their turn"
    );
    assert_eq!(
        judged(&[pod("new", 101, false), twin], 101),
        EvictionVerdict::Done,
        "one of the same second is no replacement"
    );
    assert_eq!(judged(&[pod("new", 101, true)], 700), EvictionVerdict::InVain, "also when it never gets ready");
}

#[test]
fn a_pod_that_is_not_ready_goes_before_a_younger_one() {
    let mut pods = [pod("a", 1, true), pod("b", 2, true)];
    pods[0].ready = false;
    assert_eq!(next(&pods, |_| true, Some(2)), Next::Evict(&pods[0]));
    let record = record(&pods[0], &pods, EvictionCause::NoSidecars, &owner("ReplicaSet"), "r1", at(100));
    let after = [pod("b", 2, true), pod("new", 101, false)];
    assert_eq!(judge(&record, &after, Some(2), GONE, TIMEOUTS, at(102)), EvictionVerdict::Done, "b is no replacement");
}

/// A pod whose change could not be made in place, evicted to get `r1`.
fn upgraded() -> Eviction {
    Eviction { cause: EvictionCause::NotInPlace, ..evicted() }
}

#[test]
fn a_replacement_of_an_upgrade_is_in_vain_if_it_is_uninjected_or_must_go_too() {
    let judged = |eviction: Eviction, behind| {
        let new = OwnedPod { behind, ..pod("new", 101, false) };
        judge(&eviction, &[new], Some(1), GONE, TIMEOUTS, at(102))
    };
    assert_eq!(judged(upgraded(), None), EvictionVerdict::Done);
    assert_eq!(judged(upgraded(), Some(EvictionCause::NotInPlace)), EvictionVerdict::InVain);
    assert_eq!(judged(upgraded(), Some(EvictionCause::NoSidecars)), EvictionVerdict::InVain);
    assert_eq!(judged(evicted(), Some(EvictionCause::NotInPlace)), EvictionVerdict::Done, "it has sidecars now");
}

#[test]
fn an_eviction_whose_owner_is_not_whole_keeps_its_slot_for_as_long_as_the_owner_exists() {
    let unready = |behind| OwnedPod { ready: false, ..pod("new", 101, behind) };
    for eviction in [upgraded(), evicted()] {
        let judged = |pods: &[OwnedPod], replicas| judge(&eviction, pods, replicas, GONE, TIMEOUTS, at(9999));
        assert_eq!(judged(&[], Some(1)), EvictionVerdict::Failed, "the owner makes none");
        assert_eq!(judged(&[pod("other", 0, false)], Some(2)), EvictionVerdict::Failed, "the same");
        assert_eq!(judged(&[unready(false)], Some(1)), EvictionVerdict::Failed);
        assert_eq!(judged(&[unready(true)], Some(1)), EvictionVerdict::Failed, "no better, and not ready");
        assert_eq!(judged(&[unready(false)], None), EvictionVerdict::Failed, "an owner of another kind");
        assert_eq!(judged(&[], Some(0)), EvictionVerdict::Done, "the owner is gone");
        assert_eq!(judged(&[pod("new", 101, false)], Some(2)), EvictionVerdict::Done, "its replacement is ready");
    }
}

#[test]
fn a_pod_that_takes_long_to_end_is_no_failed_eviction() {
    let going = OwnedPod { active: false, ..pod("old", 0, true) };
    assert_eq!(judge(&upgraded(), &[going], Some(1), None, TIMEOUTS, at(9999)), EvictionVerdict::Open);
    let judged = |now| judge(&upgraded(), &[], Some(1), Some(at(5000)), TIMEOUTS, at(now));
    assert_eq!((judged(5599), judged(5600)), (EvictionVerdict::Open, EvictionVerdict::Failed));
}

#[test]
fn pods_that_are_to_be_replaced_themselves_are_not_waited_for() {
    let broken = OwnedPod { ready: false, ..pod("broken", 0, true) };
    let siblings = [pod("new", 101, false), broken];
    assert_eq!(judge(&upgraded(), &siblings, Some(2), GONE, TIMEOUTS, at(110)), EvictionVerdict::Done);
    let late = OwnedPod { ready: false, ..pod("late", 0, false) };
    assert_eq!(
        judge(&upgraded(), &[pod("new", 101, false), late], Some(2), GONE, TIMEOUTS, at(110)),
        EvictionVerdict::Open
    );
}

#[test]
fn an_open_upgrade_to_an_old_revision_does_not_block_the_next() {
    let owner = owner("ReplicaSet");
    assert!(is_blocked(&[upgraded()], &owner, &["r1"]));
    assert!(!is_blocked(&[upgraded()], &owner, &["r2"]));
    assert_eq!(superseded(&[upgraded()], &owner), Some(&upgraded()));
    let failed = Eviction { failed: true, ..evicted() };
    assert!(is_blocked(std::slice::from_ref(&failed), &owner, &["r1"]));
    assert!(!is_blocked(&[failed], &owner, &["r2"]), "of a pod without sidecars, too");
    assert_eq!(superseded(&[Eviction { in_vain: true, ..upgraded() }], &owner), None);
}

#[test]
fn an_owner_is_left_alone_while_an_eviction_is_open_or_was_in_vain_for_this_revision() {
    let open = evicted();
    let in_vain = Eviction { in_vain: true, ..evicted() };
    assert!(is_blocked(std::slice::from_ref(&open), &owner("ReplicaSet"), &["r1"]));
    assert!(is_blocked(std::slice::from_ref(&open), &owner("ReplicaSet"), &["r2"]), "one at a time");
    assert!(is_blocked(std::slice::from_ref(&in_vain), &owner("ReplicaSet"), &["r1"]));
    assert!(!is_blocked(std::slice::from_ref(&in_vain), &owner("ReplicaSet"), &["r2"]), "another revision may help");
    let other = Owner { uid: "other".into(), ..owner("ReplicaSet") };
    assert!(!is_blocked(&[open, in_vain], &other, &["r1"]));
}

#[test]
fn a_record_survives_the_api() {
    let record = {
        let now = at(100) + SignedDuration::from_millis(7);
        record(&pod("old", 0, true), &[], EvictionCause::NotInPlace, &owner("ReplicaSet"), "r1", now)
    };
    assert_eq!(serde_json::from_value::<Eviction>(json!(record)).unwrap(), record);
    assert_eq!(super::owner(&record), owner("ReplicaSet"));
}

#[test]
fn a_report_says_what_moves_what_waits_and_what_was_in_vain() {
    let key = |name: &str| PodKey { namespace: "default".into(), name: name.into() };
    let mut report = EvictionReport::default();
    assert_eq!(report.to_string(), "");
    report.open.push((key("old"), None));
    assert_eq!(report.to_string(), "replacing default/old");
    report.waiting.push(("ReplicaSet default/x".into(), Wait::because("no budget".into())));
    report.waiting_owners = 1;
    report.in_vain.push("ReplicaSet default/web".into());
    assert_eq!(
        report.to_string(),
        "replacing default/old; waiting: ReplicaSet default/x (no budget); the replacements came without sidecars too, \
         left alone until the set changes: ReplicaSet default/web"
    );
    let open = vec![(key("old"), None); 5];
    let exempt = ["pods of Jobs"].into();
    let report = EvictionReport { open, exempt, hold: Some(report::Hold::UpdatesPaused), ..EvictionReport::default() };
    assert_eq!(
        report.to_string(),
        "replacing default/old, default/old, default/old and 2 more; waiting: updateStrategy.paused is true; \
         never evicted: pods of Jobs; restart them when it suits"
    );
}

#[test]
fn a_replacement_holds_the_slot_until_it_was_ready_for_a_while() {
    let ready_at = |second| OwnedPod { ready_changed: Some(at(second)), ..pod("new", 101, false) };
    let old = OwnedPod { ready_changed: Some(at(104)), ..pod("other", 0, false) };
    let judged = |pods: &[OwnedPod], now| judge(&evicted(), pods, Some(2), GONE, TIMEOUTS, at(now));
    assert_eq!(judged(&[old.clone(), ready_at(105)], 114), EvictionVerdict::Open);
    assert_eq!(judged(&[old.clone(), ready_at(105)], 115), EvictionVerdict::Done);
    assert_eq!(judged(&[old.clone(), ready_at(90)], 110), EvictionVerdict::Open, "by a clock that is behind");
    assert_eq!(judged(&[old, ready_at(90)], 111), EvictionVerdict::Done);
    let late = |now| {
        let new = OwnedPod { behind: None, ..ready_at(695) };
        judge(&upgraded(), &[new], Some(1), GONE, TIMEOUTS, at(now))
    };
    assert_eq!(late(700), EvictionVerdict::Failed, "a crash loop that is up for a moment");
    assert_eq!(late(705), EvictionVerdict::Done);
}

#[test]
fn a_replacement_that_needs_to_be_replaced_itself_is_waited_for() {
    let new = OwnedPod { ready: false, ..pod("new", 101, true) };
    assert_eq!(
        judge(&evicted(), &[pod("other", 0, false), new], Some(2), GONE, TIMEOUTS, at(110)),
        EvictionVerdict::Open
    );
}

#[test]
fn pods_that_come_after_a_ready_replacement_are_not_taken_for_it() {
    let scaled = OwnedPod { ready: false, ..pod("scaled", 200, false) };
    let pods = [pod("new", 101, false), scaled];
    assert_eq!(judge(&upgraded(), &pods, Some(2), GONE, TIMEOUTS, at(9999)), EvictionVerdict::Done);
    let pods = [pod("old", 0, true), pod("young", 50, false)];
    let record = record(&pods[0], &pods, EvictionCause::NotInPlace, &owner("ReplicaSet"), "r1", at(100));
    assert_eq!(record.pod_created.0, at(50), "nor are those that were there");
}

#[test]
fn an_open_eviction_says_what_its_owner_lacks() {
    let mut new = pod("new", 101, false);
    let other = pod("other", 0, false);
    let text = |pods: &[OwnedPod]| Lack::of(&evicted(), pods, Some(2)).to_string();
    assert_eq!(text(&[pod("old", 0, true), other.clone()]), "it is terminating");
    assert_eq!(text(std::slice::from_ref(&other)), "1 of 2 pods are ready");
    assert_eq!(text(&[other.clone(), new.clone()]), "its replacement default/new became ready");
    new.ready = false;
    assert_eq!(text(&[other, new]), "its replacement default/new is not ready");
}

proptest! {
    /// An owner that is whole gives up at most one ready pod, and one whose replacements stay behind gives up one in all.
    #[test]
    fn an_owner_whose_replacements_are_no_better_loses_one_pod(
        pods in prop::collection::vec((0i64..4, any::<bool>()), 1..6),
        upgrade in any::<bool>(),
    ) {
        let cause = if upgrade { EvictionCause::NotInPlace } else { EvictionCause::NoSidecars };
        let needing = |pod: OwnedPod| OwnedPod { behind: Some(cause), ..pod };
        let mut pods: Vec<OwnedPod> =
            pods.iter().enumerate().map(|(i, (age, ready))| {
                OwnedPod { ready: *ready, ..needing(pod(&format!("p{i}"), *age, true)) }
            }).collect();
        prop_assume!(matches!(next(&pods, |_| true, Some(pods.len())), Next::Evict(_)));
        for pod in &mut pods {
            pod.counts = pod.ready;
        }
        let (mut evictions, replicas) = (Vec::<Eviction>::new(), Some(pods.len()));
        let mut lost = 0;
        for round in 0..10 {
            let now = 100 + 10 * round;
            for eviction in &mut evictions {
                let verdict = judge(eviction, &pods, replicas, GONE, TIMEOUTS, at(now));
                eviction.in_vain |= verdict == EvictionVerdict::InVain;
                prop_assert_ne!(verdict, EvictionVerdict::Done);
            }
            // What is not ready gets ready in time.
            for pod in &mut pods {
                pod.ready = true;
            }
            if is_blocked(&evictions, &owner("ReplicaSet"), &["r1"]) {
                continue;
            }
            if let Next::Evict(chosen) = next(&pods, |_| true, replicas) {
                let chosen = chosen.clone();
                evictions.push(record(&chosen, &pods, cause, &owner("ReplicaSet"), "r1", at(now)));
                pods.retain(|pod| pod.uid != chosen.uid);
                pods.push(needing(pod(&format!("new-{round}"), now + 1, true)));
                lost += 1;
            }
        }
        prop_assert_eq!(lost, 1);
    }
}
