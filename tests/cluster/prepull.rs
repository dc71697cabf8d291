//! `updateStrategy.prePull`: nodes pull before sidecars are stopped.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::common::eventually;
use crate::common::world::{World, condition, container_image, identities, is_ready, lists, reason};

const PULLS_FOR: &str = "sidecarset.dev/pulls-for";

fn strategy(max_unavailable: usize) -> Value {
    json!({"maxUnavailable": max_unavailable, "minReadySeconds": 0, "prePull": true})
}

impl World {
    async fn pullers(&self) -> Vec<Pod> {
        self.api::<Pod>().list(&ListParams::default().labels(PULLS_FOR)).await.unwrap().items
    }

    async fn until_no_puller_is_left(&self) {
        eventually("no puller is left", async || {
            let left = self.pullers().await;
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
    }
}

/// Follows the pods of a world: the nodes whose puller of an image has done its work, and the pods that got the image.
struct Witness {
    seen: Arc<Mutex<Seen>>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    pulled: BTreeSet<String>,
    patched: BTreeSet<String>,
    /// Patched while their node had not pulled.
    too_early: Vec<String>,
    at_once: usize,
    /// Pods with the label that carry anything else than what pulls.
    injected: Vec<String>,
}

impl Witness {
    fn start(pods: Api<Pod>, image: &'static str) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let notes = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut open = BTreeSet::new();
            let mut events = watcher(pods, watcher::Config::default()).default_backoff().boxed();
            while let Some(event) = events.try_next().await.ok().flatten() {
                let mut seen = notes.lock().unwrap();
                match event {
                    watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) => seen.note(&pod, image, &mut open),
                    watcher::Event::Delete(pod) => drop(open.remove(&pod.name_any())),
                    watcher::Event::Init | watcher::Event::InitDone => {}
                }
            }
        });
        Self { seen, task }
    }

    fn end(self) -> Seen {
        self.task.abort();
        self.seen.lock().unwrap().clone()
    }
}

impl Seen {
    fn note(&mut self, pod: &Pod, image: &str, open: &mut BTreeSet<String>) {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        if pod.labels().contains_key(PULLS_FOR) {
            open.insert(pod.name_any());
            self.at_once = self.at_once.max(open.len());
            if lists(pod) != (vec!["pull-0"], vec![]) {
                self.injected.push(pod.name_any());
            }
            let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            let mut states = statuses.filter_map(|status| status.state.as_ref());
            if states.any(|state| state.terminated.is_some()) {
                self.pulled.insert(node);
            }
            return;
        }
        let is_news = container_image(pod, "agent") == image && self.patched.insert(pod.name_any());
        if is_news && !self.pulled.contains(&node) {
            self.too_early.push(pod.name_any());
        }
    }
}

#[tokio::test]
async fn images_are_pulled_before_the_first_sidecar_stops() {
    let world = World::shared("prepull-first").await;
    world.apply(&world.set("agent:v1", strategy(3))).await;
    world.deploy(6).await;
    world.until_set("all pods are counted", |set| set.status.as_ref().unwrap().updated_ready_pods == 6).await;
    let before = identities(&world.pods().await, "agent");
    // As if an operator had died.
    let left = json!({
        "metadata": {"name": "left", "labels": {PULLS_FOR: world.name, "sidecarset.dev/inject": "false"}},
        "spec": {"containers": [{"name": "pull-0", "image": "agent:slowpull"}]},
    });
    world.create(left).await.unwrap();
    let witness = Witness::start(world.api(), "agent:slowpull");
    world.apply_without_waiting(&world.set("agent:slowpull", strategy(3))).await;
    world
        .until_set("it says what it pulls", |set| {
            let message = set.status.as_ref().unwrap().message.clone().unwrap_or_default();
            message.contains("; pulling agent:slowpull on ") && message.contains(": node-")
        })
        .await;
    let set = world.until_set("the rollout ends", |set| set.status.as_ref().unwrap().updated_ready_pods == 6).await;
    assert_eq!(reason(&set, "Ready"), "UpToDate");
    world.until_no_puller_is_left().await;
    let seen = witness.end();
    assert_eq!((seen.patched.len(), seen.too_early.as_slice()), (6, &[][..]), "{seen:?}");
    assert!(seen.pulled.len() > 1, "{seen:?}");
    assert!(seen.at_once <= 4, "at most one per pod of a batch, and the one that was left: {seen:?}");
    assert_eq!(identities(&world.pods().await, "agent"), before);
    world.end().await;
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_stops_no_sidecar() {
    let world = World::shared("prepull-bad").await;
    world.apply(&world.set("agent:v1", strategy(2))).await;
    world.deploy(8).await;
    let before = identities(&world.pods().await, "none");
    world.apply(&world.set("agent:nopull", strategy(2))).await;
    let stopped = world.until_set("the budget stops it", |set| condition(set, "Stalled") == "True").await;
    assert_eq!(reason(&stopped, "Stalled"), "FailureBudgetExceeded");
    let status = stopped.status.unwrap();
    let message = status.message.unwrap();
    assert!(message.contains("node node-") && message.contains(" (pull of agent:nopull: "), "{message}");
    assert_eq!((status.updated_pods, status.ready_pods), (0, 8));
    // One more may have begun while the second one failed.
    assert!((2..=3).contains(&status.failed_pods), "{}", status.failed_pods);
    world.until_no_puller_is_left().await;
    let pods = world.pods().await;
    assert!(pods.iter().all(is_ready));
    assert_eq!(identities(&pods, "none"), before, "no container was touched");

    world.apply(&world.set("agent:v2", strategy(2))).await;
    world.until_set("a good image goes on", |set| set.status.as_ref().unwrap().updated_ready_pods == 8).await;
    world.until_no_puller_is_left().await;
    world.end().await;
}

#[tokio::test]
async fn a_quota_that_refuses_pullers_is_reported_and_stops_nothing() {
    let world = World::shared("prepull-quota").await;
    world.apply(&world.set("agent:v1", strategy(1))).await;
    world.deploy(3).await;
    let quota = json!({"metadata": {"name": "few"}, "spec": {"hard": {"pods": "3"}}});
    let quotas: Api<ResourceQuota> = world.api();
    quotas.create(&PostParams::default(), &serde_json::from_value(quota).unwrap()).await.unwrap();
    eventually("the quota is full", async || {
        let status = quotas.get("few").await.unwrap().status.unwrap_or_default();
        let used = status.used.as_ref().and_then(|used| used.get("pods"));
        if used.is_some_and(|used| used.0 == "3") { Ok(()) } else { Err(status) }
    })
    .await;
    world.apply_without_waiting(&world.set("agent:slow", strategy(1))).await;
    world
        .until_set("it says why nothing is pulled first", |set| {
            let message = set.status.as_ref().unwrap().message.clone().unwrap_or_default();
            message.contains("; not pulled first on ") && message.contains("(exceeded quota: few)")
        })
        .await;
    world.until_set("the rollout ends", |set| set.status.as_ref().unwrap().updated_ready_pods == 3).await;
    let events: Api<Event> = Api::all(world.client.clone());
    eventually("an event about the set", async || {
        let items = events.list(&ListParams::default()).await.unwrap().items;
        let about = |event: &Event| event.regarding.as_ref().and_then(|about| about.name.clone());
        let ours = items.iter().filter(|event| about(event).as_ref() == Some(&world.name));
        let notes: Vec<_> = ours.map(|event| (event.reason.clone(), event.note.clone())).collect();
        if notes.iter().any(|(reason, _)| reason.as_deref() == Some("PrePullSkipped")) { Ok(()) } else { Err(notes) }
    })
    .await;
    world.end().await;
}

#[tokio::test]
async fn pods_that_pull_are_neither_injected_nor_missed() {
    let world = World::shared("prepull-all").await;
    // It selects every pod of the namespace, those that pull included.
    let set = |image: &str| {
        let mut set = world.set(image, strategy(2));
        set["spec"]["selector"] = json!({"matchExpressions": [{"key": "no-such-label", "operator": "DoesNotExist"}]});
        set
    };
    world.apply(&set("agent:v1")).await;
    world.deploy(2).await;
    let witness = Witness::start(world.api(), "agent:slowpull");
    world.apply_without_waiting(&set("agent:slowpull")).await;
    eventually("pods pull", async || match world.pullers().await.len() {
        0 => Err(0),
        _ => Ok(()),
    })
    .await;
    let set = world.until_set("the rollout ends", |set| set.status.as_ref().unwrap().updated_ready_pods == 2).await;
    let status = set.status.unwrap();
    assert_eq!((status.matched_pods, status.uninjected_pods.unwrap_or(0)), (2, 0));
    world.until_no_puller_is_left().await;
    let seen = witness.end();
    assert_eq!((seen.injected.as_slice(), seen.too_early.as_slice()), (&[][..], &[][..]), "{seen:?}");
    world.end().await;
}
