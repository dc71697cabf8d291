//! Which pods are assessed again when something beside them changes.

use serde_json::json;

use crate::api::selector::Selector;
use crate::core::rollout::tests::*;

/// Pods of a set with a native sidecar, on nodes of their own.
fn native(name: &str, node: &str) -> TestPod {
    TestPod::new(name).with(|pod| {
        pod["spec"]["nodeName"] = json!(node);
        pod["spec"]["initContainers"] = json!([{"name": "init", "image": "init", "restartPolicy": "Always"}]);
    })
}

fn assessed(fleet: &mut Fleet, change: impl FnOnce(&mut Index) -> Vec<String>) -> (Vec<String>, u64) {
    let before = fleet.index.assessments();
    let sets = change(&mut fleet.index);
    fleet.index.advance(SET, at(0));
    (sets, fleet.index.assessments() - before)
}

fn of_team_a() -> Target {
    let selector = serde_json::from_value(json!({"matchLabels": {"team": "a"}})).unwrap();
    Target { namespace_selector: Some(Selector::parse(&selector).unwrap()), ..target("v2", json!({})) }
}

#[test]
fn a_node_concerns_its_own_pods_with_init_containers() {
    let mut fleet = Fleet::new([native("a", "n"), native("b", "other"), TestPod::new("c")]);
    fleet.index.configure(target("v2", json!({})), at(0));
    assert_eq!(assessed(&mut fleet, |index| index.set_node("n", None)), (vec![SET.to_owned()], 1));
    assert_eq!(assessed(&mut fleet, |index| index.set_node("n", Some(true))), (vec![SET.to_owned()], 1));
    assert_eq!(assessed(&mut fleet, |index| index.set_node("n", Some(true))), (vec![], 0), "as it was");
    assert_eq!(assessed(&mut fleet, |index| index.set_node("new", Some(true))), (vec![], 0), "no pods");
}

#[test]
fn a_pod_that_came_to_another_node_is_concerned_by_that_one() {
    let mut fleet = Fleet::new([native("a", "n")]);
    fleet.index.configure(target("v2", json!({})), at(0));
    fleet.pods.values_mut().for_each(|pod| pod.edit(|pod| pod["spec"]["nodeName"] = json!("m")));
    fleet.observe();
    assert_eq!(assessed(&mut fleet, |index| index.set_node("n", None)), (vec![], 0));
    assert_eq!(assessed(&mut fleet, |index| index.set_node("m", Some(true))), (vec![SET.to_owned()], 1));
}

#[test]
fn a_namespace_concerns_its_own_pods_if_the_set_selects_it_otherwise_now() {
    let elsewhere = TestPod::new("b").with(|pod| pod["metadata"]["namespace"] = json!("elsewhere"));
    let mut fleet = Fleet::new([TestPod::new("a"), elsewhere]);
    fleet.index.configure(of_team_a(), at(0));
    let key = TestPod::new("a").view().key;
    let labels =
        |team: &str, other: &str| Some([("team", team), ("other", other)].map(|(k, v)| (k.into(), v.into())).into());
    assert_eq!(
        assessed(&mut fleet, |index| index.set_namespace("default", labels("a", ""))),
        (vec![SET.to_owned()], 1)
    );
    assert_eq!(assessed(&mut fleet, |index| index.set_namespace("default", labels("a", "x"))), (vec![], 0));
    assert_eq!(fleet.index.state(SET, &key), Some(&PodState::Outdated));
    assert_eq!(assessed(&mut fleet, |index| index.set_namespace("default", None)), (vec![SET.to_owned()], 1));
    assert_eq!(fleet.index.state(SET, &key), None);
}

#[test]
fn limits_of_all_pods_together_concern_no_single_pod() {
    let limits = [
        json!({"paused": true}),
        json!({"type": "NotUpdate"}),
        json!({"partition": 1}),
        json!({"maxUnavailable": "50%"}),
        json!({"steps": [{"replicas": 1}]}),
        json!({"progressDeadlineSeconds": 7}),
        json!({"failurePolicy": {"maxFailed": 2, "action": "Rollback"}}),
    ];
    let mut fleet = Fleet::of(3);
    fleet.plan("v2", &json!({}));
    for strategy in limits {
        let before = fleet.index.assessments();
        let plan = fleet.plan("v2", &strategy);
        assert_eq!(fleet.index.assessments(), before, "{strategy}");
        assert_eq!(plan, fleet.recounted().plan("v2", &strategy), "{strategy}");
    }
}

#[test]
fn what_a_strategy_says_of_single_pods_concerns_all_of_the_set() {
    let mut fleet = Fleet::of(3);
    for strategy in [
        json!({}),
        json!({"minReadySeconds": 7}),
        json!({"minReadySeconds": 7, "prePull": true}),
        json!({"podUpdateTimeoutSeconds": 7}),
        json!({"selector": {"matchLabels": {"tier": "test"}}}),
        json!({"maxUnavailablePerWorkload": 1}),
        json!({"whenNotInPlace": "Evict"}),
        json!({"scatterStrategy": [{"key": "zone", "value": "*"}]}),
        json!({"priorityStrategy": {"orderPriority": [{"orderedKey": "k"}]}}),
    ] {
        let before = fleet.index.assessments();
        let plan = fleet.plan("v2", &strategy);
        assert_eq!(fleet.index.assessments() - before, 3, "{strategy}");
        assert_eq!(plan, fleet.recounted().plan("v2", &strategy), "{strategy}");
    }
}

#[test]
fn nothing_is_planned_for_a_set_of_which_pods_are_due() {
    let mut fleet = Fleet::of(5);
    fleet.plan("v1", &json!({}));
    fleet.index.set_target(target("v2", json!({"maxUnavailable": "100%"})));
    assert!(fleet.index.set(SET).is_none());
    assert!(!fleet.index.assess_due(SET, at(0), 2));
    // Meanwhile one pod goes that was assessed, one that was not, and one comes.
    fleet.delete(&["web-0".to_owned(), "web-4".to_owned()]);
    let new = TestPod::new("new");
    fleet.index.apply(new.view(), at(0));
    fleet.pods.insert(new.view().key, new);
    assert!(fleet.index.set(SET).is_none());
    assert!(!fleet.index.assess_due(SET, at(0), 2));
    assert!(fleet.index.assess_due(SET, at(0), 2));
    let strategy = json!({"maxUnavailable": "100%"});
    assert_eq!(fleet.plan("v2", &strategy), fleet.recounted().plan("v2", &strategy));
}

#[test]
fn what_changes_beside_a_pod_while_all_are_assessed_is_not_lost() {
    let mut fleet = Fleet::new([native("a", "n"), native("b", "n"), native("c", "n")]);
    fleet.index.configure(target("v1", json!({})), at(0));
    fleet.index.set_target(target("v2", json!({})));
    assert!(!fleet.index.assess_due(SET, at(0), 2));
    fleet.index.set_node("n", None);
    while !fleet.index.assess_due(SET, at(0), 1) {}
    assert_eq!(fleet.index.assessments(), 3 + 3 + 3);
}
