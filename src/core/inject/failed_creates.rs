//! Owners that cannot create their pods with the sidecars of a set: a bounded list in its status, which every replica of the
//! webhook reads. With `failurePolicy: Ignore` their pods come without.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::api::SidecarSet;
use crate::api::v1beta1::{FailedCreate, FailedOwner};
use crate::core::base::controller::add_claims;
use crate::core::base::text::bounded;
use crate::core::base::time::after;
use crate::core::revision::hash_of;

/// Entries that a status keeps: a few ten kilobytes.
const MAX_KEPT: usize = 100;

/// Replicas of the webhook follow a change, and the API keeps whole seconds.
const FOLLOW: SignedDuration = SignedDuration::from_secs(2);

/// The list, by what a pod says of itself: revision and message.
#[derive(Clone, Debug, Default)]
pub(super) struct FailedCreates {
    owners: HashMap<String, (String, String)>,
    namespaces: HashMap<String, (String, String)>,
}

impl FailedCreates {
    pub(super) fn of(set: &SidecarSet) -> Self {
        let mut all = Self::default();
        for FailedCreate { namespace, owner, revision, message, at: _ } in listed(set) {
            let why = (revision.clone(), message.clone());
            match owner {
                Some(owner) => all.owners.insert(owner.uid.clone(), why),
                None => all.namespaces.insert(namespace.clone(), why),
            };
        }
        all
    }

    /// Revision and message of the entry for pods of this owner.
    pub(super) fn find(&self, namespace: &str, owner: Option<&str>) -> Option<(&str, &str)> {
        let entry = owner.and_then(|owner| self.owners.get(owner).or_else(|| self.namespaces.get(namespace)))?;
        Some((&entry.0, &entry.1))
    }
}

/// `status.failedCreates`.
pub(crate) fn listed(set: &SidecarSet) -> &[FailedCreate] {
    set.status.as_ref().and_then(|status| status.failed_creates.as_deref()).unwrap_or_default()
}

/// The list with one more entry, which takes the place of another one for the same owner; `None` if it says so already, or
/// has no room. Where there is none the namespace with the most owners becomes one entry.
pub(crate) fn with_entry(listed: &[FailedCreate], entry: &FailedCreate) -> Option<Vec<FailedCreate>> {
    let uid = |entry: &FailedCreate| entry.owner.as_ref().map(|owner| owner.uid.clone());
    let is_covered = |other: &FailedCreate| {
        let is_same = match &other.owner {
            Some(_) => other.owner == entry.owner,
            None => other.namespace == entry.namespace,
        };
        is_same && other.revision == entry.revision
    };
    if listed.iter().any(is_covered) {
        return None;
    }
    let is_other = |other: &&FailedCreate| uid(other) != uid(entry);
    let mut list: Vec<FailedCreate> = listed.iter().filter(is_other).chain([entry]).cloned().collect();
    if list.len() > MAX_KEPT {
        let mut owners: BTreeMap<&str, usize> = BTreeMap::new();
        for entry in list.iter().filter(|entry| entry.owner.is_some()) {
            *owners.entry(&entry.namespace).or_default() += 1;
        }
        let (namespace, _) = owners.into_iter().filter(|(_, owners)| *owners > 1).max_by_key(|(_, owners)| *owners)?;
        let newest = list.iter().rfind(|entry| entry.namespace == namespace)?.clone();
        list.retain(|entry| entry.namespace != newest.namespace);
        list.push(FailedCreate { owner: None, ..newest });
    }
    Some(list)
}

/// A pod as its owner describes it, and would be controlled by it; `None` for a kind without a template in the usual place.
pub(crate) fn pod_of(owner: &Value) -> Option<Value> {
    let template = owner.pointer("/spec/template").filter(|template| template["spec"]["containers"].is_array())?;
    let (name, metadata) = (&owner["metadata"]["name"], &owner["metadata"]);
    let mut pod =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"]});
    if !pod["metadata"].is_object() {
        pod["metadata"] = json!({});
    }
    pod["metadata"]["generateName"] = json!(format!("{}-", name.as_str()?));
    pod["metadata"]["namespace"] = metadata["namespace"].clone();
    pod["metadata"]["ownerReferences"] = json!([{"apiVersion": owner["apiVersion"], "kind": owner["kind"],
        "name": name, "uid": metadata["uid"], "controller": true}]);
    let claims = owner["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten();
    add_claims(&mut pod, claims.filter_map(|claim| claim["metadata"]["name"].as_str()));
    Some(pod)
}

/// The owner as an entry names it.
pub(crate) fn failed_owner(owner: &Value) -> FailedOwner {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    FailedOwner {
        api_version: text(&owner["apiVersion"]),
        kind: text(&owner["kind"]),
        name: text(&owner["metadata"]["name"]),
        uid: text(&owner["metadata"]["uid"]),
        template_hash: hash_of(&owner["spec"]["template"]),
    }
}

/// Whether an owner wants pods at all: a `ReplicaSet` of an old rollout and a Job that has ended do not.
pub(crate) fn wants_pods(owner: &Value) -> bool {
    let conditions = owner["status"]["conditions"].as_array().into_iter().flatten();
    let is_ended = |it: &Value| (it["type"] == "Complete" || it["type"] == "Failed") && it["status"] == "True";
    owner["spec"]["replicas"] != 0 && !(owner["kind"] == "Job" && conditions.into_iter().any(is_ended))
}

/// Whether it has fewer than it wants, as far as its status says.
pub(crate) fn lacks_pods(owner: &Value) -> bool {
    let number = |pointer: &str| owner.pointer(pointer).and_then(Value::as_i64);
    if !wants_pods(owner) {
        return false;
    }
    // Its controller has not counted since the last change.
    if owner["kind"] != "Job" && number("/status/observedGeneration") < number("/metadata/generation") {
        return true;
    }
    match owner["kind"].as_str() {
        Some("DaemonSet") => number("/status/currentNumberScheduled") < number("/status/desiredNumberScheduled"),
        Some("Job") => {
            let parallelism = number("/spec/parallelism").unwrap_or(1);
            let left = number("/spec/completions").map(|all| all - number("/status/succeeded").unwrap_or(0));
            number("/status/active").unwrap_or(0) < left.map_or(parallelism, |left| left.min(parallelism))
        }
        _ => number("/status/replicas").unwrap_or(0) < number("/spec/replicas").unwrap_or(1),
    }
}

/// The end of a message that says what is wrong, without the words of the owner's controller and the name of the pod, which is
/// another one for each attempt.
pub(crate) fn said(message: &str) -> &str {
    let before = ["\" is forbidden: ", "\" is invalid: : ", "\" is invalid: ", " failed error: ", "Error creating: "];
    before.iter().find_map(|words| message.split_once(words)).map_or(message, |(_, said)| said)
}

/// What a `ReplicaSet` says when it cannot create pods.
pub(crate) fn replica_failure(owner: &Value) -> Option<String> {
    let conditions = owner["status"]["conditions"].as_array().into_iter().flatten();
    let mut failures = conditions.filter(|it| it["type"] == "ReplicaFailure" && it["status"] == "True");
    let failure = failures.find(|it| it["reason"] == "FailedCreate")?;
    Some(bounded(said(failure["message"].as_str().unwrap_or_default()).to_owned()))
}

/// Whether the template of owners of this kind never changes: a Deployment makes another `ReplicaSet`.
pub(crate) fn has_fixed_template(kind: &str) -> bool {
    matches!(kind, "ReplicaSet" | "Job")
}

/// Whether an attempt to create a pod tells of a set as it is now, and not as it was.
pub(crate) fn tells_of(set: &SidecarSet, attempt: Timestamp) -> bool {
    let status = set.status.as_ref();
    let given =
        [status.and_then(|it| it.rollout_started_at.as_ref()), status.and_then(|it| it.new_pods_since.as_ref())];
    let given = given.into_iter().flatten().map(|time| time.0);
    changed_at(&set.metadata).into_iter().chain(given).max().is_none_or(|changed| attempt >= after(changed, FOLLOW))
}

/// The same of an owner whose template may change.
pub(crate) fn tells_of_owner(metadata: &ObjectMeta, attempt: Timestamp) -> bool {
    changed_at(metadata).is_none_or(|changed| attempt >= after(changed, FOLLOW))
}

/// When more than the status was last written, by the clock of the API server.
fn changed_at(metadata: &ObjectMeta) -> Option<Timestamp> {
    let writes = metadata.managed_fields.iter().flatten().filter(|write| write.subresource.is_none());
    writes.filter_map(|write| write.time.as_ref()).chain(&metadata.creation_timestamp).map(|time| time.0).max()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::api::reasons::Reason;
    use crate::api::validate::validate;
    use crate::core::inject::{CompiledSet, CompiledSets, Request, inject};
    use crate::core::revision::{History, Template};

    fn entry(namespace: &str, owner: &str) -> FailedCreate {
        let owner = (!owner.is_empty()).then(|| failed_owner(&replica_set(owner)));
        FailedCreate {
            namespace: namespace.to_owned(),
            owner,
            revision: "r".to_owned(),
            message: "no".to_owned(),
            at: "2026-01-01T00:00:00Z".parse().map(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time).unwrap(),
        }
    }

    fn replica_set(uid: &str) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web", "namespace": "n", "uid": uid},
            "spec": {"replicas": 2, "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "app"}]}}}})
    }

    fn set(policy: &str, list: &[FailedCreate]) -> SidecarSet {
        serde_json::from_value(json!({
            "apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet",
            "metadata": {"name": "s", "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [
                {"manager": "user", "operation": "Apply", "time": "2026-01-01T01:00:00Z"},
                {"manager": "operator", "operation": "Update", "subresource": "status", "time": "2026-01-01T02:00:00Z"}]},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "containers": [{"name": "agent", "image": "a"}],
                "injectionStrategy": {"failurePolicy": policy}},
            "status": {"failedCreates": list},
        }))
        .unwrap()
    }

    /// What the set says of a pod of this owner.
    fn reason(set: &SidecarSet, owner: &Value) -> Reason {
        let sets = CompiledSets::new([Arc::new(CompiledSet::new(&validate(set).unwrap(), &History::new()))]);
        let (pod, none) = (pod_of(owner).unwrap(), BTreeMap::new());
        let request = Request { pod: &pod, namespace: "n", namespace_labels: &none, excluded: &[] };
        inject(&sets, &request).outcomes[0].reason
    }

    #[test]
    fn pods_of_a_listed_owner_come_without_the_revision_that_is_listed() {
        let revision = Template::of(&set("Ignore", &[]).spec).hash(0);
        let listed = |namespace, owner| FailedCreate { revision: revision.clone(), ..entry(namespace, owner) };
        let owner = replica_set("u");
        for (policy, list, expected) in [
            ("Ignore", listed("n", "u"), Reason::PodsNotCreated),
            ("Ignore", listed("n", ""), Reason::PodsNotCreated),
            ("Ignore", listed("n", "other"), Reason::Injected),
            ("Ignore", listed("other", ""), Reason::Injected),
            ("Ignore", entry("n", "u"), Reason::Injected),
            ("Fail", listed("n", "u"), Reason::Injected),
        ] {
            assert_eq!(reason(&set(policy, std::slice::from_ref(&list)), &owner), expected, "{policy} {list:?}");
        }
        let mut bare = owner;
        bare["metadata"]["uid"] = Value::Null;
        assert_eq!(reason(&set("Ignore", &[listed("n", "")]), &bare), Reason::Injected, "no controller makes it");
    }

    #[test]
    fn what_was_said_is_told_without_the_name_of_the_pod() {
        for (message, expected) in [
            ("(combined from similar events): Error creating: pods \"web-x\" is forbidden: violates", "violates"),
            ("Create Pod web-0 in StatefulSet web failed error: Pod \"web-0\" is invalid: spec", "spec"),
            (
                "Error creating: admission webhook \"w\" denied the request: no",
                "admission webhook \"w\" denied the request: no",
            ),
            ("pods \"web-x\" is invalid: : ValidatingAdmissionPolicy 'p'", "ValidatingAdmissionPolicy 'p'"),
            ("other", "other"),
        ] {
            assert_eq!(said(message), expected);
        }
    }

    #[test]
    fn an_owner_has_one_entry() {
        let once = with_entry(&[], &entry("n", "u")).unwrap();
        assert_eq!(with_entry(&once, &entry("n", "u")), None);
        let newer = FailedCreate { revision: "r2".to_owned(), ..entry("n", "u") };
        assert_eq!(with_entry(&once, &newer), Some(vec![newer]));
        assert_eq!(with_entry(&[entry("n", "")], &entry("n", "u")), None, "its namespace says so");
    }

    #[test]
    fn past_a_hundred_the_namespace_with_the_most_owners_is_one_entry() {
        let mut list: Vec<_> = (0..60).map(|i| entry("a", &format!("a{i}"))).collect();
        list.extend((0..40).map(|i| entry("b", &format!("b{i}"))));
        let list = with_entry(&list, &entry("b", "b40")).unwrap();
        assert_eq!((list.len(), list.last().unwrap()), (42, &entry("a", "")));
        let namespaces: Vec<_> = (0..MAX_KEPT).map(|i| entry(&format!("n{i}"), "")).collect();
        assert_eq!(with_entry(&namespaces, &entry("other", "u")), None, "there is no room");
    }

    #[test]
    fn attempts_before_the_set_changed_tell_nothing_of_it() {
        let set = set("Ignore", &[]);
        let tells = |time: &str| tells_of(&set, format!("2026-01-01T{time}Z").parse().unwrap());
        assert!(!tells("00:59:00") && !tells("01:00:01") && tells("01:00:02"));
        let mut later = set.clone();
        later.status.as_mut().unwrap().new_pods_since = Some(entry("n", "u").at);
        assert!(tells_of(&later, "2026-01-01T01:00:02Z".parse().unwrap()), "the last change counts");
    }

    #[test]
    fn a_pod_of_a_stateful_set_has_its_claims() {
        let mut owner = replica_set("u");
        owner["spec"]["template"]["spec"]["volumes"] = json!([{"name": "data"}, {"name": "logs"}]);
        owner["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}}]);
        let pod = pod_of(&owner).unwrap();
        let claim = json!({"name": "data", "persistentVolumeClaim": {"claimName": "data"}});
        assert_eq!(pod["spec"]["volumes"], json!([claim, {"name": "logs"}]));
        assert_eq!(pod_of(&json!({"spec": {"template": {"spec": {"size": 1}}}})), None);
    }

    #[test]
    fn whether_an_owner_lacks_pods_is_in_its_status() {
        for (kind, status, lacks) in [
            ("ReplicaSet", json!({"replicas": 1}), true),
            ("ReplicaSet", json!({"replicas": 2}), false),
            ("StatefulSet", json!({}), true),
            ("DaemonSet", json!({"desiredNumberScheduled": 3, "currentNumberScheduled": 2}), true),
            ("DaemonSet", json!({"desiredNumberScheduled": 3, "currentNumberScheduled": 3}), false),
            ("DaemonSet", json!({"observedGeneration": 1}), true),
            ("Job", json!({}), true),
            ("Job", json!({"active": 1}), false),
            ("Job", json!({"conditions": [{"type": "Complete", "status": "True"}]}), false),
        ] {
            let mut owner = replica_set("u");
            (owner["kind"], owner["status"]) = (json!(kind), status.clone());
            if status["observedGeneration"] == 1 {
                owner["metadata"]["generation"] = json!(2);
            }
            assert_eq!(lacks_pods(&owner), lacks, "{kind} {status}");
        }
        let mut old = replica_set("u");
        old["spec"]["replicas"] = json!(0);
        assert!(!wants_pods(&old) && !lacks_pods(&old));
    }
}
