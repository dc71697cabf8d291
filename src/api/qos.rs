//! The `QoS` class, as Kubernetes computes it (`k8s.io/kubernetes/pkg/apis/core/v1/helper/qos`).

use super::quantity::Quantity;

/// `status.qosClass`, from the first that is killed under memory pressure to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum QosClass {
    /// Asks for nothing.
    BestEffort,
    /// Anything between.
    Burstable,
    /// Equal requests and limits for cpu and memory.
    Guaranteed,
}

impl QosClass {
    /// The class of a container or a pod. `amounts`: the request, by default the limit, and the limit of cpu and of memory
    /// for each container that counts, or for the pod if it has pod-level resources. A limit of 0 is none.
    pub fn of(amounts: impl IntoIterator<Item = (Option<Quantity>, Option<Quantity>)>) -> Self {
        let (mut asks, mut is_equal) = (false, true);
        for (request, limit) in amounts {
            let limit = limit.filter(|limit| limit.is_positive());
            asks |= limit.is_some() || request.is_some_and(Quantity::is_positive);
            is_equal &= limit.is_some() && request == limit;
        }
        match (asks, is_equal) {
            (false, _) => Self::BestEffort,
            (true, true) => Self::Guaranteed,
            (true, false) => Self::Burstable,
        }
    }

    /// As `status.qosClass` says it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::BestEffort => "BestEffort",
            Self::Burstable => "Burstable",
            Self::Guaranteed => "Guaranteed",
        }
    }
}
