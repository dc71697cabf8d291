//! No sidecar is stopped before its node has the new image.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::core::rollout::plan::snapshot::MOST_AT_ONCE;
use crate::core::rollout::state::pulls::{Pull, PullResult};
use crate::core::rollout::target::rollout::PersistedProgress;
use crate::core::rollout::target::{Direction, Target};
use crate::core::rollout::testing;
use crate::core::rollout::testing::{Plan, SET, TestPod, at, hash, planned, target};
use crate::core::rollout::tests::{Fleet, verdict};

mod properties;
mod pullers;

fn strategy(max: usize) -> Value {
    json!({"prePull": true, "maxUnavailable": max})
}

/// Pods on nodes `n0`, `n1`, …, so many on each.
fn fleet(nodes: usize, per_node: usize) -> Fleet {
    let pod =
        |i: usize| TestPod::new(&format!("web-{i}")).with(|pod| pod["spec"]["nodeName"] = json!(node_of(i, nodes)));
    let mut fleet = Fleet::new((0..nodes * per_node).map(pod));
    (0..nodes).for_each(|i| drop(fleet.index.set_node(&format!("n{i}"), Some(true))));
    fleet
}

fn node_of(pod: usize, nodes: usize) -> String {
    format!("n{}", pod % nodes)
}

fn nodes(pulls: &[Pull]) -> Vec<&str> {
    pulls.iter().map(|pull| pull.node.as_str()).collect()
}

impl Fleet {
    fn note(&mut self, plan: &Plan, outcome: &PullResult) {
        for pull in &plan.pulls {
            for image in pull.images.keys() {
                self.index.note_pull(pull, image, outcome.clone(), at(self.now));
            }
        }
    }

    /// Many rounds, in which the nodes before this one cannot pull.
    fn roll_out(&mut self, strategy: &Value, first_good: &str) {
        for _ in 0..45 {
            let plan = self.plan("v2", strategy);
            for pull in &plan.pulls {
                let failed = pull.node.as_str() < first_good;
                let outcome = if failed { PullResult::Failed("ErrImagePull".into()) } else { PullResult::Pulled };
                self.index.note_pull(pull, "v2", outcome, at(self.now));
            }
            let sent = self.send(&plan);
            self.kubelets(&sent);
            self.now += 6;
        }
    }

    fn message(&mut self, image: &str, strategy: &Value) -> (String, String) {
        let summary = self.plan(image, strategy).summary;
        let verdict = verdict(&testing::rollout(image, strategy.clone()), &summary);
        (verdict.reason.to_string(), verdict.message)
    }
}

#[test]
fn a_pod_is_patched_only_when_its_node_has_the_image() {
    let mut fleet = fleet(3, 2);
    let plan = fleet.plan("v2", &strategy(2));
    assert_eq!((plan.patches.len(), nodes(&plan.pulls)), (0, vec!["n0", "n1"]));
    assert_eq!(plan.pulls[0].images, BTreeMap::from([("v2".to_owned(), "agent".to_owned())]));
    fleet.note(&Plan { pulls: plan.pulls[1..].to_vec(), ..Plan::default() }, &PullResult::Pulled);
    let plan = fleet.plan("v2", &strategy(2));
    let patched: Vec<&str> = plan.patches.iter().map(|patch| patch.key.name.as_str()).collect();
    assert_eq!(patched, ["web-1", "web-4"], "a node that still pulls holds no slot");
}

#[test]
fn the_message_says_what_is_pulled_and_where() {
    let mut fleet = fleet(4, 1);
    let (reason, message) = fleet.message("v2", &strategy(4));
    assert_eq!(reason, "RollingUpdate");
    assert!(message.ends_with("; pulling v2 on 4 nodes: n0, n1, n2 and 1 more"), "{message}");
    let plan = fleet.plan("v2", &strategy(4));
    fleet.note(&plan, &PullResult::Skipped("exceeded quota: few".into()));
    let (_, message) = fleet.message("v2", &strategy(4));
    assert!(message.ends_with("; not pulled first on 4 nodes (exceeded quota: few)"), "{message}");
    assert_eq!(fleet.plan("v2", &strategy(4)).patches.len(), 4);
}

#[test]
fn nothing_is_pulled_where_nothing_is_patched() {
    for held in [
        json!({"paused": true}),
        json!({"type": "NotUpdate"}),
        json!({"partition": "100%"}),
        json!({"prePull": false}),
        json!({"steps": [{"replicas": 1, "pause": {}}], "maxUnavailable": 1}),
    ] {
        let mut fleet = fleet(2, 1);
        let mut strategy = strategy(2);
        strategy.as_object_mut().unwrap().extend(held.as_object().unwrap().clone());
        let pulls = fleet.plan("v2", &strategy).pulls;
        assert_eq!(pulls.len(), usize::from(held.get("steps").is_some()), "{held}");
    }
}

#[test]
fn many_nodes_pull_at_once_but_not_all() {
    let mut fleet = fleet(MOST_AT_ONCE + 8, 1);
    assert_eq!(fleet.plan("v2", &strategy(100)).pulls.len(), MOST_AT_ONCE);
}

#[test]
fn the_nodes_of_the_next_batch_pull_while_one_is_open() {
    let mut fleet = fleet(3, 1);
    let plan = fleet.plan("v2", &strategy(1));
    fleet.note(&plan, &PullResult::Pulled);
    let plan = fleet.plan("v2", &strategy(1));
    assert_eq!(fleet.send(&plan), ["web-0"]);
    assert_eq!(nodes(&fleet.plan("v2", &strategy(1)).pulls), ["n1"]);
}

#[test]
fn a_sidecar_that_is_down_waits_for_no_pull() {
    let mut fleet = fleet(1, 1);
    let pod = fleet.pods.values_mut().next().unwrap();
    pod.edit(|pod| pod["status"]["containerStatuses"][0]["ready"] = json!(false));
    pod.ready(false, at(0));
    fleet.observe();
    let plan = fleet.plan("v2", &strategy(1));
    assert_eq!((plan.patches.len(), plan.pulls.len()), (1, 0));
}

#[test]
fn a_living_sidecar_of_an_unready_pod_waits_for_its_pull() {
    let mut fleet = fleet(1, 1);
    fleet.pods.values_mut().for_each(|pod| pod.ready(false, at(0)));
    fleet.observe();
    let plan = fleet.plan("v2", &strategy(1));
    assert_eq!((plan.patches.len(), plan.pulls.len()), (0, 1));
}

#[test]
fn a_pod_without_a_node_waits_for_no_pull() {
    let mut fleet = Fleet::new([TestPod::new("web").with(|pod| {
        pod["spec"].as_object_mut().unwrap().remove("nodeName");
    })]);
    let plan = fleet.plan("v2", &strategy(1));
    assert_eq!((plan.patches.len(), plan.pulls.len()), (1, 0));
}

#[test]
fn each_node_that_cannot_pull_is_one_failure() {
    let mut fleet = fleet(3, 10);
    let mut strategy = strategy(2);
    strategy["failurePolicy"] = json!({"maxFailed": 1});
    let plan = fleet.plan("v2", &strategy);
    fleet
        .note(&Plan { pulls: plan.pulls[..1].to_vec(), ..Plan::default() }, &PullResult::Failed("ErrImagePull".into()));
    let plan = fleet.plan("v2", &strategy);
    assert_eq!((plan.summary.counts.failed, plan.summary.exceeded), (1, false));
    assert_eq!(plan.summary.failed, ["node n0 (pull of v2: ErrImagePull)"]);
    assert_eq!(nodes(&plan.pulls), ["n1"], "others go on");
    fleet.note(&plan, &PullResult::Failed("ErrImagePull".into()));
    let plan = fleet.plan("v2", &strategy);
    assert_eq!((plan.summary.counts.failed, plan.patches.len(), plan.pulls.len()), (2, 0, 0));
    assert_eq!(fleet.reason("v2", &strategy), "FailureBudgetExceeded");
}

#[test]
fn an_image_that_no_node_can_pull_is_given_up_whatever_may_fail() {
    let mut fleet = fleet(1, 20);
    let plan = fleet.plan("v2", &strategy(5));
    fleet.note(&plan, &PullResult::Failed("ErrImagePull".into()));
    assert_eq!(fleet.reason("v2", &strategy(5)), "FailureBudgetExceeded");
}

#[test]
fn a_node_that_failed_leaves_its_pods_behind_and_is_tried_again() {
    let mut fleet = fleet(2, 1);
    let mut strategy = strategy(1);
    strategy["failurePolicy"] = json!({"maxFailed": 1});
    let plan = fleet.plan("v2", &strategy);
    fleet.note(&plan, &PullResult::Failed("ErrImagePull".into()));
    let plan = fleet.plan("v2", &strategy);
    fleet.note(&plan, &PullResult::Pulled);
    assert_eq!(fleet.round("v2", &strategy), ["web-1"]);
    assert_eq!(fleet.reason("v2", &strategy), "PodsFailed");
    let plan = fleet.plan("v2", &strategy);
    assert_eq!((plan.pulls.len(), plan.wake_at), (0, Some(at(600))));
    fleet.now = 600;
    let plan = fleet.plan("v2", &strategy);
    assert_eq!(nodes(&plan.pulls), ["n0"]);
    assert_eq!(plan.summary.counts.failed, 1, "it has failed until it succeeds");
    fleet.note(&plan, &PullResult::Pulled);
    assert_eq!(fleet.round("v2", &strategy), ["web-0"]);
    assert_eq!(fleet.reason("v2", &strategy), "UpToDate");
}

#[test]
fn pods_on_nodes_that_cannot_pull_do_not_stop_the_others_however_many_stand_in_front() {
    // 50 pods a node: those in front are all on nodes that cannot pull.
    let pod = |i: usize| {
        TestPod::new(&format!("web-{i:04}")).with(|pod| pod["spec"]["nodeName"] = json!(format!("n{:02}", i / 50)))
    };
    let mut fleet = Fleet::new((0..3000).map(pod));
    let mut strategy = strategy(100);
    strategy["failurePolicy"] = json!({"maxFailed": "100%"});
    fleet.roll_out(&strategy, "n50");
    let counts = fleet.plan("v2", &strategy).summary.counts;
    assert_eq!((counts.updated, counts.blocked, counts.failed), (500, 2500, 50));
    fleet.now = 600;
    assert_eq!(fleet.plan("v2", &strategy).pulls.len(), 2, "as many nodes as a batch has");
    strategy["maxUnavailable"] = json!("100%");
    fleet.roll_out(&strategy, "n00");
    let counts = fleet.plan("v2", &strategy).summary.counts;
    assert_eq!((counts.updated, counts.blocked, counts.failed), (3000, 0, 0));
}

#[test]
fn a_node_whose_pods_are_gone_is_no_failure() {
    let mut fleet = fleet(2, 1);
    let plan = fleet.plan("v2", &strategy(1));
    fleet.note(&plan, &PullResult::Failed("ErrImagePull".into()));
    let (key, pod) = fleet.pods.pop_first().unwrap();
    fleet.index.remove(&key, &pod.view().uid, at(0));
    assert_eq!(fleet.plan("v2", &strategy(1)).summary.counts.failed, 0);
}

#[test]
fn a_node_that_comes_back_pulls_again() {
    let mut fleet = fleet(1, 1);
    let plan = fleet.plan("v2", &strategy(1));
    fleet.note(&plan, &PullResult::Pulled);
    fleet.index.set_node("n0", None);
    fleet.index.set_node("n0", Some(true));
    assert_eq!(fleet.plan("v2", &strategy(1)).pulls.len(), 1);
}

#[test]
fn a_retry_pulls_again_where_it_failed_and_only_there() {
    let mut fleet = fleet(3, 1);
    let plan = fleet.plan("v2", &strategy(3));
    let outcomes = [PullResult::Failed("ErrImagePull".into()), PullResult::Pulled, PullResult::Skipped("quota".into())];
    for (pull, outcome) in plan.pulls.iter().zip(outcomes) {
        fleet.note(&Plan { pulls: vec![pull.clone()], ..Plan::default() }, &outcome);
    }
    let retried = Target { retried_at: Some(at(9)), ..target("v2", strategy(3)) };
    fleet.index.configure(Target { direction: Direction::Halted, ..target("v2", strategy(3)) }, at(5));
    assert_eq!(planned(&mut fleet.index, SET, &PersistedProgress::default(), at(5), 9).pulls, []);
    fleet.index.configure(retried, at(9));
    assert_eq!(nodes(&planned(&mut fleet.index, SET, &PersistedProgress::default(), at(9), 9).pulls), ["n0", "n2"]);
}

#[test]
fn another_image_is_pulled_anew_and_the_way_back_waits_for_nothing() {
    let mut fleet = fleet(2, 1);
    let plan = fleet.plan("v2", &strategy(2));
    fleet.note(&plan, &PullResult::Pulled);
    fleet.round("v2", &strategy(2));
    assert_eq!(fleet.plan("v3", &strategy(2)).pulls.len(), 2);
    fleet.now += 60;
    let back = Target { stable: Some(hash("v1")), ..target("v1", strategy(2)) }.going_back();
    fleet.index.configure(back, at(fleet.now));
    let plan = planned(&mut fleet.index, SET, &PersistedProgress::default(), at(fleet.now), 9);
    assert_eq!((plan.patches.len(), plan.pulls.len()), (2, 0));
}
