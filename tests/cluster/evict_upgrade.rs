//! `updateStrategy.whenNotInPlace: Evict`: pods whose change cannot be made in place are replaced by their owners.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use sidecarset::api::SidecarSet;

use crate::common::eventually;
use crate::common::world::{World, container, is_ready, reason};
use crate::evictions::strict_disruption_budget;
use crate::uninjected::{FewestReady, app, daemon_set, events, message, uids};

/// The world's set; a new `value` of the variable is a change that no running pod can follow.
fn with_env(world: &World, value: &str, strategy: Value) -> Value {
    let mut set = world.set("agent:v1", strategy);
    set["spec"]["updateStrategy"]["minReadySeconds"] = json!(0);
    set["spec"]["containers"][0]["env"] = json!([{"name": "MODE", "value": value}]);
    set
}

fn evict() -> Value {
    json!({"whenNotInPlace": "Evict"})
}

fn mode(pod: &Pod) -> String {
    let env = container(pod, "agent").env.iter().flatten().find(|variable| variable.name == "MODE");
    env.and_then(|variable| variable.value.clone()).unwrap_or_default()
}

fn of_mode(pods: &[Pod], value: &str) -> usize {
    pods.iter().filter(|pod| mode(pod) == value).count()
}

fn updated(set: &SidecarSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.updated_ready_pods)
}

async fn until_updated(world: &World, pods: i32) -> SidecarSet {
    world.until_set(&format!("{pods} pods are updated"), |set| updated(set) == pods).await
}

async fn until_quiet(world: &World, why: &str) -> SidecarSet {
    let quiet = |set: &SidecarSet| set.status.as_ref().is_some_and(|status| status.evictions.is_none());
    world.until_set(why, |set| reason(set, "Ready") == why && quiet(set)).await
}

#[tokio::test]
async fn an_env_change_has_each_pod_evicted_once_within_the_budget() {
    let world = World::shared("evict-upgrade").await;
    world.apply(&with_env(&world, "old", evict())).await;
    world.deploy(3).await;
    until_updated(&world, 3).await;
    let before = uids(&world.pods().await);
    let fewest = FewestReady::start(world.api());
    let seen = Uids::start(world.api());

    world.apply(&with_env(&world, "new", evict())).await;
    let done = until_quiet(&world, "UpToDate").await;
    let status = done.status.clone().unwrap();
    let pods = world.pods().await;
    assert_eq!((of_mode(&pods, "new"), pods.len()), (3, 3));
    assert!(uids(&pods).is_disjoint(&before));
    assert_eq!(fewest.end(), 2, "one pod at a time");
    assert_eq!(seen.end().len(), 6, "each pod was replaced once");
    assert_eq!(status.stable_revision, status.update_revision);
    let event =
        eventually("an event", async || events(&world, &world.name, "EvictedForSidecars").await.pop().ok_or("none"))
            .await;
    let about = event.regarding.unwrap();
    assert_eq!((about.kind.as_deref(), about.name.as_deref()), (Some("Deployment"), Some("app")));
    assert!(event.note.clone().unwrap().contains("to upgrade its sidecars to revision"), "{:?}", event.note);
    world.end().await;
}

/// The UIDs of all pods that were ever there.
struct Uids(tokio::task::JoinHandle<()>, std::sync::Arc<std::sync::Mutex<BTreeSet<String>>>);

impl Uids {
    fn start(pods: Api<Pod>) -> Self {
        use futures::{StreamExt, TryStreamExt};
        use kube::runtime::{WatchStreamExt, watcher};
        let all = std::sync::Arc::new(std::sync::Mutex::new(BTreeSet::new()));
        let seen = std::sync::Arc::clone(&all);
        let task = tokio::spawn(async move {
            let mut events = watcher(pods, watcher::Config::default()).default_backoff().applied_objects().boxed();
            while let Some(pod) = events.try_next().await.ok().flatten() {
                seen.lock().unwrap().insert(pod.uid().unwrap());
            }
        });
        Self(task, all)
    }

    fn end(self) -> BTreeSet<String> {
        self.0.abort();
        self.1.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn a_disruption_budget_blocks_an_upgrade_and_is_named() {
    let world = World::shared("evict-upgrade-pdb").await;
    world.apply(&with_env(&world, "old", evict())).await;
    world.deploy(2).await;
    until_updated(&world, 2).await;
    let budgets = strict_disruption_budget(&world, 2).await;
    let before = uids(&world.pods().await);

    world.apply(&with_env(&world, "new", evict())).await;
    let blocked = world.until_set("the budget is named", |set| message(set).contains("disruption budget strict")).await;
    assert_eq!(reason(&blocked, "Ready"), "EvictionBlocked");
    assert!(message(&blocked).contains("evicted in turn: 2 (containers[agent].env changed)"), "{}", message(&blocked));
    assert_eq!(uids(&world.pods().await), before);

    budgets.delete("strict", &DeleteParams::default()).await.unwrap();
    let done = until_quiet(&world, "UpToDate").await;
    assert!(!message(&done).contains("waiting"), "{}", message(&done));
    assert_eq!(of_mode(&world.pods().await, "new"), 2);
    world.end().await;
}

#[tokio::test]
async fn a_bad_change_that_needs_new_pods_is_rolled_back_by_evictions() {
    let world = World::shared("evict-upgrade-bad").await;
    let strategy = || json!({"whenNotInPlace": "Evict", "failurePolicy": {"action": "Rollback"}});
    world.apply(&with_env(&world, "old", strategy())).await;
    world.deploy(4).await;
    until_updated(&world, 4).await;
    let stable = world.until_set("it is stable", |set| set.status.as_ref().unwrap().stable_revision.is_some()).await;
    let before = uids(&world.pods().await);
    let fewest = FewestReady::start(world.api());
    let mut bad = with_env(&world, "bad", strategy());
    bad["spec"]["containers"][0]["image"] = json!("agent:crash");
    bad["spec"]["updateStrategy"]["minReadySeconds"] = json!(5);
    world.apply(&bad).await;

    let back = until_quiet(&world, "RolledBack").await;
    let said = message(&back);
    assert!(said.contains("stopped by 1 failed: ") && said.contains("agent: CrashLoopBackOff"), "{said}");
    let pods = world.pods().await;
    assert_eq!((of_mode(&pods, "old"), pods.len()), (4, 4), "{said}");
    assert_eq!(uids(&pods).intersection(&before).count(), 3, "one pod was touched");
    assert_eq!(fewest.end(), 3, "one pod at a time");
    let status = back.status.unwrap();
    assert_eq!(status.injection_revision, stable.status.unwrap().stable_revision);
    world.end().await;
}

#[tokio::test]
async fn pods_that_are_never_evicted_are_reported_with_their_kind() {
    let world = World::shared("evict-upgrade-exempt").await;
    world.apply(&with_env(&world, "old", evict())).await;
    world.pod("bare", app()).await.unwrap();
    daemon_set(&world).await;
    let before = eventually("all pods are ready", async || {
        let pods = world.pods().await;
        if pods.iter().all(is_ready) { Ok(pods) } else { Err(uids(&pods)) }
    })
    .await;
    world.apply(&with_env(&world, "new", evict())).await;
    let never = format!("never evicted: pods of DaemonSets ({}), pods without a controller (1)", before.len() - 1);
    let said = world.until_set(&never, |set| message(set).contains(&never)).await;
    assert_eq!(reason(&said, "Ready"), "NotInPlace");
    assert_eq!(uids(&world.pods().await), uids(&before));
    world.end().await;
}

#[tokio::test]
async fn partition_keeps_half_of_the_pods_from_being_evicted() {
    let world = World::shared("evict-upgrade-half").await;
    let half = || json!({"whenNotInPlace": "Evict", "partition": "50%", "maxUnavailable": 2});
    world.apply(&with_env(&world, "old", evict())).await;
    world.deploy(4).await;
    until_updated(&world, 4).await;
    let before = uids(&world.pods().await);
    world.apply(&with_env(&world, "new", half())).await;
    let held = until_quiet(&world, "PartitionReached").await;
    let pods = world.pods().await;
    assert_eq!((of_mode(&pods, "new"), of_mode(&pods, "old")), (2, 2), "{}", message(&held));
    assert_eq!(uids(&pods).intersection(&before).count(), 2);
    let status = held.status.unwrap();
    assert_eq!(status.injection_revision, status.stable_revision, "new pods stay within the share");

    world.apply(&with_env(&world, "new", evict())).await;
    until_quiet(&world, "UpToDate").await;
    assert_eq!(of_mode(&world.pods().await, "new"), 4);
    world.end().await;
}

#[tokio::test]
async fn with_defaults_an_env_change_reaches_the_pods_that_a_restart_makes() {
    let world = World::shared("evict-upgrade-skip").await;
    world.apply(&with_env(&world, "old", json!({}))).await;
    world.deploy(2).await;
    until_updated(&world, 2).await;
    world.apply(&with_env(&world, "new", json!({}))).await;
    let waits = |set: &SidecarSet| message(set).contains("new pods get the new revision: 2");
    world.until_set("nothing is evicted", waits).await;
    assert_eq!(of_mode(&world.pods().await, "old"), 2);
    let restarted =
        json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}}});
    let deployments: Api<Deployment> = world.api();
    deployments.patch("app", &PatchParams::default(), &Patch::Merge(&restarted)).await.unwrap();
    until_quiet(&world, "UpToDate").await;
    eventually("all pods are new", async || {
        let pods = world.pods().await;
        if (pods.len(), of_mode(&pods, "new")) == (2, 2) { Ok(()) } else { Err(pods.len()) }
    })
    .await;
    world.end().await;
}
