//! Hot upgrades: twins that hand over to each other.

use std::sync::{Arc, Mutex};

use devcluster::DevCluster;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::common::eventually;
use crate::common::operator::Operator;
use crate::common::world::{World, condition, container_image, reason};

const EMPTY: &str = "empty:v1";

/// A set with the hot sidecar `mesh`; `list` is `containers` or `initContainers`.
fn hot_set(world: &World, list: &str, image: &str, strategy: &Value) -> Value {
    let mut set = world.set("none", strategy.clone());
    let spec = set["spec"].as_object_mut().unwrap();
    spec.remove("containers");
    let mut mesh = json!({"name": "mesh", "image": image,
        "upgradeStrategy": {"upgradeType": "HotUpgrade", "hotUpgradeEmptyImage": EMPTY}});
    if list == "initContainers" {
        mesh["restartPolicy"] = json!("Always");
    }
    spec.insert(list.to_owned(), json!([mesh]));
    set
}

fn strategy() -> Value {
    json!({"maxUnavailable": 2, "minReadySeconds": 1})
}

fn images(pod: &Pod) -> [String; 2] {
    ["mesh-1", "mesh-2"].map(|twin| container_image(pod, twin))
}

fn status(pod: &Pod, name: &str) -> ContainerStatus {
    let status = pod.status.as_ref().unwrap();
    let mut all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    all.find(|status| status.name == name).cloned().unwrap()
}

fn restarts(pod: &Pod) -> [i32; 3] {
    ["mesh-1", "mesh-2", "app"].map(|name| status(pod, name).restart_count)
}

fn versions(pod: &Pod) -> [&str; 4] {
    ["version.sidecarset.dev/mesh-1", "versionalt.sidecarset.dev/mesh-1"]
        .into_iter()
        .chain(["version.sidecarset.dev/mesh-2", "versionalt.sidecarset.dev/mesh-2"])
        .map(|key| pod.annotations()[key].as_str())
        .collect::<Vec<_>>()
        .try_into()
        .unwrap()
}

async fn until_images(world: &World, expected: [&str; 2]) {
    eventually("all twins have these images", async || {
        let seen: Vec<_> = world.pods().await.iter().map(images).collect();
        if seen.iter().all(|images| *images == expected) { Ok(()) } else { Err(seen) }
    })
    .await;
}

async fn until_available(world: &World, pods: i32) {
    let done = |set: &sidecarset::api::SidecarSet| {
        condition(set, "Ready") == "True" && set.status.as_ref().unwrap().updated_ready_pods == pods
    };
    world.until_set("all pods are available", done).await;
}

/// Watches pods, and keeps each moment at which none of a pod's twins ran its real image and was ready.
struct ServiceWatcher {
    gaps: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl ServiceWatcher {
    fn start(pods: Api<Pod>) -> Self {
        let gaps = Arc::new(Mutex::new(Vec::new()));
        let found = Arc::clone(&gaps);
        let task = tokio::spawn(async move {
            let mut events = watcher(pods, watcher::Config::default()).default_backoff().applied_objects().boxed();
            while let Some(pod) = events.try_next().await.ok().flatten() {
                let serves = ["mesh-1", "mesh-2"].into_iter().any(|twin| {
                    let status = status(&pod, twin);
                    // The simulated kubelet keeps the image that a container was started from behind the #.
                    status.ready && !status.container_id.unwrap_or_default().ends_with(EMPTY)
                });
                if !serves {
                    found.lock().unwrap().push(format!("{}: {:?}", pod.name_any(), pod.status));
                }
            }
        });
        Self { gaps, task }
    }

    fn gaps(self) -> Vec<String> {
        self.task.abort();
        self.gaps.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn one_twin_takes_over_while_the_other_serves_and_is_then_reset() {
    let world = World::shared("hot-upgrade").await;
    world.apply(&hot_set(&world, "containers", "mesh:v1", &strategy())).await;
    world.deploy(3).await;
    until_available(&world, 3).await;
    let watched = ServiceWatcher::start(world.api());

    world.apply(&hot_set(&world, "containers", "mesh:v2", &strategy())).await;
    until_available(&world, 3).await;
    for pod in world.pods().await {
        assert_eq!(images(&pod), [EMPTY, "mesh:v2"]);
        assert_eq!(restarts(&pod), [1, 1, 0], "one restart of each twin, none of the application");
        assert_eq!(versions(&pod), ["0", "2", "2", "0"]);
    }
    world.apply(&hot_set(&world, "containers", "mesh:v3", &strategy())).await;
    until_available(&world, 3).await;
    for pod in world.pods().await {
        assert_eq!(images(&pod), ["mesh:v3", EMPTY], "the next one goes the other way");
        assert_eq!((restarts(&pod), versions(&pod)), ([2, 2, 0], ["3", "0", "0", "3"]));
    }
    assert_eq!(watched.gaps(), Vec::<String>::new());
    world.end().await;
}

#[tokio::test]
async fn native_hot_sidecars_hand_over_too() {
    let world = World::shared("hot-native").await;
    world.apply(&hot_set(&world, "initContainers", "mesh:v1", &strategy())).await;
    world.deploy(1).await;
    until_available(&world, 1).await;
    let watched = ServiceWatcher::start(world.api());
    world.apply(&hot_set(&world, "initContainers", "mesh:v2", &strategy())).await;
    until_available(&world, 1).await;
    assert_eq!(images(&world.pods().await[0]), [EMPTY, "mesh:v2"]);
    assert_eq!(watched.gaps(), Vec::<String>::new());
    world.end().await;
}

#[tokio::test]
async fn bad_images_never_reach_the_twin_that_serves() {
    let world = World::shared("hot-bad").await;
    world.apply(&hot_set(&world, "containers", "mesh:v1", &strategy())).await;
    world.deploy(4).await;
    until_available(&world, 4).await;
    let watched = ServiceWatcher::start(world.api());
    for image in ["mesh:nopull", "mesh:nopull-again"] {
        world.apply(&hot_set(&world, "containers", image, &strategy())).await;
        let stopped = world.until_set("the budget stops it", |set| condition(set, "Stalled") == "True").await;
        assert_eq!(reason(&stopped, "Stalled"), "FailureBudgetExceeded");
        let message = stopped.status.unwrap().message.unwrap();
        assert!(message.contains("mesh-2: "), "{message}");
        let hit = world.pods().await.iter().filter(|pod| images(pod) == ["mesh:v1", image]).count();
        assert_eq!(hit, 2, "the same two pods, in the twin that does not serve");
    }
    world.apply(&hot_set(&world, "containers", "mesh:v1", &strategy())).await;
    until_available(&world, 4).await;
    assert!(world.pods().await.iter().all(|pod| images(pod) == ["mesh:v1", EMPTY] && restarts(pod)[0] == 0));

    world.apply(&hot_set(&world, "containers", "mesh:nopull", &strategy())).await;
    world.until_set("the budget stops it", |set| condition(set, "Stalled") == "True").await;
    world.apply(&hot_set(&world, "containers", "mesh:v3", &strategy())).await;
    until_available(&world, 4).await;
    assert!(world.pods().await.iter().all(|pod| images(pod) == [EMPTY, "mesh:v3"]));
    assert_eq!(watched.gaps(), Vec::<String>::new());
    world.end().await;
}

#[tokio::test]
async fn a_pause_before_the_reset_leaves_both_twins_running() {
    let world = World::shared("hot-pause").await;
    world.apply(&hot_set(&world, "containers", "mesh:v1", &strategy())).await;
    world.deploy(1).await;
    until_available(&world, 1).await;
    world.apply(&hot_set(&world, "containers", "mesh:slow-v2", &strategy())).await;
    until_images(&world, ["mesh:v1", "mesh:slow-v2"]).await;
    let mut paused = strategy();
    paused["paused"] = json!(true);
    world.apply(&hot_set(&world, "containers", "mesh:slow-v2", &paused)).await;
    let set = world
        .until_set("the reset waits", |set| {
            set.status.as_ref().unwrap().message.as_ref().is_some_and(|m| m.contains("paused"))
        })
        .await;
    assert_eq!(reason(&set, "Ready"), "Paused");
    assert_eq!(images(&world.pods().await[0]), ["mesh:v1", "mesh:slow-v2"]);
    world.apply(&hot_set(&world, "containers", "mesh:slow-v2", &strategy())).await;
    until_available(&world, 1).await;
    assert_eq!(images(&world.pods().await[0]), [EMPTY, "mesh:slow-v2"]);
    world.end().await;
}

#[tokio::test]
async fn an_operator_killed_between_the_phases_is_followed_by_one_that_goes_on() {
    const SHORT_LEASE: [&str; 1] = ["--lease-duration-seconds=3"];
    let cluster = DevCluster::start().await.unwrap();
    let operator = Operator::start(cluster.kubeconfig(), "same-name", &SHORT_LEASE).await;
    let world = World::new(cluster.kubeconfig(), "hot-crash").await;
    world.apply(&hot_set(&world, "containers", "mesh:v1", &strategy())).await;
    world.deploy(2).await;
    until_available(&world, 2).await;
    let watched = ServiceWatcher::start(world.api());

    world.apply_without_waiting(&hot_set(&world, "containers", "mesh:slow-v2", &strategy())).await;
    until_images(&world, ["mesh:v1", "mesh:slow-v2"]).await;
    operator.kill();
    eventually("the new twins are ready", async || {
        let ready = world.pods().await.iter().filter(|pod| status(pod, "mesh-2").ready).count();
        if ready == 2 && world.pods().await.iter().all(|pod| restarts(pod)[1] == 1) { Ok(()) } else { Err(ready) }
    })
    .await;
    assert!(world.pods().await.iter().all(|pod| images(pod) == ["mesh:v1", "mesh:slow-v2"]));

    let operator = Operator::start(cluster.kubeconfig(), "same-name", &SHORT_LEASE).await;
    until_images(&world, [EMPTY, "mesh:slow-v2"]).await;
    operator.kill();
    let operator = Operator::start(cluster.kubeconfig(), "same-name", &SHORT_LEASE).await;
    until_available(&world, 2).await;
    for pod in world.pods().await {
        assert_eq!((images(&pod), restarts(&pod)), ([EMPTY.into(), "mesh:slow-v2".into()], [1, 1, 0]));
    }
    assert_eq!(watched.gaps(), Vec::<String>::new());
    assert!(operator.terminate());
    cluster.stop().await;
}
