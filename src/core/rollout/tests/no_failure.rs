//! What is no failure of a revision, whatever it looks like.

use serde_json::{Value, json};

use crate::core::rollout::assess::attempt::Progress;
use crate::core::rollout::target::Target;
use crate::core::rollout::target::rollout::PersistedProgress;
use crate::core::rollout::testing;
use crate::core::rollout::testing::{SET, TestPod, at, planned, target};
use crate::core::rollout::tests::Fleet;
use crate::core::rollout::tests::judging::{agent, app_crashed, judge, replaced};

#[test]
fn partition_is_kept_where_admission_rewrites_images() {
    let mut fleet = Fleet::of(6);
    let strategy = json!({"partition": 5, "maxUnavailable": 6});
    for round in 0..9 {
        fleet.now = round * 100;
        for name in fleet.round("v2", &strategy) {
            let pod = fleet.named(&name);
            pod.0["spec"]["containers"][0]["image"] = json!("mirror/v2");
        }
        fleet.observe();
    }
    let summary = fleet.plan("v2", &strategy).summary;
    assert_eq!(summary.counts.updated, 1);
    let rewritten = fleet.pods.values().filter(|pod| pod.image() == "mirror/v2").count();
    assert_eq!(rewritten, 1);
}

#[test]
fn new_pods_whose_images_admission_rewrites_are_left_alone() {
    let mut pod = TestPod::new("a");
    pod.0["spec"]["containers"][0]["image"] = json!("mirror/v1");
    let mut fleet = Fleet::new([pod]);
    let plan = fleet.plan("v1", &json!({}));
    assert_eq!((plan.patches.len(), plan.summary.counts.updated), (0, 1));
}

#[test]
fn a_change_by_others_makes_no_pod_of_a_mirror_another_one() {
    let mut made = TestPod::new("made");
    made.0["spec"]["containers"][0]["image"] = json!("mirror/v1");
    made.edit(|pod| pod["spec"]["containers"][1]["image"] = json!("app:2"));
    let mut fleet = Fleet::new([made]);
    assert_eq!(fleet.round("v1", &json!({})), Vec::<String>::new());
    fleet.round("v2", &json!({}));
    fleet.named("made").edit(|pod| pod["spec"]["containers"][0]["image"] = json!("mirror/v2"));
    fleet.observe();
    let plan = fleet.plan("v2", &json!({}));
    assert_eq!((plan.patches.len(), plan.summary.counts.updated), (0, 1));
}

#[test]
fn the_kubelet_owes_nothing_to_a_request_that_admission_made_no_change_of() {
    let mut pod = TestPod::new("a");
    pod.0["spec"]["containers"][0]["image"] = json!("mirror/v2");
    let mut fleet = Fleet::new([pod]);
    let plan = fleet.plan("v2", &json!({}));
    fleet.send(&plan);
    let pod = fleet.named("a");
    pod.0["spec"]["containers"][0]["image"] = json!("mirror/v2");
    pod.edit(|pod| pod["metadata"]["generation"] = json!(1));
    fleet.observe();
    fleet.now = 10;
    assert_eq!(fleet.plan("v2", &json!({})).summary.counts.updated_ready, 1);
}

#[test]
fn what_another_set_replaced_is_no_failure_of_this_set_when_it_is_not_ready() {
    let failed = |other_at: Option<i64>| {
        let mut fleet = Fleet::of(1);
        let sent = fleet.round("v2", &json!({}));
        let name = sent[0].as_str();
        fleet.named(name).edit(|pod| {
            pod["status"]["containerStatuses"][1]["ready"] = json!(false);
            if let Some(other_at) = other_at {
                let update = json!({"revision": "r", "at": at(other_at).to_string(), "wasReady": true,
                    "containers": {"app": {"id": "c://app-0", "restartCount": 0, "image": "app"}}});
                pod["metadata"]["labels"]["revision.sidecarset.dev/mesh"] = json!("r");
                pod["metadata"]["annotations"]["update.sidecarset.dev/mesh"] = json!(update.to_string());
            }
        });
        fleet.set_ready(&sent, false);
        fleet.now = 601;
        fleet.plan("v2", &json!({})).summary.failed
    };
    assert_eq!(failed(Some(1)), Vec::<String>::new());
    let ours = ["default/web-0 (the pod is not ready by podUpdateTimeoutSeconds: app)"];
    assert_eq!(failed(None), ours);
    assert_eq!(failed(Some(-601)), ours, "it was over when ours began");
}

#[test]
fn a_crash_of_the_application_is_over_when_the_pod_was_ready_for_a_while() {
    let crashed = |ready_since: i64| {
        move |pod: &mut Value| {
            replaced(pod, 1);
            app_crashed(pod, 137, 3);
            pod["status"]["conditions"][0]["lastTransitionTime"] = json!(at(ready_since).to_string());
        }
    };
    assert!(matches!(judge(9, crashed(5)), Progress::Failed(_)));
    assert_eq!(judge(10, crashed(5)), Progress::Done);
}

#[test]
fn what_was_before_a_retry_is_no_evidence() {
    let mut fleet = Fleet::of(2);
    let plan = fleet.plan("v2", &json!({}));
    let sent = fleet.send(&plan);
    fleet.kubelets(&sent);
    let name = sent[0].as_str();
    fleet.named(name).edit(|pod| app_crashed(pod, 137, 3));
    fleet.named(name).ready(false, at(3));
    fleet.now = 4;
    fleet.observe();
    assert_eq!(fleet.reason("v2", &json!({})), "FailureBudgetExceeded");
    fleet.named(name).ready(true, at(30));
    fleet.now = 31;
    fleet.observe();
    let retried = Target { retried_at: Some(at(31)), ..target("v2", json!({})) };
    fleet.index.configure(retried, at(31));
    let summary = planned(&mut fleet.index, SET, &PersistedProgress::default(), at(31), 0).summary;
    assert_eq!((summary.counts.failed, summary.counts.slots, summary.counts.updated_ready), (0, 1, 0), "its hold time");
    let summary = planned(&mut fleet.index, SET, &PersistedProgress::default(), at(35), 0).summary;
    assert_eq!((summary.counts.slots, summary.counts.updated_ready), (0, 1));
}

/// Not ready, its sidecar waiting for an init container of the application.
fn stuck(name: &str) -> TestPod {
    TestPod::new(name).with(|pod| {
        let agent = agent(pod);
        agent["containerID"] = json!("");
        agent["ready"] = json!(false);
        agent["state"] = json!({"waiting": {"reason": "PodInitializing"}});
        pod["status"]["conditions"][0]["status"] = json!("False");
        pod["status"]["phase"] = json!("Pending");
    })
}

#[test]
fn a_pod_that_was_stuck_before_is_no_failure_of_the_revision() {
    let mut fleet = Fleet::new((0..5).map(|i| TestPod::new(&format!("web-{i}"))).chain([stuck("stuck")]));
    let strategy = json!({"podUpdateTimeoutSeconds": 10});
    for now in (0..60).step_by(6) {
        fleet.now = now;
        let plan = fleet.plan("v2", &strategy);
        let sent = fleet.send(&plan);
        let healthy: Vec<String> = sent.into_iter().filter(|name| name != "stuck").collect();
        fleet.kubelets(&healthy);
        fleet.observe();
        assert!(!fleet.plan("v2", &strategy).summary.exceeded, "{now}");
    }
    let summary = fleet.plan("v2", &strategy).summary;
    assert_eq!((summary.counts.failed, summary.counts.capped, summary.counts.updated_ready), (0, 0, 5));
    // The application gets on, and the image is bad after all.
    fleet.named("stuck").edit(|pod| {
        agent(pod)["state"] = json!({"waiting": {"reason": "ErrImagePull", "message": "cannot pull \"v2\""}});
        pod["status"]["observedGeneration"] = json!(9);
    });
    fleet.observe();
    assert_eq!(fleet.plan("v2", &strategy).summary.counts.failed, 1);
}

#[test]
fn a_kubelet_that_does_not_answer_for_an_unready_pod_is_no_failure_of_the_revision() {
    let silent = TestPod::new("a").with(|pod| pod["status"]["conditions"][0]["status"] = json!("False"));
    let mut fleet = Fleet::new([silent]);
    let plan = fleet.plan("v2", &json!({}));
    assert_eq!(fleet.send(&plan).len(), 1);
    fleet.named("a").edit(|pod| pod["status"]["observedGeneration"] = json!(1));
    fleet.observe();
    fleet.now = 600;
    assert_eq!(fleet.plan("v2", &json!({})).summary.counts.failed, 0);
}

#[test]
fn a_failure_that_stops_nobody_gives_no_revision_up() {
    let strategy = json!({"maxUnavailable": 1, "failurePolicy": {"maxFailed": 1}});
    let mut fleet = Fleet::of(3);
    for _ in 0..2 {
        fleet.round("v2", &strategy);
    }
    let plan = fleet.plan("v2", &strategy);
    let sent = fleet.send(&plan);
    fleet.named(&sent[0]).edit(|pod| agent(pod)["state"] = json!({"waiting": {"reason": "CreateContainerError"}}));
    fleet.named(&sent[0]).edit(|pod| pod["status"]["observedGeneration"] = json!(2));
    let now = at(fleet.now);
    fleet.named(&sent[0]).ready(false, now);
    fleet.now += 100;
    fleet.observe();
    let summary = fleet.plan("v2", &strategy).summary;
    assert_eq!((summary.counts.failed, summary.exceeded), (1, false), "it was the last one, and the others work");
}

#[test]
fn a_revision_whose_only_pod_has_failed_is_given_up() {
    let mut fleet = Fleet::of(1);
    fleet.round("bad", &json!({}));
    assert!(fleet.plan("bad", &json!({})).summary.exceeded);
}

#[test]
fn a_paused_set_decides_nothing() {
    let mut fleet = Fleet::of(2);
    fleet.round("bad", &json!({}));
    assert!(!fleet.plan("bad", &json!({"paused": true})).summary.exceeded);
    assert!(fleet.plan("bad", &json!({})).summary.exceeded);
}

#[test]
fn a_pod_whose_resize_is_refused_has_moved() {
    let mut fleet = Fleet::of(10);
    let strategy = json!({"partition": "80%", "maxUnavailable": 5, "failurePolicy": {"maxFailed": "100%"}});
    for round in 0..5 {
        fleet.now = round * 10;
        let plan = fleet.plan("v2", &strategy);
        // The image was accepted, and what is to be refused is asked for again.
        for name in fleet.send(&plan) {
            fleet.named(&name).edit(|pod| pod["spec"]["containers"][0]["image"] = json!("by-hand"));
            fleet.observe();
            let pod = fleet.named(&name).view();
            fleet.index.refuse(SET, &pod, "forbidden: maximum memory".into(), None, at(fleet.now));
        }
    }
    let labelled =
        fleet.pods.values().filter(|pod| pod.view().marks.get(SET).unwrap().revision == testing::hash("v2")).count();
    assert_eq!(labelled, 2);
}

/// Not scheduled.
fn pending(name: &str) -> TestPod {
    stuck(name).with(|pod| drop(pod["spec"].as_object_mut().unwrap().remove("nodeName")))
}

#[test]
fn pods_without_a_node_count_for_no_percentage() {
    let running = (0..10).map(|i| TestPod::new(&format!("web-{i}")));
    let mut fleet = Fleet::new(running.chain((0..90).map(|i| pending(&format!("pending-{i}")))));
    let summary = fleet.plan("v2", &json!({"maxUnavailable": "10%", "partition": "50%"})).summary;
    assert_eq!((summary.counts.matched, summary.counts.counted), (100, 10));
    assert_eq!((summary.max_unavailable, summary.keep_old), (1, 5));
}
