//! `updateStrategy.maxUnavailablePerWorkload`: how many pods of each workload are unavailable, and for how many more
//! there is room.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::core::base::percent::scaled;
use crate::core::base::tally::tally;
use crate::core::pod::workload::Workload;
use crate::core::rollout::assess::Assessment;
use crate::core::rollout::assess::state::Claim;

/// The running counters of the workloads of one set.
#[derive(Debug)]
pub(crate) struct Workloads {
    /// A number, or a percentage of a workload's pods.
    limit: Option<IntOrString>,
    pods: HashMap<Arc<Workload>, Pods>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Pods {
    matched: usize,
    unavailable: usize,
}

/// A pod that is not ready, or in an update, counts against its workload, whatever the reason.
pub(crate) fn is_unavailable(pod: &Assessment) -> bool {
    !pod.ready || pod.claim != Claim::None
}

impl Workloads {
    pub fn new(limit: Option<IntOrString>) -> Self {
        Self { limit, pods: HashMap::new() }
    }

    /// A pod comes or goes. True if there is room now where there was none, or the other way round.
    pub(crate) fn change(&mut self, workload: &Arc<Workload>, is_unavailable: bool, add: bool) -> bool {
        let before = self.has_room(workload);
        let pods = self.pods.entry(Arc::clone(workload)).or_default();
        tally(&mut pods.matched, 1, add);
        tally(&mut pods.unavailable, usize::from(is_unavailable), add);
        if pods.matched == 0 {
            self.pods.remove(workload);
        }
        before != self.has_room(workload)
    }

    /// Pods that may become unavailable now.
    pub(crate) fn room(&self, workload: &Workload) -> usize {
        let (limit, pods) = self.of(workload);
        limit.saturating_sub(pods.unavailable)
    }

    pub(crate) fn has_room(&self, workload: &Workload) -> bool {
        self.room(workload) > 0
    }

    /// Pods of it belong to the set.
    pub(crate) fn has(&self, workload: &Workload) -> bool {
        self.pods.contains_key(workload)
    }

    /// For people, for example `Deployment default/web (1 of 1 unavailable)`. `evicting`: what evictions take of its room.
    pub(crate) fn describe(&self, workload: &Workload, evicting: usize) -> String {
        let (limit, pods) = self.of(workload);
        format!("{workload} ({} of {limit} unavailable)", pods.unavailable + evicting)
    }

    fn of(&self, workload: &Workload) -> (usize, Pods) {
        let pods = self.pods.get(workload).copied().unwrap_or_default();
        let limit = self.limit.as_ref().map_or(usize::MAX, |limit| scaled(limit, pods.matched).max(1));
        (limit, pods)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::rollout::testing::TestPod;

    #[test]
    fn a_percentage_is_rounded_up_and_is_at_least_one_pod() {
        for (limit, pods, room) in
            [("10%", 1, 1), ("10%", 10, 1), ("10%", 11, 2), ("100%", 3, 3), ("2", 1, 2), ("0", 5, 1)]
        {
            let limit = limit.parse().map_or_else(|_| IntOrString::String(limit.to_owned()), IntOrString::Int);
            let mut workloads = Workloads::new(Some(limit.clone()));
            let workload = Arc::new(Workload::of(&TestPod::new("p").view()));
            for _ in 0..pods {
                workloads.change(&workload, false, true);
            }
            assert_eq!(workloads.room(&workload), room, "{limit:?} of {pods}");
        }
    }
}
