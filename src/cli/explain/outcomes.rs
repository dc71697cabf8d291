//! What each set did to a pod, or why it did nothing.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::core::{Expression, SelectorExt};
use serde::Serialize;
use serde_json::Value;

use super::super::sets::Sets;
use crate::api::reasons::Reason;
use crate::api::selector::{Selector, key};
use crate::api::validate::{Selectors, ValidSidecarSet, validate};
use crate::api::{SidecarSet, keys};
use crate::core::inject::uninject::uninject;
use crate::core::inject::{CompiledSets, Injection, Request};
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
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
    let carried = carried_revisions(view.pod);
    let labels = labels_of(view.pod);
    let selected = compiled.matching(&labels, view.namespace_labels);
    let selected: BTreeSet<&str> = selected.into_iter().map(|set| set.name.as_str()).collect();
    let wanted = as_created(view, &compiled);
    let sets: BTreeMap<String, &SidecarSet> = view.sets.all.iter().map(|set| (set.name_any(), set)).collect();
    let names: BTreeSet<&String> = sets.keys().chain(carried.keys()).collect();
    let lines = names.into_iter().filter_map(|name| {
        let set = sets.get(name).copied();
        let target = set.and_then(|set| target(set, &compiled));
        let line = |reason: Reason, message: String| SetLine {
            set: name.clone(),
            reason,
            revision: carried.get(name).cloned(),
            target: target.clone(),
            message,
        };
        let is_selected = selected.contains(name.as_str());
        if let Some(revision) = carried.get(name) {
            let message = marked(view, set, revision, target.as_deref(), is_selected);
            return Some(line(Reason::Injected, message));
        }
        let set = set?;
        let valid = match validate(set) {
            Ok(valid) => valid,
            Err(problems) => return Some(line(Reason::InvalidSpec, problems.to_string())),
        };
        if is_selected {
            let (reason, message) = unmarked(view, set, &wanted);
            return Some(line(reason, message));
        }
        all.then(|| line(Reason::NotSelected, unmet(&valid, &labels, view.namespace_labels)))
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

fn marked(
    view: &View<'_>,
    set: Option<&SidecarSet>,
    revision: &str,
    target: Option<&str>,
    is_selected: bool,
) -> String {
    let Some(set) = set else { return "the set does not exist any more".to_owned() };
    if let Some(valid) = validate(set).ok().filter(|_| !is_selected) {
        return format!(
            "the set does not select the pod any more: {}",
            unmet(&valid, &labels_of(view.pod), view.namespace_labels)
        );
    }
    let template = |hash: &str| Some(&view.sets.revisions.get(&set.name_any())?.get(hash)?.template);
    let change = template(revision).zip(target.and_then(template)).map(|(from, to)| from.change_to(to));
    match target {
        Some(target) if target == revision => "current".to_owned(),
        Some(_) if change == Some(Change::Nothing) => "current: only new pods get what differs".to_owned(),
        Some(_) if template(revision).is_some() => "behind: the target is another revision".to_owned(),
        _ if let Some(refusal) = &view.sets.unread_revisions => format!("behind; {}", unread(refusal)),
        _ => "behind: the pod's revision is not known any more".to_owned(),
    }
}

fn unread(refusal: &str) -> String {
    format!("revisions cannot be read: {refusal}")
}

fn unmarked(view: &View<'_>, set: &SidecarSet, wanted: &Injection) -> (Reason, String) {
    let pod = view.pod;
    match wanted.outcomes.iter().find(|outcome| outcome.set == set.name_any()) {
        Some(outcome) if outcome.reason != Reason::Injected => {
            if let (Reason::RevisionNotFound, Some(refusal)) = (outcome.reason, &view.sets.unread_revisions) {
                return (outcome.reason, unread(refusal));
            }
            (outcome.reason, outcome.message.clone())
        }
        None => (Reason::PodRefused, wanted.refused.clone().unwrap_or_default()),
        Some(_) if created(pod) < set.metadata.creation_timestamp.as_ref().map(|time| time.0) => (
            Reason::Uninjected,
            "the pod is older than the set: it gets the sidecars when it is created again".to_owned(),
        ),
        Some(_) => {
            let message = "the webhook did not inject it: the operator was not reached, or the set or the pod's labels have changed since; it gets the sidecars when it is created again";
            (Reason::Uninjected, message.to_owned())
        }
    }
}

/// The first requirement that the pod or its namespace does not meet.
fn unmet(
    valid: &ValidSidecarSet,
    labels: &BTreeMap<String, String>,
    namespace_labels: &BTreeMap<String, String>,
) -> String {
    let Selectors { pods, namespaces, .. } = valid.selectors();
    let selectors = [
        ("spec.selector", Some(pods), "the pod", labels),
        ("spec.namespaceSelector", namespaces.as_ref(), "the namespace", namespace_labels),
    ];
    for (path, selector, whose, labels) in selectors {
        let mut requirements = selector.into_iter().flat_map(Selector::requirements);
        if let Some(requirement) = requirements.find(|requirement| !requirement.matches(labels)) {
            return format!("{path} wants {requirement}, {}", found(requirement, whose, labels));
        }
    }
    "the set is being deleted".to_owned()
}

fn found(requirement: &Expression, whose: &str, labels: &BTreeMap<String, String>) -> String {
    let key = key(requirement);
    match labels.get(key) {
        Some(value) => format!("{whose} has {key}={value}"),
        None => format!("{whose} has no label {key}"),
    }
}

fn carried_revisions(pod: &Value) -> BTreeMap<String, String> {
    let labels = labels_of(pod).into_iter();
    labels.filter_map(|(key, value)| Some((key.strip_prefix(keys::REVISION_PREFIX)?.to_owned(), value))).collect()
}

fn labels_of(pod: &Value) -> BTreeMap<String, String> {
    let labels = pod["metadata"]["labels"].as_object().into_iter().flatten();
    labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

fn created(pod: &Value) -> Option<Timestamp> {
    pod["metadata"]["creationTimestamp"].as_str().and_then(|time| time.parse().ok())
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
