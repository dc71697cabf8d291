//! `kubectl sidecarset` against a cluster.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::common::raw::{kubectl, plugin};
use crate::common::shared;
use crate::common::world::{World, identities, marks};

/// A set with everything that injection knows.
fn full_set(world: &World) -> Value {
    let mut set = world.set("agent:v1", json!({}));
    let spec = &mut set["spec"];
    spec["containers"] = json!([
        {"name": "first", "image": "first:v1", "volumeMounts": [{"name": "logs", "mountPath": "/logs"}]},
        {"name": "last", "image": "last:v1", "podInjectPolicy": "AfterAppContainer", "env": [{"name": "A", "value": "0644"}],
            "resources": {"limits": {"cpu": "0.5"}}},
    ]);
    spec["initContainers"] = json!([
        {"name": "plain", "image": "plain:v1"},
        {"name": "native", "image": "native:v1", "restartPolicy": "Always", "podInjectPolicy": "BeforeAppContainer"},
    ]);
    spec["volumes"] = json!([{"name": "logs", "emptyDir": {}}, {"name": "unused", "emptyDir": {}}]);
    spec["imagePullSecrets"] = json!([{"name": "registry"}]);
    spec["patchPodMetadata"] = json!([{"annotations": {"example.com/agent": "yes"}}]);
    set
}

/// What a dry run of the API server makes of a pod, without what differs between any two pods.
async fn defaulted(api: Api<Pod>, pod: &Value) -> Value {
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let created = api.create(&params, &serde_json::from_value(pod.clone()).unwrap()).await.unwrap();
    let mut created = serde_json::to_value(created).unwrap();
    let metadata = created["metadata"].as_object_mut().unwrap();
    metadata.retain(|field, _| matches!(field.as_str(), "labels" | "annotations" | "name"));
    // The API server adds the token's volume before it asks webhooks: the order differs, and means nothing.
    let volumes = created["spec"]["volumes"].as_array_mut().unwrap();
    volumes.sort_by_key(|volume| volume["name"].as_str().unwrap().to_owned());
    let text = created.to_string();
    let token = text.split("kube-api-access-").nth(1).map(|rest| rest.chars().take(5).collect::<String>());
    serde_json::from_str(&text.replace(&token.unwrap_or_default(), "token")).unwrap()
}

#[tokio::test]
async fn inject_makes_the_pod_that_the_webhook_makes() {
    let world = World::shared("cli-same").await;
    let set = full_set(&world);
    world.apply(&set).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"app": world.name}}, "spec": {
        "containers": [{"name": "app", "image": "app:v1"}], "initContainers": [{"name": "migrate", "image": "m:v1"}]}});
    let folder = std::env::temp_dir().join(format!("sidecarset-cli-same-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("set.json");
    std::fs::write(&file, set.to_string()).unwrap();

    let arguments = ["inject", "-f", "-", "-o", "json", "-n", &world.name];
    let offline = [&arguments[..], &["-s", file.to_str().unwrap()]].concat();
    let offline = plugin(shared(), &offline, &pod.to_string()).await;
    assert!(offline.stderr.ends_with(&format!("pod/web: {} Injected\n", world.name)), "{}", offline.stderr);
    let online = plugin(shared(), &arguments, &pod.to_string()).await;
    let offline = offline.ok();
    assert_eq!(online.ok(), offline, "sets from a file and from the cluster");
    std::fs::remove_dir_all(&folder).unwrap();

    let by_webhook = defaulted(world.api(), &pod).await;
    assert_eq!(by_webhook["spec"]["containers"].as_array().unwrap().len(), 3, "the webhook injects");
    // No webhook is asked about pods of this namespace: the API server sees what `inject` made.
    let elsewhere =
        defaulted(Api::namespaced(world.client.clone(), "kube-system"), &serde_json::from_str(&offline).unwrap()).await;
    assert_eq!(elsewhere, by_webhook);
    world.end().await;
}

/// A Deployment, a Job and a `ConfigMap` with strings that look like something else.
fn manifests(world: &World) -> String {
    let app = &world.name;
    let long = "x".repeat(100);
    let template = |restart_policy: &str| {
        format!(
            r#"  template:
    metadata:
      labels: {{app: {app}}}
    spec:
      restartPolicy: {restart_policy}
      containers:
      - name: app
        image: app:v1
        env:
        - {{name: MODE, value: "0644"}}
        - {{name: ANSWER, value: "yes"}}
        - {{name: LONG, value: "a: b # c {long} 1e3"}}
"#
        )
    };
    let (always, never) = (template("Always"), template("Never"));
    format!(
        r#"apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  selector: {{matchLabels: {{app: {app}}}}}
{always}---
apiVersion: batch/v1
kind: Job
metadata: {{name: once}}
spec:
{never}---
apiVersion: v1
kind: ConfigMap
metadata: {{name: c}}
data: {{a: "null", b: "1e3", c: "12:30:45", d: "two\nlines\n"}}
"#
    )
}

#[tokio::test]
async fn kubectl_takes_what_inject_and_uninject_print() {
    let world = World::shared("cli-apply").await;
    world.apply(&full_set(&world)).await;
    let arguments = |verb| vec![verb, "-f", "-", "-n", world.name.as_str()];
    let input = manifests(&world);
    let injected = plugin(shared(), &arguments("inject"), &input).await.ok();
    let uninjected = plugin(shared(), &arguments("uninject"), &injected).await.ok();
    let apply = ["apply", "--dry-run=server", "-n", &world.name, "-o", "json", "-f", "-"];
    let items = async |text: &str| -> Vec<Value> {
        let list: Value = serde_json::from_str(&kubectl(shared(), &apply, text).await.ok()).unwrap();
        list["items"].as_array().unwrap().clone()
    };

    let injected = items(&injected).await;
    let names = |item: &Value| -> Vec<String> {
        let list = item["spec"]["template"]["spec"]["containers"].as_array().into_iter().flatten();
        list.map(|container| container["name"].as_str().unwrap().to_owned()).collect()
    };
    for workload in &injected[..2] {
        assert_eq!(names(workload), ["first", "app", "last"]);
    }
    assert_eq!(injected[2]["data"], json!({"a": "null", "b": "1e3", "c": "12:30:45", "d": "two\nlines\n"}));
    let (back, plain) = (items(&uninjected).await, items(&input).await);
    assert_eq!(back[0]["spec"], plain[0]["spec"]);
    assert_eq!(back[1]["spec"]["template"]["spec"], plain[1]["spec"]["template"]["spec"]);
    world.end().await;
}

#[tokio::test]
async fn explain_says_what_each_set_did_to_a_pod() {
    let world = World::shared("cli-explain").await;
    let app = json!({"containers": [{"name": "app", "image": "app:v1"}]});
    world.pod("uninjected", app.clone()).await.unwrap();
    // creationTimestamp counts whole seconds: the set must be younger than the pod.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let set = full_set(&world);
    world.apply(&set).await;
    let found =
        world.until_set("it has a revision", |set| set.status.as_ref().unwrap().update_revision.is_some()).await;
    let revision = found.status.unwrap().update_revision.unwrap();
    world.pod("injected", app.clone()).await.unwrap();
    let labels = json!({"app": world.name, "sidecarset.dev/inject": "false"});
    world.create(json!({"metadata": {"name": "out", "labels": labels}, "spec": app})).await.unwrap();
    world.create(json!({"metadata": {"name": "other", "labels": {"app": "x"}}, "spec": app})).await.unwrap();

    let explain = async |pod: &str| {
        let arguments = ["explain", pod, "-n", &world.name, "--all", "-o", "json"];
        let printed = plugin(shared(), &arguments, "").await.ok();
        let explanation: Value = serde_json::from_str(&printed).unwrap();
        let sets = explanation["sets"].as_array().unwrap();
        let line = sets.iter().find(|line| line["set"] == world.name.as_str()).unwrap().clone();
        (line, explanation["startOrder"].clone())
    };
    let (line, order) = explain("pod/injected").await;
    assert_eq!((&line["reason"], &line["message"]), (&json!("Injected"), &json!("current")));
    assert_eq!((&line["revision"], &line["target"]), (&json!(revision), &json!(revision)));
    let order: Vec<&str> = order.as_array().unwrap().iter().map(|start| start["container"].as_str().unwrap()).collect();
    assert_eq!(order, ["native", "plain", "first", "app", "last"]);
    assert_eq!(explain("out").await.0["reason"], "OptedOut");
    let (uninjected, _) = explain("uninjected").await;
    assert_eq!(uninjected["reason"], "Uninjected");
    assert!(uninjected["message"].as_str().unwrap().contains("older than the set"), "{uninjected}");
    assert_eq!(explain("other").await.0["reason"], "NotSelected");

    let table = plugin(shared(), &["explain", "injected", "-n", &world.name], "").await.ok();
    assert!(table.starts_with("SET "), "{table}");
    let missing = plugin(shared(), &["explain", "nobody", "-n", &world.name], "").await;
    assert!(!missing.success);
    assert_eq!(missing.stderr, "Error from server (NotFound): pods \"nobody\" not found\n");
    world.end().await;
}

#[tokio::test]
async fn unmark_takes_the_marks_of_a_deleted_set_from_its_running_pods() {
    let world = World::shared("cli-unmark").await;
    world.apply(&world.set("agent:v1", json!({}))).await;
    world.deploy(2).await;
    let before = identities(&world.pods().await, "");
    let unmark = async |more: &[&str]| {
        let arguments = [&["unmark", &world.name, "-n", &world.name], more].concat();
        plugin(shared(), &arguments, "").await
    };
    let refused = unmark(&[]).await;
    assert!(refused.stderr.contains(&format!("SidecarSet {} exists", world.name)), "{}", refused.stderr);

    world.remove_set(&world.name).await;
    let tried = unmark(&["--dry-run"]).await.ok();
    assert!(tried.ends_with("\n2 pods unmarked (server dry run)\n"), "{tried}");
    assert!(world.pods().await.iter().all(|pod| !marks(pod).is_empty()));

    let done = unmark(&[]).await.ok();
    assert!(done.ends_with("\n2 pods unmarked\n"), "{done}");
    let left: Vec<String> = world.pods().await.iter().flat_map(marks).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(identities(&world.pods().await, ""), before, "every container runs on");
    assert_eq!(unmark(&[]).await.ok(), format!("No pod carries marks of SidecarSet {}.\n", world.name));
    world.end().await;
}
