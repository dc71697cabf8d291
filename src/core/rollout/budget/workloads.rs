//! `updateStrategy.maxUnavailablePerWorkload`: how many pods of each workload are unavailable, and for how many more
//! there is room.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::core::base::percent::scaled;
use crate::core::pod::PodView;

/// Labels with the hash at the end of a `ReplicaSet`'s name, and the kind of its own controller: that of
/// Kubernetes, and that of Argo Rollouts.
const TEMPLATE_HASHES: [(&str, &str); 2] =
    [("pod-template-hash", "Deployment"), ("rollouts-pod-template-hash", "Rollout")];

/// What a pod belongs to. Shown as `Deployment default/web`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Workload {
    namespace: String,
    name: String,
    kind: String,
}

impl Workload {
    /// The pod's controller, or the pod itself.
    pub(crate) fn of(pod: &PodView) -> Self {
        let (kind, name) = match &pod.owner {
            None => ("Pod", pod.key.name.as_str()),
            // Two ReplicaSets serve one Deployment while it rolls; both are named <deployment>-<hash>, and the pods know the hash.
            Some(owner) if owner.kind == "ReplicaSet" => {
                let parents = TEMPLATE_HASHES.iter().filter_map(|(label, kind)| {
                    let parent = owner.name.strip_suffix(pod.labels.get(*label)?.as_str())?.strip_suffix('-')?;
                    (!parent.is_empty()).then_some((*kind, parent))
                });
                parents.into_iter().next().unwrap_or(("ReplicaSet", &owner.name))
            }
            Some(owner) => (owner.kind.as_str(), owner.name.as_str()),
        };
        Self { namespace: pod.key.namespace.clone(), name: name.to_owned(), kind: kind.to_owned() }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// The running counters of the workloads of one set.
#[derive(Debug)]
pub(crate) struct Workloads {
    /// A number, or a percentage of a workload's pods.
    limit: Option<IntOrString>,
    pods: HashMap<Arc<Workload>, Pods>,
    locked_out: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Pods {
    matched: usize,
    unavailable: usize,
    /// Of these, those whose update failed.
    failed: usize,
    /// Candidates that need room.
    waiting: usize,
}

/// How a pod counts in its workload.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Member {
    pub(crate) unavailable: bool,
    pub(crate) failed: bool,
    /// It is a candidate.
    pub(crate) waits: bool,
}

impl Workloads {
    pub(crate) fn new(limit: Option<IntOrString>) -> Self {
        Self { limit, pods: HashMap::new(), locked_out: 0 }
    }

    /// Takes note of a pod that comes or goes. True if there is room now where there was none, or the other way round.
    pub(crate) fn account(&mut self, workload: &Arc<Workload>, pod: Member, add: bool) -> bool {
        let before = self.has_room(workload);
        self.locked_out -= self.locked_out_of(workload);
        let pods = self.pods.entry(Arc::clone(workload)).or_default();
        let count = |field: &mut usize, on: bool| {
            let by = usize::from(on);
            *field = if add { *field + by } else { *field - by };
        };
        count(&mut pods.matched, true);
        count(&mut pods.unavailable, pod.unavailable);
        count(&mut pods.failed, pod.unavailable && pod.failed);
        count(&mut pods.waiting, pod.waits && !pod.unavailable);
        if pods.matched == 0 {
            self.pods.remove(workload);
        }
        self.locked_out += self.locked_out_of(workload);
        before != self.has_room(workload)
    }

    /// Candidates in workloads whose room failed pods fill alone: their turn does not come.
    pub(crate) fn locked_out(&self) -> usize {
        self.locked_out
    }

    fn locked_out_of(&self, workload: &Workload) -> usize {
        let (limit, pods) = self.of(workload);
        if pods.failed >= limit { pods.waiting } else { 0 }
    }

    /// Pods that may become unavailable now.
    pub(crate) fn room(&self, workload: &Workload) -> usize {
        let (limit, pods) = self.of(workload);
        limit.saturating_sub(pods.unavailable)
    }

    pub(crate) fn has_room(&self, workload: &Workload) -> bool {
        self.room(workload) > 0
    }

    /// For people, for example `Deployment default/web (1 of 1 unavailable)`.
    pub(crate) fn describe(&self, workload: &Workload) -> String {
        let (limit, pods) = self.of(workload);
        format!("{workload} ({} of {limit} unavailable)", pods.unavailable)
    }

    fn of(&self, workload: &Workload) -> (usize, Pods) {
        let pods = self.pods.get(workload).copied().unwrap_or_default();
        let limit = self.limit.as_ref().map_or(usize::MAX, |limit| scaled(limit, pods.matched).max(1));
        (limit, pods)
    }
}

/// The room that is left while a plan takes pods.
pub(crate) struct Rooms<'a> {
    workloads: &'a Workloads,
    taken: BTreeMap<&'a Workload, usize>,
}

impl<'a> Rooms<'a> {
    pub(crate) fn new(workloads: &'a Workloads) -> Self {
        Self { workloads, taken: BTreeMap::new() }
    }

    /// True for a pod that needs none.
    pub(crate) fn is_left(&self, workload: Option<&Workload>) -> bool {
        let taken = |workload| self.taken.get(workload).copied().unwrap_or(0);
        workload.is_none_or(|workload| self.workloads.room(workload) > taken(workload))
    }

    pub(crate) fn take(&mut self, workload: Option<&'a Workload>) {
        if let Some(workload) = workload {
            *self.taken.entry(workload).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::rollout::testing::TestPod;

    #[test]
    fn a_workload_is_the_controller_and_for_a_replica_set_what_made_it() {
        for (kind, name, label, expected) in [
            ("ReplicaSet", "web-5d4f", Some(("pod-template-hash", "5d4f")), "Deployment default/web"),
            ("ReplicaSet", "a-b-5d4f", Some(("rollouts-pod-template-hash", "5d4f")), "Rollout default/a-b"),
            ("ReplicaSet", "web-5d4f", Some(("pod-template-hash", "4f")), "ReplicaSet default/web-5d4f"),
            ("ReplicaSet", "web-5d4f", None, "ReplicaSet default/web-5d4f"),
            ("ReplicaSet", "-5d4f", Some(("pod-template-hash", "5d4f")), "ReplicaSet default/-5d4f"),
            ("StatefulSet", "db-5d4f", Some(("pod-template-hash", "5d4f")), "StatefulSet default/db-5d4f"),
            ("", "", None, "Pod default/p"),
        ] {
            let pod = TestPod::new("p").with(|pod| {
                if !kind.is_empty() {
                    pod["metadata"]["ownerReferences"] = json!([
                        {"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "u", "controller": true}]);
                }
                if let Some((key, value)) = label {
                    pod["metadata"]["labels"][key] = json!(value);
                }
            });
            assert_eq!(Workload::of(&pod.view()).to_string(), expected);
        }
    }

    #[test]
    fn a_percentage_is_rounded_up_and_is_at_least_one_pod() {
        for (limit, pods, room) in
            [("10%", 1, 1), ("10%", 10, 1), ("10%", 11, 2), ("100%", 3, 3), ("2", 1, 2), ("0", 5, 1)]
        {
            let limit = limit.parse().map_or_else(|_| IntOrString::String(limit.to_owned()), IntOrString::Int);
            let mut workloads = Workloads::new(Some(limit.clone()));
            let workload = Arc::new(Workload::of(&TestPod::new("p").view()));
            for _ in 0..pods {
                workloads.account(&workload, Member::default(), true);
            }
            assert_eq!(workloads.room(&workload), room, "{limit:?} of {pods}");
        }
    }
}
