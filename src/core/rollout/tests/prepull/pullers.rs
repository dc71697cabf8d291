//! The pods that pull, and what is made of their status.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::core::rollout::plan::pullers::{Pullers, puller, refusal};
use crate::core::rollout::state::pulls::{Pull, PullResult};
use crate::core::rollout::testing::{SET, at, hash};
use crate::core::rollout::tests::prepull::{fleet, strategy};

fn pull(node: &str) -> Pull {
    let mut fleet = fleet(1, 1);
    let mut pull = fleet.plan("v2", &strategy(1)).pulls.remove(0);
    pull.node = node.to_owned();
    pull
}

fn owner() -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web-0", "namespace": "default", "uid": "uid-web-0"},
        "spec": {
            "serviceAccountName": "robot", "imagePullSecrets": [{"name": "registry"}],
            "containers": [{"name": "agent", "image": "v1", "imagePullPolicy": "IfNotPresent"}],
        },
    }))
    .unwrap()
}

/// The puller as the API has it, with the kubelet's word on its container.
pub(crate) fn seen(pull: &Pull, uid: &str, status: &Value) -> Pod {
    let mut pod = serde_json::to_value(puller(pull, &owner()).unwrap()).unwrap();
    pod["metadata"]["name"] = json!(uid);
    pod["metadata"]["uid"] = json!(uid);
    pod["status"] = status.clone();
    serde_json::from_value(pod).unwrap()
}

pub(crate) fn says(state: &Value) -> Value {
    json!({"phase": "Pending", "containerStatuses": [{
        "name": "pull-0", "image": "v2", "imageID": "", "ready": false, "restartCount": 0, "state": state,
    }]})
}

#[test]
fn a_puller_has_the_means_of_its_pod_and_rights_to_nothing() {
    let made = serde_json::to_value(puller(&pull("n7"), &owner()).unwrap()).unwrap();
    let (metadata, spec) = (&made["metadata"], &made["spec"]);
    let labels = json!({
        "sidecarset.dev/inject": "false", "sidecarset.dev/pulls-for": SET, "sidecarset.dev/pulls-revision": hash("v2"),
    });
    assert_eq!(metadata["labels"], labels);
    assert_eq!((&metadata["namespace"], &metadata["generateName"]), (&json!("default"), &json!("logs-pull-")));
    assert_eq!(metadata["ownerReferences"][0]["uid"], "uid-web-0");
    assert_eq!((&spec["nodeName"], &spec["serviceAccountName"]), (&json!("n7"), &json!("robot")));
    assert_eq!(
        (&spec["imagePullSecrets"][0]["name"], &spec["automountServiceAccountToken"]),
        (&json!("registry"), &json!(false))
    );
    assert_eq!((&spec["restartPolicy"], &spec["activeDeadlineSeconds"]), (&json!("Never"), &json!(600)));
    assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
    let container = &spec["containers"][0];
    assert_eq!((&container["image"], &container["imagePullPolicy"]), (&json!("v2"), &json!("IfNotPresent")));
    assert_eq!(container["resources"]["requests"]["cpu"], "0");
    assert_eq!(container["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
    let mut windows = owner();
    windows.spec.as_mut().unwrap().os = Some(k8s_openapi::api::core::v1::PodOS { name: "windows".into() });
    assert_eq!(puller(&pull("n7"), &windows).unwrap_err(), "a Windows pod");
}

#[test]
fn the_kubelets_words_say_whether_the_image_is_there() {
    let failed = |why: &str| Some(PullResult::Failed(why.to_owned()));
    let waits = |reason: &str| says(&json!({"waiting": {"reason": reason}}));
    let ended = |phase: &str, reason: &str| {
        let mut status = says(&json!({"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}}));
        (status["phase"], status["reason"]) = (json!(phase), json!(reason));
        status
    };
    for (status, expected) in [
        (json!({"phase": "Pending"}), None),
        (says(&json!({"waiting": {"reason": "ContainerCreating"}})), None),
        (waits("ErrImagePull"), failed("ErrImagePull")),
        (waits("ImagePullBackOff"), failed("ImagePullBackOff")),
        (waits("ErrImageNeverPull"), failed("ErrImageNeverPull")),
        (waits("InvalidImageName"), failed("InvalidImageName")),
        (waits("ImageInspectError"), failed("ImageInspectError")),
        (waits("RegistryUnavailable"), failed("RegistryUnavailable")),
        (waits("SignatureValidationFailed"), failed("SignatureValidationFailed")),
        (waits("CreateContainerConfigError"), Some(PullResult::Pulled)),
        (waits("PreCreateHookError"), Some(PullResult::Pulled)),
        (waits("CreateContainerError"), Some(PullResult::Pulled)),
        (waits("PreStartHookError"), Some(PullResult::Pulled)),
        (waits("RunContainerError"), Some(PullResult::Pulled)),
        (waits("StartError"), Some(PullResult::Pulled)),
        (waits("CrashLoopBackOff"), Some(PullResult::Pulled)),
        (says(&json!({"terminated": {"exitCode": 128, "reason": "StartError"}})), Some(PullResult::Pulled)),
        (ended("Failed", "DeadlineExceeded"), failed("not finished by podUpdateTimeoutSeconds")),
        (ended("Failed", "OutOfpods"), Some(PullResult::Skipped("the node refuses the puller: OutOfpods".into()))),
    ] {
        let wanted = [pull("n0")];
        let mut pullers = Pullers::default();
        pullers.created(wanted[0].clone(), "a".into(), at(0));
        let step = pullers.step(&wanted, &[seen(&wanted[0], "a", &status)], at(1));
        assert_eq!(step.results.first().map(|(_, _, outcome)| outcome.clone()), expected, "{status}");
        assert_eq!((step.delete.len(), step.create.len()), (usize::from(expected.is_some()), 0), "{status}");
    }
}

#[test]
fn a_pull_that_takes_too_long_has_failed() {
    let wanted = [pull("n0")];
    let mut pullers = Pullers::default();
    pullers.created(wanted[0].clone(), "a".into(), at(0));
    let pending = [seen(&wanted[0], "a", &json!({"phase": "Pending"}))];
    assert_eq!(pullers.step(&wanted, &pending, at(599)).results, []);
    let results = pullers.step(&wanted, &pending, at(600)).results;
    assert_eq!(results[0].2, PullResult::Failed("not finished by podUpdateTimeoutSeconds".into()));
}

#[test]
fn what_another_leader_left_counts_nothing_and_is_deleted() {
    let wanted = [pull("n0")];
    let left = [seen(&wanted[0], "left", &says(&json!({"waiting": {"reason": "ErrImagePull"}})))];
    let step = Pullers::default().step(&wanted, &left, at(0));
    assert_eq!((step.results.len(), step.delete.len(), step.create.len()), (0, 1, 1));
}

#[test]
fn a_pull_that_nobody_waits_for_any_more_is_ended() {
    let wanted = [pull("n0")];
    let mut pullers = Pullers::default();
    pullers.created(wanted[0].clone(), "a".into(), at(0));
    let step = pullers.step(&[], &[seen(&wanted[0], "a", &json!({"phase": "Pending"}))], at(1));
    assert_eq!((step.delete.len(), step.create.len(), pullers.is_empty()), (1, 0, true));
}

#[test]
fn pullers_that_something_else_deletes_are_not_made_for_ever() {
    let wanted = [pull("n0")];
    let mut pullers = Pullers::default();
    let mut results = Vec::new();
    for round in 0..3 {
        assert_eq!(pullers.step(&wanted, &[], at(20 * round)).create.len(), 1);
        pullers.created(wanted[0].clone(), format!("{round}"), at(20 * round));
        assert_eq!(pullers.step(&wanted, &[], at(20 * round + 5)).create.len(), 0, "the list may be old");
        results.extend(pullers.step(&wanted, &[], at(20 * round + 10)).results);
    }
    assert_eq!(results.len(), 1);
    assert!(matches!(results[0].2, PullResult::Skipped(_)));
}

#[test]
fn a_refusal_reads_the_same_for_each_puller() {
    let quota =
        "pods \"logs-pull-x7k2p\" is forbidden: exceeded quota: few, requested: pods=1, used: pods=3, limited: pods=3";
    assert_eq!(refusal(quota, "web"), "exceeded quota: few");
    let rights = "pods is forbidden: User \"system:serviceaccount:a:b\" cannot create resource \"pods\" in API group \"\" in the namespace \"web\"";
    assert_eq!(refusal(rights, "web"), "the operator may not create pods in web");
}
