//! What is decoded of a pod.

use k8s_openapi::api::core::v1::ContainerState;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::{Deserialize, Serialize};

use crate::core::base::resources::Resources;

/// The fields of a pod that are decoded. Never written back: patches only.
#[derive(Clone, Debug, Deserialize, Serialize, kube::Resource)]
#[resource(inherit = "k8s_openapi::api::core::v1::Pod")]
pub struct SlimPod {
    /// Without managedFields once it has passed the watch.
    pub(crate) metadata: ObjectMeta,
    /// Containers, node, restart policy.
    #[serde(default)]
    pub(crate) spec: SlimSpec,
    /// Phase, conditions, container statuses.
    #[serde(default)]
    pub(crate) status: SlimStatus,
}

/// See [`SlimPod`].
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SlimSpec {
    pub(super) containers: Vec<SlimContainer>,
    pub(super) init_containers: Vec<SlimContainer>,
    pub(super) node_name: Option<String>,
    pub(super) restart_policy: Option<String>,
    pub(super) resources: Option<serde_json::Value>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct SlimContainer {
    pub(super) name: String,
    pub(super) image: Option<String>,
    pub(super) startup_probe: Option<SlimProbe>,
    pub(super) resources: Resources,
    pub(super) resize_policy: Vec<SlimResizePolicy>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct SlimResizePolicy {
    pub(super) resource_name: String,
    pub(super) restart_policy: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct SlimProbe {
    pub(super) period_seconds: Option<i32>,
}

/// See [`SlimPod`].
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SlimStatus {
    pub(super) observed_generation: Option<i64>,
    pub(super) phase: Option<String>,
    pub(super) conditions: Vec<SlimCondition>,
    pub(super) container_statuses: Vec<SlimContainerStatus>,
    pub(super) init_container_statuses: Vec<SlimContainerStatus>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct SlimCondition {
    #[serde(rename = "type")]
    pub(super) type_: String,
    pub(super) status: String,
    pub(super) last_transition_time: Option<Time>,
    pub(super) reason: Option<String>,
    pub(super) message: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct SlimContainerStatus {
    pub(super) name: String,
    #[serde(rename = "containerID")]
    pub(super) container_id: Option<String>,
    pub(super) ready: bool,
    pub(super) started: Option<bool>,
    pub(super) restart_count: i32,
    pub(super) state: Option<ContainerState>,
    pub(super) last_state: Option<ContainerState>,
    pub(super) resources: Option<Resources>,
}
