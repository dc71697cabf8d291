//! Resources of sidecars: computed from the application's (`resourcesPolicy`), on top of them (`Additive`) or out of
//! one budget with them (`SharedWithPod`); and what becomes of the pod's `QoS` class: docs/resources.md has the table, and
//! `tests::modes` tests it.
//!
//! The pod-level budget of several sets is one: the application's containers and the sidecars of `Additive` sets make
//! it, the sidecars of `SharedWithPod` sets use it. So the mode of one set never changes another set's sidecars.

mod amounts;
mod policy;
mod shared;
#[cfg(test)]
mod tests;

pub(super) use amounts::{Counts, peak, preserve_qos, read, request_of};
pub(super) use policy::Policy;
pub(super) use shared::{fits_pod_level, pod_level, shared_resources};

/// Why the sidecars of a set cannot get their resources in this pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ResourcesError {
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
        owner: String,
        /// `limits.cpu`
        field: String,
        text: String,
    },
    #[error("a Windows pod has no pod-level resources: set spec.resources.mode to Additive")]
    Windows,
    #[error("{0}")]
    PodLevelExceeded(String),
    #[error("{0}")]
    QosLost(String),
}
