//! The webhook on sets, and what happens to a set that got past it.

use serde_json::{Value, json};

use crate::common::raw::{Answer, SETS, merge, post};
use crate::common::world::{World, condition, reason};

/// A set with a mount that has no volume.
fn invalid(world: &World, update_strategy: Value) -> Value {
    let mut set = world.set("agent:v1", update_strategy);
    set["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "logs", "mountPath": "/logs"}]);
    set
}

async fn dry_run(world: &World, set: &Value) -> Answer {
    post(&world.client, &format!("{SETS}?dryRun=All"), set).await
}

#[tokio::test]
async fn a_refusal_names_the_field_and_what_to_write_instead() {
    let world = World::shared("validation-refused").await;
    let mount = invalid(&world, json!({}));
    let steps = world.set("agent:v1", json!({"steps": [{"replicas": 2}, {"replicas": 1}]}));
    let mut label = world.set("agent:v1", json!({}));
    label["spec"]["selector"] = json!({"matchLabels": {"app": "not a value!"}});
    let mut probe = world.set("agent:v1", json!({}));
    probe["spec"]["initContainers"] =
        json!([{"name": "init", "image": "init:v1", "readinessProbe": {"tcpSocket": {"port": 80}}}]);
    for (set, parts) in [
        (
            mount,
            [
                "spec.containers[0].volumeMounts[0].name",
                "\"logs\" is neither in spec.volumes nor in spec.podVolumes: add the volume",
            ],
        ),
        (steps, ["spec.updateStrategy.steps[1].replicas", "must not be less than the step before"]),
        (label, ["spec.selector.matchLabels[app]", "the value must have at most 63 letters"]),
        (probe, ["spec.initContainers[0].readinessProbe", "add restartPolicy: Always"]),
    ] {
        let answer = dry_run(&world, &set).await;
        let message = answer.refusal();
        assert_eq!(answer.code, 422, "{message}");
        assert!(message.contains("SidecarSet \"validation-refused\" is invalid"), "{message}");
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
    world.end().await;
}

#[tokio::test]
async fn two_sets_cannot_put_one_name_into_one_pod() {
    let world = World::shared("validation-conflict").await;
    world.apply(&world.set("agent:v1", json!({}))).await;
    let mut other = world.set("agent:v1", json!({}));
    other["metadata"]["name"] = json!("validation-conflict-2");
    let answer = dry_run(&world, &other).await;
    let message = answer.refusal();
    assert!(message.contains("spec.containers[0].name: SidecarSet \"validation-conflict\""), "{message}");
    assert!(message.contains("choose another name, or selectors of which no pod can match both"), "{message}");

    let mut elsewhere = other.clone();
    elsewhere["spec"]["selector"] = json!({"matchLabels": {"app": "another"}});
    dry_run(&world, &elsewhere).await.accepted();
    world.end().await;
}

#[tokio::test]
async fn risky_input_is_accepted_with_a_warning() {
    let world = World::shared("validation-warning").await;
    let mut set = world.set("agent:v1", json!({}));
    set["spec"]["volumes"] = json!([{"name": "logs", "emptyDir": {}}]);
    let answer = dry_run(&world, &set).await;
    assert_eq!(answer.warnings, ["spec.volumes[0]: no container mounts volume \"logs\", so no pod gets it"]);
    answer.accepted();

    let mut jobs = world.set("agent:v1", json!({}));
    jobs["spec"]["selector"] =
        json!({"matchExpressions": [{"key": "batch.kubernetes.io/job-name", "operator": "Exists"}]});
    let answer = dry_run(&world, &jobs).await;
    assert!(answer.warnings.iter().any(|warning| warning.contains("does not complete")), "{answer:?}");
    answer.accepted();
    world.end().await;
}

#[tokio::test]
async fn pausing_is_never_refused_and_the_controller_says_what_is_wrong() {
    let world = World::shared("validation-paused").await;
    world.apply_unchecked(&invalid(&world, json!({"paused": true}))).await;
    let set = world.until_set("the controller reports it", |set| condition(set, "Stalled") == "True").await;
    assert_eq!((reason(&set, "Stalled"), reason(&set, "Ready")), ("InvalidSpec".into(), "InvalidSpec".into()));
    assert_eq!((condition(&set, "Ready"), condition(&set, "InjectionReady")), ("False".into(), "False".into()));
    let message = set.status.unwrap().message.unwrap();
    assert!(message.contains("spec.containers[0].volumeMounts[0].name"), "{message}");

    // Out of the emergency the spec counts again.
    let path = format!("{SETS}/{}", world.name);
    let resumed = merge(&world.client, &path, &json!({"spec": {"updateStrategy": {"paused": false}}})).await;
    assert!(resumed.refusal().contains("is neither in spec.volumes nor in spec.podVolumes"), "{resumed:?}");
    merge(&world.client, &path, &json!({"metadata": {"labels": {"team": "a"}}})).await.accepted();

    let mended = json!({"spec": {"updateStrategy": {"paused": false}, "volumes": [{"name": "logs", "emptyDir": {}}]}});
    merge(&world.client, &path, &mended).await.accepted();
    let set = world.until_set("it is served", |set| condition(set, "InjectionReady") == "True").await;
    assert_eq!(condition(&set, "Stalled"), "False");
    world.end().await;
}

#[tokio::test]
async fn what_was_wrong_before_a_change_is_a_warning_and_metadata_is_not_asked_about() {
    let world = World::shared("validation-metadata").await;
    let other = "validation-metadata-2";
    world.apply(&world.set("agent:v1", json!({}))).await;
    // Paused, so that nobody looks: now the first set conflicts with it.
    let mut second = world.set("agent:v1", json!({"paused": true}));
    second["metadata"]["name"] = json!(other);
    world.apply_unchecked(&second).await;
    let path = format!("{SETS}/{}", world.name);
    let spec = json!({"spec": {"customVersion": "2"}});
    crate::common::eventually("the webhook knows the second set", async || {
        let answer = merge(&world.client, &format!("{path}?dryRun=All"), &spec).await;
        let warned = answer.warnings.iter().any(|warning| warning.contains(other));
        if answer.code == 200 && warned { Ok(()) } else { Err(answer) }
    })
    .await;
    let answer = merge(&world.client, &path, &json!({"metadata": {"labels": {"team": "a"}}})).await;
    assert_eq!((answer.code, answer.warnings), (200, vec![]));
    world.remove_set(other).await;
    world.end().await;
}
