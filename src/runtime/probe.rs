//! What this cluster can do, asked once at the start.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;
use tokio::time::timeout;

use crate::api::keys;

/// Longest wait for the answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Whether the apiserver keeps `spec.resources` of a pod: a server where the feature is off drops the field. Asked by a
/// dry-run create. True if that cannot be told: a set is not refused for a guess.
pub async fn pod_level_resources(client: &Client, namespace: &str) -> bool {
    let pod = json!({
        "metadata": {"generateName": "sidecarset-probe-", "labels": {keys::INJECT: "false"}},
        "spec": {
            "resources": {"requests": {"cpu": "1m"}},
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "probe", "image": "probe",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
        },
    });
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let Ok(pod) = serde_json::from_value(pod) else { return true };
    match timeout(TIMEOUT, api.create(&params, &pod)).await {
        Ok(Ok(answer)) => answer.spec.is_some_and(|spec| spec.resources.is_some()),
        Ok(Err(error)) => {
            tracing::warn!(%error, "cannot tell whether the cluster has pod-level resources; taken as yes");
            true
        }
        Err(_) => {
            tracing::warn!("no answer on whether the cluster has pod-level resources; taken as yes");
            true
        }
    }
}

/// Whether the apiserver lets resources of running pods be changed: it has the subresource `pods/resize`, as Kubernetes
/// does from 1.33 on. True if that cannot be told, as no pod is evicted for a guess.
pub async fn resize(client: &Client) -> bool {
    match timeout(TIMEOUT, client.list_core_api_resources("v1")).await {
        Ok(Ok(list)) => list.resources.iter().any(|resource| resource.name == "pods/resize"),
        Ok(Err(error)) => {
            tracing::warn!(%error, "cannot tell whether running pods can be resized; taken as yes");
            true
        }
        Err(_) => {
            tracing::warn!("no answer on whether running pods can be resized; taken as yes");
            true
        }
    }
}
