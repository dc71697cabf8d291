//! Pods that were ready a moment ago.

use serde_json::{Value, json};

use crate::core::rollout::testing;
use crate::core::rollout::testing::{SET, TestPod, at};
use crate::core::rollout::tests::order::owned;
use crate::core::rollout::tests::{Fleet, unready, verdict};

#[test]
fn pods_that_were_ready_a_moment_ago_cost_what_ready_ones_do() {
    let strategy = json!({"maxUnavailable": 1});
    let mut fleet = Fleet::of(4);
    let all: Vec<String> = (0..4).map(|i| format!("web-{i}")).collect();
    fleet.set_ready(&all, false);
    let plan = fleet.plan("v2", &strategy);
    let first = fleet.send(&plan);
    assert_eq!((first.len(), plan.wake_at), (1, Some(at(fleet.now + 30))), "a kubelet may have been restarted");
    let pod = fleet.pods.values().find(|pod| first.contains(&pod.view().key.name)).unwrap().view();
    assert!(pod.marks.get(SET).unwrap().update.as_ref().unwrap().was_ready, "it holds the slot");
    fleet.now += 30;
    let plan = fleet.plan("v2", &strategy);
    assert_eq!(fleet.send(&plan).len(), 1, "by now they are not ready: as many as the cap allows");
}

#[test]
fn a_pod_whose_containers_do_not_run_is_not_ready_at_once() {
    let waits = |pod: &mut Value| pod["status"]["containerStatuses"][1]["state"] = json!({"waiting": {"reason": "x"}});
    let unborn = |pod: &mut Value| pod["status"]["containerStatuses"] = json!([]);
    let crashed = |pod: &mut Value| {
        let end = json!({"exitCode": 7, "finishedAt": at(-1).to_string()});
        pod["status"]["containerStatuses"][1]["state"] = json!({ "terminated": end });
    };
    for state in [waits, crashed, unborn] {
        let mut unready = TestPod::new("unready").with(state);
        unready.ready(false, at(0));
        let mut fleet = Fleet::new([unready, TestPod::new("web")]);
        let plan = fleet.plan("v2", &json!({"maxUnavailable": 1}));
        assert_eq!(fleet.send(&plan), ["unready", "web"]);
    }
}

#[test]
fn pods_that_were_ready_a_moment_ago_leave_their_workload_no_room() {
    let strategy = json!({"maxUnavailable": 4, "maxUnavailablePerWorkload": 1});
    let mut fleet = Fleet::new((0..4).map(|i| owned("app", &format!("web-{i}"))));
    let names: Vec<String> = (0..4).map(|i| format!("web-{i}")).collect();
    fleet.set_ready(&names, false);
    assert_eq!(fleet.plan("v2", &strategy).patches, []);
}

#[test]
fn a_full_cap_of_unready_pods_says_who_holds_it() {
    let mut fleet = Fleet::new((0..50).map(|i| unready(&format!("web-{i}"))));
    let strategy = json!({"failurePolicy": {"action": "Ignore"}});
    let message = |fleet: &mut Fleet| {
        let summary = fleet.plan("bad", &strategy).summary;
        verdict(&testing::rollout("bad", strategy.clone()), &summary).message
    };
    let plan = fleet.plan("bad", &strategy);
    let sent = fleet.send(&plan);
    let holders = "default/web-0 (not ready), default/web-1 (not ready), default/web-10 (not ready) and 2 more";
    let said = message(&mut fleet);
    assert!(said.ends_with(&format!("; 5 of 5 that were not ready before are in an update: {holders}")), "{said}");
    fleet.kubelets(&sent);
    assert!(message(&mut fleet).contains("default/web-0 (agent: ImagePullBackOff), "), "{}", message(&mut fleet));
    fleet.delete(&sent[..1]);
    assert!(!message(&mut fleet).contains("not ready before"), "a place is free");
}
