//! Pods that a sidecar does not go with, and volumes that hold a pod's data.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};

use crate::common::eventually;
use crate::common::raw::post;
use crate::common::world::{World, lists};

#[tokio::test]
async fn a_pod_whose_host_port_a_sidecar_wants_is_created_without_it_and_its_owner_is_told() {
    let world = World::shared("pod-conflict").await;
    let mut set = world.set("agent:v1", json!({}));
    set["spec"]["containers"][0]["ports"] = json!([{"containerPort": 9100}]);
    world.apply(&set).await;
    let app = json!({"name": "app", "image": "app:v1", "ports": [{"containerPort": 9100}]});
    let spec = json!({"hostNetwork": true, "containers": [app]});

    world.deploy_pods(1, spec.clone()).await;
    assert_eq!(lists(&world.pods().await[0]).0, ["app"]);
    let says = r#"container "agent": ports[0].hostPort 9100 (TCP) is that of container "app", too"#;
    let note = eventually("an event", async || {
        let events = world.api::<Event>().list(&ListParams::default()).await.unwrap().items;
        events.into_iter().find(|event| event.reason.as_deref() == Some("PodConflict")).ok_or("none")
    })
    .await
    .note
    .unwrap();
    assert!(note.contains(says), "{note}");

    set["spec"]["injectionStrategy"] = json!({"failurePolicy": "Fail"});
    world.apply(&set).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "refused", "labels": {"app": world.name}}, "spec": spec});
    let path = format!("/api/v1/namespaces/{}/pods?dryRun=All", world.name);
    // The webhook may serve the set of before for a moment.
    eventually("a pod is refused", async || {
        let answer = post(&world.client, &path, &pod).await;
        if answer.code == 422 && answer.refusal().contains(says) { Ok(()) } else { Err(answer) }
    })
    .await;
    world.end().await;
}

/// The template has what an older version left: the set's volume in the place of the claim, and a mark that lists it.
#[tokio::test]
async fn a_recreated_pod_of_a_stateful_set_keeps_its_claim() {
    let world = World::shared("keeps-claim").await;
    let mut set = world.set("agent:v1", json!({}));
    set["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/source", "readOnly": true}]);
    set["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    world.apply(&set).await;
    let labels = json!({"app": world.name});
    let mut template = json!({"metadata": {"labels": labels}, "spec": {"volumes": [{"name": "data", "emptyDir": {}}],
        "containers": [{"name": "agent", "image": "agent:v1", "volumeMounts": [{"name": "data", "mountPath": "/source"}]},
            {"name": "db", "image": "db:v1", "volumeMounts": [{"name": "data", "mountPath": "/var/lib/db"}]}]}});
    let mark = r#"{"containers":["agent"],"initContainers":[],"volumes":["data"]}"#;
    template["metadata"]["annotations"] = json!({format!("injection.sidecarset.dev/{}", world.name): mark});
    template["metadata"]["labels"][format!("revision.sidecarset.dev/{}", world.name)] = json!("0123456789abcdef");
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "",
        "resources": {"requests": {"storage": "1Gi"}}}});
    let db: StatefulSet =
        serde_json::from_value(json!({"metadata": {"name": "db"}, "spec": {"replicas": 1, "serviceName": "db",
        "selector": {"matchLabels": labels}, "template": template, "volumeClaimTemplates": [claim]}}))
        .unwrap();
    world.api().create(&PostParams::default(), &db).await.unwrap();
    let pods: Api<Pod> = world.api();
    let until_made = async |not: Option<String>| {
        eventually("the pod is there", async || match pods.get("db-0").await {
            Ok(pod) if pod.metadata.uid != not => Ok(pod),
            other => Err(format!("{:?}", other.map(|pod| pod.metadata.uid))),
        })
        .await
    };
    let first = until_made(None).await;
    set["spec"]["containers"][0]["image"] = json!("agent:v2");
    world.apply(&set).await;
    pods.delete("db-0", &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await.unwrap();
    let second = until_made(first.metadata.uid.clone()).await;
    for pod in [first, second] {
        let volumes: Value = json!(pod.spec.unwrap().volumes);
        let data = volumes.as_array().unwrap().iter().find(|volume| volume["name"] == "data").unwrap();
        assert_eq!(data["persistentVolumeClaim"]["claimName"], "data-db-0", "{volumes}");
    }
    world.end().await;
}
