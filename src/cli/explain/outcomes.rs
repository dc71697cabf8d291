//! What each set did to a pod, or why it did nothing.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::core::SelectorExt;
use serde::Serialize;
use serde_json::Value;

use super::super::sets::Sets;
use super::super::workloads::labels;
use crate::api::reasons::Reason;
use crate::api::selector::{Selector, key};
use crate::api::validate::{ValidSidecarSet, validate};
use crate::api::{SidecarSet, keys};
use crate::core::inject::uninject::{marks, uninject};
use crate::core::inject::{CompiledSets, Injection, Request, runs_on};
use crate::core::replace::uninjected::inject_anew;
use crate::core::revision::Change;

/// What was read.
pub(super) struct View<'a> {
    pub(super) pod: &'a Value,
    pub(super) namespace: &'a str,
    pub(super) namespace_labels: &'a BTreeMap<String, String>,
    pub(super) sets: &'a Sets,
    pub(super) excluded: &'a [String],
}

/// One set and the pod.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SetLine {
    pub(super) set: String,
    /// `Injected`, or why it is not.
    pub(super) reason: Reason,
    /// Hash that the pod carries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) revision: Option<String>,
    /// Hash of the set's newest revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) target: Option<String>,
    /// One sentence; empty if there is nothing to add.
    pub(super) message: String,
}

/// A line for every set that left marks or selects the pod, with `all` for every set, by name.
pub(super) fn explain(view: &View<'_>, all: bool) -> Vec<SetLine> {
    let compiled = view.sets.compile();
    let labels = labels(view.pod);
    let revision = |label: &str| Some((label.strip_prefix(keys::REVISION_PREFIX)?.to_owned(), labels[label].clone()));
    let carried: BTreeMap<String, String> = labels.keys().filter_map(|label| revision(label)).collect();
    let selected = compiled.matching(&labels, view.namespace_labels);
    let selected: BTreeSet<&str> = selected.into_iter().map(|set| set.name.as_str()).collect();
    let wanted = as_created(view, &compiled);
    let marks = marks(view.pod);
    let sets: BTreeMap<String, &SidecarSet> = view.sets.all.iter().map(|set| (set.name_any(), set)).collect();
    let names: BTreeSet<&String> = sets.keys().chain(carried.keys()).collect();
    let lines = names.into_iter().filter_map(|name| {
        let (set, revision) = (sets.get(name).copied(), carried.get(name));
        let target = set.and_then(|set| target(set, &compiled));
        let is_selected = selected.contains(name.as_str());
        let (reason, message) = match (revision, set.map(validate), set.and_then(SidecarSet::refusal)) {
            (Some(_), None, _) => (Reason::Injected, "the set does not exist any more".to_owned()),
            (Some(_), Some(Ok(valid)), None) if !is_selected => {
                let unmet = unmet(&valid, &labels, view.namespace_labels);
                (Reason::Injected, format!("the set does not select the pod any more: {unmet}"))
            }
            (Some(revision), Some(_), _) => (Reason::Injected, compare(view, name, revision, target.as_deref())),
            (None, None, _) => return None,
            (None, Some(Err(problems)), _) => (Reason::InvalidSpec, problems.to_string()),
            (None, Some(Ok(_)), Some(refusal)) => (Reason::InvalidSpec, refusal.to_owned()),
            (None, Some(Ok(valid)), _) if is_selected => unmarked(view, valid.set(), &wanted),
            (None, Some(Ok(_)), _) if !all => return None,
            (None, Some(Ok(valid)), _) => (Reason::NotSelected, unmet(&valid, &labels, view.namespace_labels)),
        };
        let in_job = marks.get(name).and_then(|record| runs_on(view.pod, &record.containers));
        let message = [message].into_iter().chain(in_job).collect::<Vec<_>>().join("; ");
        Some(SetLine { set: name.clone(), reason, revision: revision.cloned(), target, message })
    });
    lines.collect()
}

/// What the webhook would do if the pod were created now.
fn as_created(view: &View<'_>, compiled: &CompiledSets) -> Injection {
    let mut pod = view.pod.clone();
    // The operations were made from this very pod: a failure would leave it as it is.
    let _ = json_patch::patch(&mut pod, &uninject(view.pod));
    let (namespace, namespace_labels, excluded) = (view.namespace, view.namespace_labels, view.excluded);
    inject_anew(compiled, &Request { pod: &pod, namespace, namespace_labels, excluded })
}

/// The revision that running pods are brought to; before the first reconcile that of the spec.
fn target(set: &SidecarSet, compiled: &CompiledSets) -> Option<String> {
    let reported = set.status.as_ref().and_then(|status| status.update_revision.clone());
    reported.or_else(|| compiled.get(&set.name_any()).map(|set| set.revision().to_owned()))
}

/// How the revision that a pod carries stands to the target.
fn compare(view: &View<'_>, set: &str, revision: &str, target: Option<&str>) -> String {
    let template = |hash: &str| Some(&view.sets.revisions.get(set)?.get(hash)?.template);
    let change = template(revision).zip(target.and_then(template)).map(|(from, to)| from.change_to(to));
    match target {
        Some(target) if target == revision => "current".to_owned(),
        Some(_) if change == Some(Change::Nothing) => "current: only new pods get what differs".to_owned(),
        Some(_) if template(revision).is_some() => "behind: the target is another revision".to_owned(),
        _ => match &view.sets.unread_revisions {
            Some(refusal) => format!("behind; {}", unread(refusal)),
            None => "behind: the pod's revision is not known any more".to_owned(),
        },
    }
}

fn unread(refusal: &str) -> String {
    format!("revisions cannot be read: {refusal}")
}

/// Why a pod that the set selects carries no marks of it.
fn unmarked(view: &View<'_>, set: &SidecarSet, wanted: &Injection) -> (Reason, String) {
    let Some(outcome) = wanted.outcomes.iter().find(|outcome| outcome.set == set.name_any()) else {
        return (Reason::PodRefused, wanted.refused.clone().unwrap_or_default());
    };
    match (outcome.reason, &view.sets.unread_revisions) {
        (Reason::Injected, _) => {
            let created = view.pod["metadata"]["creationTimestamp"].as_str();
            let created: Option<Timestamp> = created.and_then(|time| time.parse().ok());
            let why = if created < set.metadata.creation_timestamp.as_ref().map(|time| time.0) {
                "the pod is older than the set:"
            } else {
                "the webhook did not inject it: the operator was not reached, or the set or the pod's labels have changed since;"
            };
            (Reason::Uninjected, format!("{why} it gets the sidecars when it is created again"))
        }
        (Reason::RevisionNotFound, Some(refusal)) => (outcome.reason, unread(refusal)),
        _ => (outcome.reason, outcome.message.clone()),
    }
}

/// The first requirement that the pod or its namespace does not meet.
fn unmet(
    valid: &ValidSidecarSet,
    labels: &BTreeMap<String, String>,
    namespace_labels: &BTreeMap<String, String>,
) -> String {
    let selectors = valid.selectors();
    for (path, selector, whose, labels) in [
        ("spec.selector", Some(&selectors.pods), "the pod", labels),
        ("spec.namespaceSelector", selectors.namespaces.as_ref(), "the namespace", namespace_labels),
    ] {
        let mut requirements = selector.into_iter().flat_map(Selector::requirements);
        if let Some(requirement) = requirements.find(|requirement| !requirement.matches(labels)) {
            let key = key(requirement);
            return match labels.get(key) {
                Some(value) => format!("{path} wants {requirement}, {whose} has {key}={value}"),
                None => format!("{path} wants {requirement}, {whose} has no label {key}"),
            };
        }
    }
    "the set is being deleted".to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(name: &str, change: Value) -> SidecarSet {
        let mut set = json!({"apiVersion": "sidecarset.dev/v1beta1", "kind": "SidecarSet",
            "metadata": {"name": name, "creationTimestamp": "2026-01-02T00:00:00Z"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "containers": [{"name": name, "image": "i"}]}});
        json_patch::merge(&mut set, &change);
        serde_json::from_value(set).unwrap()
    }

    fn pod(change: Value) -> Value {
        let mut pod = json!({"metadata": {"labels": {"app": "web"}, "creationTimestamp": "2026-01-03T00:00:00Z"},
            "spec": {"containers": [{"name": "app", "image": "a"}]}});
        json_patch::merge(&mut pod, &change);
        pod
    }

    fn lines(sets: Vec<SidecarSet>, pod: &Value, all: bool) -> Vec<(String, String, String)> {
        let namespace_labels = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
        let sets = Sets { all: sets, ..Sets::default() };
        let view = View { pod, namespace: "default", namespace_labels: &namespace_labels, sets: &sets, excluded: &[] };
        explain(&view, all).into_iter().map(|line| (line.set, line.reason.to_string(), line.message)).collect()
    }

    fn one(set: SidecarSet, pod: &Value) -> (String, String) {
        let mut lines = lines(vec![set], pod, true);
        assert_eq!(lines.len(), 1);
        let (_, reason, message) = lines.remove(0);
        (reason, message)
    }

    #[test]
    fn a_pod_without_marks_gets_the_reason() {
        let paused = json!({"spec": {"injectionStrategy": {"paused": true}}});
        let closed = json!({"spec": {"containers": [{"name": "app", "image": "i"}], "injectionStrategy": {"failurePolicy": "Fail"}}});
        let older = pod(json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}}));
        for (set, pod, reason, part) in [
            (
                set("s", json!({})),
                pod(json!({"metadata": {"labels": {"sidecarset.dev/inject": "false"}}})),
                "OptedOut",
                "inject",
            ),
            (set("s", paused), pod(json!({})), "Paused", "paused"),
            (set("app", json!({})), pod(json!({})), "NameConflict", "\"app\" is taken"),
            (set("s", closed), pod(json!({})), "NameConflict", "\"app\" is taken"),
            (set("s", json!({})), older, "Uninjected", "older than the set"),
            (set("s", json!({})), pod(json!({})), "Uninjected", "webhook did not inject"),
            (set("s", json!({"spec": {"customVersion": "a b"}})), pod(json!({})), "InvalidSpec", "spec.customVersion"),
        ] {
            let (seen, message) = one(set, &pod);
            assert_eq!(seen, reason, "{message}");
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn revisions_that_cannot_be_read_are_not_said_to_be_gone() {
        let pinned = json!({"spec": {"injectionStrategy": {"revision": {"customVersion": "v1"}}}});
        let behind = pod(json!({"metadata": {"labels": {"revision.sidecarset.dev/s": "old"}}}));
        for (set, pod) in
            [(set("s", json!({"status": {"updateRevision": "new"}})), behind), (set("s", pinned), pod(json!({})))]
        {
            let sets = Sets { all: vec![set], unread_revisions: Some("forbidden".to_owned()), ..Sets::default() };
            let namespace_labels = BTreeMap::new();
            let view = View {
                pod: &pod,
                namespace: "default",
                namespace_labels: &namespace_labels,
                sets: &sets,
                excluded: &[],
            };
            let message = explain(&view, false).remove(0).message;
            assert!(message.ends_with("revisions cannot be read: forbidden"), "{message}");
        }
    }

    #[test]
    fn a_set_that_does_not_select_says_which_requirement_is_not_met() {
        let selector = |selector: Value| set("s", json!({"spec": {"selector": selector}}));
        let db = selector(json!({"matchLabels": {"app": "db"}}));
        assert_eq!(lines(vec![db.clone()], &pod(json!({})), false), [], "only with --all");
        assert_eq!(
            one(db, &pod(json!({}))),
            ("NotSelected".into(), "spec.selector wants app=db, the pod has app=web".into())
        );
        let tier = selector(json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}));
        assert_eq!(one(tier, &pod(json!({}))).1, "spec.selector wants tier, the pod has no label tier");
        let team = set("s", json!({"spec": {"namespaceSelector": {"matchLabels": {"team": "b"}}}}));
        assert_eq!(one(team, &pod(json!({}))).1, "spec.namespaceSelector wants team=b, the namespace has team=a");
    }

    #[test]
    fn an_ordinary_sidecar_in_a_pod_of_a_job_gets_a_line_whatever_new_pods_get() {
        let mut job = pod(json!({"metadata": {"ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job"}]}}));
        job["metadata"]["labels"]["revision.sidecarset.dev/s"] = json!("new");
        job["metadata"]["annotations"] = json!({"injection.sidecarset.dev/s": "{\"containers\":[\"s\"]}"});
        let native = set("s", json!({"status": {"updateRevision": "new"}, "spec": {"jobPods": "Native"}}));
        let (_, message) = one(native, &job);
        assert!(
            message.starts_with("current; the sidecar s runs on after the Job's containers have ended"),
            "{message}"
        );
    }

    #[test]
    fn marks_are_compared_with_the_target() {
        let with = |revision: &str| {
            pod(json!({"metadata": {"labels": {"revision.sidecarset.dev/s": revision},
                "annotations": {"injection.sidecarset.dev/s": "{\"containers\":[\"s\"]}"}}}))
        };
        let updated = set("s", json!({"status": {"updateRevision": "new"}}));
        assert_eq!(one(updated.clone(), &with("new")), ("Injected".into(), "current".into()));
        assert!(one(updated, &with("old")).1.starts_with("behind"));
        assert_eq!(lines(Vec::new(), &with("old"), false)[0].2, "the set does not exist any more");
        let moved = set("s", json!({"spec": {"selector": {"matchLabels": {"app": "db"}}}}));
        assert!(one(moved, &with("old")).1.contains("does not select the pod any more: spec.selector wants app=db"));
    }
}
