//! What patching a pod takes of the budgets.

use crate::core::rollout::assess::Assessment;
use crate::core::rollout::assess::state::Claim;

/// What takes less goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cost {
    /// Nothing more: it has its place already.
    Held,
    /// A place under the cap of unready pods: it is not ready anyway.
    Unready,
    /// A slot of maxUnavailable.
    Ready,
}

impl Cost {
    pub fn of(pod: &Assessment) -> Self {
        match pod.next_claim() {
            _ if pod.is_held() => Self::Held,
            Claim::Disruption => Self::Ready,
            Claim::Unready | Claim::None => Self::Unready,
        }
    }
}

/// What is unavailable already takes nothing from its workload, unless that may be over in a moment.
pub(crate) fn needs_room(pod: &Assessment) -> bool {
    pod.counts_as_ready && pod.claim == Claim::None
}

/// How many pods a plan may take of those that cost something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Free {
    /// Slots of maxUnavailable.
    pub(crate) slots: usize,
    /// Places under the cap of unready pods.
    pub(crate) cap: usize,
}

impl Free {
    pub(crate) fn has(self, cost: Cost) -> bool {
        match cost {
            Cost::Held => true,
            Cost::Unready => self.cap > 0,
            Cost::Ready => self.slots > 0,
        }
    }

    /// Takes what touching a pod costs; false if it is not left.
    pub(crate) fn take(&mut self, cost: Cost) -> bool {
        let is_left = self.has(cost);
        match cost {
            Cost::Held => {}
            Cost::Unready => self.cap = self.cap.saturating_sub(1),
            Cost::Ready => self.slots = self.slots.saturating_sub(1),
        }
        is_left
    }
}
