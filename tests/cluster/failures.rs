//! Bad images: how far they come, and what becomes of them. And steps, which are there to find them early.

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use sidecarset::api::SidecarSet;

use crate::common::eventually;
use crate::common::world::{World, condition, container_image, identities, reason};

fn update_revision(set: &SidecarSet) -> String {
    set.status.as_ref().unwrap().update_revision.clone().unwrap()
}

/// Pods with v1, all ready, and v1 the stable revision.
async fn fleet(name: &str, pods: usize, strategy: &Value) -> World {
    let world = World::shared(name).await;
    world.apply(&world.set("agent:v1", strategy.clone())).await;
    world.deploy(pods).await;
    world
        .until_set("the first revision is stable", |set| {
            let status = set.status.as_ref().unwrap();
            status.stable_revision.is_some() && usize::try_from(status.updated_ready_pods) == Ok(pods)
        })
        .await;
    world
}

async fn annotate(world: &World, key: &str, value: String) {
    let patch = json!({"metadata": {"annotations": {key: value}}});
    world.sets().patch(&world.name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

#[tokio::test]
async fn an_image_that_crashes_is_given_up_and_tried_again_on_request() {
    let strategy = json!({"maxUnavailable": 3, "minReadySeconds": 5, "podUpdateTimeoutSeconds": 20});
    let world = fleet("failures-pause", 12, &strategy).await;
    world.apply(&world.set("agent:crash", strategy.clone())).await;
    let set =
        world.until_set("the revision is given up", |set| reason(set, "Stalled") == "FailureBudgetExceeded").await;
    assert_eq!(set.status.as_ref().unwrap().aborted_revision, Some(update_revision(&set)));
    let touched = world.with_image("agent:crash").await;
    assert!((1..=3).contains(&touched), "{touched} pods were touched");
    let events = world.api::<Event>();
    eventually("each failed pod has an event", async || {
        let listed = events.list(&ListParams::default()).await.unwrap().items;
        let about: Vec<Event> =
            listed.into_iter().filter(|e| e.reason.as_deref() == Some("SidecarUpgradeFailed")).collect();
        // A crash loop does not always say so.
        let text = |e: &Event| {
            let message = e.message.clone().unwrap_or_default();
            message.contains("CrashLoopBackOff") || message.contains("last exit code 7")
        };
        if about.len() >= 2 && about.iter().all(text) { Ok(()) } else { Err(about) }
    })
    .await;

    annotate(&world, "sidecarset.dev/retry", format!("{}/1", update_revision(&set))).await;
    world.until_set("it is tried again", |set| reason(set, "Reconciling") == "RollingUpdate").await;
    world.until_set("and given up again", |set| reason(set, "Stalled") == "FailureBudgetExceeded").await;
    assert!(world.with_image("agent:crash").await <= 3, "the budget holds across retries");

    world.apply(&world.set("agent:v2", strategy)).await;
    let set = world.until_set("a good image heals", |set| condition(set, "Ready") == "True").await;
    assert_eq!(world.with_image("agent:v2").await, 12);
    assert_eq!(set.status.as_ref().unwrap().aborted_revision, None);
    world.end().await;
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_rolled_back_and_stays_so() {
    let strategy = json!({"maxUnavailable": 2, "minReadySeconds": 1, "failurePolicy": {"action": "Rollback"}});
    let world = fleet("failures-rollback", 10, &strategy).await;
    let before = identities(&world.pods().await, "agent");
    world.apply(&world.set("agent:nopull", strategy.clone())).await;
    let set = world.until_set("the pods are back", |set| reason(set, "Stalled") == "RolledBack").await;
    assert_eq!(world.with_image("agent:v1").await, 10);
    assert_eq!(identities(&world.pods().await, "agent"), before, "in place, there and back");
    let status = set.status.as_ref().unwrap();
    assert_eq!((status.updated_pods, status.ready_pods, status.failed_pods), (0, 10, 0));
    assert_eq!(status.injection_revision, status.stable_revision);

    let born = world.pod("late", json!({"containers": [{"name": "app", "image": "app:v1"}]})).await.unwrap();
    assert_eq!(container_image(&born, "agent"), "agent:v1", "new pods get the stable revision too");
    world.until_set("the new pod is counted", |set| set.status.as_ref().unwrap().matched_pods == 11).await;
    assert_eq!(world.with_image("agent:nopull").await, 0, "nothing rolls out again by itself");
    world.end().await;
}

#[tokio::test]
async fn a_bad_image_touches_exactly_max_unavailable_of_the_ready_pods() {
    let strategy = json!({"maxUnavailable": 5, "minReadySeconds": 1, "failurePolicy": {"maxFailed": "100%"}});
    let world = fleet("failures-exact", 60, &strategy).await;
    world.apply(&world.set("agent:nopull", strategy)).await;
    world.until_set("the revision is given up", |set| reason(set, "Stalled") == "FailureBudgetExceeded").await;
    assert_eq!(world.with_image("agent:nopull").await, 5);
    world.end().await;
}

#[tokio::test]
async fn steps_wait_for_a_person_and_then_for_a_time() {
    let steps = json!([{"replicas": 2, "pause": {}}, {"replicas": "50%", "pause": {"durationSeconds": 5}}]);
    let strategy = json!({"maxUnavailable": "100%", "minReadySeconds": 1, "steps": steps});
    let world = fleet("failures-steps", 8, &strategy).await;
    world.apply(&world.set("agent:v2", strategy)).await;
    let set = world.until_set("it asks for approval", |set| reason(set, "Ready") == "WaitingForApproval").await;
    assert_eq!((world.with_image("agent:v2").await, set.status.as_ref().unwrap().current_step), (2, Some(1)));
    let message = set.status.as_ref().unwrap().message.clone().unwrap();
    let approval = format!("sidecarset.dev/approve={}/1", update_revision(&set));
    assert!(message.contains(&approval), "{message}");

    annotate(&world, "sidecarset.dev/approve", format!("{}/1", update_revision(&set))).await;
    let set = world.until_set("the second step pauses", |set| reason(set, "Ready") == "StepPause").await;
    assert_eq!((world.with_image("agent:v2").await, set.status.as_ref().unwrap().current_step), (4, Some(2)));
    world.until_set("the rest follows", |set| condition(set, "Ready") == "True").await;
    assert_eq!(world.with_image("agent:v2").await, 8);
    world.end().await;
}

#[tokio::test]
async fn a_rollout_that_cannot_move_is_stalled_and_says_by_whom() {
    let strategy = json!({"maxUnavailable": 1, "minReadySeconds": 0, "progressDeadlineSeconds": 4,
        "failurePolicy": {"action": "Ignore"}});
    let world = fleet("failures-deadline", 4, &strategy).await;
    world.apply(&world.set("agent:nopull", strategy.clone())).await;
    let set = world.until_set("it is stalled", |set| reason(set, "Stalled") == "ProgressDeadlineExceeded").await;
    let message = set.status.as_ref().unwrap().message.clone().unwrap();
    assert!(message.contains("1 of 1 unavailable") && message.contains("failures-deadline/app-"), "{message}");
    world.apply(&world.set("agent:v2", strategy)).await;
    world.until_set("a good image goes on", |set| condition(set, "Ready") == "True").await;
    world.end().await;
}

#[tokio::test]
async fn an_unfinished_rollback_of_a_vanished_pod_frees_its_slot() {
    let strategy = json!({"maxUnavailable": 1, "minReadySeconds": 1, "failurePolicy": {"action": "Ignore"}});
    let world = fleet("failures-vanish", 4, &strategy).await;
    world.apply(&world.set("agent:nopull", strategy)).await;
    let stuck = eventually("one pod is in flight", async || {
        let pods = world.pods().await;
        pods.into_iter().find(|pod| container_image(pod, "agent") == "agent:nopull").ok_or("none")
    })
    .await;
    world.api::<Pod>().delete(&stuck.name_any(), &DeleteParams::default().grace_period(0)).await.unwrap();
    eventually("the next pod takes the slot", async || {
        let pods = world.pods().await;
        let next = pods.iter().find(|pod| container_image(pod, "agent") == "agent:nopull" && pod.uid() != stuck.uid());
        next.map(|_| ()).ok_or_else(|| pods.iter().map(|pod| container_image(pod, "agent")).collect::<Vec<_>>())
    })
    .await;
    world.end().await;
}
