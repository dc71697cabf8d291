//! Upgrades of running pods.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::common::budget::BudgetWatcher;
use crate::common::eventually;
use crate::common::world::{World, condition, container_image, identities, marks, reason};

#[tokio::test]
async fn a_new_image_reaches_all_pods_in_place_and_in_batches() {
    let world = World::shared("rollout-batches").await;
    let strategy = json!({"maxUnavailable": 3, "minReadySeconds": 0});
    world.apply(&world.set("agent:v1", strategy.clone())).await;
    world.deploy(12).await;
    world.until_set("all pods are counted", |set| set.status.as_ref().unwrap().updated_ready_pods == 12).await;
    let before = identities(&world.pods().await, "agent");
    let budget = BudgetWatcher::start(world.api());

    world.apply(&world.set("agent:v2", strategy)).await;
    let set = world
        .until_set("the rollout ends", |set| {
            condition(set, "Ready") == "True" && set.status.as_ref().unwrap().updated_ready_pods == 12
        })
        .await;
    let status = set.status.clone().unwrap();
    assert_eq!(world.with_image("agent:v2").await, 12);
    assert_eq!(identities(&world.pods().await, "agent"), before, "no pod and no app container was replaced");
    let worst = budget.worst();
    assert!((1..=3).contains(&worst), "{worst} pods were unavailable at once");
    assert_eq!((status.matched_pods, status.ready_pods, status.failed_pods), (12, 12, 0));
    assert_eq!(status.stable_revision, status.update_revision);
    assert_eq!(reason(&set, "Ready"), "UpToDate");
    for type_ in ["Reconciling", "Stalled", "Paused"] {
        assert_eq!(condition(&set, type_), "False", "{type_}");
    }
    world.end().await;
}

#[tokio::test]
async fn native_sidecars_are_upgraded_in_place() {
    let world = World::shared("rollout-native").await;
    let set = |image: &str| {
        let mut set = world.set(image, json!({"maxUnavailable": "100%", "minReadySeconds": 0}));
        let spec = set["spec"].as_object_mut().unwrap();
        spec.remove("containers");
        spec.insert("initContainers".into(), json!([{"name": "agent", "image": image, "restartPolicy": "Always"}]));
        set
    };
    world.apply(&set("proxy:v1")).await;
    world.deploy(3).await;
    let before = identities(&world.pods().await, "agent");
    world.apply(&set("proxy:v2")).await;
    world.until_set("the rollout ends", |set| set.status.as_ref().unwrap().updated_ready_pods == 3).await;
    assert_eq!(world.with_image("proxy:v2").await, 3);
    assert_eq!(identities(&world.pods().await, "agent"), before);
    world.end().await;
}

#[tokio::test]
async fn pause_stops_and_resume_finishes() {
    let world = World::shared("rollout-pause").await;
    let set = |image: &str, paused: bool| {
        world.set(image, json!({"maxUnavailable": 1, "minReadySeconds": 1, "paused": paused}))
    };
    world.apply(&set("agent:v1", false)).await;
    world.deploy(6).await;
    world.apply(&set("agent:v2", false)).await;
    eventually("two pods are updated", async || match world.with_image("agent:v2").await {
        2.. => Ok(()),
        less => Err(less),
    })
    .await;
    world.apply(&set("agent:v2", true)).await;
    let paused = world.until_set("the set says so", |set| condition(set, "Paused") == "True").await;
    assert_eq!((reason(&paused, "Ready"), condition(&paused, "Reconciling")), ("Paused".into(), "True".into()));
    let stopped_at = world.with_image("agent:v2").await;
    // A batch takes two seconds here: three of them pass.
    world
        .until_set("the open update ends", |set| {
            let status = set.status.as_ref().unwrap();
            status.updated_ready_pods == status.updated_pods
        })
        .await;
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    assert_eq!(world.with_image("agent:v2").await, stopped_at);
    assert!(stopped_at < 6);

    world.apply(&set("agent:v2", false)).await;
    world.until_set("the rollout ends", |set| set.status.as_ref().unwrap().updated_ready_pods == 6).await;
    world.end().await;
}

#[tokio::test]
async fn partition_and_update_selector_limit_the_rollout() {
    let world = World::shared("rollout-partition").await;
    let set = |image: &str, mut limit: Value| {
        limit
            .as_object_mut()
            .unwrap()
            .extend([("maxUnavailable".into(), json!("100%")), ("minReadySeconds".into(), json!(0))]);
        world.set(image, limit)
    };
    world.apply(&set("agent:v1", json!({}))).await;
    world.deploy(5).await;
    world.apply(&set("agent:v2", json!({"partition": "60%"}))).await;
    let reached = world.until_set("the partition is reached", |set| reason(set, "Ready") == "PartitionReached").await;
    assert_eq!((condition(&reached, "Ready"), world.with_image("agent:v2").await), ("True".into(), 2));

    let canary = world.pods().await.iter().find(|pod| container_image(pod, "agent") == "agent:v1").unwrap().name_any();
    let label = json!({"metadata": {"labels": {"canary": "yes"}}});
    world.api::<Pod>().patch(&canary, &PatchParams::default(), &Patch::Merge(&label)).await.unwrap();
    world.apply(&set("agent:v2", json!({"selector": {"matchLabels": {"canary": "yes"}}}))).await;
    world.until_set("the canary is updated", |set| set.status.as_ref().unwrap().updated_ready_pods == 3).await;
    assert_eq!(world.with_image("agent:v2").await, 3);
    world.end().await;
}

#[tokio::test]
async fn a_bad_image_stops_at_the_budget_and_the_old_one_heals() {
    let world = World::shared("rollout-bad").await;
    let strategy = json!({"maxUnavailable": 2, "minReadySeconds": 0});
    world.apply(&world.set("agent:v1", strategy.clone())).await;
    world.deploy(8).await;
    let before = identities(&world.pods().await, "agent");
    world.apply(&world.set("agent:nopull", strategy.clone())).await;
    let stopped = world.until_set("the budget stops it", |set| condition(set, "Stalled") == "True").await;
    assert_eq!(reason(&stopped, "Stalled"), "FailureBudgetExceeded");
    assert_eq!(stopped.status.as_ref().unwrap().failed_pods, 2);
    assert!(stopped.status.unwrap().message.unwrap().contains("agent: "), "the message names the reason");
    assert_eq!(world.with_image("agent:nopull").await, 2);

    world.apply(&world.set("agent:v1", strategy)).await;
    let healed =
        world.until_set("the old image heals", |set| set.status.as_ref().unwrap().updated_ready_pods == 8).await;
    assert_eq!(reason(&healed, "Ready"), "UpToDate");
    assert_eq!(identities(&world.pods().await, "agent"), before);
    world.end().await;
}

#[tokio::test]
async fn a_crashing_image_stops_at_the_budget() {
    let world = World::shared("rollout-crash").await;
    let strategy = json!({"maxUnavailable": 1, "minReadySeconds": 3});
    world.apply(&world.set("agent:v1", strategy.clone())).await;
    world.deploy(4).await;
    world.apply(&world.set("agent:crash", strategy)).await;
    world.until_set("the budget stops it", |set| condition(set, "Stalled") == "True").await;
    assert_eq!(world.with_image("agent:crash").await, 1);
    world.end().await;
}

#[tokio::test]
async fn changing_the_image_in_mid_rollout_converges_without_a_second_patch() {
    let world = World::shared("rollout-burst").await;
    let strategy = json!({"maxUnavailable": 2, "minReadySeconds": 1});
    world.apply(&world.set("agent:v1", strategy.clone())).await;
    world.deploy(6).await;
    let patches = PatchCounter::start(world.api());
    for image in ["agent:v2", "agent:v3", "agent:v2"] {
        world.apply(&world.set(image, strategy.clone())).await;
        eventually("the image reaches a pod", async || match world.with_image(image).await {
            1.. => Ok(()),
            none => Err(none),
        })
        .await;
    }
    world.apply(&world.set("agent:v1", strategy)).await;
    world.until_set("it converges", |set| set.status.as_ref().unwrap().updated_ready_pods == 6).await;
    assert_eq!(world.with_image("agent:v1").await, 6);
    assert_eq!(patches.repeated(), Vec::<String>::new(), "pods patched twice in a row for one revision");
    world.end().await;
}

/// Counts, per pod, patches that name the revision the pod was already patched to.
struct PatchCounter {
    repeated: Arc<std::sync::Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl PatchCounter {
    fn start(pods: Api<Pod>) -> Self {
        let repeated = Arc::new(std::sync::Mutex::new(Vec::new()));
        let found = Arc::clone(&repeated);
        let task = tokio::spawn(async move {
            let mut last = std::collections::BTreeMap::<String, (String, String)>::new();
            let mut events = watcher(pods, watcher::Config::default()).default_backoff().applied_objects().boxed();
            while let Some(pod) = events.try_next().await.ok().flatten() {
                let update = pod.annotations().iter().find(|(key, _)| key.starts_with("update.sidecarset.dev/"));
                let Some((_, text)) = update else { continue };
                let update: Value = serde_json::from_str(text).unwrap();
                let text_of = |field: &str| update[field].as_str().unwrap().to_owned();
                let (revision, at) = (text_of("revision"), text_of("at"));
                let before = last.insert(pod.name_any(), (revision.clone(), at.clone()));
                if before.is_some_and(|(last_revision, last_at)| last_revision == revision && last_at != at) {
                    found.lock().unwrap().push(format!("{} {revision}", pod.name_any()));
                }
            }
        });
        Self { repeated, task }
    }

    fn repeated(self) -> Vec<String> {
        self.task.abort();
        self.repeated.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn what_cannot_be_changed_in_place_is_counted_with_its_reason() {
    let world = World::shared("rollout-not-in-place").await;
    world.apply(&world.set("agent:v1", json!({}))).await;
    world.deploy(2).await;
    let mut changed = world.set("agent:v1", json!({}));
    changed["spec"]["containers"][0]["args"] = json!(["-v"]);
    world.apply(&changed).await;
    let set = world.until_set("the pods are counted", |set| set.status.as_ref().unwrap().not_in_place_pods == 2).await;
    assert_eq!((condition(&set, "Ready"), reason(&set, "Ready")), ("False".into(), "NotInPlace".into()));
    assert_eq!((condition(&set, "Reconciling"), condition(&set, "Stalled")), ("False".into(), "False".into()));
    let message = set.status.unwrap().message.unwrap();
    assert!(message.contains("containers[agent].args changed"), "{message}");
    // It is fine where the spec asks for it.
    changed["spec"]["updateStrategy"]["whenNotInPlace"] = json!("Skip");
    world.apply(&changed).await;
    world
        .until_set("it is fine", |set| condition(set, "Ready") == "True" && reason(set, "Ready") == "NotInPlace")
        .await;
    // New pods get it.
    world.api::<Pod>().delete(&world.pods().await[0].name_any(), &kube::api::DeleteParams::default()).await.unwrap();
    world.until_set("a new pod is up to date", |set| set.status.as_ref().unwrap().not_in_place_pods == 1).await;
    world.end().await;
}

#[tokio::test]
async fn a_pod_that_must_not_be_patched_is_left_alone() {
    let world = World::shared("rollout-never").await;
    let set = |image: &str| world.set(image, json!({"minReadySeconds": 0}));
    world.apply(&set("agent:v1")).await;
    world
        .pod("once", json!({"restartPolicy": "Never", "containers": [{"name": "app", "image": "app"}]}))
        .await
        .unwrap();
    world.until_set("the pod is counted", |set| set.status.as_ref().unwrap().ready_pods == 1).await;
    world.apply(&set("agent:v2")).await;
    let set = world.until_set("it is left alone", |set| set.status.as_ref().unwrap().not_in_place_pods == 1).await;
    assert!(set.status.unwrap().message.unwrap().contains("restartPolicy"));
    assert_eq!(world.with_image("agent:v1").await, 1);
    world.end().await;
}

#[tokio::test]
async fn a_living_pod_that_lost_its_label_gets_it_back() {
    let world = World::shared("rollout-label").await;
    world.apply(&world.set("agent:v1", json!({}))).await;
    world.deploy(1).await;
    world.until_set("the pod is counted", |set| set.status.as_ref().unwrap().matched_pods == 1).await;
    let name = world.pods().await[0].name_any();
    let patch = json!({"metadata": {"labels": {"sidecarset.dev/injected": null}}});
    world.api::<Pod>().patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    let pods: Api<Pod> = world.api();
    eventually("the label is back", async || {
        let pod = pods.get(&name).await.unwrap();
        if pod.labels().contains_key("sidecarset.dev/injected") { Ok(()) } else { Err(pod.labels().clone()) }
    })
    .await;
    world.end().await;
}

#[tokio::test]
async fn history_is_kept_to_its_limit_and_a_rollback_reuses_its_revision() {
    let world = World::shared("rollout-history").await;
    let set = |image: &str| {
        let mut set = world.set(image, json!({"minReadySeconds": 0}));
        set["spec"]["revisionHistoryLimit"] = json!(2);
        // Characters that the API server encodes differently from this program.
        set["spec"]["containers"][0]["args"] = json!(["<source> a & b </source>"]);
        set
    };
    let revisions: Api<k8s_openapi::api::apps::v1::ControllerRevision> =
        Api::namespaced(world.client.clone(), "sidecarset-system");
    let ours = kube::api::ListParams::default().labels(&format!("sidecarset.dev/set={}", world.name));
    let mut hashes = Vec::new();
    world.apply(&set("agent:v1")).await;
    world.deploy(1).await;
    for image in ["agent:v1", "agent:v2", "agent:v3", "agent:v4", "agent:v2"] {
        world.apply(&set(image)).await;
        let set = world.until_set("it is rolled out", |set| reason(set, "Ready") == "UpToDate").await;
        hashes.push(set.status.unwrap().update_revision.unwrap());
    }
    assert_eq!(hashes[1], hashes[4]);
    let kept = eventually("the history is truncated", async || {
        let items = revisions.list(&ours).await.unwrap().items;
        if items.len() <= 3 { Ok(items) } else { Err(items.len()) }
    })
    .await;
    let newest = kept.iter().max_by_key(|revision| revision.revision).unwrap();
    assert_eq!(newest.name_any(), format!("{}-{}", world.name, hashes[4]));
    world.end().await;
}

#[tokio::test]
async fn a_set_that_comes_again_adopts_all_pods_of_the_deleted_one() {
    let world = World::shared("rollout-again").await;
    let strategy = json!({"maxUnavailable": "100%", "minReadySeconds": 0});
    world.apply(&world.set("agent:v1", strategy.clone())).await;
    world.deploy(3).await;
    let marked: Vec<_> = world.pods().await.iter().map(marks).collect();
    let before = identities(&world.pods().await, "agent");
    world.remove_set(&world.name).await;
    // The operator looks for pods of deleted canaries every 10 seconds.
    tokio::time::sleep(std::time::Duration::from_secs(11)).await;
    assert_eq!(world.pods().await.iter().map(marks).collect::<Vec<_>>(), marked, "the marks stay");
    assert_eq!(world.with_image("agent:v1").await, 3);

    world.apply(&world.set("agent:v2", strategy)).await;
    let set = world.until_set("all are upgraded", |set| set.status.as_ref().unwrap().updated_ready_pods == 3).await;
    assert_eq!(world.with_image("agent:v2").await, 3);
    assert_eq!(identities(&world.pods().await, "agent"), before, "in place");
    let status = set.status.unwrap();
    assert_eq!((status.matched_pods, status.uninjected_pods.unwrap_or(0)), (3, 0));
    world.end().await;
}

#[tokio::test]
async fn a_pod_whose_patch_is_refused_has_failed_and_says_why() {
    let world = World::shared("rollout-refused").await;
    let strategy = json!({"maxUnavailable": 1, "minReadySeconds": 0});
    world.apply(&world.set("agent:v1", strategy.clone())).await;
    world.deploy(3).await;
    let name = world.pods().await[0].name_any();
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": world.name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": world.name}},
                "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["pods"]}],
            },
            "validations": [{"expression": format!("object.metadata.name != '{name}'"), "message": "hands off"}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": world.name}, "spec": {"policyName": world.name, "validationActions": ["Deny"]},
    });
    apply_policy::<ValidatingAdmissionPolicy>(&world, &policy).await;
    apply_policy::<ValidatingAdmissionPolicyBinding>(&world, &binding).await;
    let probe = json!({"metadata": {"labels": {"probe": "x"}}});
    let pods: Api<Pod> = world.api();
    eventually("the policy is in force", async || {
        match pods.patch(&name, &PatchParams::default(), &Patch::Merge(&probe)).await {
            Err(kube::Error::Api(status)) if status.message.contains("hands off") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    world.apply(&world.set("agent:v2", strategy)).await;
    let set =
        world.until_set("the others are updated", |set| set.status.as_ref().unwrap().updated_ready_pods == 2).await;
    let status = set.status.as_ref().unwrap();
    assert_eq!((status.failed_pods, world.with_image("agent:v1").await), (1, 1));
    let set = world.until_set("it is said why", |set| condition(set, "Stalled") == "True").await;
    let message = set.status.unwrap().message.unwrap();
    assert!(message.contains(&name) && message.contains("PatchRefused") && message.contains("hands off"), "{message}");

    let params = kube::api::DeleteParams::default();
    Api::<ValidatingAdmissionPolicyBinding>::all(world.client.clone()).delete(&world.name, &params).await.unwrap();
    Api::<ValidatingAdmissionPolicy>::all(world.client.clone()).delete(&world.name, &params).await.unwrap();
    world.end().await;
}

async fn apply_policy<K>(world: &World, object: &Value)
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let params = PatchParams::apply("test").force();
    Api::<K>::all(world.client.clone()).patch(&world.name, &params, &Patch::Apply(object)).await.unwrap();
}
