//! Pods that only pull: what a kubelet says about them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, dead_code)]

mod common;

use common::{cluster, create, namespace, until};
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use kube::Api;
use serde_json::json;

/// The state of the one container of a pod that pulls an image, as soon as it is any of these.
async fn pulled(name: &str, image: &str, reached: fn(&ContainerState) -> bool) -> Pod {
    let client = cluster().await.client();
    let namespace = namespace(&client, name).await;
    let api: Api<Pod> = Api::namespaced(client, &namespace);
    let pod = json!({
        "metadata": {"name": "pull", "labels": {"sidecarset.dev/pulls-for": "set"}},
        "spec": {"nodeName": "node-0", "restartPolicy": "Never", "containers": [
            {"name": "pull", "image": image, "command": ["/sidecarset.dev/pre-pull-runs-nothing"]},
        ]},
    });
    create(&api, pod).await;
    until("the pull is over", async || {
        let pod = api.get("pull").await.unwrap();
        state(&pod).is_some_and(reached).then_some(pod)
    })
    .await
}

fn state(pod: &Pod) -> Option<&ContainerState> {
    pod.status.as_ref()?.container_statuses.as_ref()?[0].state.as_ref()
}

#[tokio::test]
async fn a_command_that_no_image_has_fails_after_the_pull() {
    let pod = pulled("pulls-good", "agent:v2", |state| state.terminated.is_some()).await;
    let end = state(&pod).unwrap().terminated.as_ref().unwrap();
    assert_eq!((end.exit_code, end.reason.as_deref()), (128, Some("StartError")));
    assert_eq!(pod.status.unwrap().phase.as_deref(), Some("Failed"));
}

#[tokio::test]
async fn an_image_that_is_not_there_is_waited_for() {
    let waits = |state: &ContainerState| {
        let reason = state.waiting.as_ref().and_then(|waiting| waiting.reason.as_deref());
        reason == Some("ImagePullBackOff")
    };
    let pod = pulled("pulls-bad", "agent:nopull", waits).await;
    assert_eq!(pod.status.unwrap().phase.as_deref(), Some("Pending"));
}
