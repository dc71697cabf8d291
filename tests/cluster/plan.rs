//! `kubectl sidecarset plan` against a cluster: what it says, its exit codes, and that it writes nothing.

use std::process::Stdio;

use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::common::world::{World, condition, is_ready};
use crate::common::{eventually, shared};

/// Exit code, and what was printed to both streams.
async fn plan(set: &Value) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-sidecarset"));
    command.args(["plan", "-f", "-"]).env("KUBECONFIG", shared()).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(set.to_string().as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.code().unwrap(), text)
}

/// Versions of everything that a plan could have touched.
async fn versions(world: &World) -> Vec<(String, Option<String>)> {
    let pods = world.pods().await.into_iter().map(|pod| (pod.name_any(), pod.resource_version()));
    let of_set = ListParams::default().labels(&format!("sidecarset.dev/set={}", world.name));
    let revisions = Api::<ControllerRevision>::all(world.client.clone()).list(&of_set).await.unwrap();
    let revisions = revisions.items.into_iter().map(|revision| (revision.name_any(), revision.resource_version()));
    let sets = world.sets().list(&ListParams::default()).await.unwrap().items.into_iter();
    let sets = sets.filter(|set| set.name_any().starts_with(&world.name));
    // Its status is the operator's, which may have more to say.
    let sets = sets.map(|set| (set.name_any(), set.metadata.generation.map(|generation| generation.to_string())));
    pods.chain(revisions).chain(sets).collect()
}

/// The line of the table that begins so, with single spaces.
fn line(text: &str, action: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(action)).unwrap_or_else(|| panic!("no {action:?} in {text}"));
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_plan_says_what_applying_would_do_and_writes_nothing() {
    let world = World::shared("plan").await;
    let set = world.set("agent:v1", json!({"maxUnavailable": 2}));
    world.apply(&set).await;
    world.deploy(3).await;
    let uninjected = json!({"metadata": {"name": "uninjected", "labels": {"app": "batch"}},
        "spec": {"containers": [{"name": "app", "image": "app:v1"}]}});
    world.create(uninjected).await.unwrap();
    eventually("all pods are ready", async || {
        let pods = world.pods().await;
        if pods.len() == 4 && pods.iter().all(is_ready) { Ok(()) } else { Err(pods.len()) }
    })
    .await;
    let settled = |set: &sidecarset::api::SidecarSet| {
        condition(set, "Ready") == "True" && set.status.as_ref().is_some_and(|status| status.ready_pods == 3)
    };
    world.until_set("the set is quiet", settled).await;
    let before = versions(&world).await;

    let (code, text) = plan(&set).await;
    assert_eq!(code, 0, "the same set again: {text}");
    assert_eq!(line(&text, "untouched"), "untouched 3 at this revision");

    let (code, text) = plan(&world.set("agent:v2", json!({"maxUnavailable": 2}))).await;
    assert_eq!(code, 1, "{text}");
    assert_eq!(line(&text, "patch in place"), "patch in place 3 agent: agent:v1 -> agent:v2");
    assert!(text.contains("first: 2 pods now (plan/app-"), "{text}");
    assert!(text.contains("(patched in place)\n"), "{text}");

    let mut with_env = set.clone();
    with_env["spec"]["containers"][0]["env"] = json!([{"name": "LEVEL", "value": "debug"}]);
    let (code, text) = plan(&with_env).await;
    assert_eq!(code, 1, "{text}");
    assert_eq!(line(&text, "leave behind"), "leave behind 3 containers[agent].env changed");
    assert!(text.contains("+    - name: LEVEL\n"), "the pod as it would be recreated: {text}");

    let mut new = world.set("other:v1", json!({}));
    new["metadata"]["name"] = json!("plan-new");
    new["spec"]["selector"]["matchLabels"]["app"] = json!("batch");
    let (code, text) = plan(&new).await;
    assert_eq!(code, 1, "{text}");
    assert_eq!(line(&text, "inject when recreated"), "inject when recreated 1 it has no sidecars of the set");

    let mut invalid = set.clone();
    invalid["spec"]["containers"][0]["ports"] = json!([{"containerPort": 70000}]);
    let (code, text) = plan(&invalid).await;
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("spec.containers[0].ports[0].containerPort: must be from 1 to 65535"), "{text}");

    let mut refused = set.clone();
    refused["spec"]["updateStrategy"]["maxUnavailable"] = json!(0);
    let (code, text) = plan(&refused).await;
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("spec.updateStrategy.maxUnavailable"), "the apiserver's own rule: {text}");

    assert_eq!(versions(&world).await, before, "a plan writes nothing");
    world.end().await;
}
