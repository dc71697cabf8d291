//! Pods of the real node, and what their containers did.

use std::path::PathBuf;
use std::sync::OnceLock;

use devcluster::{DevCluster, node};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::common::for_all_tests;
use crate::common::world::World;

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
