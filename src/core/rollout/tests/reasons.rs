//! What the kubelet's reasons for a container that waits say of an update.

use serde_json::{Value, json};

use crate::core::rollout::assess::attempt::Progress;
use crate::core::rollout::testing::at;
use crate::core::rollout::tests::judging::{agent, down, judge, replaced};

#[test]
fn every_reason_for_which_a_container_is_not_started_is_evidence() {
    for reason in [
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
        "CreateContainerConfigError",
        "PreCreateHookError",
        "CreateContainerError",
        "PreStartHookError",
        "RunContainerError",
        "StartError",
    ] {
        let state = json!({"waiting": {"reason": reason}});
        assert_eq!(judge(3, down(state)), Progress::Failed(format!("agent: {reason}")));
    }
    for reason in ["ContainerCreating", "PodInitializing", "SomethingNew"] {
        let state = json!({"waiting": {"reason": reason}});
        assert_eq!(judge(3, down(state)), Progress::Undecided(Some(at(600))), "{reason}");
    }
}

#[test]
fn a_registry_that_was_unavailable_for_another_image_is_no_evidence() {
    let unavailable = |image: &str| {
        let message = format!("image pull failed for {image} because the registry is unavailable: \"busy\"");
        json!({"waiting": {"reason": "RegistryUnavailable", "message": message}})
    };
    assert_eq!(judge(3, down(unavailable("v2"))), Progress::Failed("agent: RegistryUnavailable".into()));
    assert_eq!(
        judge(3, down(unavailable("docker.io/library/v2:latest"))),
        Progress::Failed("agent: RegistryUnavailable".into())
    );
    assert_eq!(judge(599, down(unavailable("v20"))), Progress::Undecided(Some(at(600))));
}

#[test]
fn what_crashes_again_and_again_has_failed_while_it_is_up_too() {
    let crashed = |restarts: i32| {
        move |pod: &mut Value| {
            replaced(pod, 9);
            agent(pod)["restartCount"] = json!(restarts);
            agent(pod)["lastState"]["terminated"]["exitCode"] = json!(7);
        }
    };
    assert_eq!(judge(10, crashed(2)), Progress::Undecided(Some(at(14))), "once, and it may be for the last time");
    assert_eq!(judge(10, crashed(3)), Progress::Failed("agent: restarted 2 times, last exit code 7".into()));
    assert_eq!(judge(14, crashed(3)), Progress::Done, "it holds out");
}
