//! What one step decides.

use crate::api::reasons::Reason;
use crate::core::replace::report::Wait;
use crate::core::rollout::plan::evict::memory::EvictionMemory;
use crate::core::rollout::plan::evict::reports;
use crate::core::rollout::tests::evictions::*;

/// A pod without sidecars, and not in the index.
fn uninjected(name: &str, kind: &str, owner: &str) -> TestPod {
    owned(name, kind, owner).with(|pod| {
        pod["metadata"]["labels"] = json!({"app": "web"});
        pod["metadata"].as_object_mut().unwrap().remove("annotations");
    })
}

fn name(chosen: Option<crate::core::rollout::plan::evict::Chosen>) -> Option<String> {
    chosen.map(|chosen| chosen.pod.name)
}

fn said(task: &Task, fleet: &Fleet, cause: EvictionCause) -> String {
    let reports = reports(&task.input(&hash("v2"), at(fleet.now)), &task.memory);
    reports[usize::from(cause == EvictionCause::NotInPlace)].to_string()
}

#[test]
fn open_evictions_of_injected_pods_need_no_list() {
    let pods = (0..4).map(|i| owned(&format!("a{i}"), "ReplicaSet", &format!("web-{i}")));
    let strategy = json!({"maxUnavailable": 4});
    let mut fleet = Fleet::new(pods);
    plan(&mut fleet, &strategy, &[]);
    let mut task = Task::new(&strategy);
    task.replicas = (0..4).map(|i| (format!("web-{i}"), 1)).collect();
    for i in 0..4 {
        assert!(task.next(&mut fleet).is_some(), "{i}");
    }
    assert_eq!(task.next(&mut fleet), None);
    assert_eq!(task.lists, 0);
    fleet.delete(&["a0".to_owned(), "a1".to_owned()]);
    task.next(&mut fleet);
    assert_eq!(task.lists, 1, "it may show uninjected replacements: one for all owners of a namespace");
}

#[test]
fn a_pause_stops_the_next_eviction() {
    let pods: Vec<_> = (0..3).map(|i| uninjected(&format!("a{i}"), "ReplicaSet", &format!("web-{i}"))).collect();
    for pause in ["updates", "injection"] {
        let mut fleet = Fleet::new([]);
        let strategy = json!({"maxUnavailable": 3});
        plan(&mut fleet, &strategy, &[]);
        let mut task = Task::new(&strategy).with_uninjected(&pods);
        assert!(task.next(&mut fleet).is_some());
        match pause {
            "updates" => task.set.spec.update_strategy.paused = true,
            _ => task.set.spec.injection_strategy.paused = true,
        }
        assert_eq!(task.next(&mut fleet), None, "{pause}");
        task.set.spec.update_strategy.paused = false;
        task.set.spec.injection_strategy.paused = false;
        assert!(task.next(&mut fleet).is_some());
    }
}

#[test]
fn a_pod_that_is_not_restarted_is_never_chosen_and_named_by_its_kind() {
    let task_pod = uninjected("a", "TaskRun", "nightly").with(|pod| pod["spec"]["restartPolicy"] = json!("OnFailure"));
    let mut fleet = Fleet::new([]);
    plan(&mut fleet, &json!({}), &[]);
    let mut task = Task::new(&json!({})).with_uninjected(&[task_pod]);
    assert_eq!(task.next(&mut fleet), None);
    let never = "never evicted: pods that are not restarted; restart them when it suits";
    assert_eq!(said(&task, &fleet, EvictionCause::NoSidecars), never);
}

#[test]
fn a_pod_whose_owner_cannot_create_another_one_is_never_chosen() {
    for cause in [EvictionCause::NoSidecars, EvictionCause::NotInPlace] {
        let (injected, bare) = (owned("a", "ReplicaSet", "web"), uninjected("a", "ReplicaSet", "web"));
        let mut fleet = if cause == EvictionCause::NotInPlace { Fleet::new([injected]) } else { Fleet::new([]) };
        plan(&mut fleet, &json!({}), &[]);
        let task = || {
            let task = Task::new(&json!({}));
            if cause == EvictionCause::NoSidecars { task.with_uninjected(std::slice::from_ref(&bare)) } else { task }
        };
        let mut blamed = task().with_failed_create("web", &hash("v2"));
        let mut failing = task();
        failing.failing.push("web".to_owned());
        for (task, why) in [(&mut blamed, "no"), (&mut failing, "exceeded quota")] {
            assert_eq!(name(task.next(&mut fleet)), None, "{cause:?}");
            let waiting = format!("waiting: ReplicaSet default/web (it cannot create pods: {why})");
            assert_eq!(said(task, &fleet, cause), waiting);
        }
        let mut other = task().with_failed_create("web", &hash("v1"));
        assert_eq!(name(other.next(&mut fleet)), Some("a".to_owned()), "that was another revision");
    }
}

/// Case 4 of the rollout that goes on although owners can make no pods.
#[test]
fn evictions_stop_at_max_unavailable_when_owners_make_no_pods() {
    for cause in [EvictionCause::NoSidecars, EvictionCause::NotInPlace] {
        let names: Vec<String> = (0..4).map(|i| format!("web-{i}")).collect();
        let injected = names.iter().map(|name| owned(name, "ReplicaSet", name));
        let bare: Vec<_> = names.iter().map(|name| uninjected(name, "ReplicaSet", name)).collect();
        let mut fleet = if cause == EvictionCause::NotInPlace { Fleet::new(injected) } else { Fleet::new([]) };
        let strategy = json!({"failurePolicy": {"action": "Ignore"}});
        plan(&mut fleet, &strategy, &[]);
        let mut task = Task::new(&strategy);
        if cause == EvictionCause::NoSidecars {
            task = task.with_uninjected(&bare);
        }
        task.replicas = names.iter().map(|name| (name.clone(), 1)).collect();
        let evicted = task.next(&mut fleet).unwrap().pod;
        if cause == EvictionCause::NotInPlace {
            fleet.delete(std::slice::from_ref(&evicted.name));
        } else {
            task = task.without_pod(&evicted);
        }
        for _ in 0..3 {
            assert_eq!(task.next(&mut fleet), None, "{cause:?}");
            fleet.now += 601;
            let records = task.memory.records.clone();
            plan(&mut fleet, &strategy, &records);
        }
        assert!(task.memory.records[0].failed);
        // Its owner is gone: nobody waits for pods of it.
        task.replicas.insert(evicted.name, 0);
        assert!(task.next(&mut fleet).is_some(), "{cause:?}");
    }
}

#[test]
fn an_eviction_that_is_over_gives_its_slot_to_the_next_before_another_plan() {
    let pods = ["web-0", "web-1"].map(|name| uninjected(name, "ReplicaSet", name));
    let mut fleet = Fleet::new([]);
    plan(&mut fleet, &json!({}), &[]);
    let mut task = Task::new(&json!({})).with_uninjected(&pods);
    task.replicas = [("web-0".to_owned(), 0), ("web-1".to_owned(), 1)].into();
    let evicted = task.next(&mut fleet).unwrap().pod;
    let records = task.memory.records.clone();
    plan(&mut fleet, &json!({}), &records);
    let mut task = task.without_pod(&evicted);
    assert_eq!(name(task.next(&mut fleet)).as_deref(), Some("web-1"));
    assert_eq!(said(&task, &fleet, EvictionCause::NoSidecars), "replacing default/web-1");
}

#[test]
fn a_failed_eviction_is_taken_over_by_the_next_revision() {
    let mut fleet = Fleet::new([owned("a", "ReplicaSet", "web"), owned("b", "ReplicaSet", "other")]);
    plan(&mut fleet, &json!({}), &[]);
    let pods = pods_of(&fleet, &owner("web"));
    let old = replace::record(&pods[0], &pods, EvictionCause::NotInPlace, &owner("web"), &hash("v3"), at(0));
    let broken = owned("new", "ReplicaSet", "web").with(|pod| {
        pod["metadata"]["creationTimestamp"] = json!(at(1).to_string());
        pod["status"]["conditions"][0]["status"] = json!("False");
    });
    fleet.pods.insert(broken.view().key, broken);
    fleet.delete(&["a".to_owned()]);
    fleet.observe();
    let failed = Eviction { failed: true, ..old };
    plan(&mut fleet, &json!({}), std::slice::from_ref(&failed));
    let mut task = Task::new(&json!({}));
    task.memory.records = vec![failed.clone()];
    let chosen = task.next(&mut fleet).unwrap();
    assert_eq!((chosen.pod.name.as_str(), chosen.supersedes), ("new", Some(failed)));
    assert!(!chosen.record.unready, "it holds the slot that the failed one held");
    assert_eq!(task.next(&mut fleet), None, "the other owner waits for it");
}

#[test]
fn an_eviction_of_an_unknown_kind_of_owner_without_pods_ends_with_the_next_revision() {
    let next = |revision: &str| {
        let mut fleet = Fleet::new([owned("a", "CloneSet", "web"), owned("b", "CloneSet", "other")]);
        plan(&mut fleet, &json!({}), &[]);
        let pods = pods_of(&fleet, &Owner { kind: "CloneSet".into(), ..owner("web") });
        let owner = Owner { kind: "CloneSet".into(), ..owner("web") };
        let failed = replace::record(&pods[0], &pods, EvictionCause::NotInPlace, &owner, &hash(revision), at(-700));
        fleet.delete(&["a".to_owned()]);
        let mut task = Task::new(&json!({}));
        task.memory.records = vec![Eviction { failed: true, ..failed }];
        let records = task.memory.records.clone();
        plan(&mut fleet, &json!({"failurePolicy": {"action": "Ignore"}}), &records);
        task.next(&mut fleet);
        fleet.now = 601;
        task.next(&mut fleet);
        let records = task.memory.records.clone();
        plan(&mut fleet, &json!({"failurePolicy": {"action": "Ignore"}}), &records);
        name(task.next(&mut fleet))
    };
    assert_eq!(next("v2"), None, "nobody knows whether it makes one yet");
    assert_eq!(next("v3").as_deref(), Some("b"));
}

fn per_workload() -> Value {
    json!({"maxUnavailable": "100%", "maxUnavailablePerWorkload": 1})
}

fn patchable(name: &str, owner: &str) -> TestPod {
    owned(name, "StatefulSet", owner)
        .with(|pod| pod["metadata"]["labels"]["revision.sidecarset.dev/logs"] = json!(hash("v3")))
}

#[test]
fn an_open_eviction_takes_the_room_of_its_workload_until_the_owner_has_its_pods_back() {
    let old = uninjected("db-0", "StatefulSet", "db");
    let mut fleet = Fleet::new([patchable("db-1", "db"), patchable("db-2", "db")]);
    fleet.index.configure(env_change(&per_workload()), at(0));
    planned(&mut fleet.index, SET, &PersistedProgress::default(), at(0), 0);
    let mut task = Task::new(&per_workload()).with_uninjected(std::slice::from_ref(&old));
    task.replicas = [("db".to_owned(), 3)].into();
    assert_eq!(name(task.next(&mut fleet)).as_deref(), Some("db-0"));
    let records = task.memory.records.clone();
    let waits = plan(&mut fleet, &per_workload(), &records);
    assert_eq!(waits.patches, [], "db-0 is away");
    assert_eq!(waits.summary.blocked, ["StatefulSet default/db (1 of 1 unavailable)"]);
    let text = verdict(&rollout(&per_workload()), &waits.summary).message;
    assert!(text.contains("; maxUnavailablePerWorkload leaves no room in StatefulSet default/db"), "{text}");

    // Its successor is there: counted once, while it is not ready.
    let new = replacement("db").with(|pod| pod["metadata"]["ownerReferences"][0]["kind"] = json!("StatefulSet"));
    let key = new.view().key;
    fleet.pods.insert(key.clone(), new);
    fleet.observe();
    assert_eq!(plan(&mut fleet, &per_workload(), &records).patches, []);
    fleet.now = 20;
    fleet.pods.get_mut(&key).unwrap().ready(true, at(2));
    fleet.observe();
    let mut task = task.without_pod(&old.view().key);
    task.next(&mut fleet);
    assert_eq!(task.memory.records, []);
    assert_eq!(plan(&mut fleet, &per_workload(), &[]).patches.len(), 1);
}

#[test]
fn an_update_in_its_hold_time_keeps_a_sibling_from_being_evicted() {
    let mut fleet = Fleet::new([patchable("db-1", "db"), owned("db-2", "StatefulSet", "db")]);
    let first = plan(&mut fleet, &per_workload(), &[]);
    assert_eq!(first.patches.len(), 1);
    let mut task = Task::new(&per_workload());
    task.replicas = [("db".to_owned(), 2)].into();
    assert_eq!(task.next(&mut fleet), None, "its request may be on its way");
    let sent = fleet.send(&first);
    fleet.kubelets(&sent);
    fleet.now = 1;
    plan(&mut fleet, &per_workload(), &[]);
    assert_eq!(task.next(&mut fleet), None, "it is in its hold time");
    fleet.now = 6;
    assert!(said(&task, &fleet, EvictionCause::NotInPlace).contains("maxUnavailablePerWorkload leaves no room"));
    plan(&mut fleet, &per_workload(), &[]);
    assert_eq!(name(task.next(&mut fleet)).as_deref(), Some("db-2"));
}

#[test]
fn each_owner_is_asked_in_turn_however_many_there_are_and_then_it_is_said_that_budgets_block() {
    const OWNERS: usize = 150;
    let pods = (0..OWNERS).map(|i| owned(&format!("a{i}"), "ReplicaSet", &format!("web-{i}")));
    let mut fleet = Fleet::new(pods);
    let mut task = Task::new(&json!({}));
    // As many as one of 1,500 owners with the limit of the controller: none is remembered for so long as that takes.
    task.limit = 2;
    task.replicas = (0..OWNERS).map(|i| (format!("web-{i}"), 1)).collect();
    let mut asked = std::collections::BTreeSet::new();
    let reason = |fleet: &mut Fleet, task: &Task| {
        let mut summary = plan(fleet, &json!({}), &[]).summary;
        let [_, upgrades] = reports(&task.input(&hash("v2"), at(fleet.now)), &task.memory);
        summary.evictions = upgrades;
        verdict(&rollout(&json!({})), &summary).reason
    };
    plan(&mut fleet, &json!({}), &[]);
    while asked.len() < OWNERS {
        assert_eq!(reason(&mut fleet, &task), Reason::RollingUpdate, "after {} owners", asked.len());
        asked.extend(task.blocked_round(&mut fleet));
        fleet.now += 2;
        assert!(fleet.now <= 2 * i64::try_from(OWNERS).unwrap(), "some have no turn");
    }
    for _ in 0..60 {
        assert_eq!(reason(&mut fleet, &task), Reason::EvictionBlocked);
        assert_ne!(task.blocked_round(&mut fleet), [""; 0], "they are asked again");
        fleet.now += 2;
    }
    let text = said(&task, &fleet, EvictionCause::NotInPlace);
    assert!(text.ends_with(&format!(" and {} more", OWNERS - 3)), "{text}");
    // One that is gone is not waited for.
    fleet.delete(&["a7".to_owned()]);
    plan(&mut fleet, &json!({}), &[]);
    task.blocked_round(&mut fleet);
    let text = said(&task, &fleet, EvictionCause::NotInPlace);
    assert!(text.ends_with(&format!(" and {} more", OWNERS - 4)), "{text}");
}

#[test]
fn an_owner_that_a_budget_holds_up_is_named_before_others() {
    let mut memory = EvictionMemory::default();
    let waits = [("a", Wait::Missing(1, 2)), ("b", Wait::Missing(1, 2)), ("c", Wait::Missing(1, 2))];
    for (name, why) in waits.into_iter().chain([("z", Wait::Budget("no budget".into()))]) {
        memory.wait(EvictionCause::NotInPlace, "default", &owner(name), why, at(0));
    }
    let text = memory.report(EvictionCause::NotInPlace).to_string();
    assert!(text.starts_with("waiting: ReplicaSet default/z (no budget), ReplicaSet default/a ("), "{text}");
    assert!(text.ends_with(" and 1 more"), "{text}");
}

#[test]
fn an_upgrade_that_uses_up_max_unavailable_is_named_to_those_who_wait_for_it() {
    let mut fleet = Fleet::new([patchable("db-1", "db"), patchable("db-2", "db")]);
    let first = plan(&mut fleet, &json!({}), &[]);
    let mut task = Task::new(&json!({})).with_uninjected(&[uninjected("a", "ReplicaSet", "web")]);
    assert_eq!(task.next(&mut fleet), None);
    let expected = "waiting: updateStrategy.maxUnavailable is used up by default/db-1 (updating)";
    assert_eq!(said(&task, &fleet, EvictionCause::NoSidecars), expected, "its request is on its way");
    fleet.send(&first);
    plan(&mut fleet, &json!({}), &[]);
    assert_eq!(task.next(&mut fleet), None);
    assert_eq!(said(&task, &fleet, EvictionCause::NoSidecars), expected);
}

#[test]
fn a_share_for_evictions_is_of_the_pods_that_run_and_of_those_without_sidecars() {
    let pending = |name: &str| {
        owned(name, "ReplicaSet", name).with(|pod| {
            pod["spec"].as_object_mut().unwrap().remove("nodeName");
            pod["status"] = json!({"phase": "Pending"});
        })
    };
    let running = (0..4).map(|i| owned(&format!("a{i}"), "ReplicaSet", &format!("web-{i}")));
    let mut fleet = Fleet::new(running.chain((0..20).map(|i| pending(&format!("p{i}")))));
    plan(&mut fleet, &json!({"maxUnavailable": "50%"}), &[]);
    let slots = |uninjected: usize| quota(&fleet.index, SET, uninjected, at(0)).unwrap().slots;
    assert_eq!((slots(0), slots(4)), (2, 4));
}
