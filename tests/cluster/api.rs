//! The CRD in a real apiserver: its rules, its defaults, and what kubectl shows of it.

use devcluster::DevCluster;
use kube::Client;
use serde_json::{Value, json};

use crate::common::raw::{SETS, documents, kubectl, merge, post, repository, until_crd_is_served};
use crate::common::world::{World, condition};
use crate::common::{client, shared};

/// A rule: where, a value that it accepts, one that it refuses, and what the refusal says (`""`: the path).
type Rule = (&'static str, Value, Value, &'static str);

/// Puts a value at a path such as `spec.containers[0].name`; what is missing on the way there is made.
fn with(path: &str, value: &Value) -> Value {
    let mut set = json!({
        "apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet", "metadata": {"name": "table"},
        "spec": {"selector": {"matchLabels": {"app": "table"}}, "containers": [{"name": "agent", "image": "agent:v1"}]},
    });
    let mut place = &mut set;
    for step in path.replace('[', ".").replace(']', "").split('.') {
        place = match step.parse::<usize>() {
            Ok(index) => {
                if place.is_null() {
                    *place = json!([]);
                }
                let list = place.as_array_mut().unwrap();
                while list.len() <= index {
                    list.push(json!({}));
                }
                &mut list[index]
            }
            Err(_) => &mut place[step],
        };
    }
    *place = value.clone();
    set
}

/// `count` elements, made from their index.
fn many(count: usize, element: impl Fn(usize) -> Value) -> Value {
    (0..count).map(element).collect()
}

fn container_rules() -> Vec<Rule> {
    let container = |name: &str| json!({"name": name, "image": "i"});
    let env = |names: &[&str]| names.iter().map(|name| json!({"name": name, "value": "v"})).collect::<Value>();
    let mount = |paths: &[&str]| paths.iter().map(|path| json!({"name": "v", "mountPath": path})).collect::<Value>();
    let device = |paths: &[&str]| paths.iter().map(|path| json!({"name": "v", "devicePath": path})).collect::<Value>();
    let transfer = |i: usize| json!({"envName": format!("E{i}")});
    vec![
        ("spec.containers", json!([container("a")]), json!([]), "at least one entry in containers or initContainers"),
        (
            "spec.initContainers",
            json!([container("init")]),
            json!([container("agent")]),
            "must be unique over both lists",
        ),
        (
            "spec.containers",
            json!([container("a"), container("b")]),
            json!([container("a"), container("a")]),
            "spec.containers[1]: Duplicate value",
        ),
        (
            "spec.initContainers",
            json!([container("a"), container("b")]),
            json!([container("a"), container("a")]),
            "spec.initContainers[1]: Duplicate value",
        ),
        ("spec.containers", many(32, |i| container(&format!("c{i}"))), many(33, |i| container(&format!("c{i}"))), ""),
        (
            "spec.initContainers",
            many(32, |i| container(&format!("c{i}"))),
            many(33, |i| container(&format!("c{i}"))),
            "",
        ),
        ("spec.containers[0].name", json!("a".repeat(63)), json!("a".repeat(64)), ""),
        ("spec.containers[0].name", json!("log-agent"), json!("Log_Agent"), ""),
        ("spec.containers[0]", container("a"), json!({"image": "i"}), "spec.containers[0].name: Required value"),
        ("spec.containers[0]", container("a"), json!({"name": "a"}), "spec.containers[0].image: Required value"),
        ("spec.containers[0].image", json!("i"), json!(""), ""),
        ("spec.containers[0].imagePullPolicy", json!("IfNotPresent"), json!("Sometimes"), ""),
        ("spec.containers[0].env", env(&["A", "B"]), env(&["A", "A"]), "spec.containers[0].env[1]: Duplicate value"),
        (
            "spec.containers[0].volumeMounts",
            mount(&["/a", "/b"]),
            mount(&["/a", "/a"]),
            "spec.containers[0].volumeMounts[1]: Duplicate value",
        ),
        (
            "spec.containers[0].volumeDevices",
            device(&["/a", "/b"]),
            device(&["/a", "/a"]),
            "spec.containers[0].volumeDevices[1]: Duplicate value",
        ),
        (
            "spec.containers[0].ports",
            json!([{"containerPort": 80}]),
            json!([{"containerPort": "http"}]),
            "spec.containers[0].ports[0].containerPort",
        ),
        ("spec.containers[0].podInjectPolicy", json!("AfterAppContainer"), json!("Somewhere"), ""),
        ("spec.containers[0].upgradeStrategy.upgradeType", json!("HotUpgrade"), json!("WarmUpgrade"), ""),
        ("spec.containers[0].shareVolumePolicy.type", json!("enabled"), json!("true"), ""),
        ("spec.containers[0].shareVolumeDevicePolicy.type", json!("disabled"), json!("false"), ""),
        ("spec.containers[0].transferEnv", many(64, transfer), many(65, transfer), ""),
        ("spec.containers[0].dependsOn", many(32, |_| json!("app")), many(33, |_| json!("app")), ""),
        (
            "spec.containers[0].resourcesPolicy",
            json!({"targetContainersMode": "sum", "resourcesExpr": {}}),
            json!({"targetContainersMode": "average", "resourcesExpr": {}}),
            "spec.containers[0].resourcesPolicy.targetContainersMode",
        ),
    ]
}

fn set_rules() -> Vec<Rule> {
    let volume = |name: &str| json!({"name": name, "emptyDir": {}});
    let secret = |i: usize| json!({"name": format!("s{i}")});
    let annotation = |i: usize| json!({"annotations": {format!("a{i}"): "v"}});
    let some = json!({"matchLabels": {"a": "b"}});
    let exists = json!({"matchExpressions": [{"key": "a", "operator": "Exists"}]});
    vec![
        (
            "metadata.name",
            json!("n".repeat(63)),
            json!("n".repeat(64)),
            "metadata.name must have at most 63 characters",
        ),
        ("spec.selector", exists.clone(), json!({}), ""),
        (
            "spec.selector",
            some.clone(),
            json!({"matchLabels": {}}),
            "must not be empty: an empty selector would select every pod",
        ),
        ("spec.selector", some.clone(), Value::Null, "spec.selector: Required value"),
        ("spec.namespaceSelector", exists, json!({}), "leave namespaceSelector out"),
        ("spec.volumes", json!([volume("v")]), json!([{"emptyDir": {}}]), "spec.volumes[0].name: Required value"),
        ("spec.volumes", json!([volume("v")]), json!([volume("")]), "spec.volumes[0].name"),
        (
            "spec.volumes",
            json!([volume("v"), volume("w")]),
            json!([volume("v"), volume("v")]),
            "spec.volumes[1]: Duplicate value",
        ),
        ("spec.volumes", many(64, |i| volume(&format!("v{i}"))), many(65, |i| volume(&format!("v{i}"))), ""),
        ("spec.imagePullSecrets", many(32, secret), many(33, secret), ""),
        ("spec.imagePullSecrets", many(2, secret), many(2, |_| secret(0)), "spec.imagePullSecrets[1]: Duplicate value"),
        ("spec.imagePullSecrets", many(1, secret), json!([{"name": ""}]), "spec.imagePullSecrets[0].name"),
        ("spec.patchPodMetadata", many(32, annotation), many(33, annotation), ""),
        ("spec.patchPodMetadata[0].patchPolicy", json!("Overwrite"), json!("Replace"), ""),
        ("spec.customVersion", json!("v".repeat(63)), json!("v".repeat(64)), ""),
        ("spec.revisionHistoryLimit", json!(1), json!(0), ""),
        ("spec.revisionHistoryLimit", json!(1000), json!(1001), ""),
        ("spec.resources.mode", json!("SharedWithPod"), json!("Shared"), ""),
        ("spec.injectionStrategy.paused", json!(true), json!("yes"), ""),
        ("spec.injectionStrategy.failurePolicy", json!("Fail"), json!("Retry"), ""),
        ("spec.injectionStrategy.newPods", json!("Latest"), json!("Newest"), ""),
        ("spec.injectionStrategy.revision.policy", json!("Partial"), json!("Never"), ""),
        ("spec.injectionStrategy.existingPods", json!("Report"), json!("Delete"), ""),
    ]
}

fn update_rules() -> Vec<Rule> {
    let some = json!({"matchLabels": {"a": "b"}});
    let step = |_| json!({"replicas": "10%"});
    let pause = |seconds: i32| json!([{"replicas": 1, "pause": {"durationSeconds": seconds}}]);
    let replicas = |replicas: Value| json!([{"replicas": replicas}]);
    let scatter = |i: usize| json!({"key": format!("k{i}"), "value": "*"});
    let weight = |weight: i32| json!([{"weight": weight, "matchSelector": some}]);
    vec![
        ("spec.updateStrategy.type", json!("NotUpdate"), json!("OnDelete"), ""),
        (
            "spec.updateStrategy",
            json!({"selector": some}),
            json!({"selector": some, "partition": 1}),
            "spec.updateStrategy: Invalid value: selector and partition exclude each other",
        ),
        (
            "spec.updateStrategy",
            json!({"steps": many(1, step)}),
            json!({"steps": many(1, step), "partition": 1}),
            "spec.updateStrategy: Invalid value: steps and partition exclude each other",
        ),
        ("spec.updateStrategy.partition", json!(0), json!(-1), ""),
        ("spec.updateStrategy.partition", json!("100%"), json!("101%"), "a percentage from 0% to 100%"),
        ("spec.updateStrategy.maxUnavailable", json!(1), json!(0), "to stop upgrades use paused: true"),
        ("spec.updateStrategy.maxUnavailable", json!("25%"), json!("0%"), ""),
        ("spec.updateStrategy.maxUnavailable", json!("100%"), json!("25"), ""),
        ("spec.updateStrategy.minReadySeconds", json!(0), json!(-1), ""),
        ("spec.updateStrategy.minReadySeconds", json!(86400), json!(86401), ""),
        ("spec.updateStrategy.podUpdateTimeoutSeconds", json!(1), json!(0), ""),
        ("spec.updateStrategy.podUpdateTimeoutSeconds", json!(86400), json!(86401), ""),
        ("spec.updateStrategy.progressDeadlineSeconds", json!(1), json!(0), ""),
        ("spec.updateStrategy.steps", many(64, step), many(65, step), ""),
        ("spec.updateStrategy.steps", replicas(json!("100%")), replicas(json!("101%")), "steps[0].replicas"),
        ("spec.updateStrategy.steps", replicas(json!(1)), replicas(json!(0)), "steps[0].replicas"),
        ("spec.updateStrategy.maxUnavailablePerWorkload", json!("1%"), json!(0), "a number of pods, 1 or more"),
        ("spec.updateStrategy.failurePolicy.maxFailed", json!(0), json!("0%"), "a percentage from 1% to 100%"),
        (
            "spec.updateStrategy.priorityStrategy",
            json!({"orderPriority": [{"orderedKey": "k"}]}),
            json!({"orderPriority": [{"orderedKey": "k"}], "weightPriority": weight(1)}),
            "exactly one of weightPriority and orderPriority",
        ),
        ("spec.updateStrategy.steps", pause(1), pause(0), "spec.updateStrategy.steps[0].pause.durationSeconds"),
        ("spec.updateStrategy.failurePolicy.action", json!("Rollback"), json!("Panic"), ""),
        ("spec.updateStrategy.whenNotInPlace", json!("Evict"), json!("Delete"), ""),
        (
            "spec.updateStrategy.priorityStrategy.weightPriority",
            weight(100),
            weight(101),
            "spec.updateStrategy.priorityStrategy.weightPriority[0].weight",
        ),
        ("spec.updateStrategy.scatterStrategy", many(32, scatter), many(33, scatter), ""),
    ]
}

/// Without an operator, so that nothing but the CRD decides.
#[tokio::test]
async fn the_crd_applies_client_side_and_its_rules_name_the_field() {
    let cluster = DevCluster::builder().without_kwok().start().await.unwrap();
    let file = repository("crds/sidecarsets.yaml");
    let apply = ["apply", "-f", file.to_str().unwrap()];
    kubectl(cluster.kubeconfig(), &apply, "").await.ok();
    until_crd_is_served(cluster.kubeconfig()).await;
    // A second apply computes its patch from the annotation of the first.
    let again = kubectl(cluster.kubeconfig(), &apply, "").await.ok();
    assert!(again.contains("unchanged"), "{again}");

    let client = cluster.client();
    let mut wrong = Vec::new();
    for (path, good, bad, expected) in container_rules().into_iter().chain(set_rules()).chain(update_rules()) {
        let dry_run = format!("{SETS}?dryRun=All");
        let accepted = post(&client, &dry_run, &with(path, &good)).await;
        if accepted.code != 201 {
            wrong.push(format!("{path}: {good} is refused: {}", accepted.body["message"]));
        }
        let refused = post(&client, &dry_run, &with(path, &bad)).await;
        let message = refused.body["message"].as_str().unwrap_or_default();
        let named = if expected.is_empty() { path } else { expected };
        if refused.code != 422 || !message.contains(named) {
            wrong.push(format!("{path}: {bad}: {} instead of {named:?}: {message}", refused.code));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    typo(&client, cluster.kubeconfig()).await;
    defaults(&client).await;
    cluster.stop().await;
}

async fn typo(client: &Client, kubeconfig: &std::path::Path) {
    let set = with("spec.containers[0].imagePulPolicy", &json!("Always"));
    let printed = kubectl(kubeconfig, &["apply", "-f", "-"], &set.to_string()).await;
    let unknown = "unknown field \"spec.containers[0].imagePulPolicy\"";
    assert!(!printed.success && printed.stderr.contains(unknown), "{printed:?}");
    let strict = post(client, &format!("{SETS}?fieldValidation=Strict&dryRun=All"), &set).await;
    assert!(strict.refusal().contains(unknown), "{strict:?}");
    // What a client gets that asks for nothing.
    let pruned = post(client, &format!("{SETS}?dryRun=All"), &set).await;
    assert_eq!(pruned.warnings, [unknown]);
    assert_eq!(pruned.accepted()["spec"]["containers"], json!([{"name": "agent", "image": "agent:v1"}]));
}

async fn defaults(client: &Client) {
    let set = post(client, &format!("{SETS}?dryRun=All"), &with("spec.updateStrategy", &json!({"paused": true}))).await;
    let spec = set.accepted()["spec"].take();
    assert_eq!(spec["revisionHistoryLimit"], 10);
    assert_eq!(
        spec["injectionStrategy"],
        json!({"existingPods": "Report", "failurePolicy": "Ignore", "newPods": "FollowRollout"})
    );
    let update = json!({"type": "RollingUpdate", "paused": true, "maxUnavailable": 1, "minReadySeconds": 5,
        "podUpdateTimeoutSeconds": 600, "progressDeadlineSeconds": 600,
        "failurePolicy": {"maxFailed": "10%", "action": "Pause"}});
    assert_eq!(spec["updateStrategy"], update);
}

#[tokio::test]
async fn the_crd_of_a_running_operator_can_be_applied_again() {
    let file = repository("crds/sidecarsets.yaml");
    let printed = kubectl(shared(), &["apply", "-f", file.to_str().unwrap()], "").await.ok();
    assert!(printed.contains("sidecarsets.sidecarset.dev"), "{printed}");
    let written = documents(&std::fs::read_to_string(file).unwrap()).remove(0);
    let crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/sidecarsets.sidecarset.dev";
    let current = merge(&client(shared()).await, crd, &json!({})).await.accepted();
    assert_eq!(current["metadata"]["name"], written["metadata"]["name"]);
}

#[tokio::test]
async fn numbers_are_quantities_too() {
    let world = World::shared("api-quantities").await;
    let mut set = world.set("agent:v1", json!({}));
    set["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": 1, "memory": "64Mi"}, "limits": {"cpu": 2}});
    world.apply(&set).await;
    let pod = world.pod("app", json!({"containers": [{"name": "app", "image": "app:v1"}]})).await.unwrap();
    let containers = pod.spec.unwrap().containers;
    let agent = containers.iter().find(|container| container.name == "agent").unwrap();
    let expected = json!({"requests": {"cpu": "1", "memory": "64Mi"}, "limits": {"cpu": "2"}});
    assert_eq!(serde_json::to_value(&agent.resources).unwrap(), expected);
    world.end().await;
}

#[tokio::test]
async fn kubectl_shows_how_far_a_set_is() {
    let world = World::shared("api-columns").await;
    world.apply(&world.set("agent:v1", json!({"minReadySeconds": 0}))).await;
    world.deploy(2).await;
    let set = world
        .until_set("it is up to date", |set| {
            condition(set, "Ready") == "True" && set.status.as_ref().unwrap().updated_ready_pods == 2
        })
        .await;
    let columns = async |arguments: &[&str]| {
        let all = [&["get", "scs", "api-columns"], arguments].concat();
        let printed = kubectl(shared(), &all, "").await.ok();
        let rows = printed.lines().map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        rows.collect::<Vec<_>>()
    };
    let rows = columns(&[]).await;
    assert_eq!(rows[0], ["NAME", "MATCHED", "UPDATED", "READY", "FAILED", "STATUS", "AGE"]);
    assert_eq!(rows[1][..6], ["api-columns", "2", "2", "2", "0", "UpToDate"]);
    let rows = columns(&["-o", "wide"]).await;
    assert_eq!(rows[0][7..], ["REVISION", "STEP", "MESSAGE"]);
    let revision = set.status.unwrap().update_revision.unwrap();
    assert_eq!(rows[1][7], revision);
    world.end().await;
}
