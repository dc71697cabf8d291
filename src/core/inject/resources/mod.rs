//! Resources of sidecars: computed from the application's (`resourcesPolicy`), on top of them (`Additive`) or out of
//! one budget with them (`SharedWithPod`); and what becomes of the pod's `QoS` class.
//!
//! What each mode makes of a pod, for a sidecar with equal limits and requests and for one that says nothing. The
//! table is a test (`tests::modes`), and its rows were created on a 1.36 apiserver:
//!
//! | The application is | `Additive` | `Additive` + `preserveQoS` | `SharedWithPod`, with or without `preserveQoS` |
//! |---|---|---|---|
//! | Guaranteed | Guaranteed; Burstable if a sidecar has no equal limits and requests | Guaranteed; such a sidecar is not injected | pod-level requests and limits = the application's; sidecars: limits at most those, requests 0; Guaranteed |
//! | Burstable, every container limited | Burstable | Burstable | the same; Burstable |
//! | Burstable, one container unlimited | Burstable | Burstable | pod-level requests = the application's, no limit; sidecars: their own limits, requests 0; Burstable |
//! | `BestEffort` | Burstable; `BestEffort` if the sidecars say nothing | the same | pod-level requests 0; sidecars: their own limits, requests 0; `BestEffort` |
//! | with pod-level resources of its own | sidecars that fit into them; its own class | the same | pod-level resources kept; sidecars: limits at most those, requests 0; its own class |
//!
//! The pod-level budget of several sets is one: the application's containers and the sidecars of `Additive` sets make
//! it, the sidecars of `SharedWithPod` sets use it. So the mode of one set never changes another set's sidecars.

mod amounts;
mod policy;
mod shared;
#[cfg(test)]
mod tests;

pub(super) use amounts::preserve_qos;
pub(super) use policy::Policy;
pub(super) use shared::{PodLevel, fits_pod_level, pod_level, shared_resources};

/// Why the sidecars of a set cannot get their resources in this pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ResourcesError {
    /// `resourcesPolicy` finds no container to compute from.
    #[error(
        "no container of the application has a name that {pattern:?} matches; it has {names}: change resourcesPolicy.targetContainersNameRegex"
    )]
    NoTarget {
        /// The regular expression, `.*` if the set has none.
        pattern: String,
        names: String,
    },
    /// A pod that the apiserver has not seen yet may say anything.
    #[error("{owner}: resources.{field}: {text} is not a quantity: write 100m or 64Mi")]
    NotAQuantity {
        /// The container, or the pod.
        owner: String,
        /// `limits.cpu`
        field: String,
        /// What stands there, as JSON.
        text: String,
    },
    /// Pod-level resources are for Linux.
    #[error("a Windows pod has no pod-level resources: set spec.resources.mode to Additive")]
    Windows,
    /// The apiserver would refuse the pod.
    #[error("{0}")]
    PodLevelExceeded(String),
    /// The pod would lose its class.
    #[error("{0}")]
    QosLost(String),
}
