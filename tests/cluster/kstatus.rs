//! What tools that know only kstatus conclude from a set while things happen to it.

use std::sync::{Arc, Mutex};

use futures::{StreamExt, TryStreamExt};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};

use crate::common::eventually;
use crate::common::world::{World, condition, reason};

/// The algorithm for custom resources of sigs.k8s.io/cli-utils, on the object as the API gives it.
fn kstatus(object: &Value) -> &'static str {
    let is = |type_: &str, value: &str| {
        let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(|c| c["type"] == type_ && c["status"] == value)
    };
    let seen = &object["status"]["observedGeneration"];
    match () {
        () if !object["metadata"]["deletionTimestamp"].is_null() => "Terminating",
        () if !seen.is_null() && *seen != object["metadata"]["generation"] => "InProgress",
        () if is("Reconciling", "True") => "InProgress",
        () if is("Stalled", "True") => "Failed",
        () if is("Ready", "False") || is("Ready", "Unknown") => "InProgress",
        () => "Current",
    }
}

/// Everything that kstatus concludes, once per change, from now on.
struct Conclusions {
    seen: Arc<Mutex<Vec<&'static str>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Conclusions {
    fn start(world: &World) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (list, name, sets) = (Arc::clone(&seen), world.name.clone(), world.sets());
        let task = tokio::spawn(async move {
            let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
            let mut events = watcher(sets, config).default_backoff().applied_objects().boxed();
            while let Some(set) = events.try_next().await.ok().flatten() {
                let conclusion = kstatus(&json!(set));
                let mut seen = list.lock().unwrap();
                if seen.last() != Some(&conclusion) {
                    seen.push(conclusion);
                }
            }
        });
        Self { seen, task }
    }

    /// What was concluded, when it ends like this.
    async fn until(self, last: &str) -> Vec<&'static str> {
        let seen = eventually("kstatus concludes so", async || {
            let seen = self.seen.lock().unwrap().clone();
            if seen.last() == Some(&last) { Ok(seen) } else { Err(seen) }
        })
        .await;
        self.task.abort();
        seen
    }
}

#[tokio::test]
async fn a_rollout_is_in_progress_until_it_is_current_and_a_bad_one_fails() {
    let world = World::shared("kstatus").await;
    let strategy = |paused: bool| json!({"maxUnavailable": 2, "minReadySeconds": 1, "paused": paused});
    world.apply(&world.set("agent:v1", strategy(false))).await;
    world.deploy(6).await;
    world
        .until_set("v1 is rolled out", |set| {
            condition(set, "Ready") == "True" && set.status.as_ref().unwrap().updated_ready_pods == 6
        })
        .await;

    let conclusions = Conclusions::start(&world);
    world.apply(&world.set("agent:v2", strategy(false))).await;
    eventually("the rollout has begun", async || match world.with_image("agent:v2").await {
        0 => Err("no"),
        _ => Ok(()),
    })
    .await;
    world.apply(&world.set("agent:v2", strategy(true))).await;
    world.until_set("it is paused", |set| reason(set, "Ready") == "Paused").await;
    world.apply(&world.set("agent:v2", strategy(false))).await;
    world.until_set("it ends", |set| condition(set, "Ready") == "True").await;
    assert_eq!(conclusions.until("Current").await, ["Current", "InProgress", "Current"]);

    let conclusions = Conclusions::start(&world);
    world.apply(&world.set("agent:nopull", strategy(false))).await;
    assert_eq!(conclusions.until("Failed").await, ["Current", "InProgress", "Failed"]);
    world.end().await;
}
