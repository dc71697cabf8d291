//! A `priorityStrategy` is obeyed first; what a pod costs decides within a priority.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::core::rollout::assess::state::PodState;
use crate::core::rollout::state::pulls::PullResult;
use crate::core::rollout::testing::{Plan, SET, TestPod, at};
use crate::core::rollout::tests::Fleet;
use crate::core::rollout::tests::order::{labelled, owned, with_readiness};

fn strategy(max: usize) -> Value {
    json!({"maxUnavailable": max, "priorityStrategy": {"orderPriority": [{"orderedKey": "rank"}]}})
}

fn ready(name: &str, rank: usize) -> TestPod {
    labelled(name, "rank", &rank.to_string())
}

fn unready(name: &str, rank: usize) -> TestPod {
    with_readiness(ready(name, rank), false)
}

fn on(pod: TestPod, node: &str) -> TestPod {
    pod.with(|pod| pod["spec"]["nodeName"] = json!(node))
}

#[test]
fn unready_pods_go_before_ready_ones_only_within_their_priority() {
    let pods = [ready("a", 9), unready("b", 9), ready("c", 9), unready("d", 1), ready("e", 1)];
    let mut fleet = Fleet::new(pods);
    let rounds: Vec<_> = (0..4).map(|_| fleet.round("v2", &strategy(1)).join(" ")).collect();
    assert_eq!(rounds, ["b a", "c d", "e", ""]);
}

#[test]
fn unready_pods_go_first_where_nothing_says_what_is_urgent() {
    let mut fleet = Fleet::new([ready("a", 9), ready("b", 9), unready("c", 1)]);
    assert_eq!(fleet.round("v2", &json!({})), ["c", "a"]);
}

#[test]
fn a_less_urgent_pod_waits_for_unready_ones_that_wait_for_a_place_too() {
    let mut fleet = Fleet::new([unready("a", 9), unready("b", 9), ready("c", 1)]);
    assert_eq!(fleet.round("v2", &strategy(1)), ["a"], "one unready pod at a time");
    assert_eq!(fleet.round("v2", &strategy(1)), ["b", "c"]);
}

#[test]
fn the_more_urgent_go_first_in_their_scatter_group_only() {
    let zone = |pod: TestPod, zone: &str| pod.with(|pod| pod["metadata"]["labels"]["zone"] = json!(zone));
    let mut fleet = Fleet::new([zone(ready("a", 9), "a"), zone(ready("b", 8), "a"), zone(unready("c", 1), "b")]);
    let mut strategy = strategy(1);
    strategy["scatterStrategy"] = json!([{"key": "zone", "value": "*"}]);
    assert_eq!(fleet.round("v2", &strategy), ["c", "a"]);
}

#[test]
fn a_pod_whose_workload_has_no_room_holds_up_nobody() {
    let ranked = |pod: TestPod, rank: &str| pod.with(|pod| pod["metadata"]["labels"]["rank"] = json!(rank));
    let mut fleet = Fleet::new([ranked(owned("web", "w0"), "9"), ranked(owned("web", "w1"), "9"), unready("c", 1)]);
    let mut strategy = strategy(2);
    strategy["maxUnavailablePerWorkload"] = json!(1);
    assert_eq!(fleet.round("v2", &strategy), ["w0", "c"]);
}

/// Pulls succeed but on `bad` nodes.
fn pull(fleet: &mut Fleet, plan: &Plan, bad: &[&str]) {
    for pull in &plan.pulls {
        let failed = bad.contains(&pull.node.as_str());
        let outcome = if failed { PullResult::Failed("ErrImagePull".into()) } else { PullResult::Pulled };
        fleet.index.note_pull(pull, "v2", outcome, at(fleet.now));
    }
}

#[test]
fn a_pod_whose_node_is_to_pull_goes_first_and_one_whose_node_cannot_holds_up_nobody() {
    let pods = [on(ready("a", 9), "n0"), on(ready("b", 8), "n1"), on(ready("c", 1), "n0")];
    let mut fleet = Fleet::new(pods);
    let mut strategy = strategy(1);
    strategy["prePull"] = json!(true);
    strategy["failurePolicy"] = json!({"maxFailed": 2});
    for expected in ["a", "b"] {
        let plan = fleet.plan("v2", &strategy);
        assert_eq!((plan.patches.len(), plan.pulls.len()), (0, 1), "{expected}: not c, whose node has the image");
        pull(&mut fleet, &plan, &["n1"]);
        let sent = fleet.round("v2", &strategy);
        assert_eq!(sent, [if expected == "a" { "a" } else { "c" }]);
    }
}

#[test]
fn what_has_a_place_does_not_wait_for_pods_that_wait_for_that_place() {
    let mut fleet = Fleet::new([unready("a", 1)]);
    let plan = fleet.plan("bad", &strategy(1));
    assert_eq!(fleet.send(&plan), ["a"]);
    fleet.kubelets(&["a".to_owned()]);
    let urgent = unready("b", 9);
    fleet.pods.insert(urgent.view().key, urgent);
    fleet.set_ready(&["a".to_owned()], true);
    fleet.now = 60;
    assert_eq!(fleet.round("v2", &strategy(1)), ["a"], "its place under the cap of unready pods is what b waits for");
    assert_eq!(fleet.round("v2", &strategy(1)), ["b"]);
}

#[derive(Clone, Debug)]
struct Pod {
    rank: usize,
    ready: bool,
    workload: usize,
    node: usize,
}

fn any_pod() -> impl Strategy<Value = Pod> {
    (0..3_usize, any::<bool>(), 0..3_usize, 0..4_usize).prop_map(|(rank, ready, workload, node)| Pod {
        rank,
        ready,
        workload,
        node,
    })
}

impl Pod {
    fn made(&self, i: usize) -> TestPod {
        let name = format!("pod-{i}");
        let pod =
            if self.workload == 0 { TestPod::new(&name) } else { owned(&format!("app-{}", self.workload), &name) };
        let pod = pod.with(|pod| pod["metadata"]["labels"]["rank"] = json!(self.rank.to_string()));
        on(with_readiness(pod, self.ready), &format!("n{}", self.node))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Never goes a less urgent pod while a more urgent one that may go does not; within a priority those go first that
    /// cost least; and all go in the end, but those whose node cannot pull.
    #[test]
    fn priority_is_obeyed_first_and_nobody_is_left(
        pods in prop::collection::vec(any_pod(), 1..14), max in 1..4_usize, limit in 0..3_usize, pre_pull in any::<bool>(),
        bad in prop::collection::vec(any::<bool>(), 4),
    ) {
        // A pod that cannot pull may keep others of its workload from going.
        let pre_pull = pre_pull && limit == 0;
        let mut strategy = strategy(max);
        strategy["failurePolicy"] = json!({"maxFailed": "100%", "action": "Ignore"});
        strategy["prePull"] = json!(pre_pull);
        if limit > 0 {
            strategy["maxUnavailablePerWorkload"] = json!(limit);
        }
        let by_name: BTreeMap<String, Pod> =
            pods.iter().enumerate().map(|(i, pod)| (format!("pod-{i}"), pod.clone())).collect();
        let mut fleet = Fleet::new(pods.iter().enumerate().map(|(i, pod)| pod.made(i)));
        let is_bad = |pod: &Pod| pre_pull && bad[pod.node];
        let cannot_pull = |node: &str| bad[node[1..].parse::<usize>().unwrap()];
        for _ in 0..60 {
            let plan = fleet.plan("v2", &strategy);
            let chosen: Vec<&str> = plan.patches.iter().map(|patch| patch.key.name.as_str()).collect();
            for (key, pod) in &fleet.pods {
                let left = &by_name[&key.name];
                let waits = fleet.index.state(SET, key) == Some(&PodState::Outdated) && !chosen.contains(&key.name.as_str());
                // One in a workload without room, and one whose node cannot pull, or need not, waits for other reasons.
                if !waits || is_bad(left) || (limit > 0 && left.workload > 0 && left.ready) {
                    continue;
                }
                prop_assert!(pod.view().ready == left.ready);
                for name in &chosen {
                    prop_assert!(by_name[*name].rank >= left.rank, "{name} goes before {}", key.name);
                }
            }
            let places: Vec<_> = chosen.iter().map(|name| &by_name[*name]).map(|pod| (3 - pod.rank, pod.ready)).collect();
            prop_assert!(places.is_sorted(), "{places:?}");
            for pull in &plan.pulls {
                let outcome = if cannot_pull(&pull.node) { PullResult::Failed("no".into()) } else { PullResult::Pulled };
                fleet.index.note_pull(pull, "v2", outcome, at(fleet.now));
            }
            let sent = fleet.send(&plan);
            fleet.kubelets(&sent);
            fleet.now += 6;
        }
        for (key, pod) in &fleet.pods {
            let expected = if is_bad(&by_name[&key.name]) { "v1" } else { "v2" };
            prop_assert_eq!(pod.image(), expected, "{}", key.name);
        }
    }
}
