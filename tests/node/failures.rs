//! Images that do not work: noticed for what they are, stopped within the budget, and taken back.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::common::eventually;
use crate::common::world::{condition, container_image, is_ready, reason};
use crate::place::{NATIVE, ORDINARY, agent, application, fleet, probe, until_done, untouched, world};

const PODS: usize = 4;

/// Names of the pods whose sidecar ever had an image.
struct Touched {
    pods: Arc<Mutex<BTreeSet<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Touched {
    fn by(image: String, pods: Api<Pod>) -> Self {
        let touched = Arc::new(Mutex::new(BTreeSet::new()));
        let notes = Arc::clone(&touched);
        let task = tokio::spawn(async move {
            let mut events = watcher(pods, watcher::Config::default()).default_backoff().applied_objects().boxed();
            while let Some(event) = events.next().await {
                if let Ok(pod) = event
                    && container_image(&pod, "agent") == image
                {
                    notes.lock().unwrap().insert(pod.name_any());
                }
            }
        });
        Self { pods: touched, task }
    }

    fn count(self) -> usize {
        self.task.abort();
        self.pods.lock().unwrap().len()
    }
}

/// A bad image ends up on two of four pods at most, and all go back to the good one by themselves.
async fn is_rolled_back(name: &str, list: &str, image: &str) {
    // The deadline is out of reach: what is noticed here is the failure itself.
    let strategy = json!({
        // A container that crashes after a second must not pass for ready because the kubelet is busy.
        "maxUnavailable": 2, "minReadySeconds": 10, "podUpdateTimeoutSeconds": 3600,
        "failurePolicy": {"action": "Rollback"},
    });
    let Some(world) = fleet(name, list, PODS, &strategy).await else { return };
    let before = world.pods().await;
    let touched = Touched::by(format!("devcluster.test/{image}"), world.api());
    let begin = Instant::now();
    world.apply(&agent(&world, list, image, &strategy)).await;
    world
        .until_set("the revision is given up", |set| {
            ["RollingBack", "RolledBack"].contains(&reason(set, "Ready").as_str())
        })
        .await;
    println!("{name}: given up after {:?}", begin.elapsed());
    world.until_set("all pods are back", |set| reason(set, "Stalled") == "RolledBack").await;
    println!("{name}: back after {:?}", begin.elapsed());
    let after = eventually("all pods are ready with the good image", async || {
        let pods = world.pods().await;
        let good = |pod: &Pod| is_ready(pod) && container_image(pod, "agent") == "devcluster.test/sidecar:v1";
        if pods.iter().all(good) { Ok(pods) } else { Err(pods) }
    })
    .await;
    assert_eq!(untouched(&after), untouched(&before));
    let touched = touched.count();
    assert!((1..=2).contains(&touched), "{touched} pods got the bad image");
    world.end().await;
}

#[tokio::test]
async fn a_missing_image_of_an_ordinary_sidecar_is_rolled_back() {
    is_rolled_back("missing-ordinary", ORDINARY, "sidecar:missing").await;
}

#[tokio::test]
async fn a_missing_image_of_a_native_sidecar_is_rolled_back() {
    is_rolled_back("missing-native", NATIVE, "sidecar:missing").await;
}

#[tokio::test]
async fn a_crashing_image_of_an_ordinary_sidecar_is_rolled_back() {
    is_rolled_back("crash-ordinary", ORDINARY, "sidecar:crash").await;
}

#[tokio::test]
async fn a_crashing_image_of_a_native_sidecar_is_rolled_back() {
    is_rolled_back("crash-native", NATIVE, "sidecar:crash").await;
}

#[tokio::test]
async fn a_good_image_after_a_missing_one_does_not_fail_while_it_is_pulled() {
    let strategy = json!({"maxUnavailable": "100%", "minReadySeconds": 1, "podUpdateTimeoutSeconds": 3600});
    let Some(world) = fleet("slow-after-missing", ORDINARY, 2, &strategy).await else { return };
    world.apply(&agent(&world, ORDINARY, "sidecar:missing", &strategy)).await;
    world.until_set("the revision is given up", |set| reason(set, "Stalled") == "FailureBudgetExceeded").await;
    // The registry takes 5 s, and all the while the kubelet says why the image before could not be pulled.
    world.apply(&agent(&world, ORDINARY, "slow/sidecar:v1", &strategy)).await;
    world
        .until_set("the good image is rolled out", |set| {
            let status = set.status.as_ref().unwrap();
            assert_eq!(status.failed_pods, 0, "{status:?}");
            condition(set, "Ready") == "True" && status.updated_ready_pods == 2
        })
        .await;
    world.end().await;
}

#[tokio::test]
async fn a_native_sidecar_that_never_starts_goes_back_when_its_startup_probe_has_given_up() {
    let strategy = json!({
        "maxUnavailable": 1, "minReadySeconds": 1, "podUpdateTimeoutSeconds": 5, "failurePolicy": {"action": "Rollback"},
    });
    let probed = |world: &_, image: &str| {
        let mut set = agent(world, NATIVE, image, &strategy);
        let mut probe = probe(8081);
        probe["failureThreshold"] = json!(30);
        set["spec"][NATIVE][0]["startupProbe"] = probe;
        set
    };
    let Some(world) = world("never-started").await else { return };
    world.apply(&probed(&world, "sidecar:v1")).await;
    world.deploy_pods(1, application()).await;
    until_done(&world, 1).await;
    world.apply(&probed(&world, "sidecar:noready")).await;
    world
        .until_set("it is said what the way back waits for", |set| {
            let message = set.status.as_ref().unwrap().message.clone().unwrap_or_default();
            message.contains("agent: replaced when the startupProbe of the old container has succeeded or given up")
        })
        .await;
    world.until_set("the pod is back", |set| reason(set, "Stalled") == "RolledBack").await;
    world.end().await;
}
