//! Pods that a set selects and that have no sidecars: found, reported, and evicted on request.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use devcluster::DevCluster;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event as ClusterEvent;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Resource, ResourceExt};
use serde_json::{Value, json};
use sidecarset::api::SidecarSet;

use crate::common::operator::Operator;
use crate::common::raw::plugin;
use crate::common::world::{World, is_ready, names};
use crate::common::{eventually, shared};
use crate::evictions::strict_disruption_budget;

/// The world's set, with this `injectionStrategy`.
fn set(world: &World, injection_strategy: Value) -> Value {
    let mut set = world.set("agent:v1", json!({"minReadySeconds": 0}));
    set["spec"]["injectionStrategy"] = injection_strategy;
    set
}

fn evicting(world: &World) -> Value {
    set(world, json!({"existingPods": "Evict"}))
}

pub fn message(set: &SidecarSet) -> String {
    set.status.as_ref().and_then(|status| status.message.clone()).unwrap_or_default()
}

fn uninjected(set: &SidecarSet) -> Option<i32> {
    set.status.as_ref()?.uninjected_pods
}

async fn until_said(world: &World, text: &str) -> SidecarSet {
    world.until_set(text, |set| message(set).contains(text)).await
}

async fn until_uninjected(world: &World, pods: i32) -> SidecarSet {
    world.until_set(&format!("{pods} pods without sidecars"), |set| uninjected(set) == Some(pods)).await
}

fn has_agent(pod: &Pod) -> bool {
    names(&pod.spec.as_ref().unwrap().containers).contains(&"agent")
}

pub fn uids(pods: &[Pod]) -> BTreeSet<String> {
    pods.iter().filter_map(ResourceExt::uid).collect()
}

fn of_kind(pods: &[Pod], kind: &str) -> Vec<Pod> {
    let owned = |pod: &&Pod| pod.owner_references().first().is_some_and(|owner| owner.kind == kind);
    pods.iter().filter(owned).cloned().collect()
}

pub async fn events(world: &World, namespace: &str, reason: &str) -> Vec<ClusterEvent> {
    let api: Api<ClusterEvent> = Api::namespaced(world.client.clone(), namespace);
    let items = api.list(&ListParams::default()).await.unwrap().items;
    items.into_iter().filter(|event| event.reason.as_deref() == Some(reason)).collect()
}

pub async fn create<K>(world: &World, object: Value)
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + serde::de::DeserializeOwned,
{
    world.api::<K>().create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
}

/// A `DaemonSet` whose pods the set selects; waits until they are ready.
pub async fn daemon_set(world: &World) {
    // A label of its own: a DaemonSet adopts any bare pod that it selects.
    let labels = json!({"app": world.name, "everywhere": "yes"});
    let template = json!({"metadata": {"labels": labels}, "spec": app()});
    let spec = json!({"selector": {"matchLabels": labels}, "template": template});
    create::<DaemonSet>(world, json!({"metadata": {"name": "daemon"}, "spec": spec})).await;
    let daemons: Api<DaemonSet> = world.api();
    eventually("the pods of the DaemonSet are ready", async || {
        let status = daemons.get("daemon").await.unwrap().status.unwrap_or_default();
        let complete = status.number_ready > 0 && status.number_ready == status.desired_number_scheduled;
        if complete { Ok(()) } else { Err(status) }
    })
    .await;
}

pub fn app() -> Value {
    json!({"containers": [{"name": "app", "image": "app:v1"}]})
}

/// The smallest number of ready pods at any moment.
pub struct FewestReady {
    fewest: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl FewestReady {
    pub fn start(pods: Api<Pod>) -> Self {
        let fewest = Arc::new(AtomicUsize::new(usize::MAX));
        let seen = Arc::clone(&fewest);
        let task = tokio::spawn(async move {
            let mut ready: BTreeMap<String, bool> = BTreeMap::new();
            let mut listed = false;
            let mut events = watch(pods, watcher::Config::default()).default_backoff().boxed();
            while let Some(event) = events.try_next().await.ok().flatten() {
                match event {
                    Event::Init => {}
                    Event::InitDone => listed = true,
                    Event::InitApply(pod) | Event::Apply(pod) => {
                        let living = is_ready(&pod) && pod.metadata.deletion_timestamp.is_none();
                        ready.insert(pod.uid().unwrap(), living);
                    }
                    Event::Delete(pod) => drop(ready.remove(&pod.uid().unwrap())),
                }
                if listed {
                    seen.fetch_min(ready.values().filter(|ready| **ready).count(), Ordering::SeqCst);
                }
            }
        });
        Self { fewest, task }
    }

    pub fn end(self) -> usize {
        self.task.abort();
        self.fewest.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn pods_without_sidecars_are_counted_and_those_older_than_the_set_apart() {
    let world = World::shared("uninjected-report").await;
    world.deploy(2).await;
    let out = json!({"metadata": {"name": "out", "labels": {"app": world.name, "sidecarset.dev/inject": "false"}}, "spec": app()});
    world.create(out).await.unwrap();
    world.apply(&set(&world, json!({}))).await;
    world.pod("dressed", app()).await.unwrap();
    let found = until_uninjected(&world, 2).await;
    let said = message(&found);
    assert!(
        said.contains("2 selected pods have no sidecars (2 are older than the set): uninjected-report/app-"),
        "{said}"
    );
    assert!(
        said.contains("2 pods); restart their workloads, or set injectionStrategy.existingPods to Evict"),
        "{said}"
    );
    let conditions = found.status.as_ref().unwrap().conditions.iter();
    let injection = conditions.into_iter().find(|condition| condition.type_ == "InjectionReady").unwrap();
    assert_eq!(injection.status, "True");
    assert!(injection.message.contains("2 selected pods have no sidecars"), "{}", injection.message);
    let event = eventually("an event about the set", async || {
        let mut all = events(&world, "default", "UninjectedPods").await;
        all.retain(|event| event.regarding.as_ref().and_then(|about| about.name.as_ref()) == Some(&world.name));
        all.pop().ok_or("none")
    })
    .await;
    assert_eq!(event.type_.as_deref(), Some("Warning"));

    // A pod that the set could not inject is one of them, with the reason.
    world.pod("a-conflict", json!({"containers": [{"name": "agent", "image": "mine:v1"}]})).await.unwrap();
    // Any change of the spec is a reason to look.
    let mut renamed = set(&world, json!({}));
    renamed["spec"]["customVersion"] = json!("two");
    world.apply(&renamed).await;
    let found = until_uninjected(&world, 3).await;
    let said = message(&found);
    assert!(said.contains("3 selected pods have no sidecars (2 are older than the set)"), "{said}");
    assert!(said.contains("uninjected-report/a-conflict (NameConflict: container name \"agent\" is taken"), "{said}");

    // Nobody looks, and nothing is claimed.
    world.apply(&set(&world, json!({"existingPods": "Ignore"}))).await;
    let quiet = world.until_set("the number is gone", |set| uninjected(set).is_none()).await;
    assert!(!message(&quiet).contains("no sidecars"), "{}", message(&quiet));
    world.end().await;
}

#[tokio::test]
async fn a_pod_made_while_the_operator_is_down_is_found_and_replaced_when_it_is_back() {
    let cluster = DevCluster::start().await.unwrap();
    let operator = Operator::start(cluster.kubeconfig(), "first", &["--lease-duration-seconds=3"]).await;
    let world = World::new(cluster.kubeconfig(), "uninjected-down").await;
    world.apply(&set(&world, json!({}))).await;
    until_uninjected(&world, 0).await;
    operator.kill();
    world.deploy(1).await;
    assert!(!has_agent(&world.pods().await[0]), "nobody answered the webhook");

    let operator = Operator::start(cluster.kubeconfig(), "second", &["--lease-duration-seconds=3"]).await;
    let said = message(&until_uninjected(&world, 1).await);
    assert!(said.contains("1 selected pod has no sidecars: uninjected-down/app-"), "not older than the set: {said}");
    world.apply(&evicting(&world)).await;
    until_uninjected(&world, 0).await;
    let pods = world.pods().await;
    assert!(pods.len() == 1 && has_agent(&pods[0]));
    assert!(operator.terminate());
    cluster.stop().await;
}

#[tokio::test]
async fn only_pods_that_their_owner_makes_again_are_evicted_one_by_one() {
    let world = World::shared("uninjected-evict").await;
    let labels = json!({"app": world.name});
    world.deploy(3).await;
    world.pod("bare", app()).await.unwrap();
    let mut ends = app();
    ends["restartPolicy"] = json!("Never");
    let template = json!({"metadata": {"labels": labels}, "spec": ends});
    create::<Job>(&world, json!({"metadata": {"name": "job"}, "spec": {"template": template}})).await;
    daemon_set(&world).await;
    let before = eventually("all pods are ready", async || {
        let pods = world.pods().await;
        let ready = of_kind(&pods, "Job").len() == 1 && pods.iter().all(is_ready);
        if ready { Ok(pods) } else { Err(uids(&pods)) }
    })
    .await;
    let fewest = FewestReady::start(world.api());

    world.apply(&evicting(&world)).await;
    let left = before.len() - 3;
    let done = until_uninjected(&world, i32::try_from(left).unwrap()).await;
    let fewest = fewest.end();
    let pods = world.pods().await;
    let dressed: Vec<Pod> = pods.iter().filter(|pod| has_agent(pod)).cloned().collect();
    assert_eq!(of_kind(&dressed, "ReplicaSet").len(), 3);
    assert_eq!(dressed.len(), 3, "nothing else was replaced");
    assert_eq!(uids(&before).intersection(&uids(&pods)).count(), left);
    assert_eq!(fewest, before.len() - 1, "one pod at a time");
    let said = message(&done);
    let never = "never evicted: pods of DaemonSets, pods of Jobs, pods without a controller";
    assert!(said.contains(never), "{said}");
    let event =
        eventually("an event", async || events(&world, &world.name, "EvictedForSidecars").await.pop().ok_or("none"))
            .await;
    let about = event.regarding.unwrap();
    assert_eq!((about.kind.as_deref(), about.name.as_deref()), (Some("Deployment"), Some("app")));
    assert_eq!((event.type_.as_deref(), event.related.unwrap().name), (Some("Normal"), Some(world.name.clone())));
    world.until_set("no record is left", |set| set.status.as_ref().unwrap().evictions.is_none()).await;
    world.end().await;
}

#[tokio::test]
async fn a_disruption_budget_is_waited_for_and_named() {
    let world = World::shared("uninjected-pdb").await;
    world.deploy(2).await;
    let budgets = strict_disruption_budget(&world, 2).await;
    let before = uids(&world.pods().await);
    world.apply(&evicting(&world)).await;
    let said = message(&until_said(&world, "waiting: ReplicaSet uninjected-pdb/app-").await);
    assert!(said.contains("disruption budget strict"), "{said}");
    assert_eq!(uids(&world.pods().await), before);

    budgets.delete("strict", &DeleteParams::default()).await.unwrap();
    let done = |set: &SidecarSet| uninjected(set) == Some(0) && !message(set).contains("waiting");
    world.until_set("nothing waits any more", done).await;
    assert!(uids(&world.pods().await).is_disjoint(&before));
    world.end().await;
}

#[tokio::test]
async fn a_pod_whose_replacement_could_not_be_injected_is_not_evicted() {
    let world = World::shared("uninjected-conflict").await;
    world.deploy_pods(2, json!({"containers": [{"name": "agent", "image": "mine:v1"}]})).await;
    let before = uids(&world.pods().await);
    world.apply(&evicting(&world)).await;
    let said = message(&until_said(&world, "waiting: ").await);
    assert!(said.contains("NameConflict: container name \"agent\" is taken"), "{said}");
    assert_eq!(uids(&world.pods().await), before);
    world.end().await;
}

#[tokio::test]
async fn pods_that_lost_the_marks_of_a_deleted_set_are_replaced_when_it_comes_again() {
    let world = World::shared("uninjected-again").await;
    world.apply(&evicting(&world)).await;
    world.deploy(2).await;
    let before = uids(&world.pods().await);
    world.remove_set(&world.name).await;
    plugin(shared(), &["unmark", &world.name, "-n", &world.name], "").await.ok();
    world.apply(&evicting(&world)).await;
    eventually("all pods are new and injected", async || {
        let pods = world.pods().await;
        let marked = pods.iter().filter(|pod| pod.labels().contains_key("sidecarset.dev/injected")).count();
        let new = uids(&pods).is_disjoint(&before);
        if (pods.len(), marked, new) == (2, 2, true) { Ok(()) } else { Err((pods.len(), marked, new)) }
    })
    .await;
    world.end().await;
}

#[tokio::test]
async fn a_paused_set_evicts_nothing() {
    let world = World::shared("uninjected-paused").await;
    world.deploy(1).await;
    let before = uids(&world.pods().await);
    let mut paused = evicting(&world);
    paused["spec"]["updateStrategy"]["paused"] = json!(true);
    world.apply(&paused).await;
    until_said(&world, "waiting: updateStrategy.paused is true").await;
    assert_eq!(uids(&world.pods().await), before);
    world.apply(&evicting(&world)).await;
    until_uninjected(&world, 0).await;
    world.end().await;
}

#[tokio::test]
async fn an_owner_whose_replacement_came_without_sidecars_too_loses_no_second_pod() {
    let cluster = DevCluster::start().await.unwrap();
    let operator = Operator::start(cluster.kubeconfig(), "first", &["--lease-duration-seconds=3"]).await;
    let world = World::new(cluster.kubeconfig(), "uninjected-in-vain").await;
    world.deploy(2).await;
    let original = uids(&world.pods().await);
    // Somebody takes the webhook away as often as the operator registers it.
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(world.client.clone());
    let saboteur = tokio::spawn(async move {
        loop {
            for name in ["sidecarset-pods-local", "sidecarset-pods-provisional-local"] {
                let _ = webhooks.delete(name, &DeleteParams::default()).await;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    });
    world.apply(&evicting(&world)).await;
    let in_vain = "the replacements came without sidecars too, left alone until the set changes: ReplicaSet";
    until_said(&world, in_vain).await;
    let after = uids(&world.pods().await);
    assert_eq!(original.intersection(&after).count(), 1, "one of two was evicted");

    // The next leader knows it too: it tries another Deployment, and leaves this one alone.
    operator.kill();
    let labels = json!({"app": world.name, "second": "yes"});
    let other = json!({"metadata": {"name": "other"}, "spec": {"replicas": 1, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": app()}}});
    create::<Deployment>(&world, other).await;
    let operator = Operator::start(cluster.kubeconfig(), "second", &["--lease-duration-seconds=3"]).await;
    world
        .until_set("the second Deployment was tried too", |set| {
            let evictions = set.status.as_ref().and_then(|status| status.evictions.clone()).unwrap_or_default();
            evictions.iter().filter(|eviction| eviction.in_vain).count() == 2
        })
        .await;
    assert!(after.is_subset(&uids(&world.pods().await)), "the first one lost no pod again");
    saboteur.abort();
    assert!(operator.terminate());
    cluster.stop().await;
}

#[tokio::test]
async fn a_sidecar_that_a_pod_of_a_cron_job_did_not_get_is_told_to_the_cron_job() {
    let world = World::shared("uninjected-cron").await;
    world.apply(&set(&world, json!({}))).await;
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "agent", "image": "mine:v1"}]});
    let job = json!({"template": {"metadata": {"labels": {"app": world.name}}, "spec": spec}});
    let cron = json!({"metadata": {"name": "cron"},
        "spec": {"schedule": "0 0 1 1 *", "suspend": true, "jobTemplate": {"spec": job}}});
    create::<CronJob>(&world, cron).await;
    let cron = world.api::<CronJob>().get("cron").await.unwrap();
    let owner = cron.controller_owner_ref(&()).unwrap();
    create::<Job>(&world, json!({"metadata": {"name": "run", "ownerReferences": [owner]}, "spec": job})).await;
    let event =
        eventually("an event", async || events(&world, &world.name, "NameConflict").await.pop().ok_or("none")).await;
    let about = event.regarding.unwrap();
    assert_eq!((about.kind.as_deref(), about.name.as_deref()), (Some("CronJob"), Some("cron")));
    world.end().await;
}
