//! Pods that lose the label that the watch selects by, while nobody watches.

use devcluster::DevCluster;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde_json::json;

use crate::common::eventually;
use crate::common::operator::Operator;
use crate::common::world::World;

const LABEL: &str = "sidecarset.dev/injected";

#[tokio::test]
async fn a_pod_that_loses_its_label_while_no_operator_runs_is_labelled_again_and_counted() {
    let cluster = DevCluster::start().await.unwrap();
    let operator = Operator::start(cluster.kubeconfig(), "same-name", &["--lease-duration-seconds=3"]).await;
    let world = World::new(cluster.kubeconfig(), "lost").await;
    world.apply(&world.set("agent:v1", json!({}))).await;
    world.deploy(2).await;
    world.until_set("both pods are counted", |set| set.status.as_ref().unwrap().updated_ready_pods == 2).await;
    operator.kill();
    let pods: Api<Pod> = world.api();
    let victim = world.pods().await[0].name_any();
    let patch = json!({"metadata": {"labels": {LABEL: null}}});
    pods.patch(&victim, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    let operator = Operator::start(cluster.kubeconfig(), "same-name", &["--lease-duration-seconds=3"]).await;
    eventually("the label is set again", async || {
        let pod = pods.get(&victim).await.unwrap();
        if pod.labels().contains_key(LABEL) { Ok(()) } else { Err(pod.meta().labels.clone()) }
    })
    .await;
    world.until_set("both pods are counted", |set| set.status.as_ref().unwrap().matched_pods == 2).await;
    assert!(operator.terminate());
    cluster.stop().await;
}
