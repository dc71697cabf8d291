//! Pods of the real node, and what their containers did.

use std::path::PathBuf;
use std::sync::OnceLock;

use devcluster::{DevCluster, node};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::common::for_all_tests;
use crate::common::world::{World, condition, is_ready};

/// A namespace in the cluster of all tests, or none if this machine cannot run a real node.
pub async fn world(name: &str) -> Option<World> {
    static SHARED: OnceLock<Option<PathBuf>> = OnceLock::new();
    let start = async || node::or_skip(DevCluster::builder().nodes(1).real_node().start().await).unwrap();
    let kubeconfig = SHARED.get_or_init(|| for_all_tests(start)).as_ref()?;
    Some(World::new(kubeconfig, name).await)
}

/// A pod's spec, made for the real node.
pub fn real(mut spec: Value) -> Value {
    spec["nodeSelector"] = json!({node::REAL: "true"});
    spec["tolerations"] = json!([{"key": node::REAL, "operator": "Exists"}]);
    spec["terminationGracePeriodSeconds"] = json!(2);
    spec
}

/// A container of a test image that is ready when its port answers.
pub fn container(name: &str, image: &str, port: u16) -> Value {
    json!({
        "name": name, "image": format!("devcluster.test/{image}"),
        "env": [{"name": "PORT", "value": port.to_string()}],
        "readinessProbe": probe(port),
    })
}

/// Asks a container's port every second.
pub fn probe(port: u16) -> Value {
    json!({"httpGet": {"path": "/ready", "port": port}, "periodSeconds": 1, "failureThreshold": 60})
}

/// A pod's spec with the application `app`.
pub fn application() -> Value {
    real(json!({"containers": [container("app", "app:v1", 8080)]}))
}

/// The two lists that sidecars can be in: native ones are init containers.
pub const ORDINARY: &str = "containers";
pub const NATIVE: &str = "initContainers";

/// A set with the sidecar `agent`, which heeds `readinessProbe`s, in one of the two lists.
pub fn agent(world: &World, list: &str, image: &str, strategy: &Value) -> Value {
    set_with(world, list, container("agent", image, 8081), strategy)
}

/// A set with this sidecar in one of the two lists.
pub fn set_with(world: &World, list: &str, mut sidecar: Value, strategy: &Value) -> Value {
    if list == NATIVE {
        sidecar["restartPolicy"] = json!("Always");
    }
    let mut set = world.set("", strategy.clone());
    set["spec"][ORDINARY] = json!([]);
    set["spec"][list] = json!([sidecar]);
    set
}

/// A Deployment of applications with the sidecar `sidecar:v1`; waits until that is the stable revision.
pub async fn fleet(name: &str, list: &str, pods: usize, strategy: &Value) -> Option<World> {
    let world = world(name).await?;
    world.apply(&agent(&world, list, "sidecar:v1", strategy)).await;
    world.deploy_pods(pods, application()).await;
    until_done(&world, pods).await;
    Some(world)
}

/// Waits until all pods run the newest revision, and that is proved.
pub async fn until_done(world: &World, pods: usize) {
    world
        .until_set("the rollout ends", |set| {
            let status = set.status.as_ref().unwrap();
            condition(set, "Ready") == "True"
                && status.stable_revision == status.update_revision
                && usize::try_from(status.updated_ready_pods) == Ok(pods)
        })
        .await;
}

/// The same for a world of this one pod; returns it.
pub async fn settled(world: &World, pod: &str) -> Pod {
    until_done(world, 1).await;
    world.until_pod(pod, "the pod is ready", is_ready).await
}

/// Everything of the pods that an upgrade of `agent` must leave alone.
pub fn untouched(pods: &[Pod]) -> Vec<Value> {
    let one = |pod: &Pod| {
        let app = status(pod, "app");
        let status = pod.status.as_ref().unwrap();
        json!([pod.metadata.uid, status.pod_ip, status.start_time, app.container_id, app.restart_count, app.state])
    };
    pods.iter().map(one).collect()
}

/// The status of a container or init container.
pub fn status(pod: &Pod, name: &str) -> ContainerStatus {
    let status = pod.status.as_ref().unwrap();
    let mut all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    all.find(|status| status.name == name).cloned().unwrap_or_default()
}

/// When the running container was started, in whole seconds as the kubelet says it.
pub fn started_at(pod: &Pod, name: &str) -> Option<Timestamp> {
    Some(status(pod, name).state?.running?.started_at?.0)
}
