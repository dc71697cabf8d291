//! What a pod belongs to.

use std::fmt;

use crate::core::pod::{Owner, PodView};

/// Labels with the hash at the end of a `ReplicaSet`'s name, and the kind of its own controller: that of
/// Kubernetes, and that of Argo Rollouts.
const TEMPLATE_HASHES: [(&str, &str); 2] =
    [("pod-template-hash", "Deployment"), ("rollouts-pod-template-hash", "Rollout")];

/// Shown as `Deployment default/web`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Workload {
    namespace: String,
    name: String,
    kind: String,
}

impl Workload {
    /// The pod's controller, or the pod itself.
    pub fn of(pod: &PodView) -> Self {
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

    /// That of an owner none of whose pods is known: what made a `ReplicaSet`, if it is among the known workloads.
    pub(crate) fn of_owner(namespace: &str, owner: &Owner, is_known: impl Fn(&Self) -> bool) -> Self {
        let workload = |kind: &str, name: &str| Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            kind: kind.to_owned(),
        };
        let parent = owner.name.rsplit_once('-').filter(|_| owner.kind == "ReplicaSet").map(|(parent, _)| parent);
        let parents = TEMPLATE_HASHES.iter().filter_map(|(_, kind)| Some(workload(kind, parent?)));
        parents.into_iter().find(is_known).unwrap_or_else(|| workload(&owner.kind, &owner.name))
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
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
}
