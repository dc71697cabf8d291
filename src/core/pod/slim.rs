//! What is decoded of a pod.

use k8s_openapi::api::core::v1::{ContainerResizePolicy, ContainerState, PodCondition, Probe};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::core::base::resources::Resources;

/// The fields of a pod that are decoded. Never written back: patches only.
#[derive(Clone, Debug, Deserialize, Serialize, kube::Resource)]
#[resource(inherit = "k8s_openapi::api::core::v1::Pod")]
pub struct SlimPod {
    /// Without managedFields once it has passed the watch.
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) spec: SlimSpec,
    #[serde(default)]
    pub(crate) status: SlimStatus,
}

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
    pub(super) restart_policy: Option<String>,
    pub(super) startup_probe: Option<Probe>,
    pub(super) resources: Resources,
    pub(super) resize_policy: Vec<ContainerResizePolicy>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SlimStatus {
    pub(super) observed_generation: Option<i64>,
    pub(super) phase: Option<String>,
    pub(super) conditions: Vec<PodCondition>,
    pub(super) container_statuses: Vec<SlimContainerStatus>,
    pub(super) init_container_statuses: Vec<SlimContainerStatus>,
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
    pub(super) state: ContainerState,
    pub(super) last_state: ContainerState,
    pub(super) resources: Option<Resources>,
}
