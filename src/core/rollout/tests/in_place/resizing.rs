//! Resources of running pods.

use crate::core::rollout::tests::in_place::*;

#[test]
fn a_resize_follows_the_marks_and_holds_a_slot_until_it_is_in_effect() {
    let mut way = Way::new(
        &resources(&json!({"requests": {"cpu": "100m"}})),
        &resources(&json!({"requests": {"cpu": "200m"}, "limits": {"cpu": "1"}})),
    );
    assert_eq!(way.step(), Some(false));
    assert_eq!(way.plan().summary.counts.updated, 0, "the label alone is not the target");
    assert_eq!(way.step(), Some(true));
    let expected = json!({"requests": {"cpu": "200m"}, "limits": {"cpu": "1"}});
    assert_eq!(way.pod.0["spec"]["containers"][0]["resources"], expected);
    way.now = 20;
    assert_eq!((way.step(), way.state()), (None, PodState::Updating));
    assert_eq!(way.plan().summary.counts.slots, 1);
    way.pod.actuate();
    assert_eq!(way.state(), PodState::Available);
    assert_eq!(way.plan().summary.counts.slots, 0);
}

#[test]
fn an_operator_that_died_between_the_two_requests_goes_on() {
    let mut way =
        Way::new(&resources(&json!({"requests": {"cpu": "1"}})), &resources(&json!({"requests": {"cpu": "2"}})));
    assert_eq!(way.step(), Some(false));
    way.index = Index::default();
    way.now = 5;
    way.configure();
    assert_eq!(way.steps(), [true]);
    let mut late =
        Way::new(&resources(&json!({"requests": {"cpu": "1"}})), &resources(&json!({"requests": {"cpu": "2"}})));
    late.step();
    late.now = 10_000;
    assert_eq!(late.steps(), [false, true], "it gets the whole timeout again");
}

#[test]
fn resources_that_somebody_else_sets_are_left_alone() {
    let target = resources(&json!({"requests": {"cpu": "200m"}}));
    let mut way = Way::new(&resources(&json!({"requests": {"cpu": "100m"}})), &target);
    way.steps();
    way.pod.actuate();
    way.now = 60;
    way.pod.edit(|pod| pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("333m"));
    way.pod.edit(|pod| pod["status"]["observedGeneration"] = pod["metadata"]["generation"].clone());
    assert_eq!((way.step(), way.state()), (None, PodState::Available));
    // And what a LimitRange gave a pod is no difference.
    let defaults = |pod: &mut Value| {
        pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1", "memory": "1Gi"}});
    };
    let mut way = Way::new(&json!({}), &agent(&json!({"image": "v2"})));
    way.pod.edit(defaults);
    way.pod.actuate();
    assert_eq!(way.steps(), [false]);
    let mut way = Way::new(&resources(&json!({"requests": {"cpu": "1"}})), &target);
    way.pod.edit(defaults);
    way.pod.actuate();
    assert_eq!(way.steps(), [false, true]);
    assert_eq!(way.pod.0["spec"]["containers"][0]["resources"], json!({"requests": {"cpu": "200m", "memory": "1Gi"}}));
}

#[test]
fn a_resize_makes_no_other_request_of_an_image_that_admission_rewrote() {
    for rewritten in ["mirror/agent:v2", "any/thing@sha256:aa"] {
        let of = |image: &str, cpu: &str| agent(&json!({"image": image, "resources": {"requests": {"cpu": cpu}}}));
        let mut way = Way::new(&of("agent:v1", "1"), &of("agent:v2", "2"));
        assert_eq!(way.step(), Some(false));
        way.pod.0["spec"]["containers"][0]["image"] = json!(rewritten);
        way.pod.edit(|_| {});
        assert_eq!(way.step(), Some(true));
        way.pod.kubelet(at(0));
        way.pod.actuate();
        way.now = 60;
        assert_eq!((way.step(), way.state()), (None, PodState::Available), "{rewritten}");
    }
}

#[test]
fn the_kubelets_conditions_decide_a_resize() {
    let way = || {
        let mut way =
            Way::new(&resources(&json!({"requests": {"cpu": "1"}})), &resources(&json!({"requests": {"cpu": "2"}})));
        way.steps();
        way.now = 5;
        way
    };
    for (type_, reason) in [("PodResizePending", "Infeasible"), ("PodResizeInProgress", "Error")] {
        let mut way = way();
        way.pod.resize_condition(type_, reason);
        assert_eq!(way.state(), PodState::Failed(format!("agent: resize {reason}: no room")));
    }
    let mut way = way();
    way.pod.resize_condition("PodResizePending", "Deferred");
    assert_eq!(way.state(), PodState::Updating);
    assert_eq!(way.plan().summary.slot_holders, ["default/web (agent: resize Deferred: no room)"]);
    way.now = 600;
    assert_eq!(way.state(), PodState::Failed("agent: resize Deferred: no room".to_owned()));
}

#[test]
fn a_failed_resize_is_taken_back_by_the_old_revision() {
    let (old, new) = (resources(&json!({"requests": {"cpu": "1"}})), resources(&json!({"requests": {"cpu": "2"}})));
    let mut way = Way::new(&old, &new);
    way.steps();
    way.pod.resize_condition("PodResizePending", "Infeasible");
    way.now = 5;
    way.target = Way::new(&new, &old).target;
    way.configure();
    assert_eq!(way.steps(), [false, true]);
    way.pod.edit(|pod| {
        pod["status"]["conditions"].as_array_mut().unwrap().pop();
    });
    way.pod.actuate();
    way.now = 15;
    assert_eq!(way.state(), PodState::Available);
}

#[test]
fn a_resize_that_was_not_sent_yet_is_dropped_on_the_way_back() {
    let (old, new) = (resources(&json!({"requests": {"cpu": "1"}})), resources(&json!({"requests": {"cpu": "2"}})));
    let mut way = Way::new(&old, &new);
    way.step();
    way.target = Way::new(&new, &old).target;
    way.configure();
    assert_eq!(way.steps(), [false]);
    assert!(update(&way.pod.view()).resizes.is_empty());
}

#[test]
fn a_new_image_in_mid_resize_still_waits_for_the_resize() {
    let both = |image: &str| agent(&json!({"image": image, "resources": {"requests": {"cpu": "2"}}}));
    let mut way = Way::new(&resources(&json!({"requests": {"cpu": "1"}})), &both("v1"));
    way.steps();
    way.target = Way::new(&both("v1"), &both("v2")).target;
    way.configure();
    assert_eq!(way.steps(), [false]);
    way.pod.resize_condition("PodResizePending", "Infeasible");
    way.now = 5;
    assert_eq!(way.state(), PodState::Failed("agent: resize Infeasible: no room".to_owned()));
}

#[test]
fn pods_that_cannot_be_resized_say_why() {
    let (old, new) = (resources(&json!({"requests": {"cpu": "1"}})), resources(&json!({"requests": {"cpu": "2"}})));
    let why = |way: &mut Way| match way.state() {
        PodState::NotInPlace(obstacle) => obstacle.text,
        other => format!("{other:?}"),
    };
    let mut way = Way::new(&old, &new);
    way.index.set_can_resize(false);
    way.pod.edit(|_| {});
    assert_eq!(why(&mut way), "agent: resources of running pods can be changed from Kubernetes 1.33 on");

    let mut way = Way::new(&json!({}), &new);
    assert_eq!(
        why(&mut way),
        "agent: with its new resources the QoS class of the pod would change from BestEffort to Burstable, which Kubernetes refuses on a running pod"
    );

    let pod_level = json!({"resources": {"limits": {"cpu": "9"}}});
    let mut way = Way::of_pod(&old, &new, &json!({"name": "app"}), &pod_level);
    assert!(why(&mut way).contains("pod-level resources"));

    let restarting = |cpu: &str| {
        let policy = json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
        agent(&json!({"resources": {"requests": {"cpu": cpu}}, "resizePolicy": policy}))
    };
    let mut way = Way::of_pod(
        &restarting("1"),
        &restarting("2"),
        &json!({"name": "app"}),
        &json!({"restartPolicy": "OnFailure"}),
    );
    assert!(why(&mut way).contains("resizePolicy"));
}

#[test]
fn a_guaranteed_pod_is_resized_in_one_request() {
    let full = |cpu: &str| json!({"limits": {"cpu": cpu, "memory": "1Gi"}, "requests": {"cpu": cpu, "memory": "1Gi"}});
    let app = json!({"name": "app", "resources": full("1")});
    let mut way = Way::of_pod(&resources(&full("1")), &resources(&full("2")), &app, &json!({}));
    assert_eq!(way.steps(), [false, true]);
    assert_eq!(way.pod.0["spec"]["containers"][0]["resources"], full("2"));
}

#[test]
fn what_resizes_is_recorded_with_the_container_that_may_restart() {
    let mut way =
        Way::new(&resources(&json!({"requests": {"cpu": "1"}})), &resources(&json!({"requests": {"cpu": "2"}})));
    way.step();
    let view = way.pod.view();
    let record = serde_json::to_value(update(&view)).unwrap();
    assert_eq!(
        record["resizes"],
        json!({"agent": {"from": {"requests": {"cpu": "1"}}, "to": {"requests": {"cpu": "2"}}}})
    );
    assert_eq!(record["containers"]["agent"]["restartCount"], 0);
}
