//! `spec.containers[]` and `spec.initContainers[]`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ObjectFieldSelector};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A core/v1 container, and what this program wants to know about it.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SidecarContainer {
    /// Every field of core/v1 `Container`.
    #[serde(flatten)]
    pub container: Container,

    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_inject_policy: Option<PodInjectPolicy>,

    /// How the container's image is changed. Default ColdUpgrade.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade_strategy: Option<ContainerUpgradeStrategy>,

    /// Whether the container gets the volume mounts of the application's containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_volume_policy: Option<SharePolicy>,

    /// Whether the container gets the volume devices of the application's containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_volume_device_policy: Option<SharePolicy>,

    /// Environment variables copied from application containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub transfer_env: Vec<TransferEnv>,

    /// Resources computed from those of the application's containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources_policy: Option<ResourcesPolicy>,

    /// Names of sidecars, or `app`, that start before this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub depends_on: Vec<String>,
}

/// Where the container is placed. Default: BeforeAppContainer in containers, AfterAppContainer in initContainers.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::enum_variant_names)] // OpenKruise's values
pub enum PodInjectPolicy {
    /// In front of the pod's own containers of the same list.
    BeforeAppContainer,
    /// Behind the pod's own containers of the same list.
    AfterAppContainer,
}

#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerUpgradeStrategy {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade_type: Option<UpgradeType>,
    /// Image of the idle twin of a hot upgrade.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hot_upgrade_empty_image: Option<String>,
}

/// ColdUpgrade, the default, stops the container and starts it with the new image; HotUpgrade hands over to a twin before the old one stops.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::enum_variant_names)] // OpenKruise's values
pub enum UpgradeType {
    /// The container is stopped and started with the new image.
    ColdUpgrade,
    /// A twin container takes over before the old one stops.
    HotUpgrade,
}

#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SharePolicy {
    /// enabled or disabled.
    #[serde(rename = "type")]
    pub type_: ShareType,
}

#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShareType {
    Enabled,
    Disabled,
}

/// Environment variables copied from one application container.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TransferEnv {
    /// Name of the container to copy from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_container_name: Option<String>,
    /// Where the name of the container to copy from is found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_container_name_from: Option<SourceContainerNameFrom>,
    /// One variable to copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env_name: Option<String>,
    /// Several variables to copy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_names: Vec<String>,
}

#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceContainerNameFrom {
    /// A label or annotation of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field_ref: Option<ObjectFieldSelector>,
}

#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourcesPolicy {
    /// How the targets' values are combined: sum adds them up; max takes the largest.
    pub target_containers_mode: TargetContainersMode,
    /// Regular expression on container names. Default: every application container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_containers_name_regex: Option<String>,
    /// The expressions.
    pub resources_expr: ResourcesExpr,
}

#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetContainersMode {
    Sum,
    Max,
}

#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ResourcesExpr {
    /// Expressions for limits, by resource name (`cpu`, `memory`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, String>,
    /// Expressions for requests, by resource name (`cpu`, `memory`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, String>,
}
